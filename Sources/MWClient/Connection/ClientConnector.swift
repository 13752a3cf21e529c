import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOHTTP1
import NIOPosix

/// Opens connections: material, name and TCP, TLS, opening handshake, each step with its own deadline.
struct ClientConnector: Connector {
    let configuration: StorageClientConfiguration
    /// Asked for in our own opening handshake; a server that does not select it is of no use.
    var subprotocol: String?
    let eventLoop: any EventLoop

    func connect(to endpoint: Endpoint) -> ConnectionAttempt { self.connect(to: endpoint, exchange: nil) }

    /// Begins an attempt. On the event loop only.
    ///
    /// - Parameter exchange: what to ask and what to accept; our own opening handshake if nil.
    func connect(to endpoint: Endpoint, exchange: OpeningExchange?) -> ConnectionAttempt {
        let attempt = ConnectionAttempt(exchange: exchange)
        // Files are read and keys decoded off the loop: it may serve other connections.
        let material = self.configuration.identity
        let verification = self.configuration.verification
        let policy = TLSPolicy(handshakeTimeout: self.configuration.timeouts.tls)
        NIOThreadPool.singleton.runIfActive(eventLoop: self.eventLoop) {
            // Before the contents: what changes while we read is then a change.
            let files = FileSnapshot(of: material.paths)
            let loaded = Result {
                try TLSContext(client: material.load(), verification: verification.serverVerification(for: endpoint), policy: policy)
            }
            return (files, loaded)
        }
        .assumeIsolated().whenComplete { (result: Result<(FileSnapshot, Result<TLSContext, any Error>), any Error>) in
            attempt.files = try? result.get().0
            switch result.flatMap({ $0.1 }) {
            case .success(let tls): self.connect(attempt, to: endpoint, tls)
            case .failure(let error): attempt.complete(.failure(ConnectionError(loading: error)))
            }
        }
        return attempt
    }

    private func connect(_ attempt: ConnectionAttempt, to endpoint: Endpoint, _ tls: TLSContext) {
        guard !attempt.isOver else { return }
        let timeout = self.configuration.timeouts.connect
        let waterMark = self.configuration.limits.unsentBytes
        ClientBootstrap(group: self.eventLoop)
            .connectTimeout(TimeAmount(timeout))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.writeBufferWaterMark, value: .init(low: max(1, waterMark / 2), high: waterMark))
            .connect(host: endpoint.host, port: endpoint.port)
            .assumeIsolated().whenComplete { result in
                switch result {
                case .success(let channel):
                    guard !attempt.isOver else { return channel.close(promise: nil) }
                    self.open(attempt, endpoint, channel, tls)
                case .failure(ChannelError.connectTimeout(_)):
                    attempt.complete(.failure(.timedOut(.connect, after: timeout, "\(endpoint)")))
                case .failure(let error):
                    attempt.complete(.failure(ConnectionError(error, subject: "\(endpoint)")))
                }
            }
    }

    private func open(_ attempt: ConnectionAttempt, _ endpoint: Endpoint, _ channel: any Channel, _ tls: TLSContext) {
        attempt.channel = channel
        do {
            let handler = OpeningHandshakeHandler(
                endpoint: endpoint, exchange: try attempt.exchange ?? self.ownExchange(endpoint),
                timeout: self.configuration.timeouts.upgrade,
                onEncrypted: { attempt.peer = $0 }, completion: { attempt.complete($0) })
            // Only now, and not in the channel's initializer: of several addresses only the one that answered first is worth a handshake.
            try channel.pipeline.syncOperations.addHandlers(
                OpeningHandshakeHandler.pipeline(
                    tls: tls, maximumBytes: self.configuration.limits.maximumOpeningHandshakeBytes, handler))
        } catch {
            attempt.complete(.failure(ConnectionError(error, subject: "\(endpoint)")))
        }
    }
}

extension ClientConnector {
    fileprivate func ownExchange(_ endpoint: Endpoint) throws(WebSocketError) -> OpeningExchange {
        var random = SystemRandomNumberGenerator()
        let nonce = (0..<OpeningHandshake.nonceBytes).map { _ in UInt8.random(in: 0...255, using: &random) }
        return try .webSocket(
            ClientOpeningHandshake(
                authority: endpoint.authority, target: endpoint.path, subprotocols: self.subprotocol.map { [$0] } ?? [], nonce: nonce))
    }
}

/// One attempt; ends once, in a connection, in an error, or cancelled.
package final class ConnectionAttempt {
    private(set) var isOver = false
    /// Whom TLS connected us to, as soon as it has.
    fileprivate(set) var peer: VerifiedPeer?
    /// What our identity was read from.
    fileprivate(set) var files: FileSnapshot?
    fileprivate let exchange: OpeningExchange?
    fileprivate var channel: (any Channel)?
    private var observer: ((Result<OpenedConnection, ConnectionError>) -> Void)?

    package convenience init() { self.init(exchange: nil) }

    init(exchange: OpeningExchange?) { self.exchange = exchange }

    /// `observer` is called once, and not from inside of this call.
    func whenComplete(_ observer: @escaping (Result<OpenedConnection, ConnectionError>) -> Void) { self.observer = observer }

    /// Cuts the attempt off; nobody is told.
    func cancel() {
        self.isOver = true
        self.observer = nil
        self.channel?.close(promise: nil)
    }

    /// Ends the attempt, if it has not ended.
    func complete(_ result: Result<OpenedConnection, ConnectionError>) {
        guard !self.isOver else {
            if case .success(let opened) = result { opened.close() }
            return
        }
        self.isOver = true
        self.channel = nil
        let observer = self.observer
        self.observer = nil
        observer?(result)
    }
}

extension StorageClientConfiguration.Verification {
    /// - Throws: ``ClientError`` with `invalidArgument` for a name or pin that is none.
    func serverVerification(for endpoint: Endpoint) throws -> ServerVerification {
        switch self {
        case .nameFromEndpoint: .name(try Self.serverName(endpoint.host))
        case .name(let name): .name(try Self.serverName(name))
        case .pinned(let pins):
            .pinned(
                Set(
                    try pins.map { text in
                        guard let fingerprint = CertificateFingerprint(text) else {
                            throw ClientError(
                                .invalidArgument, subject: "pin \(text)", what: "is not a SHA-256", expected: "64 hexadecimal digits")
                        }
                        return fingerprint
                    }), sni: ServerName(endpoint.host))
        }
    }

    private static func serverName(_ text: String) throws -> ServerName {
        guard let name = ServerName(text) else {
            throw ClientError.invalid("server name \(text)", "is neither a host name nor an IP address")
        }
        return name
    }
}
