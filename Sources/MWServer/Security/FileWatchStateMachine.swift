package import MWPKI
package import NIOCore

/// When to load files again that somebody replaces.
///
///     in use ──other files──▶ changed ──the same at the next look──▶ reload ──▶ in use, or refused until the files change again
///        ▲                       │ still other ones                              (or a tenth of the interval is over)
///        └── the interval is over: reload
///
/// It looks at names, sizes and times only, as they are behind any symbolic link: a volume that is switched by renaming one is a change.
package struct FileWatchStateMachine: Sendable {
    package enum Action: Sendable, Hashable {
        case none
        case reload(ReloadTrigger)
    }

    private let policy: ReloadPolicy
    /// What the set in use was read from.
    package private(set) var loaded: FileSnapshot
    /// What the last attempt read, whether or not it could be used.
    private var tried: FileSnapshot
    /// What the last look found, if that was something new, and since when it is always something else.
    private var found: FileSnapshot?
    private var restlessSince: NIODeadline?
    private var lastAttempt: NIODeadline
    private var hasFailed = false

    /// After a failure the files are tried again this much sooner.
    private static let failedDivisor = 10

    package init(_ policy: ReloadPolicy, loaded: FileSnapshot, at now: NIODeadline) {
        self.policy = policy
        self.loaded = loaded
        self.tried = loaded
        self.lastAttempt = now
    }

    /// The files are so at this look.
    package mutating func polled(_ snapshot: FileSnapshot, at now: NIODeadline) -> Action {
        if self.policy.watchInterval != nil, snapshot != self.tried {
            defer { self.found = snapshot }
            let since = self.restlessSince ?? now
            self.restlessSince = since
            // Files that never rest are read all the same: somebody writes one of them all the time.
            return self.found == snapshot || now >= since + TimeAmount(self.policy.settleTimeout) ? .reload(.files) : .none
        }
        self.found = nil
        self.restlessSince = nil
        guard let interval = self.policy.interval else { return .none }
        let due = self.lastAttempt + TimeAmount(self.hasFailed ? interval / Self.failedDivisor : interval)
        return now >= due ? .reload(.timer) : .none
    }

    /// Somebody, for whatever reason, reads the files, which are so.
    package mutating func reloadBegan(with snapshot: FileSnapshot) {
        self.tried = snapshot
        self.found = nil
        self.restlessSince = nil
    }

    /// What was read last is in use now, or cannot be.
    package mutating func reloadEnded(isDone: Bool, at now: NIODeadline) {
        if isDone { self.loaded = self.tried }
        self.hasFailed = !isDone
        self.lastAttempt = now
    }
}
