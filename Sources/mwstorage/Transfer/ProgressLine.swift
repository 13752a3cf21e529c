/// One line on standard error that says how far a long command is; nothing if that is no terminal.
struct ProgressLine {
    private let verb: String
    /// Of the input, if it is known.
    private let totalBytes: Int?
    private let isShown = Output.isErrorTerminal
    private let clock = ContinuousClock()
    private let start: ContinuousClock.Instant
    private var next: ContinuousClock.Instant

    /// A terminal shows no more than this, and a reader neither.
    private static let interval = Duration.milliseconds(100)
    private static let barCharacters = 24

    init(_ verb: String, totalBytes: Int? = nil) {
        self.verb = verb
        self.totalBytes = totalBytes
        start = clock.now
        next = start
    }

    mutating func update(bytes: Int, entries: UInt64? = nil) {
        guard isShown, clock.now >= next else { return }
        next = clock.now.advanced(by: Self.interval)
        var line = "\r\u{1B}[K\(verb) "
        if let totalBytes, totalBytes > 0 {
            let share = min(1, Double(bytes) / Double(totalBytes))
            let full = Int(share * Double(Self.barCharacters))
            line +=
                "[" + String(repeating: "#", count: full) + String(repeating: ".", count: Self.barCharacters - full)
                + "] \(Int(share * 100)) % "
        }
        if let entries { line += "\(entries) entries, " }
        line +=
            "\(Self.size(bytes)), \(clock.now - start > .seconds(1) ? Self.size(Int(Double(bytes) / ((clock.now - start) / .seconds(1)))) + "/s" : "…")"
        Output.note(line, terminator: "")
    }

    /// Takes the line away.
    func end() {
        if isShown { Output.note("\r\u{1B}[K", terminator: "") }
    }

    static func size(_ bytes: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(bytes) B" : "\(Double(Int(value * 10)) / 10) \(units[unit])"
    }
}
