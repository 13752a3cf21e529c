package import MWPKI
internal import Synchronization

/// The latest peers and requests that were refused: what `mwstorage rejections` shows. Shared by all threads.
///
/// Whoever tries again in the same way is counted, and does not push out the others.
package final class RejectionLog: Sendable {
    package struct Entry: Sendable, Hashable {
        /// Counts from 1; a peer that was refused again keeps its number.
        package let number: UInt64
        package let first: Timestamp
        package fileprivate(set) var latest: Timestamp
        package fileprivate(set) var count: UInt64
        /// The first of them.
        package let rejection: Rejection
    }

    /// Entries that are kept: some pages for a person, well below a megabyte.
    package static let defaultCapacity = 512
    /// How far back the same one is looked for: a flood of many must not make each of them expensive.
    private static let maximumLookBack = 32

    private struct Log {
        /// The oldest first, from `start` on, around the end.
        var entries: [Entry] = []
        var start = 0
        var total: UInt64 = 0
        var distinct: UInt64 = 0
    }

    private let log = Mutex(Log())
    private let capacity: Int

    package init(capacity: Int = RejectionLog.defaultCapacity) { self.capacity = max(1, capacity) }

    /// All since the start, those that are no longer kept included.
    package var total: UInt64 { self.log.withLock { $0.total } }

    /// The newest first.
    package func latest(_ maximum: Int = .max) -> [Entry] {
        let (entries, start) = self.log.withLock { ($0.entries, $0.start) }
        let ordered = Array(entries[start...] + entries[..<start])
        return Array(ordered.sorted { ($0.latest, $0.number) > ($1.latest, $1.number) }.prefix(max(0, maximum)))
    }

    package func append(_ rejection: Rejection, at time: Timestamp) {
        self.log.withLock { log in
            log.total += 1
            let count = log.entries.count
            for age in 1..<(min(count, Self.maximumLookBack) + 1) {
                let index = (log.start + count - age) % count
                guard log.entries[index].rejection.isSame(as: rejection) else { continue }
                log.entries[index].count += 1
                log.entries[index].latest = time
                return
            }
            log.distinct += 1
            let entry = Entry(number: log.distinct, first: time, latest: time, count: 1, rejection: rejection)
            if count < self.capacity {
                log.entries.append(entry)
            } else {
                log.entries[log.start] = entry
                log.start = (log.start + 1) % count
            }
        }
    }
}

extension Rejection {
    /// The same peer, refused for the same reason; its port is another each time.
    fileprivate func isSame(as other: Rejection) -> Bool {
        func host(_ address: String) -> Substring { address.lastIndex(of: ":").map { address[..<$0] } ?? address[...] }
        return self.stage == other.stage && self.check == other.check && self.principal == other.principal
            && self.certificate?.fingerprint == other.certificate?.fingerprint && host(self.address) == host(other.address)
    }
}
