internal import Glibc
internal import Metrics

/// What Prometheus expects of every process, read from /proc when it is scraped. What cannot be read is left out.
package enum ProcessMetrics {
    package static let help: [String: String] = [
        "process_cpu_seconds_total": "Time on a processor, of user and system, in seconds.",
        "process_resident_memory_bytes": "Memory that is in RAM.",
        "process_virtual_memory_bytes": "Address space.",
        "process_open_fds": "Open file descriptors.",
        "process_max_fds": "File descriptors that may be open.",
        "process_start_time_seconds": "When the process started, in seconds since 1970.",
        "process_threads": "Threads.",
    ]

    /// Adds them to `registry`.
    package static func install(in registry: PrometheusRegistry) {
        registry.collect { registry in
            func set(_ name: String, _ value: Double?) {
                if let value { registry.makeMeter(label: name, dimensions: []).set(value) }
            }
            if let used = self.processorSeconds() {
                registry.set(counter: "process_cpu_seconds_total", used)
            }
            let fields = self.statistics()
            let page = Double(sysconf(Int32(_SC_PAGESIZE)))
            set("process_resident_memory_bytes", fields.resident.map { $0 * page })
            set("process_virtual_memory_bytes", fields.virtualBytes)
            set("process_threads", fields.threads)
            set("process_start_time_seconds", fields.startTicks.flatMap(self.startTime))
            set("process_open_fds", self.openDescriptors())
            var limit = rlimit()
            if unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 { set("process_max_fds", Double(limit.rlim_cur)) }
        }
    }

    private static func processorSeconds() -> Double? {
        var time = timespec()
        guard unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return nil }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    private struct Statistics {
        var threads: Double?
        var startTicks: Double?
        var virtualBytes: Double?
        /// In pages.
        var resident: Double?
    }

    /// proc(5), /proc/PID/stat: after the name in parentheses, which may hold spaces and parentheses, come the fields from the 3rd on.
    private static func statistics() -> Statistics {
        let text = self.contents(of: "/proc/self/stat")
        guard let end = text.lastIndex(of: ")") else { return Statistics() }
        let fields = text[text.index(after: end)...].split(whereSeparator: { $0 == " " || $0 == "\n" })
        func field(_ number: Int) -> Double? { fields.indices.contains(number - 3) ? Double(fields[number - 3]) : nil }
        return Statistics(threads: field(20), startTicks: field(22), virtualBytes: field(23), resident: field(24))
    }

    /// Ticks are counted from the boot of the machine.
    private static func startTime(_ ticks: Double) -> Double? {
        let line = self.contents(of: "/proc/stat").split(separator: "\n").first { $0.hasPrefix("btime ") }
        guard let boot = line.flatMap({ Double($0.dropFirst(6)) }) else { return nil }
        return boot + ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    private static func openDescriptors() -> Double? {
        guard let directory = unsafe opendir("/proc/self/fd") else { return nil }
        defer { unsafe closedir(directory) }
        var count = 0.0
        while unsafe readdir(directory) != nil { count += 1 }
        // `.`, `..`, and the one that reads.
        return max(0, count - 3)
    }

    private static func contents(of path: String) -> String {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while bytes.count < 1 << 20 {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
            guard count > 0 else { break }
            bytes += buffer[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
