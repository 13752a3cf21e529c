import Foundation
import Logging
import MWClient
import MWPKI
import TestCertificates
import Testing

/// Administration with the command against a server process with an access policy: alice administers, bob only reads and writes.
@Suite("Administration on the command line")
struct AdministrationCommandTests {
    private static let policy = """
        version: 1
        principals:
          - name: operator
            match: [{cn: alice}]
            allow: [{rights: [read, write, watch, administer], keys: all}]
          - name: bob
            match: [{cn: bob}]
            allow:
              - {rights: [read, write], prefixes: ["world/"]}
              - {rights: [read], keys: all}

        """

    private struct Setup {
        let server: ServerProcess
        let bob: Certificate

        /// - Parameter policy: Whether there is one.
        init(policy: Bool = true) async throws {
            let directory = try TemporaryDirectory()
            let authority = try TestAuthority()
            let pair = try authority.materialPair()
            _ = try pair.server.writePEM(to: directory, prefix: "server")
            _ = try pair.client.writePEM(to: directory, prefix: "client")
            let bob = try authority.issueClient(name: "bob")
            _ = try TLSMaterial(identity: bob, trustStore: pair.client.trustStore).writePEM(to: directory, prefix: "bob")
            try directory.write("policy.yaml", AdministrationCommandTests.policy, mode: 0o600)
            self.bob = bob.leaf
            server = try await ServerProcess(policy ? ["--policy", directory.file("policy.yaml")] : [], directory: directory)
        }

        var bobsConnection: [String] {
            ["--endpoint", server.endpoint] + TestStore.identity(server.directory, "bob")
                + ["--trust", server.directory.file("client.trust.pem"), "--timeout", "60s"]
        }

        func asBob(_ arguments: [String]) async throws -> CommandProcess.Ended {
            try await CommandProcess.run(arguments + bobsConnection)
        }

        /// Bob's client, in this process.
        var bobsConfiguration: StorageClientConfiguration {
            get throws {
                var configuration = StorageClientConfiguration(
                    endpoints: [try Endpoint(server.endpoint)],
                    identity: .pem(
                        certificateChainFile: server.directory.file("bob.chain.pem"), privateKeyFile: server.directory.file("bob.key.pem"),
                        trustFile: server.directory.file("client.trust.pem")))
                configuration.subprotocol = .mwdb
                return configuration
            }
        }

        func object(_ arguments: [String]) async throws -> [String: Any] {
            let ended = try await server.run(arguments + ["-o", "json"])
            #expect(ended.status == 0, "\(arguments): \(ended.errors)")
            return try #require(try JSONSerialization.jsonObject(with: Data(ended.output)) as? [String: Any])
        }
    }

