import Glibc
import MWStorage

/// A sorted map of bytes to bytes whose copies share what they have in common: a copy costs nothing, a change the path to it.
///
/// A treap: sorted by key, and a heap by a number that only depends on the key, so that the same contents have the same shape.
struct OrderedBytes: Sendable {
    private var root: Node?

    private final class Node: Sendable {
        let key: [UInt8]
        let value: [UInt8]
        let priority: UInt64
        let left: Node?
        let right: Node?

        init(_ key: [UInt8], _ value: [UInt8], _ priority: UInt64, _ left: Node?, _ right: Node?) {
            self.key = key
            self.value = value
            self.priority = priority
            self.left = left
            self.right = right
        }

        func with(left: Node?, right: Node?) -> Node { Node(key, value, priority, left, right) }
    }

    subscript(key: [UInt8]) -> [UInt8]? {
        get {
            var node = root
            while let here = node {
                switch OrderedBytes.order(key, here.key) {
                case 0: return here.value
                case ..<0: node = here.left
                default: node = here.right
                }
            }
            return nil
        }
        set {
            if let newValue {
                root = OrderedBytes.inserting(key, newValue, OrderedBytes.priority(of: key), root)
            } else if self[key] != nil {
                root = OrderedBytes.removing(key, root)
            }
        }
    }

    /// Calls `body` with each key from `lower` up to, and without, `upper`, in order, until it returns false.
    func forEach(from lower: [UInt8], to upper: [UInt8]?, isBackward: Bool, _ body: ([UInt8], [UInt8]) -> Bool) {
        _ = OrderedBytes.visit(root, lower, upper, isBackward, body)
    }

    var isEmpty: Bool { root == nil }

    private static func visit(
        _ node: Node?, _ lower: [UInt8], _ upper: [UInt8]?, _ isBackward: Bool, _ body: ([UInt8], [UInt8]) -> Bool
    ) -> Bool {
        guard let node else { return true }
        let isFromLower = order(node.key, lower) >= 0
        let isBelowUpper = upper.map { order(node.key, $0) < 0 } ?? true
        func left() -> Bool { isFromLower ? visit(node.left, lower, upper, isBackward, body) : true }
        func right() -> Bool { isBelowUpper ? visit(node.right, lower, upper, isBackward, body) : true }
        func own() -> Bool { isFromLower && isBelowUpper ? body(node.key, node.value) : true }
        return isBackward ? right() && own() && left() : left() && own() && right()
    }

    private static func inserting(_ key: [UInt8], _ value: [UInt8], _ priority: UInt64, _ node: Node?) -> Node {
        guard let node else { return Node(key, value, priority, nil, nil) }
        let position = order(key, node.key)
        if position == 0 { return Node(key, value, priority, node.left, node.right) }
        if priority > node.priority {
            let (left, right) = split(node, at: key)
            return Node(key, value, priority, left, right)
        }
        return position < 0
            ? node.with(left: inserting(key, value, priority, node.left), right: node.right)
            : node.with(left: node.left, right: inserting(key, value, priority, node.right))
    }

    /// The key must be there.
    private static func removing(_ key: [UInt8], _ node: Node?) -> Node? {
        guard let node else { return nil }
        switch order(key, node.key) {
        case 0: return joined(node.left, node.right)
        case ..<0: return node.with(left: removing(key, node.left), right: node.right)
        default: return node.with(left: node.left, right: removing(key, node.right))
        }
    }

    private static func split(_ node: Node?, at key: [UInt8]) -> (Node?, Node?) {
        guard let node else { return (nil, nil) }
        if order(node.key, key) < 0 {
            let (below, above) = split(node.right, at: key)
            return (node.with(left: node.left, right: below), above)
        }
        let (below, above) = split(node.left, at: key)
        return (below, node.with(left: above, right: node.right))
    }

    private static func joined(_ left: Node?, _ right: Node?) -> Node? {
        guard let left else { return right }
        guard let right else { return left }
        return left.priority > right.priority
            ? left.with(left: left.left, right: joined(left.right, right))
            : right.with(left: joined(left, right.left), right: right.right)
    }

    /// FNV-1a, then mixed: the last bytes of a key reach the top bits too.
    private static func priority(of key: [UInt8]) -> UInt64 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in key { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        hash = (hash ^ (hash >> 32)) &* 0xD6E8_FEB8_6659_FD93
        return hash ^ (hash >> 32)
    }

    private static func order(_ left: [UInt8], _ right: [UInt8]) -> CInt {
        let common = unsafe left.withUnsafeBytes { left in
            unsafe right.withUnsafeBytes { right in
                guard let leftStart = left.baseAddress, let rightStart = right.baseAddress else { return CInt(0) }
                return unsafe memcmp(leftStart, rightStart, min(left.count, right.count))
            }
        }
        return common != 0 ? common : CInt((left.count - right.count).signum())
    }
}

extension OrderedBytes {
    private static let fileName = "memory"
    private static let maximumFileBytes = 64 << 20

    /// Nil if nothing was written there.
    init?(readingFrom directory: String) throws(StorageError) {
        let path = directory + "/" + OrderedBytes.fileName
        guard let bytes = try FileDescriptor.contents(of: path, atMost: OrderedBytes.maximumFileBytes) else { return nil }
        var rest = bytes[...]
        func piece() -> [UInt8]? {
            guard rest.count >= 4 else { return nil }
            let count = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            guard rest.count >= 4 + count else { return nil }
            defer { rest = rest.dropFirst(4 + count) }
            return Array(rest.dropFirst(4).prefix(count))
        }
        while let key = piece(), let value = piece() { self[key] = value }
        guard rest.isEmpty else {
            throw StorageError(.corrupt, subject: path, found: "more than \(OrderedBytes.maximumFileBytes) bytes, or a torn end")
        }
    }

    func write(to directory: String) throws(StorageError) {
        try FileDescriptor.makeDirectories(directory)
        var bytes: [UInt8] = []
        forEach(from: [], to: nil, isBackward: false) { key, value in
            for piece in [key, value] {
                bytes += (0..<4).map { UInt8(truncatingIfNeeded: piece.count >> (24 - 8 * $0)) }
                bytes += piece
            }
            return true
        }
        try FileDescriptor.replace(directory + "/" + OrderedBytes.fileName, with: bytes)
    }
}
