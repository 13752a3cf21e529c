import NIOCore
import NIOPosix
import Testing

/// The proxy of the tests that cut and stall: that it does.
@Suite("A proxy with faults")
struct FaultyProxyTests {
    private static let payload = ByteBuffer(bytes: (0..<1000).map { UInt8(truncatingIfNeeded: $0) })

    /// A server that greets everybody with the payload, behind a proxy; a client that collects what comes until the end.
    private static func received(
        _ fate: FaultyProxy.Plan.Fate, delay: Duration = .zero, cuttingAt limit: Int? = nil
    ) async throws -> ByteBuffer {
        let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Greeter(payload)) }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let proxy = try await FaultyProxy.start { _ in FaultyProxy.Plan(fate: fate, delay: delay) }
        proxy.lead(to: server.localAddress?.port)
        let (stream, continuation) = AsyncStream.makeStream(of: ByteBuffer.self)
        let client = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Collector(continuation)) }
            }
            .connect(host: "127.0.0.1", port: proxy.port).get()
        if limit == 0 {
            // The system may have connected us before the proxy knows.
            while proxy.acceptedCount == 0 { await Task.yield() }
            try await proxy.cutAll()
        }
        var all = ByteBuffer()
        for await bytes in stream {
            all.writeImmutableBuffer(bytes)
            if all.readableBytes == limit { try await proxy.cutAll() }
        }
        try await client.closeFuture.get()
        try await proxy.stop()
        try await server.close()
        return all
    }

    @Test("what goes through is what was sent, at once or delayed", arguments: [Duration.zero, .milliseconds(1)])
    func passes(delay: Duration) async throws {
        #expect(try await Self.received(.none, delay: delay, cuttingAt: 1000) == Self.payload)
    }

    @Test("a connection is cut behind exactly so many bytes", arguments: [1, 10, 999])
    func cuts(limit: Int) async throws {
        #expect(try await Self.received(.cut(.toClient, after: limit)) == Self.payload.getSlice(at: 0, length: limit))
    }

    // The client learns of the end only when the proxy is told to cut.
    @Test("a stalled way passes exactly so many bytes, and says nothing", arguments: [1, 500])
    func stalls(limit: Int) async throws {
        #expect(try await Self.received(.stall(.toClient, after: limit), cuttingAt: limit) == Self.payload.getSlice(at: 0, length: limit))
    }

    @Test("a swallowed connection is open and silent") func swallows() async throws {
        #expect(try await Self.received(.swallow, cuttingAt: 0) == ByteBuffer())
    }
}

private final class Greeter: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let payload: ByteBuffer
    init(_ payload: ByteBuffer) { self.payload = payload }

    func channelActive(context: ChannelHandlerContext) { context.writeAndFlush(self.wrapOutboundOut(self.payload), promise: nil) }
}

private final class Collector: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let continuation: AsyncStream<ByteBuffer>.Continuation
    init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { self.continuation.yield(self.unwrapInboundIn(data)) }
    func channelInactive(context: ChannelHandlerContext) { self.continuation.finish() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
