import MWClient
import NIOCore
import Testing

@Suite struct RelocationStateMachineTests {
    @Test("all others are tried before the endpoint that is left, after a random part of the time, and then all again after a wait")
    func order() {
        var random = SeededRandom(seed: 1)
        var machine = RelocationStateMachine(endpointCount: 3, leaving: 1, within: .seconds(8), policy: ReconnectionPolicy())
        guard case .wait(let first) = machine.next(using: &random) else {
            Issue.record("no wait")
            return
        }
        #expect(first <= .seconds(2))
        for _ in 0..<3 {
            let round = (0..<3).map { _ in machine.next(using: &random) }
            #expect(round.last == .connect(endpoint: 1))
            #expect(Set(round.map { "\($0)" }).count == 3)
            guard case .wait = machine.next(using: &random) else {
                Issue.record("no wait")
                return
            }
        }
    }
}

@Suite struct ReconnectionSpreadTests {
    /// A thousand clients as values: when each has its connection again, in milliseconds, and how many attempts all made.
    private static func reconnect(downFor: Int64, endpoints: Int = 1) -> (times: [Int64], attempts: [Int64]) {
        var times: [Int64] = []
        var attempts: [Int64] = []
        let start = NIODeadline.uptimeNanoseconds(0)
        for client in 0..<1000 {
            var random = SeededRandom(seed: UInt64(client) &+ 4711)
            var machine = ReconnectionStateMachine(endpointCount: endpoints, policy: ReconnectionPolicy())
            _ = machine.started(using: &random)
            _ = machine.established(now: start)
            machine.requestAnswered()
            var now: Int64 = 0
            var action = machine.connectionLost(.closed(nil), using: &random)
            while true {
                if case .wait(_, let after) = action {
                    now += after.components.seconds * 1000 + after.components.attoseconds / 1_000_000_000_000_000
                    _ = machine.waitElapsed(using: &random)
                }
                attempts.append(now)
                if now >= downFor { break }
                action = machine.attemptFailed(.network, using: &random)
            }
            times.append(now)
        }
        return (times, attempts)
    }

    private static func histogram(_ times: [Int64], width: Int64) -> [Int] {
        var counts: [Int] = []
        for time in times {
            let place = Int(time / width)
            while counts.count <= place { counts.append(0) }
            counts[place] += 1
        }
        return counts
    }

    private static func show(_ title: String, _ counts: [Int], width: Int64) {
        print(title)
        for (place, count) in counts.enumerated() where count > 0 {
            print("  \(Int64(place) * width) ms: \(count) \(String(repeating: "#", count: (count + 4) / 5))")
        }
    }

    @Test("1,000 clients that are dropped together come back spread out: the first time over the base, after an outage over seconds")
    func spread() {
        // Nothing sleeps: the machines say how long they would wait, and time is added up.
        let quick = Self.reconnect(downFor: 0)
        let fine = Self.histogram(quick.times, width: 10)
        Self.show("1,000 clients dropped together, server there: reconnects per 10 ms", fine, width: 10)
        #expect(quick.attempts.count == 1000)
        #expect(fine.count <= 11 && fine.allSatisfy { $0 < 150 })

        let outage = Self.reconnect(downFor: 5_000)
        let coarse = Self.histogram(outage.times, width: 500)
        Self.show("the same, server gone for 5 s: reconnects per 500 ms", coarse, width: 500)
        let load = Self.histogram(outage.attempts, width: 1000)
        Self.show("the same: attempts per second", load, width: 1000)
        #expect(coarse.max() ?? 0 < 250)
        // No storm: once the first waits are over, each second sees fewer attempts than there are clients.
        #expect(load.dropFirst().allSatisfy { $0 < 1500 })
        #expect(outage.attempts.count < 12_000)
    }
}
