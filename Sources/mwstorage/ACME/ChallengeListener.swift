import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import MWTLS
import NIOCore
import NIOPosix

/// Answers tls-alpn-01 where no server runs: a listener that shows a challenge's certificate to whoever asks for it as a CA does, and
/// refuses every other handshake (RFC 8737 §3).
///
/// It listens only while there is an answer to give.
actor ChallengeListener: ChallengePresenter {
    private let address: HostAndPort
    private let challenges = PendingChallenges()
    private let context: TLSContext
    private var presented: Set<String> = []
    private var listener: (any Channel)?

    init(address: HostAndPort) throws {
        self.address = address
        // Whom it lets in: nobody. The key of this authority is gone when this returns.
        let nobody = try CertificateBuilder.authority(name: "nobody").identity()
        let trust = try TrustStore(anchors: [TrustAnchor(alias: "nobody", certificate: nobody.leaf)], revocationLists: [], at: .now())
        context = try TLSContext(server: .awaitingIdentity(trust), challenges: challenges)
    }

    func present(_ answer: ChallengeAnswer) async throws {
        challenges.present(serverName: answer.alpnServerName, identity: try answer.alpnIdentity(at: .now()))
        presented.insert(answer.alpnServerName)
        guard listener == nil else { return }
        do {
            listener = try await listen()
        } catch {
            challenges.remove(serverName: answer.alpnServerName)
            presented.remove(answer.alpnServerName)
            throw PresentingError(
                "cannot listen on \(address) for tls-alpn-01: \(error); is a server there already? It can answer itself (serve --acme), or "
                    + "use --challenge http-01")
        }
    }

    private func listen() async throws -> any Channel {
        let context = context
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context), ClosingHandler()])
                }
            }
        do {
            return try await bootstrap.bind(host: address.host, port: address.port).get()
        } catch let error as IOError where address.host == "::" && [EAFNOSUPPORT, EADDRNOTAVAIL].contains(error.errnoCode) {
            // A machine without IPv6: every address is every one of IPv4.
            return try await bootstrap.bind(host: "0.0.0.0", port: address.port).get()
        }
    }

    func remove(_ answer: ChallengeAnswer) async {
        challenges.remove(serverName: answer.alpnServerName)
        presented.remove(answer.alpnServerName)
        guard presented.isEmpty, let open = listener else { return }
        listener = nil
        try? await open.close()
    }
}

/// The end of every connection: what the TLS handler has not closed yet, closes with its error.
private final class ClosingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
