import EngineContract
import MWRocksDB
import Testing

@Suite struct RocksDBBackupTests {
    @Test("a backup under load is the store at one revision, and a restored store says that it is another one")
    func underLoad() async throws { try await Backups.underLoad(.rocksDB) }

    @Test("leases and prefixes come along; sessions, outcomes and history do not")
    func whatComesAlong() async throws { try await Backups.whatComesAlong(.rocksDB) }

    @Test("a damaged backup is refused, and is told what is wrong with it")
    func damage() async throws { try await Backups.damage(.rocksDB) }

    @Test("nothing that is there is replaced, what a death left is no obstacle, and a trial run changes nothing")
    func manners() async throws { try await Backups.manners(.rocksDB) }

    @Test("a kill at any moment leaves nothing that looks whole and is not")
    func killed() async throws { try await Backups.killed(.rocksDB, rounds: 12, seed: 3) }
}
