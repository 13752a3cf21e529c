internal import COpenSSL

// RFC 5280 §4.1, what is written here:
//
//   Certificate  SEQUENCE
//     TBSCertificate  SEQUENCE
//       [0] version 2 (v3) | serial | algorithm | issuer | SEQUENCE notBefore notAfter | subject | subjectPublicKeyInfo
//       [3] SEQUENCE OF extension
//     algorithm
//     signature  BIT STRING

/// Describes a certificate and makes it.
///
/// It writes what it is told, so that tests can make bad ones; what it makes is read back as any certificate is.
package struct CertificateBuilder: Sendable {
    package enum BasicConstraints: Hashable, Sendable {
        case leaf
        case authority(pathLength: Int?)
    }

    /// An extension by its number; `der` is the value inside of the octet string.
    package struct Extension: Hashable, Sendable {
        package var oid: String
        package var der: [UInt8]
        package var isCritical: Bool

        package init(oid: String, der: [UInt8], isCritical: Bool = false) {
            self.oid = oid
            self.der = der
            self.isCritical = isCritical
        }
    }

    /// Most specific first, as it is printed.
    package var subject: [NameAttribute]
    package var alternativeNames: [AlternativeName] = []
    package var notBefore: Timestamp
    package var notAfter: Timestamp
    /// Nil writes no such extension.
    package var basicConstraints: BasicConstraints? = .leaf
    package var keyUsage: KeyUsage? = .digitalSignature
    /// Dotted numbers, or `serverAuth`, `clientAuth`.
    package var extendedKeyUsages: [String] = []
    /// Big-endian; nil draws 16 random bytes.
    package var serialNumber: [UInt8]? = nil
    package var includesKeyIdentifiers = true
    package var extensions: [Extension] = []
    package var digest: SignatureDigest = .sha256

    /// So that a peer whose clock is slow accepts a new certificate.
    package static let backdatingSeconds: Int64 = 3600

    package init(subject: [NameAttribute], days: Int64 = 365, from now: Timestamp = .now()) {
        self.subject = subject
        notBefore = now.adding(seconds: -CertificateBuilder.backdatingSeconds)
        notAfter = now.adding(days: days)
    }

    /// A server's leaf for these DNS names and addresses.
    package static func server(names: [String], commonName: String? = nil, days: Int64 = 365, from now: Timestamp = .now()) -> Self {
        var builder = CertificateBuilder(subject: [.commonName(commonName ?? names.first ?? "server")], days: days, from: now)
        builder.alternativeNames = names.map(AlternativeName.init(serverName:))
        builder.extendedKeyUsages = ["serverAuth"]
        return builder
    }

    /// A client's leaf.
    package static func client(name: String, alternativeNames: [AlternativeName] = [], days: Int64 = 365, from now: Timestamp = .now())
        -> Self
    {
        var builder = CertificateBuilder(subject: [.commonName(name)], days: days, from: now)
        builder.alternativeNames = alternativeNames
        builder.extendedKeyUsages = ["clientAuth"]
        return builder
    }

    /// A private authority.
    package static func authority(name: String, pathLength: Int? = nil, days: Int64 = 3650, from now: Timestamp = .now()) -> Self {
        var builder = CertificateBuilder(subject: [.commonName(name)], days: days, from: now)
        builder.basicConstraints = .authority(pathLength: pathLength)
        builder.keyUsage = [.keyCertSign, .crlSign]
        return builder
    }

    // MARK: - Making it

    /// A certificate for `key`, signed by `key`.
    package func selfSigned(by key: PrivateKey) throws -> Certificate {
        try make(for: key, issuerName: try NameAttribute.encode(subject), authorityKeyIdentifier: nil, signer: key)
    }

    /// A certificate for `key`, signed by `issuer`.
    package func issued(for key: PrivateKey, by issuer: Identity) throws -> Certificate {
        try make(
            for: key, issuerName: try issuer.leaf.subjectDER(), authorityKeyIdentifier: issuer.leaf.subjectKeyIdentifier, signer: issuer.key
        )
    }

    /// A new key's identity: self-signed, or issued by `issuer`, with the issuer's chain but not its root.
    package func identity(key: PrivateKey? = nil, issuer: Identity? = nil) throws -> Identity {
        let key = try key ?? PrivateKey.generate()
        guard let issuer else { return Identity(uncheckedLeaf: try selfSigned(by: key), key: key) }
        let intermediates = issuer.chain.filter { !$0.isSelfSigned }
        return Identity(uncheckedLeaf: try issued(for: key, by: issuer), intermediates: intermediates, key: key)
    }

    private func make(
        for key: PrivateKey, issuerName: [UInt8], authorityKeyIdentifier: [UInt8]?, signer: PrivateKey
    ) throws -> Certificate {
        let algorithm = try digest.algorithmIdentifier(for: signer.algorithm)
        let tbs = DER.sequence([
            DER.context(0, constructed: DER.integer(2)),
            DER.integer(unsigned: try serialNumber ?? CertificateBuilder.randomSerialNumber()),
            algorithm,
            issuerName,
            DER.sequence([try DER.time(notBefore), try DER.time(notAfter)]),
            try NameAttribute.encode(subject),
            try key.publicKeyInfo(),
            DER.context(3, constructed: DER.sequence(try encodedExtensions(key: key, authorityKeyIdentifier: authorityKeyIdentifier))),
        ])
        let der = DER.sequence([tbs, algorithm, DER.bitString(try signer.sign(tbs, digest))])
        return try Certificate(der: der, source: NameAttribute.text(subject))
    }

    /// RFC 5280 §4.1.2.2: positive, at most 20 octets; 16 random ones cannot collide.
    private static func randomSerialNumber() throws -> [UInt8] {
        var bytes = try OpenSSL.randomBytes(16)
        bytes[0] = bytes[0] & 0x7F | 0x40
        return bytes
    }

    private func encodedExtensions(key: PrivateKey, authorityKeyIdentifier: [UInt8]?) throws -> [[UInt8]] {
        var all: [Extension] = []
        if let basicConstraints { all.append(.basicConstraints(basicConstraints)) }
        if let keyUsage { all.append(.keyUsage(keyUsage)) }
        if !extendedKeyUsages.isEmpty { all.append(try .extendedKeyUsages(extendedKeyUsages)) }
        if !alternativeNames.isEmpty {
            // RFC 5280 §4.2.1.6: critical where the subject is empty.
            let names = try alternativeNames.map { try $0.encoded() }
            all.append(Extension(oid: "2.5.29.17", der: DER.sequence(names), isCritical: subject.isEmpty))
        }
        if includesKeyIdentifiers {
            all.append(Extension(oid: "2.5.29.14", der: DER.octetString(key.keyIdentifier)))
            if let authorityKeyIdentifier { all.append(.authorityKeyIdentifier(authorityKeyIdentifier)) }
        }
        return try (all + extensions).map { try $0.encoded() }
    }
}

