internal import Synchronization

/// Whether another connection may be accepted, by the descriptors it would take. A value: the shell pauses and resumes its listeners.
///
/// Connections wait in the system's queue meanwhile, and are accepted when others end. The engine needs descriptors too: without a reserve,
/// connections could take those of its next file, and writes would fail.
package struct AcceptGate: Sendable {
    package enum Action: Sendable, Hashable {
        case none
        case pause
        case resume
    }

    /// Connections at which to pause, and at which to go on.
    private let high: Int
    private let low: Int
    package private(set) var connections = 0
    package private(set) var isPaused = false

    /// A paused listener goes on when this part of the connections has ended: not for each of them.
    private static let lowDivisor = 16

    /// - Parameters:
    ///   - descriptors: What the process may have open.
    ///   - reserve: Those that connections leave to others; at most half of them all.
    package init(descriptors: Int, reserve: Int) {
        self.high = max(1, descriptors - min(reserve, descriptors / 2))
        self.low = self.high - max(1, self.high / Self.lowDivisor)
    }

    package mutating func accepted() -> Action {
        self.connections += 1
        guard !self.isPaused, self.connections >= self.high else { return .none }
        self.isPaused = true
        return .pause
    }

    package mutating func closed() -> Action {
        self.connections -= 1
        guard self.isPaused, self.connections <= self.low else { return .none }
        self.isPaused = false
        return .resume
    }
}
