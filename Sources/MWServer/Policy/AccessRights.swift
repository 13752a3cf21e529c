internal import Glibc
package import MWStorage

/// What may be done with a key.
package enum AccessRight: String, Sendable, Hashable, CaseIterable {
    /// Ask for its value.
    case read
    /// Put it or remove it.
    case write
    /// Be told of its changes.
    case watch
    /// Server-wide administration, where it is granted over all keys.
    case administer

    fileprivate var bit: AccessRights {
        switch self {
        case .read: .read
        case .write: .write
        case .watch: .watch
        case .administer: .administer
        }
    }
}

/// A set of ``AccessRight``.
package struct AccessRights: OptionSet, Sendable, Hashable {
    package let rawValue: UInt8

    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let read = AccessRights(rawValue: 1)
    package static let write = AccessRights(rawValue: 2)
    package static let watch = AccessRights(rawValue: 4)
    package static let administer = AccessRights(rawValue: 8)
    package static let all: AccessRights = [.read, .write, .watch, .administer]

    package init(_ rights: some Sequence<AccessRight>) { self = rights.reduce(into: []) { $0.insert($1.bit) } }

    @inline(__always)
    package func contains(_ right: AccessRight) -> Bool { self.contains(right.bit) }

    /// In the order of their declaration.
    package var list: [AccessRight] { AccessRight.allCases.filter { self.contains($0) } }
}

/// Some rights over some keys, as a rule of the policy says it.
package struct AccessGrant: Sendable, Hashable {
    package enum Keys: Sendable, Hashable {
        case all
        /// Keys that begin with one of these; none of them empty.
        case prefixes([[UInt8]])
    }

    package let rights: AccessRights
    package let keys: Keys

    package init(_ rights: AccessRights, over keys: Keys) {
        self.rights = rights
        self.keys = keys
    }
}

/// Everything that one rule grants, made for being asked once a key.
///
/// An object, so that all sessions of a rule share it, and so that what was worked out for one of them is known to hold for the others.
package final class AccessGrants: Sendable, Hashable {
    /// As they were given.
    package let list: [AccessGrant]
    /// Rights over all keys: a principal that has them pays one branch a key.
    package let everywhere: AccessRights
    /// Rights over any key at all.
    package let somewhere: AccessRights
    /// For each right, by its place in `AccessRight.allCases`.
    private let read: KeyPrefixes
    private let write: KeyPrefixes
    private let watch: KeyPrefixes
    private let administer: KeyPrefixes

    package static let everything = AccessGrants([AccessGrant(.all, over: .all)])

    package init(_ list: [AccessGrant]) {
        func prefixes(_ right: AccessRight) -> KeyPrefixes {
            KeyPrefixes(
                list.filter { $0.rights.contains(right) }.flatMap { grant -> [[UInt8]] in
                    if case .prefixes(let prefixes) = grant.keys { prefixes } else { [] }
                })
        }
        self.list = list
        self.everywhere = list.reduce(into: []) { if $1.keys == .all { $0.formUnion($1.rights) } }
        self.somewhere = list.reduce(into: []) { $0.formUnion($1.rights) }
        self.read = prefixes(.read)
        self.write = prefixes(.write)
        self.watch = prefixes(.watch)
        self.administer = prefixes(.administer)
    }

    /// Whether `right` holds for `key`; allocates nothing.
    @inline(__always)
    package func allows(_ right: AccessRight, _ key: UnsafeRawBufferPointer) -> Bool {
        if self.everywhere.contains(right) { return true }
        return unsafe self.prefixes(of: right).includes(key)
    }

    /// Whether `right` holds for `key`.
    package func allows(_ right: AccessRight, _ key: [UInt8]) -> Bool {
        unsafe key.withUnsafeBytes { unsafe self.allows(right, $0) }
    }

    /// Whether `right` holds for every key that there can be in `range`. An empty range asks for the right over any key at all.
    package func covers(_ right: AccessRight, _ range: KeyRange) -> Bool {
        if self.everywhere.contains(right) { return true }
        guard self.somewhere.contains(right) else { return false }
        return self.prefixes(of: right).cover(range)
    }

    /// The grants that give `right` over `key`: why it is allowed.
    package func grants(of right: AccessRight, over key: [UInt8]) -> [AccessGrant] {
        self.list.filter { grant in
            guard grant.rights.contains(right) else { return false }
            switch grant.keys {
            case .all: return true
            case .prefixes(let prefixes): return prefixes.contains { key.starts(with: $0) }
            }
        }
    }

    private func prefixes(of right: AccessRight) -> KeyPrefixes {
        switch right {
        case .read: self.read
        case .write: self.write
        case .watch: self.watch
        case .administer: self.administer
        }
    }

    package static func == (left: AccessGrants, right: AccessGrants) -> Bool { left === right || left.list == right.list }
    package func hash(into hasher: inout Hasher) { hasher.combine(self.list) }
}

