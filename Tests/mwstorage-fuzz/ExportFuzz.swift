import MWStorage

/// However a stream arrives, it is the same entries, and ends in the same way; entries that came out can be written, and read as the same.
enum ExportFuzz {
    static func run(_ input: [UInt8]) {
        check(input)
        // The checksums would hide the records from the fuzzer.
        check(stream(of: input.split(separator: 0xFF, maxSplits: 8)))
    }

    private struct Story: Equatable {
        var records: [ExportRecord] = []
        var error: StorageError.Code?
    }

    private static func check(_ bytes: [UInt8]) {
        let whole = story([bytes[...]])
        precondition(story(bytes.indices.map { bytes[$0...$0] }) == whole, "a byte at a time is told another story")
        let cut = bytes.isEmpty ? 0 : Int(bytes[bytes.count / 2]) % bytes.count
        precondition(story([bytes[..<cut], bytes[cut...]]) == whole, "two pieces are told another story")
        guard whole.error == nil else { return }
        var nextPrefix: UInt32 = 0
        var entries: [ExportRecord] = []
        for record in whole.records {
            switch record {
            case .nextPrefix(let next): nextPrefix = next
            case .entry: entries.append(record)
            case .end(let count): precondition(count == entries.count, "an end that counts other entries")
            }
        }
        guard case .end = whole.records.last else { preconditionFailure("a stream is whole, and has no end") }
        var encoder = ExportEncoder(nextPrefix: nextPrefix)
        for case .entry(let key, let value) in entries { encoder.append(key: key, value: value) }
        encoder.finish()
        let expected = [.nextPrefix(nextPrefix)] + entries + [.end(entryCount: UInt64(entries.count))]
        precondition(story([encoder.takeOutput()[...]]) == Story(records: expected), "a stream does not survive writing and reading")
    }

    private static func story(_ pieces: [ArraySlice<UInt8>]) -> Story {
        var decoder = ExportDecoder(source: "input")
        var story = Story()
        do throws(StorageError) {
            for piece in pieces {
                decoder.bytesReceived(piece)
                while let record = try decoder.next() { story.records.append(record) }
            }
            try decoder.checkIsComplete()
        } catch {
            let codes: [StorageError.Code] = [.streamMalformed, .streamTruncated, .corrupt, .formatTooNew]
            precondition(codes.contains(error.code) && error.remedy != nil, "a stream that is called \(error)")
            story.error = error.code
            // What follows the end may come in a later piece.
            if case .end = story.records.last { story.records.removeLast() }
        }
        return story
    }

    /// A header, and each piece as a block that has its checksum.
    private static func stream(of pieces: [ArraySlice<UInt8>]) -> [UInt8] {
        var stream = Array("MWEXPORT".utf8) + [0, 0, 0, 1]
        for (number, piece) in pieces.enumerated() {
            stream += bigEndian(UInt32(piece.count)) + bigEndian(CRC32C.of(bigEndian(UInt64(number)) + piece)) + piece
        }
        return stream
    }

    private static func bigEndian<I: FixedWidthInteger>(_ integer: I) -> [UInt8] {
        unsafe withUnsafeBytes(of: integer.bigEndian) { unsafe Array($0) }
    }
}
