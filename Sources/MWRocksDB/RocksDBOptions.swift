import CRocksDB
import MWStorage

extension RocksDBDatabase {
    /// Bits of the filter for each key: 1 % of lookups of absent keys read a block.
    private static let filterBitsPerKey = 10.0
    /// Size of a block of a table, in bytes: a page, and a few values of 1 KiB. A cold get reads and checks a whole block.
    private static let blockBytes = 4 << 10
    /// Entries of an index that share their keys' common beginning: the search goes through less memory.
    private static let indexRestartInterval: CInt = 8
    /// One in so many values that come from the disk stays in the block cache. A block of scattered values is seldom read again, and
    /// bringing it in and another one out costs as much as reading it anew from the system's pages; what is read often is in
    /// `HotValues`, or, where it is too large for that, comes in after so many reads.
    static let readsPerCacheFill: UInt64 = 32
    /// Table layout that has the current filters and checksums.
    private static let tableFormatVersion: CInt = 5
    /// Tables that are not in the sorted levels, from which on they are merged into them: four drains' of two.
    static let mergedTables: CInt = 8
    /// Threads that flush and compact: they share two cores with the event loops.
    private static let backgroundJobs: CInt = 2
    /// Tables are handed to the disk in pieces of this size, in bytes, so that a log sync does not wait for a whole table.
    private static let bytesPerSync: UInt64 = 1 << 20
    /// Space taken at once for the manifest, in bytes. RocksDB's 4 MiB is much on a small disk.
    private static let manifestPreallocationBytes = 64 << 10
    /// Level of event logging: warnings. (0 debug, 1 info, 2 warnings, 3 errors.)
    private static let warningLevel: CInt = 2

    /// What the C interface has no function for.
    ///
    /// - `max_bgerror_resume_count=0`: RocksDB must not resume by itself after a failed write; the store opens it anew.
    /// - `track_and_verify_wals_in_manifest`: a log file that is missing or too short is found out on opening.
    private static let namedOptions = "max_bgerror_resume_count=0;track_and_verify_wals_in_manifest=true"
    /// ``EngineOptions/keepsIndexesInMemory``: they stay in the cache, and no get looks for them there. They count against it, but may come
    /// over it: about 1.3 bytes a key and 0.3 % of the data, of `maximumOpenFiles` tables of 64 MiB. With values of 1 KiB that is 120 MiB
    /// at most, with 16 GB of entries of 40 bytes 560 MiB.
    private static let pinningOptions = "block_based_table_factory={metadata_cache_options={unpartitioned_pinning=kAll}}"

    static func makeReadOptions(fillsCache: Bool = true) -> OpaquePointer {
        guard let options = unsafe rocksdb_readoptions_create() else { fatalError("out of memory") }
        unsafe rocksdb_readoptions_set_verify_checksums(options, 1)
        unsafe rocksdb_readoptions_set_fill_cache(options, fillsCache ? 1 : 0)
        return unsafe options
    }

    static func makeOptions(_ engineOptions: EngineOptions, directory: String) throws(StorageError) -> OpaquePointer {
        guard let base = unsafe rocksdb_options_create(), let options = unsafe rocksdb_options_create() else {
            fatalError("out of memory")
        }
        defer { unsafe rocksdb_options_destroy(base) }
        unsafe setTableOptions(base, engineOptions)
        let named = engineOptions.keepsIndexesInMemory ? "\(namedOptions);\(pinningOptions)" : namedOptions
        do throws(StorageError) {
            try unsafe check(directory) { unsafe rocksdb_get_options_from_string(base, named, options, $0) }
        } catch {
            unsafe rocksdb_options_destroy(options)
            throw error
        }
        unsafe rocksdb_options_set_create_if_missing(options, 1)
        unsafe rocksdb_options_set_paranoid_checks(options, 1)
        // Of RocksDB's own log, which only programs before ours wrote: the tail that a crash tore was never acknowledged; damage before it
        // was, and is an error on opening, where point-in-time recovery would drop what follows in silence.
        unsafe rocksdb_options_set_wal_recovery_mode(options, CInt(rocksdb_tolerate_corrupted_tail_records_recovery))
        unsafe rocksdb_options_set_write_buffer_size(options, engineOptions.writeBufferBytes)
        unsafe rocksdb_options_set_max_open_files(options, CInt(clamping: engineOptions.maximumOpenFiles))
        unsafe rocksdb_options_set_max_background_jobs(options, backgroundJobs)
        unsafe rocksdb_options_set_compression(options, CInt(rocksdb_lz4_compression))
        unsafe rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1)
        unsafe rocksdb_options_set_level0_file_num_compaction_trigger(options, mergedTables)
        unsafe rocksdb_options_set_bytes_per_sync(options, bytesPerSync)
        unsafe rocksdb_options_set_manifest_preallocation_size(options, manifestPreallocationBytes)
        unsafe rocksdb_options_set_info_log_level(options, warningLevel)
        unsafe rocksdb_options_set_max_log_file_size(options, engineOptions.informationLogBytes)
        unsafe rocksdb_options_set_keep_log_file_num(options, engineOptions.informationLogCount)
        unsafe rocksdb_options_set_stats_dump_period_sec(options, 0)
        return unsafe options
    }

    private static func setTableOptions(_ options: OpaquePointer, _ engineOptions: EngineOptions) {
        let table = unsafe rocksdb_block_based_options_create()
        let cache = unsafe rocksdb_cache_create_lru(engineOptions.cacheBytes)
        unsafe rocksdb_block_based_options_set_block_cache(table, cache)
        unsafe rocksdb_block_based_options_set_block_size(table, blockBytes)
        unsafe rocksdb_block_based_options_set_index_block_restart_interval(table, indexRestartInterval)
        unsafe rocksdb_block_based_options_set_format_version(table, tableFormatVersion)
        // Indexes and filters count against the cache, so that they take the place of blocks.
        unsafe rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1)
        unsafe rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(table, 1)
        unsafe rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1)
        // The table options take the filter; the options take copies of the table options and of the cache.
        unsafe rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(filterBitsPerKey))
        unsafe rocksdb_options_set_block_based_table_factory(options, table)
        unsafe rocksdb_block_based_options_destroy(table)
        unsafe rocksdb_cache_destroy(cache)
    }
}
