// Reading and writing.

package import NIOCore

/// Keys from ``lower`` up to, and without, ``upper``, in byte order.
package struct NativeRange: NativeRecord {
    package var lower = ByteBuffer()
    /// Not there: no bound.
    package var upper: ByteBuffer?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "lower", &self.lower)
        try visitor.field(2, "upper", &self.upper)
    }
}

/// A key and what is stored there.
package struct NativeEntry: NativeRecord {
    /// Empty in the answer to a get, which is in the order of its keys.
    package var key = ByteBuffer()
    package var value = ByteBuffer()
    /// That of its last change; 0: the key is absent.
    package var revision: Int64 = 0
    /// The lease it goes with.
    package var lease: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "key", &self.key)
        try visitor.field(2, "value", &self.value)
        try visitor.field(3, "revision", &self.revision)
        try visitor.field(4, "lease", &self.lease)
    }
}

/// Reads keys, all at one revision.
package struct NativeGet: NativeRequest {
    package typealias Reply = NativeValues
    package static let kind = NativeRequestKind.get

    package var keys: [ByteBuffer] = []
    package var isWithoutValues = false
    /// From ``NativeSnapshotOpened``; not there: now.
    package var snapshot: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "keys", &self.keys)
        try visitor.field(2, "without_values", &self.isWithoutValues)
        try visitor.field(NativeTag(rawValue: 3).critical, "snapshot", &self.snapshot)
    }
}

/// What was read.
package struct NativeValues: NativeRecord {
    /// The store's revision then: everything up to it is in what was read.
    package var revision: Int64 = 0
    /// One for each key, in order.
    package var entries: [NativeEntry] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "entries", &self.entries)
    }
}

/// A key and the value to put there.
package struct NativePair: NativeRecord {
    package var key = ByteBuffer()
    package var value = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "key", &self.key)
        try visitor.field(2, "value", &self.value)
    }
}

/// Stores values, all or none.
package struct NativePut: NativeRequest {
    package typealias Reply = NativeWritten
    package static let kind = NativeRequestKind.put

    package var pairs: [NativePair] = []
    /// They go when this lease ends.
    package var lease: Int64?
    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "pairs", &self.pairs)
        try visitor.field(NativeTag(rawValue: 2).critical, "lease", &self.lease)
        try visitor.field(NativeTag(rawValue: 3).critical, "write_i_d", &self.writeID)
    }
}

/// Makes keys absent, all or none.
package struct NativeRemove: NativeRequest {
    package typealias Reply = NativeWritten
    package static let kind = NativeRequestKind.remove

    package var keys: [ByteBuffer] = []
    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "keys", &self.keys)
        try visitor.field(NativeTag(rawValue: 2).critical, "write_i_d", &self.writeID)
    }
}

/// Reads a page of a range. Go on behind the last key of a page, in the same snapshot for a consistent whole.
package struct NativeScan: NativeRequest {
    package typealias Reply = NativeScanPage
    package static let kind = NativeRequestKind.scan

    package var range = NativeRange()
    package var isBackward = false
    package var isKeysOnly = false
    /// Entries at most; 0 is the server's.
    package var limit: Int64 = 0
    /// Bytes of keys and values after which the page ends; 0 is the server's.
    package var maximumBytes: Int64 = 0
    package var snapshot: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "range", &self.range)
        try visitor.field(2, "backward", &self.isBackward)
        try visitor.field(3, "keys_only", &self.isKeysOnly)
        try visitor.field(4, "limit", &self.limit)
        try visitor.field(5, "maximum_bytes", &self.maximumBytes)
        try visitor.field(NativeTag(rawValue: 6).critical, "snapshot", &self.snapshot)
    }
}

/// A page of a scan.
package struct NativeScanPage: NativeRecord {
    package var revision: Int64 = 0
    package var entries: [NativeEntry] = []
    /// There is more of the range behind the last entry.
    package var hasMore = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "entries", &self.entries)
        try visitor.field(3, "more", &self.hasMore)
    }
}

/// Holds the store as it is now, for reads of this connection.
package struct NativeOpenSnapshot: NativeRequest {
    package typealias Reply = NativeSnapshotOpened
    package static let kind = NativeRequestKind.openSnapshot

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// A snapshot, until it is closed, its connection ends, or its time is over.
package struct NativeSnapshotOpened: NativeRecord {
    package var snapshot: Int64 = 0
    package var revision: Int64 = 0
    /// From its last use.
    package var lifetimeMilliseconds: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "snapshot", &self.snapshot)
        try visitor.field(2, "revision", &self.revision)
        try visitor.field(3, "lifetime_milliseconds", &self.lifetimeMilliseconds)
    }
}

/// Lets a snapshot go.
package struct NativeCloseSnapshot: NativeRequest {
    package typealias Reply = NativeDone
    package static let kind = NativeRequestKind.closeSnapshot

    package var snapshot: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "snapshot", &self.snapshot)
    }
}

/// Takes a prefix that no client ever had or will have.
package struct NativeAllocatePrefix: NativeRequest {
    package typealias Reply = NativePrefix
    package static let kind = NativeRequestKind.allocatePrefix

    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(NativeTag(rawValue: 1).critical, "write_i_d", &self.writeID)
    }
}

/// A prefix.
package struct NativePrefix: NativeRecord {
    package var prefix: Int64 = 0
    package var isRepeated = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "prefix", &self.prefix)
        try visitor.field(2, "repeated", &self.isRepeated)
    }
}
