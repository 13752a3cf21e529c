import Glibc
import Logging
import MWPKI
import MWProtocol
import MWServer
import MWStorage
import MWTLS
import MWWebSocket
import NIOCore
import NIOEmbedded

/// Peers that know each other: a server's and a client's side of TLS.
struct Peers {
    let server: TLSContext
    let client: TLSContext
    let peer: VerifiedPeer
    let principal: Principal

    struct HandshakeFailed: Error {}

    init() throws {
        let authority = try CertificateBuilder.authority(name: "Instructions").identity()
        let trust = try TrustStore(anchors: [TrustAnchor(certificate: authority.leaf)])
        let server = try CertificateBuilder.server(names: ["localhost"]).identity(issuer: authority)
        let client = try CertificateBuilder.client(name: "client").identity(issuer: authority)
        self.server = try TLSContext(server: TLSMaterial(identity: server, trustStore: trust))
        self.client = try TLSContext(
            client: TLSMaterial(identity: client, trustStore: trust), verification: .name(.dns("localhost")))
        self.peer = try SessionPair(self.client, self.server).peer
        self.principal = try AccessPolicy.none.admit(self.peer).get()
    }
}

/// Both ends of a TLS connection without a network.
final class SessionPair {
    var client: TLSSession
    var server: TLSSession
    /// Who the server found at the other end.
    let peer: VerifiedPeer

    init(_ clientContext: TLSContext, _ serverContext: TLSContext) throws {
        var client = TLSSession(context: clientContext)
        var server = TLSSession(context: serverContext)
        var found: VerifiedPeer?
        while found == nil || client.phase == .handshaking {
            if client.phase == .handshaking, case .failed(let error) = client.handshake() { throw error }
            server.receive(client.takeOutboundCiphertext())
            if server.phase == .handshaking {
                switch server.handshake() {
                case .established(let peer): found = peer
                case .failed(let error): throw error
                case .needsCiphertext, .challengeAnswered: break
                }
            }
            client.receive(server.takeOutboundCiphertext())
        }
        guard let found else { throw Peers.HandshakeFailed() }
        self.peer = found
        self.client = client
        self.server = server
    }
}

/// The server from its sessions to its commits, on one thread, over ``ArenaEngine`` behind the cache of hot values.
// Safety: used on one thread; what the store calls from its commits is called by `commit()`, on that thread.
final class ServerRig: @unchecked Sendable {
    let peers: Peers
    let eventLoop = DirectLoop()
    let storage: Storage
    private let sessions: SessionLoop
    private let directory: String
    private let hub = WatchHub()
    private var loop: StorageLoop?
    private var watches: WatchLoop?
    private var observations: [StorageObservation] = []

    init() throws {
        self.peers = try Peers()
        self.directory = try FileDescriptor.makeTemporaryDirectory(in: unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp")
        var options = StorageOptions()
        options.commits = .manual
        options.clock = { .seconds(1) }
        options.wallClock = { 1_700_000_000_000 }
        self.storage = try Storage.open(directory: self.directory, engine: ArenaEngine.factory, options: options)
        let limits = ServerLimits()
        self.sessions = SessionLoop(
            eventLoop: self.eventLoop, limits: limits, census: ConnectionCensus(limits),
            logger: Logger(label: "instructions") { _ in SwiftLogNoOpLogHandler() })
        self.sessions.pauseBetweenTurns = .zero
        // As StorageLoops and StorageServer tie them together.
        let submitter = self.storage.makeSubmitter { [unowned self] outcomes in
            self.eventLoop.execute { self.loop?.outcomesDelivered(outcomes) }
        }
        let reloads = ReloadBroadcaster { [unowned self] batch in
            self.eventLoop.execute { self.loop?.reloadsCommitted(batch) }
        }
        let watches = WatchLoop(on: self.sessions, storage: self.storage, hub: self.hub) { [unowned self] in
            self.eventLoop.execute { self.watches?.deliverInTurn() }
        }
        let loop = StorageLoop(on: self.sessions, storage: self.storage, submitter: submitter, reloads: reloads, watches: watches)
        self.watches = watches
        self.loop = loop
        self.sessions.factory = loop
        self.observations = [self.storage.observe(self.hub), self.storage.observe(reloads)]
    }

    deinit {
        for observation in self.observations { observation.cancel() }
        self.storage.close()
        FileDescriptor.removeDirectory(self.directory)
    }

    /// Commits what is submitted, and brings it to the loop.
    func commit() {
        self.eventLoop.run()
        self.storage.runCommits()
        self.eventLoop.run()
    }

    /// Has `pairs` in the store.
    func fill(_ pairs: [(key: [UInt8], value: [UInt8])]) throws {
        let submitter = self.storage.makeSubmitter { _ in }
        for (key, value) in pairs {
            try submitter.submit(token: 0) { (batch) throws(StorageError) in try batch.put(key, value) }
        }
        submitter.flush()
        self.commit()
    }

    /// - Parameter subprotocol: nil is mwDB's.
    func connect(subprotocol: String?, isEncrypted: Bool) throws -> RigConnection {
        guard let loop = self.loop else { preconditionFailure("the loop lives as long as the server") }
        let channel = EmbeddedChannel(loop: self.eventLoop.embedded)
        let connection = RigConnection(channel)
        try channel.connect(to: SocketAddress(ipAddress: "192.0.2.1", port: 4711)).wait()
        try channel.pipeline.syncOperations.addHandler(connection.network)
        if isEncrypted { try connection.encrypt(self.peers, self.sessions.buffers) }
        let info = SessionInfo(
            connectionID: self.sessions.makeConnectionID(), principal: self.peers.principal, address: "192.0.2.1:4711",
            subprotocol: subprotocol, tls: "none")
        _ = self.sessions.census.enter(self.peers.principal.fingerprint, principal: self.peers.principal.name)
        let session = SessionHandler(
            info, peer: self.peers.peer, generation: 1, on: self.sessions, delegate: loop.makeDelegate(for: info))
        try channel.pipeline.syncOperations.addHandler(session)
        return connection
    }
}

/// A connection to a ``ServerRig``, and the client's side of it.
final class RigConnection {
    let network = CountingNetwork()
    private let channel: EmbeddedChannel
    private let pipeline: ChannelPipeline.SynchronousOperations
    private var machine = WebSocketStateMachine(role: .client)
    private var client: TLSClient?
    /// What is still to be received, the next one last.
    private var inbound: [ByteBuffer] = []

