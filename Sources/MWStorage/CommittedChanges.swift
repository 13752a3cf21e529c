/// What a commit writes, and where in it the changes of each request are. One is reused from commit to commit.
///
///     batch   data, sessions, leases, … of all requests │ history records of all requests │ what the store knows of itself
///
/// History comes behind all the data, not each record behind its own: an engine that keeps its keys in order finds the place of a revision
/// beside that of the one before, as long as nothing else comes between them.
final class CommittedChanges {
    /// All that the engine gets, history records among it.
    var batch = WriteBatch()
    private var list = List()

    /// What a request takes in the batch beside its keys and values, about.
    private static let overheadBytesPerRequest = 96

    struct Entry {
        let origin: CommitOrigin
        let revision: Revision
        /// Which of the changes are its.
        fileprivate let changes: Range<Int>
        /// Where its history record is in the batch, once that has been written.
        fileprivate(set) var record = 0..<0
    }

    /// A change of one key, which is in the batch.
    private struct Change {
        let key: Range<Int>
        /// Nil for a removal.
        let value: Range<Int>?
        let previousRevision: Revision
        let lease: LeaseID?
    }

    /// What is not in the batch. In one value: each access to a property of an object is looked after while the program runs, and a request
    /// makes one instead of many.
    private struct List {
        var requests: [Entry] = []
        var changes: [Change] = []
        /// What the history records will take, about.
        var historyBytes = 0

        mutating func append(_ origin: CommitOrigin, _ revision: Revision, of overlay: borrowing CommitOverlay) -> Int {
            let first = changes.count
            var bytes = HistoryRecord.headerBytes
            for index in overlay.touched {
                let entry = overlay.entries[index]
                guard entry.before.isPresent || entry.state.isPresent else { continue }
                let lease = entry.state.lease
                let value = entry.state.value.map { $0.lowerBound + StoredValue.overheadBytes(lease)..<$0.upperBound }
                changes.append(Change(key: entry.key, value: value, previousRevision: entry.before.revision, lease: lease))
                bytes += HistoryRecord.byteCount(ofChangeWith: entry.key.count, value?.count, lease)
            }
            requests.append(Entry(origin: origin, revision: revision, changes: first..<changes.count))
            historyBytes += bytes + CommittedChanges.overheadBytesPerRequest / 2
            return bytes
        }

        mutating func writeHistory(at time: UInt64, to batch: inout WriteBatch) {
            for index in requests.indices {
                let open = batch.beginHistory(of: requests[index].revision, at: time)
                // What was appended last is when it was made.
                let start = batch.mark.byteCount - MemoryLayout<UInt64>.size
                for place in requests[index].changes {
                    let change = changes[place]
                    batch.appendChange(
                        key: change.key, value: change.value, previousRevision: change.previousRevision, lease: change.lease)
                }
                requests[index].record = start..<batch.mark.byteCount
                batch.endPut(open)
            }
        }

        mutating func removeAll() {
            historyBytes = 0
            requests.removeAll(keepingCapacity: requests.capacity <= StorageLimits.maximumIdleCommitRequests)
            changes.removeAll(keepingCapacity: changes.capacity <= StorageLimits.maximumIdleCommitRequests)
        }
    }

    /// Lent, not copied: it is asked for with each request.
    var requests: [Entry] { _read { yield list.requests } }

    /// Adds the request under way, which has made `revision`: what it has touched in `overlay` is in the batch.
    ///
    /// - Returns: how many bytes its history record will have.
    func append(_ origin: CommitOrigin, _ revision: Revision, of overlay: borrowing CommitOverlay) -> Int {
        list.append(origin, revision, of: overlay)
    }

    /// Has room for what the requests of a queue put, and for their history: large values are not copied again because the batch grows.
    func reserve(for queue: borrowing RequestQueue) {
        let overhead = queue.requests.count * CommittedChanges.overheadBytesPerRequest
        batch.reserve(2 * queue.batch.byteCount + overhead + list.historyBytes)
    }

    /// Writes the history records of all requests: once a commit, behind what they put and removed.
    func writeHistory(at time: UInt64) {
        batch.isDataInHistory = true
        list.writeHistory(at: time, to: &batch)
    }

    func removeAll() {
        batch.removeAll(keepingAtMost: StorageLimits.maximumIdleCommitBytes)
        list.removeAll()
    }

    func forEachChange(ofRequestAt index: Int, _ body: (KeyChange) -> Void) {
        let range = list.requests[index].record
        unsafe batch.withUnsafeBytes { bytes in
            do throws(StorageError) {
                try unsafe HistoryRecord.forEachChange(of: UnsafeRawBufferPointer(rebasing: bytes[range])) { change in
                    body(change)
                    return true
                }
            } catch {
                preconditionFailure("a record that this program has just made")
            }
        }
    }
}
