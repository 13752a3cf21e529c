/// DER encodings, built inside out: each function returns one whole element.
enum DER {
    static func element(_ tag: UInt8, _ content: some Collection<UInt8>) -> [UInt8] {
        var bytes = [tag]
        bytes.reserveCapacity(content.count + 6)
        appendLength(content.count, to: &bytes)
        bytes.append(contentsOf: content)
        return bytes
    }

    static func sequence(_ elements: [UInt8]...) -> [UInt8] {
        element(DERTag.sequence, elements.joined())
    }

    static func sequence(of elements: [[UInt8]]) -> [UInt8] {
        element(DERTag.sequence, elements.joined())
    }

    /// A SET OF; DER wants its elements sorted by their encodings.
    static func set(of elements: [[UInt8]]) -> [UInt8] {
        element(DERTag.set, elements.sorted { $0.lexicographicallyPrecedes($1) }.joined())
    }

    static func octets(_ content: some Collection<UInt8>) -> [UInt8] {
        element(DERTag.octetString, content)
    }

    static func explicit0(_ content: [UInt8]) -> [UInt8] {
        element(DERTag.context0, content)
    }

    static func objectIdentifier(_ identifier: ObjectIdentifier) -> [UInt8] {
        element(DERTag.objectIdentifier, identifier.content)
    }

    static let null: [UInt8] = [DERTag.null, 0]

    /// A non-negative INTEGER.
    static func integer(_ value: Int) -> [UInt8] {
        var content = [UInt8(truncatingIfNeeded: value)]
        var rest = value >> 8
        while rest > 0 {
            content.insert(UInt8(truncatingIfNeeded: rest), at: 0)
            rest >>= 8
        }
        if content[0] >= 0x80 { content.insert(0, at: 0) }
        return element(DERTag.integer, content)
    }

    static func bmpString(_ text: String) -> [UInt8] {
        element(DERTag.bmpString, text.utf16.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xff)] })
    }

    private static func appendLength(_ length: Int, to bytes: inout [UInt8]) {
        guard length >= 0x80 else {
            bytes.append(UInt8(length))
            return
        }
        let size = (Int.bitWidth - length.leadingZeroBitCount + 7) / 8
        bytes.append(0x80 | UInt8(size))
        for shift in stride(from: (size - 1) * 8, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: length >> shift))
        }
    }
}
