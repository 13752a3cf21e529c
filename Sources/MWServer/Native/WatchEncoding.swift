internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

// A `changes` event on its way to many watchers: encoded once on the commit thread, framed once on each event loop. Four bytes differ from
// watcher to watcher, and they are put in place:
//
//     WebSocket header │ frame header, with the watch's id │ revision │ continued? │ change │ change │ …
//                                                   ▲▲ each watcher's own

/// Encoded changes, one behind the other, each as a field of ``NativeChanges``.
struct EncodedChanges: Sendable {
    private(set) var bytes = ByteBuffer()

    /// Appends a change.
    ///
    /// - Returns: Where it is.
    mutating func append(_ change: KeyChange, isWithoutValue: Bool) -> Range<Int> {
        let start = self.bytes.writerIndex
        // At once, not field by field.
        self.bytes.reserveCapacity(minimumWritableBytes: unsafe change.key.count + (change.value?.count ?? 0) + Self.bytesAround)
        self.bytes.writeNativeField(Tag.change) { buffer in
            unsafe buffer.writeNativeField(Tag.key, change.key)
            if let value = unsafe change.value {
                if !isWithoutValue { buffer.writeNativeField(Tag.value) { unsafe $0.writeInParts(value) } }
            } else {
                buffer.writeNativeField(Tag.removal) { $0.writeInteger(UInt8(1)) }
            }
            if change.previousRevision > .zero {
                buffer.writeNativeField(Tag.previousRevision, Int64(clamping: change.previousRevision.number))
            }
            if let lease = change.lease { buffer.writeNativeField(Tag.lease, Int64(clamping: lease.number)) }
        }
        return start..<self.bytes.writerIndex
    }

    mutating func removeAll() { self.bytes.clear() }

    /// Of a change, beside its key and value, at most.
    private static let bytesAround = 64

    /// As in the fields of ``NativeChanges`` and ``NativeChange``.
    enum Tag {
        static let revision: NativeTag = 1
        static let change: NativeTag = 2
        static let continued: NativeTag = 3
        static let key: NativeTag = 1
        static let value: NativeTag = 2
        static let removal: NativeTag = 3
        static let previousRevision: NativeTag = 4
        static let lease: NativeTag = 5
    }
}

/// Where the changes of one revision are that one set of ranges has.
struct ChangeRuns: Sendable, Hashable {
    let revision: UInt64
    /// Runs of whole changes, in order; neighbours are one run.
    private(set) var runs: [Range<Int>] = []
    private(set) var byteCount = 0

    init(revision: UInt64) { self.revision = revision }

    mutating func append(_ range: Range<Int>) {
        self.byteCount += range.count
        if let last = self.runs.last, last.upperBound == range.lowerBound {
            self.runs[self.runs.count - 1] = last.lowerBound..<range.upperBound
        } else {
            self.runs.append(range)
        }
    }
}

/// A part of a revision that is one event.
struct ChangesEvent: Hashable {
    let revision: UInt64
    let runs: [Range<Int>]
    let byteCount: Int
    let isContinued: Bool

    /// Bytes of the frame in front of the changes.
    static func headBytes(isContinued: Bool) -> Int {
        NativeFrame.headerBytes + NativeFields.headerBytes + MemoryLayout<Int64>.size + (isContinued ? NativeFields.headerBytes + 1 : 0)
    }

    var frameBytes: Int { Self.headBytes(isContinued: self.isContinued) + self.byteCount }

    /// Of the whole WebSocket message.
    var messageBytes: Int { WebSocketStateMachine.messageBytes(payloadBytes: self.frameBytes) }

    /// Where a frame has the watch's id.
    static let idOffset = NativeFrame.headerBytes - MemoryLayout<Int32>.size

    /// Appends the frame up to its changes.
    func writeHead(_ id: RequestID, to buffer: inout ByteBuffer) {
        buffer.writeMultipleIntegers(
            UInt32(truncatingIfNeeded: self.frameBytes - MemoryLayout<UInt32>.size), NativeRole.event.rawValue, UInt8(0),
            NativeEventKind.changes.rawValue, id.rawValue)
        buffer.writeNativeField(EncodedChanges.Tag.revision, Int64(clamping: self.revision))
        if self.isContinued { buffer.writeNativeField(EncodedChanges.Tag.continued) { $0.writeInteger(UInt8(1)) } }
    }

