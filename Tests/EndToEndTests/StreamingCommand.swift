import Foundation
import TestCertificates

/// The command `mwstorage` as a process that goes on, whose lines a test reads one after the other.
final class StreamingCommand {
    private let process = Process()
    private let scratch: TemporaryDirectory
    private let ended: Task<Int32, Never>
    private let lines: AsyncStream<String>

    init(_ arguments: [String], program: String = CommandProcess.path, environment: [String: String] = [:]) throws {
        scratch = try TemporaryDirectory()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = CommandProcess.environment(home: scratch, environment)
        process.standardInput = FileHandle.nullDevice
        let pipe = Pipe()
        process.standardOutput = pipe
        try scratch.write("err", "")
        let errors = try FileHandle(forWritingTo: URL(fileURLWithPath: scratch.file("err")))
        defer { try? errors.close() }
        process.standardError = errors
        let (statuses, status) = AsyncStream<Int32>.makeStream()
        process.terminationHandler = {
            status.yield($0.terminationStatus)
            status.finish()
        }
        let (stream, continuation) = AsyncStream<String>.makeStream()
        lines = stream
        try process.run()
        ended = Task {
            for await status in statuses { return status }
            return -1
        }
        Self.read(pipe.fileHandleForReading, into: continuation)
    }

    deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    /// - Returns: nil at the end of its output.
    func next() async -> String? {
        for await line in lines { return line }
        return nil
    }

    /// Reads on until a line has all of these in it.
    func line(with parts: String...) async -> String? {
        while let line = await next() { if parts.allSatisfy(line.contains) { return line } }
        return nil
    }

    var errors: String { (try? String(contentsOfFile: scratch.file("err"), encoding: .utf8)) ?? "" }

    var processIdentifier: Int32 { process.processIdentifier }

    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    /// - Returns: The exit code, or the signal's number.
    func waitUntilEnded() async -> Int32 { await ended.value }

    /// On a thread that may block.
    private static func read(_ handle: FileHandle, into continuation: AsyncStream<String>.Continuation) {
        Thread.detachNewThread {
            var rest: [UInt8] = []
            // What there is, however little: nothing is the end.
            while true {
                let more = handle.availableData
                if more.isEmpty { break }
                let parts = more.split(separator: 10, omittingEmptySubsequences: false)
                for part in parts.dropLast() {
                    continuation.yield(String(decoding: rest + part, as: UTF8.self))
                    rest.removeAll()
                }
                rest += parts.last ?? Data()
            }
            if !rest.isEmpty { continuation.yield(String(decoding: rest, as: UTF8.self)) }
            continuation.finish()
            try? handle.close()
        }
    }
}
