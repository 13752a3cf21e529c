import MWACME
import UnixSignals

/// Runs what may be stopped by SIGINT and SIGTERM, and lets it clean up.
enum Interruption {
    /// - Parameter isQuiet: To be stopped is how it ends: there is nothing to say.
    /// - Throws: what `body` throws; after a signal, `CommandFailure` with status 130 or 143.
    static func stopping<Value: Sendable>(
        isQuiet: Bool = false, _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        // Before the start, so that no signal meets its default.
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
        return try await withThrowingTaskGroup(of: Event<Value>.self) { group in
            group.addTask {
                do { return .ended(.success(try await body())) } catch { return .ended(.failure(error)) }
            }
            group.addTask {
                for await signal in signals { return .signalled(signal) }
                return .listenerEnded
            }
            var signal: UnixSignal?
            while let event = try await group.next() {
                switch event {
                case .listenerEnded: break
                case .signalled(let received):
                    signal = received
                    group.cancelAll()
                case .ended(let result):
                    group.cancelAll()
                    // It was as good as done when the signal came.
                    if case .success(let value) = result, !isQuiet || signal == nil { return value }
                    if let signal { throw stopped(by: signal, isQuiet) }
                    return try result.get()
                }
            }
            throw stopped(by: signal ?? .sigterm, isQuiet)
        }
    }

    private enum Event<Value: Sendable>: Sendable {
        case ended(Result<Value, any Error>)
        case signalled(UnixSignal)
        case listenerEnded
    }

    private static func stopped(by signal: UnixSignal, _ isQuiet: Bool) -> CommandFailure {
        let status: ExitStatus = signal == .sigint ? .interrupted : .terminated
        if isQuiet { return .silent(status) }
        return CommandFailure(
            status, "stopped before it was done", why: "by a signal",
            remedy: "run it again: an order under way is resumed", code: "cancelled")
    }
}
