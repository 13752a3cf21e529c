/// Conditions on keys, and what to do if all of them hold, or if one does not: all at one revision, or nothing.
package struct Transaction: Hashable, Sendable {
    package var compares: [Compare]
    package var thenOperations: [Operation]
    package var elseOperations: [Operation]

    package init(compares: [Compare] = [], then thenOperations: [Operation] = [], else elseOperations: [Operation] = []) {
        self.compares = compares
        self.thenOperations = thenOperations
        self.elseOperations = elseOperations
    }

    /// A condition on one key. An absent key has revision zero, and an empty value.
    package struct Compare: Hashable, Sendable {
        package var key: [UInt8]
        package var condition: Condition

        package init(_ key: [UInt8], _ condition: Condition) {
            self.key = key
            self.condition = condition
        }
    }

    package enum Condition: Hashable, Sendable {
        /// There is something.
        case isPresent
        case isAbsent
        /// The revision of the last change is so.
        case revision(Relation, Revision)
        /// The value is so, byte by byte.
        case value(Relation, [UInt8])
    }

    package enum Relation: Hashable, Sendable, CaseIterable {
        case equal
        case notEqual
        case less
        case greater
    }

    /// One step; it sees what the steps before it did.
    package enum Operation: Hashable, Sendable {
        case get([UInt8])
        case put([UInt8], [UInt8], lease: LeaseID? = nil)
        case remove([UInt8])

        package var key: [UInt8] {
            switch self {
            case .get(let key), .put(let key, _, _), .remove(let key): key
            }
        }
    }
}

extension Transaction {
    /// About how many bytes it takes.
    ///
    /// - Throws: `keyTooLarge`, `valueTooLarge`, and `tooMany` for more steps than a transaction may have.
    func checkedByteCount() throws(StorageError) -> Int {
        let steps = compares.count + thenOperations.count + elseOperations.count
        guard steps <= StorageLimits.maximumTransactionSteps else {
            throw StorageError(
                .tooMany, subject: "transaction", found: "\(steps) conditions and operations",
                expected: "at most \(StorageLimits.maximumTransactionSteps)", remedy: "split the transaction")
        }
        var bytes = steps * MemoryLayout<Operation>.stride
        for compare in compares {
            try WriteBatch.check(keyBytes: compare.key.count)
            bytes += compare.key.count
            if case .value(_, let value) = compare.condition { bytes += value.count }
        }
        for operation in thenOperations + elseOperations {
            try WriteBatch.check(keyBytes: operation.key.count)
            bytes += operation.key.count
            guard case .put(_, let value, _) = operation else { continue }
            try WriteBatch.check(valueBytes: value.count)
            bytes += value.count
        }
        return bytes
    }
}
