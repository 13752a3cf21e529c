import Foundation
import History
import Logging
import MWClient
import MWPKI
import Simulation
import Synchronization
import TestCertificates
import Testing

/// The real server process, killed with SIGKILL again and again, behind a proxy that cuts, stalls and swallows; clients, watches and replicas
/// of the real client. The judge is the model of `Tests/History`; what happened is read from the server's history at the end.
@Suite("A server that is killed, behind a network with faults")
struct SyncUnderFaultsTests {
    private static let rounds = 20
    private static let clients = 4
    private static let lanes = 2
    static let leastAnswered = 100
    /// Of one round.
    private static let roundTime: Duration = .milliseconds(900)
    /// A key in every watch's ranges, put when everything is over.
    private static let marker = "z"

    @Test("no write is lost or done twice, no event missed, repeated, torn or out of order, and every replica is equal in the end")
    func staysInSync() async throws {
        let seed = UInt64.random(in: 0...999_999)
        print("seed of the faults and the workload: \(seed)")
        let run = try await FaultyRun(seed: seed)
        try await run.storm(rounds: Self.rounds, roundTime: Self.roundTime, clients: Self.clients, lanes: Self.lanes)
        let log = try await run.witness()
        let history = run.history.withLock { $0 }
        let store = run.incarnation.withLock { $0 }
        #expect(LogCheck(history, [store: log]).violations == [], "seed \(seed)")
        #expect(LinearizabilityChecker().check(history) == .linearizable, "seed \(seed)")
        let answered = run.answeredCount
        print("\(history.calls.count) calls, \(answered) answered, \(log.commits.count) revisions, \(run.proxy.acceptedCount) connections")
        #expect(answered > Self.leastAnswered, "clients got something done")
        for watch in run.watches.withLock({ $0 }) {
            let violation = WatchCheck.check(watch.items, of: watch.terms, in: [store: log], quietStore: store)
            #expect(violation == nil, "seed \(seed)")
            #expect(watch.end == nil, "seed \(seed)")
        }
        for replica in run.replicas.withLock({ $0 }) {
            let expected = log.last.entries(in: replica.range).mapValues(\.withoutLease)
            #expect(replica.entries.mapValues(\.withoutLease) == expected, "seed \(seed)")
        }
    }

    /// What one watch said, up to the marker.
    struct WatchRecord: Sendable {
        var terms: WatchTerms
        var items: [WatchItem] = []
        var end: String?
    }

    struct ReplicaRecord: Sendable {
        var range: ModelRange
        var entries: [String: ModelEntry]
    }

    static var markerKey: [UInt8] { Array(self.marker.utf8) }
}

/// One run.
private final class FaultyRun: Sendable {
    let history = Mutex(History())
    let incarnation = Mutex("")
    let watches = Mutex<[SyncUnderFaultsTests.WatchRecord]>([])
    let replicas = Mutex<[SyncUnderFaultsTests.ReplicaRecord]>([])
    let proxy: FaultyProxy
    private let directory: TemporaryDirectory
    private let server: Mutex<ServerProcess?>
    private let seed: UInt64
    private let isCalm = Mutex(false)
    /// The revision of the marker, once it has been put.
    private let last = Mutex<Revision?>(nil)

    init(seed: UInt64) async throws {
        self.seed = seed
        self.directory = try TestStore.make()
        self.server = Mutex(nil)
        self.proxy = try await FaultyProxy.start { number in Self.plan(seed: seed, number) }
        try await self.startServer()
    }

    /// What becomes of the n-th connection: chosen by the seed.
    private static func plan(seed: UInt64, _ number: Int) -> FaultyProxy.Plan {
        var random = SeededGenerator(seed: seed &+ UInt64(number) &* 7919)
        var plan = FaultyProxy.Plan()
        let way: FaultyProxy.Plan.Way = random.chance(50) ? .toServer : .toClient
        // The handshakes take some 4,000 bytes: before, inside of and behind them.
        let bytes = random.any(1...(random.chance(30) ? 5_000 : 60_000))
        switch random.any(0...99) {
        case ..<45: plan.fate = .cut(way, after: bytes)
        case ..<60: plan.fate = .stall(way, after: bytes)
        case ..<65: plan.fate = .swallow
        default: break
        }
        if random.chance(20) { plan.delay = .milliseconds(random.any(1...8)) }
        return plan
    }

