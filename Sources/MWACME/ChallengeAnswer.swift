package import MWPKI

/// What has to be in place before the CA looks: one challenge of one identifier, and the account's answer to it.
package struct ChallengeAnswer: Hashable, Sendable {
    package let identifier: Identifier
    package let type: ChallengeType
    /// Only base64url characters.
    package let token: String
    /// RFC 8555 §8.1: token "." thumbprint of the account key.
    package let keyAuthorization: String

    package init(identifier: Identifier, type: ChallengeType, token: String, accountKey: PrivateKey) throws {
        self.identifier = identifier
        self.type = type
        self.token = token
        keyAuthorization = token + "." + (try JSONWebKey(accountKey).thumbprint)
    }

    // MARK: - http-01 (RFC 8555 §8.3)

    package static let httpPathPrefix = "/.well-known/acme-challenge/"
    package static let httpContentType = "application/octet-stream"
    package var httpPath: String { ChallengeAnswer.httpPathPrefix + token }
    package var httpBody: [UInt8] { Array(keyAuthorization.utf8) }

    // MARK: - dns-01 (RFC 8555 §8.4)

    /// With a dot at the end; the same for a name and its wildcard, whose values differ and stand side by side.
    package var dnsRecordName: String { "_acme-challenge.\(identifier.base.value)." }
    package var dnsRecordValue: String { Base64URL.encode(OpenSSL.sha256(httpBody)) }

    // MARK: - tls-alpn-01 (RFC 8737)

    package static let alpnProtocol = "acme-tls/1"
    package static let acmeIdentifierOID = "1.3.6.1.5.5.7.1.31"
    /// Longer than any validation; nobody trusts it anyway.
    static let alpnCertificateDays: Int64 = 7

    /// The server name the CA asks for: the name, or for an address its reverse form (RFC 8738 §6).
    package var alpnServerName: String {
        switch identifier {
        case .dns: return identifier.base.value
        case .ip(let address): return ChallengeAnswer.reverseName(address) ?? address
        }
    }

    /// RFC 8737 §3: self-signed, the identifier as its only alternative name, and the critical acmeIdentifier extension.
    package func alpnIdentity(at now: Timestamp) throws -> Identity {
        var builder = CertificateBuilder(subject: [.commonName("ACME challenge")], days: ChallengeAnswer.alpnCertificateDays, from: now)
        builder.alternativeNames = [identifier.base.alternativeName]
        builder.extensions = [
            .init(
                oid: ChallengeAnswer.acmeIdentifierOID, der: DER.octetString(OpenSSL.sha256(httpBody)), isCritical: true)
        ]
        return try builder.identity()
    }

    /// `1.2.0.192.in-addr.arpa`, or 32 nibbles and `ip6.arpa`; nil when it is no address.
    package static func reverseName(_ address: String) -> String? {
        guard let bytes = DER.addressBytes(address) else { return nil }
        if bytes.count == 4 { return bytes.reversed().map(String.init).joined(separator: ".") + ".in-addr.arpa" }
        let nibbles = bytes.reversed().flatMap { [$0 & 15, $0 >> 4] }
        return nibbles.map { String($0, radix: 16) }.joined(separator: ".") + ".ip6.arpa"
    }
}
