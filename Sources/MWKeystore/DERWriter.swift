internal import MWPKI

extension DER {
    static func objectIdentifier(_ identifier: ObjectIdentifier) -> [UInt8] {
        value(tag: DERTag.objectIdentifier, identifier.content)
    }

    static func bmpString(_ text: String) -> [UInt8] {
        value(tag: DERTag.bmpString, text.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xff)] })
    }

    /// A SET OF: X.690 §11.6 wants its elements sorted by their encodings.
    static func setOf(_ elements: [[UInt8]]) -> [UInt8] {
        set(elements.sorted { $0.lexicographicallyPrecedes($1) })
    }
}
