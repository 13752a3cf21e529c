import EngineContract
import History
import Logging
import MWProtocol
import MWServer
import MWStorage
import MWTLS
import NIOCore
import NIOEmbedded

/// Who the clients are, made once a process: each costs a TLS handshake.
struct SimulatedPeers: Sendable {
    let peers: [(peer: VerifiedPeer, principal: Principal)]

    init(_ peers: [VerifiedPeer]) throws {
        self.peers = try peers.map { ($0, try AccessPolicy.none.admit($0).get()) }
    }
}

/// A server and its store, which can be killed and started again on what its disk had.
// Safety: used on one thread only. What a store calls from its commits is called by `commit(_:)`, on that thread.
final class SimulatedServer: @unchecked Sendable {
    let clock: SimulatedClock
    private let directory: String
    private let peers: SimulatedPeers
    private(set) var disk = MemoryDisk()
    private var life: ServerLife?
    private var backup: (disk: MemoryDisk, revision: Revision)?
    /// What a store has that is made of it.
    private var restored: ModelStore?
    private var lifeCount = 0
    /// What happened, by incarnation.
    private(set) var logs: [String: ModelLog] = [:]
    private(set) var violations: [Violation] = []
    var limits = ServerLimits()
    var storageLimits = StorageLimits()
    var hotValueBytes = 0
    /// Microseconds from the flush of a request to its commit, and from there to its answer.
    var commitLatency = 100...3_000
    /// Microseconds until the loop looks at what was committed for its watches.
    var wakeLatency = 10...500
    /// How far the wall clock is off.
    var wallClockOffset: Int64 = 0
    private var sessionCount: UInt64 = 0

    init(clock: SimulatedClock, directory: String, peers: SimulatedPeers) {
        self.clock = clock
        self.directory = directory
        self.peers = peers
    }

    var isUp: Bool { self.life != nil }
    var storage: Storage? { self.life?.storage }
    var incarnation: String { self.life?.storage.incarnation.description ?? "" }

    // MARK: Life

    func start() throws {
        precondition(self.life == nil)
        self.lifeCount += 1
        if self.lifeCount == 1 { try self.change(self.disk, into: .zero) }
        var options = StorageOptions()
        options.commits = .manual
        options.limits = self.storageLimits
        // Little: what was read last is forgotten, and comes back from the engine.
        options.engine.hotValueBytes = self.hotValueBytes
        options.clock = { [clock] in clock.elapsed }
        options.wallClock = { [unowned self] in
            1_700_000_000_000 &+ UInt64(bitPattern: Int64(self.clock.now.uptimeNanoseconds / 1_000_000) + self.wallClockOffset)
        }
        options.makeSessionID = { [unowned self] in
            self.sessionCount += 1
            return SessionID(UInt128(self.sessionCount))
        }
        let storage = try Storage.open(directory: self.directory, engine: .memory(self.disk), options: options)
        self.recovered(storage)
        self.life = try ServerLife(storage: storage, number: self.lifeCount, server: self)
        self.clock.log("server starts, revision \(storage.revision), store \(self.logs.count)")
    }

    /// What is there after a start must be what the log says.
    private func recovered(_ storage: Storage) {
        do {
            var state = ModelStore(revision: storage.revision.number)
            state.entries = try SimulatedStore.entries(storage)
            let name = storage.incarnation.description
            guard let log = self.logs[name] else {
                if let expected = self.restored, Self.plain(expected) != Self.plain(state) {
                    self.violations.append(Violation("the store was restored to \(state), and not to \(expected)"))
                }
                self.logs[name] = ModelLog(base: state)
                return
            }
            if log.last.revision != state.revision || Self.plain(log.last) != Self.plain(state) {
                self.violations.append(Violation("after a restart the store has \(state), and not \(log.last)"))
            }
        } catch {
            self.violations.append(Violation("after a restart the store cannot be read: \(error)"))
        }
    }

    private static func plain(_ store: ModelStore) -> [String: ModelEntry] { store.entries.mapValues(\.withoutLease) }

    /// SIGKILL, or with the power: what was not committed is gone.
    func kill(withPower: Bool, isTold: Bool) {
        guard let life else { return }
        self.clock.log("server is killed, power: \(withPower)")
        self.life = nil
        // What the old process would still do goes to a disk that nobody looks at.
        self.disk = self.disk.copy(afterPowerCut: withPower)
        life.end(isTold: isTold)
    }

