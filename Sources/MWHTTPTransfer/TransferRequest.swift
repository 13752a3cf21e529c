/// One HTTPS request.
package struct TransferRequest: Sendable, Hashable {
    package enum Method: String, Sendable, Hashable {
        case get = "GET"
        case head = "HEAD"
        case post = "POST"
    }

    package struct Header: Sendable, Hashable {
        package var name: String
        package var value: String

        package init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    package var method: Method
    /// `https`, without a user's name in it; sent as it is written, with no dot segment taken out of its path.
    package var url: String
    /// `User-Agent` here takes the place of the transfer's own. What frames a message (`Host`, `Content-Length`, …) is refused.
    package var headers: [Header]
    /// For POST.
    package var body: [UInt8]
    /// In place of the transfer's own limits.
    package var maximumBodyBytes: Int?
    package var timeout: Duration?

    package init(
        _ method: Method, url: String, headers: [Header] = [], body: [UInt8] = [], maximumBodyBytes: Int? = nil, timeout: Duration? = nil
    ) {
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.maximumBodyBytes = maximumBodyBytes
        self.timeout = timeout
    }

    /// Set by the transfer itself: a second value could make the server read the message otherwise than we meant it (RFC 9112 §11.2).
    static let framingHeaders: Set<String> = [
        "host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer", "upgrade",
    ]

    /// Throws `requestInvalid` for a header that cannot be sent as it is.
    func validate() throws(HTTPTransferError) {
        for header in headers {
            // RFC 9110 §5.6.2 and §5.5. The value of a header may be a secret: only its name is ever told.
            guard !header.name.isEmpty, header.name.utf8.allSatisfy(isTokenByte) else {
                throw HTTPTransferError(.requestInvalid, subject: "header", "its name has characters that cannot be sent")
            }
            guard header.value.utf8.allSatisfy({ $0 == 0x09 || ($0 >= 0x20 && $0 != 0x7F) }) else {
                throw HTTPTransferError(.requestInvalid, subject: "header \(header.name)", "its value has control characters")
            }
            guard !TransferRequest.framingHeaders.contains(header.name.lowercased()) else {
                throw HTTPTransferError(.requestInvalid, subject: "header \(header.name)", "it is set by the transfer itself")
            }
        }
        guard body.isEmpty || method == .post else {
            throw HTTPTransferError(.requestInvalid, subject: method.rawValue, "a body belongs to POST only")
        }
    }

    func has(_ name: String) -> Bool { headers.contains { $0.name.lowercased() == name } }
}

/// RFC 9110 §5.6.2: tchar.
private func isTokenByte(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
    default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }
}

/// What came back, whatever its status: redirects are not followed.
package struct TransferResponse: Sendable, Hashable {
    package var status: Int
    /// In their order; bytes that are no UTF-8 are U+FFFD.
    package var headers: [TransferRequest.Header]
    package var body: [UInt8]

    package init(status: Int, headers: [TransferRequest.Header] = [], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    /// The first value of a header, whatever the case of its name.
    package func value(of name: String) -> String? {
        let wanted = name.lowercased()
        return headers.first { $0.name.lowercased() == wanted }?.value
    }
}
