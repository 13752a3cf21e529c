import MWClient
import MWWebSocket
import NIOCore
import Testing

@Suite struct ReconnectionStateMachineTests {
    @Test(
        "what is never retried, what a few times, and what always",
        arguments: [
            (ConnectionFailure.certificate, ConnectionFailure.Verdict.never), (.openingHandshake, .never), (.violation, .never),
            (.status(401), .never), (.status(403), .never), (.status(404), .never), (.status(426), .never), (.status(302), .never),
            (.status(500), .retry), (.status(502), .retry), (.status(503), .retry), (.status(429), .retry),
            (.closed(CloseCode(rawValue: 1002)), .never), (.closed(CloseCode(rawValue: 1003)), .never),
            (.closed(CloseCode(rawValue: 1007)), .never), (.closed(CloseCode(rawValue: 1008)), .never),
            (.closed(CloseCode(rawValue: 1009)), .never), (.closed(CloseCode(rawValue: 1010)), .never),
            (.closed(CloseCode(rawValue: 1001)), .retry), (.closed(CloseCode(rawValue: 1011)), .retry),
            (.closed(CloseCode(rawValue: 1012)), .retry), (.closed(CloseCode(rawValue: 1013)), .retry),
            (.closed(nil), .retry), (.network, .retry), (.keepAlive, .retry), (.timedOut(.tls), .retry),
            (.authentication(reason: "handshake_failure"), .retryLimited(times: 1)),
            (.identity(reason: "keyMismatch"), .retryLimited(times: 6)),
        ])
    func verdicts(failure: ConnectionFailure, verdict: ConnectionFailure.Verdict) {
        #expect(failure.verdict == verdict)
    }

    @Test("every endpoint is tried before the first wait, in an order that the random numbers decide", arguments: 0..<20)
    func endpointsBeforeWaiting(seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        var machine = ReconnectionStateMachine(endpointCount: 5, policy: .init())
        for round in 1...3 {
            var tried = [round == 1 ? machine.started(using: &random) : machine.waitElapsed(using: &random) ?? -1]
            while case .connect(let endpoint) = machine.attemptFailed(.network, using: &random) { tried.append(endpoint) }
            #expect(tried.sorted() == [0, 1, 2, 3, 4])
        }
    }

    @Test("the order differs from client to client")
    func shuffled() {
        let first = Set(
            (0..<50).map { seed in
                var random = SeededRandom(seed: UInt64(seed))
                var machine = ReconnectionStateMachine(endpointCount: 4, policy: .init())
                return machine.started(using: &random)
            })
        #expect(first == [0, 1, 2, 3])
    }

    @Test("a lost connection waits first, so that clients dropped together do not come back together")
    func lostWaits() {
        var random = HighestRandom()
        var machine = ReconnectionStateMachine(endpointCount: 3, policy: .init())
        _ = machine.started(using: &random)
        _ = machine.established(now: .uptimeNanoseconds(0))
        #expect(machine.connectionLost(.network, using: &random) == .wait(attempt: 1, after: .milliseconds(100)))
    }

