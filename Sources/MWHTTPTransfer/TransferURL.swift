internal import CCurl

/// An https URL as libcurl reads it, so that what was checked is what is sent.
struct TransferURL: Sendable {
    /// As given.
    let text: String
    /// `https://HOST[:PORT]`, for messages: a path or query may hold what only the server should know.
    let origin: String

    init(_ text: String) throws(HTTPTransferError) {
        func refused(_ what: String) -> HTTPTransferError {
            HTTPTransferError(.requestInvalid, subject: "URL", what, remedy: "give an https URL: https://HOST[:PORT]/PATH")
        }
        guard !text.utf8.contains(0), let parsed = unsafe curl_url() else { throw refused("it has a NUL in it") }
        defer { unsafe curl_url_cleanup(parsed) }
        guard unsafe curl_url_set(parsed, CURLUPART_URL, text, TransferURL.flags) == CURLUE_OK else {
            throw refused("it is malformed, has a user's name in it, or its scheme is not supported")
        }
        func part(_ part: CURLUPart) -> String? {
            var value: UnsafeMutablePointer<CChar>?
            guard unsafe curl_url_get(parsed, part, &value, 0) == CURLUE_OK, let value = unsafe value else { return nil }
            defer { unsafe curl_free(value) }
            return unsafe String(cString: value)
        }
        guard part(CURLUPART_SCHEME) == "https" else { throw refused("it is not one of https") }
        guard let host = part(CURLUPART_HOST), !host.isEmpty else { throw refused("it has no host") }
        self.text = text
        origin = "https://" + safe(host) + (part(CURLUPART_PORT).map { ":" + $0 } ?? "")
    }

    /// A signed request is for the URL that was signed: dot segments stay.
    private static let flags = UInt32(CURLU_DISALLOW_USER) | UInt32(CURLU_PATH_AS_IS)
}

/// On one line, and no longer than a message should be.
func safe(_ text: String) -> String {
    let line = text.unicodeScalars.map { $0.value < 0x20 || (0x7F..<0xA0).contains($0.value) ? " " : Character($0) }
    return String(String(line).prefix(300))
}
