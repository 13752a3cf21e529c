import FakeCA
import Foundation
import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import Synchronization
import TestCertificates
import Testing

@Suite struct KillTests {
    /// More than an issuance has.
    static let steps = 1...26

    // Method: a process of its own kills itself before or after each of its steps; another one starts in the same directory.
    @Test(
        "case 34 crash_matrix: killed at any step, the restart finishes with at most one extra order", arguments: steps,
        ["before", "after"])
    func issuance(_ step: Int, _ when: String) async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.file("acme")
        let ca = try CA()
        let first = try await IssuerProcess.run(["obtain", "\(step)", when, "a.test", "b.test"], path, ca)
        let (orders, hadSavedOrder) = (ca.count, try StateDirectory(path: path).orders().first?.orderURL != nil)
        if !first.wasKilled { #expect(first.lines == ["finished 1"]) }
        // SIGKILL freed the lock.
        if unsafe access(path, F_OK) == 0 { try #require(try StateLock.take(in: StateDirectory(path: path))).release() }
        let second = try await IssuerProcess.run(["obtain", "0", when, "a.test", "b.test"], path, ca)
        #expect(second.lines == ["finished 1"])
        #expect(ca.count <= 2 && ca.count - orders <= 1)
        if hadSavedOrder { #expect(ca.count == orders, "the saved order is resumed") }
        #expect(ca.fake.withLock { $0.accounts.count } == 1)
        #expect(ca.fake.withLock { $0.complaints } == [])
        let directory = StateDirectory(path: path)
        #expect(
            try directory.orders().isEmpty
                || (try directory.order(at: "\(FakeCA.base)/directory", finished: directory.load()).record == nil))
        try expectPrivate(path)
        // Nothing is due: no request at all.
        let third = try await IssuerProcess.run(["obtain", "0", when, "a.test", "b.test"], path, ca)
        #expect(third.lines == ["finished 1"])
        #expect(ca.count == (hadSavedOrder ? orders : ca.count))
    }

    @Test(
        "case 5 key_rollover: killed at any step, the account is found by the key that the CA knows", arguments: 1...9, ["before", "after"])
    func rollover(_ step: Int, _ when: String) async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.file("acme")
        let ca = try CA()
        #expect(try await IssuerProcess.run(["obtain", "0", when, "a.test"], path, ca).lines == ["finished 1"])
        _ = try await IssuerProcess.run(["rollover", "\(step)", when, "a.test"], path, ca)
        #expect(try await IssuerProcess.run(["obtain", "0", when, "b.test"], path, ca).lines == ["finished 2"])
        #expect(ca.fake.withLock { $0.accounts.count } == 1)
        let record = try #require(try StateDirectory(path: path).account(at: "\(FakeCA.base)/directory").record)
        #expect(ca.fake.withLock { $0.accounts[0].jwk } == (try JSONWebKey(record.key).members))
        #expect(record.pendingKey == nil)
    }

    /// Case 43: 0700 and 0600, although the process's umask was 0.
    private func expectPrivate(_ path: String) throws {
        for name in [""] + (try FilesIn.names(path)) {
            var status = stat()
            #expect(unsafe stat("\(path)/\(name)", &status) == 0)
            #expect(status.st_mode & 0o7777 == (name.isEmpty ? 0o700 : 0o600), "\(name)")
        }
    }
}

/// A fake CA that answers processes.
final class CA: Sendable {
    // Safety: only used under its lock.
    struct Held: @unchecked Sendable { var ca: FakeCA }

    private let held: Mutex<Held>

    init() throws {
        var ca = try FakeCA()
        ca.validatesAnything = true
        ca.processingPolls = 1
        held = Mutex(Held(ca: ca))
    }

    var fake: Mutexed { Mutexed(owner: self) }
    var count: Int { held.withLock { $0.ca.orders.count } }

    func answer(_ request: HTTPRequest) -> Result<HTTPResponse, TransferFailure> {
        held.withLock { held in
            do { return try held.ca.answer(request, at: .now()) } catch { return .failure(.other("\(error)")) }
        }
    }

    struct Mutexed {
        let owner: CA

        func withLock<Value: Sendable>(_ body: (FakeCA) -> Value) -> Value { owner.held.withLock { body($0.ca) } }
    }
}

/// One run of `mwstorage-crash issue`.
struct IssuerProcess {
    let wasKilled: Bool
    /// What it said that was no request.
    let lines: [String]

    static func run(_ words: [String], _ directory: String, _ ca: CA) async throws -> IssuerProcess {
        let process = Process()
        process.executableURL = try helper()
        process.arguments = ["issue", directory] + words
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        signal(SIGPIPE, SIG_IGN)
        try process.run()
        return await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                var lines: [String] = []
                var rest: [UInt8] = []
                while true {
                    let data = output.fileHandleForReading.availableData
                    if data.isEmpty { break }
                    rest += data
                    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                        let line = String(decoding: rest[..<end], as: UTF8.self)
                        rest.removeFirst(end + 1)
                        guard let request = PipedExchange.request(line) else {
                            lines.append(line)
                            continue
                        }
                        // It may be gone before the answer.
                        try? input.fileHandleForWriting.write(contentsOf: Array("\(PipedExchange.line(ca.answer(request)))\n".utf8))
                    }
                }
                process.waitUntilExit()
                for handle in [input.fileHandleForWriting, output.fileHandleForReading] { try? handle.close() }
                continuation.resume(returning: IssuerProcess(wasKilled: process.terminationReason == .uncaughtSignal, lines: lines))
            }
        }
    }

    /// Built beside the tests.
    private static func helper() throws -> URL {
        let candidates = CommandLine.arguments + [unsafe realpath("/proc/self/exe", nil).map { unsafe String(cString: $0) } ?? ""]
        for candidate in candidates {
            let url = URL(fileURLWithPath: candidate).deletingLastPathComponent().appendingPathComponent("mwstorage-crash")
            if FileManager.default.isExecutableFile(atPath: url.path) { return url }
        }
        throw PresentingError("mwstorage-crash is not beside the tests; swift build --build-tests")
    }
}