    private final class TLSClient {
        var session: TLSSession
        init(_ context: TLSContext) { self.session = TLSSession(context: context) }
    }

    fileprivate init(_ channel: EmbeddedChannel) {
        self.channel = channel
        self.pipeline = channel.pipeline.syncOperations
    }

    fileprivate func encrypt(_ peers: Peers, _ buffers: BufferPool) throws {
        let client = TLSClient(peers.client)
        self.client = client
        self.network.keeps = true
        try self.pipeline.addHandler(TLSHandler(context: peers.server, buffers: buffers))
        for _ in 0..<4 {
            if client.session.phase == .handshaking, case .failed(let error) = client.session.handshake() { throw error }
            let hello = client.session.takeOutboundCiphertext()
            if hello.readableBytes > 0 { self.receive(hello) }
            for bytes in self.network.takeKept() { client.session.receive(bytes) }
        }
        guard client.session.phase == .established else { throw Peers.HandshakeFailed() }
        self.network.keeps = false
        self.network.sentBytes = 0
    }

    /// One read that brings `messages`, as often as `count` says, each in a buffer of its own, as the socket or TLS makes it.
    func prepare(_ messages: [ByteBuffer], count: Int) throws {
        var frames = ByteBuffer()
        for message in messages { self.machine.writeMessage(.binary, message, to: &frames, maskingKey: 0x1234_5678) }
        var made: [ByteBuffer] = []
        for _ in 0..<count {
            if let client = self.client {
                try client.session.write(frames)
                made.append(client.session.takeOutboundCiphertext())
            } else {
                made.append(ByteBuffer(bytes: frames.readableBytesView))
            }
        }
        self.inbound = made.reversed() + self.inbound
    }

    /// The next read.
    func receiveNext() { self.receive(self.inbound.removeLast()) }

    @inline(__always)
    private func receive(_ bytes: consuming ByteBuffer) {
        self.pipeline.fireChannelRead(NIOAny(bytes))
        self.pipeline.fireChannelReadComplete()
    }
}

/// Takes everything, and counts it.
final class CountingNetwork: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    fileprivate(set) var sentBytes = 0
    fileprivate var keeps = false
    private var kept: [ByteBuffer] = []
    private var promises: [EventLoopPromise<Void>] = []

    fileprivate func takeKept() -> [ByteBuffer] {
        defer { self.kept = [] }
        return self.kept
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let bytes = self.unwrapOutboundIn(data)
        self.sentBytes += bytes.readableBytes
        if self.keeps { self.kept.append(bytes) }
        if let promise { self.promises.append(promise) }
    }

    func flush(context: ChannelHandlerContext) {
        guard !self.promises.isEmpty else { return }
        let promises = self.promises
        self.promises = []
        for promise in promises { promise.succeed() }
    }

    func read(context: ChannelHandlerContext) {}
}
