import Foundation
import MWPKI
import TestCertificates
import Testing

@Suite struct PrivateFileTests {
    private func code(_ body: () throws -> some Any) throws -> PKIError.Code {
        try #require(throws: PKIError.self) { _ = try body() }.code
    }

    private func mode(_ path: String) throws -> Int {
        try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    @Test(arguments: [UInt32(0o600), 0o400, 0o200, 0o640, 0o660, 0o604, 0o644, 0o620, 0o602, 0o610, 0o777])
    func `Only its owner may read or change a secret file`(mode: UInt32) throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("secret", "x", mode: mode)
        let group = UInt32(getegid())
        // Root reads also what is mode 0200.
        let readable = mode & 0o400 != 0 || geteuid() == 0
        func expect(_ accepted: Bool, _ permissions: PrivateFile.Permissions, line: SourceLocation = #_sourceLocation) throws {
            let result = Result { try PrivateFile.read(path, permissions: permissions) }
            switch result {
            case .success: #expect(accepted && readable, "mode \(String(mode, radix: 8))", sourceLocation: line)
            case .failure(let error as PKIError):
                let expected: PKIError.Code = readable ? .filePermissions : .fileUnreadable
                #expect(!(accepted && readable) && error.code == expected, "\(error)", sourceLocation: line)
            case .failure(let error): Issue.record(error)
            }
        }
        try expect(mode & 0o077 == 0, .ownerOnly)
        try expect(mode & 0o037 == 0, .ownerAndGroup(group))
        try expect(mode & 0o077 == 0, .ownerAndGroup(group &+ 1))
        try expect(mode & 0o022 == 0, .anyoneMayRead)
        try expect(true, .any)
    }

    @Test func `A permission error names the file, the mode and the fix`() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("server.key", "x", mode: 0o644)
        let error = try #require(throws: PKIError.self) { try PrivateFile.read(path) }
        #expect(
            error.description
                == "pki.filePermissions: \(path): others may read or change this secret file, expected mode 0600 or 0400, found mode 0644; "
                + "run: chmod 600 \(path)")
    }

    @Test func `A missing file, a directory, a pipe and a large file are errors`() throws {
        let directory = try TemporaryDirectory()
        #expect(try code { try PrivateFile.read(directory.file("none")) } == .fileUnreadable)
        #expect(try code { try PrivateFile.read(directory.path) } == .fileUnreadable)
        let made = unsafe mkfifo(directory.file("pipe"), 0o600)
        #expect(made == 0)
        #expect(try code { try PrivateFile.read(directory.file("pipe")) } == .fileUnreadable)
        let path = try directory.write("ten", "0123456789")
        #expect(try PrivateFile.read(path, maximumBytes: 10).bytes == Array("0123456789".utf8))
        #expect(try code { try PrivateFile.read(path, maximumBytes: 9) } == .fileUnreadable)
    }

    @Test func `A file is written whole, with its mode, and leaves nothing beside it`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("key")
        let large = (0..<300_000).map { UInt8(truncatingIfNeeded: $0) }
        try PrivateFile.write(large, to: path)
        #expect(try mode(path) == 0o600)
        #expect(try PrivateFile.read(path).bytes == large)
        try PrivateFile.write(SecretBytes([1, 2]), to: path, mode: 0o640)
        #expect(try mode(path) == 0o640)
        #expect(try PrivateFile.read(path, permissions: .any).bytes == [1, 2])
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["key"])
    }

    @Test func `A failed write leaves the old file and nothing else`() throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("key", "old")
        #expect(try code { try PrivateFile.write([1], to: path, replacing: false) } == .fileUnwritable)
        #expect(try code { try PrivateFile.write([1], to: directory.file("none/key")) } == .fileUnwritable)
        try FileManager.default.createDirectory(atPath: directory.file("folder"), withIntermediateDirectories: false)
        #expect(try code { try PrivateFile.write([1], to: directory.file("folder")) } == .fileUnwritable)
        #expect(try PrivateFile.read(path).bytes == Array("old".utf8))
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).sorted() == ["folder", "key"])
        try PrivateFile.write([1], to: directory.file("new"), replacing: false)
        #expect(try PrivateFile.read(directory.file("new")).bytes == [1])
    }
}

@Suite struct PassphraseTests {
    private func text(_ passphrase: Passphrase) -> String { String(decoding: passphrase.secret.bytes, as: UTF8.self) }

    private func code(_ body: () throws -> some Any) throws -> PKIError.Code {
        try #require(throws: PKIError.self) { _ = try body() }.code
    }

