import Logging
import NIOCore
import Synchronization

/// What every client is made of: an engine on its event loop, and the way to it from any task.
final class ClientCore: Sendable {
    let shared: ClientEngine.Shared
    private let engine: NIOLoopBoundBox<ClientEngine>
    private let eventLoop: any EventLoop
    private let inbox = CallInbox()
    private let limits: StorageClientConfiguration.Limits
    private let requestTimeout: Duration

    /// - Throws: ``ClientError`` with `invalidArgument`.
    init(
        _ configuration: StorageClientConfiguration, speaking clientProtocol: ClientProtocol, logger: Logger, eventLoop: any EventLoop,
        environment: ClientEnvironment = ClientEnvironment()
    ) throws {
        try configuration.validate()
        self.eventLoop = eventLoop
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
    func close() async {
        await withCheckedContinuation { continuation in
            self.onLoop { engine in
                engine.whenEnded { continuation.resume() }
                engine.close(letCallsFinish: true)
            }
        }
    }

    /// Runs for as long as `body` runs, then closes.
    func whileRunning<Result: Sendable>(_ body: () async throws -> Result) async throws -> Result {
        try await withThrowingTaskGroup(of: Void.self) { group in
            // A client that gives up fails every call with the reason: `body` learns it there.
            group.addTask { try? await self.run() }
            do {
                let result = try await body()
                await self.close()
                return result
            } catch {
                await self.close()
                throw error
            }
        }
    }

    // MARK: Calls

    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    func call(_ request: Request, _ timeout: Duration?) async throws -> Answer {
        let bytes = request.maximumMessageBytes
        guard bytes <= self.limits.maximumMessageBytes else {
            throw ClientError(
                .invalidArgument, subject: "\(request.kind)", what: "is too large for one message", found: "\(bytes) bytes",
                expected: "at most \(self.limits.maximumMessageBytes)", remedy: "split it into several calls")
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

    // MARK: Watches

    /// Has `body` work with the engine's watches, on the event loop; what it writes is sent then.
    func withWatches(_ body: @escaping @Sendable (WatchDesk, NoticeDesk) -> Void) {
        self.onLoop { engine in
            body(engine.watches, engine.notices)
            engine.flush()
        }
    }

    private func submit(_ submission: CallInbox.Submission) {
        if self.inbox.submit(submission) { self.onLoop { $0.submissionsArrived() } }
    }

    private func onLoop(_ body: @escaping @Sendable (ClientEngine) -> Void) {
        self.eventLoop.execute { [engine] in body(engine.value) }
    }
}
