internal import COpenSSL

/// A list of certificates that their authority took back: read, never changed; the owner of OpenSSL's `X509_CRL`.
///
/// Only complete lists of one authority: delta, partitioned and indirect lists are refused, as reading one as complete
/// would let revoked certificates in.
@safe package final class CertificateRevocationList: Sendable, Hashable {
    // Safety: an X509_CRL is immutable once parsed; what OpenSSL caches in it later is under OpenSSL's own lock.
    private nonisolated(unsafe) let crl: OpaquePointer

    package let derBytes: [UInt8]
    /// RFC 4514.
    package let issuer: String
    package let thisUpdate: Timestamp
    /// After this the list says nothing any more, and all that its authority signed is refused.
    package let nextUpdate: Timestamp
    package let signatureAlgorithm: String
    /// Lower-case hex without leading zeros, as `Certificate.serialNumber`.
    package let revokedSerialNumbers: Set<String>
    private let signatureIsStrong: Bool

    /// Reads PEM with one or more lists, or the DER of one.
    package static func list(_ bytes: [UInt8], source: String) throws -> [CertificateRevocationList] {
        guard PEM.isPEM(bytes) else { return [try CertificateRevocationList(der: bytes, source: source)] }
        let blocks = try PEM.blocks(bytes, source: source)
        let lists = try blocks.filter { $0.label == "X509 CRL" }.map {
            try CertificateRevocationList(der: $0.der, source: "\(source), block \($0.number)")
        }
        guard !lists.isEmpty else {
            throw PKIError(
                .revocationListMalformed, subject: source, "no revocation list in it", expected: "a block -----BEGIN X509 CRL-----",
                found: blocks.map(\.label).joined(separator: ", "))
        }
        return lists
    }

    /// Reads one list and nothing after it.
    package convenience init(der: [UInt8], source: String) throws {
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let parsed = unsafe der.withUnsafeBufferPointer { bytes -> OpaquePointer? in
            var cursor = bytes.baseAddress
            let crl = unsafe d2i_X509_CRL(nil, &cursor, bytes.count)
            guard unsafe cursor == bytes.baseAddress?.advanced(by: bytes.count) else {
                unsafe X509_CRL_free(crl)
                return nil
            }
            return unsafe crl
        }
        guard let crl = unsafe parsed else {
            throw PKIError(.revocationListMalformed, subject: source, "not a certificate revocation list", underlying: OpenSSL.takeErrors())
        }
        do {
            unsafe self.init(adopting: crl, der: der, try RevocationListContents(crl, source: source))
        } catch {
            unsafe X509_CRL_free(crl)
            throw error
        }
    }

    private init(adopting crl: OpaquePointer, der: [UInt8], _ contents: RevocationListContents) {
        unsafe self.crl = unsafe crl
        derBytes = der
        issuer = contents.issuer
        thisUpdate = contents.thisUpdate
        nextUpdate = contents.nextUpdate
        signatureAlgorithm = contents.signature.name
        signatureIsStrong = contents.signature.isStrong
        revokedSerialNumbers = contents.serialNumbers
    }

    deinit { unsafe X509_CRL_free(crl) }

    package var pem: String { PEM.encode(label: "X509 CRL", derBytes) }

    /// `authority` has the list's issuer name and made its signature.
    package func isSigned(by authority: Certificate) -> Bool {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        return unsafe authority.withUnsafeX509 { x509 in
            guard unsafe X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_subject_name(x509)) == 0,
                let key = unsafe X509_get0_pubkey(x509)
            else { return false }
            return unsafe X509_CRL_verify(crl, key) == 1
        }
    }

    /// Until when the list is believed, `grace` (in seconds) beyond its next update included.
    package func end(grace: Int64) -> Timestamp { nextUpdate.adding(seconds: grace) }

    /// Current at `time`, or why not.
    func requireCurrent(at time: Timestamp, grace: Int64) throws {
        let subject = "revocation list of \(issuer)"
        guard end(grace: grace) >= time else {
            throw PKIError(
                .revocationListExpired, subject: subject,
                "its successor was due at \(nextUpdate)" + (grace > 0 ? ", and the grace of \(grace) s is over" : ""),
                remedy: "get a new one from the authority; until then no certificate of it can be accepted")
        }
        guard thisUpdate <= time else {
            throw PKIError(
                .revocationListExpired, subject: subject, "it is not valid before \(thisUpdate)", remedy: "check the clock of this machine")
        }
        guard signatureIsStrong else {
            throw PKIError(
                .signatureTooWeak, subject: subject, "its signature is too weak", expected: "SHA-256 or better",
                found: signatureAlgorithm, remedy: "have the authority sign it again with SHA-256")
        }
    }

    /// The `X509_CRL`, for as long as `body` runs; take a reference to keep it.
    package func withUnsafeCRL<R>(_ body: (OpaquePointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(self) { try unsafe body(crl) }
    }

    package static func == (left: CertificateRevocationList, right: CertificateRevocationList) -> Bool { left.derBytes == right.derBytes }
    package func hash(into hasher: inout Hasher) { hasher.combine(derBytes) }
}

private struct RevocationListContents {
    let issuer: String
    let thisUpdate: Timestamp
    let nextUpdate: Timestamp
    let signature: SignatureAlgorithm
    let serialNumbers: Set<String>

    init(_ crl: OpaquePointer, source: String) throws {
        func malformed(_ what: String, remedy: String? = nil) -> PKIError {
            PKIError(.revocationListMalformed, subject: source, what, remedy: remedy, underlying: OpenSSL.takeErrors())
        }
        guard let name = unsafe X509_CRL_get_issuer(crl), let issuer = unsafe DistinguishedName.text(name) else {
            throw malformed("malformed issuer")
        }
        guard let thisUpdate = unsafe Timestamp(asn1: X509_CRL_get0_lastUpdate(crl)) else { throw malformed("malformed date") }
        // RFC 5280 §5.1.2.5: there must be a next one; without, the list would be believed for ever.
        guard let nextUpdate = unsafe Timestamp(asn1: X509_CRL_get0_nextUpdate(crl)) else {
            throw malformed("it does not say when its successor is due", remedy: "have the authority make it with nextUpdate")
        }
        for nid in [NID_delta_crl, NID_issuing_distribution_point] where unsafe X509_CRL_get_ext_by_NID(crl, nid, -1) >= 0 {
            throw malformed(
                "delta, partitioned and indirect revocation lists are not supported", remedy: "get the authority's complete list")
        }
        self.issuer = issuer
        self.thisUpdate = thisUpdate
        self.nextUpdate = nextUpdate
        signature = unsafe SignatureAlgorithm(revocationList: crl)
        var serialNumbers: Set<String> = []
        if let revoked = unsafe X509_CRL_get_REVOKED(crl) {
            for index in unsafe 0..<COpenSSL_sk_X509_REVOKED_num(revoked) {
                let entry = unsafe COpenSSL_sk_X509_REVOKED_value(revoked, index)
                serialNumbers.insert(unsafe IntegerText.hex(X509_REVOKED_get0_serialNumber(entry)))
            }
        }
        self.serialNumbers = serialNumbers
    }
}
