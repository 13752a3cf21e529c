import Foundation
import TestCertificates

/// The command `mwstorage` as a process of its own: what it writes, and how it ends.
enum CommandProcess {
    struct Ended: Sendable {
        var status: Int32
        var output: [UInt8]
        var errors: String

        var text: String { String(decoding: output, as: UTF8.self) }
    }

    /// Beside the test that runs.
    static let path: String = {
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
        return URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("mwstorage").path
    }()

    /// Only what the test says: nothing of this machine's configuration, and no variable of ours.
    static func environment(home: TemporaryDirectory, _ more: [String: String] = [:]) -> [String: String] {
        ["HOME": home.path, "PATH": "/usr/bin:/bin", "SWIFT_BACKTRACE": "enable=no"].merging(more) { $1 }
    }

    /// Runs it to its end. Its streams are files, so that no pipe can fill up.
    static func run(
        _ arguments: [String], input: [UInt8] = [], environment more: [String: String] = [:], workingDirectory: String? = nil,
        home: TemporaryDirectory? = nil
    ) async throws -> Ended {
        let scratch = try TemporaryDirectory()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.environment = environment(home: home ?? scratch, more)
        process.currentDirectoryURL = URL(fileURLWithPath: workingDirectory ?? scratch.path)
        try scratch.write("in", input)
        try scratch.write("out", "")
        try scratch.write("err", "")
        process.standardInput = try FileHandle(forReadingFrom: URL(fileURLWithPath: scratch.file("in")))
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: scratch.file("out")))
        process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: scratch.file("err")))
        let status = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Int32, any Error>) in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do { try process.run() } catch { continuation.resume(throwing: error) }
        }
        let output = try Data(contentsOf: URL(fileURLWithPath: scratch.file("out")))
        let errors = try Data(contentsOf: URL(fileURLWithPath: scratch.file("err")))
        return Ended(status: status, output: Array(output), errors: String(decoding: errors, as: UTF8.self))
    }
}

/// `mwstorage serve` with certificates of its own, on a port that the system chose.
final class ServerProcess: Sendable {
    let directory: TemporaryDirectory
    let endpoint: String
    private let process: Process
    private let ended: Task<Int32, Never>

    /// Starts it, and returns once it has said where it listens.
    init(_ arguments: [String] = [], directory: TemporaryDirectory? = nil) async throws {
        self.directory = try directory ?? TestStore.make()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: CommandProcess.path)
        process.arguments =
            [
                "serve", "--listen", "127.0.0.1:0", "--data", self.directory.file("data"),
                "--certificate", self.directory.file("server.chain.pem"), "--key", self.directory.file("server.key.pem"),
                "--trust", self.directory.file("server.trust.pem"),
            ] + arguments
        process.environment = CommandProcess.environment(home: self.directory)
        let pipe = Pipe()
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = pipe
        let log = self.directory.file("log")
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        let (statuses, status) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = {
            status.yield($0.terminationStatus)
            status.finish()
        }
        try process.run()
        self.process = process
        ended = Task {
            for await status in statuses { return status }
            return -1
        }
        let line = await Self.firstLine(of: pipe.fileHandleForReading)
        guard let colon = line.lastIndex(of: ":"), line.hasPrefix("listening on wss://127.0.0.1:") else {
            throw NotListening(output: line, log: (try? String(contentsOfFile: log, encoding: .utf8)) ?? "")
        }
        endpoint = "wss://127.0.0.1:" + line[line.index(after: colon)...]
    }

    struct NotListening: Error {
        var output: String
        var log: String
    }

    var log: String { (try? String(contentsOfFile: directory.file("log"), encoding: .utf8)) ?? "" }

    /// Where to connect, and as whom.
    var connection: [String] {
        ["--endpoint", endpoint] + TestStore.identity(directory) + ["--trust", directory.file("client.trust.pem"), "--timeout", "60s"]
    }

    func run(_ arguments: [String], input: [UInt8] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(arguments + connection, input: input)
    }

    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    /// - Returns: The exit code.
    func terminate() async -> Int32 {
        process.terminate()
        return await ended.value
    }

    deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    /// Reads on a thread that may block.
    private static func firstLine(of handle: FileHandle) async -> String {
        await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                var text = ""
                while !text.contains("\n"), let more = try? handle.read(upToCount: 1), !more.isEmpty {
                    text += String(decoding: more, as: UTF8.self)
                }
                continuation.resume(returning: text.split(separator: "\n").first.map(String.init) ?? "")
            }
        }
    }
}

/// A directory with an authority's server and client certificates.
enum TestStore {
    static func make() throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        let pair = try TestAuthority().materialPair()
        _ = try pair.server.writePEM(to: directory, prefix: "server")
        _ = try pair.client.writePEM(to: directory, prefix: "client")
        // Somebody nobody trusts.
        let stranger = try TestAuthority().materialPair()
        _ = try stranger.client.writePEM(to: directory, prefix: "stranger")
        return directory
    }

    static func identity(_ directory: TemporaryDirectory, _ name: String = "client") -> [String] {
        ["--certificate", directory.file("\(name).chain.pem"), "--key", directory.file("\(name).key.pem")]
    }
}
