import Foundation
import TestCertificates
import Testing

@testable import mwstorage

/// The command against a server process: data on standard output, talk on standard error, exit codes as documented.
@Suite("The command against a server")
struct CommandAgainstServerTests {
    @Test("get prints exactly what put stored, whichever way it came")
    func putAndGet() async throws {
        let server = try await ServerProcess()
        let put = try await server.run(["put", "greeting", "hello, world"])
        #expect(put.status == 0)
        #expect(put.output.isEmpty && put.errors.isEmpty, "a put has nothing to say")
        let get = try await server.run(["get", "greeting"])
        #expect(get.text == "hello, world")
        #expect(get.status == 0 && get.errors.isEmpty)

        let bytes: [UInt8] = [0, 0xFF, 10, 13, 0x80]
        #expect(try await server.run(["put", "bytes"], input: bytes).status == 0)
        #expect(try await server.run(["get", "bytes"]).output == bytes)
        #expect(try await server.run(["get", "6279746573", "--hex"]).text == "00ff0a0d80")
        #expect(
            try await server.run(["get", "bytes", "-o", "json"]).text.hasPrefix(
                #"{"key":"Ynl0ZXM=","value":"AP8KDYA=","encoding":"base64","revision":""#))

        try server.directory.write("value", "from a file\n")
        #expect(try await server.run(["put", "file", "--file", server.directory.file("value")]).status == 0)
        #expect(try await server.run(["get", "file"]).text == "from a file\n")

        #expect(try await server.run(["put", "--hex", "6b31", "7631"]).status == 0)
        #expect(
            try await server.run(["get", "k1", "greeting", "-o", "ndjson", "--protocol", "mwdb"]).text == """
                {"key":"k1","value":"v1","encoding":"utf8"}
                {"key":"greeting","value":"hello, world","encoding":"utf8"}

                """)
        #expect(await server.terminate() == 0, "a server that has drained has done what was asked")
    }

    @Test("an absent key is exit code 1, and nothing on standard output")
    func absent() async throws {
        let server = try await ServerProcess()
        let get = try await server.run(["get", "nothing"])
        #expect(get.status == 1)
        #expect(get.output.isEmpty)
        #expect(get.errors == "no value: nothing\n")

        #expect(try await server.run(["put", "key", "value"]).status == 0)
        #expect(try await server.run(["remove", "key"]).status == 0)
        #expect(try await server.run(["get", "key"]).status == 1)
        #expect(try await server.run(["remove", "key"]).status == 0, "nothing to do is success")
    }

    @Test("each prefix is another one")
    func prefixes() async throws {
        let server = try await ServerProcess()
        let first = try await server.run(["prefix"])
        let second = try await server.run(["prefix", "-o", "json"])
        #expect(first.status == 0 && second.status == 0)
        let number = try #require(Int(first.text.dropLast()))
        #expect(second.text == "{\"prefix\":\(number + 1)}\n")
    }

    @Test("a client that the server does not trust is told so: exit code 80, three lines, or one JSON object")
    func stranger() async throws {
        let server = try await ServerProcess()
        let arguments =
            ["get", "key", "--endpoint", server.endpoint, "--trust", server.directory.file("client.trust.pem")]
            + TestStore.identity(server.directory, "stranger")
        let get = try await CommandProcess.run(arguments)
        #expect(get.status == 80)
        #expect(get.output.isEmpty)
        #expect(get.errors.hasPrefix("mwstorage: "))
        #expect(get.errors.contains("\n  to mend it: "))
        #expect(get.errors.split(separator: "\n").count == 3)

        let json = try await CommandProcess.run(arguments + ["-o", "json"])
        #expect(json.status == 80)
        let object = try #require(try JSONSerialization.jsonObject(with: Data(json.errors.utf8)) as? [String: Any])
        #expect(object["exit"] as? Int == 80)
        #expect(object["code"] as? String == "client.unauthenticated")
    }

    @Test("a server that the client does not trust is refused: exit code 81")
    func untrustedServer() async throws {
        let server = try await ServerProcess()
        let connection = ["--endpoint", server.endpoint] + TestStore.identity(server.directory)
        let untrusted = try await CommandProcess.run(
            ["get", "key"] + connection + ["--trust", server.directory.file("stranger.trust.pem")])
        #expect(untrusted.status == 81)
        let misnamed = try await CommandProcess.run(
            ["get", "key", "--server-name", "elsewhere.example"] + connection + ["--trust", server.directory.file("client.trust.pem")])
        #expect(misnamed.status == 81)
        #expect(misnamed.errors.contains("elsewhere.example"))
    }

    @Test("what was stored is there after a restart")
    func restart() async throws {
        let directory = try TestStore.make()
        let first = try await ServerProcess(directory: directory)
        #expect(try await first.run(["put", "key", "value"]).status == 0)
        #expect(await first.terminate() == 0)
        let second = try await ServerProcess(directory: directory)
        #expect(try await second.run(["get", "key"]).text == "value")
    }

