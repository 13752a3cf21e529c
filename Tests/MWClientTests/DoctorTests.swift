import Logging
import MWClient
import MWPKI
import MWProtocol
import MWTLS
import TestCertificates
import Testing

@Suite(.timeLimit(.minutes(10))) struct DoctorTests {
    typealias Check = DoctorReport.Check

    private func examine(
        _ server: FakeServer, client: Identity? = nil, trusting: TestAuthority? = nil,
        _ change: (inout StorageClientConfiguration) -> Void = { _ in }
    ) async throws -> DoctorReport {
        let configuration = try server.configuration(client: client, trusting: trusting, change)
        return await Doctor(configuration: configuration, sources: ["client.pem"], logger: quiet).examine(configuration.endpoints[0])
    }

    private func examineIdentity(
        _ change: (inout CertificateBuilder) -> Void = { _ in }, now: Timestamp = .now()
    ) throws -> [DoctorReport.Finding] {
        let authority = try TestAuthority()
        let material = TLSMaterial(identity: try authority.issueClient(change), trustStore: try authority.trustStore())
        return IdentityExamination.examine(.success(material), sources: [], now: now)
    }

    // MARK: Our own side, as values

    @Test("a good identity passes every check of ours, in the order of the reference")
    func goodIdentity() throws {
        let findings = try self.examineIdentity()
        #expect(findings.map(\.check) == [.clock, .files, .chain, .dates, .usage, .identity, .algorithms, .revocation])
        #expect(findings.allSatisfy { $0.verdict == .ok && $0.remedy == nil })
    }

    @Test("a clock in 1970 is named as such, before any date is blamed")
    func clock() throws {
        let findings = try self.examineIdentity(now: Timestamp(secondsSince1970: 0))
        let first = findings.first { $0.verdict == .fail }
        #expect(first?.check == .clock && first?.remedy != nil)
    }

    @Test("expired and not yet valid certificates fail, one that ends soon is warned of")
    func dates() throws {
        let now = Timestamp.now()
        #expect(try self.examineIdentity { $0.expire() }.first { $0.check == .dates }?.verdict == .fail)
        #expect(try self.examineIdentity { $0.beginLater() }.first { $0.check == .dates }?.verdict == .fail)
        #expect(try self.examineIdentity { $0.notAfter = now.adding(days: 3) }.first { $0.check == .dates }?.verdict == .warn)
    }

    @Test("a server's certificate is no client's")
    func usage() throws {
        let usage = try self.examineIdentity { $0.setUsages(["serverAuth"]) }.first { $0.check == .usage }
        #expect(usage?.verdict == .fail && usage?.remedy?.contains("clientAuth") == true)
    }

    @Test("a revocation list that has our serial says so")
    func revoked() throws {
        let authority = try TestAuthority()
        let client = try authority.issueClient()
        let list = try authority.revocationList(revoking: [client.leaf])
        let material = TLSMaterial(identity: client, trustStore: try authority.trustStore(revocationLists: [list]))
        let findings = IdentityExamination.examine(.success(material), sources: [], now: .now())
        #expect(findings.first { $0.check == .revocation }?.verdict == .fail)
    }

    @Test(
        "what cannot be loaded fails the check it belongs to; those behind it are skipped",
        arguments: [
            (PKIError.Code.filePermissions, Check.files), (.keyMismatch, .files), (.pemMalformed, .files), (.chainMalformed, .chain),
            (.keyTooWeak, .algorithms), (.keyUnsupported, .algorithms), (.trustStoreEmpty, .revocation),
        ])
    func unloadable(code: PKIError.Code, check: Check) {
        let findings = IdentityExamination.examine(.failure(PKIError(code, subject: "x", "is wrong")), sources: [], now: .now())
        #expect(findings.filter { $0.verdict == .fail }.map(\.check) == [check])
        #expect(findings.count == 8)
    }

    // MARK: With a server

    @Test(
        "where everything is well, every check is ok up to an answered read, be the answer that the key is not ours",
        arguments: [true, false])
    func allWell(isAllowed: Bool) async throws {
        let server = try await FakeServer.start()
        async let report = self.examine(server)
        // The first connection only looks for the 101; the second asks who we are; the third reads.
        _ = await server.connections.next()
        let native = try #require(await server.connections.next())
        let whoami = try #require(await native.frames.next())
        var identity = NativeIdentity()
        identity.principal = "alice"
        native.reply { [identity] in NativeFrame.write(reply: identity, to: .whoami, id: whoami.id, to: &$0) }
        let connection = try #require(await server.connections.next())
        let (id, _) = try await connection.next(NativeGet.self)
        if isAllowed {
            var values = NativeValues()
            values.entries = [entry("", "", 0)]
            connection.answer(NativeGet.self, id, values)
        } else {
            connection.fail(NativeGet.self, id, NativeFailure(.permissionDenied, "not yours"))
        }
        let findings = try await report.findings
        #expect(findings.map(\.check) == Check.allCases)
        #expect(findings.allSatisfy { $0.verdict == .ok }, "\(findings.filter { $0.verdict != .ok })")
        #expect(findings.first { $0.check == .seen }?.evidence.contains { $0.contains("alice") } == true)
        #expect(try await report.firstCause == nil)
        try await server.stop()
    }

    @Test("a server that does not speak the native protocol cannot say whom it sees, and that is no fault")
    func notNative() async throws {
        let server = try await FakeServer.start(Array(repeating: .upgradeWithoutSubprotocol, count: 4))
        async let report = self.examine(server)
        while let connection = await server.connections.next() {
            guard let request = await connection.requests.next() else { continue }
            connection.reply(values: [""], to: request)
            break
        }
        let findings = try await report.findings
        #expect(findings.filter { $0.verdict != .ok }.map(\.check) == [.seen])
        #expect(findings.first { $0.check == .seen }?.verdict == .skipped)
        #expect(try await report.firstCause == nil)
        try await server.stop()
    }

    @Test("a client that the server does not know learns which alert, and whom the server accepts", arguments: TLSPolicy.Version.allCases)
    func unknownClient(version: TLSPolicy.Version) async throws {
        let server = try await FakeServer.start(versions: version)
        let stranger = try TestAuthority(name: "Another CA").issueClient()
        let report = try await self.examine(server, client: stranger)
        let cause = try #require(report.firstCause)
        #expect(cause.check == .welcome)
        #expect(cause.evidence.contains { $0.contains("unknown_ca") }, "\(cause.evidence)")
        #expect(cause.remedy != nil)
        if version == .tls13 {
            let issuers = report.findings.first { $0.check == .issuers }
            #expect(issuers?.verdict == .warn && issuers?.evidence.contains { $0.contains("Test CA") } == true, "\(report.findings)")
        }
        try await server.stop()
    }

    @Test("a server of another authority is refused with what it showed")
    func unknownServer() async throws {
        let server = try await FakeServer.start()
        let report = try await self.examine(server, trusting: TestAuthority(name: "Another CA"))
        let cause = try #require(report.firstCause)
        #expect(cause.check == .serverTrust && cause.evidence.contains { $0.contains("sha256:") }, "\(cause.evidence)")
        #expect(report.findings.filter { $0.verdict == .skipped }.map(\.check) == [.issuers, .welcome, .seen, .protocol])
        try await server.stop()
    }

    @Test("a wrong name is shown beside the one that was wanted")
    func wrongName() async throws {
        let server = try await FakeServer.start(issue: { try $0.issueServer(names: ["db.example.org"]) })
        let cause = try #require(try await self.examine(server).firstCause)
        #expect(cause.check == .serverTrust)
        #expect(cause.evidence.contains { $0.contains("127.0.0.1") }, "\(cause.evidence)")
        try await server.stop()
    }

    @Test("a forbidden client fails at the welcome, not before")
    func forbidden() async throws {
        // Twice: the connection that looks whether TCP answers may be gone before it is accepted, or not.
        let refusal = FakeServer.Opening.answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nnot you")
        let server = try await FakeServer.start([refusal, refusal])
        let cause = try #require(try await self.examine(server).firstCause)
        #expect(cause.check == .welcome && cause.evidence.contains { $0.contains("403") }, "\(cause.evidence)")
        try await server.stop()
    }

    @Test("a port where nobody listens fails at TCP, and TLS is not blamed")
    func nobody() async throws {
        let server = try await FakeServer.start()
        let configuration = try server.configuration()
        try await server.stop()
        let report = await Doctor(configuration: configuration, sources: [], logger: quiet).examine(configuration.endpoints[0])
        #expect(report.firstCause?.check == .tcp)
        #expect(report.findings.suffix(6).allSatisfy { $0.verdict == .skipped })
    }
}
