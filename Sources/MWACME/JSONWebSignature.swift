package import MWPKI

// RFC 7515 §7.2.2, flattened:   {"protected": b64(header), "payload": b64(payload), "signature": b64(signature)}
// signed text:                  b64(header) "." b64(payload)
// RFC 8555 §6.2 header:         alg, nonce, url, and one of kid (the account's URL) or jwk
// RFC 7518 §3.4:                an EC signature is R || S, each as long as the curve's field, and not DER

/// How an account signs.
package enum SigningAlgorithm: String, Hashable, Sendable {
    case es256 = "ES256"
    case es384 = "ES384"
    case rs256 = "RS256"

    /// Throws for keys that RFC 8555 CAs do not take.
    package init(for key: KeyAlgorithm) throws(ACMEError) {
        switch key {
        case .ec(.p256): self = .es256
        case .ec(.p384): self = .es384
        case .rsa: self = .rs256
        case .ec(.p521), .ed25519, .dsa, .other:
            throw ACMEError(
                .keyUnsupported, subject: "account key", "\(key) is not supported", remedy: "use EC P-256, EC P-384 or RSA")
        }
    }
}

/// RFC 7517: the public half of an account key.
package struct JSONWebKey: Hashable, Sendable {
    /// Only the members that RFC 7638 §3.2 requires.
    package let members: [String: String]

    package init(_ key: PrivateKey) throws {
        switch try key.publicKeyParameters() {
        case .ec(let curve, let x, let y):
            members = ["kty": "EC", "crv": curve.rawValue, "x": Base64URL.encode(x), "y": Base64URL.encode(y)]
        case .rsa(let modulus, let exponent):
            members = ["kty": "RSA", "n": Base64URL.encode(modulus), "e": Base64URL.encode(exponent)]
        }
    }

    /// As they stand; for what is compared with the vectors of RFC 7638.
    package init(members: [String: String]) { self.members = members }

    package var json: JSONValue { .object(members.mapValues { .string($0) }) }

    /// RFC 7638.
    package var thumbprint: String { Base64URL.encode(OpenSSL.sha256(json.encoded)) }
}

package enum JSONWebSignature {
    /// Signs with an account's or certificate's key; `header` gets its `alg`.
    package static func sign(_ payload: [UInt8], header: [String: JSONValue], key: PrivateKey) throws -> [UInt8] {
        let algorithm = try SigningAlgorithm(for: key.algorithm)
        return try assemble(payload, header: header, algorithm: algorithm.rawValue) { text in
            switch algorithm {
            case .rs256: return try key.sign(text, .sha256)
            case .es256: return try rawSignature(try key.sign(text, .sha256), fieldBytes: KeyAlgorithm.Curve.p256.fieldBytes)
            case .es384: return try rawSignature(try key.sign(text, .sha384), fieldBytes: KeyAlgorithm.Curve.p384.fieldBytes)
            }
        }
    }

    /// RFC 8555 §7.3.4: HS256.
    package static func authenticate(_ payload: [UInt8], header: [String: JSONValue], key: SecretBytes) throws -> [UInt8] {
        try assemble(payload, header: header, algorithm: "HS256") { try OpenSSL.hmacSHA256($0, key: key) }
    }

    private static func assemble(
        _ payload: [UInt8], header: [String: JSONValue], algorithm: String, _ signature: ([UInt8]) throws -> [UInt8]
    ) throws -> [UInt8] {
        var header = header
        header["alg"] = .string(algorithm)
        let protected = Base64URL.encode(JSONValue.object(header).encoded)
        let body = Base64URL.encode(payload)
        let signed = try signature(Array("\(protected).\(body)".utf8))
        return JSONValue.object([
            "protected": .string(protected), "payload": .string(body), "signature": .string(Base64URL.encode(signed)),
        ]).encoded
    }

    /// R || S from `SEQUENCE { INTEGER r, INTEGER s }`.
    package static func rawSignature(_ der: [UInt8], fieldBytes: Int) throws(ACMEError) -> [UInt8] {
        var outer = der[...]
        guard var rest = contents(of: 0x30, in: &outer), outer.isEmpty else { throw unreadable }
        var out: [UInt8] = []
        for _ in 0..<2 {
            guard let number = contents(of: 0x02, in: &rest) else { throw unreadable }
            let digits = number.drop { $0 == 0 }
            guard digits.count <= fieldBytes else { throw unreadable }
            out += [UInt8](repeating: 0, count: fieldBytes - digits.count) + digits
        }
        guard rest.isEmpty else { throw unreadable }
        return out
    }

    private static var unreadable: ACMEError { ACMEError(.ownFailure, subject: "signature", "OpenSSL's ECDSA signature is not DER") }

    private static func contents(of tag: UInt8, in bytes: inout ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        guard bytes.count >= 2, bytes.removeFirst() == tag else { return nil }
        var count = Int(bytes.removeFirst())
        if count == 0x81 {
            guard let long = bytes.popFirst() else { return nil }
            count = Int(long)
        } else if count >= 0x80 {
            return nil
        }
        guard bytes.count >= count else { return nil }
        defer { bytes = bytes.dropFirst(count) }
        return bytes.prefix(count)
    }
}
