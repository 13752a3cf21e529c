import MWPKI

/// A transaction as people write it.
///
///     if
///         revision config/main = 12       # = != < >; an absent key has revision 0; INCARNATION:12 says of which store
///         exists lock/main
///         absent "a key with blanks"
///         value mode = "open"             # = != < >, byte by byte
///     then
///         put mode "closed"               # a value is always in quotes
///         put session/7 hex"00ff" lease 42
///         remove lock/main
///     else
///         get mode
///
/// Blanks and line feeds only separate; `#` begins a comment, which ends with its line. Keys and values as in ``ByteText``. Each of the three
/// parts may be missing, but not all of them.
package struct TransactionText: Hashable, Sendable {
    package enum Relation: String, Hashable, Sendable, CaseIterable {
        case equal = "="
        case notEqual = "!="
        case less = "<"
        case greater = ">"
    }

    package enum Condition: Hashable, Sendable {
        case exists([UInt8])
        case absent([UInt8])
        /// - Parameter of: the 16 bytes of an incarnation, where one was named.
        case revision([UInt8], Relation, UInt64, of: [UInt8]?)
        case value([UInt8], Relation, [UInt8])
    }

    package enum Operation: Hashable, Sendable {
        case get([UInt8])
        case put([UInt8], [UInt8], lease: Int64?)
        case remove([UInt8])
    }

    /// All must hold; none always do.
    package var conditions: [Condition] = []
    package var thenOperations: [Operation] = []
    package var elseOperations: [Operation] = []

    package init() {}

    /// - Throws: ``Fault``, the first of them, with its place.
    package init(parsing text: [UInt8]) throws(Fault) {
        var parser = TransactionTextParser(text)
        self = try parser.transaction()
    }

    /// What is wrong, and where.
    package struct Fault: Error, Hashable, Sendable {
        /// From 1.
        package var line: Int
        /// From 1, in characters.
        package var column: Int
        package var what: String
        package var expected: String

        package init(line: Int, column: Int, what: String, expected: String) {
            self.line = line
            self.column = column
            self.what = what
            self.expected = expected
        }
    }

    /// The same transaction as text again, one condition or operation a line.
    package var text: String {
        var lines: [String] = []
        if !self.conditions.isEmpty { lines.append("if") }
        for condition in self.conditions { lines.append("    " + Self.text(condition)) }
        lines.append("then")
        for operation in self.thenOperations { lines.append("    " + Self.text(operation)) }
        if !self.elseOperations.isEmpty { lines.append("else") }
        for operation in self.elseOperations { lines.append("    " + Self.text(operation)) }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func text(_ condition: Condition) -> String {
        switch condition {
        case .exists(let key): "exists \(ByteText.quoted(key))"
        case .absent(let key): "absent \(ByteText.quoted(key))"
        case .revision(let key, let relation, let number, let incarnation):
            "revision \(ByteText.quoted(key)) \(relation.rawValue) \(incarnation.map { Hex.encode($0) + ":" } ?? "")\(number)"
        case .value(let key, let relation, let value): "value \(ByteText.quoted(key)) \(relation.rawValue) \(ByteText.quoted(value))"
        }
    }

    private static func text(_ operation: Operation) -> String {
        switch operation {
        case .get(let key): "get \(ByteText.quoted(key))"
        case .put(let key, let value, let lease):
            "put \(ByteText.quoted(key)) \(ByteText.quoted(value))" + (lease.map { " lease \($0)" } ?? "")
        case .remove(let key): "remove \(ByteText.quoted(key))"
        }
    }
}

/// Reads tokens, and from them a transaction, in one pass.
struct TransactionTextParser {
    private typealias Fault = TransactionText.Fault

    private enum Token: Hashable {
        case word([UInt8])
        case bytes([UInt8])
        case relation(TransactionText.Relation)
        case end
    }

    /// Words that are no keys unless in quotes.
    private static let reserved: Set<String> = [
        "if", "then", "else", "revision", "exists", "absent", "value", "put", "remove", "get", "lease",
    ]

    private let text: [UInt8]
    private var position = 0
    private var line = 1
    /// Where the current line begins.
    private var lineStart = 0
    /// The token that is looked at, and where it begins.
    private var token = Token.end
    private var tokenStart = 0

    init(_ text: [UInt8]) { self.text = text }

    mutating func transaction() throws(TransactionText.Fault) -> TransactionText {
        var transaction = TransactionText()
        try self.advance()
        var hasParts = false
        if try self.take("if") {
            hasParts = true
            while let condition = try self.condition() { transaction.conditions.append(condition) }
            if transaction.conditions.isEmpty { throw self.fault("a condition: revision, exists, absent or value") }
        }
        if try self.take("then") {
            hasParts = true
            while let operation = try self.operation() { transaction.thenOperations.append(operation) }
        }
        if try self.take("else") {
            hasParts = true
            while let operation = try self.operation() { transaction.elseOperations.append(operation) }
        }
        guard self.token == .end, hasParts else {
            throw self.fault(hasParts ? "a condition, an operation, 'then', 'else' or the end" : "'if' or 'then'")
        }
        return transaction
    }

    private mutating func condition() throws(TransactionText.Fault) -> TransactionText.Condition? {
        if try self.take("exists") { return .exists(try self.key()) }
        if try self.take("absent") { return .absent(try self.key()) }
        if try self.take("revision") {
            let key = try self.key()
            let relation = try self.relation()
            let (number, incarnation) = try self.revision()
            return .revision(key, relation, number, of: incarnation)
        }
        guard try self.take("value") else { return nil }
        let key = try self.key()
        return .value(key, try self.relation(), try self.value())
    }

    private mutating func operation() throws(TransactionText.Fault) -> TransactionText.Operation? {
        if try self.take("get") { return .get(try self.key()) }
        if try self.take("remove") { return .remove(try self.key()) }
        guard try self.take("put") else { return nil }
        let key = try self.key()
        let value = try self.value()
        let lease = try self.take("lease") ? try self.number("the number of a lease") : nil
        return .put(key, value, lease: lease)
    }

    // MARK: Tokens

    private mutating func take(_ word: String) throws(TransactionText.Fault) -> Bool {
        guard self.token == .word(Array(word.utf8)) else { return false }
        try self.advance()
        return true
    }

    private mutating func key() throws(TransactionText.Fault) -> [UInt8] {
        switch self.token {
        case .word(let bytes):
            guard !Self.reserved.contains(String(decoding: bytes, as: UTF8.self)) else {
                throw self.fault("a key (in quotes, if it is called like that)")
            }
            try self.advance()
            return bytes
        case .bytes(let bytes):
            guard !bytes.isEmpty else { throw self.fault("a key of at least one byte") }
            try self.advance()
            return bytes
        case .relation, .end: throw self.fault("a key")
        }
    }

    private mutating func value() throws(TransactionText.Fault) -> [UInt8] {
        guard case .bytes(let bytes) = self.token else { throw self.fault("a value in quotes") }
        try self.advance()
        return bytes
    }

    private mutating func relation() throws(TransactionText.Fault) -> TransactionText.Relation {
        guard case .relation(let relation) = self.token else { throw self.fault("=, !=, < or >") }
        try self.advance()
        return relation
    }

    private mutating func number(_ expected: String) throws(TransactionText.Fault) -> Int64 {
        guard case .word(let digits) = self.token, digits.allSatisfy(Self.isDigit),
            let number = Int64(String(decoding: digits, as: UTF8.self))
        else { throw self.fault(expected) }
        try self.advance()
        return number
    }

    private mutating func revision() throws(TransactionText.Fault) -> (UInt64, of: [UInt8]?) {
        let expected = "a revision: 0 or more, or INCARNATION:NUMBER"
        guard case .word(let word) = self.token else { throw self.fault(expected) }
        let parts = String(decoding: word, as: UTF8.self).split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 2, let digits = parts.last, digits.utf8.allSatisfy(Self.isDigit), let number = UInt64(digits) else {
            throw self.fault(expected)
        }
        let incarnation = parts.count == 2 ? Hex.decode(parts[0]) : nil
        guard parts.count == 1 || incarnation?.count == 16 else { throw self.fault(expected) }
        try self.advance()
        return (number, incarnation)
    }

    private static func isDigit(_ byte: UInt8) -> Bool { byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") }

    private func fault(_ expected: String) -> TransactionText.Fault {
        let what =
            switch self.token {
            case .end: "the text ends"
            case .word(let bytes): "there is '\(Self.shown(bytes))'"
            case .bytes(let bytes): "there is \"\(Self.shown(bytes))\""
            case .relation(let relation): "there is \(relation.rawValue)"
            }
        return self.fault(at: self.tokenStart, what, expected: expected)
    }

    /// For a message: the beginning of it.
    private static func shown(_ bytes: [UInt8]) -> String {
        let longest = 40
        return ByteText.escaped(bytes.prefix(longest)) + (bytes.count > longest ? "…" : "")
    }

    private mutating func advance() throws(TransactionText.Fault) {
        self.skipBlanks()
        self.tokenStart = self.position
        guard let byte = self.peek() else {
            self.token = .end
            return
        }
        switch byte {
        case UInt8(ascii: "="): self.token = self.takeRelation(.equal, 1)
        case UInt8(ascii: "<"): self.token = self.takeRelation(.less, 1)
        case UInt8(ascii: ">"): self.token = self.takeRelation(.greater, 1)
        case UInt8(ascii: "!") where self.peek(1) == UInt8(ascii: "="): self.token = self.takeRelation(.notEqual, 2)
        case UInt8(ascii: "\""): self.token = .bytes(try self.quoted())
        case _ where ByteText.isWordByte(byte): self.token = try self.word()
        default:
            throw self.fault(at: self.position, "there is \(ByteText.escaped([byte]))", expected: "a word, or text in quotes")
        }
    }

    private mutating func takeRelation(_ relation: TransactionText.Relation, _ length: Int) -> Token {
        self.position += length
        return .relation(relation)
    }

    private mutating func word() throws(TransactionText.Fault) -> Token {
        let start = self.position
        while let byte = self.peek(), ByteText.isWordByte(byte) { self.position += 1 }
        let word = Array(self.text[start..<self.position])
        guard self.peek() == UInt8(ascii: "\"") else { return .word(word) }
        guard word == Array("hex".utf8) else {
            throw self.fault(
                at: start, "there is '\(Self.shown(word))' right before a quotation mark", expected: "a blank between them, or hex\"…\"")
        }
        let digits = try self.quoted()
        guard let bytes = Hex.decode(Substring(String(decoding: digits, as: UTF8.self))) else {
            throw self.fault(at: start, "there is hex\"\(Self.shown(digits))\"", expected: "two hexadecimal digits for each byte")
        }
        return .bytes(bytes)
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    /// From the quotation mark on.
    private mutating func quoted() throws(TransactionText.Fault) -> [UInt8] {
        let start = self.position
        self.position += 1
        var bytes: [UInt8] = []
        while let byte = self.peek() {
            switch byte {
            case UInt8(ascii: "\""):
                self.position += 1
                return bytes
            case UInt8(ascii: "\n"):
                throw self.fault(at: start, "the text in quotes does not end in its line", expected: "\" (a line feed is \\n)")
            case UInt8(ascii: "\\"): bytes.append(try self.escaped())
            default:
                bytes.append(byte)
                self.position += 1
            }
        }
        throw self.fault(at: start, "the text in quotes does not end", expected: "\"")
    }

    /// From the backslash on.
    private mutating func escaped() throws(TransactionText.Fault) -> UInt8 {
        let start = self.position
        let letter = self.peek(1)
        self.position += 2
        switch letter {
        case UInt8(ascii: "\""): return UInt8(ascii: "\"")
        case UInt8(ascii: "\\"): return UInt8(ascii: "\\")
        case UInt8(ascii: "n"): return UInt8(ascii: "\n")
        case UInt8(ascii: "r"): return UInt8(ascii: "\r")
        case UInt8(ascii: "t"): return UInt8(ascii: "\t")
        case UInt8(ascii: "0"): return 0
        case UInt8(ascii: "x"):
            if let high = self.peek().flatMap(Self.digit), let low = self.peek(1).flatMap(Self.digit) {
                self.position += 2
                return high << 4 | low
            }
            throw self.fault(at: start, "\\x is not followed by two hexadecimal digits", expected: "\\x00 to \\xff")
        default:
            let found = letter.map { ByteText.escaped([$0]) } ?? "nothing"
            throw self.fault(at: start, "there is \(found) behind a backslash", expected: "\\\" \\\\ \\n \\r \\t \\0 or \\xNN")
        }
    }

    private mutating func skipBlanks() {
        var isComment = false
        while let byte = self.peek() {
            if byte == UInt8(ascii: "\n") {
                isComment = false
                self.line += 1
                self.lineStart = self.position + 1
            } else if byte == UInt8(ascii: "#") {
                isComment = true
            } else if !isComment, ![UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r")].contains(byte) {
                return
            }
            self.position += 1
        }
    }

    private func peek(_ offset: Int = 0) -> UInt8? {
        let index = self.position + offset
        return index < self.text.count ? self.text[index] : nil
    }

    /// The column is counted here only, as a long line has many tokens: the characters before `position` in its line, and one. Bytes that go
    /// on with a character of UTF-8 do not count.
    private func fault(at position: Int, _ what: String, expected: String) -> TransactionText.Fault {
        let column = 1 + self.text[self.lineStart..<position].count { $0 & 0xC0 != 0x80 }
        return Fault(line: self.line, column: column, what: what, expected: expected)
    }
}
