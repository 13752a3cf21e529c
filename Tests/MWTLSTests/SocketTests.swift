import Glibc
import MWPKI
import MWTLS
import NIOCore
import NIOPosix
import Synchronization
import TestCertificates
import Testing

/// What only a kernel shows: cases 28 and 31. Method: loopback sockets on port 0; the tests wait for events, never for time to pass.
@Suite struct SocketTests {
    private typealias Tail = RecordingTail

    private func serve(
        _ material: TLSMaterial, on group: any EventLoopGroup, policy: TLSPolicy, gate: NIOLoopBound<HandshakeGate>? = nil
    ) async throws -> any Channel {
        let context = try TLSContext(server: material, policy: policy)
        return try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1_024)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context, gate: gate?.value), EchoTail()])
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    @Test("28: a refused client that writes at once reads why, not a broken pipe", arguments: TLSPolicy.Version.allCases)
    func refusedWriter(version: TLSPolicy.Version) async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let pair = try TestAuthority().materialPair()
        let stranger = TLSMaterial(identity: try TestAuthority().issueClient(), trustStore: pair.client.trustStore)
        // Who reads slowly, as on a busy machine, reads it too.
        let patient = policy(version) {
            $0.handshakeTimeout = .seconds(60)
            $0.lingerTimeout = .seconds(60)
        }
        let server = try await serve(pair.server, on: group, policy: patient)
        let context = try TLSContext(client: stranger, verification: .name(.ip("127.0.0.1")), policy: policy(version))
        let address = try #require(server.localAddress)
        try await withThrowingTaskGroup(of: (any Error).self) { tasks in
            for _ in 0..<20 {
                tasks.addTask {
                    let failure = group.next().makePromise(of: (any Error).self)
                    let channel = try await ClientBootstrap(group: group).channelInitializer { channel in
                        channel.eventLoop.makeCompletedFuture {
                            // Larger than the socket's buffers: some of it is still being written when the server closes.
                            let tail = Tail(request: ByteBuffer(repeating: 0x61, count: 8 << 20), failure: failure)
                            try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context), tail])
                        }
                    }.connect(to: address).flatMapErrorThrowing { error in
                        failure.fail(error)
                        throw error
                    }.get()
                    let error = try await failure.futureResult.get()
                    try? await channel.closeFuture.get()
                    return error
                }
            }
            for try await error in tasks {
                let error = try #require(error as? TLSError)
                #expect(error.code == .alertReceived)
                #expect(error.alert == .unknownCA)
                #expect(error.isPermanent)
            }
        }
        try await server.close()
    }

    @Test("31: 1,000 half-open handshakes do not keep a good client out, and all end at their deadline")
    func halfOpen() async throws {
        let halfOpenCount = 1_000
        let helloCount = 50
        let group = MultiThreadedEventLoopGroup.singleton
        let pair = try TestAuthority().materialPair()
        let deadline = TLSPolicy(handshakeTimeout: .seconds(20))
        // One loop, and so one gate, for all of them.
        let loop = group.next()
        let gate = try await loop.submit { NIOLoopBound(HandshakeGate(eventLoop: loop), eventLoop: loop) }.get()
        let server = try await serve(pair.server, on: loop, policy: deadline, gate: gate)
        let address = try #require(server.localAddress)
        let context = try TLSContext(
            client: pair.client, verification: .name(.ip("127.0.0.1")), policy: TLSPolicy(handshakeTimeout: .seconds(60)))
        let hello = SessionEndpoint(context)
        hello.step()
        let bytes = hello.drain()
        var crowd: [any Channel] = []
        for number in 0..<halfOpenCount {
            let channel = try await ClientBootstrap(group: group).connect(to: address).get()
            // Some send a whole hello and never answer, most stop in the middle of it, or before it.
            let length = number < helloCount ? bytes.readableBytes : number % 3 == 0 ? 0 : 100
            if let part = bytes.getSlice(at: bytes.readerIndex, length: length), length > 0 {
                // On a slow machine the first of them may have met their deadline already.
                try? await channel.writeAndFlush(part)
            }
            crowd.append(channel)
        }
        let received = group.next().makePromise(of: ByteBuffer.self)
        let failure = group.next().makePromise(of: (any Error).self)
        failure.futureResult.whenSuccess { received.fail($0) }
        let good = try await ClientBootstrap(group: group).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let tail = Tail(request: ByteBuffer(string: "hello"), failure: failure, received: received)
                try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: context), tail])
            }
        }.connect(to: address).get()
        #expect(try await String(buffer: received.futureResult.get()) == "hello")
        for channel in crowd { try await channel.closeFuture.get() }
        #expect(good.isActive)
        try await good.close()
        failure.fail(ChannelError.eof)
        try await server.close()
    }

    @Test("what goes straight into the socket, and what the socket does not take at once, arrives in the order of writing")
    func order() async throws {
        // Two loops: the socket has room again while the channel of the one that writes, which does nothing else, still holds something.
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        let (loop, clientLoop) = (group.next(), group.next())
        let pair = try TestAuthority().materialPair()
        let context = try TLSContext(server: pair.server, policy: TLSPolicy())
        let exchange = NumberedPieces()
        let server = try await ServerBootstrap(group: loop).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let (tls, counter) = (TLSHandler(context: context), WriteCounter())
                try channel.pipeline.syncOperations.addHandlers([counter, tls, CountingTail(tls, counter, exchange)])
            }
        }.bind(host: "127.0.0.1", port: 0).get()
        let client = try TLSContext(client: pair.client, verification: .name(.ip("127.0.0.1")), policy: TLSPolicy())
        let received = clientLoop.makePromise(of: [UInt32].self)
        let channel = try await ClientBootstrap(group: clientLoop).channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: client), NumberTail(exchange, received)])
            }
        }.connect(to: try #require(server.localAddress)).get()
        let numbers = try await received.futureResult.get()
        let (direct, count) = (exchange.direct.load(ordering: .relaxed), exchange.count.load(ordering: .relaxed))
        #expect(numbers == (0..<UInt32(count)).map { $0 } + [NumberedPieces.last])
        #expect(direct > 0 && direct < count, "straight into the socket")
        try await channel.close()
        try await server.close()
        try await group.shutdownGracefully()
    }
}

