import Foundation
import MWPKI
import TestCertificates
import Testing

/// `mwstorage-echo` is made of the storage server's own TLS and WebSocket layers; what judges it here is Python's TLS and raw bytes.
@Suite("The echo, probed with raw bytes over mutual TLS")
struct EchoTests {
    @Test("every broken opening, frame and ending gets its answer, then close_notify", arguments: ["1.2", "1.3"])
    func server(_ version: String) async throws {
        // Probes of a deadline have the storage server's; all others have as long as a busy machine needs.
        let deadlines = "^opening: (silence|one byte a second)"
        try await Self.probe(version, "^(?!\(deadlines.dropFirst()))", ["--patience", "120"])
        try await Self.probe(version, deadlines)
    }

    private static func probe(_ version: String, _ names: String, _ more: [String] = []) async throws {
        let files = try EchoFiles()
        let echo = try EchoServerProcess(files, more)
        let probes = try await ConformanceScript.run(
            "probes.py", ["--port", echo.port, "--pid", "\(echo.processIdentifier)", "--tls", version] + files.options("client") + [names])
        #expect(probes.status == 0, "\(probes.output)")
        // SIGTERM ends it, orderly.
        #expect(echo.terminate() == 0)
    }

    @Test("the echo client echoes until closed, and refuses what a server must not send")
    func client() async throws {
        let files = try EchoFiles()
        let command = [try EchoServerProcess.executable(), "connect"] + files.options("client")
        let probes = try await ConformanceScript.run("client_probes.py", files.options("server") + ["--"] + command)
        #expect(probes.status == 0, "\(probes.output)")
    }
}

/// Certificates of both ends, as files.
private struct EchoFiles {
    private let directory: TemporaryDirectory

    init() throws {
        directory = try TemporaryDirectory()
        let pair = try TestAuthority().materialPair()
        _ = try pair.server.writePEM(to: directory, prefix: "server")
        _ = try pair.client.writePEM(to: directory, prefix: "client")
    }

    func options(_ end: String) -> [String] {
        [
            "--certificate", directory.file("\(end).chain.pem"), "--key", directory.file("\(end).key.pem"),
            "--trust", directory.file("\(end).trust.pem"),
        ]
    }
}

/// A running `mwstorage-echo serve`; ends with the value.
private final class EchoServerProcess {
    private let process = Process()
    let port: String

    init(_ files: EchoFiles, _ more: [String] = []) throws {
        process.executableURL = URL(fileURLWithPath: try Self.executable())
        process.arguments = ["serve"] + files.options("server") + more
        process.standardInput = FileHandle.nullDevice
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        // `listening on wss://127.0.0.1:PORT`
        var line = ""
        while !line.hasSuffix("\n"), let byte = try output.fileHandleForReading.read(upToCount: 1), !byte.isEmpty {
            line += String(decoding: byte, as: UTF8.self)
        }
        try #require(line.hasPrefix("listening on wss://127.0.0.1:"), "\(line)")
        port = String(line.dropLast().split(separator: ":").last ?? "")
    }

    var processIdentifier: Int32 { process.processIdentifier }

    /// Sends SIGTERM; returns the exit status.
    func terminate() -> Int32 {
        process.terminate()
        process.waitUntilExit()
        return process.terminationStatus
    }

    deinit {
        if process.isRunning { _ = terminate() }
    }

    /// Beside the test's own executable.
    static func executable() throws -> String {
        for candidate in CommandLine.arguments + [(try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""] {
            let path = URL(fileURLWithPath: candidate).deletingLastPathComponent().appendingPathComponent("mwstorage-echo").path
            if FileManager.default.isExecutableFile(atPath: path) { return path }
        }
        throw CocoaError(.fileNoSuchFile)
    }
}