/// Prefixes of keys, none of which begins with another: then only the last one that is not above a key can be its prefix.
private struct KeyPrefixes: Sendable {
    /// One after the other, in order.
    private let bytes: [UInt8]
    private let ends: [Int]

    init(_ prefixes: [[UInt8]]) {
        var bytes: [UInt8] = []
        var ends: [Int] = []
        var last: [UInt8]?
        for prefix in prefixes.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            // In order, what begins with another comes right behind it, or behind others that do.
            if let last, prefix.starts(with: last) { continue }
            bytes += prefix
            ends.append(bytes.count)
            last = prefix
        }
        self.bytes = bytes
        self.ends = ends
    }

    func includes(_ key: UnsafeRawBufferPointer) -> Bool {
        guard !self.ends.isEmpty else { return false }
        return unsafe self.bytes.withUnsafeBytes { bytes in
            // The number of prefixes that are not above the key.
            var (lower, upper) = (0, self.ends.count)
            while lower < upper {
                let middle = (lower + upper) / 2
                let prefix = unsafe UnsafeRawBufferPointer(rebasing: bytes[self.range(of: middle)])
                if unsafe Self.isAbove(prefix, key) { upper = middle } else { lower = middle + 1 }
            }
            guard lower > 0 else { return false }
            let prefix = unsafe UnsafeRawBufferPointer(rebasing: bytes[self.range(of: lower - 1)])
            return unsafe prefix.count <= key.count && Self.order(prefix, key, prefix.count) == 0
        }
    }

    /// Whether the keys of the prefixes, one after the other, leave no gap in `range`.
    func cover(_ range: KeyRange) -> Bool {
        var reached = range.lower
        func isDone() -> Bool { range.upper.map { !reached.lexicographicallyPrecedes($0) } ?? false }
        // No prefix begins with another, so what lies behind the keys of one begins with the next: exactly it, or there is a gap.
        for index in self.firstIndex(reaching: reached)..<self.ends.count {
            if isDone() { return true }
            let prefix = self.bytes[self.range(of: index)]
            guard reached.starts(with: prefix) else { return false }
            guard let end = KeyRange(prefix: Array(prefix)).upper else { return true }
            reached = end
        }
        return isDone()
    }

    /// The last prefix that is not above `key`: if any is a prefix of it, this one.
    private func firstIndex(reaching key: [UInt8]) -> Int {
        var (lower, upper) = (0, self.ends.count)
        while lower < upper {
            let middle = (lower + upper) / 2
            if key.lexicographicallyPrecedes(self.bytes[self.range(of: middle)]) { upper = middle } else { lower = middle + 1 }
        }
        return max(0, lower - 1)
    }

    private func range(of index: Int) -> Range<Int> { (index == 0 ? 0 : self.ends[index - 1])..<self.ends[index] }

    private static func isAbove(_ prefix: UnsafeRawBufferPointer, _ key: UnsafeRawBufferPointer) -> Bool {
        let order = unsafe self.order(prefix, key, min(prefix.count, key.count))
        return order > 0 || (order == 0 && prefix.count > key.count)
    }

    private static func order(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer, _ count: Int) -> Int32 {
        guard count > 0, let left = left.baseAddress, let right = right.baseAddress else { return 0 }
        return unsafe memcmp(left, right, count)
    }
}
