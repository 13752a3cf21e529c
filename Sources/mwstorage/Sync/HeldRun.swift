import MWClient
import Synchronization
import UnixSignals

/// Runs a program for as long as something is held, and passes signals on to it: those that come before it runs stop the waiting.
final class HeldRun: Sendable {
    private struct State {
        var process: HeldProcess?
        var stopped: UnixSignal?
    }

    private let state = Mutex(State())
    private let grace: Duration

    private init(grace: Duration) { self.grace = grace }

    /// - Parameters:
    ///   - grace: between the request to end and the end.
    ///   - hold: Acquires, calls the function it is given with the variables to set, and releases; it cancels that call when what it holds
    ///     is lost.
    /// - Returns: The program's exit code.
    /// - Throws: what `hold` throws; `CommandFailure` with status 130 or 143 after a signal before the program ran.
    static func run(
        _ words: [String], grace: Duration = HeldProcess.terminationGrace,
        hold: @escaping @Sendable (_ run: @escaping @Sendable ([String: String]) async throws -> Int32) async throws -> Int32
    ) async throws -> Int32 {
        let held = HeldRun(grace: grace)
        // Before the start, so that no signal meets its default.
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm, .sighup, .sigquit, .sigusr1, .sigusr2)
        return try await withThrowingTaskGroup(of: Int32?.self) { group in
            group.addTask { try await hold { try await held.run(words, $0) } }
            group.addTask {
                for await signal in signals { try held.received(signal) }
                return nil
            }
            defer { group.cancelAll() }
            while let code = try await group.next() { if let code { return code } }
            throw CancellationError()
        }
    }

    private func received(_ signal: UnixSignal) throws {
        let process = state.withLock { state in
            if state.process == nil { state.stopped = signal }
            return state.process
        }
        if let process { return process.forward(signal.rawValue) }
        throw Self.stopped(by: signal)
    }

    /// Until it ends. Cancelled, it makes the program end.
    private func run(_ words: [String], _ variables: [String: String]) async throws -> Int32 {
        // What was held is lost already.
        try Task.checkCancellation()
        let process = try state.withLock { state in
            if let signal = state.stopped { throw Self.stopped(by: signal) }
            let process = try HeldProcess(words, variables: variables)
            state.process = process
            return process
        }
        return await withTaskGroup(of: Int32?.self) { group in
            group.addTask { await process.waitUntilEnded() }
            group.addTask { [grace] in
                await Self.untilCancelled()
                await process.end(grace: grace)
                return nil
            }
            while let code = await group.next() {
                guard let code else { continue }
                // Nobody is there any more to be ended.
                group.cancelAll()
                return code
            }
            return ExitStatus.internalError.rawValue
        }
    }

    private static func untilCancelled() async {
        let long = Duration.seconds(3600)
        while !Task.isCancelled { try? await Task.sleep(for: long) }
    }

    private static func stopped(by signal: UnixSignal) -> CommandFailure {
        CommandFailure(
            signal == .sigint ? .interrupted : .terminated, "stopped before the command ran", why: "by a signal", code: "cancelled")
    }
}