    @Test("a second server on the same data directory does not start, and says who has it")
    func locked() async throws {
        let server = try await ServerProcess()
        let second = try await CommandProcess.run([
            "serve", "--listen", "127.0.0.1:0", "--data", server.directory.file("data"),
            "--certificate", server.directory.file("server.chain.pem"), "--key", server.directory.file("server.key.pem"),
            "--trust", server.directory.file("server.trust.pem"), "--log-level", "error",
        ])
        #expect(second.status == 75)
        #expect(second.output.isEmpty)
        #expect(second.errors.contains("storage.locked") || second.errors.contains("to mend it"))
    }

    @Test("SIGHUP reloads, and a reload that fails leaves the old certificates in use")
    func reload() async throws {
        let server = try await ServerProcess()
        try server.directory.write("server.chain.pem", "no certificate")
        server.send(SIGHUP)
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        #expect(await server.terminate() == 0)
        #expect(server.log.contains("reload failed"))
    }
}

/// The command by itself.
@Suite("The command by itself")
struct CommandAloneTests {
    @Test(
        "wrong usage is exit code 64, help on standard error, nothing on standard output",
        arguments: [
            ["bogus"], ["get"], ["get", "key", "--no-such-option"], ["put"], ["put", "k", "v", "--file", "f"],
            ["get", "k", "--hex", "--base64"],
            ["get", "key", "--passphrase", "secret"], ["context", "rm"],
        ])
    func usage(_ arguments: [String]) async throws {
        let ended = try await CommandProcess.run(arguments)
        #expect(ended.status == 64)
        #expect(ended.output.isEmpty)
        #expect(!ended.errors.isEmpty)
    }

    @Test(
        "help and version are data: exit code 0, standard output",
        arguments: [["--help"], ["help", "serve"], ["version"], ["get", "--help"]])
    func help(_ arguments: [String]) async throws {
        let ended = try await CommandProcess.run(arguments)
        #expect(ended.status == 0)
        #expect(!ended.output.isEmpty)
        #expect(ended.errors.isEmpty)
    }

    @Test("a shell gets its completions", arguments: ["bash", "zsh", "fish"])
    func completions(_ shell: String) async throws {
        let ended = try await CommandProcess.run(["--generate-completion-script", shell])
        #expect(ended.status == 0)
        #expect(ended.text.contains("mwstorage"))
    }

    @Test("a server that is not there is exit code 69, a missing file 66, a readable key or a bad setting 78")
    func failures() async throws {
        let directory = try TestStore.make()
        let trust = ["--trust", directory.file("client.trust.pem")]
        let endpoint = ["--endpoint", "wss://127.0.0.1:1"]
        let unreachable = try await CommandProcess.run(["get", "key"] + endpoint + TestStore.identity(directory) + trust)
        #expect(unreachable.status == 69)
        let missing = try await CommandProcess.run(["get", "key"] + endpoint + TestStore.identity(directory, "nobody") + trust)
        #expect(missing.status == 66)
        let unset = try await CommandProcess.run(["get", "key"] + endpoint + trust)
        #expect(unset.status == 78)
        #expect(unset.errors.contains("MWSTORAGE_CERTIFICATE"))
        try directory.write("open.chain.pem", try String(contentsOfFile: directory.file("client.chain.pem"), encoding: .utf8))
        try directory.write("open.key.pem", try String(contentsOfFile: directory.file("client.key.pem"), encoding: .utf8), mode: 0o644)
        let open = try await CommandProcess.run(["get", "key"] + endpoint + TestStore.identity(directory, "open") + trust)
        #expect(open.status == 78)
        let badTimeout = try await CommandProcess.run(
            ["get", "key"] + endpoint + TestStore.identity(directory) + trust, environment: ["MWSTORAGE_TIMEOUT": "5"])
        #expect(badTimeout.status == 78)
        #expect(badTimeout.errors.contains("MWSTORAGE_TIMEOUT"))
    }

    @Test("serve --check finds what is wrong before anything listens")
    func check() async throws {
        let directory = try TestStore.make()
        let good = [
            "serve", "--check", "--listen", "127.0.0.1:0", "--data", directory.file("data"), "--key", directory.file("server.key.pem"),
            "--trust", directory.file("server.trust.pem"), "--certificate",
        ]
        #expect(try await CommandProcess.run(good + [directory.file("server.chain.pem")]).status == 0)
        #expect(!FileManager.default.fileExists(atPath: directory.file("data")), "a check makes nothing")
        #expect(try await CommandProcess.run(good + [directory.file("client.chain.pem")]).status == 78, "another key's certificate")
        #expect(try await CommandProcess.run(good + [directory.file("server.chain.pem"), "--engine", "bolt"]).status == 64)
        let negative = good.filter { $0 != "--check" } + [directory.file("server.chain.pem"), "--maximum-connections=-1"]
        let refused = try await CommandProcess.run(negative)
        #expect(refused.status == 78 && refused.errors.contains("maximumConnections"), "\(refused.errors)")
    }
}

