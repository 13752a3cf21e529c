internal import MWProtocol
internal import MWStorage
internal import NIOCore

// A `changes` event on its way to many watchers. What differs is small and comes first; what does not is encoded once:
//
//     WebSocket header │ frame header, with the watch's id │ revision │ continued? ┃ change │ change │ …
//     ───────────────── written for each watcher ────────────────────────────────  ┃ shared by all ──

/// Encoded changes, one behind the other, each as a field of ``NativeChanges``.
struct EncodedChanges: Sendable {
    private(set) var bytes = ByteBuffer()

    /// Appends a change.
    ///
    /// - Returns: Where it is.
    mutating func append(_ change: KeyChange, isWithoutValue: Bool) -> Range<Int> {
        let start = self.bytes.writerIndex
        self.bytes.writeNativeField(Tag.change) { buffer in
            unsafe buffer.writeNativeField(Tag.key, change.key)
            if let value = unsafe change.value {
                if !isWithoutValue { unsafe buffer.writeNativeField(Tag.value, value) }
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
