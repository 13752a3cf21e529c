import Foundation
import MWPKI
import MWStorage
import Synchronization
import TestCertificates
import Testing

@testable import MWServer
@testable import MWTLS

/// A sink that fails while it is told to.
private final class FaultySink: AuditSink {
    struct State {
        var lines: [String] = []
        var isFull = false
    }

    let state = Mutex(State())

    var lines: [String] { self.state.withLock { $0.lines } }

    func fill(_ isFull: Bool) { self.state.withLock { $0.isFull = isFull } }

    func write(_ line: [UInt8]) throws(ServerError) {
        let isFull = self.state.withLock { state in
            if !state.isFull { state.lines.append(String(decoding: line, as: UTF8.self)) }
            return state.isFull
        }
        if isFull { throw ServerError(.auditUnavailable, "audit log", "the disk is full") }
    }

    func reopen() throws(ServerError) {}

    func close() {}
}

extension AuditLog {
    /// Returns when everything recorded so far has been tried.
    fileprivate func settle() async { await self.reopen() }
}

private func object(_ line: String) throws -> [String: Any] {
    try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any], "\(line)")
}

private func session(_ name: String = "alice", address: String = "192.0.2.1:4711") throws -> SessionInfo {
    SessionInfo(connectionID: 7, principal: try VerifiedPeers.principal(name), address: address, subprotocol: nil, tls: "TLSv1.3")
}

private func refusal(_ host: String = "192.0.2.9", check: String = "unknownCA", reason: String = "no issuer") -> Rejection {
    Rejection(
        .handshake, address: "\(host):5000", check: check, reason: reason, expected: "e", found: "f", remedy: "r", told: "unknown_ca (48)")
}

@Suite struct AuditRecordTests {
    // Everything that a peer could put into a line, with a JSON parser that is not ours.
    @Test(arguments: ["plain", "\"},{\"event\":\"forged\"", "new\nline", "nul\u{0}", "\u{2028}\u{202E}\u{85}\u{7F}", "back\\slash", "🦆"])
    func `Text of a peer stays in its string, on one line`(text: String) throws {
        let time = AuditTime(time: Timestamp(secondsSince1970: 1_000_000_000), milliseconds: 7, uptime: 0)
        let event = AuditEvent.handshakeRefused(refusal(reason: text))
        let line = String(decoding: AuditRecord(time: time, sequence: 3, event: event).line, as: UTF8.self)
        #expect(line.hasSuffix("}\n") && line.filter(\.isNewline).count == 1)
        #expect(!line.unicodeScalars.dropLast().contains { $0.value < 0x20 || $0.properties.generalCategory == .format })
        let object = try object(line)
        #expect(object["reason"] as? String == text)
        #expect(object["event"] as? String == "handshake.refused")
        #expect(object["time"] as? String == "2001-09-09T01:46:40.007Z")
        #expect(object["sequence"] as? Int == 3)
    }

    // Every text far too long, of characters that grow most when they are escaped.
    @Test func `No line is longer than what a pipe takes at once`() throws {
        let long = String(repeating: "\u{202E}\"", count: 5_000)
        let certificate = AuditedCertificate(
            TLSError.CertificateSummary(
                subject: long, issuer: long, fingerprint: try #require(CertificateFingerprint(bytes: Array(repeating: 1, count: 32))),
                serialNumber: long, names: Array(repeating: long, count: 100), notBefore: .now(), notAfter: .now(), depth: 0))
        let rejection = Rejection(
            .opening, address: long, principal: long, certificate: certificate, check: long, reason: long, expected: long, found: long,
            remedy: long, told: long)
        let denied = DeniedRequest(operation: long, right: long, key: Array(repeating: UInt8(ascii: "\\"), count: 9_999))
        let events: [AuditEvent] = [
            .openingRefused(rejection), .requestDenied(try session(), denied),
            .reloadFailed(AuditedReload(trigger: long, certificate: certificate, failure: long)),
            .administration(try session(), AuditedAction(operation: long, subject: long, failure: long)),
        ]
        for event in events {
            let line = AuditRecord(time: .now(), sequence: .max, event: event, suppressed: .max).line
            #expect(line.count <= 4_096, "\(event.name): \(line.count)")
            _ = try object(String(decoding: line, as: UTF8.self))
        }
    }

