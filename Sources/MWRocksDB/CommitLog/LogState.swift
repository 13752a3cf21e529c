import MWStorage

/// The file `commits.state`.
struct LogState {
    var drained: UInt64
    var forgotten: UInt64

    private static let name = "commits.state"
    private static let magic = "mwstorage-commits 1"

    func write(in directory: String) throws(StorageError) {
        let text = LogState.text(drained, forgotten)
        try FileDescriptor.replace(directory + "/" + LogState.name, with: Array("\(text)end \(LogState.checksum(text))\n".utf8))
    }

    private static func text(_ drained: UInt64, _ forgotten: UInt64) -> String {
        "\(magic)\ndrained \(drained)\nforgotten \(forgotten)\n"
    }

    private static func checksum(_ text: String) -> String { String(CRC32C.of(text.utf8), radix: 16) }

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
        guard lines.count == 5, lines[0] == LogState.magic, let drained = number(1, "drained"), let forgotten = number(2, "forgotten"),
            drained < UInt64.max - 1, lines[3] == "end \(LogState.checksum(LogState.text(drained, forgotten)))", lines[4].isEmpty
        else { throw LogFormat.damaged(path, "not what this program writes") }
        self.init(drained: drained, forgotten: forgotten)
    }
}
