import Foundation
import MWPKI
import TestCertificates
import Testing

/// `mwstorage policy …`, and a server process with a policy.
@Suite("The access policy on the command line")
struct PolicyCommandTests {
    /// The client of `TestStore` is alice.
    static let policy = """
        version: 1
        principals:
          - name: alice the reader
            match: [{cn: alice}]
            allow:
              - {rights: [read], keys: all}
              - {rights: [write], prefixes: ["world/"]}
          - name: operator
            match: [{dns: ops.example.org}, {alias: ops}]
            allow: [{rights: [read, write, watch, administer], keys: all}]

        """

    @Test("a good policy is shown by rule, as text and as JSON, from a file and from standard input")
    func good() async throws {
        let directory = try TemporaryDirectory()
        try directory.write("policy.yaml", Self.policy, mode: 0o644)
        let text = try await CommandProcess.run(["policy", "check", directory.file("policy.yaml")])
        #expect(text.status == 0 && text.errors.isEmpty, "\(text.errors)")
        #expect(
            text.text == """
                RULE              MATCHES ANY OF                  RIGHTS
                alice the reader  cn alice                        read over all keys; write over keys that begin with 'world/'
                operator          dns ops.example.org, alias ops  read, write, watch, administer over all keys

                """)
        let json = try await CommandProcess.run(["policy", "check", "-", "-o", "json"], input: Array(Self.policy.utf8))
        #expect(json.status == 0)
        #expect(
            json.text
                == #"{"file":"-","good":true,"rules":[{"name":"alice the reader","match":[{"cn":"alice"}],"allow":[{"rights":["read"],"keys":"all"},"#
                + #"{"rights":["write"],"prefixes":["world/"]}]},{"name":"operator","match":[{"dns":"ops.example.org"},{"alias":"ops"}],"#
                + #""allow":[{"rights":["read","write","watch","administer"],"keys":"all"}]}],"warnings":[]}"# + "\n")
    }

    @Test("all that is wrong with a policy is said at once, with exit code 78")
    func faults() async throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write(
            "policy.yaml", "version: 1\nprincipals:\n- name: a\n  match: [{cn: a*}]\n  allow: [{rights: [all], keys: all}]\n")
        let text = try await CommandProcess.run(["policy", "check", path])
        #expect(text.status == 78 && text.output.isEmpty)
        #expect(
            text.errors == """
                \(path):4:16: cn 'a*': a '*' has no meaning here; write the whole name; '*' is for uri and dns
                \(path):5:21: the right 'all' is not known; write one of read, write, watch, administer
                mwstorage: the access policy \(path) cannot be used
                  2 faults, listed above
                  to mend it: correct them, and check it again

                """)
        let json = try await CommandProcess.run(["policy", "check", path, "-o", "json"])
        #expect(json.status == 78)
        #expect(json.text.hasPrefix(#"{"file":""# + path + #"","good":false,"faults":[{"line":4,"column":16,"what":"cn 'a*': a '*' has"#))
        #expect(json.errors.contains(#""code":"policy.invalid","exit":78}"#))

        let missing = try await CommandProcess.run(["policy", "check", directory.file("nothing.yaml")])
        #expect(missing.status == 66)
        let open = try directory.write("open.yaml", Self.policy, mode: 0o666)
        let changeable = try await CommandProcess.run(["policy", "check", open])
        #expect(changeable.status == 78 && changeable.errors.contains("others may change this file"), "\(changeable.errors)")
    }

    @Test("explain says who a certificate is, what it may do with a key, and which rules do not match and why")
    func explain() async throws {
        let directory = try TestStore.make()
        try directory.write("policy.yaml", Self.policy)
        let arguments = [
            "policy", "explain", "--certificate", directory.file("client.chain.pem"), "--policy", directory.file("policy.yaml"),
        ]
        let text = try await CommandProcess.run(arguments + ["--key", "other/k"])
        #expect(text.status == 0 && text.errors.isEmpty, "\(text.errors)")
        let lines = text.text.split(separator: "\n").map(String.init)
        #expect(
            Array(lines.dropFirst()) == [
                "admitted     as alice the reader, by cn alice", "key          other/k", "read         allowed: granted over all keys",
                "write        denied: granted over keys that begin with 'world/' only", "watch        denied: the rule does not grant it",
                "administer   denied: the rule does not grant it", "rule alice the reader", "    cn alice: matches", "rule operator",
                "    dns ops.example.org: does not match: it has no DNS name",
                "    alias ops: does not match: it is not itself in the trust store under a name",
            ], "\(text.text)")
        let json = try await CommandProcess.run(arguments + ["--key", "776f726c642f6b", "--hex", "-o", "json"])
        #expect(
            json.text.contains(
                #""admitted":true,"rule":"alice the reader","matched_by":"cn alice","refusal":null,"key":"world/k","encoding":"utf8""#))
        #expect(json.text.contains(#"{"right":"write","allowed":true,"why":"granted over keys that begin with 'world/'"}"#))

        #expect(try await CommandProcess.run(arguments + ["--key", "world/k", "--right", "write"]).status == 0)
        #expect(try await CommandProcess.run(arguments + ["--key", "other", "--right", "write"]).status == 1)

        // The server's own certificate has names, and no rule.
        let server = try await CommandProcess.run([
            "policy", "explain", "--certificate", directory.file("server.chain.pem"), "--policy", directory.file("policy.yaml"), "--key",
            "k",
        ])
        #expect(server.status == 0)
        #expect(server.text.contains("refused      no rule names this certificate"))
        #expect(server.text.contains("cn alice: does not match: it has subject alternative names, so its common name does not count"))
        let none = try await CommandProcess.run(["policy", "explain", "--certificate", directory.file("client.chain.pem"), "--key", "k"])
        #expect(none.text.contains("there is no policy: whom the trust store accepts has all rights"))
    }

    @Test("explain knows a certificate by the alias that a keystore gives it")
    func explainAlias() async throws {
        let directory = try TemporaryDirectory()
        let out = directory.file("stores")
        #expect(try await CommandProcess.run(["provision", "--layout", "exchange", "--out", out]).status == 0)
        let policy = try directory.write("policy.yaml", Self.policy.replacing("alias: ops", with: "alias: wsTestKeyClt"))
        let explained = try await CommandProcess.run(
            [
                "policy", "explain", "--certificate", "\(out)/client.pem", "--policy", policy, "--trust", "\(out)/server.truststore",
                "--passphrase-env",
                "SECRET",
            ],
            environment: ["SECRET": "WS-Server-Truststore-16"])
        #expect(explained.status == 0, "\(explained.errors)")
        #expect(explained.text.contains("admitted     as operator, by alias wsTestKeyClt"), "\(explained.text)")
        #expect(explained.text.contains("administer   allowed: granted over all keys"))
    }

    @Test("a server with a policy: rights hold, a denied get is exit code 77, a certificate without a rule too, and --check finds faults")
    func server() async throws {
        let directory = try TestStore.make()
        let policy = try directory.write("policy.yaml", Self.policy)
        let server = try await ServerProcess(["--policy", policy], directory: directory)
        #expect(try await server.run(["put", "world/k", "v"]).status == 0)
        #expect(try await server.run(["get", "world/k"]).text == "v")
        let put = try await server.run(["put", "other", "v"])
        #expect(put.status == 77 && put.errors.contains("has not the right write"), "\(put.errors)")
        #expect(server.log.contains("put: permissionDenied"))
        // mwDB's protocol has no words for it.
        let byte = try await server.run(["put", "other", "v", "--protocol", "mwdb"])
        #expect(byte.status == 75 && byte.errors.contains("access policy"), "\(byte.errors)")
        #expect(try await server.run(["get", "other"]).status == 1, "nothing of it was stored")
        #expect(server.log.contains("denied: put without the right write over the key 'other'"))

        // Rights are taken away by a reload.
        try directory.write(
            "policy.yaml", Self.policy.replacing("{rights: [read], keys: all}", with: "{rights: [read], prefixes: [world/]}"))
        server.send(SIGHUP)
        let get = try await repeated(["get", "other"], server) { $0.status == 77 }
        #expect(get.output.isEmpty)
        #expect(get.errors.contains("has not the right read") && get.errors.contains("to mend it:"), "\(get.errors)")
        let closed = try await server.run(["get", "other", "--protocol", "mwdb"])
        #expect(closed.status == 77 && closed.errors.contains("denied: get without the right read"), "\(closed.errors)")

        try directory.write("policy.yaml", Self.policy.replacing("cn: alice", with: "cn: somebody"))
        server.send(SIGHUP)
        let refused = try await repeated(["get", "world/k"], server) { $0.status == 77 }
        #expect(refused.errors.contains("HTTP 403"), "\(refused.errors)")
        #expect(refused.errors.contains("let a rule of its access policy match this certificate"))
        #expect(server.log.contains("policy.noRule"))

        // One that cannot be used changes nothing.
        try directory.write("policy.yaml", "nonsense")
        server.send(SIGHUP)
        _ = try await repeated(["get", "world/k"], server) { $0.status == 77 && server.log.contains("reload failed") }
        let check = try await CommandProcess.run(
            [
                "serve", "--check", "--listen", "127.0.0.1:0", "--data", directory.file("data"), "--policy", policy, "--trust",
                directory.file("server.trust.pem"),
            ]
                + TestStore.identity(directory, "server"))
        #expect(check.status == 78 && check.errors.contains("the access policy \(policy) cannot be used"), "\(check.errors)")
        #expect(await server.terminate() == 0)
    }

    /// tls.md case 26. Our own library reads no such certificate, so OpenSSL's client presents it.
    @Test("a certificate with a NUL in its name is refused in the handshake, on TLS 1.2 and 1.3", arguments: ["-tls1_2", "-tls1_3"])
    func embeddedNUL(version: String) async throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        _ = try pair.server.writePEM(to: directory, prefix: "server")
        try directory.write("ca.pem", authority.certificate.pem)
        try directory.write("ca.key", authority.identity.key.pem().bytes)
        // DNS:alice, NUL, .evil
        try directory.write("names", "subjectAltName=DER:30:0d:82:0b:61:6c:69:63:65:00:2e:65:76:69:6c\nextendedKeyUsage=clientAuth\n")
        let policy = try directory.write("policy.yaml", Self.policy.replacing("ops.example.org", with: "alice"))
        try await openssl([
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=alice", "-keyout",
            directory.file("nul.key"), "-out", directory.file("nul.csr"),
        ])
        try await openssl([
            "x509", "-req", "-in", directory.file("nul.csr"), "-CA", directory.file("ca.pem"), "-CAkey", directory.file("ca.key"),
            "-CAcreateserial", "-days", "2", "-extfile", directory.file("names"), "-out", directory.file("nul.pem"),
        ])
        let server = try await ServerProcess(["--policy", policy], directory: directory)
        let address = String(server.endpoint.dropFirst("wss://".count))
        let request =
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        let client = try await CommandProcess.run(
            [
                "openssl", "s_client", version, "-quiet", "-connect", address, "-cert", directory.file("nul.pem"), "-key",
                directory.file("nul.key"),
            ],
            program: "/usr/bin/env", input: Array(request.utf8))
        #expect(!client.text.contains("HTTP/1.1"), "\(client.text)")
        #expect(client.status != 0)
        // The server has logged it before its alert went out.
        #expect(await server.terminate() == 0)
        #expect(server.log.contains("tls handshake refused") && server.log.contains("NUL"), "\(server.log)")
        #expect(!server.log.contains("connection opened"))
    }

    private func openssl(_ arguments: [String]) async throws {
        let ended = try await CommandProcess.run(["openssl"] + arguments, program: "/usr/bin/env")
        #expect(ended.status == 0, "\(ended.errors)")
    }

    /// Runs a command again and again until a reload shows in it.
    private func repeated(
        _ arguments: [String], _ server: ServerProcess, until isDone: (CommandProcess.Ended) -> Bool
    ) async throws -> CommandProcess.Ended {
        for _ in 0..<200 {
            let ended = try await server.run(arguments)
            if isDone(ended) { return ended }
        }
        throw NotReloaded()
    }

    private struct NotReloaded: Error {}
}
