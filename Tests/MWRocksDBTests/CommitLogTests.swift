import EngineContract
import Glibc
import MWStorage
import Testing

@testable import MWRocksDB

/// The log and the pending tables behind the contract that every engine keeps: here are the cases that are only theirs.
@Suite struct CommitLogTests {
    /// So small that tables are drained every few batches.
    private static let smallBuffers: EngineOptions = {
        var options = EngineOptions()
        options.writeBufferBytes = 64 << 10
        return options
    }()

    private typealias Model = [[UInt8]: [UInt8]]

    private static func sorted(_ model: Model) -> [Entry] {
        model.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map { Entry($0.key, $0.value) }
    }

    private static func copy(_ source: String, to target: String) throws {
        FileDescriptor.removeDirectory(target)
        try FileDescriptor.makeDirectories(target)
        for name in try FileDescriptor.names(in: source) where name != "LOCK" {
            try FileDescriptor.copy(source + "/" + name, to: target + "/" + name)
        }
    }

    /// A copy as a kill at some moment would leave it, of an engine that goes on; false if its files changed too often meanwhile.
    static func copyWhileOpen(_ source: String, to target: String) throws -> Bool {
        func changing() throws -> [String: [UInt8]] {
            var files: [String: [UInt8]] = [:]
            for name in try FileDescriptor.names(in: source)
            where name.hasPrefix("MANIFEST") || name == "CURRENT" || name == "commits.state" {
                files[name] = try FileDescriptor.contents(of: source + "/" + name, atMost: 4 << 20)
            }
            return files
        }
        for _ in 0..<20 {
            let before = try changing()
            // A file that goes away is one that the manifest, by then, does not have.
            guard (try? copy(source, to: target)) != nil else { continue }
            if try changing() == before { return true }
        }
        return false
    }

    private static func segments(in directory: String) throws -> [String] {
        try FileDescriptor.names(in: directory).filter { LogFormat.segmentNumber($0) != nil }.sorted()
    }

    // MARK: Pending and drained

