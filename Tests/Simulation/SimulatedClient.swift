import Logging
import MWClient
import MWPKI
import NIOCore

extension ModelledClient {
    /// A client on the network of a simulation, that loses patience soon.
    init(number: Int, network: SimulatedNetwork, seed: UInt64) throws {
        let nowhere = TLSMaterialSource.pem(certificateChainFile: "", privateKeyFile: "", trustFile: "")
        var configuration = StorageClientConfiguration(endpoints: [try Endpoint("wss://localhost:1")], identity: nowhere)
        configuration.identityWatchInterval = nil
        configuration.timeouts.connect = .seconds(1)
        configuration.timeouts.upgrade = .seconds(1)
        configuration.timeouts.pingInterval = .seconds(1)
        configuration.timeouts.pong = .seconds(1)
        configuration.timeouts.request = .seconds(8)
        configuration.timeouts.closingHandshake = .milliseconds(500)
        configuration.timeouts.drain = .seconds(1)
        configuration.reconnection.base = .milliseconds(10)
        configuration.reconnection.cap = .milliseconds(400)
        let client = try StorageClient(
            configuration: configuration, logger: Logger(label: "simulation") { _ in SwiftLogNoOpLogHandler() },
            eventLoop: network.clock.eventLoop, environment: network.environment(of: number, seed: seed))
        self.init(number: number, client)
    }
}
