import FakeCA
import MWACME
import MWPKI
import Synchronization
import TestCertificates
import TestHTTPS

/// The fake CA behind real HTTPS, so that what it does wrong goes through TLS, libcurl and all of ours.
final class FakeHTTPSCA: Sendable {
    /// What a wire can do that a value cannot.
    enum WireFault: Sendable, CaseIterable {
        /// RST after the request.
        case reset
        /// The connection ends without a reply.
        case hangUp
        /// The headers promise more than comes.
        case truncated
        /// 10 MB of JSON.
        case oversized
        /// A byte now and then.
        case slowLoris
        /// No HTTP at all.
        case garbage
        /// A web page where JSON should be.
        case html
        case error500, error503
    }

    /// The answers of `challenge` in the CA's world, the wire and the clock.
    private struct State {
        var ca: FakeCA
        var fault: @Sendable (FakeCA.Route, Int) -> WireFault? = { _, _ in nil }
        /// By how much the CA's clock differs.
        var skewSeconds: Int64 = 0
    }

    private let state: Shared
    private let server: TestHTTPSServer
    private let directory: TemporaryDirectory
    /// A PEM file with whom to trust for it.
    let trustFile: String

    private final class Shared: Sendable {
        let state: Mutex<State>
        init(_ state: sending State) { self.state = Mutex(state) }
    }

    init() throws {
        let authority = try TestAuthority(name: "The fake CA's HTTPS")
        directory = try TemporaryDirectory()
        trustFile = try directory.write("ca.pem", authority.root.pem)
        let shared = Shared(State(ca: try FakeCA()))
        state = shared
        server = try TestHTTPSServer(identity: try authority.issueServer()) { exchange in Self.answer(exchange, shared) }
        let url = server.url
        shared.state.withLock { $0.ca.base = url }
    }

    deinit { server.stop() }

    var directoryURL: String { server.url + "/directory" }
    func url(_ page: String) -> String { server.url + "/" + page }
    var requestCount: Int { server.requests.count }
    var connectionCount: Int { server.connectionCount }

    /// Looks at it, or changes how it is.
    func with<R: Sendable>(_ body: (inout FakeCA) throws -> R) rethrows -> R { try state.state.withLock { try body(&$0.ca) } }

    func setFault(_ fault: @escaping @Sendable (FakeCA.Route, Int) -> WireFault?) { state.state.withLock { $0.fault = fault } }
    func setSkew(seconds: Int64) { state.state.withLock { $0.skewSeconds = seconds } }

    private static func answer(_ exchange: TestExchange, _ shared: Shared) {
        let asked = exchange.request
        let method = HTTPRequest.Method(rawValue: asked.method) ?? .get
        let (fault, result) = shared.state.withLock { state -> (WireFault?, Result<HTTPResponse, TransferFailure>?) in
            let request = HTTPRequest(
                method: method, url: state.ca.base + asked.target,
                headers: asked.headers.map { .init($0.name, $0.value) }, body: asked.body)
            let route = FakeCA.route(request.url, base: state.ca.base).0
            if let fault = state.fault(route, state.ca.count(route)) {
                state.ca.counts[route, default: 0] += 1
                return (fault, nil)
            }
            return (nil, try? state.ca.answer(request, at: Timestamp.now().adding(seconds: state.skewSeconds)))
        }
        if let fault { return perform(fault, on: exchange) }
        switch result {
        case .success(let response)?:
            exchange.reply(status: response.status, headers: response.headers.map { ($0.name, $0.value) }, body: response.body)
        case .failure?, nil: exchange.reset()
        }
    }

    private static func perform(_ fault: WireFault, on exchange: TestExchange) {
        switch fault {
        case .reset: exchange.reset()
        case .hangUp: exchange.close()
        case .truncated:
            exchange.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"newNonce\":\"https://")
            exchange.closeWithoutNotify()
        case .oversized:
            exchange.reply(status: 200, body: Array("{\"a\":\"".utf8) + Array(repeating: 0x41, count: 10 << 20) + Array("\"}".utf8))
        case .slowLoris:
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
            while exchange.send(" "), exchange.pause(.milliseconds(50)) {}
        case .garbage:
            exchange.send("\u{0}\u{1}\u{2} this is no HTTP\r\n\r\n")
            exchange.close()
        case .html: exchange.reply(status: 200, headers: [("Content-Type", "text/html")], body: "<html><body>Welcome</body></html>")
        case .error500:
            exchange.reply(
                status: 500, headers: [("Content-Type", "application/problem+json")],
                body: #"{"type":"urn:ietf:params:acme:error:serverInternal","detail":"as told"}"#)
        case .error503: exchange.reply(status: 503, headers: [("Retry-After", "1")], body: "<html>busy</html>")
        }
    }
}
