import MWClient
import MWProtocol
import MWWebSocket
import NIOCore
import Synchronization

/// A small store of the native protocol: sessions with outcomes, leases, watches. Its connections break where a seed says so.
final class FakeNativeStore: Sendable {
    enum Fault: CaseIterable { case cutBefore, cutAfter, restartBefore, answerThenCut }

    private struct Value {
        var bytes: ByteBuffer
        var revision: Int64
        var lease: Int64?
    }

    private struct Watcher {
        let connection: FakeConnection
        let id: RequestID
        let range: KeyRange
    }

    private struct State {
        var random: SeededRandom
        var faultsLeft: Int
        var revision: Int64 = 0
        var values: [[UInt8]: Value] = [:]
        var outcomes: [ByteBuffer: [Int64: Int64]] = [:]
        var acknowledged: [ByteBuffer: Int64] = [:]
        var sessions: UInt8 = 0
        var leases: Set<Int64> = []
        var lastLease: Int64 = 0
        var watchers: [Watcher] = []
        /// How often each pair was put.
        var applied: [String: Int] = [:]
        var repeated = 0
    }

    /// Leases live so long, by the clock of a test that never moves it.
    let timeToLive: Int64
    private let state: Mutex<State>

    init(seed: UInt64 = 0, faults: Int = 0, timeToLive: Int64 = 60_000) {
        self.timeToLive = timeToLive
        self.state = Mutex(State(random: SeededRandom(seed: seed), faultsLeft: faults))
    }

    func applied(_ key: String, _ value: String) -> Int { self.state.withLock { $0.applied["\(key)=\(value)", default: 0] } }
    var repeated: Int { self.state.withLock { $0.repeated } }
    var leases: Set<Int64> { self.state.withLock { $0.leases } }
    var watchCount: Int { self.state.withLock { $0.watchers.count } }

    /// Every session is over, with its outcomes.
    func forgetSessions() { self.state.withLock { $0.outcomes = [:] } }

    /// Ends leases as if their time were over.
    func expire(_ leases: Set<Int64>) { self.state.withLock { Self.end(leases, &$0) } }

    /// Serves all connections of a server until there are no more.
    func serve(_ server: FakeServer) async {
        await withTaskGroup(of: Void.self) { connections in
            while let connection = await server.connections.next() { connections.addTask { await self.serve(connection) } }
        }
    }

    private func serve(_ connection: FakeConnection) async {
        while let frame = await connection.frames.next() {
            let fault = self.drawFault()
            switch fault {
            case .cutBefore?: return connection.cut()
            case .restartBefore?: return connection.close(.serviceRestart)
            default: break
            }
            let kind = NativeRequestKind(rawValue: frame.kind)
            do {
                // Told under the lock, so that events and replies are in the order of what they say.
                try self.state.withLock { state in
                    let reply = try self.answer(kind, frame, connection, &state)
                    if fault != .cutAfter {
                        connection.reply { buffer in
                            NativeFrame.write(.reply, kind: frame.kind, id: frame.id, to: &buffer) { reply.writeNativeValue(to: &$0) }
                        }
                    }
                }
            } catch let failure as NativeFailure {
                connection.reply { NativeFrame.write(failure: failure, of: kind, id: frame.id, to: &$0) }
            } catch {
                return connection.close(.protocolError)
            }
            if fault != nil { return connection.cut() }
        }
        self.state.withLock { $0.watchers.removeAll { $0.connection === connection } }
    }

    private func drawFault() -> Fault? {
        self.state.withLock { state in
            guard state.faultsLeft > 0, Int.random(in: 0..<6, using: &state.random) == 0 else { return nil }
            state.faultsLeft -= 1
            return Fault.allCases.randomElement(using: &state.random)
        }
    }

    private func answer(
        _ kind: NativeRequestKind, _ frame: NativeFrame, _ connection: FakeConnection, _ state: inout State
    ) throws -> any NativeRecord {
        switch kind {
        case .openSession:
            state.sessions += 1
            let session = ByteBuffer(repeating: state.sessions, count: 16)
            state.outcomes[session] = [:]
            return Self.opened(session)
        case .resumeSession:
            let session = try NativeResumeSession(frame.fields).session
            guard state.outcomes[session] != nil else { throw NativeFailure(.sessionUnknown, "gone") }
            return Self.opened(session)
        case .get: return try Self.get(NativeGet(frame.fields), &state)
        case .scan: return try Self.scan(NativeScan(frame.fields), &state)
        case .put:
            let put = try NativePut(frame.fields)
            return try Self.once(put.writeID, &state) { state in
                if let lease = put.lease, !state.leases.contains(lease) { throw NativeFailure(.leaseUnknown, "gone") }
                Self.change(put.pairs.map { (Array($0.key.readableBytesView), $0.value) }, put.lease, &state)
                return state.revision
            }
        case .grantLease:
            let grant = try NativeGrantLease(frame.fields)
            let written = try Self.once(grant.writeID, &state) { state in
                state.lastLease += 1
                state.leases.insert(state.lastLease)
                return state.lastLease
            }
            return self.lease(written.revision)
        case .keepLease:
            let lease = try NativeKeepLease(frame.fields).lease
            guard state.leases.contains(lease) else { throw NativeFailure(.leaseUnknown, "gone") }
            return self.lease(lease)
        case .revokeLease:
            Self.end([try NativeRevokeLease(frame.fields).lease], &state)
            return written(state.revision)
        case .watch:
            let watch = try NativeWatch(frame.fields)
            let range = KeyRange(watch.ranges[0])
            state.watchers.append(Watcher(connection: connection, id: frame.id, range: range))
            // What was missed is not remembered: whoever watches here hears that something may have changed.
            if let after = watch.after, after < state.revision {
                connection.reply { NativeFrame.write(event: NativeChanges(), .changes, id: frame.id, to: &$0) }
            }
            return NativeWatching()
        case .endWatch:
            let id = try NativeEndWatch(frame.fields).watch
            state.watchers.removeAll { $0.connection === connection && Int64($0.id.rawValue) == id }
            return NativeDone()
        case .closeSession: return NativeDone()
        default: throw NativeFailure(.unknownRequest, "\(kind)")
        }
    }

