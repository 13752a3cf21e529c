import EngineContract
import MWRocksDB
import Testing

@Suite struct RocksDBContract {
    @Test("RocksDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.rocksDB) }

    @Test("what a mwDB on RocksDB left is imported, and left as it was")
    func legacy() async throws { try await LegacyModels.importing(.rocksDB, named: "rocksdb") }

    @Test("a store of version 1 becomes one of version 2, with the same values")
    func migration() async throws { try await Migrations.wholeStore(.rocksDB) }

    @Test("requests of all kinds, repetitions and restarts do as the model of a store does")
    func rounds() async throws {
        for seed in 0..<3 as Range<UInt64> {
            try await withTemporaryDirectory { directory in
                try await onOwnThread { try StoreRounds.run(.rocksDB, in: directory + "/store", seed: seed, count: 150) }
            }
        }
    }
}
