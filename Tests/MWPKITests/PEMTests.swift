import MWPKI
import Testing

@Suite struct PEMTests {
    private func blocks(_ text: String) throws -> [PEMBlock] { try PEM.blocks(Array(text.utf8), source: "test.pem") }

    @Test func `Text between blocks is ignored`() throws {
        let text = """
            Bag Attributes
                friendlyName: wstestkey
                localKeyID: 54 69 6D 65
            Key Attributes: <No Attributes>
            -----BEGIN A-----
            AAEC
            -----END A-----
            subject=CN = x
            -----BEGIN B-----\r
            AwQ=\r
            -----END B-----\r
            """
        let found = try blocks(text)
        #expect(found.map(\.label) == ["A", "B"])
        #expect(found.map(\.der) == [[0, 1, 2], [3, 4]])
        #expect(found.map(\.number) == [1, 2])
        #expect(found.map(\.precedingLines.count) == [4, 1])
        #expect(found[1].precedingLines.map { String(decoding: $0, as: UTF8.self) } == ["subject=CN = x"])
    }

    @Test(arguments: [0, 1, 2, 3, 47, 48, 49, 1000])
    func `What is encoded is decoded`(count: Int) throws {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37) }
        guard count > 0 else {
            #expect(throws: PKIError.self) { try blocks(PEM.encode(label: "X Y", bytes)) }
            return
        }
        let found = try blocks(PEM.encode(label: "X Y", bytes))
        #expect(found.map(\.der) == [bytes])
        #expect(found.map(\.label) == ["X Y"])
    }

    @Test(arguments: [
        ("-----BEGIN A-----\nAAEC\n", "ends inside"),
        ("-----BEGIN A-----\nAAEC\n-----END B-----\n", "begin and end differ"),
        ("-----BEGIN A-----\nAAEC\n-----BEGIN B-----\nAAEC\n-----END B-----\n", "another block begins"),
        ("-----END A-----\n", "an end without a begin"),
        ("-----BEGIN A----\nAAEC\n-----END A-----\n", "damaged begin"),
        ("-----BEGIN -----\nAAEC\n-----END -----\n", "damaged begin"),
        ("-----BEGIN A-----\nAAE\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\nAA=C\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\nAB==\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\nA===\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\nAA-C\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\n-----END A-----\n", "not base64"),
        ("-----BEGIN A-----\n" + String(repeating: "A", count: 80) + "\n-----END A-----\n", "too long"),
        ("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nAAEC\n-----END A-----\n", "malformed header"),
    ])
    func `A malformed block is refused, and the error names it`(text: String, what: String) throws {
        let first = "-----BEGIN OK-----\nAAEC\n-----END OK-----\n"
        let error = try #require(throws: PKIError.self) { try blocks(first + text) }
        #expect(error.code == .pemMalformed)
        #expect(error.what.hasPrefix("block 2: "), "\(error)")
        #expect(error.what.contains(what), "\(error)")
    }

    @Test func `Too many blocks, and too large a file, are refused`() throws {
        let block = "-----BEGIN A-----\nAAEC\n-----END A-----\n"
        #expect(try blocks(String(repeating: block, count: PEM.maximumBlocks)).count == PEM.maximumBlocks)
        #expect(throws: PKIError.self) { try blocks(String(repeating: block, count: PEM.maximumBlocks + 1)) }
        #expect(throws: PKIError.self) { try PEM.blocks([UInt8](repeating: 0x0A, count: PEM.maximumFileBytes + 1), source: "big.pem") }
    }
}
