import MWACME
import MWHTTPTransfer
import MWPKI
import MWProtocol

/// What MWACME needs of a network, by libcurl.
struct CurlTransfer: ACMETransfer {
    private let transfer: HTTPTransfer

    /// In a list of CA files, the system's own store.
    static let systemStore = "system"

    /// - Parameter caFiles: PEM files of the roots that the CAs' own addresses are verified with; `system` among them is the system's
    ///   store; none at all: only that.
    /// - Throws: `CommandFailure` for a file that cannot be used.
    init(caFiles: [String], limits: HTTPTransferLimits = HTTPTransferLimits()) throws {
        // Ours is the first to start OpenSSL, so that libcurl does not read an openssl.cnf into this process.
        OpenSSL.prepare()
        var pem: [UInt8] = []
        for file in caFiles where file != Self.systemStore {
            let bytes = try LocalFile.contents(file)
            guard try !Certificate.list(pem: bytes, source: file).isEmpty else {
                throw CommandFailure(
                    .configurationInvalid, "\(file): no certificate in it", why: "expected: the CA's roots, PEM",
                    remedy: "name the right file")
            }
            pem += bytes + [UInt8(ascii: "\n")]
        }
        let trust: HTTPTransferTrust =
            pem.isEmpty ? .system : caFiles.contains(Self.systemStore) ? .systemAnd(pem) : .only(pem)
        transfer = try HTTPTransfer(userAgent: "mwstorage/\(softwareVersion)", trust: trust, limits: limits)
    }

    func send(_ request: HTTPRequest, timeout: Duration) async throws(TransferFailure) -> HTTPResponse {
        let method: TransferRequest.Method =
            switch request.method {
            case .get: .get
            case .head: .head
            case .post: .post
            }
        let outgoing = TransferRequest(
            method, url: request.url, headers: request.headers.map { .init($0.name, $0.value) }, body: request.body,
            maximumBodyBytes: request.maximumReplyBytes, timeout: timeout)
        do throws(HTTPTransferError) {
            let response = try await transfer.send(outgoing)
            return HTTPResponse(
                status: response.status, headers: response.headers.map { .init($0.name, $0.value) }, body: response.body)
        } catch {
            throw Self.failure(error)
        }
    }

    private static func failure(_ error: HTTPTransferError) -> TransferFailure {
        let reason = ([error.what] + error.underlying).joined(separator: ": ") + (error.remedy.map { "; \($0)" } ?? "")
        return switch error.code {
        case .timedOut: .timeout
        case .nameNotResolved, .connectFailed, .connectionLost: .connect(reason)
        case .serverNotTrusted, .tlsFailed: .tls(reason)
        case .headersTooLarge, .bodyTooLarge: .tooLarge
        default: .other(reason)
        }
    }
}
