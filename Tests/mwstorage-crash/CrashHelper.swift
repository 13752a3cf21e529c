// A process for the tests of what survives. Lines on standard output, each one write(2) so that a kill cannot tear it.
//
//   mwstorage-crash kill ENGINE DIRECTORY ROUND SYNC|OS    writes until it is killed
//   mwstorage-crash full ENGINE DIRECTORY                  writes until the disk is full
//   mwstorage-crash backup ENGINE DIRECTORY                writes, backs up and restores until it is killed
//   mwstorage-crash once ENGINE DIRECTORY SESSION|- FIRST NUMBER SYNC|OS    see KilledClient
//   mwstorage-crash issue …                                see KilledIssuer

import Glibc
import MWLevelDB
import MWRocksDB
import MWStorage

@main struct CrashHelper {
    static func main() async throws {
        let words = CommandLine.arguments
        guard words.count > 3 else { exit(64) }
        if words[1] == "issue" { return try await KilledIssuer.run(Array(words[2...])) }
        let engine: StorageEngineFactory = words[2] == "leveldb" ? .levelDB : .rocksDB
        switch words[1] {
        case "kill":
            guard words.count == 6, let durability = Durability(rawValue: words[5]) else { exit(64) }
            try KilledWriter.run(engine, words[3], round: words[4], durability)
        case "once": try KilledClient.run(engine, Array(words[3...]))
        case "full": try await LimitedWriter.run(engine, words[3])
        case "backup": try await KilledBackup.run(engine, words[3])
        default: exit(64)
        }
    }
}

func report(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    let written = unsafe bytes.span.bytes.withUnsafeBytes { unsafe write(1, $0.baseAddress, $0.count) }
    // Nobody listens any more: the test is gone.
    if written < 0 { exit(0) }
}

func yieldProcessor() { sched_yield() }
