import MWServer
import NIOCore
import Testing

/// Token buckets as values: time is a number.
@Suite struct HandshakeBudgetTests {
    private static let second: UInt64 = 1_000_000_000

    private func limits(all: (Int, Int) = (1_000_000, 1_000_000), address: (Int, Int)) -> ServerLimits {
        var limits = ServerLimits()
        (limits.maximumHandshakesPerSecond, limits.maximumHandshakeBurst) = all
        (limits.maximumHandshakesPerSecondAndAddress, limits.maximumHandshakeBurstOfAddress) = address
        return limits
    }

    @Test func `A bucket gives its burst at once, then its rate, and never more than the burst after any quiet time`() {
        let rate = TokenBucket.Rate(perSecond: 10, burst: 5)
        var bucket = TokenBucket()
        func taken(at now: UInt64) -> Int { (0..<100).count { _ in bucket.take(at: now, rate) } }
        #expect(taken(at: 0) == 5)
        #expect(taken(at: Self.second / 10 - 1) == 0)
        #expect(taken(at: Self.second / 10) == 1)
        #expect(taken(at: Self.second / 10 + Self.second / 2) == 5)
        #expect(taken(at: 1_000_000 * Self.second) == 5)
        // A clock that stands still, or an instance that is asked late, gives nothing twice.
        #expect(taken(at: 1_000_000 * Self.second) == 0)
    }

    @Test(arguments: [(1, 1), (0, 0), (-5, -5), (Int.max, Int.max), (1, Int.max)])
    func `Any rate and burst make a bucket`(perSecond: Int, burst: Int) {
        let rate = TokenBucket.Rate(perSecond: perSecond, burst: burst)
        var bucket = TokenBucket()
        let first = bucket.take(at: 5, rate)
        #expect(first)
    }

    @Test func `One address that takes all it can leaves the others theirs`() {
        var budget = HandshakeBudget(self.limits(address: (10, 20)), seed: (1, 2))
        let heavy = AddressPrefix(v4: 0x0A00_0001)
        var admitted = 0
        for millisecond in 0..<10_000 {
            let now = UInt64(millisecond) * 1_000_000
            if budget.admit(heavy, at: now) == .admitted { admitted += 1 }
            guard millisecond % 500 == 0 else { continue }
            let other = budget.admit(AddressPrefix(v4: 0x0A00_0002), at: now)
            #expect(other == .admitted)
        }
        // The burst, then 10 a second for 10 seconds.
        #expect((119...120).contains(admitted))
    }

    @Test func `All together are held to the rate of all, and one address's surplus does not count`() {
        var budget = HandshakeBudget(self.limits(all: (100, 50), address: (1, 10)), seed: (1, 2))
        let heavy = AddressPrefix(v4: 1)
        let verdicts = (0..<1_000).map { _ in budget.admit(heavy, at: 0) }
        #expect(verdicts.count { $0 == .admitted } == 10 && verdicts.count { $0 == .addressExhausted } == 990)
        let others = (0..<100).map { budget.admit(AddressPrefix(v4: 1_000 + UInt32($0)), at: 0) }
        #expect(others.count { $0 == .admitted } == 40 && others.count { $0 == .exhausted } == 60)
        let nameless = budget.admit(nil, at: Self.second)
        #expect(nameless == .admitted)
    }

    // A million addresses once each within a second, then one that was not among them, and one of them.
    @Test func `A million addresses take no more memory than one`() {
        var buckets = AddressBuckets(TokenBucket.Rate(perSecond: 100, burst: 1_000), seed: (0x1234_5678_9ABC_DEF0, 0x0FED_CBA9_8765_4321))
        let before = buckets.byteCount
        var refused = 0
        for number in 0..<1_000_000 where !buckets.take(AddressPrefix(v4: UInt32(number)), at: UInt64(number) * 1_000) { refused += 1 }
        #expect(buckets.byteCount == before && before <= 1 << 20)
        #expect(refused == 0)
        let later = [0xC000_0201, 17].map { buckets.take(AddressPrefix(v4: $0), at: Self.second) }
        #expect(later == [true, true])
    }

    // 100 heavy addresses are empty; of 10,000 others at most a handful share both buckets with them.
    @Test func `Who shares a bucket with a heavy address has another one`() {
        var buckets = AddressBuckets(TokenBucket.Rate(perSecond: 1, burst: 10), seed: (3, 4))
        for number in 0..<100 { while buckets.take(AddressPrefix(v4: UInt32(number)), at: 0) {} }
        let refused = (0..<10_000).count { !buckets.take(AddressPrefix(v4: 1_000_000 + UInt32($0)), at: 0) }
        #expect(refused <= 5)
    }

    @Test func `IPv6 counts by network, and IPv4 is the same in both forms`() throws {
        func prefix(_ text: String) throws -> AddressPrefix { try #require(AddressPrefix(SocketAddress(ipAddress: text, port: 1))) }
        #expect(try prefix("2001:db8:1:2::1") == prefix("2001:db8:1:2:ffff::9"))
        #expect(try prefix("2001:db8:1:2::1") != prefix("2001:db8:1:3::1"))
        #expect(try prefix("192.0.2.1") == prefix("::ffff:192.0.2.1"))
        #expect(try prefix("192.0.2.1") != prefix("192.0.2.2"))
        #expect(try prefix("::1") != prefix("0.0.0.0"))
        #expect(AddressPrefix(try SocketAddress(unixDomainSocketPath: "/tmp/x")) == nil)
    }
}

@Suite struct AcceptGateTests {
    @Test func `It pauses before the reserve is touched, and goes on when some have ended`() {
        var gate = AcceptGate(descriptors: 200, reserve: 40)
        let actions = (1...160).map { _ in gate.accepted() }
        #expect(actions.last == .pause && actions.dropLast().allSatisfy { $0 == .none })
        #expect(gate.isPaused && gate.connections == 160)
        // What was on its way still comes, and is no second pause.
        #expect(gate.accepted() == .none)
        let closed = (0..<11).map { _ in gate.closed() }
        #expect(closed.last == .resume && closed.dropLast().allSatisfy { $0 == .none })
        #expect(!gate.isPaused)
    }

    @Test(arguments: [(0, 0), (1, 5), (2, 512), (1_024, 1_000_000)])
    func `A process of few descriptors keeps half of them, and one connection at least`(descriptors: Int, reserve: Int) {
        var gate = AcceptGate(descriptors: descriptors, reserve: reserve)
        var count = 0
        while gate.accepted() == .none { count += 1 }
        #expect(count + 1 == max(1, descriptors - min(reserve, descriptors / 2)))
        while gate.closed() != .resume {}
        #expect(gate.connections >= 0)
    }
}
