import EngineContract
import MWStorage
import Testing

@Suite struct StoreRoundsTests {
    // Requests of all kinds, repetitions, restarts, failing disks, passing time; dictionaries say what must come out.
    @Test("whatever is asked, and whatever fails, the store does as its model does", arguments: 0..<40 as Range<UInt64>)
    func rounds(block: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread {
                for seed in block * 50..<block * 50 + 50 {
                    let disk = MemoryDisk()
                    try StoreRounds.run(.memory(disk), disk: disk, in: directory + "/store", seed: seed, count: 40)
                }
            }
        }
    }
}
