import EngineContract
import MWStorage
import Testing

@Suite struct ExportStreamTests {
    static let entries: [ExportRecord] = [
        .nextPrefix(7), .entry(key: [], value: []), .entry(key: [1, 2], value: [UInt8](repeating: 3, count: 300_000)),
        .entry(key: [255], value: [0, 35, 255]), .end(entryCount: 3),
    ]

    static let stream: [UInt8] = {
        var encoder = ExportEncoder(nextPrefix: 7)
        for case .entry(let key, let value) in entries { encoder.append(key: key, value: value) }
        encoder.finish()
        return encoder.takeOutput()
    }()

    @Test("a stream is read back however it is cut into pieces", arguments: [1, 7, 4096, 1 << 20])
    func pieces(size: Int) throws {
        // Bytes one at a time would take long over the large value: only around its ends.
        var decoder = ExportDecoder(source: "test")
        var records: [ExportRecord] = []
        var offset = 0
        while offset < Self.stream.count {
            let isNearEnds = offset < 200 || offset > Self.stream.count - 200
            let end = min(offset + (isNearEnds ? size : max(size, 50_000)), Self.stream.count)
            decoder.bytesReceived(Self.stream[offset..<end])
            while let record = try decoder.next() { records.append(record) }
            offset = end
        }
        try decoder.checkIsComplete()
        #expect(records == Self.entries)
    }

    @Test("the bytes are as drawn")
    func bytes() {
        var encoder = ExportEncoder(nextPrefix: 258)
        encoder.append(key: [107], value: [118, 118])
        encoder.finish()
        let records: [UInt8] =
            [2, 0, 0, 1, 2] + [1, 0, 0, 0, 1, 0, 0, 0, 2, 107, 118, 118] + [3, 0, 0, 0, 0, 0, 0, 0, 1]
        let output = encoder.takeOutput()
        #expect(Array(output[..<12]) == Array("MWEXPORT".utf8) + [0, 0, 0, 1])
        #expect(Array(output[12..<16]) == [0, 0, 0, UInt8(records.count)])
        #expect(Array(output[20...]) == records)
    }

    @Test("a stream that ends early is truncated, wherever it was cut")
    func truncation() throws {
        for end in Array(0..<60) + [1000, Self.stream.count - 30, Self.stream.count - 9, Self.stream.count - 1] {
            #expect(throws: StorageError(.streamTruncated, subject: "", found: ""), "cut at \(end)") {
                try read(Array(Self.stream[..<end]))
            }
        }
    }

    @Test("a flipped bit anywhere is an error, and no wrong entry comes out before it")
    func damage() throws {
        var small = ExportEncoder(nextPrefix: 1)
        for index in 0..<4 as Range<UInt8> { small.append(key: [index], value: [index, index]) }
        small.finish()
        let stream = small.takeOutput()
        let good = try read(stream)
        for position in stream.indices {
            for bit in 0..<8 {
                var bad = stream
                bad[position] ^= 1 << bit
                #expect(throws: StorageError.self, "bit \(bit) of byte \(position)") { try read(bad) { #expect(good.contains($0)) } }
            }
        }
    }

    @Test("lost, repeated and exchanged blocks, bytes after the end and newer versions are errors")
    func structure() throws {
        let stream = Self.stream
        let firstBlockEnd = 20 + Int(stream[12]) << 24 + Int(stream[13]) << 16 + Int(stream[14]) << 8 + Int(stream[15])
        let header = Array(stream[..<12])
        let first = Array(stream[12..<firstBlockEnd])
        let rest = Array(stream[firstBlockEnd...])
        for bad in [header + rest, header + first + first + rest, header + rest + first, stream + [0], stream + stream] {
            #expect(throws: StorageError.self) { try read(bad) }
        }
        #expect(throws: StorageError(.formatTooNew, subject: "", found: "")) {
            try read(Array("MWEXPORT".utf8) + [0, 0, 0, 2] + first + rest)
        }
    }

    @Test("a store exported and imported is the same store, and gives no prefix twice")
    func transfer() async throws {
        try await withStore { source, _ in
            try await source.write { (batch) throws(StorageError) in
                for index in 0..<3000 { try batch.put(Array("key \(index)".utf8), [UInt8](repeating: UInt8(index & 255), count: 300)) }
            }
            for _ in 0..<5 { _ = try await source.allocatePrefix() }
            var stream: [[UInt8]] = []
            #expect(try source.export { stream.append($0) } == 3000)
            #expect(stream.count > 2, "an export comes in pieces")
            try await withStore { target, _ in
                var pieces = stream.makeIterator()
                let summary = try await target.importAll(from: .stream(name: "test") { pieces.next() })
                #expect(summary.entryCount == 3000)
                #expect(summary.nextPrefix == 5)
                #expect(try await target.allocatePrefix() == 5)
                let copied = try target.snapshot().page(.all, bytes: .max)
                let original = try source.snapshot().page(.all, bytes: .max)
                #expect(copied.elementsEqual(original) { $0 == $1 })
            }
            try await withStore { target, _ in
                var pieces = stream.dropLast().makeIterator()
                await #expect(throws: StorageError(.streamTruncated, subject: "", found: "")) {
                    try await target.importAll(from: .stream(name: "test") { pieces.next() })
                }
            }
        }
    }

    @discardableResult
    private func read(_ stream: [UInt8], _ body: (ExportRecord) -> Void = { _ in }) throws -> [ExportRecord] {
        var decoder = ExportDecoder(source: "test")
        decoder.bytesReceived(stream)
        var records: [ExportRecord] = []
        while let record = try decoder.next() {
            records.append(record)
            body(record)
        }
        try decoder.checkIsComplete()
        return records
    }
}
