package import MWTLS
package import NIOCore

/// Opens connections for an engine: `ClientConnector` over TCP and TLS; in a simulation, pipes in memory.
package protocol Connector {
    /// Begins an attempt. On the event loop only.
    func connect(to endpoint: Endpoint) -> ConnectionAttempt
}

/// What an engine takes from outside and a simulation makes itself, so that a run can be repeated: connections and chance.
package struct ClientEnvironment: Sendable {
    package typealias MakeConnector = @Sendable (StorageClientConfiguration, _ subprotocol: String?, any EventLoop) -> any Connector

    package var makeConnector: MakeConnector = { ClientConnector(configuration: $0, subprotocol: $1, eventLoop: $2) }
    /// The order of endpoints, and the jitter of backoffs.
    package var random: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()

    package init() {}
}

extension ConnectionAttempt {
    /// Ends in a connection, if it has not ended: `channel` speaks WebSocket, and nothing was received on it.
    package func opened(_ channel: any Channel, to endpoint: Endpoint, peer: VerifiedPeer) {
        self.complete(.success(OpenedConnection(endpoint: endpoint, peer: peer, channel: channel)))
    }

    /// Ends, if it has not ended: nobody is there.
    package func failed() { self.complete(.failure(.cut)) }
}
