import MWStorage

/// Writes, backs up and restores for ever, in `DIRECTORY/store`, `DIRECTORY/backupN` and `DIRECTORY/restoredN`: says `writing`, `backing up`,
/// `restoring` before each.
///
/// Every write is of one key that was not there, so that a store holds as many keys as its revision says.
enum KilledBackup {
    static func run(_ factory: StorageEngineFactory, _ directory: String) async throws {
        var options = StorageOptions(durability: .os)
        options.engine.writeBufferBytes = 64 << 10
        do {
            let storage = try Storage.open(directory: directory + "/store", engine: factory, options: options)
            for round in 0..<Int.max {
                report("writing")
                for key in 0..<50 { try await storage.put(Array("\(round)/\(key)".utf8), [UInt8](repeating: 1, count: 1000)) }
                report("backing up")
                try storage.backup(to: directory + "/backup\(round)", at: 0)
                report("restoring")
                _ = try Restore(from: directory + "/backup\(round)", engines: [factory]).run(into: directory + "/restored\(round)")
            }
        } catch {
            report("failed \(error)")
        }
    }
}
