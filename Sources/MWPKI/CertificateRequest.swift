// RFC 2986 §4:
//
//   CertificationRequest  SEQUENCE
//     CertificationRequestInfo  SEQUENCE
//       version 0 | subject | subjectPublicKeyInfo
//       [0] SET OF attribute: 1.2.840.113549.1.9.14 (extensionRequest), SET of SEQUENCE OF extension
//     algorithm
//     signature  BIT STRING

/// A PKCS#10 request for a certificate: the names as subject alternative names, the subject empty.
///
/// A common name is not needed, and breaks above 64 characters.
package struct CertificateRequest: Hashable, Sendable {
    package let derBytes: [UInt8]

    /// Signed with `key`, the key that the certificate will be for. Throws for a name that cannot be encoded.
    package init(names: [AlternativeName], key: PrivateKey) throws {
        let alternativeNames = DER.sequence(try names.map { try $0.encoded() })
        let nameExtension = DER.sequence([try DER.objectIdentifier("2.5.29.17"), DER.octetString(alternativeNames)])
        let attribute = DER.sequence([
            try DER.objectIdentifier("1.2.840.113549.1.9.14"), DER.set([DER.sequence([nameExtension])]),
        ])
        let info = DER.sequence([
            DER.integer(0), DER.sequence([]), try key.publicKeyInfo(), DER.context(0, constructed: attribute),
        ])
        let digest = SignatureDigest.suited(to: key.algorithm)
        derBytes = DER.sequence([
            info, try digest.algorithmIdentifier(for: key.algorithm), DER.bitString(try key.sign(info, digest)),
        ])
    }

    package var pem: String { PEM.encode(label: "CERTIFICATE REQUEST", derBytes) }
}
