// Watches and their events, and what else the server says unasked.

package import NIOCore

/// Reports every change in the ranges, once, in order, from now or from a revision on. Its events carry this request's id, which is in use until it has ended.
package struct NativeWatch: NativeRequest {
    package typealias Reply = NativeWatching
    package static let kind = NativeRequestKind.watch

    package var ranges: [NativeRange] = []
    /// Changes behind this revision; not there: behind the store's.
    package var after: Int64?
    /// 16 bytes: of which store `after` is a revision.
    package var incarnation = ByteBuffer()
    package var isWithoutValues = false
    /// Begin with the state of the ranges (`state` events and `synced`), then its changes; with `after` only if that was compacted.
    package var isWithState = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "ranges", &self.ranges)
        try visitor.field(NativeTag(rawValue: 2).critical, "after", &self.after)
        try visitor.field(NativeTag(rawValue: 3).critical, "incarnation", &self.incarnation)
        try visitor.field(4, "without_values", &self.isWithoutValues)
        try visitor.field(NativeTag(rawValue: 5).critical, "with_state", &self.isWithState)
    }
}

/// A watch has begun.
package struct NativeWatching: NativeRecord {
    /// Changes behind this one will be reported.
    package var revision: Int64 = 0
    package var incarnation = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "incarnation", &self.incarnation)
    }
}

/// Ends a watch of this connection. What was on its way may still arrive before the reply; nothing does behind it.
package struct NativeEndWatch: NativeRequest {
    package typealias Reply = NativeDone
    package static let kind = NativeRequestKind.endWatch

    /// The id of its request.
    package var watch: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "watch", &self.watch)
    }
}

/// Asks a watch to say when it has reported everything up to now. The reply comes behind those events.
package struct NativeProgressRequest: NativeRequest {
    package typealias Reply = NativeProgress
    package static let kind = NativeRequestKind.progress

    package var watch: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "watch", &self.watch)
    }
}

/// Everything up to this revision has been reported. Reply and event.
package struct NativeProgress: NativeRecord {
    package var revision: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
    }
}

/// A change of one key.
package struct NativeChange: NativeRecord {
    package var key = ByteBuffer()
    package var value = ByteBuffer()
    package var isRemoval = false
    /// That of the change before; 0: the key was absent.
    package var previousRevision: Int64 = 0
    package var lease: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "key", &self.key)
        try visitor.field(2, "value", &self.value)
        try visitor.field(3, "removal", &self.isRemoval)
        try visitor.field(4, "previous_revision", &self.previousRevision)
        try visitor.field(5, "lease", &self.lease)
    }
}

/// Everything of one revision that is in a watch's ranges.
package struct NativeChanges: NativeRecord {
    package var revision: Int64 = 0
    package var changes: [NativeChange] = []
    /// More of this revision is in the next event: it was too large for one message.
    package var isContinued = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "changes", &self.changes)
        try visitor.field(3, "continued", &self.isContinued)
    }
}

/// A part of the state that a watch begins with, in the order of keys.
package struct NativeState: NativeRecord {
    package var revision: Int64 = 0
    package var entries: [NativeEntry] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "entries", &self.entries)
    }
}

/// A watch has reported its whole state as of this revision, or everything that it had missed; changes follow as they happen.
package struct NativeSynced: NativeRecord {
    package var revision: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
    }
}

/// What a watch has reported is not enough to go on from: forget it. The state follows, as at the beginning.
package struct NativeResync: NativeRecord {
    package var reason = ""
    package var revision: Int64 = 0
    package var incarnation = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "reason", &self.reason)
        try visitor.field(2, "revision", &self.revision)
        try visitor.field(3, "incarnation", &self.incarnation)
    }
}

/// A watch has ended, and not because it was asked to.
package struct NativeWatchEnded: NativeRecord {
    package var failure = NativeFailure()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "failure", &self.failure)
    }
}

/// An administrator wants this client to drop what it holds of the ranges, to read it afresh, and to say so. An event with id 0.
package struct NativeReloadNotice: NativeRecord {
    package var reload: Int64 = 0
    /// None: everything.
    package var ranges: [NativeRange] = []
    package var reason = ""

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "reload", &self.reload)
        try visitor.field(2, "ranges", &self.ranges)
        try visitor.field(3, "reason", &self.reason)
    }
}

/// The client has done as a reload notice says.
package struct NativeReloadDone: NativeRequest {
    package typealias Reply = NativeDone
    package static let kind = NativeRequestKind.reloadDone

    package var reload: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "reload", &self.reload)
    }
}

/// The server is about to end: connect elsewhere, then leave. An event with id 0.
package struct NativeDrainNotice: NativeRecord {
    /// When it closes what is left.
    package var withinMilliseconds: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "within_milliseconds", &self.withinMilliseconds)
    }
}
