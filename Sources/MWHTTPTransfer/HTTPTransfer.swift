internal import Synchronization

/// Whom an HTTPS server may be vouched for by. There is no way to ask nobody.
package struct HTTPTransferTrust: Sendable, Hashable {
    /// The system's store, `/etc/ssl/certs` on Debian.
    package var includesSystem: Bool
    /// Our own anchors, PEM; empty for none.
    package var pem: [UInt8]

    package static let system = HTTPTransferTrust(includesSystem: true, pem: [])

    /// These and no others: the system's store is not asked. A private CA's client trusts that CA, and no public one that could issue
    /// a certificate for its name.
    package static func only(_ pem: [UInt8]) -> HTTPTransferTrust { HTTPTransferTrust(includesSystem: false, pem: pem) }

    /// For a private CA with a public one to fall back to.
    package static func systemAnd(_ pem: [UInt8]) -> HTTPTransferTrust { HTTPTransferTrust(includesSystem: true, pem: pem) }
}

/// One HTTPS request, one response, by the system's libcurl.
///
/// Many tasks may send at a time. All of it happens on one thread of its own, which starts with the first request and ends when there
/// has been none for `idleTimeout`, its connections with it; no thread of the callers is ever blocked. A connection is kept and used
/// again; an option never: each request has a new handle.
///
/// TLS 1.2 or newer, certificate and name always verified; HTTP/1.1; no redirect is followed, no cookie kept, no encoding asked for.
/// A proxy is used where the environment of the process names one for https (`https_proxy`, `all_proxy`, `no_proxy`), as operators
/// behind one expect: TLS goes through it to the server unopened, so all it learns is host and port.
package final class HTTPTransfer: Sendable {
    private let configuration: TransferConfiguration
    private let loop: TransferLoop

    /// - Parameter userAgent: Sent with every request that has none; RFC 8555 §6.1 demands one.
    /// - Throws: `configurationInvalid` when `userAgent` or `trust` cannot be used.
    package init(
        userAgent: String, trust: HTTPTransferTrust = .system, usesEnvironmentProxies: Bool = true,
        limits: HTTPTransferLimits = HTTPTransferLimits()
    ) throws(HTTPTransferError) {
        guard !userAgent.isEmpty, userAgent.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) else {
            throw HTTPTransferError(.configurationInvalid, subject: "User-Agent", "it is empty, or has other than ASCII characters")
        }
        guard trust.includesSystem || !trust.pem.isEmpty else {
            throw HTTPTransferError(
                .configurationInvalid, subject: "trust anchors", "there are none", remedy: "give the CA's root certificate, PEM")
        }
        configuration = TransferConfiguration(
            userAgent: userAgent, trust: trust, usesEnvironmentProxies: usesEnvironmentProxies, limits: limits)
        loop = TransferLoop(limits: limits)
    }

    deinit { loop.close() }

    /// Sends, and waits for the whole reply, whatever its status. Ends within `timeout`, and at once when the task is cancelled.
    ///
    /// - Throws: `HTTPTransferError`. After `requestInvalid`, `nameNotResolved`, `connectFailed`, `serverNotTrusted`, `tlsFailed` and
    ///   `overloaded` the server has not seen the request; after the others it may have.
    package func send(_ request: TransferRequest) async throws(HTTPTransferError) -> TransferResponse {
        try request.validate()
        let url = try TransferURL(request.url)
        let id = loop.makeID()
        defer { loop.forget(id) }
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                loop.submit(
                    TransferJob(id: id, request: request, url: url, configuration: configuration) { continuation.resume(returning: $0) })
            }
        } onCancel: {
            loop.cancel(id)
        }
        return try result.get()
    }
}

/// What all requests of a transfer share.
struct TransferConfiguration: Sendable {
    var userAgent: String
    var trust: HTTPTransferTrust
    var usesEnvironmentProxies: Bool
    var limits: HTTPTransferLimits
}

/// A request under way; `finish` is called once.
struct TransferJob: Sendable {
    var id: UInt64
    var request: TransferRequest
    var url: TransferURL
    var configuration: TransferConfiguration
    var finish: @Sendable (Result<TransferResponse, HTTPTransferError>) -> Void
}