    private static func opened(_ session: ByteBuffer) -> NativeSessionOpened {
        var opened = NativeSessionOpened()
        opened.session = session
        opened.timeToLiveMilliseconds = 60_000
        opened.maximumOutcomes = 8
        return opened
    }

    private func lease(_ id: Int64) -> NativeLease {
        var lease = NativeLease()
        lease.lease = id
        lease.timeToLiveMilliseconds = self.timeToLive
        lease.remainingMilliseconds = self.timeToLive
        return lease
    }

    private static func get(_ get: NativeGet, _ state: inout State) -> NativeValues {
        var values = NativeValues()
        values.revision = state.revision
        values.entries = get.keys.map { key in
            var entry = NativeEntry()
            if let value = state.values[Array(key.readableBytesView)] {
                entry.value = value.bytes
                entry.revision = value.revision
                entry.lease = value.lease
            }
            return entry
        }
        return values
    }

    private static func scan(_ scan: NativeScan, _ state: inout State) -> NativeScanPage {
        let range = KeyRange(scan.range)
        var page = NativeScanPage()
        page.revision = state.revision
        for (key, value) in state.values.filter({ range.contains($0.key) }).sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
            var entry = NativeEntry()
            entry.key = ByteBuffer(bytes: key)
            entry.revision = value.revision
            page.entries.append(entry)
        }
        return page
    }

    /// A write's outcome is stored with it; a repetition gets it and does nothing.
    private static func once(
        _ id: NativeWriteID?, _ state: inout State, _ body: (inout State) throws -> Int64
    ) throws -> NativeWritten {
        guard let id else { return written(try body(&state)) }
        guard state.outcomes[id.session] != nil else { throw NativeFailure(.sessionUnknown, "no session") }
        state.acknowledged[id.session] = max(state.acknowledged[id.session] ?? 0, id.acknowledged)
        state.outcomes[id.session] = state.outcomes[id.session]?.filter { $0.key > id.acknowledged }
        if let first = state.outcomes[id.session]?[id.sequence] {
            state.repeated += 1
            return written(first)
        }
        if id.sequence <= state.acknowledged[id.session] ?? 0 { throw NativeFailure(.outcomeForgotten, "forgotten") }
        let outcome = try body(&state)
        state.outcomes[id.session]?[id.sequence] = outcome
        return written(outcome)
    }

    private static func change(_ pairs: [([UInt8], ByteBuffer)], _ lease: Int64?, _ state: inout State) {
        state.revision += 1
        for (key, value) in pairs {
            state.values[key] = Value(bytes: value, revision: state.revision, lease: lease)
            state.applied["\(String(decoding: key, as: UTF8.self))=\(String(buffer: value))", default: 0] += 1
        }
        Self.tell(pairs.map(\.0), state)
    }

    private static func end(_ leases: Set<Int64>, _ state: inout State) {
        state.leases.subtract(leases)
        let keys = state.values.filter { $0.value.lease.map(leases.contains) ?? false }.keys
        guard !keys.isEmpty else { return }
        state.revision += 1
        for key in keys { state.values[key] = nil }
        Self.tell(Array(keys), state)
    }

    private static func tell(_ keys: [[UInt8]], _ state: State) {
        var changes = NativeChanges()
        changes.revision = state.revision
        for watcher in state.watchers where keys.contains(where: watcher.range.contains) {
            watcher.connection.reply { [changes] in NativeFrame.write(event: changes, .changes, id: watcher.id, to: &$0) }
        }
    }
}

extension FakeNativeStore {
    /// Runs `body` with a server of this store, whose client's configuration `change` may change.
    func whileServing(
        _ change: (inout StorageClientConfiguration) -> Void = { _ in },
        _ body: (FakeServer, StorageClientConfiguration) async throws -> Void
    ) async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration { configuration in
            configuration.subprotocol = .native
            // Every lost request is sent again: this is about what is done, not about how much.
            configuration.reconnection.retryPercent = 100
            configuration.reconnection.retryReserve = 1000
            configuration.timeouts.request = .seconds(60)
            change(&configuration)
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await self.serve(server) }
            try await body(server, configuration)
            server.connections.finish()
            try await group.waitForAll()
        }
        try await server.stop()
    }
}
