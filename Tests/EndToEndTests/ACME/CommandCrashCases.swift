import ACMEPeers
import Foundation
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

/// The command is killed, its disk is full or damaged, or there are two of it; the CA is pebble, which counts.
@Suite("ACME commands that die")
struct CommandCrashCases {
    // Method: the command says what it does before each step. It is killed with SIGKILL after its line N, for every N until it gets
    // through; each time with a new state and name, and then started again, which has to finish. pebble counts the orders.
    @Test("case 34 crash_matrix: killed at every step, the restart finishes, with one extra order at most")
    func killedAtEveryStep() async throws {
        let pebble = try await Pebble.start()
        var step = 0
        var wasKilled = true
        var (kills, resumed) = (0, 0)
        while wasKilled, step < 60 {
            step += 1
            let bench = try CommandBench(pebble, ["step-\(step).kill.test"])
            let (orders, accounts, certificates) = (pebble.orderCount, pebble.accountCount, pebble.certificateCount)
            let refusals = pebble.refusalCount
            wasKilled = try await bench.runUntilKilled("issue", afterLines: step)
            kills += wasKilled ? 1 : 0
            let saved = try bench.state.orders().first
            let ordersBefore = pebble.orderCount
            let again = try await bench.run("issue")
            #expect(again.status == 0, "step \(step): \(again.errors)")
            let generation = try #require(try bench.generation(), "step \(step)")
            #expect(pebble.orderCount - orders <= 2, "step \(step)")
            #expect(pebble.accountCount - accounts == 1, "step \(step)")
            if let saved, saved.orderURL != nil {
                resumed += 1
                // Where nobody answered the CA because we were dead, its order is dead too.
                let isDead = pebble.refusalCount > refusals
                #expect(pebble.orderCount - ordersBefore <= (isDead ? 1 : 0), "step \(step): the saved order is resumed")
            }
            #expect(pebble.certificateCount - certificates == 1, "step \(step): no certificate is issued in vain")
            if let saved { #expect(generation.key.publicKeyPin == saved.key.publicKeyPin, "step \(step): with the saved key") }
            // One that is left over is known by its key, and never resumed.
            #expect(try bench.state.orders().allSatisfy { $0.key.publicKeyPin == generation.key.publicKeyPin })
        }
        #expect(!wasKilled, "it gets through in the end")
        // The directory, nonce, account, order, authorization, challenge, polls, finalize, download and the saving between them.
        #expect(kills >= 12)
        #expect(resumed >= 4)
    }

    // Method: the newest of two generations is damaged at places all over it; the command says what it has, and whether it orders.
    @Test("case 36 torn_store: the newest file cut, zeroed or garbled, the one before it is used, and nothing is ordered in a loop")
    func torn() async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["torn.kill.test"])
        #expect(try await bench.run("issue").status == 0)
        let first = try #require(try bench.generation()).leaf
        #expect(try await bench.run("issue", ["--force"]).status == 0)
        let names = try FileManager.default.contentsOfDirectory(atPath: bench.statePath).filter { $0.hasPrefix("certificate-") }.sorted()
        let newest = try #require(names.last)
        let whole = try Data(contentsOf: URL(fileURLWithPath: bench.statePath + "/" + newest))
        for (offset, kind) in zip(stride(from: 0, to: whole.count, by: whole.count / 11), (0...).lazy.map { $0 % 3 }) {
            var damaged = whole
            switch kind {
            case 0: damaged = whole.prefix(offset)
            case 1: damaged.replaceSubrange(offset..., with: Data(count: whole.count - offset))
            default: damaged[offset] ^= 0x41
            }
            try bench.home.write("state/" + newest, Array(damaged))
            let status = try await bench.run("status", ["-o", "json"])
            #expect(status.status == 0, "\(status.errors)")
            #expect(try bench.generation()?.leaf == first, "damage at \(offset)")
        }
        let orders = pebble.orderCount
        for _ in 0..<3 { #expect(try await bench.run("issue").status == 0) }
        #expect(pebble.orderCount == orders, "the one before it is good: nothing is due")
    }

