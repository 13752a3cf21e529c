// Serves a fixed sequence of requests in memory, for callgrind to count: see scripts/check instructions.
//
//   mwstorage-instructions list                 the names, a line each
//   mwstorage-instructions NAME REQUESTS        at least so many requests of that sequence; says how many were counted
//
// What is to be counted is `measuredPart`, and nothing else: connections, keys and requests are made outside of it. Nothing depends on the
// clock, on a thread, or (with SWIFT_DETERMINISTIC_HASHING=1) on the process.

import Glibc

@main struct InstructionsCommand {
    static func main() throws {
        let words = CommandLine.arguments
        if words.count == 2, words[1] == "list" {
            for name in RequestSequences.names { print(name) }
            return
        }
        guard words.count == 3, let requests = Int(words[2]), requests > 0 else {
            say("usage: mwstorage-instructions list | NAME REQUESTS")
            exit(64)
        }
        guard let sequence = try RequestSequences.make(words[1]) else {
            say("mwstorage-instructions: there is no sequence '\(words[1])'; see: mwstorage-instructions list")
            exit(64)
        }
        print("\(words[1]) requests=\(try Self.run(sequence, requests))")
    }

    /// Steps that are prepared together, so that a long run, for a profiler that samples, takes little memory.
    private static let chunk = 1_024
    /// Steps before those that count: buffers and tables have their sizes by then.
    private static let warmUp = 32

    /// Returns how many requests the last chunk had: callgrind counts those.
    private static func run(_ sequence: any RequestSequence, _ requests: Int) throws -> Int {
        try sequence.prepare(1)
        try sequence.step()
        let bytesPerStep = sequence.sentBytes
        guard bytesPerStep >= sequence.minimumBytesPerStep else { throw WrongAnswer(bytes: bytesPerStep) }
        try sequence.prepare(self.warmUp)
        for _ in 0..<self.warmUp { try sequence.step() }

        var steps = 1 + self.warmUp
        var left = (requests + sequence.requestsPerStep - 1) / sequence.requestsPerStep
        var count = 0
        while left > 0 {
            count = min(left, self.chunk)
            try sequence.prepare(count)
            try measuredPart(sequence, count)
            steps += count
            left -= count
            let sent = countingEnded(sequence)
            guard sent == steps * bytesPerStep else { throw WrongAnswer(bytes: sent) }
        }
        return count * sequence.requestsPerStep
    }

    private static func say(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = unsafe bytes.span.bytes.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
    }
}

/// The answers were others than those to the first request, or were none.
struct WrongAnswer: Error {
    let bytes: Int
}

/// Requests that are the same each time, in steps: what one read brings.
protocol RequestSequence: AnyObject {
    var requestsPerStep: Int { get }
    /// What the answers have at least: their values.
    var minimumBytesPerStep: Int { get }
    /// What came out of all steps so far.
    var sentBytes: Int { get }

    /// Makes what `steps` steps are fed with.
    func prepare(_ steps: Int) throws
    func step() throws
}

/// callgrind finds it by its name, and counts from its beginning.
@inline(never)
func measuredPart(_ sequence: any RequestSequence, _ steps: Int) throws {
    for _ in 0..<steps { try sequence.step() }
}

/// Where counting ends, found by its name, too.
@inline(never)
func countingEnded(_ sequence: any RequestSequence) -> Int { sequence.sentBytes }