    private func startServer() async throws {
        let process = try await ServerProcess(directory: self.directory)
        self.proxy.lead(to: process.endpoint.split(separator: ":").last.flatMap { Int($0) })
        self.server.withLock { $0 = process }
    }

    private func connect(port: Int) throws -> StorageClient {
        let identity = TLSMaterialSource.pem(
            certificateChainFile: self.directory.file("client.chain.pem"), privateKeyFile: self.directory.file("client.key.pem"),
            trustFile: self.directory.file("client.trust.pem"))
        var configuration = StorageClientConfiguration(endpoints: [try Endpoint("wss://127.0.0.1:\(port)")], identity: identity)
        configuration.identityWatchInterval = nil
        configuration.timeouts.connect = .seconds(1)
        configuration.timeouts.tls = .seconds(1)
        configuration.timeouts.upgrade = .seconds(1)
        configuration.timeouts.pingInterval = .milliseconds(500)
        configuration.timeouts.pong = .milliseconds(500)
        configuration.timeouts.request = .seconds(60)
        configuration.timeouts.drain = .seconds(1)
        configuration.reconnection.base = .milliseconds(10)
        configuration.reconnection.cap = .milliseconds(300)
        return try StorageClient(configuration: configuration, logger: Logger(label: "sync") { _ in SwiftLogNoOpLogHandler() })
    }

    // MARK: The storm

    func storm(rounds: Int, roundTime: Duration, clients: Int, lanes: Int) async throws {
        let models = try (0..<clients).map { ModelledClient(number: $0, try self.connect(port: self.proxy.port)) }
        try await withThrowingTaskGroup(of: Void.self) { running in
            for model in models { running.addTask { try? await model.client.run() } }
            try await withThrowingTaskGroup(of: Void.self) { actors in
                for model in models { actors.addTask { await self.watch(model) } }
                for model in models.prefix(2) { actors.addTask { try await self.replicate(model) } }
                try await withThrowingTaskGroup(of: Void.self) { writers in
                    for model in models {
                        for lane in 0..<lanes { writers.addTask { await self.act(model, lane) } }
                    }
                    try await self.killAgainAndAgain(rounds: rounds, roundTime: roundTime)
                    try await self.calmDown()
                    try await writers.waitForAll()
                }
                // Behind everything that was still under way.
                try await self.putMarker(models[0])
                try await actors.waitForAll()
            }
            for model in models { await model.client.close() }
            try await running.waitForAll()
        }
    }

    private func killAgainAndAgain(rounds: Int, roundTime: Duration) async throws {
        // On a busy machine, for longer: clients have to get something done.
        for round in 0..<rounds * 10 where round < rounds || self.answeredCount <= SyncUnderFaultsTests.leastAnswered {
            try await Task.sleep(for: roundTime)
            if round % 3 == 1 {
                try await self.proxy.cutAll()
                continue
            }
            let server = self.server.withLock { $0 }
            server?.send(SIGKILL)
            _ = await server?.waitUntilEnded()
            try await self.startServer()
        }
    }

    var answeredCount: Int {
        self.history.withLock { $0.calls.count { $0.outcome != .unknown && $0.outcome != .refused } }
    }

    private func calmDown() async throws {
        self.isCalm.withLock { $0 = true }
        self.proxy.heal()
        // Who is stalled learns it by itself in time; this is sooner.
        try await self.proxy.cutAll()
    }

    private func putMarker(_ model: ModelledClient) async throws {
        let put: ModelOperation = .write([.put(String(decoding: SyncUnderFaultsTests.markerKey, as: UTF8.self), "end")])
        let id = self.history.withLock { $0.called(put, by: 99) }
        let revision = try await model.client.put([(key: SyncUnderFaultsTests.markerKey, value: Array("end".utf8))])
        self.history.withLock {
            $0.returned(id, .written(revision: revision.number, changes: 1), incarnation: "\(revision.incarnation)")
        }
        self.incarnation.withLock { $0 = "\(revision.incarnation)" }
        self.last.withLock { $0 = revision }
    }