    /// One event for all, or several of whole changes when that would be over `maximumBytes`; nil where a change is too large for any.
    static func events(of runs: ChangeRuns, in bytes: ByteBuffer, maximumBytes: Int) -> [ChangesEvent]? {
        if Self.headBytes(isContinued: false) + runs.byteCount <= maximumBytes {
            return [ChangesEvent(revision: runs.revision, runs: runs.runs, byteCount: runs.byteCount, isContinued: false)]
        }
        let room = maximumBytes - Self.headBytes(isContinued: true)
        var events: [ChangesEvent] = []
        var part = ChangeRuns(revision: runs.revision)
        for run in runs.runs {
            var start = run.lowerBound
            while start < run.upperBound {
                let lengthIndex = start + MemoryLayout<UInt16>.size
                guard let length = bytes.getInteger(at: lengthIndex, as: UInt32.self) else { preconditionFailure("whole changes") }
                let end = start + NativeFields.headerBytes + Int(length)
                guard end - start <= room else { return nil }
                if part.byteCount + end - start > room {
                    events.append(ChangesEvent(revision: runs.revision, runs: part.runs, byteCount: part.byteCount, isContinued: true))
                    part = ChangeRuns(revision: runs.revision)
                }
                part.append(start..<end)
                start = end
            }
        }
        events.append(ChangesEvent(revision: runs.revision, runs: part.runs, byteCount: part.byteCount, isContinued: false))
        return events
    }
}

/// Whole messages that all watchers of a topic are sent, one behind the other; the watch's id is put in for one after the other.
///
/// Who is sent them must let go of ``bytes`` before the next one is addressed: then nothing is copied.
struct ChangesMessages {
    private(set) var bytes = ByteBuffer()
    /// Events in it.
    private(set) var count = 0
    private var id = RequestID(0)
    private var parts: [Part] = []

    /// An event.
    private struct Part {
        let revision: UInt64
        let start: Int
        let idPlace: Int
    }

    init() {}

    /// What the watchers of `topic` are sent of `page`; nil where a change fits into no message.
    init?(of page: HistoryPage, for topic: WatchTopic, maximumBytes: Int) throws(StorageError) {
        var encoded = EncodedChanges()
        var failure: StorageError?
        var fits = true
        page.forEachRevision { revision, changes in
            guard failure == nil, fits else { return }
            encoded.removeAll()
            do throws(StorageError) {
                let runs = try changes.runs(for: topic, revision, encodedTo: &encoded)
                guard runs.byteCount > 0 else { return }
                guard let events = ChangesEvent.events(of: runs, in: encoded.bytes, maximumBytes: maximumBytes) else {
                    fits = false
                    return
                }
                for event in events { self.append(event, of: encoded.bytes) }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        guard fits else { return nil }
    }

    /// Its revisions are from the one to the other; nil when it is empty.
    var revisions: ClosedRange<UInt64>? {
        guard let first = self.parts.first, let last = self.parts.last else { return nil }
        return first.revision...last.revision
    }

    /// - Parameter changes: Where the runs of `event` are.
    mutating func append(_ event: ChangesEvent, of changes: ByteBuffer) {
        let start = self.bytes.writerIndex
        var framing = WebSocketStateMachine(role: .server)
        framing.writeMessageHeader(.binary, payloadBytes: event.frameBytes, to: &self.bytes)
        let idPlace = self.bytes.writerIndex + ChangesEvent.idOffset
        event.writeHead(self.id, to: &self.bytes)
        for run in event.runs {
            if let slice = changes.getSlice(at: run.lowerBound, length: run.count) { self.bytes.writeImmutableBuffer(slice) }
        }
        self.parts.append(Part(revision: event.revision, start: start, idPlace: idPlace))
        self.count += 1
    }

    /// From now on they are those of the watch `id`.
    mutating func address(to id: RequestID) {
        guard id != self.id else { return }
        self.id = id
        for part in self.parts { self.bytes.setInteger(id.rawValue, at: part.idPlace) }
    }

    /// The messages behind `revision`, and how many that are.
    func behind(_ revision: UInt64) -> (bytes: ByteBuffer, count: Int) {
        guard let index = self.parts.firstIndex(where: { $0.revision > revision }) else { return (ByteBuffer(), 0) }
        let start = self.parts[index].start
        let bytes = self.bytes.getSlice(at: start, length: self.bytes.writerIndex - start) ?? ByteBuffer()
        return (bytes, self.parts.count - index)
    }

    /// - Parameter idleBytes: Storage up to that is kept.
    mutating func removeAll(keeping idleBytes: Int) {
        if self.bytes.storageCapacity > idleBytes { self.bytes = ByteBuffer() } else { self.bytes.clear() }
        self.parts.removeAll(keepingCapacity: true)
        self.count = 0
    }
}

extension HistoryRevision {
    /// Encodes what `topic` has of it.
    func runs(
        for topic: WatchTopic, _ revision: Revision, encodedTo encoded: inout EncodedChanges
    ) throws(StorageError) -> ChangeRuns {
        var runs = ChangeRuns(revision: revision.number)
        try self.forEachChange { change in
            guard unsafe topic.ranges.contains(change.key) else { return }
            runs.append(encoded.append(change, isWithoutValue: topic.isWithoutValues))
        }
        return runs
    }
}
