/// Why a server does not start, listen or reload.
///
/// Two errors are equal when their codes are. The description is for operators: what happened, to which thing, what to do.
public struct ServerError: Error, Sendable {
    /// What happened, as a stable name.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The code's stable name, for logs and scripts.
        public let description: String

        init(_ description: String) { self.description = description }

        /// A bundled test key, which everybody has, would serve beyond this machine.
        public static let bundledTestKey = Code("bundledTestKey")
        /// Our own certificate is past its notAfter.
        public static let certificateExpired = Code("certificateExpired")
        /// Our own certificate is before its notBefore: most often the clock is behind.
        public static let certificateNotYetValid = Code("certificateNotYetValid")
        /// The clock is so far before our certificate's notBefore, or before this program was written, that it is the clock that is wrong.
        public static let clockBehind = Code("clockBehind")
        /// Identity, trust store or revocation lists cannot be used.
        public static let materialRejected = Code("materialRejected")
        /// The access policy cannot be used.
        public static let policyRejected = Code("policyRejected")
        /// The store cannot be opened.
        public static let storageUnavailable = Code("storageUnavailable")
        /// An address to listen on has no meaning on this machine.
        public static let addressUnknown = Code("addressUnknown")
        /// An address cannot be listened on: in use, or not permitted.
        public static let addressUnavailable = Code("addressUnavailable")
        /// A value in the configuration that cannot work.
        public static let configurationInvalid = Code("configurationInvalid")
        /// The audit log cannot be opened or written.
        public static let auditUnavailable = Code("auditUnavailable")
        /// The call does not fit the server's state: a server starts once.
        public static let wrongState = Code("wrongState")
    }

    /// The kind of failure.
    public let code: Code
    /// The thing the error is about: an address, a file, a setting.
    public let subject: String
    /// What happened to it.
    public let what: String
    /// What to do about it.
    public let remedy: String?
    /// The error underneath, if there is one.
    public let underlying: (any Error)?

    init(_ code: Code, _ subject: String, _ what: String, remedy: String? = nil, underlying: (any Error)? = nil) {
        self.code = code
        self.subject = subject
        self.what = what
        self.remedy = remedy
        self.underlying = underlying
    }
}

extension ServerError: Equatable {
    /// Equality is by the code only.
    public static func == (left: ServerError, right: ServerError) -> Bool { left.code == right.code }
}

extension ServerError: CustomStringConvertible {
    /// `server.code: subject: what happened: the error underneath; what to do`.
    public var description: String {
        let cause = self.underlying.map { ": \($0)" } ?? ""
        let remedy = self.remedy.map { "; \($0)" } ?? ""
        return "server.\(self.code): \(self.subject): \(self.what)\(cause)\(remedy)"
    }
}
