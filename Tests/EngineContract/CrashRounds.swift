import Glibc
package import MWStorage
import Testing

/// Kills a writing process again and again, and looks at what is left.
package enum CrashRounds {
    /// Runs `count` rounds on one store: start `mwstorage-crash`, let it acknowledge a random number of batches, kill it with
    /// SIGKILL, open the store, and check that every acknowledged batch is there whole, that no batch is half there, and
    /// that no prefix was given twice.
    package static func run(_ factory: StorageEngineFactory, count: Int, durability: Durability, seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread { try run(factory, count: count, durability: durability, seed: seed, in: directory) }
        }
    }

    private static func run(
        _ factory: StorageEngineFactory, count: Int, durability: Durability, seed: UInt64, in directory: String
    ) throws {
        var random = SeededRandom(seed: seed)
        var prefixes: Set<Substring> = []
        var acknowledged = 0
        for round in 0..<count {
            let limit = Int.random(in: 0...120, using: &random)
            let lines = try CrashingProcess.run(
                ["kill", factory.name, directory + "/store", String(round), durability.rawValue], untilLines: 1 + limit)
            try #require(lines.first == "ready", "\(lines.prefix(3))")
            #expect(!lines.contains { $0.hasPrefix("failed") }, "\(lines.first { $0.hasPrefix("failed") } ?? "")")
            let batches = lines.filter { $0.hasPrefix("batch ") }.map { String($0.dropFirst(6)) }
            for line in lines where line.hasPrefix("prefix ") {
                #expect(prefixes.insert(line.dropFirst(7)).inserted, "\(line) was given twice")
            }
            acknowledged += batches.count
            try check(factory, directory + "/store", round: round, acknowledged: Set(batches))
        }
        #expect(acknowledged > count, "the rounds did not get to write")
    }

    private static func check(
        _ factory: StorageEngineFactory, _ directory: String, round: Int, acknowledged: Set<String>
    ) throws(StorageError) {
        let storage = try Storage.open(directory: directory, engine: factory)
        defer { storage.close() }
        var keys: [String: Int] = [:]
        try storage.snapshot().forEach(in: KeyRange(prefix: Array("\(round)/".utf8))) { (key, value) throws(StorageError) in
            let parts = String(decoding: key, as: UTF8.self).split(separator: "/")
            guard parts.count == 3, let number = UInt64(parts[1]) else {
                Issue.record("a key that nobody wrote")
                return
            }
            let isWhole = value.count == 700 && value.allSatisfy { $0 == UInt8(truncatingIfNeeded: number) }
            #expect(isWhole, "the value of batch \(number) is not what was written")
            keys[String(parts[1]), default: 0] += 1
        }
        for batch in acknowledged { #expect(keys[batch] == 5, "batch \(batch) of round \(round) was acknowledged") }
        for (batch, count) in keys { #expect(count == 5, "batch \(batch) of round \(round) is half there") }
    }
}

/// A run of `mwstorage-crash`.
enum CrashingProcess {
    /// Starts it, reads its lines until there are `count` or it has ended, kills it, and returns all that it had said by then.
    static func run(_ arguments: [String], untilLines count: Int) throws -> [String] {
        var ends: [CInt] = [0, 0]
        guard unsafe pipe(&ends) == 0 else { throw StorageError(errno: errno, subject: "pipe") }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        unsafe posix_spawn_file_actions_addclose(&actions, ends[0])
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        let path = try helperPath()
        var process: pid_t = 0
        var words = unsafe ([path] + arguments).map { unsafe strdup($0) } + [nil]
        defer { unsafe words.forEach { unsafe free($0) } }
        let status = unsafe posix_spawn(&process, path, &actions, nil, &words, environ)
        close(ends[1])
        defer { close(ends[0]) }
        guard status == 0 else { throw StorageError(errno: status, subject: path) }

        var output: [UInt8] = []
        var lineCount = 0
        var buffer = [UInt8](repeating: 0, count: 4096)
        var isAlive = true
        while true {
            if isAlive, lineCount >= count {
                kill(process, SIGKILL)
                isAlive = false
            }
            let got = unsafe read(ends[0], &buffer, buffer.count)
            if got <= 0 { break }
            output += buffer[..<got]
            lineCount += buffer[..<got].count { $0 == UInt8(ascii: "\n") }
        }
        var result: CInt = 0
        unsafe waitpid(process, &result, 0)
        return String(decoding: output, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    /// The helper is built beside the tests.
    private static func helperPath() throws -> String {
        let candidates = CommandLine.arguments + [unsafe realpath("/proc/self/exe", nil).map { unsafe String(cString: $0) } ?? ""]
        for candidate in candidates {
            let helper = FileDescriptor.parent(of: candidate) + "/mwstorage-crash"
            if unsafe access(helper, X_OK) == 0 { return helper }
        }
        throw StorageError(
            .ioError, subject: "mwstorage-crash", found: "not beside \(candidates)", remedy: "build it: swift build --build-tests")
    }
}
