import Glibc
import MWTLS
import NIOCore
import NIOPosix

/// Something that does a loop's requests.
protocol LoadWorker: AnyObject {
    /// Whether it can take a request.
    var hasRoom: Bool { get }
    /// It is in its loop's row of those that wait for a request.
    var isWaiting: Bool { get set }
    func begin(_ ticket: LoadTicket)
    /// Begins what it has room for, and what is due by now.
    func fill(from book: inout LoadBook, _ now: UInt64)
    /// Sends what was begun.
    func flush()
    /// There is nothing more to do.
    func leave()
}

/// One event loop of the generator: it gives its workers requests when they are due or there is room, and keeps the tally.
///
///     opening ──start──> warmingUp ──time──> measuring ──time, signal──> draining ──all answered──> over
///                                                └──────────all requests answered───────────────────^
//
// Safety: every stored property that changes is touched on `eventLoop` only.
final class LoadLoop: @unchecked Sendable {
    private enum Phase { case opening, warmingUp, measuring, draining, over }

    /// Handshakes under way at a time, over all loops: more would only measure how a server refuses.
    private static let maximumConnecting = 64
    private static let connectTimeout = TimeAmount.seconds(30)
    /// How often it is looked whether the server still answers.
    private static let watchInterval = TimeAmount.seconds(1)

    let plan: LoadPlan
    let target: LoadTarget
    let values: LoadValues
    let eventLoop: any EventLoop
    private let index: Int
    private let finished: EventLoopPromise<Void>
    private var phase = Phase.opening

    // Connections.
    private let connectionCount: Int
    private var allOpened: EventLoopPromise<Void>?
    private var address: SocketAddress?
    private var started = 0
    private var opened = 0
    private var wanted = 0
    private var channels: [any Channel] = []
    private var workers: [any LoadWorker] = []

    // Requests.
    /// Its workers write into it.
    var book: LoadBook
    /// Workers with room, while there is a schedule.
    private var waiting = CircularBuffer<any LoadWorker>()
    private var watch: RepeatedTask?
    private var tick: NIOScheduledCallback?

    // What was measured.
    /// What ``takeInterval()`` gave away.
    private var earlier = LoadTally()
    private var begin: UInt64 = 0
    private var end: UInt64 = 0
    private var cpuBegin: UInt64 = 0
    private var cpuEnd: UInt64 = 0

    init(_ plan: LoadPlan, _ target: LoadTarget, _ values: LoadValues, index: Int, eventLoop: any EventLoop) {
        self.plan = plan
        self.target = target
        self.values = values
        self.index = index
        self.eventLoop = eventLoop
        connectionCount = plan.connections / plan.loops + (index < plan.connections % plan.loops ? 1 : 0)
        finished = eventLoop.makePromise()
        book = LoadBook(LoadDispenser(nil, loop: index, loops: plan.loops, limit: 0, isWarmUp: false))
    }

    // MARK: From anywhere

    /// Opens the first connection, and with it learns the server's address.
    func openFirst() async throws -> SocketAddress? {
        try await open(1, at: nil)
        return try await eventLoop.submit { self.channels.first?.remoteAddress }.get()
    }

    /// Opens the other connections: TLS and the opening handshake included.
    func openAll(at address: SocketAddress?) async throws { try await open(connectionCount, at: address) }

    /// Makes the workers of a run without connections that stay: the one of ``openFirst()`` goes.
    func prepareHandshakes(at address: SocketAddress?) async throws {
        try await eventLoop.submit { [self] in
            for worker in workers { worker.leave() }
            workers = (0..<connectionCount).map { _ in HandshakeWorker(self, address) }
        }.get()
    }

    /// Begins with the requests, and at the end says so through ``whenFinished``.
    ///
    /// - Parameter time: When the warm-up begins, the same for all loops, in nanoseconds of the uptime.
    func start(at time: UInt64) {
        eventLoop.execute { [self] in
            let measuring = time + plan.warmUp
            if plan.warmUp > 0 { after(time) { self.begin(.warmingUp, at: time) } }
            after(measuring) { self.begin(.measuring, at: measuring) }
            if case .duration(let duration) = plan.extent { after(measuring + duration) { self.drain() } }
            watch = eventLoop.scheduleRepeatedTask(initialDelay: Self.watchInterval, delay: Self.watchInterval) { _ in self.lookForLife() }
        }
    }

