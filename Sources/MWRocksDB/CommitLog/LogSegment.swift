import Glibc
import MWStorage
import Synchronization

/// A file of the commit log, as its readers need it. `LogFormat.swift` draws the bytes.
final class LogSegment: Sendable {
    let number: UInt64
    let path: String
    let file: FileDescriptor
    private let contents: Mutex<Contents>

    /// What is in it.
    struct Contents: Sendable {
        /// Of history; zero if there is none.
        var first: UInt64 = 0
        var last: UInt64 = 0
        /// Some revisions, and the frames that begin with them, in order.
        var places: [Place] = []
        /// Behind the last frame of operations.
        var end = LogFormat.segmentHeaderBytes

        struct Place: Sendable {
            let revision: UInt64
            let offset: Int
        }

        /// Adds a frame of history.
        mutating func add(first: UInt64, last: UInt64, at offset: Int) {
            if self.first == 0 { self.first = first }
            self.last = last
            guard places.last.map({ offset - $0.offset >= LogFormat.indexedBytes }) ?? true else { return }
            places.append(Place(revision: first, offset: offset))
        }
    }

    init(number: UInt64, path: String, file: FileDescriptor, _ contents: Contents = Contents()) {
        self.number = number
        self.path = path
        self.file = file
        self.contents = Mutex(contents)
    }

    // Readers may have it longer than it is of use: the file is gone from the directory by then, but not from the disk.
    deinit { file.close() }

    var last: UInt64 { contents.withLock { $0.last } }
    var first: UInt64 { contents.withLock { $0.first } }
    var end: Int { contents.withLock { $0.end } }

    func update(_ body: (inout Contents) -> Void) { contents.withLock { body(&$0) } }
    func copyOfContents() -> Contents { contents.withLock { $0 } }

    /// The last place from which all records from `revision` on can be found, and where the next place is: nil where there is none.
    func places(from revision: UInt64) -> [Contents.Place] {
        contents.withLock { contents in
            let index = contents.places.partitioningIndex { $0.revision > revision }
            return Array(contents.places[max(0, index - 1)...])
        }
    }

    // MARK: Ends

    /// Closes the segment for good: what is in it can then be found without reading all of it.
    ///
    /// - Parameter hasNext: A next segment has been made.
    func seal(hasNext: Bool, syncs: Bool) throws(StorageError) {
        let contents = copyOfContents()
        var buffer = FrameBuffer()
        buffer.beginFrame()
        buffer.append(hasNext ? LogSegment.nextFlag : 0)
        buffer.append(contents.first)
        buffer.append(contents.last)
        for place in contents.places {
            buffer.append(place.revision)
            buffer.append(UInt64(place.offset))
        }
        buffer.append(UInt64(contents.end))
        buffer.append(LogFormat.endMagic)
        buffer.endFrame(.end, flags: 0, of: number, synced: syncs ? contents.end : 0)
        try unsafe buffer.withUnsafeBytes { (bytes) throws(StorageError) in
            unsafe try file.write(bytes, at: contents.end, subject: path)
        }
        try file.truncate(to: contents.end + buffer.byteCount, subject: path)
        if syncs { try file.sync(subject: path) }
    }

    private static let nextFlag: UInt64 = 1

    /// What ``seal(hasNext:syncs:)`` wrote.
    struct End {
        let hasNext: Bool
        let contents: Contents
    }

    /// Nil if it was not sealed, or the end is damaged: then the frames tell.
    func readEnd() throws(StorageError) -> End? {
        let length = try file.length(subject: path)
        guard length >= LogFormat.segmentHeaderBytes + LogFormat.frameHeaderBytes + LogFormat.trailerBytes else { return nil }
        let trailer = try integers(at: length - LogFormat.trailerBytes, count: 2)
        guard trailer.count == 2, trailer[1] == LogFormat.endMagic, trailer[0] < UInt64(length) else { return nil }
        var reader = FrameReader(self, from: Int(trailer[0]), to: length)
        guard case .frame(let header, let payload) = unsafe try reader.next(), header.kind == .end else { return nil }
        let words = payload.count / MemoryLayout<UInt64>.size
        func word(_ index: Int) -> UInt64 {
            UInt64(bigEndian: unsafe payload.loadUnaligned(fromByteOffset: index * MemoryLayout<UInt64>.size, as: UInt64.self))
        }
        guard words >= 5, (words - 5).isMultiple(of: 2) else { return nil }
        var contents = Contents(first: word(1), last: word(2), end: Int(trailer[0]))
        for index in stride(from: 3, to: words - 2, by: 2) {
            contents.places.append(Contents.Place(revision: word(index), offset: Int(clamping: word(index + 1))))
        }
        return End(hasNext: word(0) & LogSegment.nextFlag != 0, contents: contents)
    }

    /// Whether the file begins as a segment of its number does; of a file that was only just made nothing may be there.
    func hasHeader() throws(StorageError) -> Bool {
        try integers(at: 0, count: 2) == [LogFormat.segmentMagic, number]
    }

    func writeHeader() throws(StorageError) {
        var buffer = FrameBuffer()
        buffer.append(LogFormat.segmentMagic)
        buffer.append(number)
        try unsafe buffer.withUnsafeBytes { (bytes) throws(StorageError) in unsafe try file.write(bytes, at: 0, subject: path) }
    }

    private func integers(at offset: Int, count: Int) throws(StorageError) -> [UInt64] {
        var words = [UInt64](repeating: 0, count: count)
        var failure: StorageError?
        var got = 0
        unsafe words.withUnsafeMutableBytes { bytes in
            do throws(StorageError) { got = unsafe try file.read(into: bytes, at: offset, subject: path) } catch { failure = error }
        }
        if let failure { throw failure }
        return words.prefix(got / MemoryLayout<UInt64>.size).map { UInt64(bigEndian: $0) }
    }
}

extension Array {
    /// The first index whose element, as all behind it, satisfies `predicate`.
    func partitioningIndex(_ predicate: (Element) -> Bool) -> Int {
        var (lower, upper) = (startIndex, endIndex)
        while lower < upper {
            let middle = lower + (upper - lower) / 2
            if predicate(self[middle]) { upper = middle } else { lower = middle + 1 }
        }
        return lower
    }
}
