import Dispatch
import EngineContract
import Logging
import MWProtocol
import MWStorage
import MWTLS
import MWWebSocket
import NIOCore
import NIOEmbedded
import Synchronization

@testable import MWServer

/// Sessions on one embedded event loop, without sockets or TLS: time moves when the test says so, and so do the outcomes of commits.
final class SessionHarness {
    let eventLoop = EmbeddedEventLoop()
    let loop: SessionLoop
    let log = LogRecorder()
    let peer: VerifiedPeer
    let principal: Principal

    init(limits: ServerLimits = ServerLimits(), closeCodes: ServerCloseCodes = .init()) throws {
        self.peer = try VerifiedPeers.peer("alice")
        self.principal = try AccessPolicy.none.admit(self.peer).get()
        self.loop = SessionLoop(
            eventLoop: self.eventLoop, limits: limits, closeCodes: closeCodes, census: ConnectionCensus(limits), logger: self.log.logger)
        self.loop.pauseBetweenTurns = .zero
    }

    func connect(_ delegate: any SessionDelegate, as principal: Principal? = nil) throws -> HarnessClient {
        let principal = principal ?? self.principal
        _ = self.loop.census.enter(principal.fingerprint, principal: principal.name)
        let info = SessionInfo(
            connectionID: self.loop.makeConnectionID(), principal: principal, address: "192.0.2.1:4711", subprotocol: nil, tls: "none")
        let session = SessionHandler(info, peer: self.peer, generation: 1, on: self.loop, delegate: delegate)
        let channel = EmbeddedChannel(loop: self.eventLoop)
        try channel.connect(to: SocketAddress(ipAddress: "192.0.2.1", port: 4711)).wait()
        try channel.pipeline.syncOperations.addHandler(session)
        return HarnessClient(channel: channel, session: session)
    }

    /// Enforces the deadlines as of `duration` from the last tick.
    func advance(by duration: Duration) {
        self.loop.ticked(self.loop.now + TimeAmount(duration))
        self.eventLoop.run()
    }
}

/// The client's end of a session in a ``SessionHarness``.
final class HarnessClient {
    let channel: EmbeddedChannel
    let session: SessionHandler
    private var machine = WebSocketStateMachine(role: .client, limits: WebSocketLimits(maximumMessageBytes: 64 * 1024 * 1024))
    private var events: [WebSocketEvent] = []
    /// Writes that reached the network, each as one buffer.
    private(set) var writeCount = 0
    /// Whether pings and close frames are answered as they come.
    var isPolite = true

    init(channel: EmbeddedChannel, session: SessionHandler) {
        self.channel = channel
        self.session = session
    }

    /// Sends messages that arrive in one read.
    func send(_ messages: [ByteBuffer], _ opcode: MessageOpcode = .binary) throws {
        try self.sendWithoutRunning(messages, opcode)
        self.channel.embeddedEventLoop.run()
    }

    /// The same, and what is scheduled on the loop waits.
    func sendWithoutRunning(_ messages: [ByteBuffer], _ opcode: MessageOpcode = .binary) throws {
        var bytes = ByteBuffer()
        for message in messages { self.machine.writeMessage(opcode, message, to: &bytes, maskingKey: 0x1234_5678) }
        try self.channel.writeInbound(bytes)
    }

    func send(_ text: String) throws { try self.send([ByteBuffer(string: text)]) }

    func sendBytes(_ bytes: ByteBuffer) throws {
        try self.channel.writeInbound(bytes)
        self.channel.embeddedEventLoop.run()
    }

    /// What came since the last call.
    func receive() throws -> [WebSocketEvent] {
        self.channel.embeddedEventLoop.run()
        var outbound = ByteBuffer()
        while let bytes = try self.channel.readOutbound(as: ByteBuffer.self) {
            self.writeCount += 1
            self.machine.bytesReceived(bytes)
            while let event = self.machine.nextEvent(outbound: &outbound, maskingKey: 1) { self.events.append(event) }
        }
        let events = self.events
        self.events = []
        if self.isPolite, outbound.readableBytes > 0, self.channel.isActive { try self.sendBytes(outbound) }
        return events
    }

    /// The messages that came since the last call, as text; other events fail the caller's comparison.
    func messages() throws -> [String] {
        try self.receive().map { event in
            switch event {
            case .message(_, let payload): return String(buffer: payload)
            default: return "\(event)"
            }
        }
    }

    var isClosed: Bool { !self.channel.isActive }
}

/// A network that takes little: it stands in front of a session and says when it has enough.
final class NarrowNetwork: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Bytes after which it is not writable.
    let limit: Int
    /// Whether a flush takes everything, and says so before it returns.
    var takesOnFlush = false
    /// Whether flushes are kept from the network: what is written stays buffered.
    var isStuck = false
    /// Called before a flush takes what was written.
    var onFlush: () -> Void = {}
    private(set) var writes: [Int] = []
    private var unsent = 0

    init(limit: Int) { self.limit = limit }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let bytes = self.unwrapOutboundIn(data).readableBytes
        self.writes.append(bytes)
        self.unsent += bytes
        context.write(data, promise: promise)
        self.say(self.unsent <= self.limit, context)
    }

    func flush(context: ChannelHandlerContext) {
        guard !self.isStuck else { return }
        self.onFlush()
        context.flush()
        if self.takesOnFlush { self.take(context) }
    }

    /// The peer has read everything.
    func take(_ context: ChannelHandlerContext) {
        self.unsent = 0
        self.say(true, context)
    }

    private func say(_ isWritable: Bool, _ context: ChannelHandlerContext) {
        guard let channel = context.channel as? EmbeddedChannel, channel.isWritable != isWritable else { return }
        channel.isWritable = isWritable
        context.fireChannelWritabilityChanged()
    }
}

