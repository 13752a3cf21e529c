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
}
