internal import COpenSSL

// RFC 7468, the strict reading:
//
//   any text                               ignored (`openssl pkcs12` prints bag attributes there)
//   -----BEGIN label-----
//   name: value                            only in traditional key files (RFC 1421 headers), ended by an empty line
//   base64, at most 76 characters a line
//   -----END label-----                    the same label

/// One block of a PEM file.
package struct PEMBlock: Sendable {
    package let label: String
    /// RFC 1421 headers, as `Proc-Type`; empty in all but traditional encrypted keys.
    package let headers: [(name: String, value: String)]
    package internal(set) var der: [UInt8]
    /// Counted from 1 in its file.
    package let number: Int
    /// The lines between the block before and this one, where `openssl pkcs12` writes an entry's alias. Proves nothing.
    package let precedingLines: [ArraySlice<UInt8>]

    /// Overwrites the contents.
    package mutating func wipe() {
        SecretBytes.wipe(der)
        der = []
    }
}

package enum PEM {
    /// Larger than any bundle of public authorities (200 KiB), small enough to refuse a wrong file at once.
    package static let maximumFileBytes = 4 << 20
    /// Ten times the number of public authorities.
    package static let maximumBlocks = 2048

    /// All blocks of a file, in order. An error names the block by its number, from 1.
    package static func blocks(_ bytes: [UInt8], source: String) throws -> [PEMBlock] {
        guard bytes.count <= maximumFileBytes else {
            throw PKIError(
                .pemMalformed, subject: source, "the file is too large", expected: "\(maximumFileBytes) bytes at most",
                found: "\(bytes.count)")
        }
        var reader = PEMReader(source: source, expectedBytes: bytes.count)
        for line in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            try reader.lineReceived(line)
        }
        return try reader.finish()
    }

    /// True when the bytes hold the begin of a block.
    package static func isPEM(_ bytes: [UInt8]) -> Bool {
        bytes.count <= maximumFileBytes
            && bytes.split(separator: UInt8(ascii: "\n")).contains { $0.starts(with: PEMReader.begin) }
    }

    /// A block as text, 64 characters a line.
    package static func encode(label: String, _ der: [UInt8]) -> String {
        String(decoding: encodeBytes(label: label, der), as: UTF8.self)
    }

    static func encodeBytes(label: String, _ der: some Collection<UInt8>) -> [UInt8] {
        let text = Base64.encode(der)
        var out: [UInt8] = []
        out.reserveCapacity(text.count + text.count / 64 + 64)
        out += "-----BEGIN \(label)-----\n".utf8
        for start in stride(from: 0, to: text.count, by: 64) {
            out += text[start..<min(start + 64, text.count)]
            out.append(UInt8(ascii: "\n"))
        }
        out += "-----END \(label)-----\n".utf8
        return out
    }
}

private struct PEMReader {
    static let begin = Array("-----BEGIN ".utf8)
    static let end = Array("-----END ".utf8)
    static let dashes = Array("-----".utf8)
    /// RFC 1421 allows 64 characters a line, MIME 76.
    static let maximumLineBytes = 76
    static let maximumHeaders = 8

    let source: String
    private let expectedBytes: Int
    private var blocks: [PEMBlock] = []
    private var label: String? = nil
    private var headers: [(name: String, value: String)] = []
    private var inHeaders = false
    private var text: [UInt8] = []
    private var precedingLines: [ArraySlice<UInt8>] = []

    /// - Parameter expectedBytes: Of all text: an array that grows leaves what it held in memory that nobody wipes.
    init(source: String, expectedBytes: Int) {
        self.source = source
        self.expectedBytes = expectedBytes
    }

    private func fail(_ what: String, expected: String? = nil, found: String? = nil, remedy: String? = nil) -> PKIError {
        PKIError(.pemMalformed, subject: source, "block \(blocks.count + 1): \(what)", expected: expected, found: found, remedy: remedy)
    }

    mutating func lineReceived(_ raw: ArraySlice<UInt8>) throws {
        var line = raw
        while let last = line.last, last == 0x0D || last == 0x20 || last == 0x09 { line.removeLast() }
        guard let label else {
            // A begin that is not whole is no explanatory text.
            if line.starts(with: PEMReader.begin) {
                try begin(line)
            } else if line.starts(with: PEMReader.dashes) {
                throw fail("an end without a begin, or a damaged begin line")
            } else {
                precedingLines.append(line)
            }
            return
        }
        if line.starts(with: PEMReader.dashes) { return try end(line, label: label) }
        if inHeaders || (text.isEmpty && line.contains(UInt8(ascii: ":"))) { return try header(line) }
        if line.isEmpty { return }
        guard line.count <= PEMReader.maximumLineBytes else { throw fail("a line of base64 is too long") }
        text += line
    }

