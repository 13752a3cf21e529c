import Foundation
import TestCertificates
import Testing

/// The documented stores, made by keytool and bundled with their documented passwords, between Java's TLS and ours.
struct DocumentedStores: Sendable, CustomTestStringConvertible {
    var folder: String
    var tlsVersion: String

    var javaType: String { folder.hasPrefix("jks") ? "JKS" : "PKCS12" }
    var testDescription: String { "\(folder) over \(tlsVersion)" }

    static let all: [DocumentedStores] = ["pkcs12-ec", "pkcs12-rsa", "jks-ec", "jks-rsa"].flatMap { folder in
        ["TLSv1.2", "TLSv1.3"].map { DocumentedStores(folder: folder, tlsVersion: $0) }
    }

    func store(_ name: String) -> String { Repository.file("certs/\(folder)/\(name)") }

    static func passphrase(_ name: String) -> String {
        "WS-" + name.split(separator: ".").map { $0.prefix(1).uppercased() + $0.dropFirst() }.joined(separator: "-") + "-16"
    }

    /// What Java is told: type, keystore, its password, truststore, its password, protocol version.
    func java(_ side: String) -> [String] {
        [javaType] + ["\(side).keystore", "\(side).truststore"].flatMap { [store($0), Self.passphrase($0)] } + [tlsVersion]
    }

    /// What our command is told; passphrases are in files.
    func arguments(_ side: String, in directory: TemporaryDirectory) throws -> [String] {
        try directory.writePrivate("\(side).keystore.passphrase", Data(Self.passphrase("\(side).keystore").utf8))
        try directory.writePrivate("\(side).truststore.passphrase", Data(Self.passphrase("\(side).truststore").utf8))
        return [
            "--keystore", store("\(side).keystore"), "--passphrase-file", directory.file("\(side).keystore.passphrase"),
            "--trust", store("\(side).truststore"), "--trust-passphrase-file", directory.file("\(side).truststore.passphrase"),
        ]
    }
}

extension TemporaryDirectory {
    fileprivate func writePrivate(_ name: String, _ data: Data) throws {
        try write(name, Array(data))
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: file(name))
    }
}

/// Java's TLS and its certificates against ours, both ways. A machine without a JDK fails these tests: it would hide what they are for.
@Suite("Interoperability with Java")
struct JavaInteropTests {
    @Test("a Java client saves 1,000 nodes in one put and a second one reads them all", arguments: DocumentedStores.all)
    func javaClient(_ stores: DocumentedStores) async throws {
        let directory = try TemporaryDirectory()
        let server = try await ServerProcess(identity: stores.arguments("server", in: directory), directory: directory)
        let ended = try await Java.run(
            "MwdbClient", [server.endpoint + "/"] + stores.java("client") + ["1000"],
            // The documented certificates carry no name; that Java trusts them alone is what the stores say.
            options: ["-Djdk.internal.httpclient.disableHostnameVerification=true"])
        let words = ended.text.split(whereSeparator: \.isWhitespace)
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(words.first == "ok" && words.count == 5)
        #expect(words.count == 5 && words[1] != words[2], "each connection has a prefix of its own")
        #expect(words.last.flatMap { Int($0) } ?? 0 > 300_000, "one message of several hundred KiB")
        #expect(await server.terminate() == 0)
    }

    @Test("our client puts and gets at a Java server that requires a client certificate", arguments: DocumentedStores.all)
    func javaServer(_ stores: DocumentedStores) async throws {
        let directory = try TemporaryDirectory()
        let server = try await Java.server(stores.java("server"))
        let inspected = try await CommandProcess.run(
            ["keystore", "inspect", stores.store("client.truststore"), "-o", "json", "--passphrase-env", "PASSPHRASE"],
            environment: ["PASSPHRASE": DocumentedStores.passphrase("client.truststore")])
        #expect(inspected.status == 0, "\(inspected.errors)")
        let pins = inspected.text.matches(of: /"sha256":"([0-9a-f]{64})"/).map { "sha256:" + $0.output.1 }
        #expect(!pins.isEmpty)
        let connection =
            try ["--endpoint", "wss://localhost:\(server.port)", "--timeout", "60s"] + stores.arguments("client", in: directory)
            + Set(pins).flatMap { ["--pin-server", $0] }
        let put = try await CommandProcess.run(["put", "key", "value", "--protocol", "mwdb"] + connection)
        #expect(put.status == 0, "\(put.errors)")
        let get = try await CommandProcess.run(["get", "key", "--protocol", "mwdb"] + connection)
        #expect(get.text == "value", "\(get.errors)")
        let prefix = try await CommandProcess.run(["prefix", "--protocol", "mwdb"] + connection)
        #expect(prefix.text == "0\n", "every client of the original server gets prefix 0")
        _ = await server.process.terminate()
    }

    @Test("through the tunnel a client without TLS saves 1,000 nodes and reads them")
    func tunnel() async throws {
        let server = try await ServerProcess()
        let tunnel = try await BackgroundCommand(
            ["tunnel", "--listen", "127.0.0.1:0"] + server.connection, until: "listening on ws://")
        let url = try #require(tunnel.line.split(separator: " ").last.map(String.init))
        let ended = try await Java.run("MwdbClient", [url + "/", "-", "-", "-", "-", "-", "none", "1000"])
        #expect(ended.status == 0, "\(ended.errors)")
        #expect(ended.text.hasPrefix("ok "))
        _ = await tunnel.terminate()
    }
}

/// Java programs of this folder, run from their source.
enum Java {
    static func run(_ program: String, _ arguments: [String], options: [String] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(["java"] + options + [source(program)] + arguments, program: "/usr/bin/env")
    }

    static func server(_ arguments: [String]) async throws -> JavaServer {
        let process = try await BackgroundCommand(
            ["java", source("MwdbServer")] + arguments, program: "/usr/bin/env", until: "listening ")
        let port = process.line.split(separator: " ").last.flatMap { Int($0) }
        return JavaServer(process: process, port: try #require(port))
    }

    private static func source(_ program: String) -> String { Repository.file("Tests/EndToEndTests/Java/\(program).java") }
}

struct JavaServer: Sendable {
    let process: BackgroundCommand
    let port: Int
}

/// Files of this checkout.
enum Repository {
    static func file(_ path: String) -> String {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent(path).path
    }
}
