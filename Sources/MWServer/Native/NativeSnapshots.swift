internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// The snapshots that one connection holds.
struct NativeSnapshots {
    private struct Held {
        let snapshot: StorageSnapshot
        var lastUse: NIODeadline
    }

    private var held: [Int64: Held] = [:]
    private var lastNumber: Int64 = 0

    var count: Int { self.held.count }

    /// Holds one more; its number is not used again on this connection.
    mutating func add(_ snapshot: StorageSnapshot, limit: Int, at now: NIODeadline) throws(NativeFailure) -> Int64 {
        guard self.held.count < limit else {
            throw NativeFailure(.tooMany, "this connection holds \(limit) snapshots", remedy: "close one first")
        }
        self.lastNumber += 1
        self.held[self.lastNumber] = Held(snapshot: snapshot, lastUse: now)
        return self.lastNumber
    }

    /// One that is held, for one more lifetime.
    mutating func use(_ number: Int64, at now: NIODeadline) throws(NativeFailure) -> StorageSnapshot {
        guard let snapshot = self.held[number]?.snapshot else { throw Self.unknown(number) }
        self.held[number]?.lastUse = now
        return snapshot
    }

    mutating func remove(_ number: Int64) throws(NativeFailure) {
        guard self.held.removeValue(forKey: number) != nil else { throw Self.unknown(number) }
    }

    /// Lets go of those that were not used since `deadline`.
    mutating func removeIdle(since deadline: NIODeadline) {
        guard !self.held.isEmpty else { return }
        self.held = self.held.filter { $0.value.lastUse > deadline }
    }

    mutating func removeAll() { self.held = [:] }

    private static func unknown(_ number: Int64) -> NativeFailure {
        .snapshotUnknown("this connection has no snapshot \(number), any more")
    }
}
