import Glibc

/// One of the ordered maps that a store is made of.
///
/// Every engine holds a single ordered map of bytes, since LevelDB has nothing else; a keyspace is the first byte of the
/// engine's key. That byte is written where the key is copied anyway (into the batch, or onto the stack for a read), so
/// it costs no allocation. Numbers are on disk: never reuse one.
package struct Keyspace: Hashable, Sendable {
    package let prefix: UInt8

    private init(_ prefix: UInt8) { self.prefix = prefix }

    /// What the store knows about itself: the prefix counter, its revision, who it is.
    package static let meta = Keyspace(0)
    /// What clients put.
    package static let data = Keyspace(1)
    /// The changes of each revision that can still be asked for.
    package static let history = Keyspace(2)
    /// Clients whose writes happen exactly once.
    package static let sessions = Keyspace(3)
    /// How those writes ended.
    package static let outcomes = Keyspace(4)
    /// Leases that have not ended.
    package static let leases = Keyspace(5)
    /// Which keys go with which lease.
    package static let leaseKeys = Keyspace(6)

    /// For tests that write the keys of other programs.
    package init(rawPrefix: UInt8) { self.prefix = rawPrefix }
}

extension UnsafeRawBufferPointer {
    /// What comes behind the keyspace in an engine's key.
    @inline(__always)
    var behindKeyspace: UnsafeRawBufferPointer {
        guard let start = baseAddress, count > 0 else { return unsafe self }
        return unsafe UnsafeRawBufferPointer(start: start + 1, count: count - 1)
    }
}

/// The keys from `lower` up to, and without, `upper`, in byte order.
package struct KeyRange: Hashable, Sendable {
    package var lower: [UInt8]
    /// The first key that is outside; nil for no bound.
    package var upper: [UInt8]?

    package init(lower: [UInt8] = [], upper: [UInt8]? = nil) {
        self.lower = lower
        self.upper = upper
    }

    /// Every key.
    package static let all = KeyRange()

    /// Every key that begins with `prefix`.
    package init(prefix: [UInt8]) {
        self.lower = prefix
        self.upper = prefix.lastIndex { $0 < UInt8.max }.map { last in
            Array(prefix[..<last]) + [prefix[last] + 1]
        }
    }

    /// The same range among the engine's keys, where `keyspace` is the first byte.
    package func engineRange(in keyspace: Keyspace) -> KeyRange {
        let end = upper.map { [keyspace.prefix] + $0 } ?? KeyRange(prefix: [keyspace.prefix]).upper
        return KeyRange(lower: [keyspace.prefix] + lower, upper: end)
    }
}

/// Which way a scan walks.
package enum ScanDirection: Hashable, Sendable {
    case forward
    case backward
}

extension KeyRange {
    /// Whether `key` is in the range.
    package func contains(_ key: UnsafeRawBufferPointer) -> Bool {
        guard unsafe !KeyRange.precedes(key, lower) else { return false }
        guard let upper else { return true }
        return unsafe KeyRange.precedes(key, upper)
    }

    private static func precedes(_ left: UnsafeRawBufferPointer, _ right: [UInt8]) -> Bool {
        unsafe right.span.bytes.withUnsafeBytes { right in
            let common = min(left.count, right.count)
            guard common > 0, let leftStart = left.baseAddress, let rightStart = right.baseAddress else {
                return left.count < right.count
            }
            let order = unsafe memcmp(leftStart, rightStart, common)
            return order != 0 ? order < 0 : left.count < right.count
        }
    }
}
