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

    /// Runs it, or another program, to its end. Its streams are files, so that no pipe can fill up.
    static func run(
        _ arguments: [String], program: String = path, input: [UInt8] = [], environment more: [String: String] = [:],
        workingDirectory: String? = nil, home: TemporaryDirectory? = nil
    ) async throws -> Ended {
        let scratch = try TemporaryDirectory()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = environment(home: home ?? scratch, more)
        process.currentDirectoryURL = URL(fileURLWithPath: workingDirectory ?? scratch.path)
        try scratch.write("in", input)
        try scratch.write("out", "")
        try scratch.write("err", "")
        let question = try FileHandle(forReadingFrom: URL(fileURLWithPath: scratch.file("in")))
        let answers = try ["out", "err"].map { try FileHandle(forWritingTo: URL(fileURLWithPath: scratch.file($0))) }
        process.standardInput = question
        process.standardOutput = answers[0]
        process.standardError = answers[1]
        // A process that has ended may keep what it was given, and thousands are run.
        defer { for stream in [question] + answers { try? stream.close() } }
        let status = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Int32, any Error>) in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do { try process.run() } catch { continuation.resume(throwing: error) }
        }
        let output = try Data(contentsOf: URL(fileURLWithPath: scratch.file("out")))
        let errors = try Data(contentsOf: URL(fileURLWithPath: scratch.file("err")))
        return Ended(status: status, output: Array(output), errors: String(decoding: errors, as: UTF8.self))
    }
}

/// A program that says one line when it is ready, and then runs until it is told to end.
final class BackgroundCommand: Sendable {
    /// Its first line on standard output.
    let line: String
    private let process: Process
    private let ended: Task<Int32, Never>
    /// Held open: a program that reads it ends with us.
    private let input = Pipe()
    /// Held open: a program that writes more than its first line goes on.
    private let output = Pipe()

    var processIdentifier: Int32 { process.processIdentifier }

    struct NotReady: Error {
        var line: String
        var errors: String
    }

    /// Starts it, and returns once its first line begins with `prefix`.
    ///
    /// - Parameter log: Where its standard error goes; a file of its own if nil.
    init(
        _ arguments: [String], program: String = CommandProcess.path, until prefix: String, log: String? = nil,
        environment: [String: String]? = nil, standardInput: FileHandle? = nil
    ) async throws {
        let scratch = try TemporaryDirectory()
        let log = log ?? scratch.file("log")
        process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = environment ?? CommandProcess.environment(home: scratch)
        if let standardInput { process.standardInput = standardInput } else { process.standardInput = input }
        process.standardOutput = output
        _ = FileManager.default.createFile(atPath: log, contents: nil)
        let errors = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        defer { try? errors.close() }
        process.standardError = errors
        let (statuses, status) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = {
            status.yield($0.terminationStatus)
            status.finish()
        }
        try process.run()
        ended = Task {
            for await status in statuses { return status }
            return -1
        }
        line = await Self.firstLine(of: output.fileHandleForReading)
        guard line.hasPrefix(prefix) else {
            throw NotReady(line: line, errors: (try? String(contentsOfFile: log, encoding: .utf8)) ?? "")
        }
    }

    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    /// - Returns: The exit code, or the signal's number.
    func waitUntilEnded() async -> Int32 { await ended.value }

    /// Ends it with SIGTERM.
    /// - Returns: The exit code.
    func terminate() async -> Int32 {
        process.terminate()
        return await ended.value
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        try? input.fileHandleForWriting.close()
        try? output.fileHandleForReading.close()
    }

    /// Reads on a thread that may block. An audit log on standard output may begin before the program is ready.
    private static func firstLine(of handle: FileHandle) async -> String {
        await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                var text = ""
                while let more = try? handle.read(upToCount: 1), !more.isEmpty {
                    text += String(decoding: more, as: UTF8.self)
                    guard text.hasSuffix("\n") else { continue }
                    if !text.hasPrefix("{") { break }
                    text = ""
                }
                continuation.resume(returning: text.split(separator: "\n").first.map(String.init) ?? "")
            }
        }
    }
}

/// `mwstorage serve` with certificates of its own, on a port that the system chose.
final class ServerProcess: Sendable {
    let directory: TemporaryDirectory
    let endpoint: String
    private let command: BackgroundCommand

    /// Starts it, and returns once it has said where it listens.
    ///
    /// - Parameter identity: The server's identity and trust; certificates made for the test if nil.
    init(
        _ arguments: [String] = [], identity: [String]? = nil, directory: TemporaryDirectory? = nil, environment: [String: String] = [:]
    ) async throws {
        self.directory = try directory ?? TestStore.make()
        let identity =
            identity
            ?? TestStore.identity(self.directory, "server") + ["--trust", self.directory.file("server.trust.pem")]
        command = try await BackgroundCommand(
            ["serve", "--listen", "127.0.0.1:0", "--data", self.directory.file("data")] + identity + arguments,
            until: "listening on wss://127.0.0.1:", log: self.directory.file("log"),
            environment: CommandProcess.environment(home: self.directory, environment))
        endpoint = command.line.split(separator: " ").last.map(String.init) ?? ""
    }

    var processIdentifier: Int32 { command.processIdentifier }

    var log: String { (try? String(contentsOfFile: directory.file("log"), encoding: .utf8)) ?? "" }

    /// Where to connect, and as whom.
    var connection: [String] {
        ["--endpoint", endpoint] + TestStore.identity(directory) + ["--trust", directory.file("client.trust.pem"), "--timeout", "60s"]
    }

    func run(_ arguments: [String], input: [UInt8] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(arguments + connection, input: input)
    }

    func send(_ signal: Int32) { command.send(signal) }

    func waitUntilEnded() async -> Int32 { await command.waitUntilEnded() }

    /// - Returns: The exit code.
    func terminate() async -> Int32 { await command.terminate() }
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
