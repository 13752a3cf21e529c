import MWStorage

/// Walks through what some tables held at some moment, in the order of keys: each key once, in its newest version.
@safe
struct PendingCursor {
    private struct Source {
        let table: PendingTable
        let run: PendingTable.Run
        /// What is left of the run.
        var places: Range<Int>
    }

    /// Newest first.
    private var sources: [Source] = []
    private let direction: ScanDirection

    /// - Parameter views: The newest first.
    init(_ views: [PendingTable.View], _ range: KeyRange, _ direction: ScanDirection) {
        self.direction = direction
        for view in views {
            for found in view.runs(in: range) { sources.append(Source(table: view.table, run: found.run, places: found.places)) }
        }
    }

    private func entry(of source: Source) -> UnsafePointer<PendingTable.Entry>? {
        guard let index = direction == .forward ? source.places.first : source.places.last else { return nil }
        return unsafe UnsafePointer(source.table.entry(Int(source.run[index])))
    }

    /// The next key's entry, which lives as long as the views do; nil at the end.
    mutating func next() -> UnsafePointer<PendingTable.Entry>? {
        var best: UnsafePointer<PendingTable.Entry>?
        for source in sources {
            guard let candidate = unsafe entry(of: source) else { continue }
            guard let found = unsafe best else {
                unsafe best = candidate
                continue
            }
            if unsafe order(candidate, found) < 0 { unsafe best = candidate }
        }
        guard let best = unsafe best else { return nil }
        for index in sources.indices {
            guard let candidate = unsafe entry(of: sources[index]), unsafe order(candidate, best) == 0 else { continue }
            switch direction {
            case .forward: sources[index].places.removeFirst()
            case .backward: sources[index].places.removeLast()
            }
        }
        return unsafe best
    }

    private func order(_ left: UnsafePointer<PendingTable.Entry>, _ right: UnsafePointer<PendingTable.Entry>) -> Int {
        let order = unsafe compareKeys(PendingTable.key(of: left), PendingTable.key(of: right))
        return direction == .forward ? order : -order
    }
}
