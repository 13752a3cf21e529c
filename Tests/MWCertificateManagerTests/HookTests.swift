import FakeCA
import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

@Suite struct HookTests {
    /// A program that notes its arguments in a file, then does `more`.
    private static func program(_ temporary: TemporaryDirectory, _ more: String = "") throws -> HookProgram {
        HookProgram(
            path: try temporary.write("hook", "#!/bin/sh\necho \"$@\" >> '\(temporary.file("calls"))'\n\(more)\n", mode: 0o700))
    }

    private static func calls(_ temporary: TemporaryDirectory) throws -> [String] {
        String(decoding: try PrivateFile.read(temporary.file("calls"), permissions: .any).bytes, as: UTF8.self)
            .split(separator: "\n").map(String.init)
    }

    /// dns-01 by a program; the fake CA believes whatever it is told.
    private static func bench(_ hook: HookProgram, _ names: [String]) throws -> (ManagerBench, ACMEOperations, IssuancePlan) {
        let bench = try ManagerBench {
            $0.challengeTypes = ["dns-01"]
            $0.validatesAnything = true
        }
        var driver = bench.driver
        driver.presenter = ChallengePresenters([.dns01: DNSHookPresenter(program: hook)])
        return (bench, ACMEOperations(driver: driver), bench.plan(names))
    }

    @Test("case 12 dns01_hook_wildcard_multisan: a name and its wildcard have two records at once, and none afterwards")
    func wildcard() async throws {
        let temporary = try TemporaryDirectory()
        let (bench, operations, plan) = try Self.bench(try Self.program(temporary), ["*.x.test", "x.test", "y.test"])
        _ = try await operations.obtain(bench.configuration([plan]), .ifDue)
        let calls = try Self.calls(temporary).map { $0.split(separator: " ").map(String.init) }
        #expect(calls.map { $0[0] } == Array(repeating: "present", count: 3) + Array(repeating: "cleanup", count: 3))
        #expect(calls.count { $0[0] == "present" && $0[1] == "_acme-challenge.x.test." } == 2)
        #expect(Set(calls.map { $0[2] }).count == 3 && calls.allSatisfy { $0[2].utf8.count == 43 })
        #expect(Set(calls.prefix(3).map { $0[1...] }) == Set(calls.suffix(3).map { $0[1...] }))
    }

    @Test("case 12 dns01_hook: a program that fails ends the attempt, says why, and is told to clean up")
    func failing() async throws {
        let temporary = try TemporaryDirectory()
        let hook = try Self.program(temporary, "[ $1 = cleanup ] || { echo 'no such zone' >&2; exit 3; }")
        let (bench, operations, plan) = try Self.bench(hook, ["x.test"])
        do throws(ACMEError) {
            _ = try await operations.obtain(bench.configuration([plan]), .ifDue)
            Issue.record("issued")
        } catch {
            #expect(error.code == .challengeNotPresented)
            #expect(error.description.contains("status 3") && error.description.contains("no such zone"))
        }
        #expect(try Self.calls(temporary).map { $0.prefix(7) } == ["present", "cleanup"])
        #expect(bench.transfer.with { $0.count(.challenge) } == 0)
        #expect(try bench.status().lastError?.contains("no such zone") == true)
    }

    @Test("case 12 dns01_hook: a program that hangs is killed with what it started, and told to clean up")
    func hanging() async throws {
        var temporary = try TemporaryDirectory()
        var (calls, child) = ([String](), [UInt8]())
        // On a busy machine the program may not have got far when it is killed: then it has twice the time.
        var timeout = Duration.milliseconds(400)
        while calls.count < 2 || child.isEmpty, timeout < .seconds(60) {
            temporary = try TemporaryDirectory()
            var hook = try Self.program(
                temporary, "[ $1 = cleanup ] || { sleep 1000 & echo $! > '\(temporary.file("child"))'; wait; }")
            hook.timeout = timeout
            let (bench, operations, plan) = try Self.bench(hook, ["x.test"])
            do throws(ACMEError) {
                _ = try await operations.obtain(bench.configuration([plan]), .ifDue)
                Issue.record("issued")
            } catch {
                #expect(error.description.contains("took longer"))
            }
            calls = (try? Self.calls(temporary)) ?? []
            child = (try? PrivateFile.read(temporary.file("child"), permissions: .any).bytes) ?? []
            timeout *= 2
        }
        #expect(calls.map { $0.prefix(7) } == ["present", "cleanup"])
        let identifier = try #require(pid_t(String(decoding: child, as: UTF8.self).filter(\.isNumber)))
        // Dead, or dead and not yet reaped by whoever adopted it.
        let stat = (try? PrivateFile.read("/proc/\(identifier)/stat", permissions: .any).bytes).map { String(decoding: $0, as: UTF8.self) }
        #expect(stat == nil || stat?.contains(") Z ") == true || stat?.contains(") X ") == true)
    }

    @Test("a program inherits no variable of ours, has an empty input, and its words are bounded and fit to print")
    func surroundings() async throws {
        let temporary = try TemporaryDirectory()
        unsafe setenv("MWSTORAGE_TEST_HOOK_SECRET", "hidden", 1)
        let hook = try Self.program(
            temporary, "cat; env | grep MWSTORAGE_; printf 'a\\033[1mb'; head -c 100000 /dev/zero | tr '\\0' x; exit 1")
        do throws(PresentingError) {
            try await hook.run(["present", "n", "v"])
            Issue.record("it succeeded")
        } catch {
            #expect(!error.description.contains("hidden") && !error.description.contains("\u{1B}"))
            #expect(error.description.utf8.count < 2000 && error.description.hasSuffix("xxx"))
        }
    }

    @Test("a program that cannot be started, or is killed, says so")
    func missing() async throws {
        await #expect(throws: PresentingError.self) { try await HookProgram(path: "/nonexistent/program").run(["present"]) }
        let temporary = try TemporaryDirectory()
        let hook = try Self.program(temporary, "kill -9 $$")
        do throws(PresentingError) {
            try await hook.run(["present"])
            Issue.record("it succeeded")
        } catch {
            #expect(error.description.contains("signal 9"))
        }
    }

    @Test("the program after an issuance is told of the generation, and its failure is only a warning")
    func afterIssue() async throws {
        let temporary = try TemporaryDirectory()
        let bench = try ManagerBench()
        var configuration = bench.configuration([bench.plan(["a.test", "b.test"])])
        configuration.afterIssue = try Self.program(temporary, "exit 1")
        try await bench.run(for: hour, configuration)
        let end = try #require(try bench.current()).generation.leaf.notAfter
        #expect(try Self.calls(temporary) == ["issued 1 \(end) a.test b.test"])
        #expect(bench.logs.count("error the program that runs after an issuance failed") == 1)
    }

    @Test("an operation that is cancelled while it presents removes what was presented, and keeps the order")
    func cancelled() async throws {
        let temporary = try TemporaryDirectory()
        let (bench, operations, plan) = try Self.bench(
            try Self.program(temporary, "[ $1 = cleanup ] || { touch '\(temporary.file("there"))'; sleep 1000; }"), ["x.test"])
        let task = Task { try await operations.obtain(bench.configuration([plan]), .ifDue) }
        while unsafe access(temporary.file("there"), F_OK) != 0 { await Task.yield() }
        task.cancel()
        let result = await task.result
        #expect(throws: ACMEError(.cancelled, subject: "", "")) { try result.get() }
        #expect(try Self.calls(temporary).map { $0.prefix(7) } == ["present", "cleanup"])
        #expect(try bench.status().orders.count == 1)
    }
}
