import EngineContract
import MWProtocol
import MWStorage
import MWWebSocket
import NIOCore
import NIOEmbedded
import Synchronization

@testable import MWServer

/// Watches on one embedded event loop, over a store in memory whose commits and clock are moved by the test: nothing happens by itself.
final class WatchHarness {
    let sessions: SessionHarness
    let disk = MemoryDisk()
    let storage: Storage
    let hub = WatchHub()
    let watches: WatchLoop
    let loop: StorageLoop
    private let directory: String
    private let submitter: Submitter
    private let outcomes = Outcomes()
    private var observation: StorageObservation?
    private let clock = Clock()

    private final class Outcomes: Sendable {
        let ended = Mutex<[CommitOutcome]>([])
        let wakes = Mutex(0)
    }

    private final class Clock: Sendable {
        let now = Mutex(Duration.zero)
    }

    init(
        limits: ServerLimits = ServerLimits(), bytesPerTurn: Int = WatchLoop.defaultBytesPerTurn,
        storage change: (inout StorageLimits) -> Void = { _ in }
    ) throws {
        self.sessions = try SessionHarness(limits: limits)
        self.directory = try makeTemporaryDirectory()
        var options = StorageOptions()
        change(&options.limits)
        options.commits = .manual
        options.clock = { [clock] in clock.now.withLock { $0 } }
        self.storage = try Storage.open(directory: self.directory, engine: .memory(self.disk), options: options)
        let outcomes = self.outcomes
        self.submitter = self.storage.makeSubmitter { ended in outcomes.ended.withLock { $0 += ended } }
        self.watches = WatchLoop(on: self.sessions.loop, storage: self.storage, hub: self.hub, bytesPerTurn: bytesPerTurn) {
            outcomes.wakes.withLock { $0 += 1 }
        }
        self.loop = StorageLoop(
            on: self.sessions.loop, storage: self.storage, submitter: self.storage.makeSubmitter { _ in }, watches: self.watches)
        self.sessions.loop.factory = self.loop
        self.observation = self.storage.observe(self.hub)
    }

    deinit {
        self.observation?.cancel()
        self.storage.close()
        removeDirectory(self.directory)
    }

    func connect(as principal: Principal? = nil) throws -> WatchPeer {
        let info = SessionInfo(
            connectionID: 0, principal: principal ?? self.sessions.principal, address: "", subprotocol: nativeSubprotocol, tls: "")
        return WatchPeer(try self.sessions.connect(self.loop.makeDelegate(for: info), as: principal))
    }

    // MARK: The store

    /// Adds a request to the next commit; a nil value removes.
    func submit(_ changes: [(key: String, value: String?)]) throws {
        try self.submitter.submit(token: 0) { (batch) throws(StorageError) in
            for (key, value) in changes {
                if let value { try batch.put(Array(key.utf8), Array(value.utf8)) } else { try batch.remove(Array(key.utf8)) }
            }
        }
        self.submitter.flush()
    }

    /// Commits what was submitted; what it brings stays in the mailbox.
    func commit() { self.storage.runCommits() }

    /// One request, committed, and told to whom it concerns. Returns its revision.
    @discardableResult
    func put(_ changes: (key: String, value: String?)...) throws -> UInt64 {
        try self.submit(changes)
        self.commit()
        self.run()
        return self.storage.revision.number
    }

    func compact() throws {
        try self.submitter.compact(to: self.storage.revision, token: 1)
        self.submitter.flush()
        self.commit()
    }

    /// How many requests have failed so far.
    var failures: Int {
        self.outcomes.ended.withLock { $0.count { if case .failed = $0.result { true } else { false } } }
    }

    func advanceClock(by duration: Duration) { self.clock.now.withLock { $0 += duration } }

    /// Commits are not seen until they are again.
    func stopObserving() {
        self.observation?.cancel()
        self.observation = nil
    }

    func observeAgain() { self.observation = self.storage.observe(self.hub) }

    // MARK: The loop

    /// Brings what was committed to the loop if it was woken, and runs what is due there.
    func run() {
        let isWoken = self.outcomes.wakes.withLock { wakes in
            defer { wakes = 0 }
            return wakes > 0
        }
        if isWoken { self.watches.deliverInTurn() }
        // Reading goes on in turns, a little apart.
        for _ in 0..<40 { self.sessions.eventLoop.advanceTime(by: .milliseconds(1)) }
    }

