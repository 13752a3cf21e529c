import ACMEPeers
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

/// `mwstorage acme issue`, `renew` and `status`, as processes against pebble.
@Suite("acme commands: certificates")
struct ACMECertificateCommandTests {
    // Method: http-01 on the address that the CA's DNS gives the name; what is on disk is read back, and the CA's orders are counted.
    @Test("issue gets a certificate and says so; a second issue and a renew have nothing to do, and order nothing")
    func issueTwice() async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["issue-twice.test"])
        let first = try await bench.issue()
        #expect(first.status == 0, "\(first.errors)")
        #expect(first.text.contains("issued") && first.text.contains(bench.names[0]))
        for step in ["ordering: POST", "answer http-01 for \(bench.names[0])", "save the certificate"] {
            #expect(first.errors.contains(step), "\(first.errors)")
        }
        let generation = try #require(try bench.state.load().current?.generation)
        #expect(generation.leaf.dnsNames == [bench.names[0]])

        let second = try await bench.issue(["-o", "json"])
        #expect(second.status == 0)
        #expect(try second.document["outcome"]?.string == "nothing to do")
        #expect(try second.document["next_renewal"]?.string != nil)
        let renewal = try await bench.acme(["renew", "--quiet"] + bench.authority + bench.certificate)
        #expect(renewal.status == 0)
        #expect(renewal.text.contains("nothing to do"))
        #expect(renewal.errors.isEmpty, "quiet means no steps")
        #expect(pebble.certificateCount == 1)

        let (status, exit) = try await bench.status()
        #expect(exit == 0)
        #expect(status["status"]?.string == "good")
        #expect(status["due"]?.bool == false)
        #expect(status["certificate"]?["names"]?.strings == [bench.names[0]])
        #expect(status["certificate"]?["not_after"]?.string == "\(generation.leaf.notAfter)")
        #expect(status["certificate"]?["account"]?.string == generation.accountURL)
        #expect(status["reason"]?.string == "its share of the lifetime is over")
        #expect(status["accounts"]?.array?.count == 1)
        #expect(status["orders"]?.array?.isEmpty == true)
        let text = try await bench.acme(["status", "--state", bench.statePath])
        for label in ["certificate:", "names:", "ends:", "next renewal:", "CA:", "account:"] { #expect(text.text.contains(label)) }
    }

    @Test("renew --force takes names, CA and key kind from the certificate there is, and leaves another key")
    func renewForced() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["renew-forced.test"])
        #expect(try await bench.issue(["--key-type", "ec-p384"]).status == 0)
        let before = try #require(try bench.state.load().current)
        let renewed = try await bench.acme([
            "renew", "--force", "--state", bench.statePath, "--ca-file", pebble.trustFile, "--challenge", "http-01",
            "--http-listen", "\(bench.address):\(pebble.httpPort)", "-o", "json",
        ])
        #expect(renewed.status == 0, "\(renewed.errors)")
        #expect(try renewed.document["outcome"]?.string == "issued")
        let after = try #require(try bench.state.load().current)
        #expect(after.number == before.number + 1)
        #expect(after.generation.identifiers == before.generation.identifiers)
        #expect(after.generation.key.algorithm == .ec(.p384))
        #expect(after.generation.key.publicKeyPin != before.generation.key.publicKeyPin)
    }

    @Test("tls-alpn-01 is answered where no server runs, for as long as the CA needs")
    func tlsALPN() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["alpn.test"])
        let listen = "\(bench.address):\(pebble.tlsPort)"
        let issued = try await bench.acme(
            ["issue"] + bench.authority + ["--name", bench.names[0], "--challenge", "tls-alpn-01", "--tls-listen", listen])
        #expect(issued.status == 0, "\(issued.errors)")
        #expect(issued.errors.contains("answer tls-alpn-01 for \(bench.names[0])"))
        #expect(try bench.state.load().current?.generation.leaf.dnsNames == [bench.names[0]])
    }

    // Method: the hook tells the CA's DNS, by its own page, what the command gave it.
    @Test("dns-01 by a program: a name and its wildcard in one certificate")
    func dnsHook() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["wild.test"])
        let hook = try bench.home.write(
            "hook",
            """
            #!/bin/sh
            case "$1" in
            present) exec curl -sf -d "{\\"host\\":\\"$2\\",\\"value\\":\\"$3\\"}" \(pebble.dns.managementURL)/set-txt ;;
            cleanup) exec curl -sf -d "{\\"host\\":\\"$2\\"}" \(pebble.dns.managementURL)/clear-txt ;;
            esac
            """, mode: 0o700)
        let issued = try await bench.acme(
            ["issue"] + bench.authority + [
                "--name", bench.names[0], "--name", "*.\(bench.names[0])", "--challenge", "dns-01", "--dns-hook", hook,
            ])
        #expect(issued.status == 0, "\(issued.errors)")
        #expect(try Set(bench.state.load().current?.generation.leaf.dnsNames ?? []) == [bench.names[0], "*.\(bench.names[0])"])
    }

    @Test("no certificate: renew and status say no with exit code 1, and renew says what to do")
    func absent() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["absent.test"])
        let renewed = try await bench.acme(["renew"] + bench.authority + bench.certificate)
        #expect(renewed.status == 1)
        #expect(renewed.errors.contains("there is no certificate to renew") && renewed.errors.contains("mwstorage acme issue"))
        let (status, exit) = try await bench.status()
        #expect(exit == 1)
        #expect(status["status"]?.string == "absent")
        #expect(status["due"]?.bool == true)
        #expect(status["certificate"]?["names"] == nil)
    }

    @Test("another set of names is due, and issue orders it")
    func otherNames() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["names-a.test"])
        try pebble.dns.setAddresses([bench.address], of: "names-b.test")
        #expect(try await bench.issue().status == 0)
        let more = ["--name", bench.names[0], "--name", "names-b.test", "--directory", pebble.directoryURL]
        let (status, exit) = try await bench.status(more)
        #expect(exit == 1)
        #expect(status["reason"]?.string?.contains("+names-b.test") == true)
        #expect(try await bench.issue(["--name", "names-b.test"]).status == 0)
        #expect(try await bench.status(more).exit == 0)
    }

    // Method: the hook writes its arguments to a file.
    @Test("the program after an issue runs with the new certificate's names, and not in a dry run")
    func afterIssue() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["hook.test"])
        let file = bench.home.file("said")
        let hook = try bench.home.write("after", "#!/bin/sh\necho \"$@\" >> \(file)\n", mode: 0o700)
        let staging = ["--dry-run", "--staging-directory", pebble.directoryURL]
        #expect(try await bench.issue(staging + ["--after-issue", hook]).status == 0)
        #expect((try? String(contentsOfFile: file, encoding: .utf8)) == nil)
        #expect(try await bench.issue(["--after-issue", hook]).status == 0)
        let said = try String(contentsOfFile: file, encoding: .utf8)
        #expect(said.hasPrefix("issued 1 ") && said.hasSuffix(" \(bench.names[0])\n"))
    }

    @Test("a dry run does everything at the staging directory and changes nothing that is in use")
    func dryRun() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["dry-run.test"])
        #expect(try await bench.issue().status == 0)
        let unknown = try await bench.issue(["--dry-run"])
        #expect(unknown.status == 64)
        #expect(unknown.errors.contains("--staging-directory"))
        let before = bench.state.signature()
        let certificate = try #require(try bench.state.load().current)
        let staging = ["--dry-run", "--staging-directory", pebble.directoryURL, "-o", "json"]
        for command in ["issue", "renew"] {
            let ended = try await bench.acme([command] + bench.authority + bench.certificate + staging)
            #expect(ended.status == 0, "\(ended.errors)")
            #expect(try ended.document["dry_run"]?.bool == true)
            #expect(try ended.document["outcome"]?.string == "issued")
            #expect(try ended.document["state"]?.string == bench.statePath + "/staging")
        }
        #expect(bench.state.signature() == before)
        #expect(try bench.state.load().current?.number == certificate.number)
        #expect(try StateDirectory(path: bench.statePath + "/staging").load().current?.number == 2)
    }

    // Method: a name that the CA refuses to issue for.
    @Test("a refusal shows the CA's type, detail and each name, in text and in JSON, and is remembered in the status")
    func refused() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["refused.test"])
        let refused = ["issue"] + bench.authority + bench.certificate + ["--name", "blocked-domain.example"]
        let text = try await bench.acme(refused)
        #expect(text.status != 0)
        #expect(text.errors.contains("rejectedIdentifier"))
        #expect(text.errors.contains("blocked-domain.example"))
        #expect(text.errors.contains("to mend it:"))
        let json = try await bench.acme(refused + ["-o", "json"])
        #expect(json.status == text.status)
        let failure = try json.failure
        #expect(failure["problem"]?["type"]?.string == "urn:ietf:params:acme:error:rejectedIdentifier")
        #expect(failure["problem"]?["detail"]?.string?.isEmpty == false)
        #expect(failure["exit"]?.integer == Int(json.status))
        let (status, exit) = try await bench.status()
        #expect(exit == 1)
        #expect(status["attempts"]?.integer == 2)
        #expect(status["last_problem"]?["type"]?.string == "urn:ietf:params:acme:error:rejectedIdentifier")
        #expect(status["last_error"]?.string?.contains("blocked-domain.example") == true)
    }

    // Method: the answer is at another address than the one where the CA looks.
    @Test("a challenge that fails names the identifier and why, and is exit code 75")
    func challengeFails() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["unreachable.test"])
        let elsewhere = "\(Loopback.uniqueAddress()):\(pebble.httpPort)"
        let ended = try await bench.issue(["-o", "json", "--http-listen", elsewhere])
        #expect(ended.status == 75, "\(ended.errors)")
        let failure = try ended.failure
        #expect(failure["code"]?.string == "acme.challengeFailed")
        #expect(failure["why"]?.string?.contains("connection") == true)
        #expect(ended.errors.contains(bench.names[0]))
    }

    @Test("a CA whose own certificate is not trusted is refused: exit code 81, and what to do")
    func untrusted() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["untrusted.test"])
        let other = try bench.home.write("other.pem", try TestAuthority().root.pem)
        let ended = try await bench.acme(
            ["issue", "--state", bench.statePath, "--directory", pebble.directoryURL, "--ca-file", other, "--agree-to-terms"]
                + bench.certificate)
        #expect(ended.status == 81, "\(ended.errors)")
        #expect(ended.errors.contains("unable to get local issuer certificate"))
    }

    @Test(
        "what cannot work is refused before anything is sent: exit codes 64 and 78, with the setting's name",
        arguments: [
            (["--name", "bad name"], Int32(64), "serve.acme.name"), (["--challenge", "http-02"], 64, "serve.acme.challenge"),
            (["--key-type", "dsa"], 64, "serve.acme.key-type"), (["--name", "*.wild.example"], 78, "dns-01"),
            (["--after-issue", "relative"], 64, "serve.acme.after-issue"), (["--challenge", "dns-01"], 78, "dns-hook"),
            (["--ca-file", "/nonexistent"], 66, "/nonexistent"), (["--profile", "a", "--preferred-profile", "b"], 64, "--profile"),
            (["--eab-kid", "kid"], 78, "key files"), (["--contact", "nobody"], 64, "serve.acme.contact"),
        ])
    func usage(more: [String], status: Int32, mentions: String) async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["usage.test"])
        let ended = try await bench.issue(more)
        #expect(ended.status == status, "\(ended.errors)")
        #expect(ended.errors.contains(mentions), "\(ended.errors)")
        #expect(try bench.state.load().current == nil)
    }
}
