import Logging
import NIOCore
import Synchronization

/// What every client is made of: an engine on its event loop, and the way to it from any task.
final class ClientCore: Sendable {
    let shared: ClientEngine.Shared
    let clientProtocol: ClientProtocol
    /// For what is not the engine's: the jitter of watches.
    let random: any RandomNumberGenerator & Sendable
    private let engine: NIOLoopBoundBox<ClientEngine>
    let eventLoop: any EventLoop
    private let inbox = CallInbox()
    private let limits: StorageClientConfiguration.Limits
    let requestTimeout: Duration
    private let lastHolder = Atomic<UInt64>(0)

    /// - Throws: ``ClientError`` with `invalidArgument`.
    init(
        _ configuration: StorageClientConfiguration, speaking clientProtocol: ClientProtocol, logger: Logger, eventLoop: any EventLoop,
        environment: ClientEnvironment = ClientEnvironment()
    ) throws {
        try configuration.validate()
        self.random = environment.random
        self.eventLoop = eventLoop
        self.clientProtocol = clientProtocol
        self.limits = configuration.limits
        self.requestTimeout = configuration.timeouts.request
        self.shared = ClientEngine.Shared(queue: configuration.queue)
        self.engine = .makeBoxSendingValue(
            ClientEngine(
                configuration: configuration, speaking: clientProtocol, logger: logger, eventLoop: eventLoop, inbox: self.inbox,
                shared: self.shared, environment: environment),
            eventLoop: eventLoop)
    }

    // MARK: Life

    /// As ``StorageClient/run()``.
    func run() async throws {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                self.onLoop { $0.start(continuation) }
            }
        } onCancel: {
            self.onLoop { $0.close(letCallsFinish: false) }
        }
    }

    /// As ``StorageClient/close()``.
    func close() async { await self.close(letCallsFinish: true) }

    private func close(letCallsFinish: Bool) async {
        await withCheckedContinuation { continuation in
            self.onLoop { engine in
                engine.whenEnded { continuation.resume() }
                engine.close(letCallsFinish: letCallsFinish)
            }
        }
    }

    /// Runs for as long as `body` runs, then closes: when the surrounding task is cancelled, too, `body` ends first, so that it can still say
    /// what it has to say.
    func whileRunning<Result: Sendable>(_ body: () async throws -> Result) async throws -> Result {
        try await withThrowingTaskGroup(of: Void.self) { group in
            // A client that gives up fails every call with the reason: `body` learns it there.
            group.addTask {
                try? await withCheckedThrowingContinuation { continuation in self.onLoop { $0.start(continuation) } }
            }
            do {
                let result = try await body()
                await self.close(letCallsFinish: !Task.isCancelled)
                return result
            } catch {
                await self.close(letCallsFinish: !Task.isCancelled)
                throw error
            }
        }
    }

    // MARK: Calls

    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    func call(_ request: Request, _ timeout: Duration?) async throws -> Answer {
        guard request.maximumMessageBytes <= self.limits.maximumMessageBytes else {
            throw ClientError.tooLarge(request, maximum: self.limits.maximumMessageBytes)
        }
        let deadline = self.eventLoop.now + TimeAmount(timeout ?? self.requestTimeout)
        let id = self.inbox.makeID()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                self.submit(.call(id, request, deadline: deadline, continuation))
                // A cancellation before the submission found nothing to cancel: say it again behind it.
                if Task.isCancelled { self.submit(.cancel(id)) }
            }
        } onCancel: {
            self.submit(.cancel(id))
        }
    }

    /// Sends a request whose answer nobody heeds on the connection in use, or on none.
    ///
    /// - Parameter onlyOn: only if it is this one.
    func post(_ request: Request, onlyOn connection: UInt64? = nil) { self.submit(.post(request, onlyOn: connection)) }

    // MARK: Time

    /// Sleeps by the event loop's clock, which a test may drive; throws `CancellationError`.
    func sleep(until deadline: NIODeadline) async throws {
        let sleeper = Sleeper()
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                guard sleeper.begin(continuation) else { return }
                self.eventLoop.scheduleTask(deadline: deadline) { sleeper.end(.success(())) }
            }
        } onCancel: {
            sleeper.end(.failure(CancellationError()))
        }
    }

    // MARK: Watches

    /// Has `body` work with the engine's watches, on the event loop; what it writes is sent then.
    func withWatches(_ body: @escaping @Sendable (WatchDesk, NoticeDesk) -> Void) {
        self.onLoop { engine in
            body(engine.watches, engine.notices)
            engine.flush()
        }
    }

    // MARK: Reload notices

    /// Has `handler` take reload notices.
    func holdReloads(_ handler: @escaping ReloadHandler) -> ReloadHolderID {
        let id = ReloadHolderID(rawValue: self.lastHolder.wrappingAdd(1, ordering: .relaxed).newValue)
        self.onLoop { $0.notices.hold(id, handler) }
        return id
    }

    func releaseReloads(_ id: ReloadHolderID) { self.onLoop { $0.notices.release(id) } }

    /// Sends what watches have written. On the event loop only.
    func flush() { self.engine.value.flush() }

    private func submit(_ submission: CallInbox.Submission) {
        if self.inbox.submit(submission) { self.onLoop { $0.submissionsArrived() } }
    }

    private func onLoop(_ body: @escaping @Sendable (ClientEngine) -> Void) {
        self.eventLoop.execute { [engine] in body(engine.value) }
    }
}

/// One sleep: ends once, by its time or by cancellation, which may come before it began.
final class Sleeper: Sendable {
    private enum State {
        case new
        case waiting(CheckedContinuation<Void, any Error>)
        case ended(Result<Void, any Error>)
    }

    private let state = Mutex(State.new)

    /// - Returns: false: it has ended already.
    func begin(_ continuation: CheckedContinuation<Void, any Error>) -> Bool {
        let ended: Result<Void, any Error>? = self.state.withLock { state in
            if case .ended(let result) = state { return result }
            state = .waiting(continuation)
            return nil
        }
        guard let ended else { return true }
        continuation.resume(with: ended)
        return false
    }

    func end(_ result: Result<Void, any Error>) {
        let continuation: CheckedContinuation<Void, any Error>? = self.state.withLock { state in
            defer { if case .ended = state {} else { state = .ended(result) } }
            if case .waiting(let continuation) = state { return continuation }
            return nil
        }
        continuation?.resume(with: result)
    }
}
