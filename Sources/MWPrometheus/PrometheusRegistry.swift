// The metrics of this process in Prometheus' text format 0.0.4, as `PrometheusRegistry.text` writes it:
//
//   # HELP name what it is            escaped: \ and newline
//   # TYPE name counter|gauge|histogram
//   name{label="value",…} number      escaped in values: \, " and newline
//
// Families are in the order of their names, series in that of their labels: two scrapes differ in numbers only.

package import Metrics
internal import Synchronization

/// All metrics of a process: the backend of swift-metrics, and what a scrape is answered with.
///
/// A measurement is one atomic addition, without a lock; making a metric takes one. Labels come from code, but may carry what peers sent:
/// a family keeps ``Limits/maximumSeries`` series, and what comes after is counted in one more, whose labels all say `other`.
package final class PrometheusRegistry: MetricsFactory, Sendable {
    package struct Limits: Sendable {
        /// Series of one family. A page of a scrape; an unbounded label fills a monitoring system otherwise.
        package var maximumSeries = 256
        /// Families. More than this program has.
        package var maximumFamilies = 1_024

        package init() {}
    }

    private struct State {
        var families: [String: MetricFamily] = [:]
        var collectors: [@Sendable (PrometheusRegistry) -> Void] = []
        var overflows: Int64 = 0
        var conflicts: Int64 = 0
    }

    private let state = Mutex(State())
    private let limits: Limits
    private let help: [String: String]
    private let buckets: [String: [Double]]

    /// Upper bounds in seconds: from a read of a cached value to a slow disk's sync.
    package static let defaultBuckets = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

    /// - Parameters:
    ///   - help: What a metric is, by its exposed name; without, its HELP line says the name.
    ///   - buckets: Upper bounds of a histogram, ascending, by its exposed name.
    package init(help: [String: String] = [:], buckets: [String: [Double]] = [:], limits: Limits = Limits()) {
        self.help = help
        self.buckets = buckets
        self.limits = limits
    }

    /// Calls `collector` before each scrape, to set what is only known then.
    package func collect(_ collector: @escaping @Sendable (PrometheusRegistry) -> Void) {
        self.state.withLock { $0.collectors.append(collector) }
    }

    /// What is counted elsewhere, as by the system.
    func set(counter label: String, _ value: Double) { self.number(label, .counter, []).set(value) }

    /// The whole exposition. Reads what is there now: series are not frozen at one instant.
    package func text() -> String {
        for collector in self.state.withLock({ $0.collectors }) { collector(self) }
        let (families, overflows, conflicts) = self.state.withLock { ($0.families, $0.overflows, $0.conflicts) }
        var text = ""
        for (name, family) in families.sorted(by: { $0.key < $1.key }) {
            family.write(name, help: self.help[name] ?? name, to: &text)
        }
        let own = [
            (
                "mwstorage_metrics_conflicts_total", "Metrics that were not kept: another kind has the name, or there are too many.",
                conflicts
            ),
            ("mwstorage_metrics_overflows_total", "Series that were counted as `other`: their family is full.", overflows),
        ]
        for (name, help, count) in own { text += "# HELP \(name) \(help)\n# TYPE \(name) counter\n\(name) \(count)\n" }
        return text
    }

    // MARK: MetricsFactory

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        self.number(label, .counter, dimensions)
    }

    package func makeFloatingPointCounter(label: String, dimensions: [(String, String)]) -> any FloatingPointCounterHandler {
        self.number(label, .counter, dimensions)
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler { self.number(label, .gauge, dimensions) }

    package func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        aggregate ? self.histogram(label, suffix: "", dimensions) : self.number(label, .gauge, dimensions)
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        self.histogram(label, suffix: "_seconds", dimensions)
    }

    package func destroyCounter(_ handler: any CounterHandler) { self.forget(handler) }
    package func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { self.forget(handler) }
    package func destroyMeter(_ handler: any MeterHandler) { self.forget(handler) }
    package func destroyRecorder(_ handler: any RecorderHandler) { self.forget(handler) }
    package func destroyTimer(_ handler: any TimerHandler) { self.forget(handler) }

    // MARK: Series

    private func number(_ label: String, _ kind: MetricFamily.Kind, _ dimensions: [(String, String)]) -> NumberSeries {
        var name = MetricName.metric(label)
        if kind == .counter, !name.hasSuffix("_total") { name += "_total" }
        let series = self.series(name, kind, dimensions) { kind == .counter ? CounterSeries() : GaugeSeries() }
        return (series as? NumberSeries) ?? GaugeSeries()
    }

    private func histogram(_ label: String, suffix: String, _ dimensions: [(String, String)]) -> HistogramSeries {
        var name = MetricName.metric(label)
        if !name.hasSuffix(suffix) { name += suffix }
        let bounds = self.buckets[name] ?? Self.defaultBuckets
        let series = self.series(name, .histogram, dimensions) { HistogramSeries(bounds: bounds) }
        return (series as? HistogramSeries) ?? HistogramSeries(bounds: bounds)
    }

    /// The series of these labels, that of `other`, or nil if the name means something else.
    private func series(
        _ name: String, _ kind: MetricFamily.Kind, _ dimensions: [(String, String)], _ make: () -> any MetricSeries
    ) -> (any MetricSeries)? {
        let labels = MetricName.labels(dimensions)
        return self.state.withLock { state in
            if state.families[name] == nil {
                guard state.families.count < self.limits.maximumFamilies else {
                    state.conflicts += 1
                    return nil
                }
                state.families[name] = MetricFamily(kind: kind)
            }
            guard state.families[name]?.kind == kind else {
                state.conflicts += 1
                return nil
            }
            var key = MetricName.text(labels)
            if let series = state.families[name]?.series[key] { return series }
            if let count = state.families[name]?.series.count, count >= self.limits.maximumSeries {
                state.overflows += 1
                key = MetricName.text(labels.map { ($0.0, "other") })
                if let series = state.families[name]?.series[key] { return series }
            }
            let series = make()
            state.families[name]?.series[key] = series
            return series
        }
    }

    private func forget(_ handler: AnyObject) {
        self.state.withLock { state in
            for name in state.families.keys {
                guard let key = state.families[name]?.series.first(where: { $0.value === handler })?.key else { continue }
                state.families[name]?.series[key] = nil
                return
            }
        }
    }
}

