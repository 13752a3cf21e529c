import MWPKI
import MWTLS
import MWWebSocket
import NIOCore
import NIOEmbedded
import TestCertificates
import Testing

@testable import MWServer

/// Who is connected and judged again, on one embedded loop, with time and verdicts as the test says.
@Suite struct SessionJudgingTests {
    private let refusal = PeerRefusal(
        .certificateRevoked, check: "tls.certificateRevoked", toldPeer: "the certificate was revoked", detail: "for the log")

    @Test func `A refused session closes with 1008, and answers nothing that it was asked before or after`() throws {
        let harness = try SessionHarness()
        let echo = EchoDelegate()
        let client = try harness.connect(echo)
        echo.defersAnswers = true
        try client.send(["one", "two"].map { ByteBuffer(string: $0) })
        client.isPolite = false
        harness.judge(client, .refused(self.refusal))
        echo.finish(2, in: client.session)
        try client.send("three")
        #expect(try client.receive().map { "\($0)" } == ["\(WebSocketEvent.closeReceived(.policyViolation, self.refusal.toldPeer))"])
        #expect(!client.isClosed)
        // It does not answer the close frame: a second is all it gets.
        harness.advance(by: .seconds(1))
        #expect(client.isClosed && echo.hasEnded)
        #expect(harness.loop.census.total == 0)
        let line = try #require(harness.log.lines("connection closed").first)
        #expect(line.metadata["cause"] == "certificateRevoked" && line.metadata["code"] == "1008")
        #expect(harness.log.lines("connection refused after it was open").first?.metadata["reason"] == "for the log")
    }

    // The network takes nothing: 1 MiB waits in the channel.
    @Test func `What a refused session had not taken yet is thrown away, close frame and all`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        let network = try client.narrow(to: 1 << 30)
        network.isStuck = true
        try client.send([ByteBuffer(repeating: 1, count: 1 << 20)])
        #expect(client.session.unsentBytes >= 1 << 20)
        harness.judge(client, .refused(self.refusal))
        #expect(client.isClosed)
        #expect(try client.receive().isEmpty)
        #expect(harness.log.lines("connection closed").first?.metadata["cause"] == "certificateRevoked")
    }

    @Test func `A session that stays has its new principal from the next request on, and counts for it`() throws {
        let harness = try SessionHarness()
        let delegate = PrincipalRecorder()
        let client = try harness.connect(delegate)
        let other = try VerifiedPeers.peer("bob")
        try client.send("before")
        let outcome = harness.judge(client, .admitted(other, try AccessPolicy.none.admit(other).get()))
        try client.send("after")
        #expect(delegate.names == ["alice", "changed to bob", "bob"])
        #expect(outcome == JudgingOutcome(judged: 1, closed: 0, changed: 1))
        #expect(harness.judge(client, .admitted(other, try AccessPolicy.none.admit(other).get()), generation: 3).changed == 0)
        try client.sendBytes(ByteBuffer())
        harness.loop.abort("over")
        harness.eventLoop.run()
        #expect(harness.loop.census.total == 0)
    }

    @Test func `What an older set says does not undo what a newer one said`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        let other = try VerifiedPeers.peer("bob")
        #expect(harness.judge(client, .admitted(harness.peer, harness.principal), generation: 9).judged == 1)
        #expect(harness.judge(client, .admitted(other, try AccessPolicy.none.admit(other).get()), generation: 8) == JudgingOutcome())
        #expect(harness.judge(client, .refused(self.refusal), generation: 8) == JudgingOutcome())
        #expect(client.session.info.principal.name == "alice" && client.session.isOpen)
    }

    @Test func `case 41: the tick closes a session in the second in which its certificate ends`() throws {
        let harness = try SessionHarness()
        let client = try harness.connect(EchoDelegate())
        let end = harness.peer.leaf.notAfter
        harness.loop.ticked(harness.loop.now, date: end.adding(seconds: -1))
        #expect(client.session.isOpen)
        harness.loop.ticked(harness.loop.now, date: end)
        harness.eventLoop.run()
        guard case .closeReceived(.policyViolation, let reason)? = try client.receive().first else {
            Issue.record("not closed")
            return
        }
        #expect(reason.contains("expired"))
        #expect(harness.log.lines("connection closed").first?.metadata["cause"] == "certificateExpired")
    }

    // 1,000 sessions of two presentations; the loop gets its turns between.
    @Test func `Many sessions are judged in slices, each once`() throws {
        let harness = try SessionHarness()
        let clients = try (0..<1_000).map { _ in try harness.connect(EchoDelegate()) }
        var roll: SessionRoll?
        harness.loop.takeRoll().assumeIsolated().whenSuccess { roll = $0 }
        var turns = 0
        while roll == nil, turns < 100 {
            harness.eventLoop.advanceTime(by: .microseconds(10))
            turns += 1
        }
        #expect(turns == 7)
        let called = try #require(roll)
        #expect(called.peers.count == 1)
        let set = try harness.securitySet(generation: 2)
        let judging = called.apply([harness.peer.presentation: .refused(self.refusal)], of: set)
        for _ in 0..<8 { harness.eventLoop.advanceTime(by: .microseconds(10)) }
        #expect(try judging.wait() == JudgingOutcome(judged: 1_000, closed: 1_000, changed: 0))
        #expect(clients.allSatisfy { !$0.session.isOpen })
    }
}

/// Says as whom it was asked.
private final class PrincipalRecorder: SessionDelegate {
    private(set) var names: [String] = []

    func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        self.names.append(session.info.principal.name)
    }

    func principalChanged(in session: SessionHandler) { self.names.append("changed to \(session.info.principal.name)") }
}

extension SessionHarness {
    @discardableResult
    fileprivate func judge(_ client: HarnessClient, _ verdict: PeerVerdict, generation: UInt64 = 2) -> JudgingOutcome {
        var outcome = JudgingOutcome()
        self.loop.turn { client.session.apply(verdict, generation: generation, counting: &outcome) }
        self.eventLoop.run()
        return outcome
    }

    fileprivate func securitySet(generation: UInt64) throws -> SecuritySet {
        SecuritySet(generation: generation, context: try TLSContext(server: TestAuthority().materialPair().server), accessPolicy: .none)
    }

    @Test func `Who the policy or a refusal by name does not admit any more is judged first`() throws {
        let authority = try TestAuthority()
        let peer = try VerifiedPeers.verify(authority.issueClient(name: "alice"), by: authority)
        let material = TLSMaterial(identity: try authority.issueServer(), trustStore: try authority.trustStore())
        func set(_ names: [String], refusing refusals: [Refusal] = []) throws -> SecuritySet {
            let rules = names.map { AccessRule(name: $0, matchers: [.commonName($0)], grants: .everything) }
            return SecuritySet(
                context: try TLSContext(server: material, refusals: RefusalSet(refusals)),
                accessPolicy: try AccessPolicy(rules: rules, source: "test"))
        }
        #expect(try !set(["alice", "bob"]).isSuspect(peer))
        #expect(try set(["bob"]).isSuspect(peer))
        #expect(try set(["alice"], refusing: [.identity("alice")]).isSuspect(peer))
    }
}
