package import MWProtocol
import NIOCore

/// A key and what is stored there.
public struct Entry: Hashable, Sendable {
    /// At least one byte.
    public let key: [UInt8]
    /// Any bytes, none included: an absent key has no entry.
    public let value: [UInt8]
    /// That of its last change.
    public let revision: Revision
    /// The lease that it goes with.
    public let lease: LeaseID?

    /// An entry, for tests and copies.
    public init(key: [UInt8], value: [UInt8], revision: Revision, lease: LeaseID? = nil) {
        self.key = key
        self.value = value
        self.revision = revision
        self.lease = lease
    }

    /// - Parameter key: where the wire leaves it out.
    /// - Returns: nil when the key is absent.
    package init?(_ entry: NativeEntry, key: [UInt8]? = nil, in incarnation: Incarnation) {
        guard entry.revision > 0 else { return nil }
        self.init(
            key: key ?? Array(entry.key.readableBytesView), value: Array(entry.value.readableBytesView),
            revision: Revision(incarnation, entry.revision), lease: entry.lease.map { LeaseID($0) })
    }
}

/// Keys, and the revision of the store at which all of them were read.
public struct ReadResult: Hashable, Sendable {
    /// Everything up to it is in what was read.
    public let revision: Revision
    /// One for each key that was asked for, in order; `nil` where it is absent.
    public let entries: [Entry?]

    /// A result, for tests.
    public init(revision: Revision, entries: [Entry?]) {
        self.revision = revision
        self.entries = entries
    }
}

/// A lease's number, unique in a store for ever.
public struct LeaseID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// As the server gave it.
    public let rawValue: Int64

    /// A number that was kept.
    public init(rawValue: Int64) { self.rawValue = rawValue }

    package init(_ rawValue: Int64) { self.rawValue = rawValue }

    /// The number.
    public var description: String { "\(self.rawValue)" }
}
