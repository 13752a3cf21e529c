package import MWStorage
import Testing

/// Kills a writing client and its store again and again; each new one sends again what has no answer, or whose answer was lost.
package enum OnceRounds {
    /// Runs `count` rounds on one store and one session, and then looks: each write was done once, at the revision that was
    /// answered, whichever process got the answer.
    package static func run(_ factory: StorageEngineFactory, count: Int, durability: Durability, seed: UInt64) async throws {
        try await withTemporaryDirectory { directory in
            try await onOwnThread { try run(factory, count: count, durability: durability, seed: seed, in: directory + "/store") }
        }
    }

    private static func run(
        _ factory: StorageEngineFactory, count: Int, durability: Durability, seed: UInt64, in directory: String
    ) throws {
        var random = SeededRandom(seed: seed)
        var session: Substring = "-"
        var revisions: [Substring] = []
        var repeated = 0
        var first = 1
        for round in 0..<count {
            // The last answers may be lost: `mwstorage-crash` has not acknowledged so many. It has acknowledged what is before its first.
            first = max(first, revisions.count + 1 - Int.random(in: 0...8, using: &random))
            var next = first
            let lines = try CrashingProcess.run(
                ["once", factory.name, directory, String(session), String(first), String(round), durability.rawValue],
                untilLines: 2 + Int.random(in: 0...150, using: &random))
            try #require(lines.contains("ready"), "\(lines.prefix(3))")
            for line in lines where line != "ready" {
                let words = line.split(separator: " ")
                switch words.first {
                case "session": session = words[1]
                case "once":
                    try #require(words.count == 4 && Int(words[1]) == next, "answers come in order: \(line)")
                    if next <= revisions.count {
                        #expect(words[2] == revisions[next - 1] && words[3] == "repeated", "\(line), first at \(revisions[next - 1])")
                        repeated += 1
                    } else {
                        revisions.append(words[2])
                    }
                    next += 1
                default: Issue.record("round \(round): \(line)")
                }
            }
        }
        #expect(revisions.count > count, "the rounds did not get to write")
        #expect(repeated > 0, "nothing was sent again")
        try check(factory, directory, answered: revisions)
    }

    private static func check(_ factory: StorageEngineFactory, _ directory: String, answered: [Substring]) throws {
        let storage = try Storage.open(directory: directory, engine: factory)
        defer { storage.close() }
        var found: [String: Revision] = [:]
        var rest = KeyRange(prefix: Array("once/".utf8))
        let snapshot = try storage.snapshot()
        while true {
            let page = try snapshot.scan(rest)
            for entry in page.entries { found[String(decoding: entry.key, as: UTF8.self)] = entry.revision }
            guard page.hasMore, let last = page.entries.last else { break }
            rest = rest.following(last.key, .forward)
        }
        for (index, revision) in answered.enumerated() {
            #expect(found["once/\(index + 1)"]?.description == String(revision), "write \(index + 1) is as it was answered")
        }
        // Nothing else was written: a write that was done twice would have made a revision too many.
        #expect(storage.revision.number == UInt64(found.count))
    }
}
