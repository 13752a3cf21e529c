import MWKeystore
import MWPKI
import Testing

/// What keytool wrote is read, and means what keytool meant.
struct ReadingTests {
    @Test("every bundled store opens with its password", arguments: BundledStore.readable)
    func opens(_ store: BundledStore) throws {
        #expect(try store.open().entries.isEmpty == false)
    }

    @Test(
        "the documented layout has the documented aliases, in any case",
        arguments: ["pkcs12-rsa", "pkcs12-ec", "pkcs12-ec-san", "jks-rsa", "jks-ec"])
    func documentedAliases(_ folder: String) throws {
        let stores = try BundledStore.layout(folder).map { try $0.open() }
        let aliases = stores.map { $0.entries.map { $0.alias.lowercased() }.sorted() }
        #expect(aliases == [["wstestkey"], ["publicwstestkey", "wstestkeyclt"], ["wstestkeyclt"], ["wstestkey", "wstestkeyclt"]])
        let server = try stores[0].identity(alias: "wsTestKey")
        let client = try stores[2].identity(alias: "WSTESTKEYCLT")
        let trust = try stores[1].trustStore()
        #expect(trust.alias(of: client.leaf)?.lowercased() == "wstestkeyclt")
        #expect(trust.alias(of: server.leaf)?.lowercased() == "publicwstestkey")
        #expect(try stores[3].trustStore().alias(of: server.leaf)?.lowercased() == "wstestkey")
    }

    @Test("the SAN variant is valid for localhost", arguments: ["server.keystore"])
    func alternativeNames(_ name: String) throws {
        let store = try #require(BundledStore.layout("pkcs12-ec-san").first { $0.path.hasSuffix(name) })
        let leaf = try store.open().identity().leaf
        #expect(leaf.dnsNames == ["localhost"])
        #expect(leaf.ipAddresses == ["127.0.0.1", "::1"])
    }

    @Test("several private keys: each is found by its alias, and none without", arguments: [BundledStore.several])
    func severalKeys(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        #expect(throws: KeystoreError(.aliasAmbiguous, "")) { try store.identity() }
        #expect(try store.identity(alias: "wsTestKey").leaf == BundledStore.layout("pkcs12-ec")[0].open().identity().leaf)
        #expect(try store.identity(alias: "wsTestKeyClt").leaf == BundledStore.layout("pkcs12-rsa")[2].open().identity().leaf)
        #expect(throws: KeystoreError(.aliasUnknown, "")) { try store.identity(alias: "nobody") }
        let trusted = try store.trustStore().anchors
        #expect(trusted.map(\.alias) == ["trusted"])
    }

    @Test("a chain is leaf first, and the root stays at home", arguments: [BundledStore.chainPKCS12, .chainJKS])
    func chains(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        #expect(store.entries.map { $0.certificates.map(\.commonName) } == [["Leaf", "Intermediate", "Root"]])
        #expect(try store.identity().chain.map(\.commonName) == ["Leaf", "Intermediate"])
    }

    @Test("an alias outside ASCII is read", arguments: [BundledStore.unicodePKCS12, .unicodeJKS])
    func unicode(_ bundled: BundledStore) throws {
        #expect(try bundled.open().entries.map(\.alias) == ["schlüssel"])
        #expect(try bundled.open().identity(alias: "SCHLÜSSEL").leaf.commonName == "Unknown")
    }

    @Test("RC2-40 and 3DES of old Java are read, with warnings")
    func legacy() throws {
        let store = try BundledStore.legacy.open()
        #expect(try store.identity().leaf == BundledStore.layout("pkcs12-ec")[0].open().identity().leaf)
        #expect(store.warnings.contains { $0.contains("RC2-40") })
        #expect(store.warnings.contains { $0.contains("3DES") })
        #expect(store.warnings.contains { $0.contains("SHA-1") })
    }

    @Test("a truststore made by openssl is one, though it lacks Java's mark")
    func opensslTruststore() throws {
        #expect(try BundledStore.openssl.open().trustStore().anchors.map(\.alias) == ["plain"])
    }

