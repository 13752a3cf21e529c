import EngineContract
import MWLevelDB
import Testing

@Suite struct LevelDBContract {
    @Test("LevelDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.levelDB) }

    @Test("what a mwDB on LevelDB left is imported, and left as it was")
    func legacy() async throws { try await LegacyModels.importing(.levelDB, named: "leveldb") }

    @Test("a store of version 1 becomes one of version 2, with the same values")
    func migration() async throws { try await Migrations.wholeStore(.levelDB) }
}
