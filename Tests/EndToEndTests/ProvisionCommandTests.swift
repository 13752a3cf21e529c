import Foundation
import MWPKI
import TestCertificates
import Testing

/// `mwstorage provision`, `keystore` and `certificate`, as processes.
struct ProvisionCommandTests {
    @Test("an authority is made once: nothing is overwritten without --force, and private files are their owner's")
    func authority() async throws {
        let home = try TemporaryDirectory()
        let out = home.file("certificates")
        let first = try await CommandProcess.run(["provision", "--out", out, "--client", "alice", "-o", "json"])
        #expect(first.status == 0, "\(first.errors)")
        for name in try FileManager.default.contentsOfDirectory(atPath: out) {
            let mode = try FileManager.default.attributesOfItem(atPath: "\(out)/\(name)")[.posixPermissions] as? Int
            let isPublic = name.hasSuffix(".pem") || name.hasSuffix(".crl")
            #expect(mode == (isPublic ? 0o644 : 0o600), "\(name)")
        }
        let key = try Data(contentsOf: URL(fileURLWithPath: "\(out)/ca.key"))
        let second = try await CommandProcess.run(["provision", "--out", out, "--client", "alice"])
        #expect(second.status == 73)
        #expect(second.errors.contains("--force"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: "\(out)/ca.key")) == key)
    }

    @Test("a client is added and revoked later")
    func changes() async throws {
        let home = try TemporaryDirectory()
        let out = home.file("certificates")
        #expect(try await CommandProcess.run(["provision", "--out", out]).status == 0)
        #expect(try await CommandProcess.run(["provision", "--out", out, "--add-client", "bob"]).status == 0)
        #expect(try await CommandProcess.run(["provision", "--out", out, "--revoke", "bob"]).status == 0)
        let bob = try Certificate.list(pem: PrivateFile.read("\(out)/bob.pem", permissions: .any).bytes, source: "bob.pem")[0]
        let list = try CertificateRevocationList.list(PrivateFile.read("\(out)/ca.crl", permissions: .any).bytes, source: "ca.crl")[0]
        #expect(list.revokedSerialNumbers == [bob.serialNumber])
        #expect(try await CommandProcess.run(["provision", "--out", out, "--revoke", "nobody"]).status == 66)
        #expect(try await CommandProcess.run(["provision", "--out", out, "--revoke", "../x"]).status == 64)
    }

    @Test("a keystore is shown and converted; its passphrase comes from file or environment")
    func convert() async throws {
        let home = try TemporaryDirectory()
        let out = home.file("stores")
        #expect(try await CommandProcess.run(["provision", "--layout", "exchange", "--out", out]).status == 0)
        let store = "\(out)/server.keystore"
        let password = ["SECRET": "WS-Server-Keystore-16"]
        let shown = try await CommandProcess.run(["keystore", "inspect", store, "--passphrase-env", "SECRET"], environment: password)
        #expect(shown.status == 0, "\(shown.errors)")
        #expect(shown.text.contains("wsTestKey: private key, EC P-256"))
        #expect(shown.text.contains("usable: yes"))

        let wrong = try await CommandProcess.run(
            ["keystore", "inspect", store, "--passphrase-env", "SECRET", "-o", "json"], environment: ["SECRET": "hunter2"])
        #expect(wrong.status == 65)
        #expect(wrong.errors.contains("\"code\":\"keystore.passphraseRejected\""))
        #expect(!wrong.errors.contains("hunter2"))

        for format in ["pem", "pkcs12", "jks"] {
            let target = home.file("converted.\(format)")
            let arguments = ["keystore", "convert", store, "--passphrase-env", "SECRET", "--to", format, "--out", target]
            let converted = try await CommandProcess.run(arguments, environment: password)
            #expect(converted.status == 0, "\(converted.errors)")
            #expect(try FileManager.default.attributesOfItem(atPath: target)[.posixPermissions] as? Int == 0o600)
            #expect(try await CommandProcess.run(arguments, environment: password).status == 73)
            let again = try await CommandProcess.run(["keystore", "inspect", target, "--passphrase-env", "SECRET"], environment: password)
            #expect(again.text.contains("usable: yes"), "\(format): \(again.errors)")
        }
        let named = ["keystore", "convert", store, "--passphrase-env", "SECRET", "--to", "jks"]
        for (name, variables) in [("SECRET", password), ("OTHER", password.merging(["OTHER": "another-16-bytes"]) { $1 })] {
            let target = home.file("named-\(name).jks")
            let converted = try await CommandProcess.run(named + ["--out-passphrase-env", name, "--out", target], environment: variables)
            #expect(converted.status == 0, "\(name): \(converted.errors)")
            let again = try await CommandProcess.run(["keystore", "inspect", target, "--passphrase-env", name], environment: variables)
            #expect(again.text.contains("usable: yes"), "\(name): \(again.errors)")
        }
        let pem = try PrivateFile.read(home.file("converted.pem")).bytes
        let identity = try Identity.pem(chain: pem, key: pem)
        let certificate = try await CommandProcess.run(["certificate", "inspect", "\(out)/server.pem", "-o", "ndjson"])
        #expect(certificate.text.contains("\"sha256\":\"\(identity.leaf.sha256.hex)\""))
    }
}
