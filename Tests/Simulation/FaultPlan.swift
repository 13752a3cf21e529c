/// What goes wrong in one simulation, and how often.
struct FaultPlan {
    var network = NetworkFaults()
    /// Milliseconds between two kills of the server, two cuts of all, two clock jumps; nil: never.
    var killsEvery: Int?
    var cutsEvery: Int?
    var jumpsEvery: Int?
    var compactsEvery: Int?
    var restoresEvery: Int?
    var isNarrow = false

    init(using clock: SimulatedClock) {
        func sometimes(_ percent: Int, _ range: ClosedRange<Int>) -> Int? { clock.chance(percent) ? clock.any(range) : nil }
        // One in eight has nothing to bear but chance.
        if clock.chance(12) { return }
        if clock.chance(50) { self.network.cuts = clock.any(5...60) }
        if clock.chance(25) { self.network.stalls = clock.any(5...40) }
        if clock.chance(20) { self.network.swallowedAttempts = clock.any(5...30) }
        if clock.chance(30) { self.network.refusedAttempts = clock.any(5...50) }
        if clock.chance(30) { self.network.segmentBytes = clock.any(1...200) }
        if clock.chance(30) { self.network.latency = 1_000...clock.any(5_000...60_000) }
        self.network.faultBytes = [200, 1_000, 5_000][clock.any(0...2)]
        if clock.chance(25) {
            self.isNarrow = true
            self.network.windowBytes = clock.any(64...1_024)
        }
        self.killsEvery = sometimes(40, 150...1_500)
        self.cutsEvery = sometimes(30, 50...800)
        self.jumpsEvery = sometimes(20, 100...1_000)
        self.restoresEvery = sometimes(12, 400...1_500)
        self.compactsEvery = sometimes(30, 50...600)
    }
}
