internal import COpenSSL

/// SHA-256 of a certificate's DER: which certificate it is.
package struct CertificateFingerprint: Hashable, Sendable, CustomStringConvertible {
    let digest: SHA256Value

    /// `bytes` must be 32.
    package init?(bytes: [UInt8]) {
        guard let digest = SHA256Value(bytes) else { return nil }
        self.digest = digest
    }

    /// 64 hex digits, with colons or without, after `sha256:` or nothing.
    package init?(_ text: String) {
        guard let digest = SHA256Value(text: text) else { return nil }
        self.digest = digest
    }

    /// Of an `X509`, before anything else of it is read.
    package init?(of x509: OpaquePointer) {
        var bytes = [UInt8](repeating: 0, count: Int(SHA256_DIGEST_LENGTH))
        guard unsafe X509_digest(x509, EVP_sha256(), &bytes, nil) == 1 else { return nil }
        self.init(bytes: bytes)
    }

    package var bytes: [UInt8] { digest.bytes }
    package var hex: String { Hex.encode(digest.bytes) }
    /// `sha256:` and 64 hex digits.
    package var description: String { "sha256:" + hex }
}

/// SHA-256 of a SubjectPublicKeyInfo's DER: which key it is, whatever the certificate (as RFC 7469 §2.4).
package struct PublicKeyPin: Hashable, Sendable, CustomStringConvertible {
    let digest: SHA256Value

    /// `bytes` must be 32.
    package init?(bytes: [UInt8]) {
        guard let digest = SHA256Value(bytes) else { return nil }
        self.digest = digest
    }

    /// 64 hex digits, with colons or without, after `sha256:` or nothing.
    package init?(_ text: String) {
        guard let digest = SHA256Value(text: text) else { return nil }
        self.digest = digest
    }

    package var bytes: [UInt8] { digest.bytes }
    package var hex: String { Hex.encode(digest.bytes) }
    /// `sha256:` and 64 hex digits.
    package var description: String { "sha256:" + hex }
}

/// 32 bytes without an allocation.
struct SHA256Value: Hashable, Sendable {
    private let words: (UInt64, UInt64, UInt64, UInt64)

    init?(_ bytes: [UInt8]) {
        guard bytes.count == 32 else { return nil }
        func word(_ start: Int) -> UInt64 { bytes[start..<start + 8].reduce(0) { $0 << 8 | UInt64($1) } }
        words = (word(0), word(8), word(16), word(24))
    }

    init?(text: String) {
        var digits = Substring(text)
        if digits.utf8.count > 7, digits.prefix(7).lowercased() == "sha256:" { digits = digits.dropFirst(7) }
        guard let bytes = Hex.decode(digits) else { return nil }
        self.init(bytes)
    }

    var bytes: [UInt8] {
        [words.0, words.1, words.2, words.3].flatMap { word in
            stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> UInt64($0)) }
        }
    }

    static func == (left: SHA256Value, right: SHA256Value) -> Bool { left.words == right.words }
    func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }
}

/// Bytes as hexadecimal digits.
package enum Hex {
    private static let digits = Array("0123456789abcdef".utf8)

    /// Two lower-case digits for each byte.
    package static func encode(_ bytes: some Collection<UInt8>) -> String {
        var text: [UInt8] = []
        text.reserveCapacity(bytes.count * 2)
        for byte in bytes {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Pairs of digits, with a colon between pairs or with none at all.
    package static func decode(_ text: Substring) -> [UInt8]? {
        var bytes: [UInt8] = []
        var high: UInt8? = nil
        var separated: Bool? = nil
        for character in text.utf8 {
            if character == UInt8(ascii: ":") {
                guard high == nil, !bytes.isEmpty, separated != false || bytes.count == 1 else { return nil }
                separated = true
                continue
            }
            guard let digit = Character(UnicodeScalar(character)).hexDigitValue.map(UInt8.init) else { return nil }
            if let first = high {
                bytes.append(first << 4 | digit)
                high = nil
            } else {
                if bytes.count == 1, separated == nil { separated = false }
                high = digit
            }
        }
        return high == nil ? bytes : nil
    }
}
