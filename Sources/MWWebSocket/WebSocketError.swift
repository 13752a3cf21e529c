/// What a peer did wrong, or what became of the connection, with what to tell the peer and what to tell the user.
///
/// Two errors are equal when their codes are.
package struct WebSocketError: Error, Sendable, Hashable, CustomStringConvertible {
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let description: String

        private init(_ description: String) {
            self.description = description
        }

        // Frames: 1002.
        package static let reservedBits = Code("reservedBits")
        package static let reservedOpcode = Code("reservedOpcode")
        package static let maskMissing = Code("maskMissing")
        package static let maskUnexpected = Code("maskUnexpected")
        package static let lengthNotMinimal = Code("lengthNotMinimal")
        package static let lengthInvalid = Code("lengthInvalid")
        package static let controlFragmented = Code("controlFragmented")
        package static let controlTooLong = Code("controlTooLong")
        // Messages: 1002, 1007, 1009.
        package static let continuationUnexpected = Code("continuationUnexpected")
        package static let messageInterleaved = Code("messageInterleaved")
        package static let utf8Invalid = Code("utf8Invalid")
        package static let frameTooBig = Code("frameTooBig")
        package static let messageTooBig = Code("messageTooBig")
        package static let tooManyFragments = Code("tooManyFragments")
        // Closing: 1002, 1007.
        package static let closePayloadMalformed = Code("closePayloadMalformed")
        package static let closeCodeInvalid = Code("closeCodeInvalid")
        package static let closeReasonInvalid = Code("closeReasonInvalid")
        // Time.
        package static let pongMissed = Code("pongMissed")
        package static let closingTimedOut = Code("closingTimedOut")
        // Opening handshake, at the client.
        package static let openingRefused = Code("openingRefused")
        package static let openingMalformed = Code("openingMalformed")
    }

    package var code: Code
    /// Which thing it happened to: `frame`, `message`, `opening handshake`.
    package var subject: String
    /// One clause on what happened.
    package var what: String
    package var expected: String?
    package var found: String?
    package var remedy: String?
    /// The status of the close frame that answers this, if a close frame does.
    package var closeCode: CloseCode?
    /// The HTTP status that refused the opening handshake.
    package var httpStatus: Int?
    /// How long the refusing server asked us to stay away (`Retry-After`).
    package var retryAfter: Duration?

    package init(
        _ code: Code, _ subject: String, _ what: String, expected: String? = nil, found: String? = nil, remedy: String? = nil,
        closeCode: CloseCode? = nil, httpStatus: Int? = nil, retryAfter: Duration? = nil
    ) {
        self.code = code
        self.subject = subject
        self.what = what
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.closeCode = closeCode
        self.httpStatus = httpStatus
        self.retryAfter = retryAfter
    }

    package static func == (left: Self, right: Self) -> Bool {
        left.code == right.code
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(code)
    }

    /// `code: subject: what happened (expected …, found …); what to do`
    package var description: String {
        var text = "webSocket.\(code): \(subject): \(what)"
        let details = [expected.map { "expected \($0)" }, found.map { "found \($0)" }].compactMap { $0 }
        if !details.isEmpty { text += " (\(details.joined(separator: ", ")))" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    /// Whether trying again with the same configuration cannot help.
    package var isPermanent: Bool {
        if let httpStatus {
            // Too early, too many requests and timeouts pass with time, as do the server's own failures.
            return (300..<500).contains(httpStatus) && ![408, 425, 429].contains(httpStatus)
        }
        return closeCode?.isPermanent ?? (code == .openingMalformed)
    }
}

extension WebSocketError {
    /// A breach of RFC 6455 that a close frame answers.
    static func violation(
        _ code: Code, _ subject: String, _ what: String, closeCode: CloseCode = .protocolError, expected: String? = nil,
        found: String? = nil
    ) -> Self {
        Self(code, subject, what, expected: expected, found: found, closeCode: closeCode)
    }
}