    @Test("who may not administer has whoami, and exit code 77 for everything else; the denials can be looked up")
    func denied() async throws {
        let setup = try await Setup()
        let whoami = try await setup.asBob(["whoami"])
        #expect(whoami.status == 0 && whoami.errors.isEmpty, "\(whoami.errors)")
        #expect(whoami.text.contains("principal:     bob\n") && whoami.text.contains("administrator: no\n"))
        #expect(whoami.text.contains("write 'world/…'") && whoami.text.contains("read everything"))
        #expect(whoami.text.contains(setup.bob.sha256.description) && whoami.text.contains("days left)"))

        let sha256 = setup.bob.sha256.description
        for command in [
            ["status"], ["sessions"], ["rejections"], ["reload"], ["ca", "status"], ["revoke", "--list"],
            ["revoke", "--yes", "--sha256", sha256], ["revoke", "--dry-run", "--sha256", sha256], ["revoke", "--undo", "--sha256", sha256],
        ] {
            let ended = try await setup.asBob(command)
            #expect(ended.status == 77 && ended.output.isEmpty, "\(command): \(ended.errors)")
            #expect(ended.errors.contains("permissionDenied") && ended.errors.contains("to mend it: "), "\(ended.errors)")
        }
        let json = try await setup.asBob(["status", "--json"])
        #expect(json.status == 77 && json.errors.contains(#""code":"client.forbidden","exit":77}"#), "\(json.errors)")

        let rejections = try await setup.server.run(["rejections"])
        #expect(
            rejections.status == 0 && rejections.text.contains("request refused: administer"), "\(rejections.text) \(rejections.errors)")
    }

    @Test("an administrator sees the status, the sessions and the authorities, as text and as JSON")
    func seen() async throws {
        let setup = try await Setup()
        try await withStorageClient(setup.bobsConfiguration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) { bob in
            _ = try await bob.get([Array("k".utf8)])
            let text = try await setup.server.run(["status"])
            #expect(text.status == 0 && text.errors.isEmpty, "\(text.errors)")
            for name in [
                "server:", "certificate:", "trust anchor:", "connections:", "loaded:", "storage:", "commit queue:", "limit:", "tls:",
            ] {
                #expect(text.text.contains("\(name) "), "\(name)")
            }
            #expect(text.text.contains("OpenSSL 3") && text.text.contains("rocksdb"))
            let status = try await setup.object(["status"])
            let connections = try #require(status["connections"] as? [String: Any])
            #expect(connections["open"] as? Int == 2)
            #expect((status["certificate"] as? [String: Any])?["days_left"] is Int)
            #expect(try await setup.server.run(["status", "--json"]).text.hasPrefix(#"{"server":{"version":""#))

            let sessions = try await setup.server.run(["sessions", "-o", "ndjson"]).text.split(separator: "\n")
            #expect(sessions.count == 2 && sessions.contains { $0.contains(#""principal":"bob""#) && $0.contains(#""requests":1,"#) })
            #expect(try await setup.server.run(["sessions"]).text.hasPrefix("CONNECTION  PRINCIPAL  ADDRESS "))

            let authorities = try await setup.server.run(["ca", "status", "-o", "ndjson"]).text
            #expect(authorities.contains(#""trusted":true,"connections":2,"#), "\(authorities)")
        }
        let whoami = try await setup.object(["whoami"])
        #expect(whoami["principal"] as? String == "operator" && whoami["administrator"] as? Bool == true)
    }

    @Test("a reload is done, or exit code 78 says why not, and the old set serves on")
    func reload() async throws {
        let setup = try await Setup()
        let done = try await setup.server.run(["reload"])
        #expect(done.status == 0 && done.text.contains("generation:"), "\(done.errors)")

        let trust = try String(contentsOfFile: setup.server.directory.file("server.trust.pem"), encoding: .utf8)
        try setup.server.directory.write("server.trust.pem", "nothing", mode: 0o644)
        let failed = try await setup.server.run(["reload"])
        #expect(failed.status == 78 && failed.output.isEmpty, "\(failed.errors)")
        #expect(failed.errors.contains("reloadFailed") && failed.errors.contains("server.trust.pem"), "\(failed.errors)")
        let status = try await setup.server.run(["status"])
        #expect(status.status == 0 && status.text.contains("reload failed: "), "\(status.text)")
        #expect(status.text.contains("changed on disk: ") && status.text.contains("not loadable: "), "\(status.text)")

        // The right to administer goes with the policy that gave it.
        try setup.server.directory.write("server.trust.pem", trust, mode: 0o644)
        let withdrawn = Self.policy.replacingOccurrences(of: "watch, administer]", with: "watch]")
        try setup.server.directory.write("policy.yaml", withdrawn, mode: 0o600)
        // Done, or the server has seen the files before we asked.
        #expect([0, 77].contains(try await setup.server.run(["reload"]).status))
        #expect(try await setup.server.run(["status"]).status == 77)
        #expect(try await setup.server.run(["whoami"]).text.contains("administrator: no\n"))
    }

    @Test("a revocation must be confirmed, cuts who is connected, outlives a restart, and can be taken back")
    func revoke() async throws {
        let setup = try await Setup()
        let sha256 = setup.bob.sha256.description
        let unconfirmed = try await setup.server.run(["revoke", "--sha256", sha256])
        #expect(unconfirmed.status == 64 && unconfirmed.errors.contains("--yes"))
        try await withStorageClient(setup.bobsConfiguration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) { bob in
            _ = try await bob.get([Array("k".utf8)])
            let events = bob.events
            let trial = try await setup.server.run(["revoke", "--sha256", sha256, "--dry-run"])
            #expect(trial.status == 0 && trial.errors == "would close 1 connections\n", "\(trial.errors)")
            let revoked = try await setup.server.run(["revoke", "--sha256", sha256, "--yes"])
            #expect(revoked.status == 0 && revoked.errors == "refused; 1 connections were closed\n", "\(revoked.errors)")
            var end: ClientError?
            for await event in events {
                if case .disconnected(let error) = event {
                    end = error
                    break
                }
            }
            #expect(end?.code == .forbidden, "\(String(describing: end))")
        }
        #expect(try await setup.asBob(["whoami"]).status == 80)
        #expect(try await setup.server.run(["revoke", "--list"]).text.contains("\(sha256)  "))
        #expect(await setup.server.terminate() == 0)

        let again = try await ServerProcess(["--policy", setup.server.directory.file("policy.yaml")], directory: setup.server.directory)
        let list = try await again.run(["revoke", "--list", "-o", "ndjson"])
        #expect(list.text.contains(#""by":"operator""#), "\(list.text)")
        let undone = try await again.run(["revoke", "--sha256", sha256, "--undo"])
        #expect(undone.status == 0 && undone.errors == "not refused any more\n")
        let nothing = try await again.run(["revoke", "--sha256", sha256, "--undo"])
        #expect(nothing.status == 0 && nothing.errors.hasPrefix("nothing to do"))
        #expect(try await again.run(["revoke", "--list", "-o", "json"]).text == "[]\n")
    }

    @Test("arguments that make no sense are usage errors")
    func usage() async throws {
        for arguments in [
            ["revoke"], ["revoke", "--serial", "0a"], ["revoke", "--sha256", "zz"], ["revoke", "--identity", "a", "--sha256", "b"],
            ["revoke", "--list", "--identity", "a"], ["revoke", "--identity", "a", "--undo", "--dry-run"], ["rejections", "--limit", "0"],
        ] {
            #expect(try await CommandProcess.run(arguments).status == 64, "\(arguments)")
        }
    }

    @Test("a server that is not there is exit code 69; one that does not speak the native protocol, 76")
    func noServer() async throws {
        let directory = try TestStore.make()
        let arguments = ["whoami"] + TestStore.identity(directory) + ["--trust", directory.file("client.trust.pem"), "--timeout", "60s"]
        #expect(try await CommandProcess.run(arguments + ["--endpoint", "wss://127.0.0.1:1"]).status == 69)
    }
}
