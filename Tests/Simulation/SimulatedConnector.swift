import History
import Logging
import MWClient
import MWPKI
import MWServer
import MWTLS
import NIOCore
import NIOEmbedded

/// What a network does to connections, until it is healed.
struct NetworkFaults {
    /// Percent of the connections.
    var cuts = 0
    var stalls = 0
    /// The attempt is never answered.
    var swallowedAttempts = 0
    var refusedAttempts = 0
    /// Bytes after which a cut or stall comes, at most.
    var faultBytes = 3_000
    var latency = 50...2_000
    var windowBytes = 64 * 1024
    var segmentBytes = 64 * 1024
}

/// Every connection between the clients and the server.
// Safety: used on one thread only.
final class SimulatedNetwork: @unchecked Sendable {
    let clock: SimulatedClock
    let server: SimulatedServer
    var faults = NetworkFaults()
    var mutation: Mutation?
    private(set) var links: [Int: SimulatedLink] = [:]
    private(set) var linkCount = 0
    private let serverPeer: VerifiedPeer

    /// - Parameter serverPeer: Whom clients see.
    init(clock: SimulatedClock, server: SimulatedServer, serverPeer: VerifiedPeer) {
        self.clock = clock
        self.server = server
        self.serverPeer = serverPeer
    }

    /// From now on nothing goes wrong; connections that nobody would ever hear of again are cut.
    func heal() {
        self.faults = NetworkFaults()
        for (_, link) in self.links.sorted(by: { $0.key < $1.key }) {
            if link.faults.stall != nil { link.cut() } else { link.faults = LinkFaults() }
        }
    }

    /// Cuts a connection that is open.
    func cutAny() {
        let open = self.links.sorted { $0.key < $1.key }
        if !open.isEmpty { open[self.clock.any(0...(open.count - 1))].value.cut() }
    }

    /// Tries to connect for `client`; `completion` gets nothing if nobody is there, and is not called if nobody will ever say.
    fileprivate func connect(_ client: Int, subprotocol: String?, _ completion: @escaping (SimulatedLink?) -> Void) {
        let faults = self.faults
        if self.clock.chance(faults.swallowedAttempts) { return self.clock.log("client \(client)'s attempt is swallowed") }
        let isRefused = self.clock.chance(faults.refusedAttempts)
        self.clock.after(self.clock.delay(faults.latency)) {
            guard self.server.isUp, !isRefused, let link = try? self.makeLink(faults) else { return completion(nil) }
            self.clock.log("client \(client) has link \(link.number)")
            completion(link)
            do {
                try self.server.accept(link, as: client, subprotocol: subprotocol)
            } catch {
                link.cut()
            }
        }
    }

    private func makeLink(_ faults: NetworkFaults) throws -> SimulatedLink {
        self.linkCount += 1
        var own = LinkFaults()
        own.latency = faults.latency
        own.windowBytes = faults.windowBytes
        own.segmentBytes = faults.segmentBytes
        if self.clock.chance(faults.cuts) {
            own.cut = (self.clock.chance(50) ? .toServer : .toClient, self.clock.any(1...faults.faultBytes))
        }
        if self.clock.chance(faults.stalls) {
            own.stall = (self.clock.chance(50) ? .toServer : .toClient, self.clock.any(1...faults.faultBytes))
        }
        let waterMarks = (server: self.server.limits.maximumUnsentBytes, client: 1 << 20)
        let link = try SimulatedLink(number: self.linkCount, clock: self.clock, faults: own, waterMarks: waterMarks) { [weak self] link in
            self?.links[link.number] = nil
        }
        if let mutation = self.mutation { link.mutator = LinkMutator(mutation, clock: self.clock) }
        self.links[link.number] = link
        return link
    }

    /// The environment of the client with this number.
    func environment(of client: Int, seed: UInt64) -> ClientEnvironment {
        var environment = ClientEnvironment()
        environment.makeConnector = { [self] configuration, subprotocol, _ in
            SimulatedConnector(
                network: self, client: client, subprotocol: subprotocol, serverPeer: self.serverPeer,
                timeout: configuration.timeouts.connect)
        }
        environment.random = SeededGenerator(seed: seed)
        return environment
    }

    func abandon() {
        for link in self.links.values { link.abandon() }
        self.links = [:]
    }
}

private struct SimulatedConnector: Connector {
    let network: SimulatedNetwork
    let client: Int
    let subprotocol: String?
    let serverPeer: VerifiedPeer
    let timeout: Duration

    func connect(to endpoint: Endpoint) -> ConnectionAttempt {
        let attempt = ConnectionAttempt()
        let timer = self.network.clock.after(TimeAmount(self.timeout)) { attempt.failed() }
        self.network.connect(self.client, subprotocol: self.subprotocol) { link in
            timer.cancel()
            guard let link else { return attempt.failed() }
            attempt.opened(link.client, to: endpoint, peer: self.serverPeer)
            link.client.pipeline.read()
        }
        return attempt
    }
}
