/// When the files that say who gets in are read again: identity, trust store, revocation lists, refusals and access policy, always together.
public struct ReloadPolicy: Sendable, Hashable {
    /// Between two looks at whether the files are other ones. A change is loaded at the second look that finds it, so that it is complete.
    /// `nil` is never. Default 1 s: a few system calls, and a certificate that was replaced is in use two seconds later.
    public var watchInterval: Duration? = .seconds(1)

    /// Between two loads although nothing seems to have changed, and after one that failed a tenth of it. `nil` is never. Default 1 h: what
    /// changes without new files, as a clock that was wrong.
    public var interval: Duration? = .seconds(3600)

    /// How long a set that does not fit together is read again before that is an error: who replaces a certificate and its key writes two
    /// files. Default 5 s.
    public var settleTimeout: Duration = .seconds(5)

    /// Between two such attempts. Default 200 ms.
    public var settleInterval: Duration = .milliseconds(200)

    /// The defaults.
    public init() {}
}

/// What asked for a reload.
package enum ReloadTrigger: Sendable, Hashable, CustomStringConvertible {
    case start
    case signal
    case files
    case timer
    /// A certificate of our own was renewed.
    case renewal
    /// An administrator, by its principal.
    case administrator(String)
    /// The program that embeds the server.
    case program

    package var description: String {
        switch self {
        case .start: "start"
        case .signal: "signal"
        case .files: "files"
        case .timer: "timer"
        case .renewal: "renewal"
        case .administrator(let name): name
        case .program: "program"
        }
    }
}
