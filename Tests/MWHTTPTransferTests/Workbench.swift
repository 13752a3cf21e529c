import MWHTTPTransfer
import MWPKI
import TestCertificates
import TestHTTPS
import Testing

/// A transfer that trusts a test authority, and servers that it may meet.
struct Workbench {
    let authority: TestAuthority

    init() throws { authority = try TestAuthority() }

    var trust: HTTPTransferTrust { .only(Array(authority.root.pem.utf8)) }

    /// Connections may take as long as a busy machine needs for them.
    func transfer(_ limits: HTTPTransferLimits = HTTPTransferLimits(), trust: HTTPTransferTrust? = nil) throws -> HTTPTransfer {
        var limits = limits
        limits.connectTimeout = .seconds(120)
        return try HTTPTransfer(userAgent: "test/1", trust: trust ?? self.trust, usesEnvironmentProxies: false, limits: limits)
    }

    /// Stopped, with all its threads, when `body` is over.
    func serving<R>(
        _ protection: TestHTTPSServer.Protection? = nil, _ handler: @escaping TestHTTPSServer.Handler,
        _ body: (TestHTTPSServer) async throws -> R
    ) async throws -> R {
        let server = try TestHTTPSServer(protection ?? .tls(try authority.issueServer()), handler)
        defer { server.stop() }
        return try await body(server)
    }

    /// What one GET fails with.
    func failure(
        _ protection: TestHTTPSServer.Protection? = nil, limits: HTTPTransferLimits = HTTPTransferLimits(), path: String = "/",
        _ handler: @escaping TestHTTPSServer.Handler
    ) async throws -> HTTPTransferError {
        try await serving(protection, handler) { server async throws in
            await failure(of: TransferRequest(.get, url: server.url + path), by: try transfer(limits))
        }
    }

    func failure(of request: TransferRequest, by transfer: HTTPTransfer) async -> HTTPTransferError {
        do throws(HTTPTransferError) {
            let response = try await transfer.send(request)
            Issue.record("a response where none should be: \(response)")
            return HTTPTransferError(.ownFailure, subject: "test", "no failure")
        } catch {
            return error
        }
    }
}

func echo(_ exchange: TestExchange) { exchange.reply(status: 200, body: exchange.request.body) }
