import Glibc
import MWStorage
import Synchronization

/// A file of the commit log, as its readers need it. `LogFormat.swift` draws the bytes.
final class LogSegment: Sendable {
    let number: UInt64
    let path: String
    let file: FileDescriptor
    /// In its header, and in that of each frame.
    let mark: UInt64
    /// It begins as a segment does: not so one whose making was interrupted.
    let hasHeader: Bool
    /// When it was opened its first frame had begun to be there, or what should be its header was none, and had something behind it.
    let hasFrames: Bool
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

    /// Makes the file; it is on stable storage when this returns, but for its name.
    ///
    /// - Parameter isThere: There is one without frames, which is begun anew.
    convenience init(making number: UInt64, at path: String, isThere: Bool) throws(StorageError) {
        let file = try FileDescriptor(opening: path, isThere ? O_RDWR : O_CREAT | O_EXCL | O_RDWR, mode: 0o600)
        do throws(StorageError) { try file.truncate(subject: path) } catch {
            file.close()
            throw error
        }
        try self.init(beginning: number, in: file, at: path)
    }

    /// Begins a segment in a file that may have other things behind its header, which is on stable storage when this returns.
    ///
    /// - Parameter path: The name that the file has, or gets.
    init(beginning number: UInt64, in file: FileDescriptor, at path: String) throws(StorageError) {
        let mark = UInt64.random(in: 1 ... .max)
        do throws(StorageError) {
            var buffer = FrameBuffer()
            for word in LogSegment.header(number, mark) { buffer.append(word) }
            try buffer.write(to: file, path, at: 0)
            try file.sync(subject: path)
        } catch {
            file.close()
            throw error
        }
        (self.number, self.path, self.file, self.mark, hasHeader, hasFrames) = (number, path, file, mark, true, false)
        contents = Mutex(Contents())
    }

    /// Opens the file as it is.
    init(opening number: UInt64, at path: String) throws(StorageError) {
        let file = try FileDescriptor(opening: path, O_RDWR)
        let words: [UInt64]
        do throws(StorageError) { words = try LogSegment.integers(of: file, path, at: 0, count: LogSegment.headerWords + 2) } catch {
            file.close()
            throw error
        }
        let header = Array(words.prefix(LogSegment.headerWords))
        hasHeader = header.count == LogSegment.headerWords && header == LogSegment.header(number, header[2])
        mark = hasHeader ? header[2] : 0
        // The second word of a frame is its mark: what else is there is of the file's earlier use.
        hasFrames = hasHeader ? words.dropFirst(LogSegment.headerWords + 1).first == mark : words.count > LogSegment.headerWords
        (self.number, self.path, self.file) = (number, path, file)
        contents = Mutex(Contents())
    }

    private static let headerWords = LogFormat.segmentHeaderBytes / MemoryLayout<UInt64>.size

    static func header(_ number: UInt64, _ mark: UInt64) -> [UInt64] {
        let words = [LogFormat.segmentMagic, number, mark]
        var crc = CRC32C()
        unsafe words.map(\.bigEndian).withUnsafeBytes { unsafe crc.add($0) }
        return words + [UInt64(crc.value)]
    }

    // Readers may have it longer than it is of use: the file is gone from the directory by then, but not from the disk.
    deinit { file.close() }

    var last: UInt64 { contents.withLock { $0.last } }
    var end: Int { contents.withLock { $0.end } }

    func update(_ body: (inout Contents) -> Void) { contents.withLock { body(&$0) } }
    func copyOfContents() -> Contents { contents.withLock { $0 } }

    /// Places to read from, in order: from the first one on, all records from `revision` on are found.
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
        buffer.endFrame(.end, flags: 0, mark: mark, synced: syncs ? contents.end : 0)
        try buffer.write(to: file, path, at: contents.end)
        try file.truncate(to: contents.end + buffer.byteCount, subject: path)
        if syncs { try file.sync(subject: path) }
    }

    private static let nextFlag: UInt64 = 1

    /// What ``seal(hasNext:syncs:)`` wrote.
    struct End {
        let hasNext: Bool
        let contents: Contents
    }

    /// Nil if it was not sealed, the end is damaged, or nothing says that all before it is there: then the frames tell.
    func readEnd() throws(StorageError) -> End? {
        let length = try file.length(subject: path)
        guard length >= LogFormat.segmentHeaderBytes + LogFormat.frameHeaderBytes + LogFormat.trailerBytes else { return nil }
        let trailer = try LogSegment.integers(of: file, path, at: length - LogFormat.trailerBytes, count: 2)
        guard trailer.count == 2, trailer[1] == LogFormat.endMagic, trailer[0] < UInt64(length) else { return nil }
        var reader = FrameReader(self, from: Int(trailer[0]), to: length)
        guard case .frame(let header, let payload) = unsafe try reader.next(), header.kind == .end,
            header.synced == Int(trailer[0])
        else { return nil }
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

    private static func integers(
        of file: FileDescriptor, _ path: String, at offset: Int, count: Int
    ) throws(StorageError) -> [UInt64] {
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
