// Writes to a store until it is killed, and says on standard output what was acknowledged.
//
//   mwstorage-crash ENGINE DIRECTORY ROUND SYNC|OS
//
// Lines, each one write(2) so that a kill cannot tear it: `ready`, then `batch N` when the batch N of this round is
// acknowledged, and `prefix P`. Batch N puts the keys ROUND/N/0 to ROUND/N/4, each with the value `N` repeated.
// Two threads submit, so that commits hold the batches of both: even numbers on one, odd on the other.

import Glibc
import MWLevelDB
import MWRocksDB
import MWStorage

let keysPerBatch = 5
let valueBytes = 700

func report(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    let written = unsafe bytes.span.bytes.withUnsafeBytes { unsafe write(1, $0.baseAddress, $0.count) }
    // Nobody listens any more: the test is gone.
    if written < 0 { exit(0) }
}

guard CommandLine.arguments.count == 5, let durability = Durability(rawValue: CommandLine.arguments[4]) else { exit(64) }
let round = CommandLine.arguments[3]
var options = StorageOptions(durability: durability)
// Small enough that kills also hit flushes and compactions.
options.engine.writeBufferBytes = 64 << 10
let storage = try Storage.open(
    directory: CommandLine.arguments[2], engine: CommandLine.arguments[1] == "leveldb" ? .levelDB : .rocksDB, options: options)
report("ready")

let prefixToken = UInt64.max
let submitting = try (0..<2).map { lane in
    try WorkerThread(name: "mw-lane-\(lane)") {
        let submitter = storage.makeSubmitter { outcomes in
            for outcome in outcomes {
                switch outcome.result {
                case .written: report("batch \(outcome.token)")
                case .prefix(let prefix): report("prefix \(prefix)")
                case .failed(let error): report("failed \(error)")
                }
            }
        }
        var number = UInt64(lane)
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
                sched_yield()
            }
        }
    }
}
for thread in submitting { thread.join() }
