internal import MWPKI

/// One bag of a PKCS#12 file or block of a PEM file, decrypted and parsed.
enum StoreBag {
    case key(StoredKey, BagAttributes)
    case certificate(Certificate, BagAttributes)
    case revocationList(CertificateRevocationList)
}

/// What a bag says about itself.
struct BagAttributes {
    var alias: String?
    var localKeyID: [UInt8]?
    /// Java's mark of a certificate that is trusted, rather than part of somebody's chain.
    var isMarkedTrusted = false

    init() {}

    /// Reads the optional SET OF attributes; unknown ones are skipped.
    init(from bag: inout DERReader, limits: KeystoreLimits) throws {
        guard !bag.isAtEnd else { return }
        var set = DERReader(try bag.read(DERTag.set, "a bag's attributes"))
        while !set.isAtEnd {
            var attribute = try set.sequence("an attribute")
            let type = try attribute.objectIdentifier("an attribute")
            var values = DERReader(try attribute.read(DERTag.set, "an attribute's values"))
            try attribute.finish("an attribute")
            switch type {
            case .friendlyName:
                alias = try Self.readText(from: &values, limits)
            case .localKeyID:
                localKeyID = Array(try values.octets("the local key identifier"))
                try values.finish("the local key identifier")
            case .trustedKeyUsage:
                isMarkedTrusted = true
            default:
                break
            }
        }
    }

    private static func readText(from values: inout DERReader, _ limits: KeystoreLimits) throws -> String {
        let bytes = try values.read(DERTag.bmpString, "the friendly name")
        try values.finish("the friendly name")
        guard bytes.count <= limits.maximumAliasBytes * 2, bytes.count % 2 == 0 else {
            throw KeystoreError.malformed("the friendly name is too long, or cut off")
        }
        let start = bytes.startIndex
        let units = stride(from: start, to: bytes.endIndex, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
        guard let text = String(validating: units, as: UTF16.self) else { throw KeystoreError.malformed("the friendly name is not UTF-16") }
        return text
    }
}

/// The entries that bags make up.
///
/// Each key gets the certificate with its public key, and from there issuer by issuer the rest of its chain. A certificate is a
/// trusted one if Java's mark says so; in a store without keys, all are, because openssl does not write the mark.
struct EntryAssembly {
    private(set) var entries: [Keystore.Entry] = []
    private(set) var revocationLists: [CertificateRevocationList] = []
    private(set) var warnings: [String] = []

    private var keys: [(key: StoredKey, attributes: BagAttributes)] = []
    private var certificates: [(certificate: Certificate, attributes: BagAttributes)] = []
    private var unnamed = 0

    init(_ bags: [StoreBag], limits: KeystoreLimits) throws {
        for bag in bags {
            switch bag {
            case .key(let key, let attributes): keys.append((key, attributes))
            case .certificate(let certificate, let attributes): certificates.append((certificate, attributes))
            case .revocationList(let list): revocationLists.append(list)
            }
        }
        var used: Set<CertificateFingerprint> = []
        for (key, attributes) in keys {
            let leaf = try leaf(of: key, attributes)
            let chain = try chain(from: leaf.certificate, limits)
            used.formUnion(chain.map(\.sha256))
            let alias = name(attributes.alias ?? leaf.attributes.alias)
            entries.append(try Keystore.Entry(alias: alias, created: nil, key: key, chain: chain))
        }
        for (certificate, attributes) in certificates {
            if attributes.isMarkedTrusted || keys.isEmpty {
                entries.append(Keystore.Entry(alias: name(attributes.alias), created: nil, trusted: certificate))
            } else if !used.contains(certificate.sha256) {
                warnings.append("\(certificate.subject): neither trusted nor part of a key's chain, left out")
            }
        }
    }

    private func leaf(of key: StoredKey, _ attributes: BagAttributes) throws -> (certificate: Certificate, attributes: BagAttributes) {
        let own = certificates.filter { $0.certificate.publicKeyPin == key.publicKeyPin }
        if let leaf = own.first(where: { $0.attributes.localKeyID == attributes.localKeyID }) ?? own.first { return leaf }
        let claims = certificates.contains { attributes.localKeyID != nil && $0.attributes.localKeyID == attributes.localKeyID }
        throw KeystoreError(
            claims ? .keyMismatch : .certificateMissing, subject: attributes.alias.map { "entry \($0.quoted)" } ?? "",
            claims ? "the private key is not that of its certificate" : "the private key has no certificate",
            remedy: "export the key again, together with its certificate")
    }

    private func chain(from leaf: Certificate, _ limits: KeystoreLimits) throws -> [Certificate] {
        var chain = [leaf]
        while let last = chain.last, !last.isSelfIssued {
            let issuer = certificates.first {
                $0.certificate.subject == last.issuer && !chain.contains($0.certificate) && last.isSigned(by: $0.certificate)
            }
            guard let issuer else { break }
            guard chain.count < limits.maximumChainCertificates else {
                throw KeystoreError(
                    .limitExceeded, "the chain of \(leaf.subject) is too long", expected: "at most \(limits.maximumChainCertificates)")
            }
            chain.append(issuer.certificate)
        }
        return chain
    }

    private mutating func name(_ alias: String?) -> String {
        if let alias, !alias.isEmpty { return alias }
        // As Java names them.
        unnamed += 1
        return "\(unnamed)"
    }
}
