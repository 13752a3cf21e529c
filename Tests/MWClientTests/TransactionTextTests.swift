import MWClient
import Testing

/// Transactions as people write them: read, written again, and refused with the place of what is wrong.
@Suite struct TransactionTextTests {
    private static func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    private static let whole = #"""
        if  # all of them
            revision config/main = 12
            revision a != 1  revision b < 2 revision c > 3
            exists lock/main absent "a key with blanks"
            value mode = "open"
        then
            put mode "closed"
            put session/7 hex"00ff" lease 42
            remove lock/main
        else
            get mode
        """#

    @Test func `Every condition and operation is read`() throws {
        let transaction = try TransactionText(parsing: Self.bytes(Self.whole))
        #expect(
            transaction.conditions == [
                .revision(Self.bytes("config/main"), .equal, 12, of: nil), .revision(Self.bytes("a"), .notEqual, 1, of: nil),
                .revision(Self.bytes("b"), .less, 2, of: nil), .revision(Self.bytes("c"), .greater, 3, of: nil),
                .exists(Self.bytes("lock/main")),
                .absent(Self.bytes("a key with blanks")), .value(Self.bytes("mode"), .equal, Self.bytes("open")),
            ])
        #expect(
            transaction.thenOperations == [
                .put(Self.bytes("mode"), Self.bytes("closed"), lease: nil), .put(Self.bytes("session/7"), [0, 0xFF], lease: 42),
                .remove(Self.bytes("lock/main")),
            ])
        #expect(transaction.elseOperations == [.get(Self.bytes("mode"))])
        #expect(try TransactionText(parsing: Self.bytes(transaction.text)) == transaction)
    }

    @Test func `One line will do, and each part may be missing`() throws {
        let one = try TransactionText(parsing: Self.bytes(#"if absent k then put k "v" else get k"#))
        #expect(one.conditions == [.absent([0x6B])] && one.thenOperations.count == 1 && one.elseOperations.count == 1)
        #expect(try TransactionText(parsing: Self.bytes("then get a")).thenOperations == [.get([0x61])])
        #expect(try TransactionText(parsing: Self.bytes("if exists a")).conditions == [.exists([0x61])])
        #expect(try TransactionText(parsing: Self.bytes("if exists a else remove b")).elseOperations == [.remove([0x62])])
    }

    @Test func `A revision may say of which store it is`() throws {
        let text = "if revision k = 000102030405060708090a0b0c0d0e0f:7 then remove k"
        let transaction = try TransactionText(parsing: Self.bytes(text))
        #expect(transaction.conditions == [.revision([0x6B], .equal, 7, of: (0..<16).map { UInt8($0) })])
        #expect(try TransactionText(parsing: Self.bytes(transaction.text)) == transaction)
    }

    @Test func `Any bytes survive quoting`() throws {
        var transaction = TransactionText()
        let all = (0...255).map { UInt8($0) }
        transaction.thenOperations = [
            .put(all, all.reversed(), lease: nil), .put(Self.bytes("grüße \u{202E}"), [], lease: .max),
            .put([0xE2, 0x82], [0xC3], lease: 0),
        ]
        #expect(try TransactionText(parsing: Self.bytes(transaction.text)) == transaction)
        #expect(ByteText.quoted(Self.bytes("a\"\\\n\u{1B}ü\u{202E}")) == #""a\"\\\n\x1bü\xe2\x80\xae""#)
        #expect(
            try TransactionText(parsing: Self.bytes(#"then get "\0\t\r\n\"\\\x7f""#)).thenOperations == [.get([0, 9, 13, 10, 34, 92, 127])])
    }

    @Test(arguments: [
        ("", 1, 1, "the text ends", "'if' or 'then'"),
        ("# nothing\n", 2, 1, "the text ends", "'if' or 'then'"),
        ("put a \"b\"", 1, 1, "there is 'put'", "'if' or 'then'"),
        ("if then get a", 1, 4, "there is 'then'", "a condition: revision, exists, absent or value"),
        ("then put a b", 1, 12, "there is 'b'", "a value in quotes"),
        ("then\n  put a\n  remove b", 3, 3, "there is 'remove'", "a value in quotes"),
        ("then get\nelse get a", 2, 1, "there is 'else'", "a key (in quotes, if it is called like that)"),
        ("then get \"\"", 1, 10, "there is \"\"", "a key of at least one byte"),
        ("then get", 1, 9, "the text ends", "a key"),
        ("if revision a 1", 1, 15, "there is '1'", "=, !=, < or >"),
        ("if revision a = -1", 1, 17, "there is '-1'", "a revision: 0 or more, or INCARNATION:NUMBER"),
        ("if revision a = 18446744073709551616", 1, 17, "there is '18446744073709551616'", "a revision: 0 or more, or INCARNATION:NUMBER"),
        ("if revision a = 00:7", 1, 17, "there is '00:7'", "a revision: 0 or more, or INCARNATION:NUMBER"),
        ("then put ü \"b\" lease x", 1, 22, "there is 'x'", "the number of a lease"),
        ("then get \"a\nb\"", 1, 10, "the text in quotes does not end in its line", "\" (a line feed is \\n)"),
        ("then get \"a", 1, 10, "the text in quotes does not end", "\""),
        ("then get \"\\", 1, 11, "there is nothing behind a backslash", #"\" \\ \n \r \t \0 or \xNN"#),
        ("then get \"\\q\"", 1, 11, "there is q behind a backslash", #"\" \\ \n \r \t \0 or \xNN"#),
        ("then get \"\\x0g\"", 1, 11, "\\x is not followed by two hexadecimal digits", "\\x00 to \\xff"),
        ("then get hex\"0\"", 1, 10, "there is hex\"0\"", "two hexadecimal digits for each byte"),
        ("then get k\"0\"", 1, 10, "there is 'k' right before a quotation mark", "a blank between them, or hex\"…\""),
        ("then get \u{1}", 1, 10, "there is \\x01", "a word, or text in quotes"),
        ("then get a then get b", 1, 12, "there is 'then'", "a condition, an operation, 'then', 'else' or the end"),
    ])
    func `What is wrong is told with its place`(_ text: String, _ line: Int, _ column: Int, _ what: String, _ expected: String) {
        #expect(throws: TransactionText.Fault(line: line, column: column, what: what, expected: expected)) {
            try TransactionText(parsing: Self.bytes(text))
        }
    }

    // `scripts/fuzz transaction` goes on where this stops.
    @Test func `A text that was changed at random is read or refused, and says the same when written again`() throws {
        var random = SystemRandomNumberGenerator()
        let rounds = 5_000
        var read = 0
        for _ in 0..<rounds {
            var bytes = Self.bytes(Self.whole)
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let position = Int.random(in: 0..<bytes.count, using: &random)
                bytes[position] = [0, 10, 32, 34, 35, 61, 92, 97, 0x80, 0xFF].randomElement(using: &random) ?? 0
            }
            guard let transaction = try? TransactionText(parsing: bytes) else { continue }
            read += 1
            #expect(try TransactionText(parsing: Self.bytes(transaction.text)) == transaction)
        }
        #expect(read > rounds / 20, "most changes must not be refused")
    }
}
