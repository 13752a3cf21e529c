internal import COpenSSL

/// An X.509 certificate: read, never changed; the owner of OpenSSL's `X509`.
///
/// One that exists has names that are safe to print and compare: a subject alternative name or common name with control
/// characters (an embedded NUL) is refused when read. Weak keys and signatures can be read, so that they can be shown;
/// `Identity` and `TrustStore` refuse them.
@safe package final class Certificate: Sendable, Hashable, CustomStringConvertible {
    // Safety: an X509 is immutable once parsed; what OpenSSL caches in it later is under OpenSSL's own lock.
    private nonisolated(unsafe) let x509: OpaquePointer
    private let contents: CertificateContents

    /// Reads one certificate and nothing after it. `source` names the file or alias in errors.
    package convenience init(der: [UInt8], source: String) throws {
        OpenSSL.prepare()
        OpenSSL.clearErrors()
        let (parsed, used) = unsafe der.withUnsafeBufferPointer { bytes -> (OpaquePointer?, Int) in
            var cursor = bytes.baseAddress
            let x509 = unsafe d2i_X509(nil, &cursor, bytes.count)
            guard let start = bytes.baseAddress, let end = unsafe cursor else { return unsafe (x509, 0) }
            return unsafe (x509, end - start)
        }
        guard let x509 = unsafe parsed else {
            throw PKIError(.certificateMalformed, subject: source, "not an X.509 certificate", underlying: OpenSSL.takeErrors())
        }
        do {
            guard used == der.count else {
                throw PKIError(.certificateMalformed, subject: source, "\(der.count - used) bytes follow the certificate")
            }
            unsafe self.init(adopting: x509, try CertificateContents(x509, source: source))
        } catch {
            unsafe X509_free(x509)
            throw error
        }
    }

    /// Shares an `X509` that somebody else keeps too, as one of a peer's chain.
    package convenience init(sharing x509: OpaquePointer, source: String) throws {
        OpenSSL.prepare()
        let contents = try unsafe CertificateContents(x509, source: source)
        unsafe X509_up_ref(x509)
        unsafe self.init(adopting: x509, contents)
    }

    private init(adopting x509: OpaquePointer, _ contents: CertificateContents) {
        unsafe self.x509 = unsafe x509
        self.contents = contents
    }

    deinit { unsafe X509_free(x509) }

    /// All certificates of a PEM file, in order; other blocks are skipped. None is an error.
    package static func list(pem: [UInt8], source: String) throws -> [Certificate] {
        var labels: [String] = []
        var certificates: [Certificate] = []
        var blocks = try PEM.blocks(pem, source: source)
        // A key may stand beside its certificate.
        defer { for index in blocks.indices where blocks[index].label.hasSuffix("PRIVATE KEY") { blocks[index].wipe() } }
        for block in blocks {
            switch block.label {
            case "CERTIFICATE", "X509 CERTIFICATE":
                certificates.append(try Certificate(der: block.der, source: "\(source), block \(block.number)"))
            case "TRUSTED CERTIFICATE":
                throw PKIError(
                    .pemMalformed, subject: source, "block \(block.number): OpenSSL's own certificate form is not supported",
                    remedy: "convert it with: openssl x509 -in FILE -out NEW")
            default: labels.append(block.label)
            }
        }
        guard !certificates.isEmpty else {
            throw PKIError(
                .certificateMissing, subject: source, "no certificate in it", expected: "a block -----BEGIN CERTIFICATE-----",
                found: labels.isEmpty ? "no PEM block" : labels.joined(separator: ", "))
        }
        return certificates
    }

    // MARK: - What it says

    package var derBytes: [UInt8] { contents.derBytes }
    package var pem: String { PEM.encode(label: "CERTIFICATE", derBytes) }
    package var sha256: CertificateFingerprint { contents.sha256 }
    package var publicKeyPin: PublicKeyPin { contents.publicKeyPin }
    /// RFC 4514, most specific attribute first, as `CN=alice,O=Example`. Control characters and malformed bytes are escaped.
    package var subject: String { contents.subject }
    package var issuer: String { contents.issuer }
    /// The most specific common name. Never an identity where there are subject alternative names.
    package var commonName: String? { contents.commonName }
    /// Lower-case hex, without leading zeros.
    package var serialNumber: String { contents.serialNumber }
    package var notBefore: Timestamp { contents.notBefore }
    package var notAfter: Timestamp { contents.notAfter }
    package var keyAlgorithm: KeyAlgorithm { contents.keyAlgorithm }
    /// OpenSSL's name, as `ecdsa-with-SHA256`.
    package var signatureAlgorithm: String { contents.signatureAlgorithm }
    /// False for SHA-1, MD5 and older.
    package var hasStrongSignature: Bool { contents.signatureIsStrong }

    package var hasSubjectAlternativeName: Bool { contents.alternativeNames.present }
    package var dnsNames: [String] { contents.alternativeNames.dns }
    package var uriNames: [String] { contents.alternativeNames.uris }
    package var emailAddresses: [String] { contents.alternativeNames.emails }
    /// As text, `192.0.2.1` or `2001:db8::1`.
    package var ipAddresses: [String] { contents.alternativeNames.addresses }

    /// Every subject alternative name: URIs, then DNS names, e-mail and IP addresses.
    package var names: [String] { uriNames + dnsNames + emailAddresses + ipAddresses }

    /// May sign other certificates.
    package var isCertificateAuthority: Bool { contents.isCertificateAuthority }
    /// Subject and issuer are the same name; whether the signature is its own is `isSelfSigned`.
    package var isSelfIssued: Bool { contents.isSelfIssued }
    /// Signed by its own key.
    package var isSelfSigned: Bool { isSelfIssued && isSigned(by: self) }
    /// Nil where it is not restricted.
    package var keyUsage: KeyUsage? { contents.keyUsage }
    /// Short names, as `serverAuth`, or dotted numbers; empty where it is not restricted.
    package var extendedKeyUsages: [String] { contents.extendedKeyUsages }

    package enum Validity: Hashable, Sendable {
        case valid, notYetValid, expired
    }

    package func validity(at time: Timestamp) -> Validity {
        // RFC 5280 §4.1.2.5: both ends belong to the period.
        time < notBefore ? .notYetValid : time > notAfter ? .expired : .valid
    }

    /// The signature verifies with `issuer`'s key, whatever the names say.
    package func isSigned(by issuer: Certificate) -> Bool {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        guard let key = unsafe X509_get0_pubkey(issuer.x509) else { return false }
        return unsafe X509_verify(x509, key) == 1
    }

    /// Names, key identifiers and key usage allow `issuer` to have issued this; nil when they do, otherwise the reason.
    func reasonNotIssued(by issuer: Certificate) -> String? {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        let result = unsafe X509_check_issued(issuer.x509, x509)
        return result == X509_V_OK ? nil : unsafe String(cString: X509_verify_cert_error_string(Int(result)))
    }

    /// The `X509`, for as long as `body` runs; take a reference to keep it.
    package func withUnsafeX509<R>(_ body: (OpaquePointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(self) { try unsafe body(x509) }
    }

    package var description: String { "\(subject) (\(sha256))" }

    package static func == (left: Certificate, right: Certificate) -> Bool { left.sha256 == right.sha256 }
    package func hash(into hasher: inout Hasher) { hasher.combine(sha256) }
}

/// RFC 5280 §4.2.1.3: what the key may be used for; the values are OpenSSL's.
package struct KeyUsage: OptionSet, Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let digitalSignature = KeyUsage(rawValue: 0x80)
    package static let nonRepudiation = KeyUsage(rawValue: 0x40)
    package static let keyEncipherment = KeyUsage(rawValue: 0x20)
    package static let dataEncipherment = KeyUsage(rawValue: 0x10)
    package static let keyAgreement = KeyUsage(rawValue: 0x08)
    package static let keyCertSign = KeyUsage(rawValue: 0x04)
    package static let crlSign = KeyUsage(rawValue: 0x02)
    package static let encipherOnly = KeyUsage(rawValue: 0x01)
    package static let decipherOnly = KeyUsage(rawValue: 0x8000)

    /// Names as in RFC 5280, in its order.
    package var names: [String] { KeyUsage.all.filter { contains($0.usage) }.map(\.name) }
    package var description: String { names.joined(separator: ", ") }

    // In the order of the bits in the extension.
    static let all: [(usage: KeyUsage, name: String)] = [
        (.digitalSignature, "digitalSignature"), (.nonRepudiation, "nonRepudiation"), (.keyEncipherment, "keyEncipherment"),
        (.dataEncipherment, "dataEncipherment"), (.keyAgreement, "keyAgreement"), (.keyCertSign, "keyCertSign"),
        (.crlSign, "cRLSign"), (.encipherOnly, "encipherOnly"), (.decipherOnly, "decipherOnly"),
    ]
}
