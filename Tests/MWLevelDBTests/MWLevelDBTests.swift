import EngineContract
import MWLevelDB
import Testing

@Suite struct LevelDBContract {
    @Test("LevelDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.levelDB) }

    @Test("what a mwDB on LevelDB left is imported, and left as it was")
    func legacy() async throws { try await LegacyModels.importing(.levelDB, named: "leveldb") }

    @Test("a store of version 1 becomes one of the present version, with the same values")
    func migration() async throws { try await Migrations.wholeStore(.levelDB) }

    @Test("requests of all kinds, repetitions and restarts do as the model of a store does")
    func rounds() async throws {
        for seed in 0..<3 as Range<UInt64> {
            try await withTemporaryDirectory { directory in
                try await onOwnThread { try StoreRounds.run(.levelDB, in: directory + "/store", seed: seed, count: 150) }
            }
        }
    }
}
