// failure  tag  value
//          1    integer  code, see NativeFailure.Code
//          2    text     what happened, to which thing, for people
//          3    truth    the same request may succeed later
//          4    integer  milliseconds to wait before that, at least; not there: as the client likes
//          5    text     what to do about it
//          6    truth    it may have taken effect all the same

/// Why a request was not done. Two are equal in kind when their codes are; a client that does not know a code goes by ``isRetryable``.
package struct NativeFailure: Error, Hashable, Sendable, NativeRecord {
    /// What happened, as a number for ever and a name for people.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let rawValue: Int64

        package init(rawValue: Int64) { self.rawValue = rawValue }

        /// The request's fields are not what its kind has.
        package static let malformedRequest = Code(rawValue: 1)
        /// This server has no such request.
        package static let unknownRequest = Code(rawValue: 2)
        /// A field that must be understood, and is not.
        package static let unsupportedField = Code(rawValue: 3)
        /// The access policy says no.
        package static let permissionDenied = Code(rawValue: 4)
        /// A value that is well-formed and makes no sense.
        package static let invalidArgument = Code(rawValue: 5)
        /// The server is about to end.
        package static let unavailable = Code(rawValue: 6)
        /// Too much of this is under way.
        package static let overloaded = Code(rawValue: 7)
        /// The server's own fault; its log says more.
        package static let internalError = Code(rawValue: 8)
        /// The answer is over the message limit.
        package static let answerTooBig = Code(rawValue: 9)
        /// The new set of certificates, lists and policy cannot be used; the old one stays.
        package static let reloadFailed = Code(rawValue: 10)
        /// This server is not set up for it.
        package static let notConfigured = Code(rawValue: 11)

        // Data.
        /// The history from there on has been forgotten: read afresh.
        package static let compacted = Code(rawValue: 32)
        /// The revision is one of another store, or of this one before it was restored: read afresh.
        package static let wrongIncarnation = Code(rawValue: 33)
        /// The disk failed, or holds what was not written there. The server's log says more.
        package static let storageFailure = Code(rawValue: 34)
        /// The disk takes no writes at the moment; reads go on.
        package static let storageReadOnly = Code(rawValue: 35)
        /// There is no such snapshot on this connection, any more.
        package static let snapshotUnknown = Code(rawValue: 36)
        /// Every prefix has been given out.
        package static let prefixesExhausted = Code(rawValue: 37)

        // Sessions, watches, leases.
        /// There is no such session of this principal, any more: nobody knows what became of its unanswered writes.
        package static let sessionUnknown = Code(rawValue: 64)
        /// The outcome of this write has been acknowledged, and forgotten.
        package static let outcomeForgotten = Code(rawValue: 65)
        /// So many outcomes, sessions, leases or watches of one client are too many.
        package static let tooMany = Code(rawValue: 66)
        /// There is no such lease, any more.
        package static let leaseUnknown = Code(rawValue: 67)
        /// The watch was not read as fast as things changed, for too long.
        package static let watchOverflowed = Code(rawValue: 68)
        /// This connection has no such watch.
        package static let watchUnknown = Code(rawValue: 69)

        package static let names: [Code: String] = [
            malformedRequest: "malformedRequest", unknownRequest: "unknownRequest", unsupportedField: "unsupportedField",
            permissionDenied: "permissionDenied", invalidArgument: "invalidArgument", unavailable: "unavailable",
            overloaded: "overloaded", internalError: "internalError", answerTooBig: "answerTooBig", reloadFailed: "reloadFailed",
            notConfigured: "notConfigured", compacted: "compacted", wrongIncarnation: "wrongIncarnation",
            storageFailure: "storageFailure", storageReadOnly: "storageReadOnly", snapshotUnknown: "snapshotUnknown",
            prefixesExhausted: "prefixesExhausted", sessionUnknown: "sessionUnknown", outcomeForgotten: "outcomeForgotten",
            tooMany: "tooMany", leaseUnknown: "leaseUnknown", watchOverflowed: "watchOverflowed", watchUnknown: "watchUnknown",
        ]

        package var description: String { Self.names[self] ?? "code \(self.rawValue)" }
    }

    package var code: Code
    /// What happened, to which thing.
    package var detail: String
    package var isRetryable = false
    package var retryAfterMilliseconds: Int64?
    package var remedy: String?
    package var mayHaveTakenEffect = false

    package init(
        _ code: Code, _ detail: String, remedy: String? = nil, isRetryable: Bool = false, retryAfterMilliseconds: Int64? = nil,
        mayHaveTakenEffect: Bool = false
    ) {
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.isRetryable = isRetryable
        self.retryAfterMilliseconds = retryAfterMilliseconds
        self.mayHaveTakenEffect = mayHaveTakenEffect
    }

    package init() { self.init(Code(rawValue: 0), "") }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        var code = self.code.rawValue
        try visitor.field(1, "code", &code)
        self.code = Code(rawValue: code)
        try visitor.field(2, "detail", &self.detail)
        try visitor.field(3, "retryable", &self.isRetryable)
        try visitor.field(4, "retry_after_milliseconds", &self.retryAfterMilliseconds)
        try visitor.field(5, "remedy", &self.remedy)
        try visitor.field(6, "may_have_taken_effect", &self.mayHaveTakenEffect)
    }

    /// What a request that cannot be read is answered with.
    package init(_ error: ProtocolError) {
        let code: Code = error.code == .unsupportedField ? .unsupportedField : .malformedRequest
        self.init(code, "\(error)")
    }

    package static func unknownRequest(_ kind: UInt16) -> NativeFailure {
        NativeFailure(.unknownRequest, "this server has no request of kind \(kind)", remedy: "use a newer server, or an older client")
    }
}