    var whenFinished: EventLoopFuture<Void> { finished.futureResult }

    /// No more requests: what is in flight is waited for.
    func finishEarly() {
        eventLoop.execute { [self] in
            if phase == .opening || phase == .warmingUp { beginClock() }
            drain()
        }
    }

    /// Whether all connections are still there.
    func check() async throws { if let error = try await eventLoop.submit({ self.error }).get() { throw error } }

    /// What was measured since the last time.
    func takeInterval() async throws -> LoadTally {
        try await eventLoop.submit { [self] in
            let interval = book.tally
            earlier.add(interval)
            book.tally = LoadTally()
            return interval
        }.get()
    }

    func result() async throws -> LoadResult {
        try await eventLoop.submit { [self] in
            var result = LoadResult(tally: book.tally)
            result.tally.add(earlier)
            result.seconds = Double(end &- begin) / 1e9
            result.cpuSeconds = Double(cpuEnd &- cpuBegin) / 1e9
            (result.firstFailure, result.firstWrong, result.isValueMissing) = (book.firstFailure, book.firstWrong, book.isValueMissing)
            return result
        }.get()
    }

    func close() async {
        try? await eventLoop.submit { [self] in
            end(with: CancellationError())
            for channel in channels { channel.close(promise: nil) }
        }.get()
    }

    // MARK: Connections

    private func open(_ count: Int, at address: SocketAddress?) async throws {
        try await eventLoop.flatSubmit { [self] in
            let promise = eventLoop.makePromise(of: Void.self)
            self.address = address ?? self.address
            allOpened = promise
            wanted = count
            if let error { promise.fail(error) } else if opened >= wanted { promise.succeed() }
            for _ in 0..<max(1, Self.maximumConnecting / plan.loops) { openNext() }
            return promise.futureResult
        }.get()
    }

    private func openNext() {
        guard started < wanted, error == nil else { return }
        let connection = LoadConnection(self, index: started * plan.loops + index)
        started += 1
        workers.append(connection)
        connect(to: address) { try $0.pipeline.syncOperations.addHandlers([TLSHandler(context: self.target.context), connection]) }
            .whenComplete { result in
                switch result {
                case .success(let channel): self.channels.append(channel)
                case .failure(let error): self.fail(error)
                }
            }
    }

    /// - Parameter address: nil looks the host up.
    func connect(
        to address: SocketAddress?, _ addHandlers: @escaping (any Channel) throws -> Void
    ) -> EventLoopFuture<any Channel>.Isolated {
        let handlers = NIOLoopBound(addHandlers, eventLoop: eventLoop)
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(Self.connectTimeout)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { channel in channel.eventLoop.makeCompletedFuture { try handlers.value(channel) } }
        let connected = address.map { bootstrap.connect(to: $0) } ?? bootstrap.connect(host: target.host, port: target.port)
        return connected.assumeIsolated()
    }

    func connectionOpened() {
        opened += 1
        if opened == wanted { allOpened?.succeed() } else { openNext() }
    }

    private(set) var error: (any Error)?

    /// Nothing can be measured any more.
    func fail(_ error: any Error) {
        guard self.error == nil, phase != .over else { return }
        self.error = error
        end(with: error)
    }

    private func end(with error: any Error) {
        phase = .over
        watch?.cancel()
        allOpened?.fail(error)
        finished.fail(error)
    }

    // MARK: Phases