    func tick(after duration: Duration = .seconds(1)) {
        self.sessions.advance(by: duration)
        self.run()
    }
}

/// The other end of a connection with watches.
final class WatchPeer {
    let client: HarnessClient
    private var nextID: Int32 = 1

    init(_ client: HarnessClient) { self.client = client }

    @discardableResult
    func send<Request: NativeRequest>(_ request: Request, id: Int32? = nil) throws -> Int32 {
        let number = id ?? self.nextID
        if id == nil { self.nextID += 1 }
        try self.client.send([Self.message(request, id: number)])
        return number
    }

    static func message<Request: NativeRequest>(_ request: Request, id: Int32) -> ByteBuffer {
        var message = ByteBuffer()
        NativeFrame.write(request, id: RequestID(id), to: &message)
        return message
    }

    /// What came since the last call, a line each.
    func said() throws -> [String] { try self.frames().map { try Self.line($0) } }

    func frames() throws -> [NativeFrame] {
        try self.client.receive().flatMap { event -> [NativeFrame] in
            switch event {
            case .message(.binary, let payload): return try NativeFrame.all(in: payload)
            case .ping, .pong: return []
            default: throw TestPeer.Ended(reason: "\(event)")
            }
        }
    }

    static func line(_ frame: NativeFrame) throws -> String {
        switch frame.role {
        case .event: return "\(frame.id) \(try self.eventLine(frame))"
        case .failure: return "\(frame.id) \(try NativeFailure(frame.fields).code)"
        default:
            switch NativeRequestKind(rawValue: frame.kind) {
            case .watch: return "\(frame.id) watching behind \(try NativeWatching(frame.fields).revision)"
            case .progress: return "\(frame.id) progress \(try NativeProgress(frame.fields).revision)"
            case let kind: return "\(frame.id) \(kind) done"
            }
        }
    }

    private static func eventLine(_ frame: NativeFrame) throws -> String {
        switch NativeEventKind(rawValue: frame.kind) {
        case .changes:
            let changes = try NativeChanges(frame.fields)
            let texts = changes.changes.map { change in
                let previous = change.previousRevision == 0 ? "" : " after \(change.previousRevision)"
                return String(buffer: change.key) + (change.isRemoval ? " removed" : "=\(String(buffer: change.value))") + previous
            }
            return "@\(changes.revision) \(texts.joined(separator: ", "))\(changes.isContinued ? " …" : "")"
        case .state:
            let state = try NativeState(frame.fields)
            let texts = state.entries.map { "\(String(buffer: $0.key))=\(String(buffer: $0.value))@\($0.revision)" }
            return "state @\(state.revision) \(texts.joined(separator: ", "))"
        case .synced: return "synced @\(try NativeSynced(frame.fields).revision)"
        case .progress: return "progress @\(try NativeProgress(frame.fields).revision)"
        case .resync: return "resync @\(try NativeResync(frame.fields).revision)"
        case .watchEnded: return "ended \(try NativeWatchEnded(frame.fields).failure.code)"
        case let kind: return "\(kind)"
        }
    }
}

extension NativeRange {
    init(_ lower: String, _ upper: String? = nil) {
        self.init()
        self.lower = ByteBuffer(string: lower)
        self.upper = upper.map { ByteBuffer(string: $0) }
    }
}

extension NativeWatch {
    init(
        _ ranges: NativeRange..., after: UInt64? = nil, of storage: Storage? = nil, isWithoutValues: Bool = false, isWithState: Bool = false
    ) {
        self.init()
        self.ranges = ranges
        self.after = after.map { Int64($0) }
        if let storage { self.incarnation = ByteBuffer(integer: storage.incarnation.number) }
        self.isWithoutValues = isWithoutValues
        self.isWithState = isWithState
    }
}

extension NativeProgressRequest {
    init(of watch: Int32) {
        self.init()
        self.watch = Int64(watch)
    }
}

extension NativeEndWatch {
    init(_ watch: Int32) {
        self.init()
        self.watch = Int64(watch)
    }
}
