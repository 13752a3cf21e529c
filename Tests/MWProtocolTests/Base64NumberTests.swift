import MWProtocol
import NIOCore
import Testing

@Suite struct Base64NumberTests {
    static let vectors: [(Int64, String)] = [
        (0, "A"), (1, "C"), (-1, "D"), (15, "e"), (-15, "f"), (16, "g"), (-16, "h"), (31, "+"), (-31, "/"), (32, "BA"),
        (1_000_000, "HoSA"), ((1 << 53) - 1, "////////+"), ((1 << 53) - 2, "////////8"), (-((1 << 53) - 2), "////////9"),
        (-((1 << 53) - 1), "/////////"),
    ]

    @Test(arguments: vectors) func `A number and its text are the two sides of the original's table`(value: Int64, text: String) throws {
        #expect(Base64Number(exactly: value)?.description == text)
        #expect(try Base64Number(text: text).value == value)
    }

    @Test(arguments: [Int32.min, -1, 0, 1, 31, 32, .max]) func `A 32 bit number takes at most six characters`(value: Int32) throws {
        let number = Base64Number(value)
        #expect(number.description.utf8.count <= Base64Number.maximumInt32Characters)
        #expect(try Base64Number(text: number.description).value == Int64(value))
    }

    @Test func `Every magnitude around a power of two survives the round trip`() throws {
        for bit in 0..<53 {
            for offset in Int64(-1)...1 {
                for sign in [Int64(1), -1] {
                    let value = sign * ((1 << Int64(bit)) + offset)
                    let number = try #require(Base64Number(exactly: value))
                    #expect(try Base64Number(text: number.description) == number)
                }
            }
        }
    }

    @Test(arguments: [Int64.min, -(1 << 53), 1 << 53, .max]) func `A magnitude over 2^53 - 1 is no number`(value: Int64) {
        #expect(Base64Number(exactly: value) == nil)
    }

    @Test(arguments: ["", "#", "-", "A A", "é", "=", "////////+A", "BA=", "AA", "AC", "B"])
    func `A text that no encoder writes is refused`(text: String) {
        #expect(throws: ProtocolError(.malformedNumber, "number")) { try Base64Number(text: text) }
    }
}
