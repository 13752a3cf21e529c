/// A certificate that we trust for itself: an authority, or one peer's own certificate.
package struct TrustAnchor: Sendable, Hashable {
    /// Its name in the keystore it came from.
    package let alias: String?
    package let certificate: Certificate

    package init(alias: String? = nil, certificate: Certificate) {
        self.alias = alias
        self.certificate = certificate
    }
}

/// Whom we accept. Never empty: a store that trusts nobody is a mistake, and one that skips the check does not exist.
package struct TrustStore: Sendable {
    /// Each certificate once, in the order given.
    package let anchors: [TrustAnchor]
    /// Where this is not empty, every handshake must check revocation. The newest of each authority.
    package let revocationLists: [CertificateRevocationList]
    /// For how many seconds beyond its next update a list is still believed. 0 unless the operator says so.
    package let revocationGraceSeconds: Int64
    private let indices: [CertificateFingerprint: Int]

    /// Throws for an empty store, an anchor too weak to verify anything, and, where any revocation list is given: a list that
    /// is out of date at `now` or not signed by an anchor, an anchor without a list, and one whose issuer is no anchor.
    ///
    /// So with lists, intermediate authorities belong into the store, beside their root. Of several lists of one authority the newest
    /// counts, whatever the others say: a directory may keep the old ones.
    package init(
        anchors: [TrustAnchor], revocationLists: [CertificateRevocationList] = [], revocationGraceSeconds: Int64 = 0,
        at now: Timestamp = .now(), source: String = "trust store"
    ) throws {
        var unique: [TrustAnchor] = []
        var indices: [CertificateFingerprint: Int] = [:]
        for anchor in anchors where indices[anchor.certificate.sha256] == nil {
            indices[anchor.certificate.sha256] = unique.count
            unique.append(anchor)
        }
        guard !unique.isEmpty else {
            throw PKIError(
                .trustStoreEmpty, subject: source, "it trusts nobody", expected: "one certificate or more",
                remedy: "import the certificates of the authorities or peers to accept")
        }
        self.anchors = unique
        self.revocationLists = Self.newest(of: revocationLists, anchors: unique)
        self.revocationGraceSeconds = max(0, revocationGraceSeconds)
        self.indices = indices
        for anchor in unique {
            let subject = "\(source), \(anchor.alias ?? anchor.certificate.subject)"
            try anchor.certificate.keyAlgorithm.requireStrong(subject: subject)
            // It is trusted for its bytes; its own signature proves nothing and may be old.
            if !anchor.certificate.isSelfSigned { try anchor.certificate.requireStrongSignature(subject: subject) }
        }
        if !revocationLists.isEmpty { try requireRevocationLists(at: now, source: source) }
    }

    /// From PEM: all certificates of one file, and the revocation lists (PEM or DER) of any number.
    package static func pem(
        _ bytes: [UInt8], revocationLists: [CertificateRevocationList] = [], revocationGraceSeconds: Int64 = 0, at now: Timestamp = .now(),
        source: String = "trust store"
    ) throws -> TrustStore {
        let blocks = try PEM.blocks(bytes, source: source)
        guard !blocks.isEmpty else { return try TrustStore(anchors: [], source: source) }
        let anchors = try Certificate.list(pem: bytes, source: source).map { TrustAnchor(certificate: $0) }
        return try TrustStore(
            anchors: anchors, revocationLists: revocationLists, revocationGraceSeconds: revocationGraceSeconds, at: now, source: source)
    }

    /// The list that was issued last, of each authority. Lists that no anchor signed stay, so that they are refused.
    private static func newest(of lists: [CertificateRevocationList], anchors: [TrustAnchor]) -> [CertificateRevocationList] {
        guard lists.count > 1 else { return lists }
        var kept: [CertificateRevocationList] = []
        var position: [CertificateFingerprint: Int] = [:]
        for list in lists {
            guard let signer = anchors.first(where: { list.isSigned(by: $0.certificate) })?.certificate.sha256 else {
                kept.append(list)
                continue
            }
            guard let index = position[signer] else {
                position[signer] = kept.count
                kept.append(list)
                continue
            }
            let old = kept[index]
            if (list.thisUpdate, list.nextUpdate) > (old.thisUpdate, old.nextUpdate) { kept[index] = list }
        }
        return kept
    }

    /// The certificate of our store that is equal to this one: one copy for all connections.
    package func interned(_ certificate: Certificate) -> Certificate {
        indices[certificate.sha256].map { anchors[$0].certificate } ?? certificate
    }

    /// The moment from which `chain` would be refused although nothing changes: its first notAfter, or the end of a revocation list that
    /// speaks for one of its certificates.
    package func end(of chain: [Certificate]) -> Timestamp {
        let issuers = Set(chain.map(\.issuer))
        let lists = revocationLists.lazy.filter { issuers.contains($0.issuer) }.map { $0.end(grace: revocationGraceSeconds) }
        return min(chain.map(\.notAfter).min() ?? Timestamp(secondsSince1970: .max), lists.min() ?? Timestamp(secondsSince1970: .max))
    }

    /// The name under which this very certificate is in the store.
    package func alias(of certificate: Certificate) -> String? {
        indices[certificate.sha256].flatMap { anchors[$0].alias }
    }

    /// Is this very certificate one of the anchors?
    package func contains(_ certificate: Certificate) -> Bool { indices[certificate.sha256] != nil }

    /// What an operator should know; empty when all is well.
    package func warnings(at time: Timestamp) -> [String] {
        let ofAnchors: [String] = anchors.compactMap { anchor in
            let name = anchor.alias ?? anchor.certificate.subject
            return switch anchor.certificate.validity(at: time) {
            case .valid: nil
            case .expired: "\(name): expired at \(anchor.certificate.notAfter); nobody it vouches for is accepted"
            case .notYetValid: "\(name): not valid before \(anchor.certificate.notBefore); nobody it vouches for is accepted"
            }
        }
        return ofAnchors + revocationLists.compactMap { warning(of: $0, at: time) }
    }

    private func warning(of list: CertificateRevocationList, at time: Timestamp) -> String? {
        if time > list.nextUpdate {
            return "revocation list of \(list.issuer): its successor was due at \(list.nextUpdate), whom the authority revoked since is "
                + "let in; the grace ends at \(list.end(grace: revocationGraceSeconds)), then nobody of this authority is accepted"
        }
        // 80 % of its life: time enough to get the next one before everybody is refused.
        let life = list.nextUpdate.secondsSince1970 - list.thisUpdate.secondsSince1970
        guard life > 0, time.secondsSince1970 - list.thisUpdate.secondsSince1970 >= life / 5 * 4 else { return nil }
        return
            "revocation list of \(list.issuer): its successor is due at \(list.nextUpdate); without it nobody of this authority is accepted then"
    }

    // Fails when loaded what would otherwise fail every handshake later (X509 error 3), or worse, pass unchecked.
    private func requireRevocationLists(at now: Timestamp, source: String) throws {
        for list in revocationLists {
            try list.requireCurrent(at: now, grace: revocationGraceSeconds)
            guard anchors.contains(where: { list.isSigned(by: $0.certificate) }) else {
                throw PKIError(
                    .revocationListUntrusted, subject: "revocation list of \(list.issuer)", "no certificate of \(source) signed it",
                    remedy: "add its authority to the trust store, or remove the list")
            }
        }
        for anchor in anchors where !revocationLists.contains(where: { $0.isSigned(by: anchor.certificate) }) {
            let isAuthority = anchor.certificate.isCertificateAuthority
            throw PKIError(
                .revocationListMissing, subject: "\(source), \(anchor.alias ?? anchor.certificate.subject)",
                isAuthority ? "no revocation list of this authority" : "a peer's own certificate, which no revocation list can cover",
                remedy: isAuthority
                    ? "add its list, or remove the authority"
                    : "remove it from the trust store, or use no revocation lists: removing it is how it is revoked")
        }
        for anchor in anchors where !anchor.certificate.isSelfSigned && !anchors.contains(where: { isIssuer($0, of: anchor) }) {
            throw PKIError(
                .revocationListMissing, subject: "\(source), \(anchor.alias ?? anchor.certificate.subject)",
                "nobody can say whether this authority was revoked: its issuer is not in the trust store",
                expected: "a certificate of \(anchor.certificate.issuer)", remedy: "add its issuer, and the issuer's revocation list")
        }
    }

    private func isIssuer(_ issuer: TrustAnchor, of anchor: TrustAnchor) -> Bool {
        issuer.certificate.subject == anchor.certificate.issuer && anchor.certificate.isSigned(by: issuer.certificate)
    }
}
