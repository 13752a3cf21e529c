import ACMEPeers
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import TestHTTPS
import Testing

/// `mwstorage acme register`, `rollover`, `deactivate` and `revoke`, as processes against pebble.
@Suite("acme commands: accounts and revocation")
struct ACMEAccountCommandTests {
    @Test("register makes an account, then finds it, and --contact changes whom the CA writes to")
    func register() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["register.test"])
        let first = try await bench.acme(["register"] + bench.authority + ["--contact", "admin@example.test", "-o", "json"])
        #expect(first.status == 0, "\(first.errors)")
        let account = try #require(try first.document["account"]?.string)
        #expect(try first.document["contacts"]?.strings == ["mailto:admin@example.test"])
        let second = try await bench.acme(["register"] + bench.authority + ["-o", "json"])
        #expect(try second.document["account"]?.string == account)
        let changed = try await bench.acme(["register"] + bench.authority + ["--contact", "other@example.test", "-o", "json"])
        #expect(try changed.document["account"]?.string == account)
        #expect(try changed.document["contacts"]?.strings == ["mailto:other@example.test"])
        let found = try await bench.acme(["register", "--only-existing"] + bench.authority)
        #expect(found.status == 0)
        #expect(found.text.contains(account))
    }

    @Test("register --only-existing makes none: the CA's accountDoesNotExist is told, exit code 77")
    func onlyExisting() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["only-existing.test"])
        let ended = try await bench.acme(["register", "--only-existing", "-o", "json"] + bench.authority)
        #expect(ended.status == 77, "\(ended.errors)")
        #expect(try ended.failure["problem"]?["type"]?.string == "urn:ietf:params:acme:error:accountDoesNotExist")
    }

    @Test("terms that were not agreed to are named, exit code 78, and no account is made")
    func terms() async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["terms.test"])
        let ended = try await bench.acme(["register"] + bench.authority.dropLast())
        #expect(ended.status == 78, "\(ended.errors)")
        #expect(ended.errors.contains("terms of service"))
        #expect(pebble.accountCount == 0)
    }

    static let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

    // Method: a pebble that wants bindings; all that any of the commands said is searched for the key.
    @Test("an external account is bound with a key from a private file; the key is never shown, a file others may read is refused")
    func externalAccount() async throws {
        let pebble = try await Pebble.start { $0.externalAccountKeys = ["kid-1": Self.mac] }
        let bench = try CommandBench(pebble, ["eab.test"])
        let missing = try await bench.acme(["register"] + bench.authority)
        #expect(missing.status == 78, "\(missing.errors)")
        #expect(missing.errors.contains("external account binding"))
        let open = try bench.home.write("open.key", Self.mac + "\n", mode: 0o644)
        let refused = try await bench.acme(["register"] + bench.authority + ["--eab-kid", "kid-1", "--eab-key-file", open])
        #expect(refused.status == 78, "\(refused.errors)")
        let wrong = try bench.home.write("wrong.key", "d3JvbmctLXdyb25nLS13cm9uZy0td3Jvbmc\n")
        let denied = try await bench.acme(["register", "-o", "json"] + bench.authority + ["--eab-kid", "kid-1", "--eab-key-file", wrong])
        #expect(denied.status != 0)
        #expect(try denied.failure["problem"]?["type"]?.string != nil)
        let file = try bench.home.write("eab.key", Self.mac + "\n")
        let bound = try await bench.acme(["register"] + bench.authority + ["--eab-kid", "kid-1", "--eab-key-file", file])
        #expect(bound.status == 0, "\(bound.errors)")
        for ended in [missing, refused, denied, bound] {
            #expect(!ended.text.contains(Self.mac) && !ended.errors.contains(Self.mac))
            #expect(!ended.errors.contains("d3Jvbmct"))
        }
    }

    // Method: the pin of the account's key in the state, before and after; then an order with the new one.
    @Test("rollover gives the account another key of the kind wanted, and orders go on")
    func rollover() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["rollover-command.test"])
        #expect(try await bench.acme(["register"] + bench.authority).status == 0)
        let before = try #require(try bench.state.account(at: pebble.directoryURL).record)
        let ended = try await bench.acme(["rollover", "--account-key-type", "ec-p384", "-o", "json"] + bench.authority)
        #expect(ended.status == 0, "\(ended.errors)")
        let after = try #require(try bench.state.account(at: pebble.directoryURL).record)
        #expect(after.url == before.url)
        #expect(after.key.algorithm == .ec(.p384))
        #expect(try ended.document["key_sha256"]?.string == after.key.publicKeyPin.hex)
        #expect(after.key.publicKeyPin != before.key.publicKeyPin)
        #expect(try await bench.issue().status == 0)
    }

    @Test("deactivate must be confirmed; afterwards the CA refuses orders and that is what is told")
    func deactivate() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["deactivate.test"])
        #expect(try await bench.issue().status == 0)
        let asked = try await bench.acme(["deactivate"] + bench.authority)
        #expect(asked.status == 64)
        #expect(asked.errors.contains("--yes"))
        let ended = try await bench.acme(["deactivate", "--yes"] + bench.authority)
        #expect(ended.status == 0, "\(ended.errors)")
        let order = try await bench.issue(["--force", "-o", "json"])
        #expect(order.status == 77, "\(order.errors)")
        #expect(try order.failure["problem"]?["type"]?.string == "urn:ietf:params:acme:error:unauthorized")
        // What it says to do, done.
        let files = bench.state.accountFiles(at: pebble.directoryURL)
        #expect(!files.isEmpty && files.allSatisfy { ended.errors.contains($0) }, "\(ended.errors)")
        for file in files { try FileManager.default.removeItem(atPath: file) }
        #expect(try await bench.acme(["register"] + bench.authority).status == 0)
        #expect(try await bench.issue(["--force"]).status == 0)
    }

    // Method: the CA's own page says what it thinks of the certificate.
    @Test("revoke: by the account or by the certificate's key, with a reason; again is success; then it is due", arguments: [false, true])
    func revoke(byKey: Bool) async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, [byKey ? "revoke-key.test" : "revoke-account.test"])
        #expect(try await bench.issue().status == 0)
        let leaf = try #require(try bench.state.load().current?.generation.leaf)
        let command = ["revoke", "--state", bench.statePath, "--ca-file", pebble.trustFile] + (byKey ? ["--by-key"] : [])
        let asked = try await bench.acme(command)
        #expect(asked.status == 64)
        #expect(try await pebble.status(of: leaf).status == "Valid")
        let ended = try await bench.acme(command + ["--yes", "--reason", byKey ? "keyCompromise" : "superseded", "-o", "json"])
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(try ended.document["by"]?.string == (byKey ? "key" : "account"))
        let status = try await pebble.status(of: leaf)
        #expect(status.status == "Revoked")
        #expect(status.reason == (byKey ? 1 : 4))
        #expect(try await bench.acme(command + ["--yes"]).status == 0, "what was to be achieved is so")
        #expect(try await bench.status().exit == 1)
    }

    @Test("revoke of a file's certificate by a file's key needs no account; a key of another certificate is refused")
    func revokeFile() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["revoke-file.test"])
        #expect(try await bench.issue().status == 0)
        let generation = try #require(try bench.state.load().current?.generation)
        let certificate = try bench.home.write("leaf.pem", generation.leaf.pem)
        let key = try bench.home.write("leaf.key", generation.key.pem().bytes)
        let other = try bench.home.write("other.key", try PrivateKey.generate().pem().bytes)
        let empty = bench.home.file("empty")
        let command = [
            "revoke", "--yes", "--state", empty, "--directory", pebble.directoryURL, "--ca-file", pebble.trustFile,
            "--certificate", certificate, "--key",
        ]
        #expect(try await bench.acme(command + [other]).status == 65)
        let ended = try await bench.acme(command + [key])
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(try await pebble.status(of: generation.leaf).status == "Revoked")
        #expect(try StateDirectory(path: empty).accounts().allSatisfy { $0.url == nil })
    }

    // Method: a CA that never answers; the signal comes once the request has arrived there.
    @Test("a signal stops a command that waits for the CA: exit codes 130 and 143", arguments: [SIGINT, SIGTERM])
    func signals(_ signal: Int32) async throws {
        let authority = try TestAuthority()
        let arrived = AsyncStream<Void>.makeStream()
        let server = try TestHTTPSServer(identity: try authority.issueServer()) { exchange in
            arrived.continuation.yield()
            exchange.waitForEnd()
        }
        defer { server.stop() }
        let directory = try TemporaryDirectory()
        let trust = try directory.write("ca.pem", authority.root.pem)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: CommandProcess.path)
        process.arguments = [
            "acme", "register", "--state", directory.file("acme"), "--directory", server.url + "/dir", "--ca-file", trust,
        ]
        process.environment = CommandProcess.environment(home: directory)
        process.standardError = FileHandle.nullDevice
        let ended = AsyncStream<Int32>.makeStream()
        process.terminationHandler = { ended.continuation.yield($0.terminationStatus) }
        try process.run()
        var arrivals = arrived.stream.makeAsyncIterator()
        _ = await arrivals.next()
        kill(process.processIdentifier, signal)
        var ends = ended.stream.makeAsyncIterator()
        #expect(await ends.next() == (signal == SIGINT ? 130 : 143))
    }

    @Test("a proxy of the environment is used: where nobody is, the CA is not reached", arguments: ["https_proxy", "no_proxy"])
    func proxy(_ variable: String) async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["proxy.test"])
        // Of a port that nobody has now.
        var environment = ["https_proxy": "http://127.0.0.1:\(Loopback.freePort())"]
        if variable == "no_proxy" { environment["no_proxy"] = "localhost" }
        let ended = try await CommandProcess.run(
            ["acme", "register", "--only-existing"] + bench.authority, environment: environment)
        // 77: the CA was asked, and knows no such account.
        #expect(ended.status == (variable == "no_proxy" ? 77 : 69), "\(ended.errors)")
    }
}
