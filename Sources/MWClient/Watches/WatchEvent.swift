import MWProtocol
import NIOCore

/// What a watch reports, in the order in which it happened.
public enum WatchEvent: Equatable, Sendable {
    /// A part of the state that the watch begins with: entries as of one revision, in the order of keys. ``synced(_:)`` ends it.
    case state(Revision, [Entry])
    /// Everything that one revision changed in the ranges: whole, and never reported twice.
    case changes(Revision, [Change])
    /// The state, or everything that had been missed, has been reported up to this revision; changes follow as they happen.
    case synced(Revision)
    /// Everything up to this revision has been reported.
    case progress(Revision)
    /// What has been reported is not enough to go on from: forget it. With ``GapPolicy/resync`` the state follows.
    case resync(reason: String)
    /// The connection was lost, or the server does not report at the moment; why. Changes are not known of until ``resumed(_:)``.
    case disconnected(ClientError)
    /// The server reports again, from this revision on: what was missed comes first, up to ``synced(_:)``.
    case resumed(Revision)

    /// What it takes in memory, beside the bytes of keys and values: two arrays' headers and what refers to them.
    static let bytesPerElement = 128

    /// About what it takes in memory.
    var byteCount: Int {
        switch self {
        case .state(_, let entries):
            entries.reduce(Self.bytesPerElement) { $0 + $1.key.count + $1.value.count + Self.bytesPerElement }
        case .changes(_, let changes): changes.reduce(Self.bytesPerElement) { $0 + $1.byteCount }
        case .resync(let reason): Self.bytesPerElement + reason.utf8.count
        case .synced, .progress, .disconnected, .resumed: Self.bytesPerElement
        }
    }
}

/// A change of one key.
public struct Change: Hashable, Sendable {
    /// The key.
    public let key: [UInt8]
    /// What was put there; `nil` when it was removed, or the watch is one without values.
    public let value: [UInt8]?
    /// The key is absent now.
    public let isRemoval: Bool
    /// That of the key's change before; its number is 0 when the key was absent.
    public let previousRevision: Revision
    /// The lease that the key goes with.
    public let lease: LeaseID?

    /// A change, for tests and copies.
    public init(key: [UInt8], value: [UInt8]?, isRemoval: Bool = false, previousRevision: Revision, lease: LeaseID? = nil) {
        self.key = key
        self.value = value
        self.isRemoval = isRemoval
        self.previousRevision = previousRevision
        self.lease = lease
    }

    init(_ change: NativeChange, hasValue: Bool, in incarnation: Incarnation) {
        self.init(
            key: Array(change.key.readableBytesView),
            value: change.isRemoval || !hasValue ? nil : Array(change.value.readableBytesView), isRemoval: change.isRemoval,
            previousRevision: Revision(incarnation, change.previousRevision), lease: change.lease.map { LeaseID($0) })
    }

    var byteCount: Int { self.key.count + (self.value?.count ?? 0) + WatchEvent.bytesPerElement }
}

/// Where a watch begins.
public enum WatchStart: Hashable, Sendable {
    /// With what changes from now on.
    case now
    /// With the state of the ranges, then what changes.
    case state
    /// With what changed behind this revision: the last one that was seen, kept in a file or beside a copy.
    case after(Revision)
}

/// What a watch does when it cannot report everything that was missed: the history of that time was compacted, the store is another one since it
/// was restored, or the server gave up on a watch that was too slow.
public enum GapPolicy: Hashable, Sendable {
    /// The watch ends with an error: `compacted`, `wrongIncarnation`, or `watchOverflowed`.
    case fail
    /// ``WatchEvent/resync(reason:)``, then the state of the ranges, ``WatchEvent/synced(_:)``, and changes.
    case resync
    /// ``WatchEvent/resync(reason:)``, then what changes from now on: for those who only keep what they can read again.
    case restart
}

/// How a watch is done.
public struct WatchOptions: Hashable, Sendable {
    /// Changes come with what was put; without, keys and revisions only.
    public var includesValues = true
    /// What becomes of it where changes cannot be known.
    public var onGap = GapPolicy.fail
    /// Bytes of events that wait for whoever reads them. Above it the server is asked to end the watch, and to begin it again behind the last
    /// event once all that wait were read: other calls do not wait for a slow reader, and it misses nothing while the history reaches back.
    /// Default 8 MiB. Less than 1 KiB is taken as that: a watch says that it has begun with events of its own, and must not stop for them.
    public var maximumBufferedBytes = 8 * 1024 * 1024
    /// Bytes of a state that wait for whoever reads them: a state cannot be asked for in parts, so that above it the watch ends with
    /// `limitExceeded`. Default 256 MiB.
    public var maximumBufferedStateBytes = 256 * 1024 * 1024
    /// Bytes of the changes of one revision, which is reported whole: above it the watch ends with `limitExceeded`. The server makes no
    /// revision larger than its message limit, 16 MiB by default. Default 64 MiB.
    public var maximumRevisionBytes = 64 * 1024 * 1024

    /// What ``maximumBufferedBytes`` is at least.
    static let leastBufferedBytes = 8 * WatchEvent.bytesPerElement

    /// The defaults.
    public init() {}
}
