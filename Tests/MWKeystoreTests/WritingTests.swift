import MWPKI
import TestCertificates
import Testing

@testable import MWKeystore

/// What we write is read by us, by Java and by openssl, as the same.
struct WritingTests {
    @Test("PKCS#12 of our own is read back", arguments: BundledStore.readable)
    func roundTrip(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        let bytes = try store.pkcs12(passphrase: Passphrase("new"), iterations: 1000)
        let read = try Keystore(bytes: bytes, source: "ours", passphrase: Passphrase("new"))
        #expect(contents(read) == contents(store))
        #expect(read.warnings.isEmpty)
    }

    @Test("the same input gives the same bytes")
    func deterministic() throws {
        let store = try BundledStore.several.open()
        let first = try store.pkcs12(passphrase: Passphrase("x"), iterations: 1) { [UInt8](repeating: 1, count: $0) }
        let second = try store.pkcs12(passphrase: Passphrase("x"), iterations: 1) { [UInt8](repeating: 1, count: $0) }
        #expect(first == second)
        #expect(try store.pkcs12(passphrase: Passphrase("x"), iterations: 1) != first)
    }

    @Test("an empty passphrase and one outside ASCII work", arguments: ["", "pässwörd-€-𝄞"])
    func passphrases(_ passphrase: String) throws {
        let store = try BundledStore.several.open()
        for bytes in [
            try store.pkcs12(passphrase: Passphrase(passphrase), iterations: 1), try store.jks(passphrase: Passphrase(passphrase)),
        ] {
            #expect(try contents(Keystore(bytes: bytes, source: "ours", passphrase: Passphrase(passphrase))) == contents(store))
        }
    }

    @Test(
        "keytool reads our PKCS#12 keystores, truststores, and both in one", .needsKeytool,
        arguments: [
            BundledStore.several, .chainPKCS12, BundledStore.layout("pkcs12-ec")[1], BundledStore.layout("jks-rsa")[0],
        ])
    func keytoolReadsPKCS12(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        try expectKeytoolReads(store, store.pkcs12(passphrase: Passphrase("changeit")), "PKCS12")
    }

    @Test("keytool reads our JKS", .needsKeytool, arguments: [BundledStore.several])
    func keytoolReadsJKS(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        try expectKeytoolReads(store, store.jks(passphrase: Passphrase("changeit")), "JKS")
    }

    private func expectKeytoolReads(_ store: Keystore, _ bytes: [UInt8], _ type: String) throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("store", bytes)
        let keytool = try #require(JavaTool.keytool)
        let list = try JavaTool.run(keytool, ["-list", "-keystore", file, "-storetype", type, "-storepass", "changeit"])
        #expect(list.status == 0, "\(list.output)")
        let lines = list.output.split(separator: "\n")
        for entry in store.entries {
            let kind = entry.isPrivateKey ? "PrivateKeyEntry" : "trustedCertEntry"
            #expect(lines.contains { $0.hasPrefix(entry.alias.lowercased() + ",") && $0.contains(kind) }, "\(entry.alias): \(list.output)")
        }
        // The keys, too: keytool decrypts each to write it under another passphrase.
        let copy = directory.file("copy")
        let conversion = try JavaTool.run(
            keytool,
            [
                "-importkeystore", "-noprompt", "-srckeystore", file, "-srcstoretype", type, "-srcstorepass", "changeit", "-destkeystore",
                copy, "-deststoretype", "PKCS12", "-deststorepass", "changeit2",
            ])
        #expect(conversion.status == 0, "\(conversion.output)")
        let read = try Keystore(bytes: PrivateFile.read(copy, permissions: .any).bytes, source: "copy", passphrase: Passphrase("changeit2"))
        #expect(contents(read) == contents(store))
    }

    @Test("openssl reads our PKCS#12", .needsOpenSSL, arguments: [BundledStore.several, BundledStore.layout("pkcs12-ec")[1]])
    func opensslReads(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        let directory = try TemporaryDirectory()
        let file = try directory.write("store", store.pkcs12(passphrase: Passphrase("changeit")))
        let result = try JavaTool.run(try #require(JavaTool.openssl), ["pkcs12", "-in", file, "-passin", "pass:changeit", "-noenc"])
        #expect(result.status == 0, "\(result.output)")
        let read = try Keystore(bytes: Array(result.output.utf8), source: "openssl's output", passphrase: nil)
        #expect(contents(read) == contents(store))
    }
}

