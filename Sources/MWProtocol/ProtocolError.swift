/// What is wrong with a message, or with what a caller wants to say in this protocol.
///
/// Two errors are equal when their codes are. A peer's fault carries the WebSocket close code to send (``closeCode``) and, where the
/// protocol has a failure answer for the request, the request to answer with it (``failedRequest``).
package struct ProtocolError: Error, Sendable {
    /// What happened, as a stable name.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let description: String

        package init(_ description: String) { self.description = description }

        /// The message has no trailer, or its trailer has no valid request id.
        package static let tornMessage = Code("tornMessage")
        /// The trailer names a type that is none of ours in this direction.
        package static let unknownType = Code("unknownType")
        /// A put whose last key has no value.
        package static let tornPut = Code("tornPut")
        /// A number that is empty, too long, not canonical, or has a foreign character.
        package static let malformedNumber = Code("malformedNumber")
        /// A number outside of what its place allows.
        package static let numberOutOfRange = Code("numberOutOfRange")
        /// The answer does not have as many elements as keys were asked for.
        package static let elementCountMismatch = Code("elementCountMismatch")
        /// An answer that should be the byte 00 or 01.
        package static let malformedOutcome = Code("malformedOutcome")
        /// A key with `#` cannot be said in mwDB's protocol.
        package static let separatorInKey = Code("separatorInKey")
        /// A value with `#` cannot be said in mwDB's protocol.
        package static let separatorInValue = Code("separatorInValue")
        /// A native frame that is not whole, or longer than its message.
        package static let tornFrame = Code("tornFrame")
        /// A native field that is not whole, or longer than its frame.
        package static let tornField = Code("tornField")
        /// A native field whose value is not of its kind.
        package static let malformedField = Code("malformedField")
        /// A native field that must be understood, and is not.
        package static let unsupportedField = Code("unsupportedField")
    }

    /// A request that must be answered with its failure byte instead of closing the connection.
    package struct FailedRequest: Hashable, Sendable {
        package let type: MWDBReplyType
        package let id: RequestID

        package init(type: MWDBReplyType, id: RequestID) {
            self.type = type
            self.id = id
        }
    }

    package let code: Code
    /// What the error is about, such as `put` or `request id`.
    package let subject: String
    package let expected: String?
    package let found: String?
    package let remedy: String?
    package let failedRequest: FailedRequest?

    package init(
        _ code: Code, _ subject: String, expected: String? = nil, found: String? = nil, remedy: String? = nil,
        failedRequest: FailedRequest? = nil
    ) {
        self.code = code
        self.subject = subject
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.failedRequest = failedRequest
    }

    /// The close code for a peer that sent this: 1003 for a type we do not know, 1002 for what is not a message at all,
    /// 1011 where the fault lies in what is stored.
    package var closeCode: UInt16 {
        switch self.code {
        case .unknownType: return 1003
        case .separatorInValue, .separatorInKey: return 1011
        default: return 1002
        }
    }

    /// At most 123 bytes (RFC 6455 §5.5: a control frame holds 125), so it fits a close frame as it stands.
    package var closeReason: String {
        let text = self.description
        return text.utf8.count <= Self.maximumCloseReasonBytes ? text : "\(self.code)"
    }

    private static let maximumCloseReasonBytes = 123
}

extension ProtocolError: Equatable {
    package static func == (left: ProtocolError, right: ProtocolError) -> Bool { left.code == right.code }
}

extension ProtocolError: CustomStringConvertible {
    package var description: String {
        var text = "protocol.\(self.code): \(self.subject)"
        if let found = self.found { text += ": found \(found)" }
        if let expected = self.expected { text += self.found == nil ? ": expected \(expected)" : ", expected \(expected)" }
        if let remedy = self.remedy { text += "; \(remedy)" }
        return text
    }
}
