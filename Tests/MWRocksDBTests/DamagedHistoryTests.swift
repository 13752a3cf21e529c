import EngineContract
import MWStorage
import Testing

@testable import MWRocksDB

/// History is in segments of the log whose data the tables have; what damage does to these, readers of history are told.
@Suite struct DamagedHistoryTests {
    private static let options: StorageOptions = {
        var options = StorageOptions()
        options.engine.writeBufferBytes = 64 << 10
        return options
    }()

    private static let count = 40

    /// Revision `number` puts this.
    private static func value(_ number: Int) -> [UInt8] { [UInt8](repeating: UInt8(number), count: 8000) }

    // A store of some segments, of which the first is cut or has a byte changed, once for each damage.
    @Test("whatever becomes of a segment that the tables have, history tells what was, or that it cannot, and skips nothing")
    func claims() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/store"
            let storage = try Storage.open(directory: path, engine: .rocksDB, options: Self.options)
            for number in 1...Self.count { try await storage.put([UInt8(number & 3)], Self.value(number)) }
            storage.close()
            let state = try #require(try LogState(readingFrom: path + "/engine"))
            let names = try FileDescriptor.names(in: path + "/engine").filter { LogFormat.segmentNumber($0) != nil }.sorted()
            #expect(names.count > 3 && state.drained > 2)
            let whole = try #require(try FileDescriptor.contents(of: path + "/engine/" + names[0], atMost: 1 << 20))
            var damages = [0, 1, 32, 33, 5000, whole.count / 2, whole.count - 200, whole.count - 16, whole.count - 1].map {
                Array(whole[..<$0])
            }
            for place in [0, 20, 40, 60, 5000, whole.count / 2, whole.count - 120, whole.count - 20, whole.count - 3] {
                damages.append(whole)
                damages[damages.count - 1][place] ^= 0x41
            }
            var told: [Int] = []
            for damaged in damages {
                let copy = directory + "/copy"
                FileDescriptor.removeDirectory(copy)
                try FileDescriptor.makeDirectories(copy + "/engine")
                for name in ["format"] + (try FileDescriptor.names(in: path + "/engine").filter { $0 != "LOCK" }.map { "engine/" + $0 }) {
                    try FileDescriptor.copy(path + "/" + name, to: copy + "/" + name)
                }
                try FileDescriptor.replace(copy + "/engine/" + names[0], with: damaged)
                do throws(StorageError) { told.append(try Self.read(copy)) } catch { #expect(error.code == .corrupt, "\(error)") }
            }
            #expect(told.contains { $0 < Self.count }, "some damage is met by a reader: \(told)")
        }
    }

    /// How many revisions history tells of, from the first on.
    private static func read(_ path: String) throws(StorageError) -> Int {
        let storage = try Storage.open(directory: path, engine: .rocksDB, options: options)
        defer { storage.close() }
        // The data is whole in any case.
        for number in count - 3...count { #expect(try storage.get([UInt8(number & 3)]) == value(number)) }
        var revision = Revision.zero
        do throws(StorageError) {
            while revision < storage.revision {
                let page = try storage.history(after: revision, limitBytes: 20_000)
                var failure: StorageError?
                page.forEachRevision { found, changes in
                    #expect(found == revision.next)
                    revision = found
                    do throws(StorageError) {
                        try changes.forEachChange { change in
                            #expect(unsafe change.value.map { unsafe Array($0) } == value(Int(found.number)))
                        }
                    } catch { failure = error }
                }
                if let failure { throw failure }
            }
            #expect(revision == Revision(UInt64(count)))
        } catch {
            #expect([.compacted, .corrupt].contains(error.code), "\(error)")
        }
        return Int(revision.number)
    }
}
