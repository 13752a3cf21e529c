import Glibc

extension StoreMachine {
    /// Evaluates a transaction, and does what it says.
    mutating func transact(
        _ request: TransactionRequest, _ origin: CommitOrigin, _ engine: any StorageEngine
    ) throws(StorageError) -> TransactionOutcome {
        let transaction = request.transaction
        var holds = true
        for compare in transaction.compares where holds { holds = try self.holds(compare, engine) }
        let operations = holds ? transaction.thenOperations : transaction.elseOperations
        for case .put(_, _, let lease?) in operations { try requireLease(lease, of: request.terms.principal) }
        let mark = requestBegan()
        var results: [StoredEntry] = []
        do throws(StorageError) {
            results.reserveCapacity(operations.count)
            var bytes = 0
            for operation in operations {
                let entry = try entry(operation.key, engine)
                bytes += entry.key.count + entry.value.count
                guard bytes <= StorageLimits.maximumOutcomeBytes else { throw StoreMachine.outcomeTooLarge }
                guard resultBytes + bytes <= StorageLimits.maximumResultBytesPerCommit else { throw StoreMachine.tooManyResults }
                results.append(entry)
                try self.perform(operation, engine)
            }
            resultBytes += bytes
        } catch {
            undoRequest(to: mark)
            throw error
        }
        _ = try requestEnded(from: mark, origin)
        return TransactionOutcome(revision: revision, hasSucceeded: holds, results: results)
    }

    private mutating func perform(_ operation: Transaction.Operation, _ engine: any StorageEngine) throws(StorageError) {
        switch operation {
        case .get: return
        case .put(let key, let value, let lease):
            try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
                try unsafe value.span.bytes.withUnsafeBytes { (value) throws(StorageError) in
                    try unsafe put(key, value, lease: lease, engine)
                }
            }
        case .remove(let key):
            try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in try unsafe remove(key, engine) }
        }
    }

    private borrowing func entry(_ key: [UInt8], _ engine: any StorageEngine) throws(StorageError) -> StoredEntry {
        try unsafe key.span.bytes.withUnsafeBytes { (bytes) throws(StorageError) in
            try unsafe read(bytes, engine) { stored in
                guard let stored else { return StoredEntry(key: key) }
                return StoredEntry(key: key, value: unsafe Array(stored.bytes), revision: stored.revision, lease: stored.lease)
            }
        }
    }

    private borrowing func holds(_ compare: Transaction.Compare, _ engine: any StorageEngine) throws(StorageError) -> Bool {
        try unsafe compare.key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe read(key, engine) { stored in
                switch compare.condition {
                case .isPresent: return stored != nil
                case .isAbsent: return stored == nil
                case .revision(let relation, let revision): return relation.holds((stored?.revision ?? .zero).number, revision.number)
                case .value(let relation, let value):
                    return unsafe relation.holds(order(of: stored?.bytes ?? UnsafeRawBufferPointer(start: nil, count: 0), value), 0)
                }
            }
        }
    }

    /// Less than zero, zero, or more, as the bytes on the left come before those on the right, are the same, or come after them.
    private func order(of left: UnsafeRawBufferPointer, _ right: [UInt8]) -> Int {
        unsafe right.span.bytes.withUnsafeBytes { right in
            let common = min(left.count, right.count)
            if common > 0, let leftStart = left.baseAddress, let rightStart = right.baseAddress {
                let order = unsafe memcmp(leftStart, rightStart, common)
                if order != 0 { return Int(order) }
            }
            return left.count - right.count
        }
    }

    static let tooManyResults = StorageError(
        .overloaded, subject: "transaction", found: "results of other transactions that fill the commit", remedy: "try again later")

    static let outcomeTooLarge = StorageError(
        .tooMany, subject: "transaction", found: "results that are too large",
        expected: "at most \(StorageLimits.maximumOutcomeBytes) bytes of keys and values", remedy: "split the transaction")
}

extension Transaction.Relation {
    fileprivate func holds<N: Comparable>(_ left: N, _ right: N) -> Bool {
        switch self {
        case .equal: left == right
        case .notEqual: left != right
        case .less: left < right
        case .greater: left > right
        }
    }
}
