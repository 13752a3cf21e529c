package import MWPKI

/// Examines what we have before anything is sent: values in, findings out.
package enum IdentityExamination {
    typealias Finding = DoctorReport.Finding

    /// A clock before this is wrong: this program did not exist yet.
    private static let youngestPast = Timestamp(year: 2025, month: 1, day: 1)
    /// Warn when fewer days are left than this.
    private static let daysToWarn: Int64 = 14
    private static let secondsPerDay: Int64 = 86_400

    /// - Parameters:
    ///   - material: what was loaded, or why it could not be.
    ///   - sources: which files it comes from, for the evidence.
    package static func examine(
        _ material: Result<TLSMaterial, any Error>, sources: [String], now: Timestamp
    ) -> [DoctorReport.Finding] {
        var findings = [self.clock(now)]
        switch material {
        case .success(let material):
            findings.append(Finding(.files, .ok, sources + ["the key is the certificate's, and nobody else may read it"]))
            findings += [
                self.chain(material), self.dates(material, now), self.usage(material.identity.leaf), self.names(material.identity.leaf),
                self.algorithms(material.identity), self.revocation(material, now),
            ]
        case .failure(let error):
            findings += self.unusable(error, sources: sources)
        }
        return findings
    }

    private static func clock(_ now: Timestamp) -> Finding {
        if let youngest = self.youngestPast, now < youngest {
            return Finding(
                .clock, .fail, ["this machine's clock says \(now), which is in the past"],
                remedy: "set the clock: every certificate looks as if it were not valid yet")
        }
        return Finding(.clock, .ok, ["\(now)"])
    }

    /// Which check a failed load belongs to; those behind it were not examined.
    private static func unusable(_ error: any Error, sources: [String]) -> [Finding] {
        let pki = error as? PKIError
        let check: DoctorReport.Check =
            switch pki?.code {
            case .chainMalformed?: .chain
            case .keyTooWeak?, .signatureTooWeak?, .keyUnsupported?: .algorithms
            case .trustStoreEmpty?, .revocationListMalformed?, .revocationListExpired?, .revocationListMissing?, .revocationListUntrusted?:
                .revocation
            default: .files
            }
        var evidence = [pki.map { "\($0.subject): \($0.what)" } ?? "\(error)"]
        if let found = pki?.found { evidence.append("found \(found)") }
        if let expected = pki?.expected { evidence.append("expected \(expected)") }
        evidence += pki?.underlying ?? []
        let order: [DoctorReport.Check] = [.files, .chain, .dates, .usage, .identity, .algorithms, .revocation]
        return order.map { each in
            if each == check {
                return Finding(
                    check, .fail, evidence + (check == .files ? sources : []),
                    remedy: pki?.remedy ?? "give the right files with --certificate, --key and --trust")
            }
            if each == .files { return Finding(.files, .ok, sources) }
            return Finding(each, .skipped, ["the files could not be loaded"])
        }
    }

    private static func chain(_ material: TLSMaterial) -> Finding {
        let chain = material.identity.chain
        let evidence = chain.enumerated().map { "\($0.offset): \($0.element.subject), issued by \($0.element.issuer)" }
        for (certificate, issuer) in zip(chain, chain.dropFirst()) where !certificate.isSigned(by: issuer) {
            return Finding(
                .chain, .fail, evidence + ["\(certificate.subject) is not signed by \(issuer.subject), which comes next"],
                remedy: "put the leaf first, then each certificate's issuer")
        }
        guard let last = chain.last, !last.isSelfIssued else { return Finding(.chain, .ok, evidence) }
        let anchors = material.trustStore.anchors.map(\.certificate)
        if anchors.contains(where: { last.isSigned(by: $0) }) { return Finding(.chain, .ok, evidence) }
        return Finding(
            .chain, .warn, evidence + ["the issuer of the last, \(last.issuer), is neither in the chain nor in our trust store"],
            remedy: "if the server does not have it, append the intermediate certificates to the certificate file")
    }

    private static func dates(_ material: TLSMaterial, _ now: Timestamp) -> Finding {
        var evidence: [String] = []
        var verdict = DoctorReport.Verdict.ok
        var remedy: String?
        for certificate in material.identity.chain {
            let span = "\(certificate.subject): \(certificate.notBefore) to \(certificate.notAfter)"
            let daysLeft = (certificate.notAfter.secondsSince1970 - now.secondsSince1970) / self.secondsPerDay
            switch certificate.validity(at: now) {
            case .valid where daysLeft >= self.daysToWarn:
                evidence.append("\(span), \(daysLeft) days left")
            case .valid:
                evidence.append("\(span), only \(daysLeft) days left")
                if verdict == .ok { (verdict, remedy) = (.warn, "renew it soon") }
            case .notYetValid:
                evidence.append("\(span), not valid yet; now is \(now)")
                (verdict, remedy) = (.fail, "compare this machine's clock with the issuer's, or wait")
            case .expired:
                evidence.append("\(span), expired; now is \(now)")
                (verdict, remedy) = (.fail, "renew the certificate")
            }
        }
        return Finding(.dates, verdict, evidence, remedy: remedy)
    }

    private static func usage(_ leaf: Certificate) -> Finding {
        let keyUsage = leaf.keyUsage.map { "key usage \($0)" } ?? "no key usage, so any"
        let extended = leaf.extendedKeyUsages
        let evidence = [
            keyUsage, extended.isEmpty ? "no extended key usage, so any" : "extended key usage \(extended.joined(separator: ", "))",
        ]
        if let usage = leaf.keyUsage, !usage.contains(.digitalSignature) {
            return Finding(.usage, .fail, evidence, remedy: "issue a certificate whose key usage has digitalSignature")
        }
        guard extended.isEmpty || extended.contains("clientAuth") || extended.contains("anyExtendedKeyUsage") else {
            return Finding(
                .usage, .fail, evidence + ["a client needs clientAuth"],
                remedy: "issue a certificate whose extended key usage has clientAuth; a server's certificate is none for a client")
        }
        return Finding(.usage, .ok, evidence)
    }

    private static func names(_ leaf: Certificate) -> Finding {
        let names =
            leaf.uriNames.map { "URI:\($0)" } + leaf.dnsNames.map { "DNS:\($0)" } + leaf.emailAddresses.map { "email:\($0)" }
            + leaf.ipAddresses.map { "IP:\($0)" }
        return Finding(
            .identity, .ok,
            [
                "subject \(leaf.subject), serial \(leaf.serialNumber)",
                names.isEmpty ? "no subject alternative name" : "subject alternative names \(names.joined(separator: ", "))",
                "certificate \(leaf.sha256)",
            ])
    }

    private static func algorithms(_ identity: Identity) -> Finding {
        var evidence: [String] = []
        do {
            for certificate in identity.chain {
                evidence.append("\(certificate.subject): \(certificate.keyAlgorithm), signed with \(certificate.signatureAlgorithm)")
                try certificate.keyAlgorithm.requireStrong(subject: certificate.subject)
                // A root's own signature is never checked.
                guard certificate.hasStrongSignature || certificate.isSelfIssued && certificate != identity.leaf else {
                    return Finding(
                        .algorithms, .fail, evidence + ["\(certificate.signatureAlgorithm) is below the security level"],
                        remedy: "issue the certificate again with SHA-256")
                }
            }
            return Finding(.algorithms, .ok, evidence)
        } catch {
            let error = error as? PKIError
            return Finding(.algorithms, .fail, evidence + [error?.what ?? "too weak"], remedy: error?.remedy)
        }
    }

    /// Our lists judge servers; where our own issuer's is among them, whether it has us.
    private static func revocation(_ material: TLSMaterial, _ now: Timestamp) -> Finding {
        let lists = material.trustStore.revocationLists
        guard !lists.isEmpty else { return Finding(.revocation, .ok, ["none is configured"]) }
        var evidence: [String] = []
        var verdict = DoctorReport.Verdict.ok
        var remedy: String?
        let leaf = material.identity.leaf
        for list in lists {
            evidence.append("list of \(list.issuer), \(list.thisUpdate) to \(list.nextUpdate)")
            let life = list.nextUpdate.secondsSince1970 - list.thisUpdate.secondsSince1970
            let age = now.secondsSince1970 - list.thisUpdate.secondsSince1970
            if now > list.nextUpdate {
                evidence.append("it is out of date: every server of that issuer is refused")
                (verdict, remedy) = (.fail, "fetch the issuer's current list")
            } else if age > life - life / 5, verdict == .ok {
                evidence.append("more than 80 % of its life has passed")
                (verdict, remedy) = (.warn, "fetch the issuer's next list soon")
            }
            if list.issuer == leaf.issuer, list.revokedSerialNumbers.contains(leaf.serialNumber) {
                evidence.append("it has our own certificate, serial \(leaf.serialNumber)")
                (verdict, remedy) = (.fail, "our certificate was revoked: get a new one")
            }
        }
        return Finding(.revocation, verdict, evidence, remedy: remedy)
    }
}
