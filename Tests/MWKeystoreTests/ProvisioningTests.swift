import MWKeystore
import MWPKI
import TestCertificates
import Testing

/// What `mwstorage provision` writes.
struct ProvisioningTests {
    private func named(_ files: [ProvisionedFile], _ name: String) throws -> [UInt8] {
        try #require(files.first { $0.name == name }, "\(files.map(\.name))").contents.bytes
    }

    @Test("an authority, a server and clients trust each other", arguments: [KeyAlgorithm.ec(.p256), .rsa(bits: 2048)])
    func authority(_ algorithm: KeyAlgorithm) throws {
        let options = ProvisioningOptions(keyAlgorithm: algorithm, serverNames: ["store.example", "192.0.2.1"])
        let files = try AuthorityLayout.files(clients: ["alice"], options: options)
        let authority = try Certificate.list(pem: named(files, "ca.pem"), source: "ca.pem")[0]
        let list = try CertificateRevocationList.list(named(files, "ca.crl"), source: "ca.crl")
        let trust = try TrustStore.pem(named(files, "ca.pem"), revocationLists: list)
        #expect(trust.anchors.map(\.certificate) == [authority])
        for (name, usage) in [("server", "serverAuth"), ("alice", "clientAuth")] {
            let identity = try Identity.pem(chain: named(files, "\(name).pem"), key: named(files, "\(name).key"))
            #expect(identity.leaf.isSigned(by: authority))
            #expect(identity.leaf.keyAlgorithm == algorithm)
            #expect(identity.leaf.extendedKeyUsages == [usage])
            #expect(!identity.leaf.isCertificateAuthority)
            let passphrase = try Passphrase(String(decoding: named(files, "\(name).passphrase").dropLast(), as: UTF8.self))
            let keystore = try Keystore(bytes: named(files, "\(name).p12"), source: name, passphrase: passphrase)
            #expect(try keystore.identity(alias: name).leaf == identity.leaf)
            let truststore = try Keystore(bytes: named(files, "\(name).truststore.p12"), source: name, passphrase: passphrase)
            #expect(try truststore.trustStore().alias(of: authority) == "ca")
        }
        let server = try Certificate.list(pem: named(files, "server.pem"), source: "server.pem")[0]
        #expect(server.dnsNames == ["store.example"])
        #expect(server.ipAddresses == ["192.0.2.1"])
    }

    @Test("what is secret is private, and passphrases differ")
    func modes() throws {
        let files = try AuthorityLayout.files(clients: ["alice"], options: ProvisioningOptions())
        let open = files.filter { !$0.isPrivate }.map(\.name)
        #expect(open == ["ca.pem", "ca.crl", "server.pem", "alice.pem"])
        #expect(files.allSatisfy { $0.mode == ($0.isPrivate ? 0o600 : 0o644) })
        #expect(try named(files, "server.passphrase") != named(files, "alice.passphrase"))
    }

    @Test("a client is added later, and revoked; what was revoked stays so, with its date")
    func later() throws {
        let now = Timestamp.now()
        let files = try AuthorityLayout.files(clients: ["alice", "bob"], options: ProvisioningOptions(now: now))
        func layout(_ time: Timestamp) throws -> AuthorityLayout {
            try AuthorityLayout(
                certificate: named(files, "ca.pem"), key: named(files, "ca.key"), options: ProvisioningOptions(now: time))
        }
        func certificate(_ files: [ProvisionedFile], _ name: String) throws -> Certificate {
            try Certificate.list(pem: named(files, "\(name).pem"), source: name)[0]
        }
        let later = try layout(now.adding(seconds: 60))
        let added = try later.clientFiles("carol")
        let carol = try certificate(added, "carol")
        #expect(carol.isSigned(by: later.authority.leaf))

        let first = try CertificateRevocationList.list(named(files, "ca.crl"), source: "ca.crl")[0]
        #expect(first.revokedSerialNumbers.isEmpty)
        let bob = try certificate(files, "bob")
        let second = try CertificateRevocationList.list(
            later.revocationList(revoking: [bob], previous: first).contents.bytes, source: "ca.crl")[0]
        #expect(second.revokedSerialNumbers == [bob.serialNumber])
        // Again, and another one, an hour later.
        let third = try CertificateRevocationList.list(
            layout(now.adding(seconds: 3660)).revocationList(revoking: [bob, carol], previous: second).contents.bytes, source: "ca.crl")[0]
        #expect(third.revokedSerialNumbers == [bob.serialNumber, carol.serialNumber])
        let trust = try TrustStore(
            anchors: [TrustAnchor(certificate: later.authority.leaf)], revocationLists: [third], at: now.adding(seconds: 3660))
        #expect(trust.revocationLists == [third])
    }

