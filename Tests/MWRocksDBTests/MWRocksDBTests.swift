import EngineContract
import MWRocksDB
import MWStorage
import Testing

@Suite struct RocksDBContract {
    @Test("RocksDB does what every engine must", arguments: EngineContract.claims)
    func contract(claim: EngineContract) async throws { try await claim.check(.rocksDB) }

    // Options that have no function in C go through a text, beside those that have one: neither may undo the other.
    @Test("RocksDB took the options that it was given, in words or by calls")
    func options() async throws {
        try await withTemporaryDirectory { directory in
            let engine = try StorageEngineFactory.rocksDB.open(directory, EngineOptions())
            defer { engine.close() }
            let name = try #require(try FileDescriptor.names(in: directory).first { $0.hasPrefix("OPTIONS-") })
            let bytes = try #require(try FileDescriptor.contents(of: directory + "/" + name, atMost: 1 << 20))
            let text = String(decoding: bytes, as: UTF8.self)
            for option in [
                "unpartitioned_pinning=kAll", "max_bgerror_resume_count=0", "track_and_verify_wals_in_manifest=true",
                "\n  block_size=4096\n", "cache_index_and_filter_blocks=true",
                "filter_policy=bloomfilter", "index_block_restart_interval=8", "checksum=kXXH3",
                "paranoid_checks=true", "wal_recovery_mode=kTolerateCorruptedTailRecords",
            ] {
                #expect(text.contains(option), "\(option)")
            }
        }
    }

    @Test("what a mwDB on RocksDB left is imported, and left as it was")
    func legacy() async throws { try await LegacyModels.importing(.rocksDB, named: "rocksdb") }

    @Test("a store of version 1 becomes one of the present version, with the same values")
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
