import Glibc
import MWStorage

/// What of a log is found on opening: what the tables do not have goes to a table of its own, segment by segment.
struct LogRecovery {
    private let directory: String
    private let state: LogState
    private let isStateWritten: Bool
    private(set) var segments: [LogSegment] = []
    private var forgotten: UInt64

    /// Finds the segments.
    ///
    /// - Throws: `corrupt` if one is missing whose contents the tables do not have.
    init(directory: String) throws(StorageError) {
        self.directory = directory
        let found = try LogState(readingFrom: directory)
        isStateWritten = found != nil
        state = found ?? LogState(drained: 0, forgotten: 0)
        forgotten = state.forgotten
        let numbers = try FileDescriptor.names(in: directory).compactMap(LogFormat.segmentNumber).sorted()
        // Of those that have been drained some may be gone; all behind must be there, at least one where any was drained.
        let needed = numbers.filter { $0 > state.drained }
        for (index, number) in needed.enumerated() where number != state.drained + 1 + UInt64(index) {
            throw missing(state.drained + 1 + UInt64(index))
        }
        if found != nil, needed.isEmpty { throw missing(state.drained + 1) }
        for number in numbers {
            segments.append(try LogSegment(opening: number, at: directory + "/" + LogFormat.segmentName(number)))
        }
    }

    /// Reads all that is not in the tables, and gives it to `drain`, in order; then opens the log for writing.
    mutating func run(_ drain: (PendingTable) throws(StorageError) -> Void) throws(StorageError) -> CommitLog {
        let written = segments.last { $0.hasFrames }?.number ?? 0
        for segment in segments {
            // Behind it there may be one that a crash left before anything went there.
            let isLast = segment.number >= written
            let end = try segment.readEnd()
            if segment.number <= state.drained {
                if let end { segment.update { $0 = end.contents } } else { try recoverHistory(of: segment) }
                continue
            }
            if let end, end.hasNext, segment === segments.last { throw missing(segment.number + 1) }
            let table = PendingTable(number: segment.number)
            try recover(segment, into: table, endsAt: end?.contents.end, isLast: isLast)
            // One without frames can only be the last one, and is written next.
            if segment === segments.last, segment.end == LogFormat.segmentHeaderBytes { break }
            // Before the tables have it: without an end it would be read in full again.
            if end == nil { try segment.seal(hasNext: segment !== segments.last, syncs: true) }
            try drain(table)
        }
        return try openLog()
    }

    private mutating func openLog() throws(StorageError) -> CommitLog {
        let last = segments.last?.number ?? 0
        let isReused = last > state.drained && segments.last?.end == LogFormat.segmentHeaderBytes
        let number = isReused ? last : max(last, state.drained) + 1
        if isReused { segments.removeLast() }
        // First the segment: there is one behind what has been drained, or something is missing.
        let spare = SpareSegment(in: directory)
        if !isReused, spare.isThere { spare.prepare(number) }
        segments.append(try CommitLog.makeSegment(number, in: directory, over: spare, isThere: isReused))
        if number - 1 != state.drained || state.forgotten != forgotten || !isStateWritten {
            try LogState(drained: number - 1, forgotten: forgotten).write(in: directory)
        }
        let log = try CommitLog(directory: directory, segments: segments, spare: spare, forgotten: forgotten)
        // Nobody else has those that go, then.
        segments = []
        log.forgetSegments(drained: number - 1)
        log.removeForgotten()
        return log
    }

    /// Of a segment that has been drained only its history is of use; its end, which says where that is, is damaged.
    private mutating func recoverHistory(of segment: LogSegment) throws(StorageError) {
        try recover(segment, into: PendingTable(number: segment.number), endsAt: nil, isLast: true)
        try segment.seal(hasNext: true, syncs: true)
    }

    /// - Parameter end: Where its frames end, if it was closed.
    private mutating func recover(
        _ segment: LogSegment, into table: PendingTable, endsAt end: Int?, isLast: Bool
    ) throws(StorageError) {
        let length: Int
        if let end { length = end } else { length = try segment.file.length(subject: segment.path) }
        guard segment.hasHeader else {
            // It was only just being made.
            if isLast, end == nil, length <= LogFormat.segmentHeaderBytes { return }
            throw LogFormat.damaged(segment.path, "not the beginning of segment \(segment.number)")
        }
        var contents = LogSegment.Contents()
        var reader = FrameReader(segment, from: LogFormat.segmentHeaderBytes, to: length)
        var batch = RecoveredBatch()
        while case .frame(let header, let payload) = unsafe try reader.next() {
            guard header.kind != .end else { break }
            let offset = reader.offset - header.frameBytes
            unsafe try batch.add(
                payload, at: offset, isDataInHistory: header.flags & FrameHeader.dataInHistoryFlag != 0, of: segment.path, table)
            guard header.kind == .last else { continue }
            table.publish()
            for frame in batch.frames { contents.add(first: frame.first, last: frame.last, at: frame.offset) }
            forgotten = max(forgotten, batch.removed)
            contents.end = reader.offset
            batch = RecoveredBatch()
        }
        // The frames of a closed segment are all there; of the one that was written last, a crash may have torn what nobody was told of.
        var isWhole = end == contents.end
        if end == nil, isLast { isWhole = try !reader.isAcknowledgedHere() }
        guard isWhole else { throw LogFormat.damaged(segment.path, "bytes that are not what was written, at \(contents.end)") }
        segment.update { $0 = contents }
    }

    private func missing(_ number: UInt64) -> StorageError {
        LogFormat.damaged(directory, "no \(LogFormat.segmentName(number)), which holds what the tables do not")
    }
}

/// The frames of a batch, as far as they have been read.
private struct RecoveredBatch {
    var frames: [(first: UInt64, last: UInt64, offset: Int)] = []
    var removed: UInt64 = 0

    mutating func add(
        _ payload: UnsafeRawBufferPointer, at offset: Int, isDataInHistory: Bool, of path: String, _ table: PendingTable
    ) throws(StorageError) {
        var operations = unsafe LogOperations(payload, of: path)
        var (first, last): (UInt64, UInt64) = (0, 0)
        while let operation = unsafe try operations.next() {
            let revision = unsafe HistoryKey.revision(operation.key)
            guard let revision else {
                unsafe table.add(operation.key, operation.value)
                continue
            }
            guard let record = unsafe operation.value else {
                removed = max(removed, revision)
                continue
            }
            if first == 0 { first = revision }
            last = revision
            if isDataInHistory { unsafe try table.addData(of: record, at: Revision(revision)) }
        }
        if first != 0 { frames.append((first, last, offset)) }
    }
}