    @Test("JKS is read with a warning, current PKCS#12 without")
    func warnings() throws {
        #expect(try BundledStore.jks.allSatisfy { try $0.open().warnings.contains { $0.contains("JKS") } })
        #expect(try BundledStore.pkcs12.allSatisfy { try $0.open().warnings.isEmpty })
    }

    @Test("a key with a passphrase of its own needs it")
    func ownKeyPassphrase() throws {
        var bundled = BundledStore.ownKeyPassphrase
        #expect(try bundled.open().identity().leaf == BundledStore.layout("pkcs12-ec")[0].open().identity().leaf)
        bundled.keyPassword = nil
        #expect(throws: KeystoreError(.keyPassphraseRejected, "")) { try bundled.open() }
        bundled.keyPassword = "store-passphrase"
        #expect(throws: KeystoreError(.keyPassphraseRejected, "")) { try bundled.open() }
    }

    @Test("a store without MAC is read only where that is allowed")
    func unauthenticated() throws {
        var bundled = BundledStore.macless
        let store = try bundled.open()
        #expect(try store.trustStore().anchors.count == 2)
        #expect(store.warnings.contains { $0.contains("integrity") })
        bundled.acceptsUnauthenticated = false
        #expect(throws: KeystoreError(.unauthenticated, "")) { try bundled.open() }
        #expect(try Keystore(bytes: bundled.bytes(), source: "x", passphrase: nil, acceptsUnauthenticated: true).entries.count == 2)
    }

    @Test("JCEKS is refused with its own message")
    func jceks() throws {
        let error = #expect(throws: KeystoreError(.formatUnsupported, "")) {
            try BundledStore(path: "fixtures/server.jceks", password: "WS-Server-Keystore-16").open()
        }
        #expect(error?.description.contains("JCEKS") == true)
        #expect(error?.description.contains("keytool -importkeystore") == true)
    }

    @Test(
        "DSA, short RSA and SHA-1 can be shown, but are no identity",
        arguments: BundledStore.weak + BundledStore.obsolete.filter { $0.path.hasSuffix("keystore") })
    func weak(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        #expect(store.entries.count == 1)
        let error = #expect(throws: PKIError.self) { try store.identity() }
        #expect(error?.remedy != nil)
        if bundled.path.contains("dsa") {
            #expect(error?.code == .keyUnsupported)
            #expect(error?.description.contains("-keyalg") == true)
        }
    }

    @Test("a keystore is no truststore, and the other way round")
    func kinds() throws {
        let stores = try BundledStore.layout("pkcs12-ec").map { try $0.open() }
        #expect(throws: KeystoreError(.trustAnchorMissing, "")) { try stores[0].trustStore() }
        #expect(throws: KeystoreError(.keyMissing, "")) { try stores[1].identity() }
    }

    @Test(
        "a wrong password is a wrong password", arguments: BundledStore.pkcs12 + BundledStore.jks + [.legacy],
        ["", "x", "WS-Server-Keystore-1", "ä"])
    func wrongPassword(_ bundled: BundledStore, _ password: String) throws {
        let wrong = BundledStore(path: bundled.path, password: password)
        #expect(throws: KeystoreError(.passphraseRejected, "")) { try wrong.open() }
    }

    @Test("no password is not an empty one", arguments: BundledStore.pkcs12 + BundledStore.jks)
    func missingPassword(_ bundled: BundledStore) throws {
        #expect(throws: KeystoreError(.passphraseMissing, "")) {
            try Keystore(bytes: bundled.bytes(), source: bundled.path, passphrase: nil)
        }
    }

    @Test("no error repeats the password")
    func secrecy() throws {
        let wrong = BundledStore(path: "pkcs12-ec/server.keystore", password: "hunter2-hunter2")
        let error = #expect(throws: KeystoreError.self) { try wrong.open() }
        #expect(error?.description.contains("hunter2") == false)
    }
}
