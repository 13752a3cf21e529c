import MWStorage

/// The history that the log had at one moment.
struct HistoryView: Sendable {
    /// Oldest first.
    private let segments: [LogSegment]
    /// Where the last segment ended.
    private let end: Int
    /// Up to this revision it has been removed.
    let forgotten: UInt64
    /// Up to this revision RocksDB's tables have some, of a program that had no log.
    private let tablesEnd: UInt64

    init(_ log: CommitLog, tablesEnd: UInt64) {
        self.tablesEnd = tablesEnd
        segments = log.segments
        end = log.position
        forgotten = log.forgotten
    }

    /// Whether the tables have history that has not been removed.
    var isInTables: Bool { tablesEnd > forgotten }

    /// Whether a record that the tables have has been removed.
    func isForgotten(_ key: UnsafeRawBufferPointer) -> Bool { unsafe HistoryKey.revision(key).map { $0 <= forgotten } ?? false }

    /// Calls `body` with the key and the value of each record in `range`, in order, borrowed for that call, until it returns false.
    func scan(
        _ range: KeyRange, _ direction: ScanDirection, _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        let first = max(HistoryView.revision(atOrBefore: range.lower), forgotten == .max ? forgotten : forgotten + 1)
        var goesOn = true
        for segment in direction == .forward ? segments : segments.reversed() where goesOn {
            let isLast = segment === segments.last
            guard segment.last >= first else { continue }
            unsafe try scan(segment, to: isLast ? end : segment.end, range, direction, first: first, &goesOn) { unsafe body($0, $1) }
        }
    }

    private func scan(
        _ segment: LogSegment, to end: Int, _ range: KeyRange, _ direction: ScanDirection, first: UInt64, _ goesOn: inout Bool,
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        let places = segment.places(from: first).filter { $0.offset < end }
        switch direction {
        case .forward:
            guard let start = places.first else { return }
            unsafe try forEachRecord(of: segment, from: start.offset, to: end) { key, revision, value in
                guard revision >= first else { return true }
                guard unsafe range.contains(key) else { return unsafe HistoryView.isInFront(key, of: range) }
                goesOn = unsafe body(key, value)
                return goesOn
            }
        case .backward:
            var end = end
            for place in places.reversed() where goesOn {
                var records: [(key: [UInt8], value: [UInt8])] = []
                unsafe try forEachRecord(of: segment, from: place.offset, to: end) { key, revision, value in
                    if revision >= first, unsafe range.contains(key) { records.append(unsafe (Array(key), Array(value))) }
                    return true
                }
                for record in records.reversed() where goesOn {
                    goesOn = unsafe record.key.span.bytes.withUnsafeBytes { key in
                        unsafe record.value.span.bytes.withUnsafeBytes { unsafe body(key, $0) }
                    }
                }
                end = place.offset
            }
        }
    }

    /// Calls `body` with the records of the frames between two places, until it returns false.
    private func forEachRecord(
        of segment: LogSegment, from start: Int, to end: Int,
        _ body: (_ key: UnsafeRawBufferPointer, _ revision: UInt64, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(StorageError) {
        var reader = FrameReader(segment, from: start, to: end)
        while reader.offset < end {
            guard case .frame(_, let payload) = unsafe try reader.next() else {
                throw LogFormat.damaged(segment.path, "bytes that are not what was written, at \(reader.offset)")
            }
            var operations = unsafe LogOperations(payload, of: segment.path)
            while let operation = unsafe try operations.next() {
                guard let revision = unsafe HistoryKey.revision(operation.key), let value = unsafe operation.value else { continue }
                guard unsafe body(operation.key, revision, value) else { return }
            }
        }
    }

    /// The last revision whose key is not behind the first key of a range.
    private static func revision(atOrBefore lower: [UInt8]) -> UInt64 {
        lower.dropFirst().prefix(8).enumerated().reduce(0) { $0 | UInt64($1.element) << (56 - 8 * UInt64($1.offset)) }
    }

    private static func isInFront(_ key: UnsafeRawBufferPointer, of range: KeyRange) -> Bool {
        unsafe range.lower.span.bytes.withUnsafeBytes { unsafe compareKeys(key, $0) < 0 }
    }
}
