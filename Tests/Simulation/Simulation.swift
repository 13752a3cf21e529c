import EngineContract
import History
import MWClient
import MWServer
import MWStorage
import NIOCore

/// One run of clients, watchers, replicas, network and server, from a seed; and what is wrong with it.
package struct SimulationReport: Sendable {
    package var seed: UInt64
    package var violations: [String] = []
    package var calls = 0
    package var unknownOutcomes = 0
    package var refusals = 0
    package var revisions = 0
    package var kills = 0
    package var links = 0
    package var watchItems = 0
    package var undecided = 0

    package init(seed: UInt64) { self.seed = seed }
}

/// What all simulations of a process share.
package struct SimulationBench: Sendable {
    let peers: SimulatedPeers
    let server: ServerPeer
    private let directory: String

    /// - Parameter directory: Where stores keep their locks; one for each thread.
    package init(directory: String) throws {
        let (clients, server) = try PeerMaker.make(["alice", "bob"])
        self.peers = try SimulatedPeers(clients)
        self.server = ServerPeer(peer: server)
        self.directory = directory
    }

    /// Runs one simulation, on the calling thread.
    package func run(_ seed: UInt64, mutation: Mutation? = nil, trace: ((String) -> Void)? = nil) -> SimulationReport {
        do {
            let simulation = try Simulation(seed, self, directory: "\(self.directory)/\(seed)", mutation: mutation, trace: trace)
            return simulation.run()
        } catch {
            var report = SimulationReport(seed: seed)
            report.violations = ["the simulation itself failed: \(error)"]
            return report
        }
    }
}

/// One run.
// Safety: used on one thread only.
private final class Simulation: @unchecked Sendable {
    private let clock: SimulatedClock
    private let server: SimulatedServer
    private let network: SimulatedNetwork
    private let plan: FaultPlan
    private let workload: Workload
    private var clients: [ModelledClient] = []
    private var watches: [SimulatedWatch] = []
    private var replicas: [SimulatedReplica] = []
    private var history = History()
    private var report: SimulationReport
    private var isCalm = false
    private var runningActors = 0
    private let directory: String

    /// Virtual time in which faults happen, at most; until everything must be quiet; and for the clients to leave.
    private static let stormTime = TimeAmount.seconds(20)
    private static let quietTime = TimeAmount.seconds(12)
    private static let endTime = TimeAmount.seconds(30)

    init(_ seed: UInt64, _ bench: SimulationBench, directory: String, mutation: Mutation?, trace: ((String) -> Void)?) throws {
        self.report = SimulationReport(seed: seed)
        self.directory = directory
        self.clock = SimulatedClock(seed: seed)
        self.clock.trace = trace
        self.server = SimulatedServer(clock: self.clock, directory: directory, peers: bench.peers)
        self.network = SimulatedNetwork(clock: self.clock, server: self.server, serverPeer: bench.server.peer)
        self.plan = FaultPlan(using: self.clock)
        self.workload = Workload(using: &self.clock.random)
        self.network.faults = self.plan.network
        self.network.mutation = mutation
        self.server.limits.pingInterval = .seconds(1)
        self.server.limits.pongTimeout = .seconds(1)
        self.server.limits.closingTimeout = .seconds(1)
        self.server.limits.unsentTimeout = .seconds(2)
        self.server.hotValueBytes = self.clock.chance(50) ? 0 : 4_096
        if self.clock.chance(25) { self.server.storageLimits.maximumHistoryRevisions = self.clock.any(1...12) }
        if self.plan.isNarrow { self.server.limits.maximumUnsentBytes = 4_096 }
        for number in 0..<self.clock.any(2...4) {
            self.clients.append(try ModelledClient(number: number, network: self.network, seed: self.clock.random.next()))
        }
    }

    func run() -> SimulationReport {
        defer { removeDirectory(self.directory) }
        do {
            try self.server.start()
        } catch {
            self.report.violations.append("the server does not start: \(error)")
            return self.report
        }
        for client in self.clients {
            self.clock.spawn { try? await client.client.run() }
            for lane in 0..<self.workload.width { self.spawnActor { await self.act(client, lane) } }
        }
        do { try self.startObservers() } catch { self.report.violations.append("observers: \(error)") }
        self.scheduleFaults()
        var passed = TimeAmount.zero
        while self.runningActors > 0, passed < Self.stormTime {
            self.clock.run(for: .milliseconds(200))
            passed = passed + .milliseconds(200)
        }
        self.calm()
        self.clock.run(for: Self.quietTime)
        if self.runningActors > 0 { self.report.violations.append("\(self.runningActors) actors have not come to their end") }
        self.check()
        self.end()
        return self.report
    }

    private func spawnActor(_ body: @escaping @Sendable () async -> Void) {
        self.runningActors += 1
        self.clock.spawn {
            await body()
            self.runningActors -= 1
        }
    }

    private func startObservers() throws {
        for _ in 0..<self.clock.any(1...3) {
            let watch = SimulatedWatch(self.clients[self.clock.any(0...(self.clients.count - 1))], clock: self.clock)
            self.watches.append(watch)
            // Some begin late.
            let delay = TimeAmount.milliseconds(Int64(self.clock.chance(60) ? 0 : self.clock.any(0...1_500)))
            self.clock.spawn {
                await self.clock.sleep(delay)
                await watch.follow { self.isCalm }
            }
        }
        for _ in 0..<self.clock.any(1...2) {
            let replica = try SimulatedReplica(self.clients[self.clock.any(0...(self.clients.count - 1))], clock: self.clock)
            self.replicas.append(replica)
            self.clock.spawn { await replica.observe { self.isCalm } }
            self.clock.spawn { await replica.follow() }
        }
    }

