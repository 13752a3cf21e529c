internal import Logging
package import MWProtocol
internal import NIOCore
internal import Synchronization

// What the server tells its clients unasked: to read afresh, and that it is about to end.

extension StorageServer {
    /// How long an answer to `reloadClients` waits for those who do not say that they are done: by default, and at most.
    static let reloadTimeout: Duration = .seconds(10)
    static let maximumReloadTimeout: Duration = .seconds(60)

    /// Has clients drop what they hold and read it afresh.
    ///
    /// - Parameter asking: The connection that wants it, which is not asked.
    package func perform(
        _ request: NativeReloadClientsRequest, by administrator: Principal, on asking: UInt64
    ) async throws -> NativeReloadClients {
        try self.requireNotRefused(administrator)
        let milliseconds = request.timeoutMilliseconds
        guard milliseconds >= 0, Duration.milliseconds(milliseconds) <= Self.maximumReloadTimeout else {
            throw NativeFailure(
                .invalidArgument, "a timeout of \(milliseconds) ms",
                remedy: "wait for at most \(Self.maximumReloadTimeout), or 0: the default")
        }
        // Whoever reads the notices must be able to take them for what they are.
        if !request.ranges.isEmpty { _ = try WatchRanges.pieces(request.ranges, maximum: self.configuration.limits.maximumRangesPerWatch) }
        let sessions = try self.running().sessions
        var notice = NativeReloadNotice()
        notice.reload = self.lastReload.add(1, ordering: .relaxed).newValue
        notice.ranges = request.ranges
        notice.reason = request.reason
        let tally = ClientTally()
        let forced = await sessions.gather { [notice, principal = request.principal, code = self.configuration.closeCodes.restart] loop in
            loop.askToReload(notice, tally, principal: principal, besides: asking, code: code)
        }
        let timeout = milliseconds == 0 ? Self.reloadTimeout : .milliseconds(milliseconds)
        if let loop = sessions.eventLoops.first { await tally.settle(within: timeout, on: loop) }
        let outcome = tally.outcome
        var reply = NativeReloadClients()
        reply.asked = Int64(outcome.asked)
        reply.acknowledged = Int64(outcome.done)
        reply.unanswered = outcome.unanswered.map { "\($0.principal) \($0.address)" }
        reply.forced = Int64(forced.reduce(0, +))
        return reply
    }

    /// Tells native clients that the server is about to end; returns when they have left, after
    /// ``StorageServerConfiguration/drainNoticePeriod`` at the latest.
    func tellOfDrain(_ sessions: SessionServer) async {
        let period = min(self.configuration.drainNoticePeriod, self.configuration.drainTimeout / 2)
        guard period > .zero else { return }
        var notice = NativeDrainNotice()
        notice.withinMilliseconds = Int64(clamping: TimeAmount(self.configuration.drainTimeout).nanoseconds / 1_000_000)
        let tally = ClientTally()
        let told = await sessions.gather { [notice] loop in loop.tellOfDrain(notice, tally) }
        guard told.contains(where: { $0 > 0 }), let loop = sessions.eventLoops.first else { return }
        await tally.settle(within: period, on: loop)
    }
}

extension SessionLoop {
    /// Asks native clients, and has mwDB's come back.
    ///
    /// - Returns: How many connections it closed.
    fileprivate func askToReload(
        _ notice: NativeReloadNotice, _ tally: ClientTally, principal: String?, besides asking: UInt64, code: UInt16
    ) -> Int {
        var forced = 0
        self.turn {
            for session in self.sessions where session.isOpen && session.info.connectionID != asking {
                guard principal.map({ $0 == session.info.principal.name }) ?? true else { continue }
                switch session.delegate {
                case let native as NativeSession: native.watches.askToReload(notice, tally, of: native, in: session)
                case is MWDBSession:
                    forced += 1
                    session.close(.reload, code, "an administrator wants this client to read afresh")
                default: break
                }
            }
        }
        return forced
    }

    /// - Returns: How many were told.
    fileprivate func tellOfDrain(_ notice: NativeDrainNotice, _ tally: ClientTally) -> Int {
        var told = 0
        self.turn {
            for session in self.sessions where session.isOpen {
                guard let native = session.delegate as? NativeSession else { continue }
                native.watches.tellOfDrain(notice, tally, of: native, in: session)
                told += 1
            }
        }
        return told
    }
}
