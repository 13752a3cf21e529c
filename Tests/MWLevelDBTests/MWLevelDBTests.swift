import EngineContract
import MWLevelDB
import Testing

@Suite struct LevelDBContract {
    @Test("LevelDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.levelDB) }
}
