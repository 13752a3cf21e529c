import NIOCore

/// Opens connections for an engine: ``ClientConnector`` over TCP and TLS; in a simulation, pipes in memory.
protocol Connector {
    /// Begins an attempt. On the event loop only.
    func connect(to endpoint: Endpoint) -> ConnectionAttempt
}

/// What an engine takes from outside and a simulation makes itself, so that a run can be repeated: connections and chance.
struct ClientEnvironment: Sendable {
    typealias MakeConnector = @Sendable (StorageClientConfiguration, _ subprotocol: String?, any EventLoop) -> any Connector

    var makeConnector: MakeConnector = { ClientConnector(configuration: $0, subprotocol: $1, eventLoop: $2) }
    /// The order of endpoints, and the jitter of backoffs.
    var random: any RandomNumberGenerator & Sendable = SystemRandomNumberGenerator()
}
