import EngineContract
import MWPKI
import MWProtocol
import MWStorage
import MWWebSocket
import NIOCore
import TestCertificates
import Testing

@testable import MWServer

/// What a running server tells its clients unasked: to read afresh, and to go elsewhere. Real sockets, two event loops.
@Suite struct ReloadClientsTests {
    /// The next event with id 0.
    private static func notice(_ peer: NativePeer) async throws -> NativeFrame {
        let frame = try await peer.answer(to: .zero)
        #expect(frame.role == .event)
        return frame
    }

    private static func request(_ principal: String? = nil, milliseconds: Int64 = 0) -> NativeReloadClientsRequest {
        var request = NativeReloadClientsRequest()
        request.principal = principal
        request.ranges = [NativeRange("a", "b")]
        request.reason = "restored"
        request.timeoutMilliseconds = milliseconds
        return request
    }

    private static func acknowledge(_ peer: NativePeer) async throws {
        let notice = try NativeReloadNotice(try await Self.notice(peer).fields)
        #expect(notice.reason == "restored" && notice.ranges == [NativeRange("a", "b")])
        var done = NativeReloadDone()
        done.reload = notice.reload
        _ = try await peer.ask(done)
        // Once is enough.
        #expect(try await peer.failure(of: done)?.code == .invalidArgument)
    }

    @Test func `Every other client on every loop is asked, the answer counts who did it, and mwDB's are closed to come back`() async throws
    {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            var clients: [NativePeer] = []
            for _ in 0..<4 { clients.append(try await running.connectNative()) }
            let original = try await running.connect()
            let asked = try await administrator.send(Self.request())
            for client in clients { try await Self.acknowledge(client) }
            let reply = try await administrator.reply(to: asked, as: NativeReloadClientsRequest.self)
            #expect(reply.asked == 4 && reply.acknowledged == 4 && reply.unanswered == [] && reply.forced == 1)
            guard case .closeReceived(let code, _) = try await original.next() else {
                Issue.record("not closed")
                return
            }
            #expect(code?.rawValue == running.server.configuration.closeCodes.restart)
            // Who asked was not told: its next answer is the next thing it hears.
            _ = try await administrator.ask(NativePing())
        }
    }

    @Test func `Clients of another principal are left alone; who does not answer, or leaves, is named`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let bob = try running.authority.issueClient(name: "bob")
            let (answering, silent, leaving) = (
                try await running.connectNative(bob), try await running.connectNative(bob), try await running.connectNative(bob)
            )
            let alice = try await running.connectNative()
            let asked = try await administrator.send(Self.request("bob", milliseconds: 300))
            try await Self.acknowledge(answering)
            _ = try await Self.notice(silent)
            _ = try await Self.notice(leaving)
            await leaving.peer.close()
            let reply = try await administrator.reply(to: asked, as: NativeReloadClientsRequest.self)
            #expect(reply.asked == 3 && reply.acknowledged == 1 && reply.forced == 0)
            #expect(reply.unanswered.count == 2 && reply.unanswered.allSatisfy { $0.hasPrefix("bob 127.0.0.1:") })
            _ = try await alice.ask(NativePing())
        }
    }

    @Test func `With nobody to ask the answer is there at once; a timeout beyond the limit is refused`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            #expect(try await administrator.ask(Self.request()) == NativeReloadClients())
            #expect(try await administrator.failure(of: Self.request(milliseconds: 61_000))?.code == .invalidArgument)
            #expect(try await administrator.failure(of: Self.request(milliseconds: -1))?.code == .invalidArgument)
        }
    }

    @Test func `A server that stops tells native clients first, and waits for those who leave`() async throws {
        try await RunningServer.with { configuration in
            configuration.drainTimeout = .seconds(60)
            configuration.drainNoticePeriod = .seconds(30)
        } _: { running in
            let (first, second) = (try await running.connectNative(), try await running.connectNative())
            async let stopped: Void = running.server.stop()
            for client in [first, second] {
                let frame = try await Self.notice(client)
                #expect(frame.kind == NativeEventKind.draining.rawValue)
                #expect(try NativeDrainNotice(frame.fields).withinMilliseconds == 60_000)
            }
            // It still answers, and nobody new is let in.
            _ = try await first.ask(NativePing())
            await #expect(throws: (any Error).self) { try await running.connectNative() }
            await first.peer.close()
            await second.peer.close()
            await stopped
        }
    }

    @Test func `Watchers on every loop hear of what a client, mwDB's, and the server's program put; the status counts them`() async throws {
        try await RunningServer.with { running in
            var watchers: [NativePeer] = []
            for _ in 0..<4 {
                let peer = try await running.connectNative()
                _ = try await peer.ask(NativeWatch(NativeRange("")))
                watchers.append(peer)
            }
            let writer = try await running.connectNative()
            _ = try await writer.ask(NativePut([("k", "native")]))
            let original = try await running.connect()
            try await original.send(message: "k#mwDB#\u{2}E")
            _ = try await original.message()
            try await running.server.storage?.put(Array("k".utf8), Array("program".utf8))
            for watcher in watchers {
                var said: [String] = []
                while said.count < 4 { said.append(try WatchPeer.line(try await watcher.answer(to: RequestID(1)))) }
                #expect(said == ["1 synced @0", "1 @1 k=native", "1 @2 k=mwDB after 1", "1 @3 k=program after 2"])
            }
            let sessions = try await writer.ask(NativeSessionsRequest()).sessions
            #expect(sessions.map(\.watches).reduce(0, +) == 4)
            // The server's numbers are those of its loops' last ticks.
            var counted: Int64 = 0
            while counted != 4 { counted = try await writer.ask(NativeStatusRequest()).storage.watches }
        }
    }
}