    // MARK: Clients

    private func act(_ client: ModelledClient, _ lane: Int) async {
        var seen: [String: ModelEntry] = [:]
        var lease: Int64?
        for number in 0..<(self.workload.operations / self.workload.width + 1) {
            await self.clock.sleep(.microseconds(Int64(self.clock.any(0...(self.workload.pause * 1_000)))))
            if self.isCalm { return }
            if self.clock.chance(self.workload.leases) { lease = await self.changeLease(client, lease) }
            let isLeased = lease != nil && self.clock.chance(40)
            let operation = self.workload.operation(
                "\(client.number).\(lane).\(number)", lease: isLeased ? lease : nil, seen: seen, using: &self.clock.random)
            let outcome = await self.call(operation, client)
            if case .read(_, let entries) = outcome { seen.merge(entries) { $1 } }
        }
    }

    private func call(_ operation: ModelOperation, _ client: ModelledClient) async -> ModelOutcome {
        let id = self.history.called(operation, by: client.number)
        self.clock.log("client \(client.number) calls \(operation)")
        let (outcome, incarnation) = await client.perform(operation)
        self.clock.log("client \(client.number) has \(outcome) of \(operation)")
        self.history.returned(id, outcome, incarnation: incarnation)
        return outcome
    }

    /// Grants one, keeps it, or lets it go.
    private func changeLease(_ client: ModelledClient, _ lease: Int64?) async -> Int64? {
        guard let lease else {
            let granted = await client.grantLease(.seconds(Int64(self.clock.any(1...4))))
            // It may end by itself at any time from now on.
            if let granted { _ = self.history.called(.revoke(lease: granted), by: -1) }
            return granted
        }
        if self.clock.chance(50) {
            await client.keepLease(lease)
            return lease
        }
        _ = await self.call(.revoke(lease: lease), client)
        return nil
    }

    // MARK: Faults

    private func scheduleFaults() {
        self.every(self.plan.killsEvery) { self.kill() }
        self.every(self.plan.cutsEvery) { self.network.cutAny() }
        self.every(self.plan.jumpsEvery) { self.server.wallClockOffset += Int64(self.clock.any(-100_000...100_000)) }
        self.every(self.plan.compactsEvery) { self.server.compact() }
        self.every(self.plan.restoresEvery) { self.backUpOrRestore() }
    }

    private func every(_ milliseconds: Int?, _ body: @escaping () -> Void) {
        guard let milliseconds else { return }
        self.clock.after(.microseconds(Int64(self.clock.any((milliseconds * 500)...(milliseconds * 1_500))))) {
            guard !self.isCalm else { return }
            body()
            self.every(milliseconds, body)
        }
    }

    private func kill() {
        guard self.server.isUp else { return }
        self.report.kills += 1
        self.server.kill(withPower: self.clock.chance(50), isTold: self.clock.chance(70))
        self.clock.after(.milliseconds(Int64(self.clock.any(1...600)))) { self.startServer() }
    }

    private func backUpOrRestore() {
        guard self.server.isUp else { return }
        if self.clock.chance(50) { return self.server.backUp() }
        self.server.kill(withPower: false, isTold: true)
        do { try self.server.restore() } catch { self.report.violations.append("no restore: \(error)") }
        self.clock.after(.milliseconds(Int64(self.clock.any(1...300)))) { self.startServer() }
    }

    private func startServer() {
        guard !self.server.isUp else { return }
        do { try self.server.start() } catch { self.report.violations.append("the server does not start: \(error)") }
    }

    private func calm() {
        self.clock.log("calm")
        self.isCalm = true
        self.startServer()
        self.network.heal()
    }

    // MARK: Judgement

    private func check() {
        self.report.calls = self.history.calls.count
        self.report.unknownOutcomes = self.history.calls.count { $0.outcome == .unknown }
        self.report.refusals = self.history.calls.count { $0.outcome == .refused }
        self.report.revisions = self.server.logs.values.reduce(0) { $0 + $1.commits.count }
        self.report.links = self.network.linkCount
        self.report.violations += self.server.violations.map(\.description)
        self.report.violations += LogCheck(self.history, self.server.logs).violations.map(\.description)
        let incarnation = self.server.incarnation
        for watch in self.watches {
            self.report.watchItems += watch.items.count
            if let what = watch.endViolation { self.report.violations.append(what) }
            if let violation = WatchCheck.check(watch.items, of: watch.terms, in: self.server.logs, quietStore: incarnation) {
                self.report.violations.append("\(violation)")
            }
        }
        for replica in self.replicas { self.report.violations += replica.check(self.server.logs, store: incarnation) }
        self.checkLinearizability()
    }

    private func checkLinearizability() {
        // A restored store is another one: what was done in the one before says nothing about it.
        guard self.server.logs.count == 1 else { return }
        switch LinearizabilityChecker().check(self.history) {
        case .linearizable: break
        case .undecided: self.report.undecided += 1
        case .violated(let keys): self.report.violations.append("the history of \(keys) is not linearizable")
        }
    }

    private func end() {
        for replica in self.replicas { replica.close() }
        for client in self.clients { self.clock.spawn { await client.client.close() } }
        var passed = TimeAmount.zero
        while self.clock.runningTasks > 0, passed < Self.endTime {
            self.clock.run(for: .milliseconds(500))
            passed = passed + .milliseconds(500)
        }
        if self.clock.runningTasks > 0 { self.report.violations.append("\(self.clock.runningTasks) tasks have not ended") }
        self.server.kill(withPower: false, isTold: true)
        self.network.abandon()
        self.clock.run(for: .seconds(1))
    }
}