    @Test("certificates and lists of another authority are not revoked or continued")
    func strangers() throws {
        let options = ProvisioningOptions()
        let ours = try AuthorityLayout.files(clients: [], options: options)
        let theirs = try AuthorityLayout.files(clients: ["mallory"], options: options)
        let layout = try AuthorityLayout(certificate: named(ours, "ca.pem"), key: named(ours, "ca.key"), options: options)
        let mallory = try Certificate.list(pem: named(theirs, "mallory.pem"), source: "mallory")[0]
        let list = try CertificateRevocationList.list(named(theirs, "ca.crl"), source: "ca.crl")[0]
        #expect(throws: KeystoreError(.invalidRequest, "")) { try layout.revocationList(revoking: [mallory]) }
        #expect(throws: KeystoreError(.invalidRequest, "")) { try layout.revocationList(revoking: [], previous: list) }
        #expect(throws: PKIError(.keyMismatch, subject: "", "")) {
            try AuthorityLayout(certificate: named(ours, "ca.pem"), key: named(theirs, "ca.key"), options: options)
        }
        #expect(throws: KeystoreError(.invalidRequest, "")) {
            try AuthorityLayout(certificate: named(theirs, "mallory.pem"), key: named(theirs, "mallory.key"), options: options)
        }
    }

    @Test(
        "names that are no file names, or taken, are refused",
        arguments: ["", ".", "..", "a/b", "-x", "a b", "ca", "Server", "x.truststore", "é", "a\n", String(repeating: "a", count: 65)])
    func badNames(_ name: String) {
        #expect(throws: KeystoreError(.invalidRequest, "")) { try AuthorityLayout.files(clients: [name], options: ProvisioningOptions()) }
    }

    @Test("two clients of one name are refused")
    func twins() {
        #expect(throws: KeystoreError(.invalidRequest, "")) {
            try AuthorityLayout.files(clients: ["a", "A"], options: ProvisioningOptions())
        }
    }

    @Test("days outside of 1 to 36500 are refused", arguments: [Int64.min, -1, 0, 36_501, .max])
    func badDays(_ days: Int64) {
        #expect(throws: KeystoreError(.invalidRequest, "")) { try ExchangeLayout.files(options: ProvisioningOptions(days: days)) }
    }

    @Test("the exchange layout has the documented files, aliases and passwords", arguments: [KeyAlgorithm.ec(.p256), .rsa(bits: 2048)])
    func exchange(_ algorithm: KeyAlgorithm) throws {
        let files = try ExchangeLayout.files(options: ProvisioningOptions(keyAlgorithm: algorithm))
        var stores: [Keystore] = []
        for (name, password) in BundledStore.documented {
            stores.append(try Keystore(bytes: named(files, name), source: name, passphrase: Passphrase(password)))
        }
        let server = try stores[0].identity(alias: "wsTestKey")
        let client = try stores[2].identity(alias: "wsTestKeyClt")
        #expect(try stores[1].trustStore().anchors.map(\.alias) == ["publicWsTestKey", "wsTestKeyClt"])
        #expect(try stores[1].trustStore().anchors.map(\.certificate) == [server.leaf, client.leaf])
        #expect(try stores[3].trustStore().anchors.map(\.alias) == ["wsTestKeyClt", "wsTestKey"])
        #expect(try stores[3].trustStore().anchors.map(\.certificate) == [client.leaf, server.leaf])
        #expect(server.leaf.subject == client.leaf.subject)
        #expect(server.leaf.dnsNames == ["localhost"])
        #expect(!client.leaf.hasSubjectAlternativeName)
        #expect(try Identity.pem(chain: named(files, "client.pem"), key: named(files, "client.key")).leaf == client.leaf)
        #expect(
            files.filter(\.isPrivate).map(\.name) == [
                "server.keystore", "server.truststore", "server.key", "client.keystore", "client.truststore", "client.key",
            ])
    }

    @Test("keytool reads the exchange layout", .needsKeytool)
    func keytool() throws {
        let directory = try TemporaryDirectory()
        let files = try ExchangeLayout.files(options: ProvisioningOptions())
        for (name, password) in BundledStore.documented {
            let path = try directory.write(name, named(files, name))
            let result = try JavaTool.run(try #require(JavaTool.keytool), ["-list", "-keystore", path, "-storepass", password])
            #expect(result.status == 0, "\(result.output)")
            let kind = name.hasSuffix("keystore") ? "PrivateKeyEntry" : "trustedCertEntry"
            #expect(result.output.split(separator: "\n").count { $0.contains(kind) } == (kind == "PrivateKeyEntry" ? 1 : 2))
        }
    }
}
