import Foundation
import MWPKI
import TestCertificates
import Testing

/// What an ACME client of somebody else may leave on the disk.
@Suite("Certificates that do not fit")
struct ReloadCases {
    // Method: a key of another certificate is put in the place of the server's, and the server is told; then the right one again.
    // Clients connect all the while.
    @Test("case 38 reload_bad_pair: a key that is not the certificate's changes nothing but the log; clients are served as before")
    func badPair() async throws {
        let server = try await ServerProcess()
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        let key = try PrivateFile.read(server.directory.file("server.key.pem")).bytes
        try server.directory.write("server.key.pem", PrivateKey.generate(.ec(.p256)).pem().bytes)
        server.send(SIGHUP)
        try await untilLog(of: server, contains: "reload failed")
        #expect(try await server.run(["get", "key"]).text == "value")
        try server.directory.write("server.key.pem", key)
        server.send(SIGHUP)
        try await untilLog(of: server, contains: "reloaded")
        #expect(try await server.run(["get", "key"]).text == "value")
        #expect(await server.terminate() == 0)
    }

    /// Each look is a client that is served.
    private func untilLog(of server: ServerProcess, contains text: String) async throws {
        for _ in 0..<300 {
            #expect(try await server.run(["get", "key"]).status == 0)
            if server.log.contains(text) { return }
        }
        Issue.record("the log never said '\(text)': \(server.log)")
    }
}
