package import MWTLS
package import NIOCore
internal import NIOPosix

// Open connections are judged again by each new ``SecuritySet``. Three steps, of which only the first and the last run on event loops, in
// slices:
//
//     who is there ─▶ one verdict for each different presentation, on worker threads ─▶ each session stays, or closes with 1008
//
// 10,000 connections share few certificates, most often; where they do not, those that a glance at lists, anchors and the policy finds
// come first.

/// What became of the open connections of a server.
package struct JudgingOutcome: Sendable, Hashable {
    package var judged = 0
    package var closed = 0
    /// Those that stayed, with another name or other rights.
    package var changed = 0
}

/// Verdicts by what peers presented.
package typealias PeerVerdicts = [VerifiedPeer.Presentation: PeerVerdict]

/// The sessions of one event loop that were open at one moment, by what their peers presented. Used on that loop only.
package final class SessionRoll {
    private let loop: SessionLoop
    private var sessions: [VerifiedPeer.Presentation: [SessionHandler]] = [:]

    fileprivate init(of loop: SessionLoop) { self.loop = loop }

    fileprivate func add(_ session: SessionHandler) { self.sessions[session.peer.presentation, default: []].append(session) }

    /// One peer of each presentation.
    package var peers: [VerifiedPeer] { self.sessions.values.compactMap { $0.first?.peer } }

    /// Applies what `set` says to those that are still open.
    package func apply(_ verdicts: PeerVerdicts, of set: SecuritySet) -> EventLoopFuture<JudgingOutcome> {
        let outcome = NIOLoopBoundBox(JudgingOutcome(), eventLoop: self.loop.eventLoop)
        let judged = verdicts.flatMap { presentation, verdict in (self.sessions[presentation] ?? []).map { ($0, verdict) } }
        return self.loop.inSlices(judged) { session, verdict in
            session.apply(verdict, generation: set.generation, counting: &outcome.value)
        }.map { outcome.value }
    }
}

extension SessionLoop {
    /// Sessions that are looked at before the loop's other work gets its turn: some 100 us.
    private static let sliceLength = 128

    /// Everybody who is there now. Who comes later has been judged by the newest set before its 101.
    package func takeRoll() -> EventLoopFuture<SessionRoll> {
        let roll = NIOLoopBound(SessionRoll(of: self), eventLoop: self.eventLoop)
        return self.inSlices(self.sessions) { roll.value.add($0) }.assumeIsolated().map { roll.value }.nonisolated()
    }

    /// Calls `body` with every element, some of them at a time. What sessions write meanwhile leaves at the end of each slice.
    fileprivate func inSlices<Element>(_ elements: [Element], _ body: @escaping (Element) -> Void) -> EventLoopFuture<Void> {
        let promise = self.eventLoop.makePromise(of: Void.self)
        self.runSlice(of: elements[...], promise, body)
        return promise.futureResult
    }

    private func runSlice<Element>(
        of rest: ArraySlice<Element>, _ promise: EventLoopPromise<Void>, _ body: @escaping (Element) -> Void
    ) {
        self.turn { for element in rest.prefix(Self.sliceLength) { body(element) } }
        let left = rest.dropFirst(Self.sliceLength)
        guard !left.isEmpty else { return promise.succeed(()) }
        // A delay, however short, lets the loop look at its sockets first.
        self.eventLoop.assumeIsolated().scheduleTask(in: .microseconds(10)) { self.runSlice(of: left, promise, body) }
    }
}

extension SessionServer {
    /// Presentations that one worker judges before what it found is applied.
    private static let batchLength = 64

    /// Judges every open connection by `set`, which is in use already. Returns when none is served any more that it refuses.
    package func judgeSessions(by set: SecuritySet) async -> JudgingOutcome {
        var rolls: [NIOLoopBound<SessionRoll>] = []
        var peers: [VerifiedPeer.Presentation: VerifiedPeer] = [:]
        for bound in self.sessionLoops {
            let called = try? await bound.eventLoop.flatSubmit {
                bound.value.takeRoll().assumeIsolated().map { roll in
                    (NIOLoopBound(roll, eventLoop: bound.eventLoop), roll.peers)
                }.nonisolated()
            }.get()
            // A loop that has ended has no sessions.
            guard let (roll, present) = called else { continue }
            rolls.append(roll)
            for peer in present { peers[peer.presentation] = peer }
        }
        var outcome = JudgingOutcome()
        var (suspects, others): ([VerifiedPeer], [VerifiedPeer]) = ([], [])
        for peer in peers.values { if set.isSuspect(peer) { suspects.append(peer) } else { others.append(peer) } }
        for group in [suspects, others] {
            await withTaskGroup(of: JudgingOutcome.self) { tasks in
                for start in stride(from: 0, to: group.count, by: Self.batchLength) {
                    let batch = Array(group[start..<min(start + Self.batchLength, group.count)])
                    tasks.addTask { [rolls] in await Self.judge(batch, by: set, in: rolls) }
                }
                for await result in tasks { outcome.add(result) }
            }
        }
        return outcome
    }

    private static func judge(
        _ peers: [VerifiedPeer], by set: SecuritySet, in rolls: [NIOLoopBound<SessionRoll>]
    ) async -> JudgingOutcome {
        let judge: @Sendable () -> PeerVerdicts = {
            Dictionary(peers.map { ($0.presentation, set.judge($0)) }, uniquingKeysWith: { first, _ in first })
        }
        let verdicts = (try? await NIOThreadPool.singleton.runIfActive(judge)) ?? judge()
        var outcome = JudgingOutcome()
        for roll in rolls {
            let result = try? await roll.eventLoop.flatSubmit { roll.value.apply(verdicts, of: set) }.get()
            outcome.add(result ?? JudgingOutcome())
        }
        return outcome
    }
}

extension JudgingOutcome {
    fileprivate mutating func add(_ other: JudgingOutcome) {
        self.judged += other.judged
        self.closed += other.closed
        self.changed += other.changed
    }
}
