import Histogram
import MWTLS
import MWWebSocket
import NIOCore
import NIOPosix

/// The connections of one run. All state belongs to one event loop; the async functions hop onto it.
///
// Safety: every stored property that changes is touched on `eventLoop` only.
final class LoadRunner: LoadObserver, @unchecked Sendable {
    /// Handshakes under way at a time: more would only measure how a server refuses.
    private static let maximumConnecting = 64
    private static let connectTimeout = TimeAmount.seconds(30)

    private let target: LoadTarget
    private let plan: LoadPlan
    private let eventLoop: any EventLoop
    private var started = 0
    private var latencies = LoadResult.emptyLatencies()
    private var channels: [any Channel] = []
    private var opened = 0
    private var finished = 0
    private var failures = 0
    private var error: (any Error)?
    private let allOpened: EventLoopPromise<Void>
    private let allFinished: EventLoopPromise<Void>

    init(target: LoadTarget, plan: LoadPlan, eventLoop: any EventLoop) {
        self.target = target
        self.plan = plan
        self.eventLoop = eventLoop
        allOpened = eventLoop.makePromise()
        allFinished = eventLoop.makePromise()
    }

    /// Opens every connection: TLS and the opening handshake included.
    func openAll() async throws {
        eventLoop.execute { [self] in
            for _ in 0..<min(Self.maximumConnecting, plan.connections) { openNext() }
        }
        try await allOpened.futureResult.get()
    }

    /// Starts the requests, and waits for the last answer.
    func finishAll() async throws {
        eventLoop.execute { [self] in
            for channel in channels { channel.pipeline.fireUserInboundEventTriggered(LoadConnection.Start()) }
        }
        try await allFinished.futureResult.get()
    }

    /// Whether all connections are still there.
    func check() async throws {
        try await eventLoop.submit { [self] in if let error { throw error } }.get()
    }

    func result(seconds: Double, clientCPUSeconds: Double) async throws -> LoadResult {
        try await eventLoop.submit { [self] in
            LoadResult(
                requests: plan.requests + plan.warmUpRequests * plan.connections, seconds: seconds, failures: failures,
                clientCPUSeconds: clientCPUSeconds, latencies: latencies)
        }.get()
    }

    func closeAll() async {
        try? await eventLoop.submit { [self] in channels.forEach { $0.close(promise: nil) } }.get()
        allOpened.fail(CancellationError())
        allFinished.fail(CancellationError())
    }

    // MARK: On the event loop

    private func openNext() {
        guard started < plan.connections, error == nil else { return }
        let index = started
        started += 1
        ClientBootstrap(group: eventLoop)
            .connectTimeout(Self.connectTimeout)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { [self] channel in
                channel.eventLoop.makeCompletedFuture {
                    let load = LoadConnection(plan: plan, index: index, authority: target.authority, observer: self)
                    try channel.pipeline.syncOperations.addHandlers([TLSHandler(context: target.context), load])
                }
            }
            .connect(host: target.host, port: target.port)
            .assumeIsolated()
            .whenComplete { [self] result in
                switch result {
                case .success(let channel): channels.append(channel)
                case .failure(let error): connectionFailed(error)
                }
            }
    }

    func connectionOpened() {
        opened += 1
        if opened == plan.connections { allOpened.succeed(()) } else { openNext() }
    }

    func answered(after nanoseconds: UInt64) { latencies.record(nanoseconds) }

    func requestsFailed(_ count: Int) { failures += count }

    func connectionFinished() {
        finished += 1
        if finished == plan.connections { allFinished.succeed(()) }
    }

    func connectionFailed(_ error: any Error) {
        guard self.error == nil else { return }
        self.error = error
        allOpened.fail(error)
        allFinished.fail(error)
    }
}