    private func after(_ time: UInt64, _ body: @escaping () -> Void) {
        eventLoop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(time), body)
    }

    private func begin(_ phase: Phase, at time: UInt64) {
        guard self.phase == .opening || self.phase == .warmingUp else { return }
        self.phase = phase
        let isWarmUp = phase == .warmingUp
        let schedule = plan.rate.map { LoadSchedule(start: time, rate: $0, loop: index, loops: plan.loops) }
        var end: UInt64?
        if case .duration(let duration) = plan.extent, !isWarmUp { end = time + duration }
        book.dispenser = LoadDispenser(
            schedule, loop: index, loops: plan.loops, limit: isWarmUp ? nil : plan.requests(ofLoop: index), end: end, isWarmUp: isWarmUp)
        book.isMeasuring = !isWarmUp
        if !isWarmUp { beginClock() }
        tick?.cancel()
        waiting.removeAll(keepingCapacity: true)
        for worker in workers {
            worker.isWaiting = false
            fill(worker)
            worker.flush()
        }
        runSchedule()
        finishIfDone()
    }

    private func beginClock() {
        begin = NIODeadline.now().uptimeNanoseconds
        cpuBegin = Self.threadNanoseconds()
    }

    private func drain() {
        guard phase != .draining, phase != .over else { return }
        // What has become due just now has its chance.
        runSchedule()
        tick?.cancel()
        phase = .draining
        book.stop(NIODeadline.now().uptimeNanoseconds)
        finishIfDone()
    }

    /// Ends the run when all is answered.
    func finishIfDone() {
        guard book.inFlight == 0, phase == .draining || phase == .measuring && book.dispenser.isEmpty else { return }
        phase = .over
        end = max(book.lastAnswer, begin)
        cpuEnd = Self.threadNanoseconds()
        watch?.cancel()
        for worker in workers { worker.leave() }
        finished.succeed()
    }

    private func lookForLife() {
        let last = max(book.lastAnswer, book.lastAwakening)
        guard book.inFlight > 0, NIODeadline.now().uptimeNanoseconds > last + plan.timeout else { return }
        fail(
            CommandFailure(
                .outcomeUnknown, "the server has stopped answering",
                why: "\(book.inFlight) requests wait, and nothing came for \(plan.timeout / 1_000_000) ms",
                remedy: "look at the server; a longer --timeout has more patience", code: "timeout"))
    }

    /// Processor time of this thread.
    private static func threadNanoseconds() -> UInt64 {
        var time = timespec()
        guard unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0 else { return 0 }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    // MARK: Requests

    /// A worker has read what there was, and may have room.
    func answersReceived(by worker: some LoadWorker) {
        fill(worker)
        finishIfDone()
    }

    private func fill(_ worker: any LoadWorker) {
        let now = NIODeadline.now().uptimeNanoseconds
        book.notice(now)
        worker.fill(from: &book, now)
        wait(worker)
    }

    private func wait(_ worker: any LoadWorker) {
        guard book.dispenser.schedule != nil, worker.hasRoom, !worker.isWaiting else { return }
        worker.isWaiting = true
        waiting.append(worker)
    }

    // MARK: The schedule

    /// Gives out what is due, in turn to those that have room, and comes back when the next is.
    private func runSchedule() {
        guard book.dispenser.schedule != nil else { return }
        let now = NIODeadline.now().uptimeNanoseconds
        book.notice(now)
        var begun: [any LoadWorker] = []
        let mayBegin = waiting.count
        while let worker = waiting.first {
            // It may have found something to do by itself.
            if worker.hasRoom {
                guard let ticket = book.next(now) else { break }
                worker.begin(ticket)
                if begun.count < mayBegin { begun.append(worker) }
            }
            waiting.removeFirst()
            worker.isWaiting = false
            wait(worker)
        }
        for worker in begun { worker.flush() }
        guard let next = book.dispenser.nextDue else { return }
        do {
            tick = try eventLoop.assumeIsolated().scheduleCallback(at: .uptimeNanoseconds(next), handler: DueRequest(loop: self))
        } catch {
            fail(error)
        }
    }

    private struct DueRequest: NIOScheduledCallbackHandler {
        let loop: LoadLoop

        func handleScheduledCallback(eventLoop: some EventLoop) { loop.runSchedule() }
    }
}
