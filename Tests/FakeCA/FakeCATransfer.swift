package import MWACME
package import MWPKI
internal import Synchronization

/// One or more fake CAs as a network: a request goes to the CA whose name its URL has.
package final class FakeCATransfer: ACMETransfer, Sendable {
    // Safety: only used under its lock.
    private struct World: @unchecked Sendable {
        var cas: [String: FakeCA] = [:]
        var requests: [String] = []
        var isDown: Set<String> = []
    }

    private let world: Mutex<World>
    private let now: @Sendable () -> Timestamp

    /// - Parameter now: the CAs' clock.
    package init(_ ca: FakeCA, now: @escaping @Sendable () -> Timestamp) {
        var world = World()
        world.cas["ca.test"] = ca
        self.world = Mutex(world)
        self.now = now
    }

    /// Another one, at `https://HOST/`.
    package func add(_ ca: FakeCA, host: String) {
        var ca = ca
        ca.base = "https://\(host)"
        world.withLock { [ca] in $0.cas[host] = ca }
    }

    /// Looks into, or changes, a CA.
    package func with<Value>(_ host: String = "ca.test", _ body: (inout FakeCA) throws -> sending Value) rethrows -> sending Value {
        try world.withLock { world in
            guard var ca = world.cas[host] else { preconditionFailure("no CA \(host)") }
            defer { world.cas[host] = ca }
            return try body(&ca)
        }
    }

    /// What is presented, to every CA.
    package func present(_ answer: ChallengeAnswer) { world.withLock { for host in $0.cas.keys { $0.cas[host]?.world.insert(answer) } } }
    package func remove(_ answer: ChallengeAnswer) { world.withLock { for host in $0.cas.keys { $0.cas[host]?.world.remove(answer) } } }

    /// As if its cable were pulled.
    package func setDown(_ isDown: Bool, host: String = "ca.test") {
        world.withLock { _ = isDown ? $0.isDown.insert(host).inserted : ($0.isDown.remove(host) != nil) }
    }

    /// `METHOD URL` of all so far.
    package var requests: [String] { world.withLock { $0.requests } }

    package func send(_ request: HTTPRequest, timeout: Duration) async throws(TransferFailure) -> HTTPResponse {
        let host = String(request.url.dropFirst("https://".count).prefix { $0 != "/" })
        let now = now()
        let result: Result<HTTPResponse, TransferFailure> = world.withLock { world in
            world.requests.append("\(request.method.rawValue) \(request.url)")
            guard !world.isDown.contains(host), var ca = world.cas[host] else { return .failure(.connect("refused")) }
            defer { world.cas[host] = ca }
            do { return try ca.answer(request, at: now) } catch { return .failure(.other("\(error)")) }
        }
        return try result.get()
    }
}
