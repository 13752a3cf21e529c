import Glibc
import MWStorage
import Synchronization

/// The file of a segment that nobody needs any more, which the next segment is written over.
///
///     commits-7.log ──(drained, forgotten, read by nobody)──▶ commits.spare ──(its header says 12)──▶ commits-12.log
///
/// A sync of what is written over changes nothing of the file system's own: it takes half the time of one behind the end of a file, and
/// half the processor's (as in PostgreSQL's log).
final class SpareSegment: Sendable {
    private let directory: String
    private let path: String
    private let state: Mutex<State>

    private struct State: Sendable {
        /// There is a file of that name.
        var isThere: Bool
        /// It has its header, and is the segment of that number once it has its name.
        var ready: LogSegment?
    }

    init(in directory: String) {
        let path = directory + "/commits.spare"
        (self.directory, self.path) = (directory, path)
        state = Mutex(State(isThere: unsafe access(path, F_OK) == 0))
    }

    var isThere: Bool { state.withLock { $0.isThere } }

    /// Keeps the file of a segment that the log has no use for, if nobody else has it, and no other one waits.
    func keep(_ segment: inout LogSegment) -> Bool {
        guard isKnownUniquelyReferenced(&segment), segment.file.hasOneName else { return false }
        return state.withLock { state in
            guard !state.isThere, unsafe rename(segment.path, path) == 0 else { return false }
            state.isThere = true
            return true
        }
    }

    /// Makes the file that is there ready to be the segment of this number; one thread at a time. Where that fails there is none.
    func prepare(_ number: UInt64) {
        state.withLock { $0.ready = nil }
        let segment = try? begin(number)
        if segment == nil { unsafe unlink(path) }
        state.withLock { ($0.isThere, $0.ready) = (segment != nil, segment) }
    }

    private func begin(_ number: UInt64) throws(StorageError) -> LogSegment {
        // That it has no segment's name any more must not be lost once it is written over.
        try FileDescriptor.syncDirectory(directory)
        return try LogSegment(
            beginning: number, in: FileDescriptor(opening: path, O_RDWR), at: directory + "/" + LogFormat.segmentName(number))
    }

    /// The segment of this number, on stable storage as is its name; nil if it is not ready.
    func take(_ number: UInt64) throws(StorageError) -> LogSegment? {
        let segment = state.withLock { state -> LogSegment? in
            guard state.ready?.number == number, let segment = state.ready.take(), unsafe rename(path, segment.path) == 0 else { return nil }
            state.isThere = false
            return segment
        }
        if segment != nil { try FileDescriptor.syncDirectory(directory) }
        return segment
    }
}
