import Foundation
import TestCertificates
import Testing

/// Reads and writes with revisions, against a server process.
@Suite("Commands with revisions")
struct StoreCommandTests {
    /// The text between `before` and the next quotation mark.
    private static func field(_ name: String, of line: String) throws -> String {
        let parts = line.components(separatedBy: "\"\(name)\":\"")
        return try #require(parts.count > 1 ? parts[1].components(separatedBy: "\"").first : nil, "\(name) in \(line)")
    }

    @Test("a scan prints a range in order, either way, as text and as JSON")
    func scan() async throws {
        let server = try await ServerProcess()
        let keys = ["a", "b/1", "b/2", "b/3", "c"]
        for key in keys { #expect(try await server.run(["put", key, "v\t" + key]).status == 0) }
        #expect(try await server.run(["scan", "b/"]).text == "b/1\tv\\tb/1\nb/2\tv\\tb/2\nb/3\tv\\tb/3\n")
        #expect(try await server.run(["scan", "--keys-only", "--reverse"]).text == keys.reversed().map { $0 + "\n" }.joined())
        #expect(try await server.run(["scan", "--range", "b..c", "--keys-only", "--limit", "2"]).text == "b/1\nb/2\n")
        #expect(try await server.run(["scan", "--range", "b/2..", "-o", "raw"]).text == "v\tb/2v\tb/3v\tc")
        #expect(try await server.run(["scan", "none", "-o", "json"]).text == "[]\n")
        let lines = try await server.run(["scan", "b/", "-o", "ndjson"]).text.split(separator: "\n")
        #expect(lines.count == 3 && lines[0].hasPrefix(#"{"key":"b/1","value":"v\tb/1","encoding":"utf8","revision":""#))
        #expect(try await server.run(["scan", "b/", "-o", "table"]).text.hasPrefix("KEY  REVISION  VALUE\n"))
        #expect(try await server.run(["scan", "--range", "c..b"]).status == 64)
    }

    @Test("a transaction does its part, prints what was there, and exits with 1 where the conditions do not hold")
    func transaction() async throws {
        let server = try await ServerProcess()
        func run(_ text: String, _ arguments: [String] = []) async throws -> CommandProcess.Ended {
            try await server.run(["transaction", "-"] + arguments, input: Array(text.utf8))
        }
        let made = try await run(#"if absent k then put k "1" else get k"#)
        #expect(
            made.status == 0 && made.text.hasPrefix("then ") && made.text.hasSuffix(":1\nput \"k\" was absent\n"),
            "\(made.text)\(made.errors)")
        let late = try await run(#"if absent k then put k "2" else get k"#, ["-o", "json"])
        #expect(late.status == 1 && late.errors.isEmpty, "\(late.errors)")
        #expect(
            late.text.hasPrefix(#"{"succeeded":false,"revision":""#) && late.text.contains(#"{"operation":"get","key":"k","value":"1","#))
        #expect(try await run(#"if revision k = 1 value k = "1" then put k "3""#).status == 0)
        #expect(try await run(#"if revision k < 2 then remove k"#).status == 1)
        let revision = try Self.field("revision", of: await server.run(["get", "k", "-o", "json"]).text)
        #expect(try await run("if revision k = \(revision) then remove k else get k").status == 0)
        #expect(try await run("if revision k = 000102030405060708090a0b0c0d0e0f:3 then remove k").status == 82)

        let wrong = try await run("then\n  put k v\n")
        #expect(wrong.status == 65 && wrong.output.isEmpty)
        #expect(
            wrong.errors.hasPrefix("mwstorage: standard input, line 2, column 9: there is 'v'\n  expected: a value in quotes\n"),
            "\(wrong.errors)")
    }

    @Test("each protocol gets, puts and removes; a revision comes with the native one only")
    func protocols() async throws {
        let server = try await ServerProcess()
        let put = try await server.run(["put", "k", "#", "-o", "json"])
        #expect(put.status == 0 && put.text.hasPrefix(#"{"put":1,"bytes":1,"revision":""#), "\(put.text)\(put.errors)")
        #expect(try await server.run(["put", "k", "#", "--protocol", "mwdb"]).status == 65, "mwDB's separates with it")
        #expect(try await server.run(["put", "k", "v", "--protocol", "mwdb", "-o", "json"]).text == #"{"put":1,"bytes":1}"# + "\n")
        #expect(
            try await server.run(["get", "k", "--protocol", "mwdb", "-o", "json"]).text == #"{"key":"k","value":"v","encoding":"utf8"}"#
                + "\n")
        #expect(try await server.run(["get", "k", "-o", "json"]).text.contains(#""encoding":"utf8","revision":""#))
        #expect(try await server.run(["put", "k", ""]).status == 0)
        #expect(try await server.run(["get", "k"]).status == 0, "an empty value is one")
        #expect(try await server.run(["remove", "k", "--protocol", "mwdb"]).status == 0)
        #expect(try await server.run(["get", "k"]).status == 1)
        #expect(try await server.run(["put", "k", "v", "--lease", "1", "--protocol", "mwdb"]).status == 64)
    }
}
