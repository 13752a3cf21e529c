package import History

/// What the clients of one run do.
package struct Workload: Sendable {
    package static let keys = (0..<8).map { "k\($0)" }

    /// Percent of operations.
    package var transactions = 25
    package var reads = 30
    package var scans = 8
    package var removes = 12
    package var leases = 5
    /// Milliseconds between two operations of a client, at most.
    package var pause = 150
    /// Bytes of a value.
    package var valueBytes = 1...40
    package var operations = 12
    /// What one client has under way at a time.
    package var width = 1

    package init(using random: inout SeededGenerator) {
        self.operations = random.any(4...14)
        self.pause = [5, 50, 300][random.any(0...2)]
        self.width = random.chance(30) ? 3 : 1
        if random.chance(20) { self.valueBytes = 1...1_500 }
        if random.chance(50) { self.leases = 0 }
    }

    /// - Parameters:
    ///   - name: Of the values: each is put once.
    ///   - seen: What the client read of each key last.
    package func operation(_ name: String, lease: Int64?, seen: [String: ModelEntry], using random: inout SeededGenerator) -> ModelOperation
    {
        let keys = Self.keys.shuffled(using: &random)
        func value(_ suffix: String) -> String {
            let text = "\(name)\(suffix)"
            return text + String(repeating: ".", count: max(0, random.any(self.valueBytes) - text.utf8.count))
        }
        var dice = random.any(0...99)
        func falls(_ percent: Int) -> Bool {
            dice -= percent
            return dice < 0
        }
        if falls(self.reads) { return .get(Array(keys.prefix(random.any(1...3)))) }
        if falls(self.scans) { return .scan(random.chance(50) ? .all : ModelRange("k2", "k6")) }
        if falls(self.removes) { return .write(keys.prefix(random.any(1...2)).map { .remove($0) }) }
        if falls(self.transactions) {
            let condition: ModelCompare.Condition =
                switch random.any(0...3) {
                case 0: .isPresent(random.chance(50))
                case 1: .valueIs(seen[keys[0]]?.value ?? "")
                default: .revisionIs(seen[keys[0]]?.revision ?? 0)
                }
            let then: [ModelStep] = [.put(keys[0], value("a")), random.chance(50) ? .put(keys[1], value("b")) : .remove(keys[1])]
            return .transaction(
                [ModelCompare(keys[0], condition)], then: then, otherwise: random.chance(30) ? [.put(keys[2], value("c"))] : [.get(keys[0])]
            )
        }
        return .write(keys.prefix(random.chance(40) ? random.any(2...4) : 1).enumerated().map { .put($1, value("p\($0)"), lease: lease) })
    }
}
