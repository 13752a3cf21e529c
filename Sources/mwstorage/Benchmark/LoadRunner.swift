import Glibc
import NIOCore
import NIOPosix
import UnixSignals

/// Opens the connections of a plan, runs it on its event loops, and gathers what they measured.
struct LoadRunner {
    /// From the start's command to the start, so that all loops begin together.
    private static let startDelay: UInt64 = 5_000_000

    let target: LoadTarget
    let plan: LoadPlan

    /// What a run came to, and the signal that ended it early.
    struct Outcome: Sendable {
        var result: LoadResult
        var signal: UnixSignal?
    }

    /// Opens all connections, lets them do their requests, and closes them.
    ///
    /// SIGINT and SIGTERM end it early, with what was measured until then; a second one ends it at once.
    ///
    /// - Parameter progress: Called about once a second with what was measured since the last time, and the seconds since the start.
    func run(progress: (@Sendable (LoadTally, Double) -> Void)?) async throws -> Outcome {
        try await withLoops { loops in
            let address = try await open(loops)
            if plan.kind == .handshake { for loop in loops { try await loop.prepareHandshakes(at: address) } }
            let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
            let start = NIODeadline.now().uptimeNanoseconds + Self.startDelay
            for loop in loops { loop.start(at: start) }
            let signal = try await finish(loops, signals, progress)
            var outcome = Outcome(result: LoadResult(), signal: signal)
            for loop in loops { outcome.result.add(try await loop.result()) }
            return outcome
        }
    }

    /// Opens all connections and holds them while `body` runs, which may block.
    func hold(_ body: @escaping @Sendable (Int) throws -> Void) async throws {
        try await withLoops { loops in
            _ = try await open(loops)
            try await NIOThreadPool.singleton.runIfActive { try body(plan.connections) }
            for loop in loops { try await loop.check() }
        }
    }

    private func withLoops<Result: Sendable>(_ body: ([LoadLoop]) async throws -> Result) async throws -> Result {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: plan.loops)
        let values = LoadValues(length: plan.valueBytes, seed: plan.keys.seed)
        let loops = group.makeIterator().enumerated().map { LoadLoop(plan, target, values, index: $0.offset, eventLoop: $0.element) }
        do {
            let result = try await body(loops)
            for loop in loops { await loop.close() }
            try await group.shutdownGracefully()
            return result
        } catch {
            for loop in loops { await loop.close() }
            try? await group.shutdownGracefully()
            throw error
        }
    }

    /// - Returns: The server's address, as the first connection found it.
    private func open(_ loops: [LoadLoop]) async throws -> SocketAddress? {
        let address = try await loops.first?.openFirst()
        guard plan.kind != .handshake else { return address }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for loop in loops { tasks.addTask { try await loop.openAll(at: address) } }
            do { try await tasks.waitForAll() } catch {
                // Nobody waits for the rest.
                for loop in loops { await loop.close() }
                throw error
            }
        }
        return address
    }

    private enum Event: Sendable {
        case finished(Result<Void, any Error>)
        case signalled(UnixSignal)
        case second
    }

    private func finish(
        _ loops: [LoadLoop], _ signals: UnixSignalsSequence, _ progress: (@Sendable (LoadTally, Double) -> Void)?
    ) async throws -> UnixSignal? {
        let clock = ContinuousClock()
        let start = clock.now
        let (events, happened) = AsyncStream<Event>.makeStream()
        EventLoopFuture.andAllSucceed(loops.map(\.whenFinished), on: loops[0].eventLoop).whenComplete { happened.yield(.finished($0)) }
        return try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { for await signal in signals { happened.yield(.signalled(signal)) } }
            if progress != nil {
                tasks.addTask {
                    for second in 1... {
                        try await Task.sleep(until: start + .seconds(second), clock: .continuous)
                        happened.yield(.second)
                    }
                }
            }
            defer { tasks.cancelAll() }
            var signal: UnixSignal?
            for await event in events {
                switch event {
                case .finished(let result):
                    try result.get()
                    return signal
                case .signalled(let received):
                    guard signal == nil else { throw CommandFailure.silent(Self.status(of: received)) }
                    signal = received
                    for loop in loops { loop.finishEarly() }
                case .second:
                    var interval = LoadTally()
                    for loop in loops { interval.add(try await loop.takeInterval()) }
                    progress?(interval, start.duration(to: clock.now) / .seconds(1))
                }
            }
            return signal
        }
    }

    static func status(of signal: UnixSignal) -> ExitStatus { signal == .sigint ? .interrupted : .terminated }
}

extension LoadResult {
    /// Joins what several loops measured at the same time.
    fileprivate mutating func add(_ other: LoadResult) {
        tally.add(other.tally)
        seconds = max(seconds, other.seconds)
        cpuSeconds += other.cpuSeconds
        firstFailure = firstFailure ?? other.firstFailure
        firstWrong = firstWrong ?? other.firstWrong
        isValueMissing = isValueMissing || other.isValueMissing
    }
}
