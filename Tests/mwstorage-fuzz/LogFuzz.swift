import Glibc
import MWRocksDB
import MWStorage

/// A log of any bytes is read, or refused as damaged; what was acknowledged is all there, or the damage is found out; and what was read once
/// is read the same again.
///
/// The first byte says what the rest is: files as they are; frames, which get their checksums; or a whole log, and what happens to it.
enum LogFuzz {
    static func run(_ input: [UInt8]) {
        guard let control = input.first else { return }
        let rest = input.dropFirst()
        let pieces = rest.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
        switch control % 4 {
        case 0: read([segmentName(1): Array(rest)])
        case 1:
            let forged = forgedFrames(rest)
            read([segmentName(1): header(1) + forged.bytes], endIsTrue: !forged.haveEnd)
        case 2:
            let text = Array(pieces[0])
            let forged = forgedFrames(pieces.count > 1 ? pieces[1] : [])
            read([stateName: text, segmentName(1): header(1) + forged.bytes], endIsTrue: !forged.haveEnd)
            read([stateName: text + Array("end \(String(CRC32C.of(text), radix: 16))\n".utf8), segmentName(2): header(2)])
        default: Damage(rest).check()
        }
    }

    /// Reads a log, and once more what that left.
    ///
    /// - Parameter endIsTrue: The end of a segment, which has its checksum, says where its history is, and is believed.
    @discardableResult
    private static func read(_ files: [String: [UInt8]], endIsTrue: Bool = true) -> Result<LogContents, StorageError> {
        write(files)
        do throws(StorageError) {
            let contents = try LogContents(consuming: directory)
            do throws(StorageError) {
                let again = try LogContents(consuming: directory)
                precondition(again.pending.isEmpty, "what the tables took is still pending")
                precondition(!endIsTrue || again.history.elementsEqual(contents.history) { $0 == $1 }, "history is not what it was")
            } catch {
                precondition(!endIsTrue && error.code == .corrupt, "a log that was opened and closed: \(error)")
            }
            return .success(contents)
        } catch {
            precondition(error.code == .corrupt && error.remedy != nil, "damage that is called \(error)")
            return .failure(error)
        }
    }

    // MARK: Damage to a whole log

    /// A log of one or two segments, each batch of one revision, and all of it acknowledged but, maybe, the last one; then it is cut, and a
    /// byte is changed.
    private struct Damage {
        private var segments: [Segment] = [Segment(1)]
        private var batches: [[UInt8]] = []
        private let cut: Int?
        private let flip: (place: Int, bits: UInt8)?
        private let damagesFirst: Bool

        /// The first bytes say what happens: flags, where it is cut (2), where a byte is changed (2), and how (1); the rest are values, parted
        /// by zero bytes.
        init(_ input: ArraySlice<UInt8>) {
            let head = Array(input.prefix(6)) + [UInt8](repeating: 0, count: 6)
            let (hasTwo, isClosed) = (head[0] & 4 != 0, head[0] & 8 != 0)
            let values = input.dropFirst(6).split(separator: 0, maxSplits: 12, omittingEmptySubsequences: false)
            for (index, value) in values.enumerated() {
                if hasTwo, index == (values.count + 1) / 2 {
                    segments[0].close(hasNext: true)
                    segments.append(Segment(2))
                }
                segments[segments.count - 1].append(Array(value), index)
                batches.append(Array(value))
            }
            if isClosed { segments[segments.count - 1].close(hasNext: false) }
            damagesFirst = segments.count == 2 && head[0] & 16 != 0
            let count = (damagesFirst ? segments[0] : segments[segments.count - 1]).bytes.count
            cut = head[0] & 1 == 0 ? nil : (Int(head[1]) << 8 | Int(head[2])) % (count + 1)
            let place = (Int(head[3]) << 8 | Int(head[4])) % max(1, cut ?? count)
            flip = head[0] & 2 == 0 || head[5] == 0 || cut == 0 ? nil : (place, head[5])
        }

        func check() {
            var files: [String: [UInt8]] = [:]
            for segment in segments { files[segmentName(segment.number)] = segment.bytes }
            let damaged = damagesFirst ? segments[0] : segments[segments.count - 1]
            var bytes = damaged.bytes
            if let cut { bytes.removeLast(bytes.count - cut) }
            if let flip { bytes[flip.place] ^= flip.bits }
            files[segmentName(damaged.number)] = bytes
            let isUntouched = cut.map { $0 == damaged.bytes.count } ?? true && flip == nil
            switch read(files) {
            case .failure(let error):
                precondition(!isUntouched, "a whole log is damaged: \(error)")
                // A crash tears the end of what was written last, and nothing else.
                precondition(damagesFirst || flip != nil, "a torn end is damage: \(error)")
            case .success(let contents):
                let count = contents.history.count
                precondition(count <= batches.count && contents.pending.count == count, "\(count) of \(batches.count)")
                for (index, found) in contents.history.enumerated() {
                    precondition(found.revision == UInt64(index) + 1 && found.record == record(batches[index]), "another record")
                    precondition(contents.pending[key(index)] == .some(.some(batches[index])), "another value")
                }
                let earlier = batches.count - segments[segments.count - 1].ends.count
                if damagesFirst || isUntouched { return precondition(count == batches.count, "acknowledged, and gone without a word") }
                // Frames that are whole by their length; of the last of these alone nothing says that it was acknowledged.
                let whole = damaged.ends.count { $0 <= bytes.count }
                let hitsLast = flip.map { flip in whole > 0 && flip.place >= damaged.starts[whole - 1] } ?? false
                precondition(count - earlier >= whole - (hitsLast ? 1 : 0), "acknowledged, and gone without a word")
            }
        }
    }

