import MWClient

/// Any text gives a transaction or a fault with its place; a transaction that was read can be written, and reads as the same.
enum TransactionFuzz {
    static func run(_ input: [UInt8]) {
        do {
            let transaction = try TransactionText(parsing: input)
            let again = try? TransactionText(parsing: Array(transaction.text.utf8))
            precondition(again == transaction, "a transaction does not survive writing and reading")
        } catch {
            let lines = input.count { $0 == 10 } + 1
            precondition((1...lines).contains(error.line) && (1...input.count + 1).contains(error.column), "a fault outside the text")
            precondition(!error.what.isEmpty && !error.expected.isEmpty)
        }
    }
}
