import Exposition
import Foundation
import MWPKI
import MWProtocol
import TestCertificates
import Testing

@testable import mwstorage

/// A datagram socket that hears what a service tells its manager.
private final class NotifySocket: Sendable {
    private let descriptor: Int32

    /// - Parameter path: In the file system, or after `@` in the abstract namespace.
    init(_ path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(path.utf8)
        if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let bound = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(2 + bytes.count))
            }
        }
        try #require(bound == 0, "errno \(errno)")
        // A test that hears nothing must end.
        var patience = timeval(tv_sec: 60, tv_usec: 0)
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// The next datagram, as its assignments; empty if none came.
    func next() async -> [String: String] {
        let descriptor = descriptor
        let text = await withCheckedContinuation { (continuation: CheckedContinuation<String, Never>) in
            Thread.detachNewThread {
                var buffer = [UInt8](repeating: 0, count: 4096)
                let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
                continuation.resume(returning: String(decoding: buffer.prefix(max(0, count)), as: UTF8.self))
            }
        }
        let pairs = text.split(separator: "\n").map { $0.split(separator: "=", maxSplits: 1).map(String.init) }
        return Dictionary(pairs.filter { $0.count == 2 }.map { ($0[0], $0[1]) }) { $1 }
    }

    /// The next datagram that assigns `name`.
    func next(_ name: String) async -> [String: String] {
        while true {
            let assignments = await next()
            if assignments[name] != nil || assignments.isEmpty { return assignments }
        }
    }
}

@Suite("A server that a service manager runs")
struct ServiceManagerTests {
    @Test("it says when it is ready, reloads, lives and drains")
    func notification() async throws {
        let directory = try TestStore.make()
        let socket = try NotifySocket(directory.file("notify"))
        let server = try await ServerProcess(
            directory: directory, environment: ["NOTIFY_SOCKET": directory.file("notify"), "WATCHDOG_USEC": "200000"])
        let ready = await socket.next("READY")
        #expect(ready["READY"] == "1")
        #expect(ready["STATUS"]?.contains("127.0.0.1") == true)
        #expect(await socket.next("WATCHDOG")["WATCHDOG"] == "1")
        server.send(SIGHUP)
        let reloading = await socket.next("RELOADING")
        #expect(reloading["RELOADING"] == "1")
        // Of the clock that the manager has started itself.
        #expect((reloading["MONOTONIC_USEC"].flatMap { Int($0) } ?? 0) > 0)
        #expect(await socket.next("READY")["STATUS"] == "serving")
        async let status = server.terminate()
        #expect(await socket.next("STOPPING")["STOPPING"] == "1")
        #expect(await status == 0)
    }

    @Test("it ends though its manager reads nothing, and though it asks itself all the time whether it lives")
    func deafManager() async throws {
        let directory = try TestStore.make()
        let socket = try NotifySocket(directory.file("notify"))
        let server = try await ServerProcess(
            directory: directory, environment: ["NOTIFY_SOCKET": directory.file("notify"), "WATCHDOG_USEC": "1000"])
        // It fills what the system keeps for a reader.
        _ = await socket.next("WATCHDOG")
        #expect(await server.terminate() == 0)
    }

    @Test("an address in the abstract namespace is spoken to; one that is nothing is not minded")
    func addresses() async throws {
        let name = "@mwstorage-test-\(UUID().uuidString)"
        let socket = try NotifySocket(name)
        func manager(_ path: String?) -> ServiceManager {
            ServiceManager(socketPath: path, watchdogMicroseconds: nil, watchdogProcess: nil, process: 1)
        }
        manager(name).ready("two\nlines")
        #expect(await socket.next() == ["READY": "1", "STATUS": "two lines"])
        for path in [nil, "", "@", "relative", "/nowhere/at/all", "/" + String(repeating: "x", count: 500)] { manager(path).ready("x") }
    }

