import EngineContract
import MWRocksDB
import Testing

@Suite struct RocksDBContract {
    @Test("RocksDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.rocksDB) }
}
