import MWStorage

/// Writes for ever, and says what was acknowledged: `ready`, then `batch N` when the batch N of this round is acknowledged,
/// and `prefix P`.
///
/// Batch N puts the keys ROUND/N/0 to ROUND/N/4, each with the value `N` repeated. Two threads submit, so that commits hold
/// the batches of both: even numbers on one, odd on the other.
enum KilledWriter {
    private static let keysPerBatch = 5
    private static let valueBytes = 700
    private static let prefixToken = UInt64.max

    static func run(_ factory: StorageEngineFactory, _ directory: String, round: String, _ durability: Durability) throws {
        var options = StorageOptions(durability: durability)
        // Small enough that kills also hit flushes and compactions.
        options.engine.writeBufferBytes = 64 << 10
        // And files of the log that are written over.
        options.limits.maximumHistoryBytes = 64 << 10
        let storage = try Storage.open(directory: directory, engine: factory, options: options)
        report("ready")
        let threads = try (0..<2 as Range<UInt64>).map { lane in
            try WorkerThread(name: "mw-lane-\(lane)") { write(to: storage, lane, round) }
        }
        for thread in threads { thread.join() }
    }

    private static func write(to storage: Storage, _ lane: UInt64, _ round: String) {
        let submitter = storage.makeSubmitter { outcomes in
            for outcome in outcomes {
                switch outcome.result {
                case .written: report("batch \(outcome.token)")
                case .prefix(let prefix, _): report("prefix \(prefix)")
                case .failed(let error): report("failed \(error)")
                case .transaction, .session, .done, .lease, .compacted: break
                }
            }
        }
        var number = lane
        while true {
            do throws(StorageError) {
                for _ in 0..<3 {
                    let value = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: valueBytes)
                    try submitter.submit(token: number) { (batch) throws(StorageError) in
                        for key in 0..<keysPerBatch { try batch.put(Array("\(round)/\(number)/\(key)".utf8), value) }
                    }
                    number += 2
                }
                if number % 60 < 6 { try submitter.allocatePrefix(token: prefixToken) }
                submitter.flush()
            } catch {
                // Overloaded: let the disk catch up.
                submitter.flush()
                yieldProcessor()
            }
        }
    }
}