    // MARK: Actors

    private func act(_ model: ModelledClient, _ lane: Int) async {
        var random = SeededGenerator(seed: self.seed &+ UInt64(model.number * 100 + lane))
        var workload = Workload(using: &random)
        workload.valueBytes = 1...200
        var seen: [String: ModelEntry] = [:]
        var number = 0
        while !self.isCalm.withLock({ $0 }) {
            number += 1
            let operation = workload.operation("\(model.number).\(lane).\(number)", lease: nil, seen: seen, using: &random)
            let id = self.history.withLock { $0.called(operation, by: model.number) }
            let (outcome, incarnation) = await model.perform(operation)
            self.history.withLock { $0.returned(id, outcome, incarnation: incarnation) }
            if case .read(_, let entries) = outcome { seen.merge(entries) { $1 } }
            try? await Task.sleep(for: .milliseconds(random.any(0...25)))
        }
    }

    /// Reads a watch up to the marker.
    private func watch(_ model: ModelledClient) async {
        let ranges = [[ModelRange.all], [ModelRange("k0", "k4"), ModelRange("z", nil)]][model.number % 2]
        var options = WatchOptions()
        options.onGap = .resync
        // One of them is read slower than the store changes.
        if model.number == 3 { options.maximumBufferedBytes = 2_000 }
        let start: WatchTerms.Start = model.number == 2 ? .now : .state
        var record = SyncUnderFaultsTests.WatchRecord(terms: WatchTerms(ranges, from: start))
        do {
            let events = try model.client.watch(ranges.map { KeyRange($0) }, from: start == .now ? .now : .state, options: options)
            for try await event in events {
                if let item = WatchItem(event) { record.items.append(item) }
                if case .changes(_, let changes) = event, changes.contains(where: { $0.key == SyncUnderFaultsTests.markerKey }) { break }
                if case .state(_, let entries) = event, entries.contains(where: { $0.key == SyncUnderFaultsTests.markerKey }) { continue }
                if case .synced(let revision) = event, let last = self.last.withLock({ $0 }), revision.includes(last) { break }
                if model.number == 3, !self.isCalm.withLock({ $0 }) { try? await Task.sleep(for: .milliseconds(40)) }
            }
        } catch {
            record.end = "\(error)"
        }
        self.watches.withLock { $0.append(record) }
    }

    private func replicate(_ model: ModelledClient) async throws {
        let range = model.number == 0 ? ModelRange.all : ModelRange("k2", nil)
        let replica = try model.client.replica(of: [KeyRange(range)])
        // Reads on the way are checked in memory, for more runs than these.
        for try await event in replica.changes() {
            guard case .changes(_, let changes) = event else { continue }
            if changes.contains(where: { $0.key == SyncUnderFaultsTests.markerKey }) { break }
        }
        let entries = try [String: ModelEntry](replica.snapshot().scan())
        self.replicas.withLock { $0.append(.init(range: range, entries: entries)) }
        replica.close()
    }

    // MARK: Judgement

    /// The log as the server's history has it, over a connection without faults.
    func witness() async throws -> ModelLog {
        guard let revision = self.last.withLock({ $0 }), let server = self.server.withLock({ $0 }) else { throw NoMarker() }
        let port = server.endpoint.split(separator: ":").last.flatMap { Int($0) } ?? 0
        let client = try self.connect(port: port)
        let log = try await withThrowingTaskGroup(of: Void.self) { running in
            running.addTask { try? await client.run() }
            var log = ModelLog()
            let beginning = Revision(incarnation: revision.incarnation, number: 0)
            for try await event in try client.watch([.all], from: .after(beginning)) {
                if case .changes(let commit, _)? = WatchItem(event) { log.append(commit) }
                if log.last.revision >= revision.number { break }
            }
            await client.close()
            return log
        }
        #expect(await server.terminate() == 0)
        try await self.proxy.stop()
        return log
    }

    struct NoMarker: Error {}
}