    /// Copies the disk, as a backup does.
    func backUp() {
        guard let revision = self.life?.storage.revision else { return }
        self.backup = (self.disk.copy(afterPowerCut: true), revision)
        self.restored = self.logs[self.incarnation]?.last
    }

    /// Goes back to the backup, if there is one; the server is down.
    func restore() throws {
        guard self.life == nil, let (disk, revision) = self.backup else { return }
        self.disk = disk.copy(afterPowerCut: true)
        try self.change(self.disk, into: revision)
        self.clock.log("the store is restored to revision \(revision)")
    }

    /// Gives the store on `disk` a name that the seed chooses.
    private func change(_ disk: MemoryDisk, into revision: Revision) throws {
        let engine = try StorageEngineFactory.memory(disk).open("memory", EngineOptions())
        let name = UInt128(self.clock.random.next()) << 64 | UInt128(self.clock.random.next())
        try StoreIdentity.renew(in: engine, as: Incarnation(name), at: revision)
    }

    /// Forgets history, up to some revision.
    func compact() {
        guard let life else { return }
        let last = Int(life.storage.revision.number)
        if last > 0 { life.compact(to: Revision(UInt64(self.clock.any(1...last)))) }
    }

    // MARK: Connections

    /// A client's connection, which it has as soon as there is a server.
    func accept(_ link: SimulatedLink, as client: Int, subprotocol: String?) throws {
        let (peer, principal) = self.peers.peers[client % self.peers.peers.count]
        try self.life?.accept(link, peer, principal, subprotocol: subprotocol)
    }

    fileprivate func committed(_ commit: ModelLog.Commit, of incarnation: String) {
        self.clock.log("commit \(commit.revision): \(commit.changes.map { "\($0.key)=\($0.value ?? "-")" }.joined(separator: " "))")
        self.logs[incarnation]?.append(commit)
    }
}

/// What one life of the process consists of.
// Safety: used on one thread only; what the store calls from its commits is called by `commit()`, on that thread.
private final class ServerLife: @unchecked Sendable {
    let storage: Storage
    private let number: Int
    private unowned let server: SimulatedServer
    private let clock: SimulatedClock
    private let loop: SessionLoop
    /// What the loop's clock showed at the beginning of the simulation.
    private let epoch: NIODeadline
    private let recorder: CommitRecorder
    private let observations: [StorageObservation]
    private let hub = WatchHub()
    private var watches: WatchLoop?
    private var factory: TurnHook?
    private var links: [SimulatedLink] = []
    private var isOver = false
    private var isCommitScheduled = false
    private var nextDelivery = NIODeadline.uptimeNanoseconds(0)
    private var timer: Scheduled<Void>?
    private let submitter: Submitter

    /// Between two looks at deadlines.
    private static let tick = TimeAmount.milliseconds(250)

    init(storage: Storage, number: Int, server: SimulatedServer) throws {
        self.storage = storage
        self.number = number
        self.server = server
        self.clock = server.clock
        self.loop = SessionLoop(
            eventLoop: server.clock.eventLoop, limits: server.limits, census: ConnectionCensus(server.limits),
            logger: Logger(label: "simulation") { _ in SwiftLogNoOpLogHandler() })
        self.epoch = self.loop.now - .nanoseconds(Int64(server.clock.now.uptimeNanoseconds))
        self.recorder = CommitRecorder()
        self.observations = [storage.observe(self.recorder), storage.observe(self.hub)]
        let incarnation = storage.incarnation.description
        self.recorder.onCommit = { [unowned server] in server.committed($0, of: incarnation) }
        let reference = LifeReference()
        let submitter = storage.makeSubmitter { outcomes in reference.life?.deliver(outcomes) }
        // The administrator's.
        self.submitter = storage.makeSubmitter { _ in }
        reference.life = self
        // Sometimes every watcher has a turn of its own.
        let bytesPerTurn = self.clock.chance(50) ? 1 : WatchLoop.defaultBytesPerTurn
        let watches = WatchLoop(on: self.loop, storage: storage, hub: self.hub, bytesPerTurn: bytesPerTurn) { [unowned self] in
            self.wake()
        }
        let inner = StorageLoop(on: self.loop, storage: storage, submitter: submitter, watches: watches)
        self.watches = watches
        let factory = TurnHook(inner) { [unowned self] in self.turnEnded() }
        self.factory = factory
        self.loop.factory = factory
        self.scheduleTick()
        self.scheduleDeadline()
    }

