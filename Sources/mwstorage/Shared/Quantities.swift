import ArgumentParser

/// A number of bytes: `512`, `64KiB`, `16MiB`, `2GiB` (powers of 1024), `64KB` (powers of 1000).
struct ByteSize: Hashable, Sendable, ExpressibleByArgument, CustomStringConvertible {
    var bytes: Int

    init(bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let units: [(String, Int)] = [
            ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("KB", 1000), ("MB", 1_000_000),
            ("GB", 1_000_000_000), ("B", 1), ("", 1),
        ]
        guard let (suffix, factor) = units.first(where: { argument.lowercased().hasSuffix($0.0.lowercased()) }),
            let number = UInt32(argument.dropLast(suffix.count))
        else { return nil }
        let (bytes, overflow) = Int(number).multipliedReportingOverflow(by: factor)
        guard !overflow else { return nil }
        self.bytes = bytes
    }

    var description: String {
        for (suffix, factor) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        where bytes != 0 && bytes % factor == 0 {
            return "\(bytes / factor)\(suffix)"
        }
        return "\(bytes)"
    }
}

/// A span of time: `250ms`, `30s`, `5m`, `24h`, `7d`. A number without a unit is refused: nobody knows what it means.
struct TimeSpan: Hashable, Sendable, ExpressibleByArgument, CustomStringConvertible {
    var duration: Duration

    init(_ duration: Duration) { self.duration = duration }

    init?(argument: String) {
        let units: [(String, Int64)] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        guard let (suffix, factor) = units.first(where: { argument.hasSuffix($0.0) }),
            let number = UInt32(argument.dropLast(suffix.count))
        else { return nil }
        // 2^32 days are 3.7e17 ms: no overflow.
        duration = .milliseconds(Int64(number) * factor)
    }

    var milliseconds: Int64 {
        let (seconds, attoseconds) = duration.components
        return seconds * 1000 + attoseconds / 1_000_000_000_000_000
    }

    var description: String {
        let milliseconds = milliseconds
        for (suffix, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] as [(String, Int64)]
        where milliseconds != 0 && milliseconds % factor == 0 {
            return "\(milliseconds / factor)\(suffix)"
        }
        return "\(milliseconds)ms"
    }
}

/// A listening or remote address, `HOST:PORT`; an IPv6 host is in brackets: `[::1]:8443`.
struct HostAndPort: Hashable, Sendable, ExpressibleByArgument, CustomStringConvertible {
    var host: String
    var port: Int

    init?(argument: String) {
        guard let colon = argument.lastIndex(of: ":"), let port = UInt16(argument[argument.index(after: colon)...]) else { return nil }
        var host = argument[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty else { return nil }
        self.host = String(host)
        self.port = Int(port)
    }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
