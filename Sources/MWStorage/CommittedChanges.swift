/// What a commit writes, and where in it the changes of each request are. One is reused from commit to commit.
final class CommittedChanges {
    /// All that the engine gets, history records among it.
    var batch = WriteBatch()
    private(set) var requests: [Entry] = []

    struct Entry {
        let origin: CommitOrigin
        let revision: Revision
        /// Where its history record is in the batch.
        let record: Range<Int>
    }

    func append(_ origin: CommitOrigin, _ revision: Revision, record: Range<Int>) {
        requests.append(Entry(origin: origin, revision: revision, record: record))
    }

    func removeAll() {
        batch.removeAll()
        requests.removeAll(keepingCapacity: requests.capacity <= StorageLimits.maximumIdleRequests)
    }

    func forEachChange(ofRequestAt index: Int, _ body: (KeyChange) -> Void) {
        let range = requests[index].record
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
