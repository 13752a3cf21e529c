// RFC 5280 §5.1, what is written here:
//
//   CertificateList  SEQUENCE
//     TBSCertList  SEQUENCE
//       version 1 (v2) | algorithm | issuer | thisUpdate | nextUpdate
//       SEQUENCE OF (serial, date)                                   absent when nothing is revoked
//       [0] SEQUENCE OF extension: authority key identifier, number
//     algorithm
//     signature  BIT STRING

/// Describes a revocation list and makes it.
package struct RevocationListBuilder: Sendable {
    /// Serial numbers in hex, as `Certificate.serialNumber`, and when each was revoked.
    package var revoked: [(serialNumber: String, date: Timestamp)]
    package var thisUpdate: Timestamp
    /// Nil leaves it out, which nobody accepts; for tests.
    package var nextUpdate: Timestamp?
    /// Grows with each list of the same authority.
    package var number: UInt64
    package var extensions: [CertificateBuilder.Extension] = []
    package var digest: SignatureDigest = .sha256

    package init(revoking certificates: [Certificate] = [], number: UInt64 = 1, days: Int64 = 30, from now: Timestamp = .now()) {
        revoked = certificates.map { ($0.serialNumber, now) }
        thisUpdate = now.adding(seconds: -CertificateBuilder.backdatingSeconds)
        nextUpdate = now.adding(days: days)
        self.number = number
    }

    /// The list, signed by the authority whose certificates it names.
    package func signed(by authority: Identity) throws -> CertificateRevocationList {
        let algorithm = try digest.algorithmIdentifier(for: authority.key.algorithm)
        var parts: [[UInt8]] = [DER.integer(1), algorithm, try authority.leaf.subjectDER(), try DER.time(thisUpdate)]
        if let nextUpdate { parts.append(try DER.time(nextUpdate)) }
        if !revoked.isEmpty { parts.append(DER.sequence(try revoked.map(entry))) }
        var all: [CertificateBuilder.Extension] = []
        if let identifier = authority.leaf.subjectKeyIdentifier { all.append(.authorityKeyIdentifier(identifier)) }
        all.append(CertificateBuilder.Extension(oid: "2.5.29.20", der: DER.integer(number)))
        parts.append(DER.context(0, constructed: DER.sequence(try (all + extensions).map { try $0.encoded() })))
        let tbs = DER.sequence(parts)
        let der = DER.sequence([tbs, algorithm, DER.bitString(try authority.key.sign(tbs, digest))])
        return try CertificateRevocationList(der: der, source: "revocation list of \(authority.leaf.subject)")
    }

    private func entry(_ serialNumber: String, _ date: Timestamp) throws -> [UInt8] {
        let digits = serialNumber.utf8.count % 2 == 0 ? serialNumber : "0" + serialNumber
        guard let bytes = Hex.decode(digits[...]), !bytes.isEmpty else {
            throw PKIError(.buildFailed, subject: serialNumber, "not a serial number", expected: "hex digits")
        }
        return DER.sequence([DER.integer(unsigned: bytes), try DER.time(date)])
    }
}
