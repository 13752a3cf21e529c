package import Logging
import MWWebSocket
package import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// A plain WebSocket port on loopback whose connections go to a server over mutual TLS: for clients that cannot do it themselves, as
/// mwDB's original one.
///
/// Only the opening handshake is looked at (see ``TunnelAdmission``); behind it bytes pass untouched, both ways, with back-pressure.
package final class Tunnel: Sendable {
    package struct Limits: Sendable {
        /// From the connection to its whole opening request.
        package var openingTimeout: Duration = .seconds(5)
        /// Bytes of the opening request.
        package var maximumOpeningBytes = 16 * 1024
        /// Connections at a time: each is one at the server, too.
        package var maximumConnections = 256

        package init() {}
    }

    /// Where it listens.
    package let address: SocketAddress
    private let listener: any Channel
    private let connections: Connections

    /// Connections that are open, to count and to close them.
    final class Connections: Sendable {
        private let open = Mutex<[ObjectIdentifier: any Channel]>([:])

        func add(_ channel: any Channel, maximum: Int) -> Bool {
            self.open.withLock { open in
                guard open.count < maximum else { return false }
                open[ObjectIdentifier(channel)] = channel
                return true
            }
        }
        func remove(_ channel: any Channel) { self.open.withLock { _ = $0.removeValue(forKey: ObjectIdentifier(channel)) } }
        var all: [any Channel] { self.open.withLock { Array($0.values) } }
    }

    private init(listener: any Channel, address: SocketAddress, connections: Connections) {
        self.listener = listener
        self.address = address
        self.connections = connections
    }

    /// Listens.
    ///
    /// - Parameters:
    ///   - host: `127.0.0.1`, another address of 127.0.0.0/8, or `::1`; nothing else, names neither.
    ///   - port: 0 for one of the system's choice.
    ///   - configuration: where the tunnel leads, and as whom; its queue and reconnection are not used.
    /// - Throws: ``ClientError`` with `invalidArgument` for another address; what the system says when the port is taken.
    package static func start(
        host: String, port: Int, to configuration: StorageClientConfiguration, limits: Limits = Limits(), logger: Logger
    ) async throws -> Tunnel {
        try configuration.validate()
        guard let wanted = try? SocketAddress(ipAddress: host, port: port), Self.isLoopback(wanted) else {
            throw ClientError.invalid(
                host, "is not a loopback address: a tunnel lends your certificate to whoever reaches it",
                remedy: "listen on 127.0.0.1 or ::1")
        }
        let connections = Connections()
        let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard connections.add(channel, maximum: limits.maximumConnections) else { return channel.close(promise: nil) }
                    channel.closeFuture.whenComplete { _ in connections.remove(channel) }
                    try channel.pipeline.syncOperations.addHandlers([
                        OpeningByteLimit(maximumBytes: limits.maximumOpeningBytes),
                        ByteToMessageHandler(HTTPRequestDecoder(leftOverBytesStrategy: .forwardBytes)),
                        TunnelEntranceHandler(configuration: configuration, limits: limits, logger: logger),
                    ])
                }
            }
            .bind(to: wanted).get()
        guard let address = listener.localAddress else { throw ChannelError.ioOnClosedChannel }
        return Tunnel(listener: listener, address: address, connections: connections)
    }

    /// Stops listening and cuts every connection.
    package func stop() async {
        try? await self.listener.close().get()
        for channel in self.connections.all { channel.close(promise: nil) }
    }

    /// Returns when the listener has closed.
    package func waitUntilStopped() async throws { try await self.listener.closeFuture.get() }

    private static func isLoopback(_ address: SocketAddress) -> Bool {
        switch address {
        case .v4: address.ipAddress?.hasPrefix("127.") ?? false
        case .v6: address.ipAddress == "::1"
        case .unixDomainSocket: false
        }
    }
}
