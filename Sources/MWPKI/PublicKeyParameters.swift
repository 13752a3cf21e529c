internal import COpenSSL
internal import Glibc

/// The numbers of a public key, big-endian, as a JSON Web Key needs them.
package enum PublicKeyParameters: Hashable, Sendable {
    /// Both coordinates are as long as the curve's field.
    case ec(KeyAlgorithm.Curve, x: [UInt8], y: [UInt8])
    /// Without leading zeros.
    case rsa(modulus: [UInt8], exponent: [UInt8])
}

extension KeyAlgorithm.Curve {
    /// The length of one coordinate, and of each half of a raw signature (RFC 7518 §3.4).
    package var fieldBytes: Int {
        switch self {
        case .p256: 32
        case .p384: 48
        case .p521: 66
        }
    }
}

extension SignatureDigest {
    /// The hash as strong as the key.
    package static func suited(to key: KeyAlgorithm) -> SignatureDigest {
        switch key {
        case .ec(.p384): .sha384
        case .ec(.p521): .sha512
        default: .sha256
        }
    }
}

extension PrivateKey {
    /// Throws for other keys than EC and RSA.
    package func publicKeyParameters() throws -> PublicKeyParameters {
        switch algorithm {
        case .ec(let curve):
            return .ec(
                curve, x: try number(OSSL_PKEY_PARAM_EC_PUB_X, paddedTo: curve.fieldBytes),
                y: try number(OSSL_PKEY_PARAM_EC_PUB_Y, paddedTo: curve.fieldBytes))
        case .rsa: return .rsa(modulus: try number(OSSL_PKEY_PARAM_RSA_N), exponent: try number(OSSL_PKEY_PARAM_RSA_E))
        case .ed25519, .dsa, .other:
            throw PKIError(
                .keyUnsupported, subject: "\(algorithm) key", "has no parameters for a JSON Web Key here",
                expected: "EC P-256, EC P-384 or RSA")
        }
    }

    private func number(_ name: String, paddedTo count: Int? = nil) throws -> [UInt8] {
        OpenSSL.clearErrors()
        let bytes = unsafe withUnsafeKey { key -> [UInt8]? in
            var number: OpaquePointer? = nil
            guard unsafe EVP_PKEY_get_bn_param(key, name, &number) == 1 else { return nil }
            defer { unsafe BN_free(number) }
            var bytes = unsafe [UInt8](repeating: 0, count: count ?? Int((BN_num_bits(number) + 7) / 8))
            guard unsafe BN_bn2binpad(number, &bytes, Int32(clamping: bytes.count)) >= 0 else { return nil }
            return bytes
        }
        guard let bytes else {
            throw PKIError(
                .keyMalformed, subject: "\(algorithm) key", "its public half cannot be read", underlying: OpenSSL.takeErrors())
        }
        return bytes
    }
}

extension OpenSSL {
    /// HMAC-SHA-256 (RFC 2104).
    package static func hmacSHA256(_ bytes: [UInt8], key: SecretBytes) throws -> [UInt8] {
        prepare()
        clearErrors()
        var code = [UInt8](repeating: 0, count: 32)
        var count: UInt32 = 0
        let made = unsafe key.withUnsafeBytes { secret in
            unsafe HMAC(EVP_sha256(), secret.baseAddress, Int32(clamping: secret.count), bytes, bytes.count, &code, &count) != nil
        }
        guard made, count == 32 else {
            throw PKIError(.buildFailed, subject: "HMAC-SHA-256", "cannot be computed", underlying: takeErrors())
        }
        return code
    }
}

extension Certificate {
    /// The contents octets of the serial number's INTEGER, with the leading 00 that keeps a high bit positive.
    package var serialNumberOctets: [UInt8] {
        unsafe withUnsafeX509 { x509 in
            guard let der = unsafe OpenSSL.encode({ unsafe i2d_ASN1_INTEGER(X509_get0_serialNumber(x509), $0) }), der.count > 2 else {
                return []
            }
            // RFC 5280 §4.1.2.2: at most 20 octets, so that the length is one byte; a longer one is read alike.
            let lengthBytes = der[1] < 0x80 ? 1 : 1 + Int(der[1] & 0x7F)
            return Array(der.dropFirst(1 + lengthBytes))
        }
    }
}

/// Addresses as text.
package enum AddressText {
    /// The one text of an address: `192.0.2.1`, or RFC 5952 for IPv6; nil when it is none.
    package static func canonical(_ text: String) -> String? {
        guard let bytes = DER.addressBytes(text) else { return nil }
        var out = [CChar](repeating: 0, count: 64)
        guard unsafe inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, &out, socklen_t(out.count)) != nil else { return nil }
        return String(decoding: out.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension Certificate {
    /// The most specific common name of its issuer; nil where there is none, or one that cannot be printed.
    package var issuerCommonName: String? {
        unsafe withUnsafeX509 { x509 in
            guard let name = unsafe X509_get_issuer_name(x509) else { return nil }
            return try? unsafe DistinguishedName.commonName(name, source: issuer)
        }
    }
}
