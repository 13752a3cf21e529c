package import MWACME
internal import MWPKI

/// The time and the passing of it; tests have one that only sleeping moves.
package protocol ManagerClock: Sendable {
    func now() -> Moment
    /// On a monotonic clock. Throws `CancellationError`.
    func sleep(for duration: Duration) async throws
}

/// The system's: wall clock and `ContinuousClock`, which also counts while a machine is suspended.
package struct SystemClock: ManagerClock {
    private let beginning: ContinuousClock.Instant

    package init() { beginning = ContinuousClock.now }

    package func now() -> Moment { Moment(date: .now(), uptime: beginning.duration(to: .now)) }

    package func sleep(for duration: Duration) async throws { try await Task.sleep(for: duration, clock: .continuous) }
}
