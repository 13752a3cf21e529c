/// What went wrong in the store: a code to act on, the thing it happened to, and what to do about it.
///
/// Two errors are equal when their codes are. No description ever holds a key or a value.
public struct StorageError: Error, Sendable {
    /// The kind of failure. The list may grow: treat an unknown code as a failure of the call.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        /// The code's stable name, for logs and scripts.
        public let description: String

        private init(_ name: String) { self.description = name }

        /// The file system, or the quota, has no room. Writes are refused until it has; reads go on.
        public static let diskFull = Code("diskFull")
        /// The file system does not take writes (mounted read-only, or remounted so after a fault).
        public static let readOnly = Code("readOnly")
        /// Bytes on disk are not what was written there.
        public static let corrupt = Code("corrupt")
        /// The operating system failed a read, write or sync.
        public static let ioError = Code("ioError")
        /// This user may not open or create the file.
        public static let permissionDenied = Code("permissionDenied")
        /// Another process has the store open.
        public static let locked = Code("locked")
        /// The directory holds something that is not a store of ours.
        public static let notAStore = Code("notAStore")
        /// The store was made by a newer program.
        public static let formatTooNew = Code("formatTooNew")
        /// The store was made with another engine.
        public static let engineMismatch = Code("engineMismatch")
        /// More writes wait for the disk than the limits allow; try again later.
        public static let overloaded = Code("overloaded")
        /// A key is longer than `StorageLimits.maximumKeyBytes`.
        public static let keyTooLarge = Code("keyTooLarge")
        /// A value is longer than `StorageLimits.maximumValueBytes`.
        public static let valueTooLarge = Code("valueTooLarge")
        /// Every prefix that a client can hold has been given out.
        public static let prefixesExhausted = Code("prefixesExhausted")
        /// The snapshot did not outlive a reopening of the engine; take a new one.
        public static let snapshotLost = Code("snapshotLost")
        /// The store has been closed.
        public static let closed = Code("closed")
        /// The history from there on has been forgotten.
        public static let compacted = Code("compacted")
        /// The revision is one of another store, or of this one before it was restored.
        public static let wrongIncarnation = Code("wrongIncarnation")
        /// There is no such session of this principal, any more.
        public static let sessionUnknown = Code("sessionUnknown")
        /// The outcome of this write has been acknowledged, and forgotten.
        public static let outcomeForgotten = Code("outcomeForgotten")
        /// So many outcomes, sessions, leases or keys of one lease are too many.
        public static let tooMany = Code("tooMany")
        /// There is no such lease of this principal, any more.
        public static let leaseUnknown = Code("leaseUnknown")
        /// The request cannot be done as it is: the description says why.
        public static let invalidRequest = Code("invalidRequest")
        /// Something is already there, and is not replaced.
        public static let alreadyExists = Code("alreadyExists")
        /// An export stream does not have the shape of one.
        public static let streamMalformed = Code("streamMalformed")
        /// An export stream ends before its end record.
        public static let streamTruncated = Code("streamTruncated")
    }

    private final class Details: Sendable {
        let code: Code
        let subject: String
        let found: String
        let expected: String?
        let remedy: String?
        let underlying: String?

        init(code: Code, subject: String, found: String, expected: String?, remedy: String?, underlying: String?) {
            self.code = code
            self.subject = subject
            self.found = found
            self.expected = expected
            self.remedy = remedy
            self.underlying = underlying
        }
    }

    // One word, so that an outcome that carries an error stays small.
    private let details: Details

    package init(
        _ code: Code, subject: String, found: String, expected: String? = nil, remedy: String? = nil, underlying: String? = nil
    ) {
        self.details = Details(
            code: code, subject: subject, found: found, expected: expected, remedy: remedy, underlying: underlying)
    }

    /// The kind of failure.
    public var code: Code { details.code }
    /// The file, directory or operation that it happened to.
    public var subject: String { details.subject }
    /// What was seen.
    public var found: String { details.found }
    /// What should have been there, where that can be said.
    public var expected: String? { details.expected }
    /// What to do about it.
    public var remedy: String? { details.remedy }
    /// What the engine or the operating system said, word for word.
    public var underlying: String? { details.underlying }
}

extension StorageError: Equatable {
    /// Equality is by the code only.
    public static func == (left: StorageError, right: StorageError) -> Bool { left.code == right.code }
}

extension StorageError: CustomStringConvertible {
    /// `storage.code: subject: what was found, expected what; what to do (what the engine said)`.
    public var description: String {
        var text = "storage.\(code): \(subject): \(found)"
        if let expected { text += ", expected \(expected)" }
        if let remedy { text += "; \(remedy)" }
        if let underlying { text += " (\(underlying))" }
        return text
    }
}