    @Test(arguments: ["secret", "secret\n", "secret\r\n", " sec ret ", "päss\n", String(repeating: "x", count: 1024) + "\n"])
    func `The line end is not part of a passphrase, blanks are`(contents: String) throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write("passphrase", contents)
        let expected = String(contents.unicodeScalars.prefix { $0 != "\n" && $0 != "\r" })
        #expect(text(try Passphrase.file(path)) == expected)
        let descriptor = unsafe open(path, O_RDONLY)
        defer { close(descriptor) }
        #expect(text(try Passphrase.descriptor(descriptor)) == expected)
    }

    @Test func `An empty, long or torn passphrase is refused`() throws {
        let directory = try TemporaryDirectory()
        let cases: [(String, PKIError.Code)] = [
            ("", .passphraseMissing), ("\n", .passphraseMissing), ("a\nb", .passphraseMalformed), ("a\n\n", .passphraseMalformed),
            ("a\0b", .passphraseMalformed), (String(repeating: "x", count: 1025), .passphraseMalformed),
            (String(repeating: "x", count: 5000), .fileUnreadable),
        ]
        for (contents, expected) in cases {
            let path = try directory.write("passphrase", contents)
            #expect(try code { try Passphrase.file(path) } == expected, "\(contents.prefix(10))")
        }
        #expect(try code { try Passphrase.descriptor(-1) } == .fileUnreadable)
    }

    @Test func `A passphrase file that others may read is refused`() throws {
        let directory = try TemporaryDirectory()
        for mode in [UInt32(0o644), 0o640, 0o604] {
            let path = try directory.write("passphrase", "secret", mode: mode)
            #expect(try code { try Passphrase.file(path) } == .filePermissions)
        }
        #expect(text(try Passphrase.file(try directory.write("passphrase", "secret", mode: 0o400))) == "secret")
    }

    @Test func `The environment gives what is set in it`() throws {
        // PATH and HOME are set before the test starts; changing the environment would race with other tests.
        let path = try #require(ProcessInfo.processInfo.environment["PATH"])
        #expect(text(try Passphrase.environment("PATH")) == path)
        #expect(try code { try Passphrase.environment("MWSTORAGE_TEST_NOT_SET") } == .passphraseMissing)
    }
}

@Suite struct TLSMaterialSourceTests {
    private func code(_ source: TLSMaterialSource) throws -> PKIError.Code {
        try #require(throws: PKIError.self) { _ = try source.load() }.code
    }

    @Test func `What is written is loaded, each time anew`() throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let list = try authority.revocationList()
        let material = TLSMaterial(
            identity: try authority.intermediate().issueServer(), trustStore: try authority.trustStore(revocationLists: [list]))
        let source = try material.writePEM(to: directory, prefix: "server")
        let loaded = try source.load()
        #expect(loaded.identity.chain == material.identity.chain)
        #expect(loaded.trustStore.anchors.map(\.certificate) == [authority.root])
        #expect(loaded.trustStore.revocationLists == [list])
        let next = TLSMaterial(identity: try authority.issueServer(), trustStore: material.trustStore)
        _ = try next.writePEM(to: directory, prefix: "server")
        #expect(try source.load().identity.leaf == next.identity.leaf)
    }

    @Test func `One file may hold the chain and the encrypted key`() throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let server = try authority.issueServer()
        let key = try server.key.pem(passphrase: Passphrase("secret")).bytes
        let file = try directory.write("server.pem", key + Array(server.leaf.pem.utf8))
        let trust = try directory.write("trust.pem", authority.root.pem, mode: 0o644)
        let passphrase = try directory.write("passphrase", "secret\n")
        let source = TLSMaterialSource.pem(certificateChainFile: file, privateKeyFile: file, trustFile: trust, passphraseFile: passphrase)
        #expect(try source.load().identity.leaf == server.leaf)
        #expect(try code(.pem(certificateChainFile: file, privateKeyFile: file, trustFile: trust)) == .passphraseMissing)
    }

    @Test(arguments: ["x.trust.pem", "x.crl.pem"])
    func `A file that decides who gets in is refused while others may change it`(name: String) throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let list = try authority.revocationList()
        let material = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore(revocationLists: [list]))
        let source = try material.writePEM(to: directory, prefix: "x")
        for mode in [0o644, 0o400] as [mode_t] {
            #expect(unsafe chmod(directory.file(name), mode) == 0)
            _ = try source.load()
        }
        for mode in [0o664, 0o646, 0o666] as [mode_t] {
            #expect(unsafe chmod(directory.file(name), mode) == 0)
            let error = try #require(throws: PKIError.self) { _ = try source.load() }
            #expect(error.code == .filePermissions && error.remedy == "run: chmod go-w \(directory.file(name))")
        }
    }

    // tls.md, cases 36, 37 and 39.
    @Test func `Every bad file has its error`() throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let material = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore())
        let source = try material.writePEM(to: directory, prefix: "x")
        _ = try source.load()
        try directory.write("x.key.pem", material.identity.key.pem().bytes, mode: 0o644)
        #expect(try code(source) == .filePermissions)
        try directory.write("x.key.pem", PrivateKey.generate().pem().bytes)
        #expect(try code(source) == .keyMismatch)
        try directory.write("x.key.pem", "nothing")
        #expect(try code(source) == .keyMissing)
        try directory.write("x.key.pem", material.identity.key.pem().bytes)
        try directory.write("x.trust.pem", "")
        #expect(try code(source) == .trustStoreEmpty)
        try directory.write("x.trust.pem", "-----BEGIN CERTIFICATE-----\n")
        #expect(try code(source) == .pemMalformed)
        try FileManager.default.removeItem(atPath: directory.file("x.trust.pem"))
        #expect(try code(source) == .fileUnreadable)
    }

    @Test func `A key that a group may read is accepted only for that group`() throws {
        let directory = try TemporaryDirectory()
        let authority = try TestAuthority()
        let server = try authority.issueServer()
        let chain = try directory.write("chain.pem", server.leaf.pem)
        let key = try directory.write("key.pem", server.key.pem().bytes, mode: 0o640)
        let trust = try directory.write("trust.pem", authority.root.pem)
        func source(_ group: UInt32?) -> TLSMaterialSource {
            .pem(certificateChainFile: chain, privateKeyFile: key, trustFile: trust, privateKeyGroup: group)
        }
        #expect(try source(getegid()).load().identity.leaf == server.leaf)
        #expect(try code(source(nil)) == .filePermissions)
        #expect(try code(source(getegid() &+ 1)) == .filePermissions)
    }
}
