import MWPKI
import MWTLS
import NIOCore

/// One end of a connection that is joined in memory.
protocol Endpoint: AnyObject {
    func feed(_ ciphertext: ByteBuffer)
    /// Does what can be done with what was fed.
    func step()
    func drain() -> ByteBuffer
}

/// Carries bytes between two ends until neither has more to say. `pieceBytes` delivers them in pieces of that size.
func join(_ first: any Endpoint, _ second: any Endpoint, pieceBytes: Int? = nil) {
    func carry(_ bytes: ByteBuffer, to endpoint: any Endpoint) {
        guard let pieceBytes else {
            endpoint.feed(bytes)
            return endpoint.step()
        }
        var rest = bytes
        while let piece = rest.readSlice(length: min(pieceBytes, rest.readableBytes)), piece.readableBytes > 0 {
            endpoint.feed(piece)
            endpoint.step()
        }
    }
    first.step()
    second.step()
    while true {
        let (forth, back) = (first.drain(), second.drain())
        if forth.readableBytes == 0, back.readableBytes == 0 { return }
        if forth.readableBytes > 0 { carry(forth, to: second) }
        if back.readableBytes > 0 { carry(back, to: first) }
    }
}

/// Our session as an endpoint that remembers what happened to it.
final class SessionEndpoint: Endpoint {
    var session: TLSSession
    private(set) var peer: VerifiedPeer?
    private(set) var error: TLSError?
    private(set) var plaintext = ByteBuffer()
    private(set) var isClosedByPeer = false
    private(set) var challengeAnswered: String?

    init(_ context: TLSContext) { session = TLSSession(context: context) }

    func feed(_ ciphertext: ByteBuffer) { session.receive(ciphertext) }

    func end() {
        session.receiveEnd()
        step()
    }

    func step() {
        guard error == nil else { return }
        if session.phase == .handshaking {
            switch session.handshake() {
            case .needsCiphertext: return
            case .failed(let error):
                self.error = error
                return
            case .established(let peer): self.peer = peer
            case .challengeAnswered(let serverName): self.challengeAnswered = serverName
            }
        }
        guard session.phase != .challengeAnswered else { return }
        switch session.read(into: &plaintext) {
        case .needsCiphertext: break
        case .closed: isClosedByPeer = true
        case .failed(let error): self.error = error
        }
    }

    // `#expect` takes no parts of what cannot be copied.
    var hasWholeRecord: Bool { session.hasWholeRecord }
    var unreadCiphertextBytes: Int { session.unreadCiphertextBytes }

    func drain() -> ByteBuffer { session.takeOutboundCiphertext() }

    func write(_ text: String) throws { try session.write(ByteBuffer(string: text)) }

    var text: String { String(buffer: plaintext) }
}

/// The policy of tests that hold for each version by itself.
func policy(_ version: TLSPolicy.Version, _ change: (inout TLSPolicy) -> Void = { _ in }) -> TLSPolicy {
    var policy = TLSPolicy(minimumVersion: version, maximumVersion: version)
    change(&policy)
    return policy
}

/// Both ends of one attempt: our client and our server, joined until silence.
func attempt(
    _ version: TLSPolicy.Version, server: TLSMaterial, client: TLSMaterial, verification: ServerVerification = .name(.dns("localhost")),
    pieceBytes: Int? = nil, serverPolicy: (inout TLSPolicy) -> Void = { _ in }, clientPolicy: (inout TLSPolicy) -> Void = { _ in }
) throws -> (client: SessionEndpoint, server: SessionEndpoint) {
    let clientEnd = SessionEndpoint(try TLSContext(client: client, verification: verification, policy: policy(version, clientPolicy)))
    let serverEnd = SessionEndpoint(try TLSContext(server: server, policy: policy(version, serverPolicy)))
    join(clientEnd, serverEnd, pieceBytes: pieceBytes)
    return (clientEnd, serverEnd)
}
