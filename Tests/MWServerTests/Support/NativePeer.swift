import MWPKI
import MWProtocol
import MWWebSocket
import NIOCore

@testable import MWServer

/// A client of the native protocol over a real socket.
final class NativePeer {
    let peer: TestPeer
    private var nextID: Int32 = 1
    private var waiting: [NativeFrame] = []

    init(_ peer: TestPeer) { self.peer = peer }

    /// Asks, and waits for the answer. Throws ``NativeFailure`` when it is one.
    func ask<Request: NativeRequest>(_ request: Request) async throws -> Request.Reply {
        try await self.reply(to: try await self.send(request), as: Request.self)
    }

    /// Asks; see ``reply(to:as:)``.
    func send(_ request: some NativeRequest) async throws -> RequestID {
        let id = RequestID(self.nextID)
        self.nextID += 1
        var message = ByteBuffer()
        NativeFrame.write(request, id: id, to: &message)
        try await self.peer.send(messages: [message])
        return id
    }

    func reply<Request: NativeRequest>(to id: RequestID, as type: Request.Type) async throws -> Request.Reply {
        let frame = try await self.answer(to: id)
        if frame.role == .failure { throw try NativeFailure(frame.fields) }
        return try Request.Reply(frame.fields)
    }

    /// The next answer to `id`.
    func answer(to id: RequestID) async throws -> NativeFrame {
        while true {
            if let index = self.waiting.firstIndex(where: { $0.id == id }) { return self.waiting.remove(at: index) }
            switch try await self.peer.next() {
            case .message(.binary, let payload): self.waiting += try NativeFrame.all(in: payload)
            case .ping, .pong: break
            case let event: throw TestPeer.Ended(reason: "\(event)")
            }
        }
    }

    /// What a request fails with.
    func failure(of request: some NativeRequest) async throws -> NativeFailure? {
        do {
            _ = try await self.ask(request)
            return nil
        } catch let failure as NativeFailure {
            return failure
        }
    }
}

extension RunningServer {
    /// A client that speaks the native protocol.
    func connectNative(_ identity: Identity? = nil) async throws -> NativePeer {
        let peer = try await TestPeer.connect(to: self.address, try self.clientContext(identity))
        let head = try await peer.open(TestPeer.openingRequest(extra: "Sec-WebSocket-Protocol: \(nativeSubprotocol)\r\n"))
        guard head.hasPrefix("HTTP/1.1 101 "), head.contains("\r\nSec-WebSocket-Protocol: \(nativeSubprotocol)") else {
            throw TestPeer.Ended(reason: head)
        }
        return NativePeer(peer)
    }
}