    // Method: files may not grow beyond 4 KiB (as a full disk, EFBIG); then the state directory is on a read-only mount, in a mount
    // namespace of its own. pebble's log shows what was asked.
    @Test(
        "case 35 disk_full_readonly: found before anything is asked of the CA, and the old certificate stays",
        arguments: ["full", "read-only"])
    func disk(_ kind: String) async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["disk.kill.test"])
        #expect(try await bench.run("issue").status == 0)
        let before = try #require(try bench.generation()).leaf
        let log = pebble.log
        let script =
            kind == "full"
            ? "trap '' XFSZ; ulimit -f 4; exec \"$@\""
            : "mount --bind \"$STATE\" \"$STATE\" && mount -o remount,bind,ro \"$STATE\" && exec \"$@\""
        let namespaces = kind == "full" ? [] : ["/usr/bin/unshare", "--mount"] + (geteuid() == 0 ? [] : ["--user", "--map-root-user"])
        let failed = try await bench.run(
            "issue", ["--force"], program: namespaces + ["/bin/bash", "-c", script, "bash"], environment: ["STATE": bench.statePath])
        #expect(failed.status != 0)
        #expect(failed.errors.contains(kind == "full" ? "file too large" : "read-only file system"), "\(failed.errors)")
        // When to renew may have been asked, which is a GET.
        let asked = pebble.log.dropFirst(log.count)
        #expect(!asked.contains("POST") && !asked.contains("HEAD"), "\(asked)")
        #expect(try bench.generation()?.leaf == before)
        #expect(try await bench.run("issue", ["--force"]).status == 0)
    }

    @Test("case 37 two_processes: three at once make one order")
    func twoProcesses() async throws {
        let pebble = try await Pebble.start()
        let bench = try CommandBench(pebble, ["two.kill.test"])
        let ends = try await withThrowingTaskGroup(of: CommandProcess.Ended.self) { group in
            for _ in 0..<3 { group.addTask { try await bench.run("issue", ["-o", "json"]) } }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(ends.allSatisfy { $0.status == 0 }, "\(ends.map(\.errors))")
        #expect(ends.count { $0.text.contains("\"issued\"") } == 1, "\(ends.map(\.text))")
        #expect(pebble.orderCount == 1)
    }

    // Method: the first waits for a DNS hook that goes on only when it may, and so holds the lock while the second starts; then the first is
    // killed, and with it nothing but its lock.
    @Test(
        "case 37 two_processes: while one holds the lock the other waits; after SIGKILL of it, that finishes the same order",
        .timeLimit(.minutes(10)))
    func killedHolder() async throws {
        let pebble = try await Pebble.start()
        var bench = try CommandBench(pebble, ["holder.kill.test"], challenge: "dns-01")
        let hold = try bench.home.write("hold", "")
        let hook = try bench.home.write(
            "hook",
            """
            #!/bin/sh
            [ "$1" = present ] || exit 0
            : >>"$(dirname "$0")/begun"
            while [ -e "$(dirname "$0")/hold" ]; do sleep 0.05; done
            curl -sf -d "{\\"host\\":\\"$2\\",\\"value\\":\\"$3\\"}" \(pebble.dns.managementURL)/set-txt
            """, mode: 0o700)
        bench.listener = ["--dns-hook", hook]
        let (first, manager) = (bench, FileManager.default)
        let (ends, end) = AsyncThrowingStream<CommandProcess.Ended, any Error>.makeStream()
        let wasKilled = try await first.runUntilKilled("issue", afterLines: 1) {
            defer { try? manager.removeItem(atPath: hold) }
            while !manager.fileExists(atPath: first.home.file("begun")) { try await Task.sleep(for: .milliseconds(5)) }
            Task {
                do { end.yield(try await first.run("issue", ["-o", "json"])) } catch { end.finish(throwing: error) }
                end.finish()
            }
            while try Self.processes(with: first.statePath) < 2 { try await Task.sleep(for: .milliseconds(5)) }
            #expect(try StateLock.take(in: first.state) == nil, "the first one has it")
            #expect(try first.generation() == nil)
        }
        #expect(wasKilled)
        var ended: CommandProcess.Ended?
        for try await end in ends { ended = end }
        let second = try #require(ended)
        #expect(second.status == 0, "\(second.errors)")
        #expect(second.text.contains("\"issued\""), "\(second.text)")
        #expect(try bench.generation()?.leaf.dnsNames == bench.names)
        #expect(pebble.orderCount == 1 && pebble.accountCount == 1)
    }

    /// How many there are of our command that have this among their words.
    private static func processes(with word: String) throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: "/proc").count { name in
            guard Int(name) != nil, let words = FileManager.default.contents(atPath: "/proc/\(name)/cmdline") else { return false }
            let text = String(decoding: words, as: UTF8.self)
            return text.hasPrefix(CommandProcess.path + "\0") && text.contains("\0\(word)\0")
        }
    }

    // Method: everything the command writes with the most talkative log, in text and JSON, is searched for the secrets in the state,
    // in every form in which they are kept. The modes are looked at under a umask that gives all and one that gives nothing.
    @Test(
        "case 43 perms_and_secrets: modes whatever the umask; no key, signature or MAC key in anything it says", arguments: ["000", "077"])
    func secrets(_ mask: String) async throws {
        let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        let pebble = try await Pebble.start { $0.externalAccountKeys = ["kid-1": mac] }
        let bench = try CommandBench(pebble, ["secrets.kill.test"])
        let macFile = try bench.home.write("mac", mac)
        let program = ["/bin/sh", "-c", "umask \(mask); exec \"$@\"", "sh"]
        let loud = ["MWSTORAGE_LOG_LEVEL": "trace"]
        let binding = ["--eab-kid", "kid-1", "--eab-key-file", macFile]
        var said = ""
        for (verb, more) in [
            ("register", binding), ("issue", binding), ("issue", binding + ["--force", "-o", "json"]), ("rollover", binding),
            ("status", ["-o", "json"]),
            ("revoke", binding + ["--yes"]),
        ] {
            let ended = try await bench.run(verb, more, program: program, environment: loud)
            #expect(ended.status == 0 || verb == "status", "\(verb): \(ended.errors)")
            said += ended.text + ended.errors
        }
        // A failure too.
        let failed = try await bench.run(
            "issue", ["--force", "--name", "nowhere.secrets.kill.test"] + binding, program: program, environment: loud)
        said += failed.text + failed.errors
        #expect(said.contains("secrets.kill.test"))
        var secrets = [mac]
        for key in try keys(bench) {
            secrets += try key.pem().bytes.split(separator: UInt8(ascii: "\n")).dropFirst().dropLast().map {
                String(decoding: $0, as: UTF8.self)
            }
        }
        #expect(secrets.count > 8)
        for secret in secrets { #expect(!said.contains(secret)) }
        for mark in ["PRIVATE KEY", "\"signature\"", "\"protected\"", "eyJ"] { #expect(!said.contains(mark), "\(mark)") }

        let manager = FileManager.default
        func mode(_ path: String) throws -> Int { (try manager.attributesOfItem(atPath: path)[.posixPermissions] as? Int) ?? 0 }
        #expect(try mode(bench.statePath) == 0o700)
        for name in try manager.contentsOfDirectory(atPath: bench.statePath) {
            #expect(try mode(bench.statePath + "/" + name) == 0o600, "\(name)")
        }
    }

    private func keys(_ bench: CommandBench) throws -> [PrivateKey] {
        let contents = try bench.state.load()
        return try [contents.current, contents.previous].compactMap { $0?.generation.key } + bench.state.accounts().map(\.key)
    }
}
