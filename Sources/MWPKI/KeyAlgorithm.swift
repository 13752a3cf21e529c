internal import COpenSSL

/// What kind of key, and how strong.
package enum KeyAlgorithm: Hashable, Sendable, CustomStringConvertible {
    package enum Curve: String, Hashable, Sendable, CaseIterable {
        case p256 = "P-256"
        case p384 = "P-384"
        case p521 = "P-521"
    }

    case ec(Curve)
    case rsa(bits: Int)
    case ed25519
    /// Read, never used: no TLS 1.3 has it.
    case dsa(bits: Int)
    /// Read, never used.
    case other(String)

    package var description: String {
        switch self {
        case .ec(let curve): "EC \(curve.rawValue)"
        case .rsa(let bits): "RSA \(bits)"
        case .ed25519: "Ed25519"
        case .dsa(let bits): "DSA \(bits)"
        case .other(let name): name
        }
    }

    /// Below this, OpenSSL's security level 2 refuses the key, and so does NIST SP 800-131A.
    package static let minimumRSABits = 2048
    /// Above this, a single signature stalls an event loop for too long.
    package static let maximumRSABits = 8192

    /// Throws for what our policy refuses, with the fix named.
    package func requireStrong(subject: String) throws {
        switch self {
        case .ec, .ed25519: return
        case .rsa(let bits) where bits < KeyAlgorithm.minimumRSABits:
            throw PKIError(
                .keyTooWeak, subject: subject, "the RSA key is too short", expected: "\(KeyAlgorithm.minimumRSABits) bits or more",
                found: "\(bits)", remedy: "make a new one, with keytool: -keyalg EC, or: -keyalg RSA -keysize 3072")
        case .rsa(let bits) where bits > KeyAlgorithm.maximumRSABits:
            throw PKIError(
                .keyUnsupported, subject: subject, "the RSA key is too long", expected: "\(KeyAlgorithm.maximumRSABits) bits or fewer",
                found: "\(bits)", remedy: "make a new one of 3072 bits, or an EC key")
        case .rsa: return
        case .dsa:
            throw PKIError(
                .keyUnsupported, subject: subject, "DSA keys cannot be used with TLS 1.3", found: description,
                remedy: "make a new key, with keytool: -keyalg EC")
        case .other:
            throw PKIError(
                .keyUnsupported, subject: subject, "this kind of key is not supported",
                expected: "EC P-256, P-384 or P-521, Ed25519, or RSA", found: description,
                remedy: "make a new key, with keytool: -keyalg EC")
        }
    }

    /// What an `EVP_PKEY` is.
    init(key: OpaquePointer) {
        let bits = Int(unsafe EVP_PKEY_get_bits(key))
        switch unsafe EVP_PKEY_get_base_id(key) {
        case EVP_PKEY_RSA, EVP_PKEY_RSA_PSS: self = .rsa(bits: bits)
        case EVP_PKEY_DSA: self = .dsa(bits: bits)
        case EVP_PKEY_ED25519: self = .ed25519
        case EVP_PKEY_EC: self = unsafe KeyAlgorithm.curve(of: key)
        case let id:
            let name = unsafe OBJ_nid2sn(id).map { unsafe String(cString: $0) }
            self = .other("\(name ?? "unknown algorithm") (\(bits) bits)")
        }
    }

    private static func curve(of key: OpaquePointer) -> KeyAlgorithm {
        var explicit: Int32 = 0
        if unsafe EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, &explicit) == 1, explicit != 0 {
            // RFC 5480 §2.1.1: only named curves in certificates.
            return .other("EC with explicit parameters")
        }
        var name = [CChar](repeating: 0, count: 80)
        var count = 0
        guard unsafe EVP_PKEY_get_group_name(key, &name, name.count, &count) == 1 else { return .other("EC of unknown curve") }
        let text = String(decoding: name.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        switch text {
        case "prime256v1", "P-256": return .ec(.p256)
        case "secp384r1", "P-384": return .ec(.p384)
        case "secp521r1", "P-521": return .ec(.p521)
        default: return .other("EC \(text)")
        }
    }
}
