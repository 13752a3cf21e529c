internal import MWProtocol
internal import MWStorage

// What the store's errors are to a client: the one place where they become failures.

extension NativeFailure {
    /// Until a store that is behind, or has lost its disk for a moment, is worth asking again.
    private static let retryAfterMilliseconds: Int64 = 200

    /// What a client is told of an error of the store; nothing of it is a path, or what the engine said.
    ///
    /// - Parameter wasSubmitted: It is the outcome of a write that had been handed to the store: where the disk failed, it may hold it.
    init(_ error: StorageError, wasSubmitted: Bool) {
        switch error.code {
        case .diskFull, .readOnly:
            self.init(
                .storageReadOnly, "the disk takes no writes (\(error.code)); reads go on",
                remedy: "try again; an administrator sees the reason in the server's log and status", isRetryable: true,
                retryAfterMilliseconds: Self.retryAfterMilliseconds, mayHaveTakenEffect: wasSubmitted)
        case .overloaded:
            self.init(
                .overloaded, "more writes wait for the disk than may", isRetryable: true,
                retryAfterMilliseconds: Self.retryAfterMilliseconds)
        case .keyTooLarge, .valueTooLarge, .invalidRequest: self.init(.invalidArgument, said: error)
        case .prefixesExhausted: self.init(.prefixesExhausted, "every prefix has been given out")
        case .snapshotLost: self = .snapshotUnknown("the snapshot was lost, as the disk failed for a moment")
        case .closed:
            self.init(
                .unavailable, "the server is about to end", remedy: "connect again", isRetryable: true, mayHaveTakenEffect: wasSubmitted)
        case .compacted: self.init(.compacted, said: error)
        case .wrongIncarnation: self.init(.wrongIncarnation, said: error)
        case .sessionUnknown: self.init(.sessionUnknown, "there is no such session of this principal, any more", remedy: "open a session")
        case .outcomeForgotten: self.init(.outcomeForgotten, said: error)
        case .tooMany: self.init(.tooMany, said: error)
        case .leaseUnknown: self.init(.leaseUnknown, "there is no such lease of this principal, any more", remedy: "ask for a lease")
        default:
            self.init(
                .storageFailure, "the store failed (\(error.code))", remedy: "see the server's log", isRetryable: error.code == .ioError,
                retryAfterMilliseconds: error.code == .ioError ? Self.retryAfterMilliseconds : nil, mayHaveTakenEffect: wasSubmitted)
        }
    }

    /// In the store's own words, of a fault that is the client's.
    private init(_ code: Code, said error: StorageError) {
        self.init(code, "\(error.subject): \(error.found)\(error.expected.map { ", expected \($0)" } ?? "")", remedy: error.remedy)
    }

    static func snapshotUnknown(_ detail: String) -> NativeFailure {
        NativeFailure(.snapshotUnknown, detail, remedy: "open a snapshot, and begin anew")
    }

    static func tooManyKeys(_ limit: Int) -> NativeFailure {
        NativeFailure(.invalidArgument, "a request has at most \(limit) keys", remedy: "split it")
    }

    static var noStorage: NativeFailure { NativeFailure(.notConfigured, "this server has no store") }

    /// - Parameter key: One of those it does not hold for; nil: it holds for none.
    static func denied(_ principal: String, _ kind: NativeRequestKind, _ right: AccessRight, _ key: [UInt8]?) -> NativeFailure {
        let which = key == nil ? "over any key" : "over all of its keys"
        return NativeFailure(
            .permissionDenied, "\(principal) has not the right \(right.rawValue) \(which), which \(kind) needs",
            remedy: "ask for other keys; or let the access policy grant it")
    }
}

/// Throws what is malformed as the failure to answer with.
func reading<Value>(_ body: () throws(ProtocolError) -> Value) throws(NativeFailure) -> Value {
    do throws(ProtocolError) { return try body() } catch { throw NativeFailure(error) }
}
