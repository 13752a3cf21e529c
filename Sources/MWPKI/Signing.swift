internal import COpenSSL

/// The hash of a signature.
package enum SignatureDigest: Hashable, Sendable {
    case sha256, sha384, sha512
    /// Refused when loaded; for tests.
    case sha1

    /// The AlgorithmIdentifier of this hash with this kind of key.
    func algorithmIdentifier(for key: KeyAlgorithm) throws -> [UInt8] {
        let index = [SignatureDigest.sha256, .sha384, .sha512, .sha1].firstIndex(of: self) ?? 0
        switch key {
        case .ec:
            let oids = ["1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3", "1.2.840.10045.4.3.4", "1.2.840.10045.4.1"]
            return DER.sequence([try DER.objectIdentifier(oids[index])])
        case .rsa:
            // RFC 4055 §5: the parameters are NULL, for EC they are absent.
            let last = [11, 12, 13, 5][index]
            return DER.sequence([try DER.objectIdentifier("1.2.840.113549.1.1.\(last)"), DER.null])
        case .ed25519: return DER.sequence([try DER.objectIdentifier("1.3.101.112")])
        case .dsa, .other: throw PKIError(.buildFailed, subject: "\(key)", "cannot sign with this kind of key")
        }
    }

    fileprivate var name: String {
        switch self {
        case .sha256: "SHA256"
        case .sha384: "SHA384"
        case .sha512: "SHA512"
        case .sha1: "SHA1"
        }
    }
}

extension PrivateKey {
    /// A signature over `bytes`, hashed with `digest` (Ed25519 hashes by itself). ECDSA gives DER, RSA PKCS#1 v1.5.
    package func sign(_ bytes: [UInt8], _ digest: SignatureDigest = .sha256) throws -> [UInt8] {
        OpenSSL.clearErrors()
        let signature = unsafe withUnsafeKey { key -> [UInt8]? in
            guard let context = unsafe EVP_MD_CTX_new() else { return nil }
            defer { unsafe EVP_MD_CTX_free(context) }
            let name = algorithm == .ed25519 ? nil : digest.name
            guard unsafe EVP_DigestSignInit_ex(context, nil, name, nil, nil, key, nil) == 1 else { return nil }
            var count = 0
            guard unsafe EVP_DigestSign(context, nil, &count, bytes, bytes.count) == 1 else { return nil }
            var signature = [UInt8](repeating: 0, count: count)
            guard unsafe EVP_DigestSign(context, &signature, &count, bytes, bytes.count) == 1 else { return nil }
            return Array(signature.prefix(count))
        }
        guard let signature else {
            throw PKIError(.buildFailed, subject: "\(algorithm) key", "cannot sign", underlying: OpenSSL.takeErrors())
        }
        return signature
    }

    /// RFC 7093 §2, method 4: 160 bits of SHA-256 of the SubjectPublicKeyInfo.
    package var keyIdentifier: [UInt8] { Array(publicKeyPin.bytes.prefix(20)) }
}

extension Certificate {
    /// The subject as it is encoded, so that an issuer's name is repeated byte for byte.
    func subjectDER() throws -> [UInt8] {
        try unsafe withUnsafeX509 { x509 in
            guard let der = unsafe OpenSSL.encode({ unsafe i2d_X509_NAME(X509_get_subject_name(x509), $0) }) else {
                throw PKIError(.certificateMalformed, subject: subject, "its subject cannot be encoded", underlying: OpenSSL.takeErrors())
            }
            return der
        }
    }

    /// Nil where it has none.
    package var subjectKeyIdentifier: [UInt8]? {
        unsafe withUnsafeX509 { unsafe Certificate.bytes(X509_get0_subject_key_id($0)) }
    }

    /// The identifier octets only; nil where it has none.
    package var authorityKeyIdentifier: [UInt8]? {
        unsafe withUnsafeX509 { unsafe Certificate.bytes(X509_get0_authority_key_id($0)) }
    }

    private static func bytes(_ string: UnsafePointer<ASN1_OCTET_STRING>?) -> [UInt8]? {
        guard let string = unsafe string, let data = unsafe ASN1_STRING_get0_data(string) else { return nil }
        return unsafe Array(UnsafeBufferPointer(start: data, count: Int(ASN1_STRING_length(string))))
    }
}
