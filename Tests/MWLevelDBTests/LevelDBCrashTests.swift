import EngineContract
import MWLevelDB
import MWStorage
import Testing

@Suite struct LevelDBCrash {
    // A process writes and is killed with SIGKILL after a random number of acknowledgements, over and over on one store.
    @Test("a killed process loses nothing that it acknowledged", arguments: Durability.allCases)
    func kill(durability: Durability) async throws {
        try await CrashRounds.run(.levelDB, count: 25, durability: durability, seed: 2)
    }
}
