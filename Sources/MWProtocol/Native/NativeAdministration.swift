// What administrators ask. The tags are in each `visit`, the table for other languages is `NativeProtocol` in the documentation.

/// Asks for the connections that are open, by number, a page at a time.
package struct NativeSessionsRequest: NativeRequest {
    package typealias Reply = NativeSessions
    package static let kind = NativeRequestKind.sessions

    /// Connections in one reply, at most: 1,000 take some 500 KiB.
    package static let maximumPage: Int64 = 1_000

    /// Only connections with a higher number.
    package var after: Int64 = 0
    /// 1 to ``maximumPage``.
    package var limit = maximumPage

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "after", &self.after)
        try visitor.field(2, "limit", &self.limit)
    }
}

/// One open connection.
package struct NativeSessionEntry: NativeRecord {
    package var connection: Int64 = 0
    package var principal = ""
    package var address = ""
    package var fingerprint = ""
    package var issuer = ""
    package var notAfter = NativeTime(0)
    package var since = NativeTime(0)
    /// The subprotocol; empty is mwDB's.
    package var subprotocol = ""
    package var tls = ""
    package var receivedBytes: Int64 = 0
    package var sentBytes: Int64 = 0
    package var requests: Int64 = 0
    package var requestsInFlight: Int64 = 0
    /// Its watches, and how far behind the slowest is, in revisions.
    package var watches: Int64 = 0
    package var lag: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "connection", &self.connection)
        try visitor.field(2, "principal", &self.principal)
        try visitor.field(3, "address", &self.address)
        try visitor.field(4, "fingerprint", &self.fingerprint)
        try visitor.field(5, "issuer", &self.issuer)
        try visitor.field(6, "not_after", &self.notAfter)
        try visitor.field(7, "since", &self.since)
        try visitor.field(8, "subprotocol", &self.subprotocol)
        try visitor.field(9, "tls", &self.tls)
        try visitor.field(10, "received_bytes", &self.receivedBytes)
        try visitor.field(11, "sent_bytes", &self.sentBytes)
        try visitor.field(12, "requests", &self.requests)
        try visitor.field(13, "requests_in_flight", &self.requestsInFlight)
        try visitor.field(14, "watches", &self.watches)
        try visitor.field(15, "lag", &self.lag)
    }
}

/// A page of connections.
package struct NativeSessions: NativeRecord {
    package var sessions: [NativeSessionEntry] = []
    /// There are more, behind the last of these.
    package var hasMore = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "sessions", &self.sessions)
        try visitor.field(2, "more", &self.hasMore)
    }
}

/// Asks for the latest refused handshakes, openings and requests.
package struct NativeRejectionsRequest: NativeRequest {
    package typealias Reply = NativeRejections
    package static let kind = NativeRequestKind.rejections

    /// How many, at most.
    package var limit: Int64 = 1_000

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "limit", &self.limit)
    }
}

/// Somebody who was refused, and why.
package struct NativeRejection: NativeRecord {
    package var first = NativeTime(0)
    package var latest = NativeTime(0)
    /// How often, for the same reason.
    package var count: Int64 = 0
    /// `handshake`, `opening` or `request`.
    package var stage = ""
    package var address = ""
    package var principal: String?
    /// Which check failed: a stable name.
    package var check = ""
    package var reason = ""
    package var expected: String?
    package var found: String?
    package var remedy: String?
    /// What the peer was told of it.
    package var told: String?
    package var subject: String?
    package var issuer: String?
    package var serial: String?
    package var fingerprint: String?
    package var names: [String] = []
    package var notAfter: NativeTime?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "first", &self.first)
        try visitor.field(2, "latest", &self.latest)
        try visitor.field(3, "count", &self.count)
        try visitor.field(4, "stage", &self.stage)
        try visitor.field(5, "address", &self.address)
        try visitor.field(6, "principal", &self.principal)
        try visitor.field(7, "check", &self.check)
        try visitor.field(8, "reason", &self.reason)
        try visitor.field(9, "expected", &self.expected)
        try visitor.field(10, "found", &self.found)
        try visitor.field(11, "remedy", &self.remedy)
        try visitor.field(12, "told", &self.told)
        try visitor.field(13, "subject", &self.subject)
        try visitor.field(14, "issuer", &self.issuer)
        try visitor.field(15, "serial", &self.serial)
        try visitor.field(16, "fingerprint", &self.fingerprint)
        try visitor.field(17, "names", &self.names)
        try visitor.field(18, "not_after", &self.notAfter)
    }
}

/// The latest first.
package struct NativeRejections: NativeRecord {
    package var rejections: [NativeRejection] = []
    /// All since the server started, those that are forgotten included.
    package var total: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "rejections", &self.rejections)
        try visitor.field(2, "total", &self.total)
    }
}

/// Loads identity, trust, lists and policy anew: all of them, or none.
package struct NativeReloadRequest: NativeRequest {
    package typealias Reply = NativeReloadState
    package static let kind = NativeRequestKind.reload

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// Asks which connections each authority has, so that one knows when an old one can go.
package struct NativeAuthoritiesRequest: NativeRequest {
    package typealias Reply = NativeAuthorities
    package static let kind = NativeRequestKind.authorities

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// A trust anchor and its live connections.
package struct NativeAuthority: NativeRecord {
    package var certificate = NativeCertificate()
    /// In the trust store that is in use; false for one that left it while connections stay.
    package var isTrusted = false
    package var connections: Int64 = 0
    /// By the issuer's name in the client's certificate: an intermediate, or the anchor itself.
    package var issuers: [NativeCount] = []
    /// Until when its revocation list is current.
    package var revocationListNextUpdate: NativeTime?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "certificate", &self.certificate)
        try visitor.field(2, "trusted", &self.isTrusted)
        try visitor.field(3, "connections", &self.connections)
        try visitor.field(4, "issuers", &self.issuers)
        try visitor.field(5, "revocation_list_next_update", &self.revocationListNextUpdate)
    }
}

/// Every trust anchor in use, and every one that has a connection.
package struct NativeAuthorities: NativeRecord {
    package var authorities: [NativeAuthority] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "authorities", &self.authorities)
    }
}

/// How many of something.
package struct NativeCount: NativeRecord {
    package var name = ""
    package var count: Int64 = 0

    package init() {}

    package init(_ name: String, _ count: Int64) {
        self.name = name
        self.count = count
    }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "name", &self.name)
        try visitor.field(2, "count", &self.count)
    }
}