    // Gets, scans both ways and old snapshots, while tables are drained, after closings, and in copies as a kill would leave them.
    @Test(
        "what is pending, being drained and in tables is one map, at every moment and after every kill", arguments: 0..<3 as Range<UInt64>)
    func oneMap(seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread { try Self.oneMap(seed, directory) }
        }
    }

    private static func oneMap(_ seed: UInt64, _ directory: String) throws {
        var random = SeededRandom(seed: seed)
        var engine = try RocksDBEngine(directory: directory + "/engine", options: smallBuffers)
        var model: Model = [:]
        var snapshots: [(snapshot: any EngineSnapshot, entries: [Entry])] = []
        var copies = 0
        for round in 0..<250 {
            var batch = WriteBatch()
            for _ in 0..<Int.random(in: 1...12, using: &random) {
                let keyspace: UInt8 = [0, 1, 3][Int.random(in: 0..<3, using: &random)]
                let key = (0..<Int.random(in: 0...3, using: &random)).map { _ in UInt8.random(in: 97...103, using: &random) }
                let isLarge = Int.random(in: 0..<50, using: &random) == 0
                if Int.random(in: 0..<4, using: &random) == 0 {
                    try batch.remove(in: Keyspace(rawPrefix: keyspace), key)
                    model[[keyspace] + key] = nil
                } else {
                    let count = isLarge ? 400_000 : Int.random(in: 0...2000, using: &random)
                    let value = [UInt8](repeating: .random(in: 0...255, using: &random), count: count)
                    try batch.put(in: Keyspace(rawPrefix: keyspace), key, value)
                    model[[keyspace] + key] = value
                }
            }
            try engine.apply(batch, sync: Bool.random(using: &random))
            for (key, value) in model.shuffled(using: &random).prefix(3) { #expect(try engine.value(key) == value) }
            switch Int.random(in: 0..<40, using: &random) {
            case 0: snapshots.append((try engine.snapshot(), sorted(model)))
            case 1...3:
                #expect(try engine.all() == sorted(model), "seed \(seed), round \(round)")
                #expect(try engine.all(in: .all, .backward) == sorted(model).reversed(), "seed \(seed), round \(round)")
                let range = KeyRange(
                    lower: [UInt8.random(in: 97...103, using: &random)], upper: [UInt8.random(in: 97...103, using: &random)])
                let inside = sorted(model).filter { entry in
                    unsafe entry.key[0] == 1 && entry.key.dropFirst().withUnsafeBytes { unsafe range.contains($0) }
                }
                #expect(try engine.all(in: range) == inside)
                #expect(try engine.all(in: range, .backward) == inside.reversed())
            case 4:
                guard try copyWhileOpen(directory + "/engine", to: directory + "/copy") else { continue }
                copies += 1
                let killed = try RocksDBEngine(directory: directory + "/copy", options: smallBuffers)
                #expect(try killed.all() == sorted(model), "as a kill leaves it: seed \(seed), round \(round)")
                killed.close()
            case 5:
                for (snapshot, entries) in snapshots { try check(snapshot, .forward, entries) }
                snapshots = []
                engine.close()
                engine = try RocksDBEngine(directory: directory + "/engine", options: smallBuffers)
            default: break
            }
        }
        for (snapshot, entries) in snapshots { try check(snapshot, .backward, entries.reversed()) }
        #expect(copies > 0, "no copy was whole")
        engine.close()
    }

    /// The snapshot has not moved, or has been lost.
    private static func check(_ snapshot: any EngineSnapshot, _ direction: ScanDirection, _ entries: [Entry]) throws {
        do throws(StorageError) { #expect(try snapshot.all(in: .all, direction) == entries, "an old snapshot") } catch {
            try #require(error.code == .snapshotLost, "\(error)")
        }
    }

    @Test("scans see thousands of pending entries in order, each key once")
    func manyPending() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try RocksDBEngine(directory: directory, options: EngineOptions())
            defer { engine.close() }
            var random = SeededRandom(seed: 8)
            var model: Model = [:]
            for round in 0..<90 {
                var batch = WriteBatch()
                for _ in 0..<137 {
                    let key = Array("\(Int.random(in: 0..<6000, using: &random))".utf8)
                    let value = Array("\(round)".utf8)
                    if round % 7 == 3 {
                        try batch.remove(key)
                        model[[1] + key] = nil
                    } else {
                        try batch.put(key, value)
                        model[[1] + key] = value
                    }
                }
                try engine.apply(batch, sync: false)
                if round % 13 == 0 { #expect(try engine.all() == Self.sorted(model)) }
            }
            #expect(try engine.all() == Self.sorted(model))
            #expect(try engine.all(in: .all, .backward) == Self.sorted(model).reversed())
        }
    }

    @Test("readers see whole batches only while tables are closed and drained under them")
    func wholeBatches() async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread {
                let engine = try RocksDBEngine(directory: directory, options: Self.smallBuffers)
                try engine.write(["a": "0", "b": "0"])
                let readers = try (0..<2).map { _ in
                    try TestThread {
                        for _ in 0..<400 {
                            let snapshot = try engine.snapshot()
                            let all = try snapshot.all().filter { $0.key.count == 2 }
                            #expect(all.count == 2 && all[0].value == all[1].value)
                        }
                    }
                }
                let filling = String(repeating: "x", count: 5000)
                for round in 1...600 { try engine.write(["a": "\(round)", "b": "\(round)", "cc": filling], sync: false) }
                for reader in readers { try reader.join() }
                engine.close()
            }
        }
    }

    // MARK: Crashes and damage

    @Test("wherever a crash tears the end of the log, whole batches are left, in order, and none is left out")
    func tornEnd() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try RocksDBEngine(directory: directory + "/engine", options: EngineOptions())
            for index in 0..<12 {
                var batch = WriteBatch()
                for part in 0..<3 { try batch.put([UInt8(index), UInt8(part)], [UInt8](repeating: UInt8(index), count: 40)) }
                try engine.apply(batch, sync: index % 3 == 0)
            }
            try Self.copy(directory + "/engine", to: directory + "/copy")
            engine.close()
            let name = try #require(try Self.segments(in: directory + "/copy").last)
            let whole = try #require(try FileDescriptor.contents(of: directory + "/copy/" + name, atMost: 1 << 20))
            let end = try #require(whole.lastIndex { $0 != 0 }) + 1
            var lengths: Set<Int> = []
            for cut in stride(from: LogFormat.segmentHeaderBytes, to: end + 8, by: 37) {
                try Self.copy(directory + "/engine", to: directory + "/torn")
                try FileDescriptor.replace(directory + "/torn/" + name, with: Array(whole[..<min(cut, whole.count)]))
                let torn = try RocksDBEngine(directory: directory + "/torn", options: EngineOptions())
                let entries = try torn.all()
                torn.close()
                #expect(entries.count.isMultiple(of: 3), "cut at \(cut)")
                #expect(entries.map { Int($0.key[1]) } == (0..<entries.count).map { $0 / 3 }, "cut at \(cut)")
                lengths.insert(entries.count)
            }
            #expect(lengths == Set((0...12).map { $0 * 3 }))
        }
    }

    @Test("a byte that changes in what was acknowledged is found out, and never read as something else")
    func damage() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try RocksDBEngine(directory: directory + "/engine", options: EngineOptions())
            var model: Model = [:]
            for index in 0..<20 as Range<UInt8> {
                var batch = WriteBatch()
                try batch.put([index], [UInt8](repeating: index, count: 60))
                model[[1, index]] = [UInt8](repeating: index, count: 60)
                try engine.apply(batch, sync: true)
            }
            // As a kill leaves it: there is no end that could be wrong.
            try Self.copy(directory + "/engine", to: directory + "/copy")
            engine.close()
            let name = try #require(try Self.segments(in: directory + "/copy").last)
            let whole = try #require(try FileDescriptor.contents(of: directory + "/copy/" + name, atMost: 1 << 20))
            let end = try #require(whole.lastIndex { $0 != 0 }) + 1
            var lost = 0
            for place in 0..<end {
                var bytes = whole
                bytes[place] ^= 0x41
                try FileDescriptor.replace(directory + "/copy/" + name, with: bytes)
                do throws(StorageError) {
                    let segments = try Self.recovered(directory + "/copy")
                    // Of the last batch nothing says that it had been acknowledged.
                    if segments.count != model.count { lost += 1 }
                    #expect(segments.count >= model.count - 1, "a flip at \(place)")
                    for (key, value) in segments { #expect(model[key] == value, "a flip at \(place)") }
                } catch {
                    #expect(error.code == .corrupt && error.remedy?.contains("backup") == true, "\(error)")
                }
            }
            #expect(lost > 0 && lost < 200, "flips in the last batch: \(lost)")
        }
    }

    @Test("of a segment that is not the last nothing may be missing, wherever it is cut or changed")
    func notTheLast() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try RocksDBEngine(directory: directory + "/engine", options: EngineOptions())
            var model: Model = [:]
            for index in 0..<8 as Range<UInt8> {
                var batch = WriteBatch()
                try batch.put([index], [UInt8](repeating: index, count: 60))
                model[[1, index]] = [UInt8](repeating: index, count: 60)
                try engine.apply(batch, sync: true)
                // Closes the first segment.
                if index == 3 { #expect(try engine.checkpoint(to: directory + "/checkpoint")) }
            }
            try #require(try Self.copyWhileOpen(directory + "/engine", to: directory + "/copy"))
            engine.close()
            let names = [LogFormat.segmentName(1), LogFormat.segmentName(2)]
            let whole = try names.map { try #require(try FileDescriptor.contents(of: directory + "/copy/" + $0, atMost: 1 << 20)) }
            var refused = 0
            var damages = stride(from: 0, to: whole[0].count, by: 13).map { Array(whole[0][..<$0]) }
            for place in stride(from: 0, to: whole[0].count, by: 7) {
                damages.append(whole[0])
                damages[damages.count - 1][place] ^= 0x41
            }
            for damaged in damages {
                // As if nothing had been drained.
                unsafe unlink(directory + "/copy/commits.state")
                try FileDescriptor.replace(directory + "/copy/" + names[0], with: damaged)
                try FileDescriptor.replace(directory + "/copy/" + names[1], with: whole[1])
                do throws(StorageError) { #expect(try Self.recovered(directory + "/copy") == model) } catch {
                    #expect(error.code == .corrupt, "\(error)")
                    refused += 1
                }
            }
            // But for bytes between frames, which say nothing.
            #expect(refused > damages.count - 10)
        }
    }

    /// What is found in the log of `directory`, without its tables.
    private static func recovered(_ directory: String) throws(StorageError) -> Model {
        var found: Model = [:]
        var recovery = try LogRecovery(directory: directory)
        _ = try recovery.run { (table) throws(StorageError) in
            var cursor = PendingCursor([table.view], .all, .forward)
            while let entry = unsafe cursor.next() {
                found[unsafe Array(PendingTable.key(of: entry))] = unsafe PendingTable.value(of: entry).map { unsafe Array($0) }
            }
        }
        // The next one is to find the same.
        for name in try FileDescriptor.names(in: directory) where name == "commits.state" || name > LogFormat.segmentName(1) {
            unsafe unlink(directory + "/" + name)
        }
        return found
    }

    @Test("a closed log whose end is damaged is found out, too, and so is a segment that is missing")
    func missing() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/engine"
            let engine = try RocksDBEngine(directory: path, options: EngineOptions())
            try engine.write(["a": "1"])
            engine.close()
            let name = try #require(try Self.segments(in: path).last)
            let whole = try #require(try FileDescriptor.contents(of: path + "/" + name, atMost: 1 << 20))
            var bytes = whole
            bytes[LogFormat.segmentHeaderBytes + LogFormat.frameHeaderBytes] ^= 1
            try FileDescriptor.replace(path + "/" + name, with: bytes)
            let error = #expect(throws: StorageError.self) { try RocksDBEngine(directory: path, options: EngineOptions()) }
            #expect(error?.code == .corrupt && error?.subject.hasSuffix(name) == true)
            unsafe unlink(path + "/" + name)
            let missing = #expect(throws: StorageError.self) { try RocksDBEngine(directory: path, options: EngineOptions()) }
            #expect(missing?.code == .corrupt && missing?.found.contains(name) == true)
            try FileDescriptor.replace(path + "/" + name, with: whole)
            let again = try RocksDBEngine(directory: path, options: EngineOptions())
            #expect(try again.value("a") == [49])
            again.close()
        }
    }

    // Closing a table makes the next segment first; then nothing may be there yet when the process dies.
    @Test("a death between two segments is no damage, nor is one while a segment is made")
    func betweenSegments() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/engine"
            let engine = try RocksDBEngine(directory: path, options: EngineOptions())
            try engine.write(["a": "1"])
            // A checkpoint closes the table, and its segment.
            #expect(try engine.checkpoint(to: directory + "/checkpoint"))
            try #require(try Self.copyWhileOpen(path, to: directory + "/between"))
            engine.close()
            let state = try #require(try FileDescriptor.contents(of: path + "/commits.state", atMost: 1000))
            #expect(String(decoding: state, as: UTF8.self).contains("drained 1\n"))
            // As before the drain was done, and with a next segment that has its name only.
            unsafe unlink(directory + "/between/commits.state")
            let earlier = try #require(try FileDescriptor.contents(of: path + "/" + LogFormat.segmentName(1), atMost: 1 << 20))
            // The first has, behind its header, what its file held before: a whole segment under another mark.
            let headerBytes = LogFormat.segmentHeaderBytes
            for (length, behind) in [(headerBytes, Array(earlier[headerBytes...])), (headerBytes, []), (9, []), (0, [])] {
                let name = LogFormat.segmentName(2)
                try Self.copy(directory + "/between", to: directory + "/copy")
                let next = try #require(try FileDescriptor.contents(of: directory + "/copy/" + name, atMost: 1000))
                try FileDescriptor.replace(directory + "/copy/" + name, with: Array(next.prefix(length)) + behind)
                // Or before the one before was closed.
                if !behind.isEmpty {
                    let end = earlier.suffix(LogFormat.trailerBytes).prefix(8).reduce(0) { $0 << 8 | Int($1) }
                    try FileDescriptor.replace(directory + "/copy/" + LogFormat.segmentName(1), with: Array(earlier[..<end]))
                }
                for _ in 0..<3 {
                    let again = try RocksDBEngine(directory: directory + "/copy", options: EngineOptions())
                    #expect(try again.value("a") == [49])
                    again.close()
                }
                #expect(try Self.segments(in: directory + "/copy") == [name], "openings do not pile up segments")
            }
        }
    }

    @Test("a state that was changed is refused, and so are numbers beyond all numbers")
    func state() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try RocksDBEngine(directory: directory, options: EngineOptions())
            try engine.write(["a": "1"])
            engine.close()
            let path = directory + "/commits.state"
            let text = try #require(try FileDescriptor.contents(of: path, atMost: 1000))
            for place in text.indices {
                var changed = text
                changed[place] ^= 1
                try FileDescriptor.replace(path, with: changed)
                #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try LogState(readingFrom: directory) }
            }
            // The checksum is of what it means, so it is right.
            for number in ["+0", "00"] {
                let other = String(decoding: text, as: UTF8.self).replacing("forgotten 0", with: "forgotten \(number)")
                try FileDescriptor.replace(path, with: Array(other.utf8))
                #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try LogState(readingFrom: directory) }
            }
            // Behind the segments of such a log there would be no further numbers.
            for drained in [UInt64.max, UInt64.max - 2] {
                try LogState(drained: drained, forgotten: .max).write(in: directory)
                #expect(throws: StorageError(.corrupt, subject: "", found: "")) {
                    try RocksDBEngine(directory: directory, options: EngineOptions())
                }
                #expect(throws: StorageError(.corrupt, subject: "", found: "")) { try LogState(readingFrom: directory) }
            }
        }
    }

    @Test("snapshots that would keep too much in memory are lost, the oldest first, and say so")
    func lostSnapshots() async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread {
                let engine = try RocksDBEngine(directory: directory, options: Self.smallBuffers)
                var snapshots: [any EngineSnapshot] = []
                let filling = String(repeating: "x", count: 5000)
                for round in 0..<400 {
                    try engine.write(["\(round % 3)": filling], sync: false)
                    if round.isMultiple(of: 10) { snapshots.append(try engine.snapshot()) }
                }
                _ = try engine.checkpoint(to: directory + "/checkpoint")
                let lost = snapshots.map { snapshot in
                    do throws(StorageError) {
                        _ = try snapshot.all()
                        return false
                    } catch { return error.code == .snapshotLost }
                }
                #expect(lost.first == true && lost.last == false)
                #expect(lost == lost.sorted { $0 && !$1 }, "the oldest")
                engine.close()
            }
        }
    }

    @Test("payloads of any bytes, with a right checksum, are refused or read, and never a trap", arguments: 0..<20 as Range<UInt64>)
    func forged(seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            var random = SeededRandom(seed: seed)
            for _ in 0..<40 {
                let payload = (0..<Int.random(in: 0...60, using: &random)).map { _ in UInt8.random(in: 0...12, using: &random) }
                var operations = unsafe payload.withUnsafeBytes { unsafe [UInt8]($0) }
                operations.insert(contentsOf: [1, 9, 2, 0, 0, 0, 0, 0, 0, 0, 1], at: 0)
                for bytes in [payload, operations] {
                    try Self.forge(bytes, in: directory)
                    do throws(StorageError) { _ = try Self.recovered(directory) } catch { #expect(error.code == .corrupt, "\(error)") }
                    for name in try FileDescriptor.names(in: directory) { unsafe unlink(directory + "/" + name) }
                }
            }
        }
    }

    /// A log of one segment with one frame.
    private static func forge(_ payload: [UInt8], in directory: String) throws {
        let mark: UInt64 = 77
        var frame = [UInt8](repeating: 0, count: LogFormat.frameHeaderBytes) + payload
        func put(_ integer: some FixedWidthInteger, _ place: Int) {
            unsafe withUnsafeBytes(of: integer.bigEndian) { unsafe frame.replaceSubrange(place..<place + $0.count, with: $0) }
        }
        put(UInt32(payload.count), 4)
        put(mark, 8)
        put(FrameHeader.Kind.last.rawValue, 24)
        put(FrameHeader.dataInHistoryFlag, 28)
        var crc = CRC32C()
        unsafe frame[4...].withUnsafeBytes { unsafe crc.add($0) }
        put(crc.value, 0)
        var header: [UInt8] = []
        for word in LogSegment.header(1, mark) { unsafe withUnsafeBytes(of: word.bigEndian) { unsafe header += $0 } }
        try FileDescriptor.replace(directory + "/" + LogFormat.segmentName(1), with: header + frame + [0, 0, 0, 0, 0, 0, 0, 0])
    }
}
