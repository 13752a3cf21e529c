import EngineContract
import MWLevelDB
import MWStorage
import Testing

@Suite struct LevelDBDisk {
    // On a file system of 24 MiB, mounted for the test.
    @Test(
        "a full disk is an error that ends by itself when there is space again",
        .enabled(if: DiskTrouble.canMount, DiskTrouble.needsMount))
    func full() async throws { try await DiskTrouble.fullDisk(.levelDB) }

    // In a process whose files cannot grow past half a MiB (RLIMIT_FSIZE), and then can.
    @Test("files that cannot grow are an error that ends by itself when they can again")
    func limited() async throws { try await DiskTrouble.limitedFiles(.levelDB) }

    @Test("a flipped byte in a table gives no wrong value")
    func tables() async throws { try await DiskTrouble.flippedBytes(.levelDB, in: [".ldb"], flushed: true) }

    @Test("a flipped byte in the log gives no wrong value")
    func log() async throws { try await DiskTrouble.flippedBytes(.levelDB, in: [".log"], flushed: false) }
}
