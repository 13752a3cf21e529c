// Leases.

/// Asks for a lease: keys bound to it go when it ends.
package struct NativeGrantLease: NativeRequest {
    package typealias Reply = NativeLease
    package static let kind = NativeRequestKind.grantLease

    package var timeToLiveMilliseconds: Int64 = 0
    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "time_to_live_milliseconds", &self.timeToLiveMilliseconds)
        try visitor.field(NativeTag(rawValue: 2).critical, "write_i_d", &self.writeID)
    }
}

/// Keeps a lease alive for its whole time again.
package struct NativeKeepLease: NativeRequest {
    package typealias Reply = NativeLease
    package static let kind = NativeRequestKind.keepLease

    package var lease: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "lease", &self.lease)
    }
}

/// A lease.
package struct NativeLease: NativeRecord {
    package var lease: Int64 = 0
    /// As granted.
    package var timeToLiveMilliseconds: Int64 = 0
    package var remainingMilliseconds: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "lease", &self.lease)
        try visitor.field(2, "time_to_live_milliseconds", &self.timeToLiveMilliseconds)
        try visitor.field(3, "remaining_milliseconds", &self.remainingMilliseconds)
    }
}

/// Ends a lease: removes the keys bound to it, all at one revision.
package struct NativeRevokeLease: NativeRequest {
    package typealias Reply = NativeWritten
    package static let kind = NativeRequestKind.revokeLease

    package var lease: Int64 = 0
    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "lease", &self.lease)
        try visitor.field(NativeTag(rawValue: 2).critical, "write_i_d", &self.writeID)
    }
}
