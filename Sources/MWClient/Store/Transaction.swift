package import MWProtocol
import NIOCore

/// If all of its conditions hold, the operations of ``then``, otherwise those of ``otherwise``: all at one revision, or nothing.
///
/// ```swift
/// let transaction = Transaction(
///     if: [.isAbsent(key)],
///     then: [.put(key, value)],
///     otherwise: [.get(key)])
/// ```
public struct Transaction: Hashable, Sendable {
    /// All must hold; none: they hold.
    public var conditions: [Condition]
    /// What is done when they hold.
    public var then: [Operation]
    /// What is done when they do not.
    public var otherwise: [Operation]

    /// A transaction. Operations see what those before them did.
    public init(if conditions: [Condition] = [], then: [Operation], otherwise: [Operation] = []) {
        self.conditions = conditions
        self.then = then
        self.otherwise = otherwise
    }

    /// A condition on one key. An absent key has revision 0, and an empty value.
    public struct Condition: Hashable, Sendable {
        /// How what is there must lie to what is asked for.
        public enum Relation: Hashable, Sendable {
            /// It is the same.
            case equal
            /// It is another.
            case notEqual
            /// It is less; values byte by byte.
            case less
            /// It is greater; values byte by byte.
            case greater
        }

        fileprivate enum Target: Hashable, Sendable {
            case presence(Bool)
            case revision(Revision)
            case value([UInt8])
        }

        /// The key it is about.
        public let key: [UInt8]
        fileprivate let target: Target
        fileprivate let relation: Relation

        /// The key is there, with any value.
        public static func exists(_ key: [UInt8]) -> Condition { Condition(key: key, target: .presence(true), relation: .equal) }

        /// The key is not there.
        public static func isAbsent(_ key: [UInt8]) -> Condition { Condition(key: key, target: .presence(false), relation: .equal) }

        /// The revision of the key's last change lies so to `revision`. One of another incarnation than the store's makes
        /// ``StorageClient/transaction(_:timeout:)`` throw `wrongIncarnation`.
        public static func revision(_ key: [UInt8], _ relation: Relation, _ revision: Revision) -> Condition {
            Condition(key: key, target: .revision(revision), relation: relation)
        }

        /// The key is as it was read: nobody has changed it since.
        public static func isUnchanged(_ entry: Entry) -> Condition { .revision(entry.key, .equal, entry.revision) }

        /// The key's value lies so to `value`.
        public static func value(_ key: [UInt8], _ relation: Relation, _ value: [UInt8]) -> Condition {
            Condition(key: key, target: .value(value), relation: relation)
        }

        fileprivate var native: NativeCompare {
            var compare = NativeCompare()
            compare.key = ByteBuffer(bytes: self.key)
            compare.relation =
                switch self.relation {
                case .equal: 0
                case .notEqual: 1
                case .less: 2
                case .greater: 3
                }
            switch self.target {
            case .presence(let isThere):
                compare.target = 0
                compare.number = isThere ? 1 : 0
            case .revision(let revision):
                compare.target = 1
                compare.number = revision.wireNumber
            case .value(let value):
                compare.target = 2
                compare.value = ByteBuffer(bytes: value)
            }
            return compare
        }
    }

    /// One step.
    public struct Operation: Hashable, Sendable {
        fileprivate enum Action: Hashable, Sendable {
            case get
            case put([UInt8], LeaseID?)
            case remove
        }

        /// The key it is about.
        public let key: [UInt8]
        fileprivate let action: Action

        /// Reads the key.
        public static func get(_ key: [UInt8]) -> Operation { Operation(key: key, action: .get) }

        /// Stores a value; bound to `lease`, it goes when that ends.
        public static func put(_ key: [UInt8], _ value: [UInt8], lease: LeaseID? = nil) -> Operation {
            Operation(key: key, action: .put(value, lease))
        }

        /// Makes the key absent.
        public static func remove(_ key: [UInt8]) -> Operation { Operation(key: key, action: .remove) }

        fileprivate var native: NativeOperation {
            var operation = NativeOperation()
            operation.key = ByteBuffer(bytes: self.key)
            switch self.action {
            case .get: operation.action = 0
            case .put(let value, let lease):
                operation.action = 1
                operation.value = ByteBuffer(bytes: value)
                operation.lease = lease?.rawValue
            case .remove: operation.action = 2
            }
            return operation
        }
    }

    /// Of which store its revisions are; `nil` when it names none, or those of two.
    package var incarnations: Set<Incarnation> {
        Set(
            self.conditions.compactMap { condition in
                // Revision 0 is "absent" in every store.
                guard case .revision(let revision) = condition.target, revision.number > 0 else { return nil }
                return revision.incarnation
            })
    }

    package var keys: [[UInt8]] { self.conditions.map(\.key) + self.then.map(\.key) + self.otherwise.map(\.key) }

    /// As on the wire.
    package var native: NativeTransaction {
        var transaction = NativeTransaction()
        transaction.compares = self.conditions.map(\.native)
        transaction.thenOperations = self.then.map(\.native)
        transaction.elseOperations = self.otherwise.map(\.native)
        return transaction
    }
}

/// What a transaction did.
public struct TransactionResult: Hashable, Sendable {
    /// The revision that it made; where it changed nothing, the store's.
    public let revision: Revision
    /// The conditions held.
    public let hasSucceeded: Bool
    /// One for each operation that was done, in order: what was at its key before it, `nil` where that was absent.
    public let entries: [Entry?]

    /// A result, for tests.
    public init(revision: Revision, hasSucceeded: Bool, entries: [Entry?]) {
        self.revision = revision
        self.hasSucceeded = hasSucceeded
        self.entries = entries
    }
}
