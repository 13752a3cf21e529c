internal import MWPKI

// DER (X.690), as PKCS#12 and PKCS#8 need it.
//
//   offset  size  meaning
//   0       1     identifier: class (2 bits), constructed (1 bit), tag number 0…30 (5 bits); 31 (long form) is refused
//   1       1     length 0…127, or 0x80 + n with n = 1…4 length bytes following, big-endian, without leading zero
//   …       len   content
//
// BER's indefinite length (0x80) and longer-than-needed lengths are refused: a changed byte must never go unnoticed.

/// The identifiers used here.
enum DERTag {
    static let boolean: UInt8 = 0x01
    static let integer: UInt8 = 0x02
    static let octetString: UInt8 = 0x04
    static let null: UInt8 = 0x05
    static let objectIdentifier: UInt8 = 0x06
    static let bmpString: UInt8 = 0x1e
    static let sequence: UInt8 = 0x30
    static let set: UInt8 = 0x31
    /// `[0]`, primitive and constructed.
    static let context0Primitive: UInt8 = 0x80
    static let context0: UInt8 = 0xa0
}

/// Reads elements one after the other from a slice; every length is bounded by the bytes that are left.
struct DERReader {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) {
        rest = bytes
    }

    var isAtEnd: Bool { rest.isEmpty }

    /// The next identifier, or nil at the end.
    var nextTag: UInt8? { rest.first }

    /// The content of the next element, which must have `tag`.
    mutating func read(_ tag: UInt8, _ what: String) throws -> ArraySlice<UInt8> {
        guard let found = rest.first else { throw KeystoreError.malformed("\(what) is missing") }
        guard found == tag else {
            throw KeystoreError.malformed("\(what) has another type", expected: "0x" + Hex.encode([tag]), found: "0x" + Hex.encode([found]))
        }
        return try readElement(what).content
    }

    /// The next element, whatever it is: its identifier, content, and whole encoding.
    mutating func readElement(_ what: String) throws -> (tag: UInt8, content: ArraySlice<UInt8>, encoding: ArraySlice<UInt8>) {
        let whole = rest
        guard let tag = rest.popFirst(), let first = rest.popFirst() else { throw KeystoreError.malformed("\(what) is cut off") }
        guard tag & 0x1f != 0x1f else { throw KeystoreError.malformed("\(what) has a long tag") }
        let length = try readLength(first, what)
        guard length <= rest.count else {
            throw KeystoreError.malformed("\(what) is longer than the bytes left", expected: "at most \(rest.count)", found: "\(length)")
        }
        let end = rest.startIndex + length
        let content = rest[rest.startIndex..<end]
        rest = rest[end...]
        return (tag, content, whole[..<end])
    }

    mutating func sequence(_ what: String) throws -> DERReader {
        DERReader(try read(DERTag.sequence, what))
    }

    mutating func explicit0(_ what: String) throws -> DERReader {
        DERReader(try read(DERTag.context0, what))
    }

    mutating func octets(_ what: String) throws -> ArraySlice<UInt8> {
        try read(DERTag.octetString, what)
    }

    mutating func objectIdentifier(_ what: String) throws -> ObjectIdentifier {
        let content = try read(DERTag.objectIdentifier, what)
        guard let identifier = ObjectIdentifier(content: content) else {
            throw KeystoreError.malformed("\(what) is not an object identifier")
        }
        return identifier
    }

    /// An INTEGER of 0…2^31-1, in its only DER form.
    mutating func integer(_ what: String) throws -> Int {
        let content = try read(DERTag.integer, what)
        let isMinimal = content.first != 0 || content.count == 1 || content.dropFirst().first ?? 0 >= 0x80
        guard let first = content.first, first < 0x80, content.count <= 4, isMinimal else {
            throw KeystoreError.malformed("\(what) is not an integer of 0 to 2^31-1")
        }
        return content.reduce(0) { $0 << 8 | Int($1) }
    }

    /// Nothing may follow.
    func finish(_ what: String) throws {
        guard rest.isEmpty else { throw KeystoreError.malformed("\(rest.count) bytes follow \(what)") }
    }

    private mutating func readLength(_ first: UInt8, _ what: String) throws -> Int {
        guard first >= 0x80 else { return Int(first) }
        guard first != 0x80 else {
            throw KeystoreError(
                .malformed, "\(what) has no definite length (BER)",
                remedy: "rewrite the file: openssl pkcs12 -in OLD -out all.pem, then openssl pkcs12 -export -in all.pem -out NEW")
        }
        let size = Int(first & 0x7f)
        guard size <= 4, size <= rest.count, let leading = rest.first, leading != 0 else {
            throw KeystoreError.malformed("\(what) has a length that is cut off, too large or not minimal")
        }
        var length = 0
        for _ in 0..<size {
            length = length << 8 | Int(rest.removeFirst())
        }
        guard length >= 0x80 else { throw KeystoreError.malformed("\(what) has a length that is not minimal") }
        return length
    }
}
