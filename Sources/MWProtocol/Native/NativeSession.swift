// Sessions of a client, under which its writes happen exactly once: the outcome of each is stored with it.

package import NIOCore

/// Which write of a client's this is, so that a repetition of it does nothing and gets the first one's outcome.
package struct NativeWriteID: NativeRecord {
    /// 16 bytes, from ``NativeSessionOpened``.
    package var session = ByteBuffer()
    /// From 1; one for each write of the session, never used for another one.
    package var sequence: Int64 = 0
    /// Every outcome up to this sequence has arrived: the server may forget them.
    package var acknowledged: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "session", &self.session)
        try visitor.field(2, "sequence", &self.sequence)
        try visitor.field(3, "acknowledged", &self.acknowledged)
    }
}

/// A write is on stable storage.
package struct NativeWritten: NativeRecord {
    /// The revision it made; where it changed nothing, the store's.
    package var revision: Int64 = 0
    /// This is the outcome of an earlier arrival of the same write.
    package var isRepeated = false
    /// Keys that it changed: a remove of an absent key changes none.
    package var changes: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "repeated", &self.isRepeated)
        try visitor.field(3, "changes", &self.changes)
    }
}

/// Opens a session, under which writes happen exactly once. It is the principal's, whatever connection it is used on.
package struct NativeOpenSession: NativeRequest {
    package typealias Reply = NativeSessionOpened
    package static let kind = NativeRequestKind.openSession

    /// How long it stays when unused; 0 is the server's default, and the server may give less.
    package var timeToLiveMilliseconds: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "time_to_live_milliseconds", &self.timeToLiveMilliseconds)
    }
}

/// Asks whether a session is still there, and keeps it for its whole time again.
package struct NativeResumeSession: NativeRequest {
    package typealias Reply = NativeSessionOpened
    package static let kind = NativeRequestKind.resumeSession

    package var session = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "session", &self.session)
    }
}

/// A session.
package struct NativeSessionOpened: NativeRecord {
    /// 16 bytes.
    package var session = ByteBuffer()
    package var timeToLiveMilliseconds: Int64 = 0
    /// Writes that may be without an acknowledged outcome at once.
    package var maximumOutcomes: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "session", &self.session)
        try visitor.field(2, "time_to_live_milliseconds", &self.timeToLiveMilliseconds)
        try visitor.field(3, "maximum_outcomes", &self.maximumOutcomes)
    }
}

/// Forgets a session and its outcomes.
package struct NativeCloseSession: NativeRequest {
    package typealias Reply = NativeDone
    package static let kind = NativeRequestKind.closeSession

    package var session = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "session", &self.session)
    }
}

/// It is done, and there is nothing to say.
package struct NativeDone: NativeRecord {
    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}
