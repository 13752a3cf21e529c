/// Every bound of the store, with its reason.
package struct StorageLimits: Sendable {
    /// Longest key, in bytes. mwDB's keys are under 40; engines index keys whole, so long ones cost memory.
    package static let maximumKeyBytes = 64 << 10
    /// Longest value, in bytes. Four times the default message limit; an engine holds several copies of a value at once.
    package static let maximumValueBytes = 64 << 20
    /// Memory that an emptied batch keeps, in bytes: what a busy burst needs, so that one large value is not held forever.
    package static let maximumIdleBatchBytes = 1 << 20
    /// Emptied queues that a submitter keeps for reuse: what can be under way at once.
    package static let maximumIdleQueues = 16

    /// Bytes of writes that may wait for the disk. Over it, requests are refused as `overloaded`: memory stays bounded
    /// when the disk is slower than the network.
    package var maximumPendingBytes = 64 << 20
    /// Requests that may wait for the disk: about a second's worth.
    package var maximumPendingRequests = 131_072
    /// First and longest wait between attempts to reopen the engine after a disk error.
    package var firstRecoveryDelay: Duration = .milliseconds(100)
    package var maximumRecoveryDelay: Duration = .seconds(5)

    package init() {}
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

    package init(durability: Durability = .sync) { self.durability = durability }
}
