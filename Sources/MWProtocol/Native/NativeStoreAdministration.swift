// What administrators have done with the store and its clients.

package import NIOCore

/// Has clients drop what they hold and read it afresh, and waits until each has said so.
package struct NativeReloadClientsRequest: NativeRequest {
    package typealias Reply = NativeReloadClients
    package static let kind = NativeRequestKind.reloadClients

    /// Clients of this principal; not there: all.
    package var principal: String?
    /// None: everything.
    package var ranges: [NativeRange] = []
    package var reason = ""
    /// 0 is the server's default.
    package var timeoutMilliseconds: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "principal", &self.principal)
        try visitor.field(2, "ranges", &self.ranges)
        try visitor.field(3, "reason", &self.reason)
        try visitor.field(4, "timeout_milliseconds", &self.timeoutMilliseconds)
    }
}

/// Who was asked to reload, and who did.
package struct NativeReloadClients: NativeRecord {
    package var asked: Int64 = 0
    package var acknowledged: Int64 = 0
    /// Principal and address of those who did not say so in time.
    package var unanswered: [String] = []
    /// mwDB clients, whose protocol cannot say so: closed, to read afresh when they come back.
    package var forced: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "asked", &self.asked)
        try visitor.field(2, "acknowledged", &self.acknowledged)
        try visitor.field(3, "unanswered", &self.unanswered)
        try visitor.field(4, "forced", &self.forced)
    }
}

/// Makes a backup, in the directory that the server was set up with, while it serves.
package struct NativeBackupRequest: NativeRequest {
    package typealias Reply = NativeBackup
    package static let kind = NativeRequestKind.backup

    /// A file name; empty: made from the time and revision.
    package var name = ""

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "name", &self.name)
    }
}

/// A backup, on the server's disk.
package struct NativeBackup: NativeRecord {
    package var path = ""
    package var revision: Int64 = 0
    package var incarnation = ByteBuffer()
    package var bytes: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "path", &self.path)
        try visitor.field(2, "revision", &self.revision)
        try visitor.field(3, "incarnation", &self.incarnation)
        try visitor.field(4, "bytes", &self.bytes)
    }
}

/// Forgets the history up to a revision.
package struct NativeCompactRequest: NativeRequest {
    package typealias Reply = NativeCompacted
    package static let kind = NativeRequestKind.compact

    package var revision: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
    }
}

/// Watches can begin behind this revision.
package struct NativeCompacted: NativeRecord {
    package var revision: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
    }
}
