import ACMEPeers
import FakeCA
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

/// Cases by the command itself: its processes, its files, its own responders; against pebble and caddy.
@Suite("ACME by the command")
struct CommandCases {
    @Test("case 1 account_create_and_reuse: ten starts of the command make one account and one certificate")
    func oneAccount() async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["one.command.test"])
        for _ in 0..<10 {
            let ended = try await bench.run("issue")
            #expect(ended.status == 0, "\(ended.errors)")
        }
        #expect(pebble.accountCount == 1)
        #expect(pebble.orderCount == 1)
    }

    // Method: pebble comes over the network to the responder; afterwards nobody listens there.
    @Test(
        "case 10 http01: pebble finds the answer at our responder, which is gone afterwards",
        arguments: [["http.command.test"], ["a.http.command.test", "b.http.command.test"]])
    func http(_ names: [String]) async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, names)
        let ended = try await bench.run("issue")
        #expect(ended.status == 0, "\(ended.errors)")
        let generation = try #require(try bench.generation())
        #expect(Set(generation.leaf.dnsNames) == Set(names))
        #expect(generation.leaf.isSigned(by: try await pebble.intermediate()))
        #expect(!Loopback.accepts(pebble.httpPort, at: bench.address))
    }

    // Method: caddy looks on port 80 or 443 of a network that has nobody but it and the command.
    @Test("case 10 http01, case 11 tls_alpn01: caddy issues and renews, by either challenge", arguments: ["http-01", "tls-alpn-01"])
    func caddy(_ challenge: String) async throws {
        let caddy = try await Caddy.start()
        let bench = try CommandBench(caddy, challenge: challenge)
        let issued = try await bench.run("issue")
        #expect(issued.status == 0, "\(issued.errors)\n\(caddy.log.suffix(1500))")
        let first = try #require(try bench.generation())
        #expect(first.leaf.dnsNames == ["localhost"])
        let again = try await bench.run("renew")
        #expect(again.status == 0)
        #expect(try bench.generation()?.leaf == first.leaf, "it is not time yet")
        let renewed = try await bench.run("renew", ["--force"])
        #expect(renewed.status == 0, "\(renewed.errors)")
        let second = try #require(try bench.generation())
        #expect(second.leaf != first.leaf)
        #expect(second.key.publicKeyPin != first.key.publicKeyPin, "a new key for every certificate")
    }

    // Method: a name of more than 64 characters fits no common name; the certificate has none.
    @Test("case 11 tls_alpn01: pebble finds the answer on the TLS listener, also for a very long name")
    func alpn() async throws {
        let pebble = try await Pebble.shared()
        let long = String(repeating: "a", count: 60) + "." + String(repeating: "b", count: 60) + ".alpn.command.test"
        let bench = try CommandBench(pebble, ["alpn.command.test", long], challenge: "tls-alpn-01")
        let ended = try await bench.run("issue")
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(Set(try #require(try bench.generation()).leaf.dnsNames) == ["alpn.command.test", long])
    }

    // Method: the hook is a script that changes the CA's own DNS, adds records and removes one value only; and one that fails.
    @Test("case 12 dns01_hook_wildcard_multisan: a name and its wildcard at once; a hook that fails ends it, cleaned up")
    func dnsHook() async throws {
        let pebble = try await Pebble.shared()
        var bench = try CommandBench(pebble, ["hook.command.test", "*.hook.command.test", "other.hook.command.test"], challenge: "dns-01")
        let hook = try bench.home.write(
            "hook",
            """
            #!/bin/sh
            echo "$1 $2 $3" >>"$(dirname "$0")/calls"
            case $1 in
            present) curl -sf -d "{\\"host\\":\\"$2\\",\\"value\\":\\"$3\\"}" \(pebble.dns.managementURL)/set-txt ;;
            cleanup) exit 0 ;;
            esac
            """, mode: 0o700)
        bench.listener = ["--dns-hook", hook]
        let ended = try await bench.run("issue")
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(Set(try #require(try bench.generation()).leaf.dnsNames) == Set(bench.names))
        let calls = try String(contentsOfFile: bench.home.file("calls"), encoding: .utf8).split(separator: "\n")
        let presented = calls.filter { $0.hasPrefix("present ") }.map { $0.dropFirst(8) }
        #expect(presented.count == 3)
        #expect(presented.count { $0.hasPrefix("_acme-challenge.hook.command.test. ") } == 2)
        #expect(Set(calls.filter { $0.hasPrefix("cleanup ") }.map { $0.dropFirst(8) }) == Set(presented))

        try bench.home.write(
            "hook", "#!/bin/sh\necho \"$1 $2\" >>\"$(dirname \"$0\")/failed\"\necho 'no such zone' >&2\nexit 3\n", mode: 0o700)
        let before = pebble.log.count
        let failed = try await bench.run("issue", ["--force"])
        #expect(failed.status != 0)
        #expect(failed.errors.contains("no such zone"), "\(failed.errors)")
        let record = try String(contentsOfFile: bench.home.file("failed"), encoding: .utf8)
        #expect(record.contains("cleanup _acme-challenge"), "\(record)")
        #expect(!pebble.log.dropFirst(before).contains("hook.command.test set VALID"))
    }

    // Method: the address is the test's own of 127.0.0.0/8, or ::1 where pebble is alone with its port.
    @Test(
        "case 13 ip_identifier v4/v6: a certificate for an address, by http-01 and by tls-alpn-01 with its reverse name",
        arguments: ["http-01", "tls-alpn-01"], [false, true])
    func addresses(_ challenge: String, _ isVersion6: Bool) async throws {
        let pebble = try await isVersion6 ? Pebble.start() : Pebble.shared()
        let address = isVersion6 ? "::1" : Loopback.uniqueAddress()
        let bench = try CommandBench(pebble, [address], challenge: challenge, address: address)
        let ended = try await bench.run("issue")
        #expect(ended.status == 0, "\(ended.errors)")
        let leaf = try #require(try bench.generation()).leaf
        #expect(leaf.ipAddresses == [address])
        #expect(leaf.dnsNames.isEmpty)
    }

    // Method: one of two names is where nobody answers. What is told is on standard error and in the status.
    @Test("case 16 challenge_fails: the command names the bad name and the CA's reason, and the old certificate stays")
    func challengeFails() async throws {
        let pebble = try await Pebble.shared()
        var bench = try CommandBench(pebble, ["good.fails.command.test"])
        #expect(try await bench.run("issue").status == 0)
        let before = try #require(try bench.generation())
        bench.names.append("bad.fails.command.test")
        try pebble.dns.setAddresses([Loopback.uniqueAddress()], of: "bad.fails.command.test")
        let failed = try await bench.run("issue")
        #expect(failed.status != 0)
        #expect(failed.errors.contains("bad.fails.command.test"), "\(failed.errors)")
        #expect(failed.errors.contains("connection"), "the CA's problem type: \(failed.errors)")
        #expect(try bench.generation()?.leaf == before.leaf)
        #expect(try bench.generation()?.key.publicKeyPin == before.key.publicKeyPin)
        #expect(!Loopback.accepts(pebble.httpPort, at: bench.address))
        let status = try await bench.run("status", ["-o", "json"])
        #expect(status.text.contains("bad.fails.command.test"), "\(status.text)")
    }

    @Test("case 25 revoke_account_key, revoke_cert_key, reasons: by the command; twice is success")
    func revoke() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["revoke.command.test"])
        for (options, reason) in [(["--reason", "superseded"], 4), (["--by-key", "--reason", "keyCompromise"], 1)] {
            #expect(try await bench.run("issue", ["--force"]).status == 0)
            let leaf = try #require(try bench.generation()).leaf
            for _ in 0..<2 {
                let ended = try await bench.run("revoke", ["--yes"] + options)
                #expect(ended.status == 0, "\(ended.errors)")
            }
            let status = try await pebble.status(of: leaf)
            #expect(status.status == "Revoked")
            #expect(status.reason == reason)
        }
    }

    @Test("case 5 key_rollover, case 6 account_deactivate: by the command")
    func accountCommands() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["account.command.test"])
        #expect(try await bench.run("register", ["--contact", "admin@example.test"]).status == 0)
        let old = try #require(try bench.state.account(at: bench.directoryURL).record)
        #expect(try await bench.run("rollover", ["--account-key-type", "ec-p384"]).status == 0)
        let new = try #require(try bench.state.account(at: bench.directoryURL).record)
        #expect(new.key.algorithm == .ec(.p384))
        #expect(new.url == old.url)
        #expect(try await bench.run("issue").status == 0)
        #expect(try await bench.run("deactivate", ["--yes"]).status == 0)
        let refused = try await bench.run("issue", ["--force"])
        #expect(refused.status != 0)
        #expect(refused.errors.contains("unauthorized"), "\(refused.errors)")
    }

    // Method: the first CA is a port where nobody is; then one that is rate limited is in its place.
    @Test("case 41 fallback_ca: the first CA is down, the second issues, with an account of its own")
    func fallback() async throws {
        let pebble = try await Pebble.shared()
        let bench = try CommandBench(pebble, ["fallback.command.test"])
        let gone = "https://localhost:\(Loopback.freePort())/dir"
        let words = bench.arguments("issue")
        let ended = try await CommandProcess.run(["acme", words[0], "--directory", gone] + words.dropFirst(), home: bench.home)
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(try bench.generation()?.directoryURL == pebble.directoryURL)
        #expect(Set(try bench.state.accounts().filter { $0.url != nil }.map(\.directoryURL)) == [pebble.directoryURL])
    }

    // Method: the first CA answers by HTTPS what a test tells it; it knows the name already, so that it looks at no challenge.
    @Test("case 41 fallback_ca: rate limited by the first CA, the second issues; the next time it is the first again")
    func fallbackAtRateLimit() async throws {
        let (first, second) = (try FakeHTTPSCA(), try await Pebble.shared())
        first.with { ca in
            ca.authorizationsAreValid = true
            ca.intercept = { route, count, _ in
                route == .newOrder && count == 0 ? FakeCA.problemResponse(429, "rateLimited", "enough") : nil
            }
        }
        let bench = try CommandBench(second, ["limited.command.test"])
        let (words, authority) = (bench.arguments("issue"), ["--directory", first.directoryURL, "--ca-file", first.trustFile])
        for (directory, orders) in [(second.directoryURL, 0), (first.directoryURL, 1)] {
            let ended = try await CommandProcess.run(["acme", words[0]] + authority + words.dropFirst() + ["--force"], home: bench.home)
            #expect(ended.status == 0, "\(ended.errors)")
            #expect(try bench.generation()?.directoryURL == directory)
            #expect(first.with { $0.orders.count } == orders)
        }
        #expect(try bench.state.load().current?.number == 2)
        #expect(Set(try bench.state.accounts().map { "\($0.key.publicKeyPin)" }).count == 2)
    }

    // Method: two pebbles, each with roots, accounts and a DNS of its own, and one state directory.
    @Test("case 42 config_change: another CA orders again, with an account of its own, and going back uses the first one's account")
    func changeOfCA() async throws {
        let (old, new) = (try await Pebble.start(), try await Pebble.start())
        let first = try CommandBench(old, ["moved.command.test"])
        let second = try CommandBench(new, ["moved.command.test"], home: first.home)
        for (bench, pebble, orders) in [(first, old, 1), (second, new, 1), (second, new, 1), (first, old, 2)] {
            let ended = try await bench.run("issue")
            #expect(ended.status == 0, "\(ended.errors)")
            let generation = try #require(try bench.generation())
            #expect(generation.directoryURL == pebble.directoryURL)
            #expect(generation.leaf.isSigned(by: try await pebble.intermediate()))
            #expect(pebble.orderCount == orders && pebble.accountCount == 1)
        }
    }

    @Test("case 42 config_change: a name more, a name less or another kind of key order again; another order of names does not")
    func configChange() async throws {
        let pebble = try await Pebble.shared()
        var bench = try CommandBench(pebble, ["a.change.command.test", "b.change.command.test"])
        try pebble.dns.setAddresses([bench.address], of: "c.change.command.test")
        func issue(_ more: [String] = []) async throws -> Certificate {
            let ended = try await bench.run("issue", more)
            #expect(ended.status == 0, "\(ended.errors)")
            return try #require(try bench.generation()).leaf
        }
        let first = try await issue()
        bench.names.reverse()
        #expect(try await issue() == first)
        bench.names.append("c.change.command.test")
        let second = try await issue()
        #expect(Set(second.dnsNames) == Set(bench.names))
        bench.names.removeFirst()
        let third = try await issue()
        #expect(Set(third.dnsNames) == Set(bench.names))
        let fourth = try await issue(["--key-type", "ec-p384"])
        #expect(fourth.keyAlgorithm == .ec(.p384))
        #expect(try await issue(["--key-type", "ec-p384"]) == fourth)
    }
}
