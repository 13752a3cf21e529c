/// Why there is no response. Two errors are equal when their codes are. No header's value, body or user's name is ever in one.
package struct HTTPTransferError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of thing went wrong; new codes may be added.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let name: String

        private init(_ name: String) { self.name = name }

        package var description: String { name }

        /// The URL is not one of https, or the request cannot be sent as it is.
        package static let requestInvalid = Code("requestInvalid")
        /// The trust anchors or the User-Agent given cannot be used.
        package static let configurationInvalid = Code("configurationInvalid")
        package static let nameNotResolved = Code("nameNotResolved")
        package static let connectFailed = Code("connectFailed")
        /// The server's certificate was not accepted.
        package static let serverNotTrusted = Code("serverNotTrusted")
        /// TLS failed for another reason: no common version, no TLS at all, an alert.
        package static let tlsFailed = Code("tlsFailed")
        /// Too slow, in any phase.
        package static let timedOut = Code("timedOut")
        package static let headersTooLarge = Code("headersTooLarge")
        package static let bodyTooLarge = Code("bodyTooLarge")
        /// The connection ended before the reply began, or with RST.
        package static let connectionLost = Code("connectionLost")
        /// The connection ended within the reply.
        package static let replyTruncated = Code("replyTruncated")
        /// It is no HTTP/1.1.
        package static let replyMalformed = Code("replyMalformed")
        /// More requests than `maximumRequestsInFlight`.
        package static let overloaded = Code("overloaded")
        package static let cancelled = Code("cancelled")
        /// Memory, threads, descriptors; or a libcurl that lacks what is needed.
        package static let ownFailure = Code("ownFailure")
    }

    package let code: Code
    /// `https://HOST[:PORT]`, without the path.
    package let subject: String
    package let what: String
    package var remedy: String?
    /// What libcurl said of it.
    package var underlying: [String]

    package init(_ code: Code, subject: String, _ what: String, remedy: String? = nil, underlying: [String] = []) {
        self.code = code
        self.subject = subject
        self.what = what
        self.remedy = remedy
        self.underlying = underlying
    }

    package var description: String {
        var text = "transfer.\(code): \(subject): \(what)"
        if !underlying.isEmpty { text += " (\(underlying.joined(separator: "; ")))" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    package static func == (left: HTTPTransferError, right: HTTPTransferError) -> Bool { left.code == right.code }
    package func hash(into hasher: inout Hasher) { hasher.combine(code) }
}
