// Transactions.

package import NIOCore

/// A condition on one key.
package struct NativeCompare: NativeRecord {
    package var key = ByteBuffer()
    /// 0 presence, 1 revision, 2 value. An absent key has revision 0, and an empty value.
    package var target: Int64 = 0
    /// 0 equal, 1 not equal, 2 less, 3 greater. Values are compared byte by byte, presence only for being equal or not.
    package var relation: Int64 = 0
    /// The revision to compare with; for presence 1 is there, 0 is absent.
    package var number: Int64 = 0
    /// The value to compare with.
    package var value = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "key", &self.key)
        try visitor.field(2, "target", &self.target)
        try visitor.field(3, "relation", &self.relation)
        try visitor.field(4, "number", &self.number)
        try visitor.field(5, "value", &self.value)
    }
}

/// One step of a transaction; steps see what those before them did.
package struct NativeOperation: NativeRecord {
    /// 0 get, 1 put, 2 remove.
    package var action: Int64 = 0
    package var key = ByteBuffer()
    package var value = ByteBuffer()
    package var lease: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "action", &self.action)
        try visitor.field(2, "key", &self.key)
        try visitor.field(3, "value", &self.value)
        try visitor.field(NativeTag(rawValue: 4).critical, "lease", &self.lease)
    }
}

/// If all conditions hold, the `then` operations, otherwise the `else` operations: all at one revision, or nothing.
package struct NativeTransaction: NativeRequest {
    package typealias Reply = NativeTransactionResult
    package static let kind = NativeRequestKind.transaction

    package var compares: [NativeCompare] = []
    package var thenOperations: [NativeOperation] = []
    package var elseOperations: [NativeOperation] = []
    package var writeID: NativeWriteID?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(NativeTag(rawValue: 1).critical, "compares", &self.compares)
        try visitor.field(2, "then_operations", &self.thenOperations)
        try visitor.field(3, "else_operations", &self.elseOperations)
        try visitor.field(NativeTag(rawValue: 4).critical, "write_i_d", &self.writeID)
    }
}

/// What a transaction did.
package struct NativeTransactionResult: NativeRecord {
    /// As of ``NativeWritten``.
    package var revision: Int64 = 0
    package var isRepeated = false
    /// The conditions held.
    package var hasSucceeded = false
    /// One for each operation that was done: what was at its key before it.
    package var results: [NativeEntry] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "revision", &self.revision)
        try visitor.field(2, "repeated", &self.isRepeated)
        try visitor.field(3, "succeeded", &self.hasSucceeded)
        try visitor.field(4, "results", &self.results)
    }
}
