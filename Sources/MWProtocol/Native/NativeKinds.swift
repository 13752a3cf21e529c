package import NIOCore

/// What a request asks for, which its reply and its failure repeat. The numbers are given once and for all: see `NativeProtocol` in the
/// documentation, which also says which are reserved for requests to come.
package struct NativeRequestKind: Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }

    // The connection.
    package static let hello = Self(rawValue: 1)
    package static let ping = Self(rawValue: 2)
    package static let whoami = Self(rawValue: 3)
    package static let openSession = Self(rawValue: 4)
    package static let resumeSession = Self(rawValue: 5)
    package static let closeSession = Self(rawValue: 6)

    // Administration.
    package static let status = Self(rawValue: 16)
    package static let sessions = Self(rawValue: 17)
    package static let rejections = Self(rawValue: 18)
    package static let reload = Self(rawValue: 19)
    package static let refuse = Self(rawValue: 20)
    package static let acceptAgain = Self(rawValue: 21)
    package static let refusals = Self(rawValue: 22)
    package static let authorities = Self(rawValue: 23)
    package static let reloadClients = Self(rawValue: 24)
    package static let backup = Self(rawValue: 25)
    package static let compact = Self(rawValue: 26)

    // Data.
    package static let get = Self(rawValue: 64)
    package static let put = Self(rawValue: 65)
    package static let remove = Self(rawValue: 66)
    package static let scan = Self(rawValue: 67)
    package static let transaction = Self(rawValue: 68)
    package static let openSnapshot = Self(rawValue: 69)
    package static let closeSnapshot = Self(rawValue: 70)
    package static let allocatePrefix = Self(rawValue: 71)

    // Watches.
    package static let watch = Self(rawValue: 96)
    package static let endWatch = Self(rawValue: 97)
    package static let progress = Self(rawValue: 98)
    package static let reloadDone = Self(rawValue: 99)

    // Leases.
    package static let grantLease = Self(rawValue: 112)
    package static let keepLease = Self(rawValue: 113)
    package static let revokeLease = Self(rawValue: 114)

    /// Those that are understood, with their names.
    package static let names: [NativeRequestKind: String] = [
        hello: "hello", ping: "ping", whoami: "whoami", status: "status", sessions: "sessions", rejections: "rejections", reload: "reload",
        refuse: "refuse", acceptAgain: "acceptAgain", refusals: "refusals", authorities: "authorities",
        openSession: "openSession", resumeSession: "resumeSession", closeSession: "closeSession", reloadClients: "reloadClients",
        backup: "backup", compact: "compact", get: "get", put: "put", remove: "remove", scan: "scan", transaction: "transaction",
        openSnapshot: "openSnapshot", closeSnapshot: "closeSnapshot", allocatePrefix: "allocatePrefix", watch: "watch",
        endWatch: "endWatch", progress: "progress", reloadDone: "reloadDone", grantLease: "grantLease", keepLease: "keepLease",
        revokeLease: "revokeLease",
    ]

    package var description: String { Self.names[self] ?? "request \(self.rawValue)" }
}

/// What an event says. A client skips those that it does not know.
package struct NativeEventKind: Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Of a watch, whose request's id they carry.
    package static let changes = Self(rawValue: 1)
    package static let progress = Self(rawValue: 2)
    package static let state = Self(rawValue: 3)
    package static let synced = Self(rawValue: 4)
    package static let resync = Self(rawValue: 5)
    package static let watchEnded = Self(rawValue: 6)
    /// Of the connection, with id 0.
    package static let reload = Self(rawValue: 16)
    package static let draining = Self(rawValue: 17)

    package static let names: [NativeEventKind: String] = [
        changes: "changes", progress: "progress", state: "state", synced: "synced", resync: "resync", watchEnded: "watchEnded",
        reload: "reload", draining: "draining",
    ]

    package var description: String { Self.names[self] ?? "event \(self.rawValue)" }
}

/// A request: its kind, what it carries, and what answers it.
package protocol NativeRequest: NativeRecord {
    associatedtype Reply: NativeRecord
    static var kind: NativeRequestKind { get }
}

extension NativeFrame {
    /// Appends a request.
    package static func write<Request: NativeRequest>(_ request: Request, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.request, kind: Request.kind.rawValue, id: id, to: &buffer) { request.writeNativeValue(to: &$0) }
    }

    /// Appends an event.
    package static func write(event: some NativeRecord, _ kind: NativeEventKind, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.event, kind: kind.rawValue, id: id, to: &buffer) { event.writeNativeValue(to: &$0) }
    }

    /// Appends the reply to a request of `kind`.
    package static func write(reply: some NativeRecord, to kind: NativeRequestKind, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.reply, kind: kind.rawValue, id: id, to: &buffer) { reply.writeNativeValue(to: &$0) }
    }

    /// Appends the failure of a request of `kind`.
    package static func write(failure: NativeFailure, of kind: NativeRequestKind, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.failure, kind: kind.rawValue, id: id, to: &buffer) { failure.writeNativeValue(to: &$0) }
    }
}
