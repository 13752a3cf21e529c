import MWProtocol
import MWWebSocket
import NIOCore

/// The opening handshake of one connection, seen from the client.
struct LoadOpening {
    /// Bytes of a response head; ours are a fraction of it.
    private static let maximumHeadBytes = 16 * 1024

    private let handshake: ClientOpeningHandshake
    private let isNative: Bool
    private var head = ByteBuffer()

    init(_ target: LoadTarget, isNative: Bool) {
        self.isNative = isNative
        var random = SystemRandomNumberGenerator()
        handshake = ClientOpeningHandshake(
            authority: target.authority, target: target.path, subprotocols: isNative ? [nativeSubprotocol] : [],
            nonce: (0..<OpeningHandshake.nonceBytes).map { _ in UInt8.random(in: .min ... .max, using: &random) })
    }

    func request() throws -> String { try handshake.requestBytes() }

    /// Takes what came from the server.
    ///
    /// - Returns: What follows the response; nil while that is not whole.
    mutating func received(_ bytes: ByteBuffer) throws -> ByteBuffer? {
        head.writeImmutableBuffer(bytes)
        let view = head.readableBytesView
        guard let end = view.firstRange(of: Array("\r\n\r\n".utf8)) else {
            guard view.count <= Self.maximumHeadBytes else {
                throw CommandFailure(.protocolMismatch, "the server's response to the opening handshake does not end")
            }
            return nil
        }
        let lines = String(decoding: view[..<end.lowerBound], as: UTF8.self).split(separator: "\r\n")
        head.moveReaderIndex(to: end.upperBound)
        let status = lines.first.flatMap { $0.split(separator: " ").dropFirst().first }.flatMap { Int($0) } ?? 0
        let fields: [HeaderField] = lines.dropFirst().compactMap { line in
            line.firstIndex(of: ":").map { (String(line[..<$0]), String(line[line.index(after: $0)...].drop { $0 == " " })) }
        }
        let body = status == 101 ? "" : String(buffer: head)
        let agreed = try handshake.validate(status: status, headers: fields, body: body)
        guard agreed != nil || !isNative else {
            throw CommandFailure(
                .protocolMismatch, "the server does not speak \(nativeSubprotocol)", remedy: "use --protocol mwdb", code: "protocol.unknown"
            )
        }
        return head
    }
}

/// Keys that mask a client's frames. RFC 6455 §5.3 wants such that a hostile script cannot guess; there is none here, and to ask the system
/// would be measured too.
struct LoadMasks {
    private var state: UInt64

    init() {
        var random = SystemRandomNumberGenerator()
        state = random.next() | 1
    }

    /// Marsaglia's xorshift.
    @inline(__always)
    mutating func next() -> UInt32 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return UInt32(truncatingIfNeeded: state >> 32)
    }
}