    func finish() throws -> [PEMBlock] {
        if let label {
            throw fail("the file ends inside of it", expected: "-----END \(label)-----", remedy: "the file was cut off; copy it again")
        }
        return blocks
    }

    private mutating func begin(_ line: ArraySlice<UInt8>) throws {
        guard blocks.count < PEM.maximumBlocks else { throw fail("too many blocks", expected: "\(PEM.maximumBlocks) at most") }
        let label = try labelText(line, after: PEMReader.begin)
        // Public blocks may be many, and need no such care.
        if label.hasSuffix("PRIVATE KEY") { text.reserveCapacity(expectedBytes) }
        self.label = label
    }

    private mutating func end(_ line: ArraySlice<UInt8>, label: String) throws {
        guard line.starts(with: PEMReader.end) else { throw fail("another block begins inside of it, or its end is damaged") }
        let found = try labelText(line, after: PEMReader.end)
        guard found == label else { throw fail("begin and end differ", expected: label, found: found) }
        guard !inHeaders else { throw fail("no empty line after its headers") }
        guard let der = Base64.decode(text), !der.isEmpty else { throw fail("not base64", remedy: "the file is damaged; copy it again") }
        SecretBytes.wipe(text)
        blocks.append(
            PEMBlock(label: label, headers: headers, der: der, number: blocks.count + 1, precedingLines: precedingLines))
        precedingLines = []
        self.label = nil
        headers = []
        text = []
    }

    private mutating func header(_ line: ArraySlice<UInt8>) throws {
        if line.isEmpty {
            inHeaders = false
            return
        }
        inHeaders = true
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), headers.count < PEMReader.maximumHeaders else {
            throw fail("a malformed header")
        }
        let value = line[line.index(after: colon)...].drop { $0 == 0x20 }
        headers.append((String(decoding: line[..<colon], as: UTF8.self), String(decoding: value, as: UTF8.self)))
    }

    private func labelText(_ line: ArraySlice<UInt8>, after prefix: [UInt8]) throws -> String {
        let rest = line.dropFirst(prefix.count)
        // RFC 7468 §3: printable characters without the hyphen; more than fits the real labels is damage.
        guard rest.count > 5, rest.count <= 64, rest.suffix(5).elementsEqual(PEMReader.dashes) else {
            throw fail("a damaged begin or end line")
        }
        let label = rest.dropLast(5)
        guard label.allSatisfy({ (0x20...0x7E).contains($0) && $0 != UInt8(ascii: "-") }) else { throw fail("a damaged label") }
        return String(decoding: label, as: UTF8.self)
    }
}

/// RFC 4648 §4, canonical: padded, no stray bits, nothing between.
package enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    private static let values: [UInt8] = {
        var values = [UInt8](repeating: 0xFF, count: 256)
        for (value, character) in alphabet.enumerated() { values[Int(character)] = UInt8(value) }
        return values
    }()

    package static func decode(_ text: [UInt8]) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        let padding = text.suffix(2).count { $0 == UInt8(ascii: "=") }
        let digits = text.dropLast(padding)
        var out: [UInt8] = []
        out.reserveCapacity(digits.count * 3 / 4)
        var accumulator: UInt32 = 0
        var bits = 0
        for character in digits {
            let value = values[Int(character)]
            guard value != 0xFF else { return nil }
            accumulator = accumulator << 6 | UInt32(value)
            bits += 6
            if bits >= 8 {
                bits -= 8
                out.append(UInt8(truncatingIfNeeded: accumulator >> UInt32(bits)))
                accumulator &= 0xFF
            }
        }
        // RFC 4648 §3.5: the bits under the padding are zero, so that one value has one text.
        guard accumulator & ((1 << UInt32(bits)) - 1) == 0 else { return nil }
        return out
    }

    static func encode(_ bytes: some Collection<UInt8>) -> [UInt8] {
        var out: [UInt8] = []
        out.reserveCapacity((bytes.count + 2) / 3 * 4)
        var iterator = bytes.makeIterator()
        while let first = iterator.next() {
            let second = iterator.next()
            let third = second == nil ? nil : iterator.next()
            let group = UInt32(first) << 16 | UInt32(second ?? 0) << 8 | UInt32(third ?? 0)
            out.append(alphabet[Int(group >> 18)])
            out.append(alphabet[Int(group >> 12 & 63)])
            out.append(second == nil ? UInt8(ascii: "=") : alphabet[Int(group >> 6 & 63)])
            out.append(third == nil ? UInt8(ascii: "=") : alphabet[Int(group & 63)])
        }
        return out
    }
}
