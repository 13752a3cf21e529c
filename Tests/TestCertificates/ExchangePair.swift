package import MWPKI

/// The documented layout: two self-signed identities of the same name, each other's certificate in the trust stores.
///
///     server.keystore    wstestkey                          server.truststore  publicWsTestKey (server), wsTestKeyClt (client)
///     client.keystore    wstestkeyclt                       client.truststore  wsTestKeyClt (client), wsTestKey (server)
package struct ExchangePair: Sendable {
    package let server: TLSMaterial
    package let client: TLSMaterial
    /// A third self-signed identity of the same name that is in no trust store.
    package let stranger: Identity
}

/// What keytool makes with every question answered by Enter: one name for all, no subject alternative name, no key usage,
/// a subject key identifier only. With `names`, the server's certificate has them (keytool's `-ext san=`).
package func exchangePair(
    names: [String] = [], algorithm: KeyAlgorithm = .ec(.p256), _ change: (inout CertificateBuilder) -> Void = { _ in }
) throws -> ExchangePair {
    func identity(_ names: [String]) throws -> Identity {
        var builder = CertificateBuilder(subject: NameAttribute.unknown, days: 90)
        builder.basicConstraints = nil
        builder.keyUsage = nil
        builder.alternativeNames = names.map(AlternativeName.init(serverName:))
        change(&builder)
        return try builder.identity(key: try PrivateKey.generate(algorithm))
    }
    let server = try identity(names)
    let client = try identity([])
    func anchor(_ alias: String, _ identity: Identity) -> TrustAnchor { TrustAnchor(alias: alias, certificate: identity.leaf) }
    return ExchangePair(
        server: TLSMaterial(
            identity: server, trustStore: try TrustStore(anchors: [anchor("publicWsTestKey", server), anchor("wsTestKeyClt", client)])),
        client: TLSMaterial(
            identity: client, trustStore: try TrustStore(anchors: [anchor("wsTestKeyClt", client), anchor("wsTestKey", server)])),
        stranger: try identity([]))
}