/// Pieces that ``CountingTail`` writes and ``NumberTail`` reads, which begin with their number; and what they tell each other.
private final class NumberedPieces: Sendable {
    static let bytes = 4 * 1_024
    /// The number of the last one.
    static let last = UInt32.max

    let count = Atomic(0)
    let direct = Atomic(0)
    let readCount = Atomic(0)
    /// The channel holds some that the socket did not take.
    let isFull = Atomic(false)
}

/// Counts what the channel is given.
private final class WriteCounter: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer

    var count = 0

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        count += 1
        context.write(data, promise: promise)
    }
}

/// Writes pieces, each with a flush of its own, in one turn of its loop: until the socket takes no more; and, when it has room, some more.
private final class CountingTail: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let tls: TLSHandler
    private let counter: WriteCounter
    private let exchange: NumberedPieces
    private var count = 0

    init(_ tls: TLSHandler, _ counter: WriteCounter, _ exchange: NumberedPieces) {
        self.tls = tls
        self.counter = counter
        self.exchange = exchange
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is TLSHandshakeCompleted else { return }
        // Not inside the read burst, which would gather them.
        context.eventLoop.assumeIsolated().execute {
            self.counter.count = 0
            while self.counter.count == 0 { self.write() }
            self.exchange.direct.store(self.count - 1, ordering: .relaxed)
            self.exchange.isFull.store(true, ordering: .releasing)
            // When half has been read, there is room for another one.
            while self.exchange.readCount.load(ordering: .relaxed) < self.count / 2 { sched_yield() }
            for _ in 0..<64 { self.write() }
            self.exchange.count.store(self.count, ordering: .relaxed)
            self.tls.writeAndFlush(Self.piece(NumberedPieces.last))
        }
    }

    private func write() {
        self.tls.writeAndFlush(Self.piece(UInt32(self.count)))
        self.count += 1
    }

    private static func piece(_ number: UInt32) -> ByteBuffer {
        var piece = ByteBuffer(integer: number)
        piece.writeRepeatingByte(0, count: NumberedPieces.bytes - piece.readableBytes)
        return piece
    }
}

/// Reads pieces, once the other side's socket has taken no more.
private final class NumberTail: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = Never

    private let exchange: NumberedPieces
    private let received: EventLoopPromise<[UInt32]>
    private var bytes = ByteBuffer()
    private var numbers: [UInt32] = []

    init(_ exchange: NumberedPieces, _ received: EventLoopPromise<[UInt32]>) {
        self.exchange = exchange
        self.received = received
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var data = self.unwrapInboundIn(data)
        self.bytes.writeBuffer(&data)
        while var piece = self.bytes.readSlice(length: NumberedPieces.bytes) {
            if let number = piece.readInteger(as: UInt32.self) { self.numbers.append(number) }
        }
        self.exchange.readCount.store(self.numbers.count, ordering: .relaxed)
        if self.numbers.last == NumberedPieces.last { return self.received.succeed(self.numbers) }
        while !self.exchange.isFull.load(ordering: .acquiring) { sched_yield() }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { self.received.fail(error) }
}

/// Echoes.
private final class EchoTail: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.write(data, promise: nil) }
    func channelReadComplete(context: ChannelHandlerContext) { context.flush() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
}

/// A client that writes as soon as its handshake is over, and records the first error and the first answer.
private final class RecordingTail: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let request: ByteBuffer
    private let received: EventLoopPromise<ByteBuffer>?
    private var failure: EventLoopPromise<any Error>?

    init(request: ByteBuffer, failure: EventLoopPromise<any Error>, received: EventLoopPromise<ByteBuffer>? = nil) {
        self.request = request
        self.failure = failure
        self.received = received
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is TLSHandshakeCompleted { context.writeAndFlush(wrapOutboundOut(request), promise: nil) }
    }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) { received?.succeed(unwrapInboundIn(data)) }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        failure?.succeed(error)
        failure = nil
    }
    func handlerRemoved(context: ChannelHandlerContext) {
        // Where no connection came about.
        if received == nil { failure?.succeed(ChannelError.eof) }
        failure = nil
    }
    func channelInactive(context: ChannelHandlerContext) {
        if received == nil { failure?.succeed(ChannelError.eof) }
        failure = nil
    }
}