extension HarnessClient {
    func narrow(to limit: Int) throws -> NarrowNetwork {
        let network = NarrowNetwork(limit: limit)
        try self.channel.pipeline.syncOperations.addHandler(network, position: .first)
        return network
    }

    /// The peer has read everything.
    func take(_ network: NarrowNetwork) throws {
        network.take(try self.channel.pipeline.syncOperations.context(handler: network))
        self.channel.embeddedEventLoop.run()
    }
}

/// Answers each message with itself.
final class EchoDelegate: SessionDelegate {
    private(set) var hasEnded = false
    /// Requests to leave unanswered until ``finish(_:)``.
    var defersAnswers = false

    private(set) var receivedAfterEnd = 0

    func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        if self.hasEnded { self.receivedAfterEnd += 1 }
        if self.defersAnswers { session.requestStarted() } else { session.send(opcode, payload) }
    }

    func finish(_ count: Int, in session: SessionHandler) {
        for _ in 0..<count {
            session.send(.binary, ByteBuffer(string: "late"))
            session.requestEnded()
        }
    }

    func sessionEnded(_ session: SessionHandler) { self.hasEnded = true }
}

/// Sessions over a store in memory; a test says when outcomes reach the event loop.
final class StorageHarness {
    let sessions: SessionHarness
    let disk = MemoryDisk()
    let storage: Storage
    let loop: StorageLoop
    private let directory: String
    private let arrived = DispatchSemaphore(value: 0)
    private let outcomes: Outcomes
    private let observation: StorageObservation

    private final class Outcomes: Sendable {
        let batches = Mutex<[[CommitOutcome]]>([])
        let reloads = Mutex<[ReloadBatch]>([])
    }

    init(limits: ServerLimits = ServerLimits()) throws {
        self.sessions = try SessionHarness(limits: limits)
        self.directory = try makeTemporaryDirectory()
        self.storage = try Storage.open(directory: self.directory, engine: .memory(self.disk))
        let outcomes = Outcomes()
        self.outcomes = outcomes
        let arrived = self.arrived
        let submitter = self.storage.makeSubmitter { batch in
            outcomes.batches.withLock { $0.append(batch) }
            for _ in batch { arrived.signal() }
        }
        let reloads = ReloadBroadcaster { batch in outcomes.reloads.withLock { $0.append(batch) } }
        self.observation = self.storage.observe(reloads)
        self.loop = StorageLoop(on: self.sessions.loop, storage: self.storage, submitter: submitter, reloads: reloads)
        self.sessions.loop.factory = self.loop
    }

    deinit {
        self.observation.cancel()
        self.storage.close()
        removeDirectory(self.directory)
    }

    func connect(as principal: Principal? = nil) throws -> HarnessClient {
        let info = SessionInfo(connectionID: 0, principal: principal ?? self.sessions.principal, address: "", subprotocol: nil, tls: "")
        return try self.sessions.connect(self.loop.makeDelegate(for: info), as: principal)
    }

    /// A client of the native protocol.
    func connectNative(as principal: Principal? = nil) throws -> NativeHarnessClient {
        let info = SessionInfo(
            connectionID: 0, principal: principal ?? self.sessions.principal, address: "", subprotocol: nativeSubprotocol, tls: "")
        return NativeHarnessClient(try self.sessions.connect(self.loop.makeDelegate(for: info), as: principal), self)
    }

    /// What a program that embeds the server puts; waits until it is stored.
    func putInProcess(_ key: String, _ value: String) throws {
        let stored = DispatchSemaphore(value: 0)
        let submitter = self.storage.makeSubmitter { _ in stored.signal() }
        try submitter.submit(token: 0) { (batch) throws(StorageError) in try batch.put(Array(key.utf8), Array(value.utf8)) }
        submitter.flush()
        stored.wait()
    }

    /// Waits until storage has answered `count` requests, which the next delivery brings to the event loop.
    func awaitOutcomes(_ count: Int) {
        for _ in 0..<count where self.arrived.wait(timeout: .now() + .seconds(600)) == .timedOut {
            fatalError("storage was not asked, or does not answer")
        }
    }

    /// Waits until storage has answered `count` requests, and brings that to the event loop.
    func deliver(_ count: Int) {
        self.awaitOutcomes(count)
        let reloads = self.outcomes.reloads.withLock { reloads in
            defer { reloads = [] }
            return reloads
        }
        for batch in reloads { self.loop.reloadsCommitted(batch) }
        let batches = self.outcomes.batches.withLock { batches in
            defer { batches = [] }
            return batches
        }
        for batch in batches { self.loop.outcomesDelivered(batch) }
        self.sessions.eventLoop.run()
    }
}

/// Keeps what was logged.
final class LogRecorder: Sendable {
    struct Line: Sendable {
        let level: Logger.Level
        let message: String
        let metadata: [String: String]
    }

    private let recorded = Mutex<[Line]>([])

    var lines: [Line] { self.recorded.withLock { $0 } }

    func lines(_ message: String) -> [Line] { self.lines.filter { $0.message == message } }

    /// The first such line, once there is one: a server may write it after its client has gone on.
    func first(_ message: String) async -> Line {
        while true {
            if let line = self.lines(message).first { return line }
            await Task.yield()
        }
    }

    var logger: Logger { Logger(label: "test") { _ in Handler(recorder: self) } }

    private struct Handler: LogHandler {
        let recorder: LogRecorder
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { self.metadata[key] }
            set { self.metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let metadata = (event.metadata ?? [:]).mapValues { "\($0)" }
            let line = Line(level: event.level, message: "\(event.message)", metadata: metadata)
            self.recorder.recorded.withLock { $0.append(line) }
        }
    }
}
