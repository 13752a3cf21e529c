// Runs simulations from seeds, and says which of them found something.
//
//   mwstorage-simulate FIRST COUNT [--trace] [--mutation NAME]
//
// A seed that fails is run again, alone and with a trace, by what is printed.

import Foundation
import Simulation

@main struct SimulateCommand {
    static func main() throws {
        var words = Array(CommandLine.arguments.dropFirst())
        let isTraced = words.contains("--trace")
        words.removeAll { $0 == "--trace" }
        var mutation: Mutation?
        if let index = words.firstIndex(of: "--mutation"), index + 1 < words.count {
            mutation = Mutation(rawValue: words[index + 1])
            words.removeSubrange(index...(index + 1))
        }
        guard words.count == 2, let first = UInt64(words[0]), let count = UInt64(words[1]) else {
            say("usage: mwstorage-simulate FIRST COUNT [--trace] [--mutation NAME]")
            exit(64)
        }
        // The order of dictionaries is another in every process otherwise, and a seed's run with it.
        guard ProcessInfo.processInfo.environment["SWIFT_DETERMINISTIC_HASHING"] != nil else {
            try self.runDeterministically()
        }
        let directory = NSTemporaryDirectory() + "mwstorage-simulate-\(ProcessInfo.processInfo.processIdentifier)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let bench = try SimulationBench(directory: directory)
        let isFine = self.run(bench, first..<(first + count), mutation, isTraced: isTraced)
        try? FileManager.default.removeItem(atPath: directory)
        exit(isFine ? 0 : 1)
    }

    private static func run(_ bench: SimulationBench, _ seeds: Range<UInt64>, _ mutation: Mutation?, isTraced: Bool) -> Bool {
        var total = SimulationReport(seed: seeds.lowerBound)
        var failed = 0
        for seed in seeds {
            let report = bench.run(seed, mutation: mutation, trace: isTraced ? { say($0) } : nil)
            total.calls += report.calls
            total.unknownOutcomes += report.unknownOutcomes
            total.refusals += report.refusals
            total.revisions += report.revisions
            total.kills += report.kills
            total.links += report.links
            total.watchItems += report.watchItems
            total.undecided += report.undecided
            guard !report.violations.isEmpty else { continue }
            failed += 1
            let option = mutation.map { " --mutation \($0.rawValue)" } ?? ""
            say("seed \(seed): \(report.violations.count) violations; again with: mwstorage-simulate \(seed) 1 --trace\(option)")
            for violation in report.violations.prefix(5) { say("  \(violation)") }
        }
        say(
            "\(seeds.count) seeds, \(failed) failed; \(total.calls) calls (\(total.unknownOutcomes) unknown, \(total.refusals) refused),"
                + " \(total.revisions) revisions, \(total.watchItems) watch items, \(total.kills) kills, \(total.links) connections,"
                + " \(total.undecided) undecided")
        return failed == 0
    }

    /// Becomes itself again, with the variable set: no child is left behind by whoever ends this process.
    private static func runDeterministically() throws -> Never {
        let path = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        unsafe setenv("SWIFT_DETERMINISTIC_HASHING", "1", 1)
        var arguments: [UnsafeMutablePointer<CChar>?] = unsafe CommandLine.arguments.map { unsafe strdup($0) }
        unsafe arguments.append(nil)
        unsafe execv(path, &arguments)
        exit(71)
    }

    /// A line, at once: whoever ends this process has what was found by then.
    private static func say(_ line: String) { FileHandle.standardOutput.write(Data((line + "\n").utf8)) }
}
