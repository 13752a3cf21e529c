import MWClient
import Testing

@Suite struct BackoffTests {
    @Test("the ceiling doubles from the base up to the cap, and stays there for ever")
    func ceilings() {
        var backoff = Backoff(base: .milliseconds(100), cap: .seconds(30))
        var random = SeededRandom(seed: 1)
        var ceilings: [Duration] = []
        for _ in 0..<200 {
            ceilings.append(backoff.ceiling)
            _ = backoff.next(using: &random)
        }
        #expect(ceilings.prefix(10).map { $0 / .milliseconds(1) } == [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000])
        #expect(ceilings.dropFirst(9).allSatisfy { $0 == .seconds(30) })
        backoff.reset()
        #expect(backoff.ceiling == .milliseconds(100))
    }

    @Test("the first wait is jittered over the whole interval: a thousand clients dropped together spread out")
    func jitter() {
        // One draw by each of 1,000 clients; ten bins of 10 ms.
        var bins = [Int](repeating: 0, count: 10)
        for seed in 0..<1000 {
            var random = SeededRandom(seed: UInt64(seed))
            var backoff = Backoff(base: .milliseconds(100), cap: .seconds(30))
            let wait = backoff.next(using: &random)
            #expect(wait >= .zero && wait <= .milliseconds(100))
            bins[min(9, Int(wait / .milliseconds(10)))] += 1
        }
        #expect(bins.allSatisfy { (50...150).contains($0) }, "\(bins)")
    }

    @Test("retries are ten for each hundred requests, beyond the reserve", arguments: [0, 7, 100, 1000])
    func budget(requests: Int) {
        var budget = RetryBudget(percent: 10, reserve: 2, capacity: 1024)
        for _ in 0..<requests { budget.deposit() }
        var retries = 0
        while budget.withdraw() { retries += 1 }
        #expect(retries == 2 + requests / 10)
    }

    @Test("a long quiet life saves up no more retries than the capacity")
    func budgetCapacity() {
        var budget = RetryBudget(percent: 10, reserve: 0, capacity: 5)
        for _ in 0..<10_000 { budget.deposit() }
        var retries = 0
        while budget.withdraw() { retries += 1 }
        #expect(retries == 5)
    }
}