    @Test("connections that neither answer nor last keep the backoff growing; an answer starts it over")
    func backoffReset() {
        var random = HighestRandom()
        var machine = ReconnectionStateMachine(endpointCount: 1, policy: .init())
        var waits: [ReconnectionStateMachine.NextAction] = []
        _ = machine.started(using: &random)
        for _ in 1...3 {
            _ = machine.established(now: .uptimeNanoseconds(0))
            waits.append(machine.connectionLost(.network, using: &random))
            _ = machine.waitElapsed(using: &random)
        }
        _ = machine.established(now: .uptimeNanoseconds(0))
        machine.requestAnswered()
        waits.append(machine.connectionLost(.network, using: &random))
        #expect(
            waits == [
                .wait(attempt: 1, after: .milliseconds(100)), .wait(attempt: 2, after: .milliseconds(200)),
                .wait(attempt: 3, after: .milliseconds(400)), .wait(attempt: 1, after: .milliseconds(100)),
            ])
    }

    @Test("ten seconds up start the backoff over, a moment less does not", arguments: [(9_999, 2), (10_000, 1)])
    func stability(milliseconds: Int64, attempt: Int) {
        var random = HighestRandom()
        var machine = ReconnectionStateMachine(endpointCount: 1, policy: .init())
        _ = machine.started(using: &random)
        _ = machine.attemptFailed(.network, using: &random)
        _ = machine.waitElapsed(using: &random)
        let start = NIODeadline.uptimeNanoseconds(0)
        #expect(machine.established(now: start) == .seconds(10))
        machine.stabilityElapsed(now: start + .milliseconds(milliseconds))
        guard case .wait(attempt, _) = machine.connectionLost(.network, using: &random) else {
            Issue.record("expected a wait")
            return
        }
    }

    @Test("a final failure ends a client with one endpoint; with two, the other goes on alone")
    func finalFailures() {
        var random = SeededRandom(seed: 7)
        var alone = ReconnectionStateMachine(endpointCount: 1, policy: .init())
        _ = alone.started(using: &random)
        #expect(alone.attemptFailed(.certificate, using: &random) == .giveUp)

        var pair = ReconnectionStateMachine(endpointCount: 2, policy: .init())
        let first = pair.started(using: &random)
        #expect(pair.attemptFailed(.status(403), using: &random) == .connect(endpoint: 1 - first))
        for _ in 0..<10 {
            guard case .wait = pair.attemptFailed(.network, using: &random) else {
                Issue.record("expected a wait")
                return
            }
            #expect(pair.waitElapsed(using: &random) == 1 - first)
        }
        #expect(pair.attemptFailed(.certificate, using: &random) == .giveUp)
    }

    @Test("a connection that proved itself makes a final failure elsewhere worth another look")
    func finalFailuresAreForgottenAfterProof() {
        var random = SeededRandom(seed: 7)
        var machine = ReconnectionStateMachine(endpointCount: 2, policy: .init())
        _ = machine.started(using: &random)
        _ = machine.attemptFailed(.status(403), using: &random)
        _ = machine.established(now: .uptimeNanoseconds(0))
        machine.requestAnswered()
        _ = machine.connectionLost(.network, using: &random)
        var tried = [machine.waitElapsed(using: &random)]
        if case .connect(let next) = machine.attemptFailed(.network, using: &random) { tried.append(next) }
        #expect(Set(tried) == [0, 1])
    }

    @Test("the same authentication error twice ends it; another one, or a success between, does not")
    func authenticationTwice() {
        var random = SeededRandom(seed: 3)
        let a = ConnectionFailure.authentication(reason: "a")
        let b = ConnectionFailure.authentication(reason: "b")
        func outcome(of failures: [ConnectionFailure]) -> [Bool] {
            var machine = ReconnectionStateMachine(endpointCount: 1, policy: .init())
            _ = machine.started(using: &random)
            return failures.map { failure in
                let action = machine.attemptFailed(failure, using: &random)
                _ = machine.waitElapsed(using: &random)
                return action == .giveUp
            }
        }
        #expect(outcome(of: [a, a]) == [false, true])
        #expect(outcome(of: [a, b, a, b, b]) == [false, false, false, false, true])
        #expect(outcome(of: [a, .network, a]) == [false, false, false])
        // A rotation may take some seconds.
        let mismatch = ConnectionFailure.identity(reason: "keyMismatch")
        #expect(outcome(of: Array(repeating: mismatch, count: 7)) == Array(repeating: false, count: 6) + [true])
    }

    @Test("the server's Retry-After is honoured up to the limit")
    func retryAfter() {
        var random = HighestRandom()
        var machine = ReconnectionStateMachine(endpointCount: 1, policy: .init())
        _ = machine.started(using: &random)
        #expect(
            machine.attemptFailed(.status(503), retryAfter: .seconds(7), using: &random) == .wait(attempt: 1, after: .seconds(7)))
        _ = machine.waitElapsed(using: &random)
        #expect(
            machine.attemptFailed(.status(503), retryAfter: .seconds(1_000_000), using: &random)
                == .wait(attempt: 2, after: .seconds(300)))
        _ = machine.waitElapsed(using: &random)
        #expect(machine.attemptFailed(.status(503), using: &random) == .wait(attempt: 3, after: .milliseconds(400)))
    }

    @Test("a client told to give up after two rounds does")
    func maximumRounds() {
        var random = SeededRandom(seed: 3)
        var policy = ReconnectionPolicy()
        policy.maximumFailedRounds = 2
        var machine = ReconnectionStateMachine(endpointCount: 2, policy: policy)
        _ = machine.started(using: &random)
        var actions: [String] = []
        for _ in 0..<2 {
            for _ in 0..<2 {
                switch machine.attemptFailed(.network, using: &random) {
                case .connect: actions.append("connect")
                case .wait: actions.append("wait")
                case .giveUp: actions.append("giveUp")
                case .none: actions.append("none")
                }
            }
            _ = machine.waitElapsed(using: &random)
        }
        #expect(actions == ["connect", "wait", "connect", "giveUp"])
    }

    @Test("after the user closed, nothing is asked any more")
    func closed() {
        var random = SeededRandom(seed: 3)
        var machine = ReconnectionStateMachine(endpointCount: 2, policy: .init())
        _ = machine.started(using: &random)
        machine.closed()
        #expect(machine.attemptFailed(.network, using: &random) == .none)
        #expect(machine.connectionLost(.network, using: &random) == .none)
        #expect(machine.waitElapsed(using: &random) == nil)
    }

    @Test("whatever happens, waits stay within their ceiling and endpoints within the list", arguments: 0..<200)
    func randomSchedules(seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        let endpoints = Int.random(in: 1...4, using: &random)
        var machine = ReconnectionStateMachine(endpointCount: endpoints, policy: .init())
        let failures: [ConnectionFailure] = [.network, .timedOut(.connect), .status(503), .keepAlive, .closed(nil)]
        var now = NIODeadline.uptimeNanoseconds(0)
        var attemptsSinceWait = 1
        _ = machine.started(using: &random)
        for _ in 0..<200 {
            now = now + .milliseconds(Int64.random(in: 0...20_000, using: &random))
            let failure = failures.randomElement(using: &random) ?? .network
            let action: ReconnectionStateMachine.NextAction
            if Bool.random(using: &random) {
                action = machine.attemptFailed(failure, using: &random)
            } else {
                _ = machine.established(now: now)
                if Bool.random(using: &random) { machine.requestAnswered() }
                action = machine.connectionLost(failure, using: &random)
            }
            switch action {
            case .connect(let endpoint):
                attemptsSinceWait += 1
                #expect((0..<endpoints).contains(endpoint) && attemptsSinceWait <= endpoints)
            case .wait(let attempt, let after):
                #expect(after <= min(.seconds(30), .milliseconds(100 << min(attempt - 1, 20))))
                #expect(machine.waitElapsed(using: &random) != nil)
                attemptsSinceWait = 1
            case .giveUp, .none:
                Issue.record("retried failures never end a client: \(action)")
            }
        }
    }
}
