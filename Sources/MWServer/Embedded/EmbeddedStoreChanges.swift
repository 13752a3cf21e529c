public import MWStorage
internal import Synchronization

extension EmbeddedStore {
    /// What one revision changed in the ranges that are watched.
    public struct Changes: Hashable, Sendable {
        /// A change of one key.
        public struct Change: Hashable, Sendable {
            /// Whose.
            public let key: [UInt8]
            /// The new value; `nil`: it was removed.
            public let value: [UInt8]?
            /// That of the change before; 0: the key was absent.
            public let previousRevision: UInt64
        }

        /// Of the request that changed them.
        public let revision: Revision
        /// One for each key.
        public let changes: [Change]
    }

    /// Every change in the ranges, once, in the order of revisions, from behind `revision` on; from now on without one.
    ///
    /// Read from history as it is asked for: whoever is slow slows nobody, and misses nothing as long as history reaches back. Throws
    /// `compacted` when it does not, and `wrongIncarnation` for a revision of another store: read afresh then.
    public func changes(in ranges: [Range] = [Range()], after revision: Revision? = nil) -> ChangeSequence {
        ChangeSequence(store: self, ranges: ranges.map(\.stored), after: revision)
    }

    /// See ``changes(in:after:)``. What it goes on from is decided when it is made.
    public struct ChangeSequence: AsyncSequence, Sendable {
        /// One revision's.
        public typealias Element = Changes
        private let store: EmbeddedStore
        private let ranges: [KeyRange]
        private let after: Revision

        init(store: EmbeddedStore, ranges: [KeyRange], after: Revision?) {
            self.store = store
            self.ranges = ranges
            self.after = after ?? store.revision
        }

        /// Begins to watch.
        public func makeAsyncIterator() -> Iterator { Iterator(self.store, self.ranges, self.after) }

        /// Of one task.
        public struct Iterator: AsyncIteratorProtocol {
            private let store: EmbeddedStore
            private let ranges: [KeyRange]
            private let isOfThisStore: Bool
            /// Everything up to it has been looked at.
            private var position: MWStorage.Revision
            private var waiting: ArraySlice<Changes> = []
            private let bell: CommitBell
            private var rings: AsyncStream<Void>.Iterator

            init(_ store: EmbeddedStore, _ ranges: [KeyRange], _ after: Revision) {
                self.store = store
                self.ranges = ranges
                self.isOfThisStore = after.incarnation == "\(store.storage.incarnation)"
                self.position = MWStorage.Revision(after.number)
                self.bell = CommitBell(on: store.storage)
                self.rings = self.bell.rings.makeAsyncIterator()
            }

            /// The next; `nil` when the task is cancelled, or the server has stopped.
            public mutating func next() async throws(StorageError) -> Changes? {
                guard self.isOfThisStore else {
                    throw StorageError(
                        .wrongIncarnation, subject: "changes", found: "a revision of another store", remedy: "read the store afresh")
                }
                while self.waiting.isEmpty {
                    if self.store.storage.revision > self.position {
                        try self.read()
                    } else if await self.rings.next(isolation: #isolation) == nil {
                        return nil
                    }
                }
                return self.waiting.removeFirst()
            }

            private mutating func read() throws(StorageError) {
                let page = try self.store.storage.history(after: self.position)
                var found: [Changes] = []
                var failure: StorageError?
                page.forEachRevision { revision, history in
                    guard failure == nil else { return }
                    var changes: [Changes.Change] = []
                    do throws(StorageError) {
                        try history.forEachChange { change in
                            guard self.ranges.contains(where: { unsafe $0.contains(change.key) }) else { return }
                            changes.append(
                                Changes.Change(
                                    key: unsafe Array(change.key), value: unsafe change.value.map { unsafe Array($0) },
                                    previousRevision: change.previousRevision.number))
                        }
                    } catch {
                        failure = error
                    }
                    if !changes.isEmpty { found.append(Changes(revision: self.store.revision(revision), changes: changes)) }
                }
                if let failure { throw failure }
                self.position = page.lastRevision
                self.waiting = found[...]
            }
        }
    }
}

/// Rings when there was a commit; any number of them ring once.
final class CommitBell: Sendable {
    let rings: AsyncStream<Void>
    private let observation: StorageObservation

    init(on storage: Storage) {
        let (rings, continuation) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        self.rings = rings
        self.observation = storage.observe(Observer(continuation))
    }

    private final class Observer: StorageObserver {
        private let continuation: AsyncStream<Void>.Continuation

        init(_ continuation: AsyncStream<Void>.Continuation) { self.continuation = continuation }
        deinit { self.continuation.finish() }

        func committed(_ commit: borrowing Commit) { self.continuation.yield() }
        // What was missed, as the disk failed, is in history.
        func healthChanged(_ health: StorageHealth) { self.continuation.yield() }
    }
}
