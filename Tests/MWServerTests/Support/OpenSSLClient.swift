import Dispatch
import Foundation
import NIOCore

/// `openssl s_client`, as an operator would run it: a client that shares no code with ours.
struct OpenSSLClient {
    /// What it printed, on both outputs.
    let output: String

    /// The handshake messages that came and went, as `-msg` names them.
    func saw(_ message: String) -> Bool { self.output.contains(", \(message)\n") }

    /// Connects, sends `input`, and reads until the server closes.
    ///
    /// - Parameter version: `tls1_2` or `tls1_3`.
    static func run(to address: SocketAddress, version: String, input: String = "", _ more: [String] = []) async throws -> OpenSSLClient {
        let arguments = ["s_client", "-connect", "127.0.0.1:\(address.port ?? 0)", "-msg", "-\(version)"] + more
        return try await withCheckedThrowingContinuation { continuation in
            // It is waited for: not on a thread of the tests.
            DispatchQueue.global().async { continuation.resume(with: Result { try self.run(arguments, input) }) }
        }
    }

    private static func run(_ arguments: [String], _ input: String) throws -> OpenSSLClient {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["openssl"] + arguments
        let (question, answer) = (Pipe(), Pipe())
        process.standardInput = question
        process.standardOutput = answer
        process.standardError = answer
        try process.run()
        // All of it fits into the pipe: nobody has to read meanwhile.
        try question.fileHandleForWriting.write(contentsOf: Data(input.utf8))
        try question.fileHandleForWriting.close()
        let data = try answer.fileHandleForReading.readToEnd() ?? Data()
        try answer.fileHandleForReading.close()
        process.waitUntilExit()
        return OpenSSLClient(output: String(decoding: data, as: UTF8.self))
    }
}