extension CertificateBuilder.Extension {
    package func encoded() throws -> [UInt8] {
        DER.sequence([try DER.objectIdentifier(oid)] + (isCritical ? [DER.boolean(true)] : []) + [DER.octetString(der)])
    }

    static func authorityKeyIdentifier(_ identifier: [UInt8]) -> Self {
        Self(oid: "2.5.29.35", der: DER.sequence([DER.context(0, primitive: identifier)]))
    }

    fileprivate static func basicConstraints(_ constraints: CertificateBuilder.BasicConstraints) -> Self {
        let contents: [[UInt8]] =
            switch constraints {
            case .leaf: []
            case .authority(nil): [DER.boolean(true)]
            case .authority(let pathLength?): [DER.boolean(true), DER.integer(UInt64(max(0, pathLength)))]
            }
        return Self(oid: "2.5.29.19", der: DER.sequence(contents), isCritical: true)
    }

    fileprivate static func keyUsage(_ usage: KeyUsage) -> Self {
        // A named bit list: bit 0 is the highest of the first byte, and trailing zero bits are left out.
        var bytes: [UInt8] = [UInt8(truncatingIfNeeded: usage.rawValue), UInt8(truncatingIfNeeded: usage.rawValue >> 8)]
        while bytes.count > 1, bytes.last == 0 { bytes.removeLast() }
        let unused = UInt8(min(7, bytes[bytes.count - 1].trailingZeroBitCount))
        return Self(oid: "2.5.29.15", der: DER.bitString(bytes, unusedBits: unused), isCritical: true)
    }

    fileprivate static func extendedKeyUsages(_ usages: [String]) throws -> Self {
        let names = ["serverAuth": "1.3.6.1.5.5.7.3.1", "clientAuth": "1.3.6.1.5.5.7.3.2"]
        return Self(oid: "2.5.29.37", der: DER.sequence(try usages.map { try DER.objectIdentifier(names[$0] ?? $0) }))
    }

    /// RFC 5280 §4.2.1.10: DNS names below (or equal to) these, and no others.
    package static func nameConstraints(permittedDNSNames: [String] = [], excludedDNSNames: [String] = []) -> Self {
        func subtrees(_ names: [String]) -> [UInt8] {
            Array(names.map { DER.sequence([DER.context(2, primitive: Array($0.utf8))]) }.joined())
        }
        let permitted = permittedDNSNames.isEmpty ? [] : [DER.context(0, constructed: subtrees(permittedDNSNames))]
        let excluded = excludedDNSNames.isEmpty ? [] : [DER.context(1, constructed: subtrees(excludedDNSNames))]
        return Self(oid: "2.5.29.30", der: DER.sequence(permitted + excluded), isCritical: true)
    }
}