/// PEM bundles, and the conversion to them.
struct PEMBundleTests {
    @Test("our conversion has the blocks of openssl's", arguments: ["rsa", "ec", "ec-san"], ["server", "client"])
    func equalsOpenSSL(_ keys: String, _ who: String) throws {
        let stores = BundledStore.layout("pkcs12-\(keys)")
        let keystore = try #require(stores.first { $0.path.hasSuffix("\(who).keystore") }).open()
        let truststore = try #require(stores.first { $0.path.hasSuffix("\(who).truststore") }).open()
        func blocks(_ bytes: [UInt8]) throws -> [String] {
            try PEM.blocks(bytes, source: "PEM").map { "\($0.label) \($0.der)" }
        }
        func bundled(_ name: String) throws -> [UInt8] {
            try PrivateFile.read(BundledStore.folder + "pem-\(keys)/\(who).\(name)", permissions: .any).bytes
        }
        #expect(try blocks(keystore.pem().bytes) == blocks(bundled("key")) + blocks(bundled("crt")))
        #expect(try blocks(truststore.pem().bytes).sorted() == blocks(bundled("trust.pem")).sorted())
    }

    @Test("openssl's own conversion of a truststore keeps its aliases", arguments: ["rsa", "ec"])
    func aliases(_ keys: String) throws {
        let bytes = try PrivateFile.read(BundledStore.folder + "pem-\(keys)/server.trust.pem", permissions: .any).bytes
        let store = try Keystore(bytes: bytes, source: "PEM", passphrase: nil)
        #expect(try store.trustStore().anchors.map(\.alias).sorted { $0 ?? "" < $1 ?? "" } == ["publicWsTestKey", "wsTestKeyClt"])
    }

    @Test(
        "a bundle is read back, keys and trusted certificates", arguments: [BundledStore.several, .chainPKCS12, .legacy, .unicodeJKS],
        [nil, "x"])
    func roundTrip(_ bundled: BundledStore, _ passphrase: String?) throws {
        let store = try bundled.open()
        let bytes = try store.pem(passphrase: passphrase.map { Passphrase($0) }).bytes
        #expect(String(decoding: bytes, as: UTF8.self).contains("ENCRYPTED") == (passphrase != nil))
        let read = try Keystore(bytes: bytes, source: "ours", passphrase: passphrase.map { Passphrase($0) })
        #expect(read.format == .pem)
        #expect(contents(read) == contents(store))
        if passphrase != nil {
            #expect(throws: KeystoreError(.passphraseMissing, "")) { try Keystore(bytes: bytes, source: "ours", passphrase: nil) }
            #expect(throws: KeystoreError(.keyPassphraseRejected, "")) {
                try Keystore(bytes: bytes, source: "ours", passphrase: Passphrase("y"))
            }
        }
    }

    @Test("the key bytes of JKS are those of the PKCS#12 it was made from", arguments: ["rsa", "ec"], [0, 2])
    func keyBytes(_ keys: String, _ index: Int) throws {
        let jks = try BundledStore.layout("jks-\(keys)")[index].open().identity()
        let pkcs12 = try BundledStore.layout("pkcs12-\(keys)")[index].open().identity()
        #expect(try jks.key.pkcs8().isEqual(to: pkcs12.key.pkcs8()))
    }

    @Test("an alias cannot begin a block")
    func injection() throws {
        let certificate = try BundledStore.openssl.open().entries[0].certificates[0]
        let alias = "a\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
        let store = try Keystore(entries: [Keystore.Entry(alias: alias, trusted: certificate)])
        #expect(try PEM.blocks(store.pem().bytes, source: "x").map(\.der) == [certificate.derBytes])
    }

    @Test("a key without its certificate, and a key of another certificate, are refused")
    func pairs() throws {
        func pem(_ path: String) throws -> [UInt8] { try PrivateFile.read(BundledStore.folder + path, permissions: .any).bytes }
        let key = try pem("pem-ec/server.key")
        let pairs = [key, try key + pem("pem-ec/client.crt"), try key + pem("pem-rsa/server.crt")]
        for bytes in pairs {
            #expect(throws: KeystoreError(.certificateMissing, "")) { try Keystore(bytes: bytes, source: "x", passphrase: nil) }
        }
        #expect(try Keystore(bytes: key + pem("pem-ec/server.crt"), source: "x", passphrase: nil).identity().leaf.commonName == "Unknown")
    }

    @Test("damage in a PEM bundle never yields a wrong key", arguments: [0, 1, 2, 3])
    func damage(_ quarter: Int) throws {
        let folder = BundledStore.folder + "pem-ec/"
        let bytes = try ["server.key", "server.crt"].flatMap { try PrivateFile.read(folder + $0, permissions: .any).bytes }
        let right = try Keystore(bytes: bytes, source: "x", passphrase: nil).identity()
        for offset in bytes.indices where offset % 4 == quarter {
            for mask in [UInt8(0x01), 0x06] {
                var damaged = bytes
                damaged[offset] ^= mask
                do {
                    let identity = try Keystore(bytes: damaged, source: "x", passphrase: nil).identity()
                    // Line ends may change without harm; a certificate whose issuer is changed is nobody's to check, but useless.
                    // Loading has checked that the private half is the public half's.
                    #expect(identity.key.publicKeyPin == right.key.publicKeyPin, "offset \(offset)")
                } catch is KeystoreError {
                } catch is PKIError {
                }
            }
        }
    }
}