/// All series of one name.
struct MetricFamily: Sendable {
    enum Kind: String, Sendable { case counter, gauge, histogram }

    let kind: Kind
    /// By the text of their labels, braces not included.
    var series: [String: any MetricSeries] = [:]

    func write(_ name: String, help: String, to text: inout String) {
        guard !self.series.isEmpty else { return }
        text += "# HELP \(name) \(MetricName.escaped(help, quotes: false))\n# TYPE \(name) \(self.kind.rawValue)\n"
        for (labels, series) in self.series.sorted(by: { $0.key < $1.key }) { series.write(name, labels, to: &text) }
    }
}

/// Names and labels as Prometheus allows them.
enum MetricName {
    /// `[a-zA-Z_:][a-zA-Z0-9_:]*`; what does not fit becomes `_`.
    static func metric(_ label: String) -> String { self.name(label, colons: true) }

    /// Names `[a-zA-Z_][a-zA-Z0-9_]*`, none twice, in order. `le` and names with `__` in front are Prometheus' own.
    static func labels(_ dimensions: [(String, String)]) -> [(String, String)] {
        var labels: [String: String] = [:]
        for (label, value) in dimensions {
            var name = self.name(label, colons: false)
            if name == "le" || name.hasPrefix("__") { name = "label_" + name }
            labels[name] = value
        }
        return labels.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    static func text(_ labels: [(String, String)]) -> String {
        labels.map { "\($0.0)=\"\(self.escaped($0.1, quotes: true))\"" }.joined(separator: ",")
    }

    static func escaped(_ value: String, quotes: Bool) -> String {
        guard value.utf8.contains(where: { $0 == 0x5C || $0 == 0x0A || $0 == 0x22 }) else { return value }
        var text = ""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\"" where quotes: text += "\\\""
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text
    }

    private static func name(_ label: String, colons: Bool) -> String {
        var name = ""
        for scalar in label.unicodeScalars {
            switch scalar {
            case "a"..."z", "A"..."Z", "_": name.unicodeScalars.append(scalar)
            case ":" where colons: name.unicodeScalars.append(scalar)
            case "0"..."9":
                if name.isEmpty { name += "_" }
                name.unicodeScalars.append(scalar)
            default: name += "_"
            }
        }
        return name.isEmpty ? "_" : name
    }

    /// As the format wants numbers: `+Inf`, `-Inf`, `NaN`, whole ones without a fraction.
    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value.magnitude < 9e15, value == value.rounded() { return String(Int64(value)) }
        return String(value)
    }
}
