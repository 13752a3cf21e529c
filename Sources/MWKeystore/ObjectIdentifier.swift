/// An OBJECT IDENTIFIER, kept as its DER content.
struct ObjectIdentifier: Hashable, Sendable, CustomStringConvertible {
    let content: [UInt8]

    /// The identifier of these arcs, at least two.
    init(_ first: UInt64, _ second: UInt64, _ others: UInt64...) {
        content = ([first * 40 + second] + others).flatMap(Self.base128)
    }

    /// Nil unless `content` is one or more complete base 128 numbers in their shortest form.
    init?(content: ArraySlice<UInt8>) {
        guard let last = content.last, last < 0x80, content.count <= 64 else { return nil }
        var isStart = true
        for byte in content {
            if isStart && byte == 0x80 { return nil }
            isStart = byte < 0x80
        }
        self.content = Array(content)
    }

    /// Dotted numbers, for messages.
    var description: String {
        var arcs: [UInt64] = []
        var value: UInt64 = 0
        for byte in content {
            guard value <= UInt64.max >> 7 else { return "an object identifier with an arc over 64 bits" }
            value = value << 7 | UInt64(byte & 0x7f)
            if byte < 0x80 {
                arcs.append(value)
                value = 0
            }
        }
        guard let first = arcs.first else { return "" }
        let root = min(first / 40, 2)
        return ([root, first - root * 40] + arcs.dropFirst()).map(String.init).joined(separator: ".")
    }

    private static func base128(_ value: UInt64) -> [UInt8] {
        var bytes = [UInt8(value & 0x7f)]
        var rest = value >> 7
        while rest > 0 {
            bytes.insert(UInt8(rest & 0x7f) | 0x80, at: 0)
            rest >>= 7
        }
        return bytes
    }
}

extension ObjectIdentifier {
    // PKCS#7 content types, RFC 2315 §14.
    static let data = ObjectIdentifier(1, 2, 840, 113549, 1, 7, 1)
    static let signedData = ObjectIdentifier(1, 2, 840, 113549, 1, 7, 2)
    static let envelopedData = ObjectIdentifier(1, 2, 840, 113549, 1, 7, 3)
    static let encryptedData = ObjectIdentifier(1, 2, 840, 113549, 1, 7, 6)

    // Safe bags, RFC 7292 §4.2.
    static let keyBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 1)
    static let shroudedKeyBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 2)
    static let certificateBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 3)
    static let revocationListBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 4)
    static let secretBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 5)
    static let safeContentsBag = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 10, 1, 6)
    static let x509Certificate = ObjectIdentifier(1, 2, 840, 113549, 1, 9, 22, 1)
    static let x509RevocationList = ObjectIdentifier(1, 2, 840, 113549, 1, 9, 23, 1)

    // Bag attributes, RFC 2985 §5.5; the last is Java's mark of a trusted certificate, with the key usages it is trusted for.
    static let friendlyName = ObjectIdentifier(1, 2, 840, 113549, 1, 9, 20)
    static let localKeyID = ObjectIdentifier(1, 2, 840, 113549, 1, 9, 21)
    static let trustedKeyUsage = ObjectIdentifier(2, 16, 840, 1, 113894, 746875, 1, 1)
    static let anyExtendedKeyUsage = ObjectIdentifier(2, 5, 29, 37, 0)

    // Password-based encryption: PKCS#12's own (RFC 7292 appendix C) and PKCS#5's (RFC 8018 appendix A).
    static let pbeSHA1TripleDES = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 1, 3)
    static let pbeSHA1TwoKeyTripleDES = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 1, 4)
    static let pbeSHA1RC2Bits128 = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 1, 5)
    static let pbeSHA1RC2Bits40 = ObjectIdentifier(1, 2, 840, 113549, 1, 12, 1, 6)
    static let pbkdf2 = ObjectIdentifier(1, 2, 840, 113549, 1, 5, 12)
    static let pbes2 = ObjectIdentifier(1, 2, 840, 113549, 1, 5, 13)
    static let pbmac1 = ObjectIdentifier(1, 2, 840, 113549, 1, 5, 14)

    static let hmacSHA1 = ObjectIdentifier(1, 2, 840, 113549, 2, 7)
    static let hmacSHA224 = ObjectIdentifier(1, 2, 840, 113549, 2, 8)
    static let hmacSHA256 = ObjectIdentifier(1, 2, 840, 113549, 2, 9)
    static let hmacSHA384 = ObjectIdentifier(1, 2, 840, 113549, 2, 10)
    static let hmacSHA512 = ObjectIdentifier(1, 2, 840, 113549, 2, 11)
    static let sha1 = ObjectIdentifier(1, 3, 14, 3, 2, 26)
    static let sha224 = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 2, 4)
    static let sha256 = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 2, 1)
    static let sha384 = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 2, 2)
    static let sha512 = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 2, 3)
    static let tripleDESCBC = ObjectIdentifier(1, 2, 840, 113549, 3, 7)
    static let aes128CBC = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 1, 2)
    static let aes192CBC = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 1, 22)
    static let aes256CBC = ObjectIdentifier(2, 16, 840, 1, 101, 3, 4, 1, 42)

    /// Sun's JKS key protector.
    static let jksKeyProtector = ObjectIdentifier(1, 3, 6, 1, 4, 1, 42, 2, 17, 1, 1)
}