    @Test("a watchdog is for the process it names")
    func watchdog() {
        func interval(_ microseconds: String?, _ process: String?) -> Duration? {
            ServiceManager(socketPath: nil, watchdogMicroseconds: microseconds, watchdogProcess: process, process: 7).watchdogInterval
        }
        #expect(interval("3000000", nil) == .seconds(3))
        #expect(interval("3000000", "7") == .seconds(3))
        #expect(interval("3000000", "8") == nil)
        for bad in [nil, "", "0", "-5", "many"] { #expect(interval(bad, nil) == nil) }
    }

    /// A shell that hands its standard input over as descriptor 3, as a service manager does.
    private static let activate = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=test; exec \"$0\" \"$@\" 3<&0 0</dev/null"

    @Test("a socket that is inherited is served, and no other is opened")
    func socketActivation() async throws {
        let directory = try TestStore.make()
        let listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let prepared = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(listening, $0, length) == 0 && listen(listening, 16) == 0 && getsockname(listening, $0, &length) == 0
            }
        }
        try #require(prepared)
        let port = UInt16(bigEndian: address.sin_port)
        let identity = TestStore.identity(directory, "server") + ["--trust", directory.file("server.trust.pem")]
        let command = try await BackgroundCommand(
            ["-c", Self.activate, CommandProcess.path, "serve", "--data", directory.file("data")] + identity, program: "/bin/sh",
            until: "listening on wss://127.0.0.1:\(port)", environment: CommandProcess.environment(home: directory),
            standardInput: FileHandle(fileDescriptor: listening, closeOnDealloc: true))
        let connection =
            ["--endpoint", "wss://127.0.0.1:\(port)", "--trust", directory.file("client.trust.pem")] + TestStore.identity(directory)
        #expect(try await CommandProcess.run(["put", "key", "value"] + connection).status == 0)
        #expect(try await CommandProcess.run(["get", "key"] + connection).text == "value")
        #expect(await command.terminate() == 0)
    }

    @Test("what is inherited and no listening socket is an error that says so")
    func notASocket() async throws {
        let directory = try TestStore.make()
        let identity = TestStore.identity(directory, "server") + ["--trust", directory.file("server.trust.pem")]
        let ended = try await CommandProcess.run(
            ["-c", Self.activate, CommandProcess.path, "serve", "--data", directory.file("data")] + identity, program: "/bin/sh")
        #expect(ended.status != 0 && ended.output.isEmpty)
        #expect(ended.errors.contains("not a listening stream socket"), "\(ended.errors)")
        #expect(throws: CommandFailure.self) { _ = try InheritedSockets(process: "1", count: "many", own: 1) }
        #expect(throws: CommandFailure.self) { _ = try InheritedSockets(process: "1", count: "-1", own: 1) }
        #expect(try InheritedSockets(process: "2", count: "1", own: 1).listeners.isEmpty, "they are for another process")
    }
}

@Suite("A server as a process")
struct ServerProcessTests {
    private func curl(_ server: ServerProcess, _ path: String) async throws -> String {
        let line = try #require(server.log.split(separator: "\n").first { $0.contains("monitoring listens") })
        let address = try #require(line.split(separator: " ").first { $0.hasPrefix("addresses=") }?.dropFirst("addresses=".count))
        return try await CommandProcess.run(["-sS", "-i", "http://\(address)\(path)"], program: "/usr/bin/curl").text
    }