    private func scheduleTick() {
        self.clock.after(Self.tick) {
            guard !self.isOver else { return }
            self.loop.ticked(self.epoch + .nanoseconds(Int64(self.clock.now.uptimeNanoseconds)))
            self.scheduleTick()
        }
    }

    /// Leases and sessions end by themselves.
    private func scheduleDeadline() {
        self.timer?.cancel()
        guard let deadline = self.storage.nextDeadline else { return }
        self.timer = self.clock.after(TimeAmount(max(.zero, deadline - self.clock.elapsed)) + .microseconds(1)) { self.commit() }
    }

    private func turnEnded() {
        guard !self.isOver, !self.isCommitScheduled, self.storage.pending.requests > 0 else { return }
        self.isCommitScheduled = true
        self.clock.after(self.clock.delay(self.server.commitLatency)) {
            self.isCommitScheduled = false
            self.commit()
        }
    }

    func compact(to revision: Revision) {
        do {
            try self.submitter.compact(to: revision, token: 0)
        } catch {
            preconditionFailure("an idle store takes a request: \(error)")
        }
        self.submitter.flush()
        self.turnEnded()
    }

    private func commit() {
        guard !self.isOver else { return }
        self.storage.runCommits()
        self.scheduleDeadline()
    }

    /// In order, and some time after the commit: the process may be killed in between.
    private func deliver(_ outcomes: [CommitOutcome]) {
        guard !self.isOver else { return }
        self.nextDelivery = max(self.nextDelivery, self.clock.now + self.clock.delay(self.server.commitLatency))
        self.clock.after(self.nextDelivery - self.clock.now) {
            guard !self.isOver else { return }
            self.factory?.inner.outcomesDelivered(outcomes)
        }
    }

    /// The commit thread would have the loop look at what was committed.
    private func wake() {
        self.clock.after(self.clock.delay(self.server.wakeLatency)) {
            guard !self.isOver else { return }
            self.watches?.deliverInTurn()
        }
    }

    func accept(_ link: SimulatedLink, _ peer: VerifiedPeer, _ principal: Principal, subprotocol: String?) throws {
        guard !self.isOver, let factory else { return link.cut() }
        _ = self.loop.census.enter(principal.fingerprint, principal: principal.name)
        let info = SessionInfo(
            connectionID: self.loop.makeConnectionID(), principal: principal, address: "192.0.2.1:4711", subprotocol: subprotocol,
            tls: "none")
        let session = SessionHandler(info, peer: peer, generation: 1, on: self.loop, delegate: factory.makeDelegate(for: info))
        try link.server.pipeline.syncOperations.addHandler(session)
        link.server.pipeline.read()
        self.links.append(link)
    }

    func end(isTold: Bool) {
        self.isOver = true
        self.timer?.cancel()
        for observation in self.observations { observation.cancel() }
        for link in self.links { link.serverDied(isTold: isTold) }
        self.links = []
        self.loop.end()
        self.factory = nil
        self.storage.close()
    }
}

// Safety: used on one thread only.
private final class LifeReference: @unchecked Sendable {
    weak var life: ServerLife?
}

/// The server's own factory, and somebody who wants to know when a turn of the loop is over.
private final class TurnHook: SessionFactory {
    let inner: StorageLoop
    private let onTurnEnd: () -> Void

    init(_ inner: StorageLoop, onTurnEnd: @escaping () -> Void) {
        self.inner = inner
        self.onTurnEnd = onTurnEnd
    }

    func makeDelegate(for info: SessionInfo) -> any SessionDelegate { self.inner.makeDelegate(for: info) }
    func ticked(_ now: NIODeadline) { self.inner.ticked(now) }

    func turnEnded() {
        self.inner.turnEnded()
        self.onTurnEnd()
    }

    func loopEnded() { self.inner.loopEnded() }
}

/// Writes down what a store says it has done.
// Safety: commits run on the thread of the simulation.
private final class CommitRecorder: StorageObserver, @unchecked Sendable {
    var onCommit: ((ModelLog.Commit) -> Void)?

    func committed(_ commit: borrowing Commit) {
        commit.forEachRequest { _, request in
            var changes: [ModelChange] = []
            request.forEachChange { change in changes.append(ModelChange(change)) }
            self.onCommit?(ModelLog.Commit(request.revision.number, changes))
        }
    }
}
