internal import Metrics
internal import Synchronization

/// One series: what a handler of swift-metrics writes, and a scrape reads. Atomic, without a lock.
protocol MetricSeries: AnyObject, Sendable {
    /// - Parameter labels: As text, without braces; empty if there are none.
    func write(_ name: String, _ labels: String, to text: inout String)
}

/// A series of one number. A counter, a gauge and a meter differ in what swift-metrics calls on them.
class NumberSeries: MetricSeries, CounterHandler, FloatingPointCounterHandler, RecorderHandler, MeterHandler, @unchecked Sendable {
    // Safety: no stored property here; those of the subclasses are atomics.

    var value: Double { 0 }

    func add(_ amount: Double) {}
    func set(_ value: Double) {}
    func increment(by amount: Int64) { self.add(Double(amount)) }
    func increment(by amount: Double) { self.add(amount) }
    func decrement(by amount: Double) { self.add(-amount) }
    func set(_ value: Int64) { self.set(Double(value)) }
    func record(_ value: Int64) { self.set(Double(value)) }
    func record(_ value: Double) { self.set(value) }
    func reset() { self.set(0.0) }

    func write(_ name: String, _ labels: String, to text: inout String) {
        text += "\(name)\(labels.isEmpty ? "" : "{\(labels)}") \(MetricName.number(self.value))\n"
    }
}

/// Whole numbers in one atomic, fractions beside them: the hot path adds whole numbers.
final class CounterSeries: NumberSeries, @unchecked Sendable {
    // Safety: two atomics.
    private let whole = Atomic<Int64>(0)
    private let fraction = Atomic<UInt64>(0)

    override var value: Double {
        Double(self.whole.load(ordering: .relaxed)) + Double(bitPattern: self.fraction.load(ordering: .relaxed))
    }

    override func increment(by amount: Int64) {
        // A counter does not go back, whatever it is told.
        if amount > 0 { self.whole.wrappingAdd(amount, ordering: .relaxed) }
    }

    override func add(_ amount: Double) {
        if amount > 0, amount.isFinite { self.fraction.add(amount) }
    }

    /// For what is counted elsewhere.
    override func set(_ value: Double) { self.fraction.store(value.bitPattern, ordering: .relaxed) }

    override func reset() {
        self.whole.store(0, ordering: .relaxed)
        self.fraction.store(0, ordering: .relaxed)
    }
}

final class GaugeSeries: NumberSeries, @unchecked Sendable {
    // Safety: one atomic.
    private let bits = Atomic<UInt64>(0)

    override var value: Double { Double(bitPattern: self.bits.load(ordering: .relaxed)) }

    override func set(_ value: Double) { self.bits.store(value.bitPattern, ordering: .relaxed) }

    override func add(_ amount: Double) { self.bits.add(amount) }
}

/// How many measurements were at most so large, for some bounds; their sum and number.
final class HistogramSeries: MetricSeries, RecorderHandler, TimerHandler {
    private final class Cell: Sendable {
        let count = Atomic<UInt64>(0)
    }

    private let bounds: [Double]
    /// Of each bound, and of what is over all of them. Each measurement is in one.
    private let cells: [Cell]
    private let sum = Atomic<UInt64>(0)

    /// - Parameter bounds: Ascending.
    init(bounds: [Double]) {
        self.bounds = bounds
        self.cells = (0...bounds.count).map { _ in Cell() }
    }

    func record(_ value: Int64) { self.record(Double(value)) }

    func record(_ value: Double) {
        guard !value.isNaN else { return }
        let index = self.bounds.firstIndex { value <= $0 } ?? self.bounds.count
        self.cells[index].count.wrappingAdd(1, ordering: .relaxed)
        if value.isFinite { self.sum.add(value) }
    }

    func recordNanoseconds(_ duration: Int64) { self.record(Double(duration) / 1e9) }

    func write(_ name: String, _ labels: String, to text: inout String) {
        let prefix = labels.isEmpty ? "" : labels + ","
        var total: UInt64 = 0
        for (index, cell) in self.cells.enumerated() {
            total += cell.count.load(ordering: .relaxed)
            let bound = index < self.bounds.count ? MetricName.number(self.bounds[index]) : "+Inf"
            text += "\(name)_bucket{\(prefix)le=\"\(bound)\"} \(total)\n"
        }
        let braces = labels.isEmpty ? "" : "{\(labels)}"
        text += "\(name)_sum\(braces) \(MetricName.number(Double(bitPattern: self.sum.load(ordering: .relaxed))))\n"
        // The same as the last bucket, also while others measure.
        text += "\(name)_count\(braces) \(total)\n"
    }
}

extension Atomic where Value == UInt64 {
    /// Adds to the Double whose bits are here.
    fileprivate func add(_ amount: Double) {
        var old = self.load(ordering: .relaxed)
        while true {
            let new = (Double(bitPattern: old) + amount).bitPattern
            let (exchanged, original) = self.compareExchange(expected: old, desired: new, ordering: .relaxed)
            if exchanged { return }
            old = original
        }
    }
}
