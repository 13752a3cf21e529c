import MWProtocol
import NIOCore
import Testing

/// Random messages out of the bytes that matter: a decoder either reads one or throws, and what it read says the same when written again.
/// `scripts/fuzz mwdb` goes on where this stops.
@Suite struct MWDBFuzzTests {
    private static let alphabet: [UInt8] = Array("#ABab09+/;|k".utf8) + [0, 1, 2, 3, 4, 5, 6, 7, 0xff]
    private static let messageCount = 20_000
    private static let maximumMessageBytes = 40

    private func fuzz(_ body: (ByteBuffer) throws -> Void) rethrows {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<Self.messageCount {
            let length = Int.random(in: 0...Self.maximumMessageBytes, using: &generator)
            var message = ByteBuffer()
            for _ in 0..<length {
                message.writeInteger(Self.alphabet.randomElement(using: &generator) ?? 0)
            }
            try body(message)
        }
    }

    @Test func `A random request is read or refused, and says the same when written again`() throws {
        try self.fuzz { message in
            guard let request = try? MWDBRequest(message: message) else { return }
            var again = ByteBuffer()
            switch request {
            case .get(let keys, let id): try MWDBRequest.writeGet(keys.slices.map(\.readableBytesView), id: id, to: &again)
            case .remove(let keys, let id): try MWDBRequest.writeRemove(keys.slices.map(\.readableBytesView), id: id, to: &again)
            case .put(let pairs, let id):
                try MWDBRequest.writePut(pairs.slices.map { ($0.readableBytesView, $1.readableBytesView) }, id: id, to: &again)
            case .prefix(let id): MWDBRequest.writePrefix(id: id, to: &again)
            }
            let second = try MWDBRequest(message: again)
            #expect(second.type == request.type && second.id == request.id)
            #expect(Self.elements(second) == Self.elements(request), "\(Array(buffer: message))")
        }
    }

    @Test func `A random reply is read or refused, whatever number of values it should hold`() {
        self.fuzz { message in
            guard let reply = try? MWDBReply(message: message), case .get(let data, _) = reply else { return }
            for count in 0...3 { _ = try? MWDBReply.values(data, count: count) }
        }
    }

    private static func elements(_ request: MWDBRequest) -> [ByteBuffer] {
        switch request {
        case .get(let keys, _), .remove(let keys, _): return keys.slices
        case .put(let pairs, _): return pairs.slices.flatMap { [$0.key, $0.value] }
        case .prefix: return []
        }
    }
}