/// Flag, environment, context, user's file, default.
@Suite("Configuration")
struct ConfigurationTests {
    @Test("the first layer that has a value wins, and says so")
    func precedence() async throws {
        let home = try TemporaryDirectory()
        let files = ConfigurationFiles(userDirectory: home.path, systemFile: home.file("system.yaml"))
        try home.write("system.yaml", "endpoint: wss://system\nserver-name: system\nkey: system\ntrust: system\ntimeout: 1s\n")
        try home.write("config.yaml", "endpoint: wss://user\nserver-name: user\nkey: user\ntrust: user\n")
        try LocalFile.makeDirectory(home.file("contexts"))
        try home.write("contexts/work.yaml", "endpoint: wss://context\nserver-name: context\nkey: context\n")
        let settings = try await files.settings(
            flags: [.endpoint: ["wss://flag"]], context: "work", configurationFile: nil,
            environment: ["MWSTORAGE_ENDPOINT": "wss://environment", "MWSTORAGE_SERVER_NAME": "environment", "MWSTORAGE_KEY": ""])
        #expect(try settings.found(.endpoint) == .init(values: ["wss://flag"], origin: .flag))
        #expect(try settings.found(.serverName) == .init(values: ["environment"], origin: .environment("MWSTORAGE_SERVER_NAME")))
        #expect(try settings.found(.key)?.values == ["context"], "an empty variable is not set")
        #expect(try settings.found(.trust) == .init(values: ["user"], origin: .userFile(home.file("config.yaml"))))
        #expect(try settings.found(.timeout) == .init(values: ["1s"], origin: .systemFile(home.file("system.yaml"))))
        #expect(try settings.found(.serveEngine) == .init(values: ["rocksdb"], origin: .fallback))
        #expect(try settings.found(.certificate) == nil)
    }

    @Test("a list in YAML, in the environment and on the command line is the same list")
    func lists() async throws {
        let home = try TemporaryDirectory()
        let files = ConfigurationFiles(userDirectory: home.path, systemFile: home.file("none"))
        try home.write("config.yaml", "serve:\n  listen:\n    - a:1\n    - b:2\nendpoint: wss://one\n")
        let settings = try await files.settings(
            flags: [:], context: nil, configurationFile: nil, environment: ["MWSTORAGE_CRL": "one.pem,two.pem"])
        #expect(try settings.strings(.serveListen) == ["a:1", "b:2"])
        #expect(try settings.strings(.endpoint) == ["wss://one"])
        #expect(try settings.strings(.crl) == ["one.pem", "two.pem"])
    }

    @Test(
        "a name that does not exist is an error, not silence; so is what is no YAML",
        arguments: [
            "endpiont: wss://here\n", "serve:\n  dta: x\n", "endpoint: [unclosed\n", "- a list\n",
        ])
    func unknownNames(_ text: String) async throws {
        let home = try TemporaryDirectory()
        let files = ConfigurationFiles(userDirectory: home.path, systemFile: home.file("none"))
        try home.write("config.yaml", text)
        await #expect {
            try await files.settings(flags: [:], context: nil, configurationFile: nil, environment: [:])
        } throws: { error in
            (error as? CommandFailure)?.status == .configurationInvalid
        }
    }

    @Test("a file in the working directory is never read")
    func workingDirectory() async throws {
        let directory = try TemporaryDirectory()
        for name in ["config.yaml", "mwstorage.yaml", ".mwstorage.yaml", ".env"] {
            try directory.write(name, "endpoint: wss://trap\nMWSTORAGE_ENDPOINT=wss://trap\n")
        }
        let ended = try await CommandProcess.run(["config", "show", "--origin", "-o", "json"], workingDirectory: directory.path)
        #expect(ended.status == 0)
        #expect(!ended.text.contains("trap"))
    }

    @Test("a context is made, used, listed and removed")
    func contexts() async throws {
        let home = try TemporaryDirectory()
        func run(_ arguments: [String]) async throws -> CommandProcess.Ended { try await CommandProcess.run(arguments, home: home) }
        #expect(try await run(["context", "add", "one", "--endpoint", "wss://one", "--key", "relative.pem"]).status == 0)
        #expect(try await run(["context", "add", "two", "--endpoint", "wss://two"]).status == 0)
        let shown = try await run(["config", "show", "-o", "ndjson"])
        #expect(shown.text.contains(#"{"name":"endpoint","value":"wss://one"}"#), "the first is in use")
        #expect(!shown.text.contains(#""value":"relative.pem""#), "a context works from every directory")
        #expect(try await run(["context", "use", "two"]).status == 0)
        #expect(try await run(["config", "show", "-o", "ndjson"]).text.contains(#"{"name":"endpoint","value":"wss://two"}"#))
        #expect(try await run(["context", "use", "three"]).status == 1)
        #expect(try await run(["context", "rm", "two"]).status == 64, "a script must say yes")
        #expect(try await run(["context", "rm", "two", "--yes"]).status == 0)
        #expect(try await run(["context", "rm", "two", "--yes"]).status == 0, "nothing to do is success")
        #expect(try await run(["context", "ls", "-o", "ndjson"]).text.split(separator: "\n").count == 1)
        #expect(try await run(["context", "add", "../three"]).status == 64)
    }
}