    @Test func `A denied key is there, cut, and as hex where it is no text; a value never is`() throws {
        func line(_ key: [UInt8]) throws -> [String: Any] {
            let event = AuditEvent.requestDenied(try session(), DeniedRequest(operation: "put", right: "write", key: key))
            return try object(String(decoding: AuditRecord(time: .now(), sequence: 1, event: event).line, as: UTF8.self))
        }
        let text = try line(Array("orders/1".utf8))
        #expect(text["key"] as? String == "orders/1" && text["key_encoding"] as? String == "utf8" && text["key_is_cut"] == nil)
        #expect(text["principal"] as? String == "alice" && text["right"] as? String == "write" && text["operation"] as? String == "put")
        let bytes = try line([0xFF, 0x00])
        #expect(bytes["key"] as? String == "ff00" && bytes["key_encoding"] as? String == "hex")
        let long = try line(Array(repeating: 0x61, count: 1_000))
        #expect((long["key"] as? String)?.count == 256 && long["key_is_cut"] as? Bool == true)
    }
}

@Suite struct AuditLogTests {
    // A sink that is full for a while.
    @Test func `Lines wait while the sink fails, are dropped when too many wait, and both are loud`() async throws {
        let sink = FaultySink()
        let log = LogRecorder()
        var limits = AuditLog.Limits()
        limits.maximumQueuedEvents = 3
        let audit = AuditLog(sink: sink, limits: limits, logger: log.logger)
        audit.record(.serverStarted(addresses: ["a"]))
        await audit.settle()
        sink.fill(true)
        for _ in 0..<5 { audit.record(.serverStarted(addresses: ["b"])) }
        await audit.settle()
        #expect(sink.lines.count == 1)
        #expect(log.lines("the audit log cannot be written").count == 1, "once, not for each line")
        #expect(audit.allowsAdministration, "it is not required")
        sink.fill(false)
        audit.record(.serverStopped)
        await audit.settle()
        audit.record(.serverStopped)
        await audit.settle()
        let sequences = try sink.lines.map { try #require(try object($0)["sequence"] as? Int) }
        #expect(sequences == sequences.sorted() && sequences.count < 8, "what is lost is a gap: \(sequences)")
        #expect(sequences.contains(2), "the first that waited was kept")
        #expect(log.lines("the audit log is written again").count == 1)
        await audit.close()
    }

    @Test func `Where it is required, who waits for a line is told the truth`() async throws {
        let sink = FaultySink()
        let audit = AuditLog(sink: sink, isRequired: true, logger: LogRecorder().logger)
        let info = try session()
        func admit() async -> Bool {
            await withCheckedContinuation { continuation in
                audit.record(.connectionAdmitted(info)) { continuation.resume(returning: $0) }
            }
        }
        #expect(await admit())
        sink.fill(true)
        #expect(await !admit())
        #expect(!audit.allowsAdministration)
        sink.fill(false)
        #expect(await admit())
        #expect(audit.allowsAdministration)
        await audit.close()
        #expect(sink.lines.count == 2, "the refused admission is not written later")
    }

    // A clock that the test moves.
    @Test func `A flood of refusals is counted, and said with the next line`() async throws {
        let sink = FaultySink()
        var limits = AuditLog.Limits()
        limits.refusalsAtOnce = 4
        limits.refusalsPerSecond = 2
        let clock = Mutex(0.0)
        let audit = AuditLog(sink: sink, limits: limits, logger: LogRecorder().logger) {
            AuditTime(time: Timestamp(secondsSince1970: 0), uptime: clock.withLock { $0 })
        }
        for _ in 0..<10 { audit.record(.handshakeRefused(refusal())) }
        audit.record(.serverStopped)
        clock.withLock { $0 = 1 }
        audit.record(.handshakeRefused(refusal()))
        await audit.close()
        let objects = try sink.lines.map { try object($0) }
        #expect(
            objects.map { $0["event"] as? String } == ["handshake.refused", "handshake.refused", "server.stopped", "handshake.refused"])
        #expect(objects.last?["suppressed"] as? Int == 8)
        #expect(audit.rejections.total == 11, "the ring has them all")
    }

