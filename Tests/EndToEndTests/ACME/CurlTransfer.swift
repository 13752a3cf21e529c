import MWACME
import MWHTTPTransfer

/// libcurl as the transfer that the machines ask for.
struct CurlTransfer: ACMETransfer {
    private let transfer: HTTPTransfer

    init(_ transfer: HTTPTransfer) { self.transfer = transfer }

    func send(_ request: HTTPRequest, timeout: Duration) async throws(TransferFailure) -> HTTPResponse {
        let method: TransferRequest.Method =
            switch request.method {
            case .get: .get
            case .head: .head
            case .post: .post
            }
        do throws(HTTPTransferError) {
            let response = try await transfer.send(
                TransferRequest(
                    method, url: request.url, headers: request.headers.map { .init($0.name, $0.value) }, body: request.body,
                    maximumBodyBytes: request.maximumReplyBytes, timeout: timeout))
            return HTTPResponse(
                status: response.status, headers: response.headers.map { .init($0.name, $0.value) }, body: response.body)
        } catch {
            switch error.code {
            case .timedOut: throw .timeout
            case .serverNotTrusted, .tlsFailed: throw .tls(error.description)
            case .bodyTooLarge, .headersTooLarge: throw .tooLarge
            case .nameNotResolved, .connectFailed, .connectionLost: throw .connect(error.description)
            default: throw .other(error.description)
            }
        }
    }
}
