/// Who we are to a peer: our leaf, the intermediates up to what the peer trusts, and the leaf's private key.
package struct Identity: Sendable {
    package let leaf: Certificate
    package let intermediates: [Certificate]
    package let key: PrivateKey

    /// What goes on the wire, leaf first.
    package var chain: [Certificate] { [leaf] + intermediates }

    /// Throws when the key is not the leaf's, when a key or signature is too weak, or when the chain is not in order.
    ///
    /// Dates are not judged: an expired identity loads, and `warnings(at:)` says so.
    package init(leaf: Certificate, intermediates: [Certificate] = [], key: PrivateKey, source: String = "identity") throws {
        self.init(uncheckedLeaf: leaf, intermediates: intermediates, key: key)
        try key.algorithm.requireStrong(subject: source)
        guard key.matches(leaf) else {
            throw PKIError(
                .keyMismatch, subject: source, "the private key is not the certificate's", expected: "\(leaf.publicKeyPin)",
                found: "\(key.publicKeyPin)", remedy: "give the key that this certificate was made for")
        }
        try requireStrongCertificates(source: source)
        try requireOrder(source: source)
    }

    /// Without any check: for tests that need a bad one.
    package init(uncheckedLeaf leaf: Certificate, intermediates: [Certificate] = [], key: PrivateKey) {
        self.leaf = leaf
        self.intermediates = intermediates
        self.key = key
    }

    /// From PEM: the chain leaf first, and the key; both may be the same bytes.
    package static func pem(
        chain: [UInt8], key: [UInt8], passphrase: Passphrase? = nil, source: String = "identity", keySource: String? = nil
    ) throws -> Identity {
        let certificates = try Certificate.list(pem: chain, source: source)
        let key = try PrivateKey(pem: key, passphrase: passphrase, source: keySource ?? source)
        return try Identity(leaf: certificates[0], intermediates: Array(certificates.dropFirst()), key: key, source: source)
    }

    /// What an operator should know; empty when all is well.
    package func warnings(at time: Timestamp) -> [String] {
        chain.compactMap { certificate in
            switch certificate.validity(at: time) {
            case .valid: nil
            case .expired: "\(certificate.subject): expired at \(certificate.notAfter); peers will refuse it"
            case .notYetValid: "\(certificate.subject): not valid before \(certificate.notBefore); peers will refuse it"
            }
        }
    }

    private func requireStrongCertificates(source: String) throws {
        for (index, certificate) in chain.enumerated() {
            let subject = "\(source), certificate \(index + 1) (\(certificate.subject))"
            try certificate.keyAlgorithm.requireStrong(subject: subject)
            // A root that was put at the end of the chain is trusted for itself, not for its signature.
            if index > 0, certificate.isSelfSigned { continue }
            try certificate.requireStrongSignature(subject: subject)
        }
    }

    private func requireOrder(source: String) throws {
        for (index, pair) in zip(chain, intermediates).enumerated() {
            let (child, parent) = pair
            let link = "certificate \(index + 1) (\(child.subject)) is not signed by certificate \(index + 2) (\(parent.subject))"
            let remedy = "put the leaf first, then each certificate's issuer"
            if let reason = child.reasonNotIssued(by: parent) {
                throw PKIError(.chainMalformed, subject: source, link, remedy: remedy, underlying: ["OpenSSL: \(reason)"])
            }
            guard parent.isCertificateAuthority, child.isSigned(by: parent) else {
                let reason = parent.isCertificateAuthority ? "the signature does not verify" : "the second is no certificate authority"
                throw PKIError(.chainMalformed, subject: source, link + ": " + reason, remedy: remedy)
            }
        }
        // Damage in a self-signed certificate shows nowhere else.
        if intermediates.isEmpty, leaf.isSelfIssued, !leaf.isSigned(by: leaf) {
            throw PKIError(
                .chainMalformed, subject: source, "the certificate names itself as its issuer, but its signature does not verify",
                remedy: "the file is damaged, or the issuer's certificate is missing in it")
        }
    }
}

extension Certificate {
    func requireStrongSignature(subject: String) throws {
        guard hasStrongSignature else {
            throw PKIError(
                .signatureTooWeak, subject: subject, "the certificate's signature is too weak", expected: "SHA-256 or better",
                found: signatureAlgorithm, remedy: SignatureAlgorithm.remedy)
        }
    }
}