    @Test("its metrics are Prometheus', counted where things happen; it is alive and ready")
    func metrics() async throws {
        let server = try await ServerProcess(["--metrics-listen", "127.0.0.1:0", "--audit-log", "-"])
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        #expect(try await curl(server, "/livez").hasPrefix("HTTP/1.1 200 "))
        #expect(try await curl(server, "/readyz").hasPrefix("HTTP/1.1 200 "))
        // Counters come from the event loops about twice a second.
        var exposition = try Exposition("# HELP x_total x\n# TYPE x_total counter\nx_total 0\n")
        for _ in 0..<200 where exposition["mwstorage_requests_total", ["type": "put"]] != 1 {
            let answer = try await curl(server, "/metrics")
            let body = try #require(answer.components(separatedBy: "\r\n\r\n").last)
            exposition = try Exposition(body)
        }
        #expect(exposition["mwstorage_requests_total", ["type": "put"]] == 1)
        #expect(exposition["mwstorage_handshakes_total", ["outcome": "completed"]] == 1)
        #expect(exposition["mwstorage_connections_opened_total"] == 1)
        #expect(exposition["mwstorage_client_certificate_remaining_seconds_count"] == 1)
        let notAfter = try #require(exposition["mwstorage_server_certificate_not_after_timestamp_seconds"])
        #expect(notAfter > Date().timeIntervalSince1970)
        #expect(exposition.values.keys.contains { $0.name == "mwstorage_trust_anchor_not_after_timestamp_seconds" })
        let build = try #require(exposition.values.keys.first { $0.name == "mwstorage_build_info" })
        #expect(build.labels["version"] == softwareVersion && build.labels["openssl"]?.hasPrefix("OpenSSL 3") == true)
        #expect((exposition["process_resident_memory_bytes"] ?? 0) > 1_048_576)
        #expect(exposition["mwstorage_accepting_paused"] == 0 && exposition["mwstorage_reload_failed"] == 0)
        let loaded = try #require(exposition["mwstorage_reload_last_success_timestamp_seconds"])
        // What is on disk cannot be loaded any more, and that shows.
        try server.directory.write("server.trust.pem", "nothing", mode: 0o644)
        #expect(try await server.run(["reload"]).status == 78)
        let answer = try await curl(server, "/metrics")
        exposition = try Exposition(try #require(answer.components(separatedBy: "\r\n\r\n").last))
        #expect(exposition["mwstorage_reload_failed"] == 1)
        #expect((exposition["mwstorage_reload_last_failure_timestamp_seconds"] ?? 0) >= loaded)
        for (name, help) in exposition.help { #expect(help != name, "\(name) has no HELP") }
        #expect(await server.terminate() == 0)
    }

    @Test("it dumps no core, gains no rights, and leaves files for their owner only")
    func hardening() async throws {
        let server = try await ServerProcess(["--log-level", "info"])
        let proc = "/proc/\(server.processIdentifier)"
        let limits = try String(contentsOfFile: proc + "/limits", encoding: .utf8).split(separator: "\n")
        let core = try #require(limits.first { $0.hasPrefix("Max core file size") })
        #expect(core.split(separator: " ").filter { $0 == "0" }.count == 2, "\(core)")
        let status = try String(contentsOfFile: proc + "/status", encoding: .utf8)
        #expect(status.contains("NoNewPrivs:\t1"))
        #expect(status.contains("Umask:\t0077"))
        let files = try #require(FileManager.default.enumerator(atPath: server.directory.file("data")))
        var count = 0
        for case let name as String in files {
            let path = server.directory.file("data") + "/" + name
            let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
            #expect(mode.map { $0 & 0o077 == 0 } == true, "\(name)")
            count += 1
        }
        #expect(count > 3)
        #expect(await server.terminate() == 0)
    }

    @Test("a data directory that others may enter is refused; an empty one becomes private")
    func dataDirectory() async throws {
        let directory = try TestStore.make()
        let data = directory.file("data")
        #expect(unsafe mkdir(data, 0o755) == 0 && chmod(data, 0o755) == 0)
        let server = try await ServerProcess(directory: directory)
        #expect(try FileManager.default.attributesOfItem(atPath: data)[.posixPermissions] as? Int == 0o700)
        #expect(await server.terminate() == 0)
        #expect(unsafe chmod(data, 0o755) == 0)
        let refused = try await CommandProcess.run(
            ["serve", "--listen", "127.0.0.1:0", "--data", data, "--trust", directory.file("server.trust.pem")]
                + TestStore.identity(directory, "server"))
        #expect(refused.status == 73)
        #expect(refused.errors.contains("chmod 700"), "\(refused.errors)")
    }

    @Test("a key of mode 0640 is refused, unless its group was named")
    func keyGroup() async throws {
        let directory = try TestStore.make()
        let key = directory.file("server.key.pem")
        #expect(unsafe chmod(key, 0o640) == 0)
        let arguments =
            [
                "serve", "--check", "--listen", "127.0.0.1:0", "--data", directory.file("data"), "--trust",
                directory.file("server.trust.pem"),
            ]
            + TestStore.identity(directory, "server")
        let refused = try await CommandProcess.run(arguments)
        #expect(refused.status == 78 && refused.errors.contains("chmod 600"))
        var status = stat()
        #expect(unsafe stat(key, &status) == 0)
        let group = try #require(unsafe getgrgid(status.st_gid).map { unsafe String(cString: $0.pointee.gr_name) })
        #expect(try await CommandProcess.run(arguments + ["--key-group", group]).status == 0)
        let unknown = try await CommandProcess.run(arguments + ["--key-group", "no-such-group"])
        #expect(unknown.status == 78 && unknown.errors.contains("no-such-group"))
        #expect(unsafe chmod(key, 0o644) == 0)
        #expect(try await CommandProcess.run(arguments + ["--key-group", group]).status == 78)
    }

    @Test("trust that others may change is refused, as a server's and as a client's")
    func openTrust() async throws {
        let directory = try TestStore.make()
        for side in ["server", "client"] { #expect(unsafe chmod(directory.file("\(side).trust.pem"), 0o666) == 0) }
        let server = ["serve", "--check", "--listen", "127.0.0.1:0", "--data", directory.file("data")]
        let client = ["get", "key", "--endpoint", "wss://127.0.0.1:1"]
        for (side, arguments) in [("server", server), ("client", client)] {
            let trust = directory.file("\(side).trust.pem")
            let refused = try await CommandProcess.run(arguments + ["--trust", trust] + TestStore.identity(directory, side))
            #expect(refused.status == 78 && refused.errors.contains("chmod go-w \(trust)"), "\(refused.status): \(refused.errors)")
        }
    }

    /// Every readable, private page of a process; nil where this user may not look.
    private func memory(of process: Int32) -> [Data]? {
        guard let maps = try? String(contentsOfFile: "/proc/\(process)/maps", encoding: .utf8),
            let file = FileHandle(forReadingAtPath: "/proc/\(process)/mem")
        else { return nil }
        return maps.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard fields.count > 1, fields[1].hasPrefix("rw"), !line.contains("[v") else { return nil }
            let range = fields[0].split(separator: "-").compactMap { UInt64($0, radix: 16) }
            guard range.count == 2 else { return nil }
            try? file.seek(toOffset: range[0])
            return try? file.read(upToCount: Int(range[1] - range[0]))
        }
    }

    private func holds(_ memory: [Data], _ needle: Data) -> Bool {
        memory.contains { region in
            unsafe region.withUnsafeBytes { region in
                unsafe needle.withUnsafeBytes { needle in
                    guard var place = region.baseAddress, let wanted = needle.baseAddress else { return false }
                    let last = unsafe place + (region.count - needle.count)
                    while unsafe place <= last, let found = unsafe memchr(place, Int32(needle[0]), last - place + 1) {
                        if unsafe memcmp(found, wanted, needle.count) == 0 { return true }
                        unsafe place = UnsafeRawPointer(found) + 1
                    }
                    return false
                }
            }
        }
    }

    // Reads the server's memory while it serves: what it needs of its key is in OpenSSL's form; the file's text and DER must be gone.
    @Test("the text of its private key is not in its memory, once it is read")
    func zeroised() async throws {
        let server = try await ServerProcess()
        #expect(try await server.run(["put", "key", "value"]).status == 0)
        guard let memory = memory(of: server.processIdentifier), !memory.isEmpty else {
            print("NOT TESTED: what is left of keys in memory; reading that of an undumpable process needs root")
            #expect(await server.terminate() == 0)
            return
        }
        let pem = try String(contentsOfFile: server.directory.file("server.key.pem"), encoding: .utf8)
        let lines = pem.split(separator: "\n").filter { !$0.hasPrefix("-----") }
        let der = try #require(Data(base64Encoded: lines.joined()))
        // Somewhere in the middle: the secret half, without what all keys have in common.
        let secrets = [Data(lines[0].utf8.dropFirst(48).prefix(16)), der.dropFirst(38).prefix(16)]
        #expect(holds(memory, Data(server.directory.file("data").utf8)), "it is its memory that is read")
        for secret in secrets {
            #expect(!holds(memory, secret), "\(secret.count) bytes of the key file are in memory")
        }
        #expect(await server.terminate() == 0)
    }

    @Test("no secret is in any log at any level, nor in its environment")
    func secrets() async throws {
        let directory = try TestStore.make()
        let passphrase = "correct-horse-battery-staple"
        let plain = try String(contentsOfFile: directory.file("server.key.pem"), encoding: .utf8)
        let encrypted = try await CommandProcess.run(
            ["pkcs8", "-topk8", "-in", directory.file("server.key.pem"), "-passout", "pass:\(passphrase)"], program: "/usr/bin/openssl")
        try #require(encrypted.status == 0)
        try FileManager.default.removeItem(atPath: directory.file("server.key.pem"))
        try directory.write("server.key.pem", encrypted.output)
        let audit = directory.file("audit")
        let server = try await ServerProcess(
            [
                "--log-level", "trace", "--passphrase-env", "SERVER_PASSPHRASE", "--audit-log", audit, "--metrics-listen", "127.0.0.1:0",
            ], directory: directory, environment: ["SERVER_PASSPHRASE": passphrase])
        let environment = try Data(contentsOf: URL(fileURLWithPath: "/proc/\(server.processIdentifier)/environ"))
        #expect(!String(decoding: environment, as: UTF8.self).contains(passphrase))
        let value = "a-value-that-nobody-may-see"
        #expect(try await server.run(["put", "key", value]).status == 0)
        #expect(try await server.run(["get", "key"]).text == value)
        #expect(try await server.run(["put", "too#much", value, "--protocol", "mwdb"]).status != 0)
        _ = try await CommandProcess.run(
            ["get", "key", "--endpoint", server.endpoint, "--trust", directory.file("client.trust.pem")]
                + TestStore.identity(directory, "stranger"))
        // A reload that works, one with a key that is not the certificate's, and one with a passphrase that is wrong.
        server.send(SIGHUP)
        let strangerKey = try String(contentsOfFile: directory.file("stranger.key.pem"), encoding: .utf8)
        try FileManager.default.removeItem(atPath: directory.file("server.key.pem"))
        try directory.write("server.key.pem", strangerKey)
        server.send(SIGHUP)
        let metrics = try await curl(server, "/metrics")
        #expect(await server.terminate() == 0)
        let everything = try server.log + String(contentsOfFile: audit, encoding: .utf8) + metrics
        #expect(everything.contains("connection.admitted") && everything.contains("handshake.refused"))
        var secrets = [passphrase, value]
        for pem in [plain, strangerKey, String(decoding: encrypted.output, as: UTF8.self)] {
            secrets += pem.split(separator: "\n").filter { !$0.hasPrefix("-----") && $0.count > 20 }.map(String.init)
        }
        #expect(secrets.count > 5)
        for secret in secrets { #expect(!everything.contains(secret), "\(secret.prefix(8))…") }
    }
}
