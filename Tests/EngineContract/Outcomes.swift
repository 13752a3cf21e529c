package import MWStorage

/// A submitter whose outcomes a test awaits.
package struct TestSubmitter: Sendable {
    package let submitter: Submitter
    private let deliveries: AsyncStream<[CommitOutcome]>

    package init(_ storage: Storage) {
        let (stream, continuation) = AsyncStream.makeStream(of: [CommitOutcome].self)
        self.deliveries = stream
        self.submitter = storage.makeSubmitter { continuation.yield($0) }
    }

    /// Submits a put of one key; the value is the key.
    package func put(_ key: [UInt8], token: UInt64) throws(StorageError) {
        try submitter.submit(token: token) { (batch) throws(StorageError) in try batch.put(key, key) }
    }

    /// The next deliveries, until they hold `count` outcomes.
    package func outcomes(_ count: Int) async -> [CommitOutcome] {
        var all: [CommitOutcome] = []
        for await delivery in deliveries {
            all += delivery
            if all.count >= count { break }
        }
        return all
    }
}

/// Awaits changes of health.
package final class HealthWatch: StorageObserver {
    private let changes: AsyncStream<StorageHealth>
    private let continuation: AsyncStream<StorageHealth>.Continuation

    package init() { (changes, continuation) = AsyncStream.makeStream() }

    package func committed(_ commit: borrowing Commit) {}
    package func healthChanged(_ health: StorageHealth) { continuation.yield(health) }

    /// Returns once the store has become writable again.
    package func recovery() async {
        for await health in changes where health == .writable { return }
    }
}
