import EngineContract
import MWRocksDB
import MWStorage
import Testing

@Suite struct RocksDBDisk {
    // On a file system of 24 MiB, mounted for the test.
    @Test("a full disk is an error that ends by itself when there is space again")
    func full() async throws { try await DiskTrouble.fullDisk(.rocksDB) }

    @Test("a flipped byte in a table gives no wrong value")
    func tables() async throws { try await DiskTrouble.flippedBytes(.rocksDB, in: [".sst"], flushed: true) }

    @Test("a flipped byte in the log gives no wrong value")
    func log() async throws { try await DiskTrouble.flippedBytes(.rocksDB, in: [".log"], flushed: false) }
}
