import Glibc

/// Every bound of the store, with its reason.
package struct StorageLimits: Sendable {
    /// Longest key, in bytes. mwDB's keys are under 40; engines index keys whole, so long ones cost memory.
    package static let maximumKeyBytes = 64 << 10
    /// Longest value, in bytes. Four times the default message limit; an engine holds several copies of a value at once.
    package static let maximumValueBytes = 64 << 20
    /// Memory that an emptied batch keeps, in bytes: what a busy burst needs, so that one large value is not held forever.
    package static let maximumIdleBatchBytes = 1 << 20
    /// Deadlines of what has ended before its time that are kept, beside as many as there are others.
    package static let maximumIdleDeadlines = 1024
    /// Emptied queues that a submitter keeps for reuse: what can be under way at once.
    package static let maximumIdleQueues = 16

    /// The same for the batch of a commit, of which there are two for all event loops: with history it holds each value twice.
    static let maximumIdleCommitBytes = 8 << 20
    /// Bytes of requests after which a commit takes no more queues: what it makes of them, and what the engine does, is in memory several
    /// times over until its sync has returned. A request is never divided.
    /// More would not make a request cheaper: the next commit is evaluated while this one's sync is under way, if there is a next one.
    package static let maximumCommitBytes = 1 << 20
    /// Bytes of requests after which a submitter hands over what it has before its turn ends.
    static let maximumQueueBytes = 256 << 10
    /// Requests and changes for which it keeps memory.
    static let maximumIdleCommitRequests = 16_384
    /// Memory for the revisions of keys that were written lately, in bytes: half a million keys. It grows as they are written.
    static let maximumKnownRevisionBytes = 32 << 20
    /// Requests for which an emptied queue keeps memory.
    static let maximumIdleRequests = 1024
    /// Places in the table of a commit's keys that it keeps.
    static let maximumIdleOverlaySlots = 16_384
    /// Revisions of history that one commit takes off the disk, beside as many as it makes: nobody waits for that.
    static let maximumTrimmedPerCommit = 4096
    /// Keys and outcomes that one commit removes because leases and sessions are over; the next one goes on.
    static let maximumExpiredPerCommit = 16_384
    /// Until a lease is looked at again whose keys could not be read.
    static let expiryRetryDelay: Duration = .seconds(10)
    /// Acknowledged outcomes that stay stored until they go together.
    static let acknowledgementSlack: UInt64 = 32
    /// Conditions and operations of a transaction: all of them run while every other write waits.
    package static let maximumTransactionSteps = 4096
    /// Bytes of the keys and values that one transaction answers with, which are kept with its outcome.
    package static let maximumOutcomeBytes = 4 << 20
    /// Bytes of the keys and values that the transactions of one commit answer with: small requests may ask for much, and all
    /// answers of a commit are in memory at once. Those that come over it are told to come again.
    package static let maximumResultBytesPerCommit = 64 << 20

    /// Bytes of writes that may wait for the disk. Over it, requests are refused as `overloaded`: memory stays bounded
    /// when the disk is slower than the network.
    package var maximumPendingBytes = 64 << 20

    /// Bytes of writes that wait for their commit, from which on they are evaluated while the commit before is being synced. To have another
    /// thread wait for the disk costs as much as evaluating a few of them.
    package var minimumOverlapBytes = 32 << 10
    /// Requests that may wait for the disk: about a second's worth.
    package var maximumPendingRequests = 131_072
    /// First and longest wait between attempts to reopen the engine after a disk error.
    package var firstRecoveryDelay: Duration = .milliseconds(100)
    package var maximumRecoveryDelay: Duration = .seconds(5)

    /// Revisions of which history is kept, and bytes that it takes: what a watcher may have missed while it was away.
    package var maximumHistoryRevisions = 1_000_000
    package var maximumHistoryBytes = 256 << 20
    /// How long it is kept: a client that was away for longer reads afresh.
    package var maximumHistoryAge: Duration = .seconds(24 * 3600)

    /// Writes of a session that may be without an acknowledged outcome at once: what is stored for each session is bounded.
    package var maximumOutcomesPerSession = 1024
    /// Sessions in all, and of one principal: each takes memory until its time is over.
    package var maximumSessions = 100_000
    package var maximumSessionsPerPrincipal = 10_000
    /// How long a session stays unused if its client names no time, and at most.
    package var defaultSessionTimeToLive: Duration = .seconds(600)
    package var maximumSessionTimeToLive: Duration = .seconds(24 * 3600)

    /// Leases in all, and of one principal.
    package var maximumLeases = 100_000
    package var maximumLeasesPerPrincipal = 10_000
    /// Keys that go with one lease: they are all removed at one revision.
    package var maximumKeysPerLease = 10_000
    /// Bytes of keys that go with leases, which are all in memory.
    package var maximumLeaseKeyBytes = 64 << 20
    /// A lease that is shorter could end between two keepings on a slow network; one that is longer is better a plain key.
    package var minimumLeaseTimeToLive: Duration = .seconds(1)
    package var maximumLeaseTimeToLive: Duration = .seconds(24 * 3600)

    package init() {}
}

/// Who runs the commits of a store.
package enum CommitMode: Sendable {
    /// A thread of the store's.
    case thread
    /// Whoever calls ``Storage/runCommits()``: for tests that decide when things happen.
    case manual
}

/// When a write counts as done.
package enum Durability: String, Sendable, CaseIterable {
    /// On stable storage: survives a power cut.
    case sync
    /// Handed to the operating system: survives the death of this process, not that of the machine.
    case os
}

/// How a store is opened.
package struct StorageOptions: Sendable {
    package var durability: Durability = .sync
    package var limits = StorageLimits()
    package var engine = EngineOptions()
    package var commits: CommitMode = .thread
    /// The time from some moment on that never changes, by which sessions, leases and history age: it neither jumps nor goes back.
    package var clock: @Sendable () -> Duration = StorageOptions.monotonicClock
    /// The time of day, in milliseconds since 1970: what history is dated by.
    package var wallClock: @Sendable () -> UInt64 = StorageOptions.systemClock
    /// Names of new sessions, which nobody must be able to guess.
    package var makeSessionID: @Sendable () -> SessionID = SessionID.random

    package init(durability: Durability = .sync) { self.durability = durability }
}

extension StorageOptions {
    package static let monotonicClock: @Sendable () -> Duration = { duration(of: CLOCK_BOOTTIME) }

    package static let systemClock: @Sendable () -> UInt64 = {
        let (seconds, attoseconds) = duration(of: CLOCK_REALTIME).components
        return UInt64(max(0, seconds)) * 1000 + UInt64(attoseconds / 1_000_000_000_000_000)
    }

    private static func duration(of clock: clockid_t) -> Duration {
        var time = timespec()
        unsafe clock_gettime(clock, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }
}
