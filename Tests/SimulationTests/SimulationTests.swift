import Foundation
import History
import Simulation
import Testing

/// Clients, a network with faults and a server that is killed, on one thread and one clock, against a model that knows nothing of them.
/// `mwstorage-simulate` is the same, for many seeds and for one with a trace.
@Suite struct SimulationTests {
    /// Runs seeds as a process of its own, where the order of dictionaries is the seed's too.
    private static func run(_ arguments: [String]) async throws -> (status: Int32, output: String) {
        let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let process = Process()
        process.executableURL = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("mwstorage-simulate")
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(["SWIFT_DETERMINISTIC_HASHING": "1"]) { $1 }
        let output = Pipe()
        process.standardOutput = output
        let (statuses, status) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = {
            status.yield($0.terminationStatus)
            status.finish()
        }
        try process.run()
        let text = await withCheckedContinuation { (continuation: CheckedContinuation<String, Never>) in
            Thread.detachNewThread {
                let data = (try? output.fileHandleForReading.readToEnd()) ?? Data()
                continuation.resume(returning: String(decoding: data, as: UTF8.self))
            }
        }
        for await ended in statuses { return (ended, text) }
        return (-1, text)
    }

    /// The 10,000 seeds, in a part for each of two processors.
    private static let parts = 2
    private static let seedsOfPart = 5_000

    @Test(arguments: 0..<parts)
    func `No write is lost or done twice, no event missed, repeated, torn or out of order, in 10,000 runs`(part: Int) async throws {
        let (status, output) = try await Self.run(["\(part * Self.seedsOfPart)", "\(Self.seedsOfPart)"])
        #expect(status == 0, "\(output)")
    }

    // A range that no run of CI has seen; the seeds are in the message.
    @Test func `Nor in runs that nobody has seen before`() async throws {
        let first = UInt64.random(in: 1_000_000...(UInt64.max / 2))
        let (status, output) = try await Self.run(["\(first)", "300"])
        #expect(status == 0, "\(output)")
    }

    @Test func `A seed gives the same run every time`() async throws {
        let first = try await Self.run(["7", "1", "--trace"])
        let second = try await Self.run(["7", "1", "--trace"])
        #expect(first.output == second.output)
        #expect(first.output.split(separator: "\n").count > 50)
    }

    // What is wrong must be found: without these, nothing above would mean anything.
    @Test(arguments: Mutation.allCases) func `What is done wrong on purpose is found within 60 seeds`(mutation: Mutation) async throws {
        let (status, output) = try await Self.run(["1", "60", "--mutation", mutation.rawValue])
        #expect(status == 1, "\(mutation): \(output)")
    }
}
