import Foundation
import TestCertificates

/// The Python programs of `Tests/conformance`: peers that share no line with us.
enum ConformanceScript {
    /// Runs one to its end.
    ///
    /// - Returns: Its exit status, and what it wrote to standard output and standard error.
    static func run(
        _ script: String, _ arguments: [String], input: [String] = [], file: String = #filePath
    ) async throws -> (status: Int32, output: String) {
        let directory = try TemporaryDirectory()
        let tests = URL(fileURLWithPath: file).deletingLastPathComponent().deletingLastPathComponent()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-B", tests.appendingPathComponent("conformance/\(script)").path] + arguments
        let (stdin, output) = (directory.file("input"), directory.file("output"))
        try Data(input.map { $0 + "\n" }.joined().utf8).write(to: URL(fileURLWithPath: stdin))
        try Data().write(to: URL(fileURLWithPath: output))
        let streams = [FileHandle(forReadingAtPath: stdin), FileHandle(forWritingAtPath: output)]
        defer { for stream in streams { try? stream?.close() } }
        process.standardInput = streams[0]
        process.standardOutput = streams[1]
        process.standardError = streams[1]
        let status = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Int32, any Error>) in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do {
                try process.run()
            } catch {
                continuation.resume(throwing: error)
            }
        }
        return (status, try String(contentsOfFile: output, encoding: .utf8))
    }
}