    // Far more than the budget from each flooder, then one line of somebody else; a clock that stands still.
    @Test func `A flood from one address, or by one principal, does not hide what another does`() async throws {
        let sink = FaultySink()
        var limits = AuditLog.Limits()
        limits.refusalsAtOnce = 20
        limits.refusalsPerSecond = 2
        let audit = AuditLog(sink: sink, limits: limits, logger: LogRecorder().logger) {
            AuditTime(time: Timestamp(secondsSince1970: 0), uptime: 1)
        }
        func opening(_ address: String) -> AuditEvent {
            .openingRefused(Rejection(.opening, address: address, check: "http.404", reason: "r"))
        }
        let denied = DeniedRequest(operation: "put", right: "write")
        for port in 0..<1_000 {
            audit.record(.handshakeRefused(refusal("192.0.2.1")))
            // One network of IPv6, of which one host has all addresses.
            audit.record(opening("[2001:db8:0:1::\(String(port, radix: 16))]:\(port)"))
            audit.record(.requestDenied(try session("mallory", address: "192.0.2.\(port % 200):1"), denied))
        }
        audit.record(.handshakeRefused(refusal("192.0.2.2", reason: "B")))
        audit.record(opening("[2001:db8:0:2::1]:1"))
        audit.record(.requestDenied(try session("bob", address: "192.0.2.1:1"), denied))
        await audit.close()
        let objects = try sink.lines.map { try object($0) }
        for (event, member, other) in [
            ("handshake.refused", "address", "192.0.2.2:5000"), ("opening.refused", "address", "[2001:db8:0:2::1]:1"),
            ("request.denied", "principal", "bob"),
        ] {
            let lines = objects.filter { $0["event"] as? String == event }
            #expect(lines.count == 11, "half of the budget, and the other: \(event)")
            #expect(lines.last?[member] as? String == other)
            #expect(lines.last?["suppressed"] as? Int == 990)
        }
    }

    @Test func `The ring keeps the newest, and counts who comes again`() throws {
        let ring = RejectionLog(capacity: 4)
        func time(_ seconds: Int64) -> Timestamp { Timestamp(secondsSince1970: seconds) }
        for (second, host) in ["a", "b", "c", "d", "b"].enumerated() { ring.append(refusal(host), at: time(Int64(second))) }
        ring.append(refusal("b", check: "certificateExpired"), at: time(9))
        let latest = ring.latest()
        #expect(latest.map(\.rejection.address) == ["b:5000", "b:5000", "d:5000", "c:5000"])
        #expect(latest.map(\.rejection.check) == ["certificateExpired", "unknownCA", "unknownCA", "unknownCA"])
        #expect(latest.map(\.count) == [1, 2, 1, 1])
        #expect(ring.total == 6)
        #expect(ring.latest(1).count == 1 && ring.latest(0).isEmpty)
    }
}

@Suite struct AuditFileTests {
    @Test func `The file is its owner's only, is appended to, and follows a rotation`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("audit")
        let file = try AuditFile(path: path)
        try file.write(Array("1\n".utf8))
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        try FileManager.default.moveItem(atPath: path, toPath: path + ".1")
        try file.write(Array("2\n".utf8))
        try file.reopen()
        try file.write(Array("3\n".utf8))
        file.close()
        #expect(try String(contentsOfFile: path + ".1", encoding: .utf8) == "1\n2\n")
        let again = try AuditFile(path: path)
        try again.write(Array("4\n".utf8))
        again.close()
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "3\n4\n")
    }

    @Test func `A file that others may write to is refused, and so is what cannot be opened`() throws {
        let directory = try TemporaryDirectory()
        try directory.write("shared", "")
        #expect(unsafe chmod(directory.file("shared"), 0o622) == 0)
        let shared = #expect(throws: ServerError.self) { _ = try AuditFile(path: directory.file("shared")) }
        #expect(shared?.description.contains("chmod go-w") == true)
        #expect(throws: ServerError.self) { _ = try AuditFile(path: directory.file("missing/audit")) }
        #expect(throws: ServerError.self) { _ = try AuditFile(path: directory.path) }
    }

    // /dev/full takes nothing: ENOSPC.
    @Test func `A full disk is an error, not a crash`() throws {
        let full = try AuditFile(path: "/dev/full")
        let error = #expect(throws: ServerError.self) { try full.write(Array("x\n".utf8)) }
        #expect(error?.code == .auditUnavailable)
        #expect(error?.description.contains("no space left") == true)
        full.close()
    }
}

