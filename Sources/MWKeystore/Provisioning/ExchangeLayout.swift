internal import MWPKI

/// The documented layout: two self-signed identities, each other's certificate in the truststores, documented aliases and
/// passwords. No authority, so no revocation list: taking a certificate out of a truststore is how it is revoked.
///
///     server.keystore      wsTestKey                                server.pem server.key server.trust.pem
///     server.truststore    publicWsTestKey (server), wsTestKeyClt
///     client.keystore      wsTestKeyClt                             client.pem client.key client.trust.pem
///     client.truststore    wsTestKeyClt, wsTestKey (server)
package enum ExchangeLayout {
    package static let serverAlias = "wsTestKey"
    package static let publicServerAlias = "publicWsTestKey"
    package static let clientAlias = "wsTestKeyClt"
    /// The passwords are documented, so they protect nothing; the files' mode does.
    package static let passwords = [
        "server.keystore": "WS-Server-Keystore-16", "server.truststore": "WS-Server-Truststore-16",
        "client.keystore": "WS-Client-Keystore-16", "client.truststore": "WS-Client-Truststore-16",
    ]

    package static func files(options: ProvisioningOptions) throws -> [ProvisionedFile] {
        try options.validate()
        let server = try identity(options, names: options.serverNames)
        let client = try identity(options, names: [])
        return try files("server", server, serverAlias, trusting: [(publicServerAlias, server), (clientAlias, client)])
            + files("client", client, clientAlias, trusting: [(clientAlias, client), (serverAlias, server)])
    }

    /// As keytool makes it when every question is answered by Enter: one name for all, no key usage; names where there are any.
    private static func identity(_ options: ProvisioningOptions, names: [String]) throws -> Identity {
        var builder = CertificateBuilder(subject: NameAttribute.unknown, days: options.days, from: options.now)
        builder.basicConstraints = nil
        builder.keyUsage = nil
        builder.alternativeNames = names.map(AlternativeName.init(serverName:))
        return try builder.identity(key: PrivateKey.generate(options.keyAlgorithm))
    }

    private static func files(
        _ name: String, _ identity: Identity, _ alias: String, trusting peers: [(alias: String, identity: Identity)]
    ) throws -> [ProvisionedFile] {
        let keystore = try Keystore(entries: [Keystore.Entry(alias: alias, identity: identity)])
        let truststore = try Keystore(entries: peers.map { Keystore.Entry(alias: $0.alias, trusted: $0.identity.leaf) })
        let until = "until \(identity.leaf.notAfter)"
        return [
            try store("\(name).keystore", keystore, "\(name)'s key and certificate as PKCS#12, alias \(alias)"),
            try store("\(name).truststore", truststore, "whom the \(name) trusts: \(peers.map(\.alias).joined(separator: ", "))"),
            ProvisionedFile("\(name).pem", text: identity.leaf.pem, "\(name)'s certificate, \(until), \(identity.leaf.sha256)"),
            ProvisionedFile("\(name).key", try identity.key.pem(), isPrivate: true, "\(name)'s key"),
            ProvisionedFile("\(name).trust.pem", text: peers.map(\.identity.leaf.pem).joined(), "whom the \(name) trusts, as PEM"),
        ]
    }

    private static func store(_ name: String, _ store: Keystore, _ summary: String) throws -> ProvisionedFile {
        let bytes = try store.pkcs12(passphrase: Passphrase(passwords[name] ?? ""), iterations: AuthorityLayout.iterations)
        return ProvisionedFile(name, SecretBytes(bytes), isPrivate: true, summary)
    }
}
