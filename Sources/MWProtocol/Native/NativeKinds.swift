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

    // Administration.
    package static let status = Self(rawValue: 16)
    package static let sessions = Self(rawValue: 17)
    package static let rejections = Self(rawValue: 18)
    package static let reload = Self(rawValue: 19)
    package static let refuse = Self(rawValue: 20)
    package static let acceptAgain = Self(rawValue: 21)
    package static let refusals = Self(rawValue: 22)
    package static let authorities = Self(rawValue: 23)

    /// Those that are understood, with their names.
    package static let names: [NativeRequestKind: String] = [
        hello: "hello", ping: "ping", whoami: "whoami", status: "status", sessions: "sessions", rejections: "rejections", reload: "reload",
        refuse: "refuse", acceptAgain: "acceptAgain", refusals: "refusals", authorities: "authorities",
    ]

    package var description: String { Self.names[self] ?? "request \(self.rawValue)" }
}

/// What an event says. There are none yet: a client skips those that it does not know.
package struct NativeEventKind: Hashable, Sendable {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }
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

    /// Appends the reply to a request of `kind`.
    package static func write(reply: some NativeRecord, to kind: NativeRequestKind, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.reply, kind: kind.rawValue, id: id, to: &buffer) { reply.writeNativeValue(to: &$0) }
    }

    /// Appends the failure of a request of `kind`.
    package static func write(failure: NativeFailure, of kind: NativeRequestKind, id: RequestID, to buffer: inout ByteBuffer) {
        self.write(.failure, kind: kind.rawValue, id: id, to: &buffer) { failure.writeNativeValue(to: &$0) }
    }
}