/// The log of a server that runs, over real sockets.
@Suite struct AuditedServerTests {
    @Test func `Who came, was refused and left is in the file, with certificate, address and reason`() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("audit")
        try await RunningServer.with({ $0.audit = .file(path) }) { running in
            let peer = try await running.connect()
            try await peer.sendClose()
            await peer.untilClosed()
            let lost = try await TestPeer.connect(to: running.address, try running.clientContext())
            #expect(try await lost.open(TestPeer.openingRequest(path: "/elsewhere")).hasPrefix("HTTP/1.1 404 "))
            await lost.untilClosed()
            let stranger = try await TestPeer.connect(
                to: running.address, try running.clientContext(try running.authority.issueClient(name: "late") { $0.expire() }))
            await stranger.untilClosed()
            await running.server.stop()
            let objects = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { try object(String($0)) }
            func first(_ event: String) throws -> [String: Any] {
                try #require(objects.first { $0["event"] as? String == event }, "\(event) in \(objects)")
            }
            let admitted = try first("connection.admitted")
            #expect(admitted["principal"] as? String == "alice")
            #expect((admitted["sha256"] as? String)?.count == 64)
            #expect((admitted["address"] as? String)?.hasPrefix("127.0.0.1:") == true)
            for member in ["serial", "subject", "issuer", "not_after", "tls", "protocol"] { #expect(admitted[member] != nil, "\(member)") }
            let ended = try first("connection.ended")
            #expect(ended["connection"] as? Int == admitted["connection"] as? Int)
            #expect(ended["closed_by"] as? String == "client" && ended["reason"] != nil)
            let refused = try first("opening.refused")
            #expect(refused["check"] as? String == "http.404" && refused["principal"] as? String == "alice")
            let handshake = try first("handshake.refused")
            #expect(handshake["check"] as? String == "certificateExpired")
            #expect((handshake["subject"] as? String)?.contains("late") == true)
            #expect((handshake["told"] as? String)?.contains("certificate_expired") == true)
            #expect(handshake["remedy"] != nil && handshake["found"] != nil)
            #expect(try first("server.started")["addresses"] != nil)
            #expect(objects.last?["event"] as? String == "server.stopped")
            #expect(objects.map { $0["sequence"] as? Int } == Array(1...objects.count))
        }
    }

    @Test func `A certificate of ours that a reload brings is in the log once, with what brought it`() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("audit")
        try await RunningServer.with({ $0.audit = .file(path) }) { running in
            let first = try running.source.load()
            let next = TLSMaterial(identity: try running.authority.issueServer(), trustStore: first.trustStore)
            try await running.server.reload(.signal)
            running.source.set { next }
            try await running.server.reload(.renewal)
            try await running.server.reload(.timer)
            await running.server.stop()
            let installed = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { try object(String($0)) }
                .filter { $0["event"] as? String == "certificate.installed" }
            #expect(installed.map { $0["source"] as? String } == ["start", "renewal"])
            #expect(installed.map { $0["sha256"] as? String } == [first, next].map { $0.identity.leaf.sha256.hex })
        }
    }

    // /dev/full takes nothing.
    @Test func `Where the log is required and cannot be written, nobody is admitted`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.audit = .file("/dev/full")
            configuration.audit?.isRequired = true
        }
        try await RunningServer.with(change) { running in
            let peer = try await TestPeer.connect(to: running.address, try running.clientContext())
            #expect(try await peer.open().hasPrefix("HTTP/1.1 503 "))
            await peer.untilClosed()
            #expect(running.server.openConnections == 0)
            #expect(running.server.reasonsNotReady.contains { $0.contains("audit") })
        }
        // Not required: the same disk keeps nobody out.
        try await RunningServer.with({ $0.audit = .file("/dev/full") }) { running in
            let peer = try await running.connect()
            await peer.close()
        }
    }

    // Strangers in a row, against the limit of lines.
    @Test func `Refused handshakes are one line each in the log, up to a limit; the rest is counted`() async throws {
        let change = { (configuration: inout StorageServerConfiguration) in
            configuration.eventLoops = 1
            configuration.limits.refusalLinesAtOnce = 2
            configuration.limits.refusalLinesPerSecond = 1
        }
        try await RunningServer.with(change) { running in
            let late = try running.authority.issueClient(name: "late") { $0.expire() }
            let began = ContinuousClock.now
            for _ in 0..<6 {
                let peer = try await TestPeer.connect(to: running.address, try running.clientContext(late))
                await peer.untilClosed()
            }
            let seconds = began.duration(to: .now).components.seconds
            let rejections = try #require(running.server.audit?.rejections)
            await running.server.stop()
            let lines = running.log.lines("tls handshake refused")
            let line = try #require(lines.first)
            for name in ["address", "check", "reason", "found", "remedy", "told", "fingerprint", "serial", "issuer", "subject"] {
                #expect(line.metadata[name] != nil, "\(name)")
            }
            // Two at once, and one for each second that it took.
            #expect(lines.count <= 2 + Int(seconds))
            #expect(rejections.total == 6)
            #expect(rejections.latest().first?.count == 6)
        }
    }
}
