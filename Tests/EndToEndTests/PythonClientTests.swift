import Foundation
import TestCertificates
import Testing

/// mwstorage.v1 as its documentation says it, spoken by a client that was written from that alone.
@Suite("The native protocol, spoken by a Python client")
struct PythonClientTests {
    /// Sends each request and returns each answer, as JSON.
    private func ask(_ requests: [String]) async throws -> [NSObject] {
        let server = try await ServerProcess()
        let port = try #require(server.endpoint.split(separator: ":").last.map(String.init))
        let files = server.directory
        let run = try await ConformanceScript.run(
            "native_client.py",
            ["localhost", port, files.file("client.chain.pem"), files.file("client.key.pem"), files.file("client.trust.pem")],
            input: requests)
        #expect(run.status == 0, "\(run.output)")
        #expect(await server.terminate() == 0)
        return try run.output.split(separator: "\n").map(Self.json)
    }

    private static func json(_ text: Substring) throws -> NSObject {
        try #require(try JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed) as? NSObject, "\(text)")
    }

    private func expect(_ requests: [(request: String, answer: String)]) async throws {
        let answers = try await ask(requests.map(\.request))
        #expect(answers.count == requests.count)
        for (answer, expected) in zip(answers, requests) {
            #expect(try answer == Self.json(expected.answer[...]), "\(expected.request): \(answer)")
        }
    }

    @Test("any bytes are put, read, scanned in pages both ways, compared and removed, each change at its revision")
    func data() async throws {
        let (first, second) = (#"{"key": "a#", "value": "\u0000\u00ff", "revision": 1}"#, #"{"key": "b", "value": "", "revision": 2}"#)
        try await expect([
            (#"["put", "a#", "\u0000\u00ff"]"#, #"{"revision": 1, "repeated": false, "changes": 1}"#),
            (#"["put", "b", ""]"#, #"{"revision": 2, "repeated": false, "changes": 1}"#),
            (
                #"["get", "a#", "absent", "b"]"#,
                #"[{"key": "", "value": "\u0000\u00ff", "revision": 1}, {"key": "", "value": "", "revision": 0}, "#
                    + #"{"key": "", "value": "", "revision": 2}]"#
            ),
            (#"["scan", "", null, 1]"#, "[\(first), \(second)]"),
            (#"["scan", "", null, 1, true]"#, "[\(second), \(first)]"),
            (#"["scan", "a", "b", 5]"#, "[\(first)]"),
            (#"["put_if_revision", "b", 2, "x"]"#, #"{"revision": 3, "succeeded": true, "before": [\#(second)]}"#),
            (
                #"["put_if_revision", "b", 2, "y"]"#,
                #"{"revision": 3, "succeeded": false, "before": [{"key": "b", "value": "x", "revision": 3}]}"#
            ),
            (#"["remove", "b", "absent"]"#, #"{"revision": 4, "repeated": false, "changes": 1}"#),
            (#"["remove", "b"]"#, #"{"revision": 4, "repeated": false, "changes": 0}"#),
            (
                #"["unknown"]"#,
                #"{"failure": {"code": 2, "detail": "this server has no request of kind 40000", "retryable": false}}"#
            ),
        ])
    }

    @Test("a write that is sent again over another connection is not done again")
    func repeated() async throws {
        let answers = try await ask([
            #"["put", "a", "1"]"#, #"["connect"]"#, #"["put", "a", "1", null, true]"#, #"["put", "a", "2"]"#, #"["get", "a"]"#,
        ])
        #expect(try answers[2] == Self.json(#"{"revision": 1, "repeated": true, "changes": 1}"#))
        #expect(try answers[3] == Self.json(#"{"revision": 2, "repeated": false, "changes": 1}"#))
        #expect(try answers[4] == Self.json(#"[{"key": "", "value": "2", "revision": 2}]"#))
    }

    // The watches' ids are those of their requests, counted from 1 over both connections.
    @Test("a watch begins with the state, reports each change once, and goes on over another connection from where it was")
    func watch() async throws {
        let answers = try await ask([
            #"["put", "a", "1"]"#, #"["watch", "a", "c", null, true]"#, #"["put", "b", "2"]"#, #"["put", "c", "outside"]"#,
            #"["event", 4]"#, #"["event", 4]"#, #"["event", 4]"#, #"["connect"]"#, #"["remove", "a"]"#,
            #"["watch", "a", "c", 2]"#, #"["event", 9]"#, #"["event", 9]"#,
        ])
        #expect(try answers[1] == Self.json(#"{"watch": 4, "revision": 1}"#))
        #expect(
            try answers[4] == Self.json(#"{"event": "state", "revision": 1, "entries": [{"key": "a", "value": "1", "revision": 1}]}"#))
        #expect(try answers[5] == Self.json(#"{"event": "synced", "revision": 1}"#))
        #expect(
            try answers[6] == Self.json(#"{"event": "changes", "revision": 2, "changes": [{"key": "b", "value": "2", "previous": 0}]}"#))
        #expect(try answers[9] == Self.json(#"{"watch": 9, "revision": 2}"#))
        #expect(
            try answers[10]
                == Self.json(#"{"event": "changes", "revision": 4, "changes": [{"key": "a", "value": null, "previous": 1}]}"#))
        #expect(try answers[11] == Self.json(#"{"event": "synced", "revision": 4}"#))
    }

    @Test("what is bound to a lease goes with it")
    func lease() async throws {
        let answers = try await ask([
            #"["grant_lease", 60000]"#, #"["put", "a", "1", 1]"#, #"["get", "a"]"#, #"["revoke_lease", 1]"#, #"["get", "a"]"#,
        ])
        #expect(try answers[2] == Self.json(#"[{"key": "", "value": "1", "revision": 1, "lease": 1}]"#))
        #expect(try answers[3] == Self.json(#"{"revision": 2, "repeated": false, "changes": 1}"#))
        #expect(try answers[4] == Self.json(#"[{"key": "", "value": "", "revision": 0}]"#))
    }
}
