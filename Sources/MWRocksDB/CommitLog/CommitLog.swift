import Glibc
import MWStorage

/// The log that every batch goes to before anybody is told that it was applied. One thread at a time writes.
///
///     batch ─▶ one frame ─▶ one write, one sync          segments   1 … 7 │ 8, 9 │ 10
///                                                                  drained  not    written
///                                                                           yet
///
/// A segment that has been drained is kept while somebody may ask for the history in it. After a failed write or sync nothing more is
/// written: nobody can say what is on the disk until the log has been opened anew.
@safe
final class CommitLog {
    private let directory: String
    /// Oldest first; the last one is written.
    private(set) var segments: [LogSegment]
    /// History up to this revision has been removed.
    private(set) var forgotten: UInt64
    private var forgottenSegments: [LogSegment] = []
    /// What the next segment is written over.
    let spare: SpareSegment
    private var buffer = FrameBuffer()
    private var written: Written?
    /// Where the next frame goes.
    private(set) var position = LogFormat.segmentHeaderBytes
    private var synced = 0
    /// What the disk has been told to begin with.
    private var started = 0
    /// What the file has, be it zeros or of an earlier use: there a sync need not change how long it is.
    private var allocated: Int
    private var hasFailed = false

    /// Zeros that are written ahead of frames where the file ends: a sync of what lies in them takes half the time.
    private static let aheadBytes = 256 << 10
    private static let pageBytes = 4096
    /// Frames that are longer do not need that.
    private static let longFrameBytes = 64 << 10
    /// Bytes that nobody has synced before the disk begins with them.
    private static let startedBytes = 4 << 20

    /// - Parameter segments: Those there are; the last one has no frames, and is the one to write.
    init(directory: String, segments: [LogSegment], spare: SpareSegment, forgotten: UInt64) throws(StorageError) {
        (self.directory, self.segments, self.spare, self.forgotten) = (directory, segments, spare, forgotten)
        let last = segments[segments.count - 1]
        allocated = try last.file.length(subject: last.path)
    }

    /// The one that is written.
    var current: LogSegment { segments[segments.count - 1] }

    // MARK: Writing

    /// Writes a batch; it is a part of the log once ``append()`` has been called, which must be the next call.
    ///
    /// - Returns: What brings it to stable storage, with `sync`.
    func write(_ batch: borrowing WriteBatch, sync: Bool) throws(StorageError) -> DiskSync? {
        try requireSound()
        let segment = current
        let records = buffer.append(batch, mark: segment.mark, synced: synced)
        let byteCount = buffer.byteCount
        defer { buffer.removeAll() }
        do throws(StorageError) { try write(syncs: sync) } catch { throw abandon(error) }
        let sync = sync ? DiskSync { () throws(StorageError) in try segment.file.syncData(subject: segment.path) } : nil
        written = Written(byteCount: byteCount, records: records, sync: sync)
        return sync
    }

    /// Makes the batch that was written a part of the log, once it is where it shall be.
    func append() throws(StorageError) {
        guard let written = written.take() else { return }
        do throws(StorageError) { try written.sync?.run() } catch { throw abandon(error) }
        let (records, start) = (written.records, position)
        position += written.byteCount
        if written.sync != nil { synced = position }
        allocated = max(allocated, position)
        // Without syncs the end of the segment would wait for all of it at once.
        if position - max(synced, started) >= CommitLog.startedBytes {
            current.file.startWriting(max(synced, started)..<position)
            started = position
        }
        if let removed = records.removed { forgotten = max(forgotten, removed) }
        current.update { contents in
            for frame in records.frames { contents.add(first: frame.first, last: frame.last, at: start + frame.offset) }
            contents.end = position
        }
    }

    func sync() throws(StorageError) {
        try requireSound()
        do throws(StorageError) {
            try current.file.syncData(subject: current.path)
            synced = position
        } catch { throw fail(error) }
    }

    /// A batch that has been written and is not yet a part of the log.
    private struct Written {
        let byteCount: Int
        let records: FrameBuffer.Records
        let sync: DiskSync?
    }

    /// Nobody was told of what was being written, and a later opening need not wonder.
    private func abandon(_ error: StorageError) -> StorageError {
        try? current.file.truncate(to: position, subject: current.path)
        return fail(error)
    }

    private func write(syncs: Bool) throws(StorageError) {
        let end = position + buffer.byteCount
        // A part of a page that is not in memory would have to be read before it is written.
        let pageEnd = (end + CommitLog.pageBytes - 1) & ~(CommitLog.pageBytes - 1)
        try buffer.write(to: current.file, current.path, at: position, zeros: max(0, min(pageEnd, allocated) - end))
        if syncs, end > allocated, buffer.byteCount <= CommitLog.longFrameBytes { writeZeros(from: end) }
    }

    /// Costs nothing but time where it fails.
    private func writeZeros(from start: Int) {
        let isWritten: Void? = unsafe CommitLog.zeros.withUnsafeBytes { bytes in
            try? unsafe current.file.write(bytes, at: start, subject: current.path)
        }
        if isWritten != nil { allocated = start + CommitLog.aheadBytes }
    }

    private static let zeros = [UInt8](repeating: 0, count: aheadBytes)

    private func fail(_ error: StorageError) -> StorageError {
        hasFailed = true
        spare.discard()
        return error
    }

    private func requireSound() throws(StorageError) {
        guard hasFailed else { return }
        throw StorageError(.ioError, subject: current.path, found: "a write that failed before", remedy: "open the store again")
    }

    // MARK: Segments

    /// Makes the next segment, which is written from now on; what the one before holds is on stable storage then.
    func roll() throws(StorageError) {
        try requireSound()
        do throws(StorageError) {
            let next = try CommitLog.makeSegment(current.number + 1, in: directory, over: spare)
            try current.seal(hasNext: true, syncs: true)
            segments.append(next)
            allocated = try next.file.length(subject: next.path)
        } catch { throw fail(error) }
        (position, synced, started) = (LogFormat.segmentHeaderBytes, 0, 0)
    }

    /// - Parameter isThere: There is one without frames, which is begun anew.
    static func makeSegment(
        _ number: UInt64, in directory: String, over spare: SpareSegment, isThere: Bool = false
    ) throws(StorageError) -> LogSegment {
        if !isThere, let segment = try spare.take(number) { return segment }
        let segment = try LogSegment(making: number, at: directory + "/" + LogFormat.segmentName(number), isThere: isThere)
        try FileDescriptor.syncDirectory(directory)
        return segment
    }

    /// Segments up to `drained` are in the tables, and `commits.state` says so: lets go of those that nobody may ask for any more.
    ///
    /// Their files stay until ``removeForgotten()``.
    func forgetSegments(drained: UInt64) {
        let kept = segments.firstIndex { $0.number > drained || $0.last > forgotten } ?? segments.count
        forgottenSegments += segments[..<kept]
        segments.removeFirst(kept)
    }

    /// Removes the files of forgotten segments; of one that nobody else has any more, the file may be written over.
    func removeForgotten() {
        while !forgottenSegments.isEmpty {
            var segment = forgottenSegments.removeFirst()
            if !spare.keep(&segment) { unsafe unlink(segment.path) }
        }
    }

    /// Ends the segment that is written, so that any damage to it will be seen.
    func close() {
        if !hasFailed, let last = segments.last { try? last.seal(hasNext: false, syncs: synced == position) }
    }
}
