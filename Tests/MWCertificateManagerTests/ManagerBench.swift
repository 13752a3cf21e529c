import FakeCA
import Foundation
import Logging
import MWACME
import MWCertificateManager
import MWPKI
import Synchronization
import TestCertificates

/// Time that only sleeping moves.
final class SimulatedClock: ManagerClock, Sendable {
    private struct State {
        var start: Timestamp
        var uptime: Duration = .seconds(1000)
        var naps = 0
        var end: Timestamp?
        var atEnd: @Sendable () -> Void = {}
        var meanwhile: @Sendable (Timestamp) -> Void = { _ in }
    }

    private let state: Mutex<State>

    init(_ start: Timestamp) { state = Mutex(State(start: start)) }

    func now() -> Moment {
        state.withLock { Moment(date: $0.start.adding(seconds: ($0.uptime - .seconds(1000)).components.seconds), uptime: $0.uptime) }
    }

    var date: Timestamp { now().date }
    var naps: Int { state.withLock { $0.naps } }

    func sleep(for duration: Duration) async throws {
        let isOver = state.withLock { state in
            state.uptime += max(.zero, duration)
            state.naps += 1
            guard let end = state.end else { return false }
            let date = state.start.adding(seconds: (state.uptime - .seconds(1000)).components.seconds)
            guard date >= end else { return false }
            // Not a second longer.
            state.uptime -= .seconds(date.seconds(since: end))
            return true
        }
        state.withLock { $0.meanwhile }(date)
        if isOver { state.withLock { $0.atEnd }() }
        try Task.checkCancellation()
        await Task.yield()
    }

    func end(at date: Timestamp, _ body: @escaping @Sendable () -> Void) {
        state.withLock {
            $0.end = date
            $0.atEnd = body
        }
    }

    /// What happens in the world while a manager sleeps; told the time.
    func onSleep(_ body: @escaping @Sendable (Timestamp) -> Void) { state.withLock { $0.meanwhile = body } }

    /// Somebody sets the wall clock.
    func set(by seconds: Int64) { state.withLock { $0.start = $0.start.adding(seconds: seconds) } }
}

/// The simulated beginning, and real time from then on: for those who wait for each other.
struct RealTime: ManagerClock {
    private let system = SystemClock()

    func now() -> Moment { Moment(date: ManagerBench.begin, uptime: system.now().uptime) }
    func sleep(for duration: Duration) async throws { try await system.sleep(for: duration) }
}

/// What was logged, a line each: level, message, metadata.
final class LogBook: Sendable {
    private let lines = Mutex<[String]>([])

    var all: [String] { lines.withLock { $0 } }
    func count(_ text: String) -> Int { all.count { $0.contains(text) } }

    var logger: Logger {
        var logger = Logger(label: "acme") { [self] _ in Handler(book: self) }
        logger.logLevel = .trace
        return logger
    }

    private struct Handler: LogHandler {
        let book: LogBook
        var logLevel = Logger.Level.trace
        var metadata: Logger.Metadata = [:]

        init(book: LogBook) { self.book = book }

        subscript(metadataKey key: String) -> Logger.MetadataValue? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let fields = (event.metadata ?? [:]).map { "\($0.key)=\($0.value)" }.sorted().joined(separator: " ")
            book.lines.withLock { $0.append("\(event.level) \(event.message) \(fields)") }
        }
    }
}

/// Where the fake CA looks.
struct FakePresenter: ChallengePresenter {
    let transfer: FakeCATransfer

    func present(_ answer: ChallengeAnswer) async throws { transfer.present(answer) }
    func remove(_ answer: ChallengeAnswer) async { transfer.remove(answer) }
}

/// A disk that fails when told to.
final class FaultyFiles: StateFiles, Sendable {
    struct Faults {
        var write: ACMEError?
        var prove: ACMEError?
        /// Writes that still succeed.
        var writesLeft = Int.max
        var writes = 0
    }

    let faults = Mutex(Faults())

    func write(_ bytes: SecretBytes, to path: String) throws {
        try faults.withLock { faults in
            faults.writes += 1
            faults.writesLeft -= 1
            if let error = faults.write, faults.writesLeft < 0 { throw error }
        }
        try SystemStateFiles().write(bytes, to: path)
    }

    func prove(_ path: String, bytes: Int) throws(ACMEError) {
        // The real one has its own test, and syncs are what these tests would spend their time with.
        if let error = faults.withLock({ $0.prove }) { throw error }
    }
}

/// A manager on a simulated clock, with a fake CA, in a directory that is removed.
final class ManagerBench: Sendable {
    static let begin = Timestamp(secondsSince1970: 1_800_000_000)
    static let first = "\(FakeCA.base)/directory"
    static let secondHost = "second.test"
    static let second = "https://\(secondHost)/directory"

    let temporary: TemporaryDirectory
    let clock: SimulatedClock
    let transfer: FakeCATransfer
    let files = FaultyFiles()
    let logs = LogBook()
    let installed = Mutex<[UInt64]>([])

    init(_ change: (inout FakeCA) -> Void = { _ in }) throws {
        temporary = try TemporaryDirectory()
        let clock = SimulatedClock(ManagerBench.begin)
        self.clock = clock
        var ca = try FakeCA()
        change(&ca)
        transfer = FakeCATransfer(ca) { clock.date }
    }

    var directory: StateDirectory { StateDirectory(path: temporary.file("acme"), files: files) }

    func plan(_ names: [String] = ["www.example.test"], at directoryURL: String = ManagerBench.first) -> IssuancePlan {
        var plan = IssuancePlan(directoryURL: directoryURL, identifiers: names.compactMap { Identifier($0) })
        plan.termsOfServiceAgreed = true
        plan.contacts = ["mailto:admin@example.test"]
        return plan
    }

    var driver: ACMEDriver {
        ACMEDriver(
            directory: directory, transfer: transfer, presenter: FakePresenter(transfer: transfer), clock: clock, seed: { 7 })
    }

    var operations: ACMEOperations { ACMEOperations(driver: driver) }

    func configuration(_ plans: [IssuancePlan]? = nil) -> CertificateManagerConfiguration {
        var configuration = CertificateManagerConfiguration(plans: plans ?? [plan()], stateDirectory: directory)
        // Long naps make short tests; what is due is not missed, as the manager sleeps no longer than until then.
        configuration.maximumSleep = .seconds(3600)
        return configuration
    }

    /// Lets a manager live until the clock shows that.
    func run(
        for seconds: Int64, _ configuration: CertificateManagerConfiguration? = nil,
        install: @escaping @Sendable (StateDirectory.Numbered) async throws -> Void = { _ in }
    ) async throws {
        let manager = CertificateManager(configuration ?? self.configuration(), driver: driver, logger: logs.logger) { [self] numbered in
            try await install(numbered)
            installed.withLock { $0.append(numbered.number) }
        }
        let task = Task { try await manager.run() }
        clock.end(at: clock.date.adding(seconds: seconds)) { task.cancel() }
        try await task.value
    }

    func orders(_ host: String = "ca.test") -> Int { transfer.with(host) { $0.orders.count } }
    func status() throws -> CertificateManagerStatus { try CertificateManagerStatus(of: directory, at: clock.date) }
    func current() throws -> StateDirectory.Numbered? { try directory.load().current }
}

let day: Int64 = 86_400
let hour: Int64 = 3600
