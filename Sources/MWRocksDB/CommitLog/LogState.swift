import MWStorage

/// The file `commits.state`.
struct LogState {
    var drained: UInt64
    var forgotten: UInt64

    private static let name = "commits.state"
    private static let magic = "mwstorage-commits 1"

    /// Segments that no log comes to: one more would still be a number.
    private static let maximumDrained = UInt64.max / 2

    func write(in directory: String) throws(StorageError) {
        try FileDescriptor.replace(directory + "/" + LogState.name, with: encoded)
    }

    private var encoded: [UInt8] {
        let text = "\(LogState.magic)\ndrained \(drained)\nforgotten \(forgotten)\n"
        return Array("\(text)end \(String(CRC32C.of(text.utf8), radix: 16))\n".utf8)
    }

    init(drained: UInt64, forgotten: UInt64) {
        self.drained = drained
        self.forgotten = forgotten
    }

    /// Nil if there is none: nothing was ever drained.
    init?(readingFrom directory: String) throws(StorageError) {
        let path = directory + "/" + LogState.name
        guard let bytes = try FileDescriptor.contents(of: path, atMost: 4096) else { return nil }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        func number(_ index: Int, _ word: String) -> UInt64? {
            lines[index].hasPrefix(word + " ") ? UInt64(lines[index].dropFirst(word.count + 1)) : nil
        }
        guard lines.count == 5, let drained = number(1, "drained"), let forgotten = number(2, "forgotten"),
            drained <= LogState.maximumDrained, case let state = LogState(drained: drained, forgotten: forgotten), state.encoded == bytes
        else { throw LogFormat.damaged(path, "not what this program writes") }
        self = state
    }
}
