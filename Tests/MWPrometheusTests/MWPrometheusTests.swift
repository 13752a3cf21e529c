import Exposition
import MWPrometheus
import Metrics
import Testing

@Suite struct PrometheusRegistryTests {
    // What swift-metrics is told, read back by an independent parser.
    @Test func `Counters, gauges, recorders and timers are exposed with their kind, help and numbers`() throws {
        let registry = PrometheusRegistry(
            help: ["requests_total": "Requests, with a \\ and\na newline."], buckets: ["size_bytes": [1, 10]])
        let get = Counter(label: "requests_total", dimensions: [("type", "get")], factory: registry)
        get.increment(by: 3)
        Counter(label: "requests_total", dimensions: [("type", "put")], factory: registry).increment()
        FloatingPointCounter(label: "used_seconds_total", factory: registry).increment(by: 0.25)
        Gauge(label: "connections", factory: registry).record(7)
        Meter(label: "temperature", factory: registry).set(-1.5)
        let sizes = Recorder(label: "size_bytes", aggregate: true, factory: registry)
        for size in [1, 5, 10, 11] { sizes.record(Int64(size)) }
        Metrics.Timer(label: "latency", factory: registry).recordNanoseconds(2_000_000)
        let text = registry.text()
        let exposition = try Exposition(text)
        #expect(exposition["requests_total", ["type": "get"]] == 3)
        #expect(exposition["requests_total", ["type": "put"]] == 1)
        #expect(exposition["used_seconds_total"] == 0.25)
        #expect(exposition["connections"] == 7)
        #expect(exposition["temperature"] == -1.5)
        #expect(exposition["size_bytes_bucket", ["le": "1"]] == 1)
        #expect(exposition["size_bytes_bucket", ["le": "10"]] == 3)
        #expect(exposition["size_bytes_bucket", ["le": "+Inf"]] == 4)
        #expect(exposition["size_bytes_sum"] == 27)
        #expect(exposition["latency_seconds_count"] == 1)
        #expect(exposition["latency_seconds_bucket", ["le": "0.0025"]] == 1)
        #expect(exposition["latency_seconds_bucket", ["le": "0.001"]] == 0)
        #expect(exposition.types["requests_total"] == "counter" && exposition.types["connections"] == "gauge")
        #expect(text.contains("# HELP requests_total Requests, with a \\\\ and\\na newline.\n"))
    }

    // Labels that a peer may have chosen, through the writer and back.
    @Test(arguments: ["a\"b", "back\\slash", "two\nlines", "} 1\nforged_total 9", "ü\u{202E}", ""])
    func `A label's value cannot leave its place`(value: String) throws {
        let registry = PrometheusRegistry()
        Counter(label: "seen", dimensions: [("who", value), ("le", "1"), ("0 bad-name", "x")], factory: registry).increment()
        let exposition = try Exposition(registry.text())
        #expect(exposition["seen_total", ["who": value, "label_le": "1", "_0_bad_name": "x"]] == 1)
        #expect(exposition["forged_total"] == nil)
    }

    // More label values than the limit.
    @Test func `A family keeps a bounded number of series, and counts the rest as one`() throws {
        var limits = PrometheusRegistry.Limits()
        limits.maximumSeries = 3
        let registry = PrometheusRegistry(limits: limits)
        for number in 0..<10 { Counter(label: "n_total", dimensions: [("id", "\(number)")], factory: registry).increment() }
        let exposition = try Exposition(registry.text())
        #expect(exposition.values.keys.filter { $0.name == "n_total" }.count == 4)
        #expect(exposition["n_total", ["id": "other"]] == 7)
        #expect(exposition["mwstorage_metrics_overflows_total"] == 7)
    }

    @Test func `A name has one kind; the same labels are the same series; a destroyed one is gone`() throws {
        let registry = PrometheusRegistry()
        Gauge(label: "x_total", factory: registry).record(5)
        Counter(label: "x_total", factory: registry).increment()
        Counter(label: "y_total", dimensions: [("a", "1"), ("b", "2")], factory: registry).increment()
        Counter(label: "y_total", dimensions: [("b", "2"), ("a", "1")], factory: registry).increment()
        let gone = Gauge(label: "gone", factory: registry)
        gone.record(1)
        gone.destroy()
        let text = registry.text()
        #expect(text.contains("mwstorage_metrics_conflicts_total 1\n"))
        #expect(text.contains("y_total{a=\"1\",b=\"2\"} 2\n"))
        #expect(!text.contains("gone"))
    }

    // Many threads, one counter and one histogram.
    @Test func `Nothing is lost when many count at once`() async throws {
        let registry = PrometheusRegistry()
        let counter = Counter(label: "hits_total", factory: registry)
        let recorder = Recorder(label: "values", aggregate: true, factory: registry)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    for _ in 0..<10_000 {
                        counter.increment()
                        recorder.record(0.5)
                    }
                }
            }
        }
        let exposition = try Exposition(registry.text())
        #expect(exposition["hits_total"] == 80_000)
        #expect(exposition["values_count"] == 80_000)
        #expect(exposition["values_sum"] == 40_000)
    }

    @Test func `The process says what it uses`() throws {
        let registry = PrometheusRegistry(help: ProcessMetrics.help)
        ProcessMetrics.install(in: registry)
        let exposition = try Exposition(registry.text())
        for name in ProcessMetrics.help.keys { #expect((exposition[name] ?? -1) > 0, "\(name)") }
        // Between 2020 and 2100.
        #expect((1_577_836_800...4_102_444_800).contains(exposition["process_start_time_seconds"] ?? 0))
    }
}
