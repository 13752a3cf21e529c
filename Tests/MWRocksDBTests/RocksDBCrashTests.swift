import EngineContract
import MWRocksDB
import MWStorage
import Testing

@Suite struct RocksDBCrash {
    // A process writes and is killed with SIGKILL after a random number of acknowledgements, over and over on one store.
    @Test("a killed process loses nothing that it acknowledged", arguments: Durability.allCases)
    func kill(durability: Durability) async throws {
        try await CrashRounds.run(.rocksDB, count: 25, durability: durability, seed: 1)
    }

    // A client in the killed process sends again, in the next one, what it has no answer to.
    @Test("a write that is sent again over a kill is done once, and answered as it was", arguments: Durability.allCases)
    func once(durability: Durability) async throws {
        try await OnceRounds.run(.rocksDB, count: 15, durability: durability, seed: 3)
    }
}
