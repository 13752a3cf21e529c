package import MWProtocol
import NIOCore

// What mwDB's protocol has no requests for.

extension StorageClient {
    /// Reads `keys`, with their revisions and leases, all at one revision of the store.
    ///
    /// All come in one message, so together they must fit `limits.maximumMessageBytes`.
    ///
    /// - Parameters:
    ///   - keysOnly: values are left out, and read as empty.
    ///   - timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func read(_ keys: [[UInt8]], keysOnly: Bool = false, timeout: Duration? = nil) async throws -> ReadResult {
        try self.requireNative("a read with revisions")
        try Self.check(keys)
        let request = Request.nativeGet(keys, isWithoutValues: keysOnly)
        let (revision, entries) = try await self.read(request, keys, timeout) { key, entry, incarnation in
            entry.entry(key: key, in: incarnation)
        }
        return ReadResult(revision: revision, entries: entries)
    }

    /// Does a transaction: all of it at one revision, or nothing.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``; `wrongIncarnation` when it names revisions of another store; after one with
    ///   ``ClientError/mayHaveTakenEffect`` it may have been done. Conditions that do not hold are no error.
    public func transaction(_ transaction: Transaction, timeout: Duration? = nil) async throws -> TransactionResult {
        try self.requireNative("a transaction")
        try Self.check(transaction.keys)
        let incarnations = transaction.incarnations
        guard incarnations.count <= 1 else {
            throw ClientError.invalid("transaction", "names revisions of two stores", remedy: "read afresh")
        }
        var request = Request(transaction.native)
        request.incarnation = incarnations.first
        return try await self.core.ask(request, timeout) { (fields, origin) throws(ProtocolError) in
            let reply = try NativeTransactionResult(fields)
            let operations = reply.hasSucceeded ? transaction.then : transaction.otherwise
            guard reply.results.count == operations.count else {
                throw ProtocolError(
                    .malformedField, "results", expected: "one for each of \(operations.count) operations",
                    found: "\(reply.results.count)")
            }
            let entries = zip(operations, reply.results).map { Entry($1, key: $0.key, in: origin.incarnation) }
            return TransactionResult(
                revision: Revision(origin.incarnation, reply.revision), hasSucceeded: reply.hasSucceeded, entries: entries)
        }
    }

    /// Asks anything of the native protocol.
    package func ask<Request: NativeRequest>(_ request: Request, timeout: Duration? = nil) async throws -> Request.Reply {
        try self.requireNative("\(Request.kind)")
        return try await self.core.ask(request, timeout).0
    }

    func requireNative(_ what: String) throws {
        guard case .native = self.core.clientProtocol else { throw ClientError.unsupported(what) }
    }
}