    // MARK: A writer of its own

    private struct Segment {
        let number: UInt64
        var bytes: [UInt8]
        /// Of the frames of batches, without what aligns them.
        var starts: [Int] = []
        var ends: [Int] = []
        private var revisions: [UInt64] = []

        init(_ number: UInt64) {
            self.number = number
            bytes = header(number)
        }

        mutating func append(_ value: [UInt8], _ index: Int) {
            let payload = put(key(index), value) + put([2] + bigEndian(UInt64(index) + 1), record(value))
            starts.append(bytes.count)
            bytes += frame(payload, kind: 2, flags: 0, synced: UInt64(bytes.count))
            ends.append(starts[starts.count - 1] + 32 + payload.count)
            revisions.append(UInt64(index) + 1)
        }

        mutating func close(hasNext: Bool) {
            let end = UInt64(bytes.count)
            var words: [UInt64] = [hasNext ? 1 : 0, revisions.first ?? 0, revisions.last ?? 0]
            if let first = revisions.first { words += [first, UInt64(starts[0])] }
            words += [end, 0x6D77_6C6F_6765_6E64]
            bytes += frame(words.flatMap { bigEndian($0) }, kind: 3, flags: 0, synced: end)
        }
    }

    private static let mark: UInt64 = 77
    private static let stateName = "commits.state"

    private static func segmentName(_ number: UInt64) -> String { "commits-000000000000000\(number).log" }
    private static func key(_ index: Int) -> [UInt8] { [1, UInt8(index)] }

    /// That one key was put.
    private static func record(_ value: [UInt8]) -> [UInt8] {
        bigEndian(UInt64(7)) + [0] + bigEndian(UInt64(0)) + bigEndian(UInt32(1)) + [5] + bigEndian(UInt32(value.count)) + value
    }

    private static func header(_ number: UInt64) -> [UInt8] {
        let words = bigEndian(0x6D77_636F_6D6D_6974 as UInt64) + bigEndian(number) + bigEndian(mark)
        return words + bigEndian(UInt64(CRC32C.of(words)))
    }

    private static func frame(_ payload: [UInt8], kind: UInt32, flags: UInt32, synced: UInt64) -> [UInt8] {
        let rest = bigEndian(UInt32(payload.count)) + bigEndian(mark) + bigEndian(synced) + bigEndian(kind) + bigEndian(flags) + payload
        let bytes = bigEndian(CRC32C.of(rest)) + rest
        return bytes + [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8)
    }

    private static func put(_ key: [UInt8], _ value: [UInt8]) -> [UInt8] { [1] + counted(key) + counted(value) }

    private static func counted(_ bytes: [UInt8]) -> [UInt8] {
        var varint: [UInt8] = []
        var rest = bytes.count
        while rest >= 0x80 {
            varint.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        return varint + [UInt8(rest)] + bytes
    }

    /// Kind, flags, how much of the file is said to be synced in eights, and a payload of so many bytes; again and again.
    private static func forgedFrames(_ input: ArraySlice<UInt8>) -> (bytes: [UInt8], haveEnd: Bool) {
        var rest = input
        var frames: [UInt8] = []
        var haveEnd = false
        while rest.count >= 4 {
            let head = Array(rest.prefix(4))
            let payload = Array(rest.dropFirst(4).prefix(Int(head[3])))
            rest = rest.dropFirst(4 + payload.count)
            haveEnd = haveEnd || head[0] == 3
            frames += frame(payload, kind: UInt32(head[0]), flags: UInt32(head[1]), synced: UInt64(head[2]) * 8)
        }
        return (frames, haveEnd)
    }

    private static func bigEndian<I: FixedWidthInteger>(_ integer: I) -> [UInt8] {
        unsafe withUnsafeBytes(of: integer.bigEndian) { unsafe Array($0) }
    }

    // MARK: Files

    /// In memory, where there is such a place: each input takes a dozen syncs.
    private static let directory: String = {
        do throws(StorageError) {
            let parent = unsafe access("/dev/shm", W_OK) == 0 ? "/dev/shm" : getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
            let directory = try FileDescriptor.makeTemporaryDirectory(in: parent)
            atexit { FileDescriptor.removeDirectory(LogFuzz.directory) }
            return directory
        } catch { preconditionFailure("no directory: \(error)") }
    }()

    private static func write(_ files: [String: [UInt8]]) {
        do throws(StorageError) {
            for name in try FileDescriptor.names(in: directory) { unsafe unlink(directory + "/" + name) }
            for (name, bytes) in files { try FileDescriptor.replace(directory + "/" + name, with: bytes) }
        } catch { preconditionFailure("no file: \(error)") }
    }
}
