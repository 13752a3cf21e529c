internal import MWStorage

/// Finds the owners of all ranges that a key is in, without looking at the others: a treap in the order of lower bounds, of which each node
/// knows the highest upper bound below it.
///
///     key in n disjoint ranges: about log n comparisons; k ranges found: at most k log n
///
/// Priorities come from a seed, so that nobody who chooses the ranges chooses the shape too.
struct RangeIndex {
    private struct Node {
        let lower: [UInt8]
        let upper: [UInt8]?
        let owner: Int
        let priority: UInt64
        var left = RangeIndex.none
        var right = RangeIndex.none
        /// Of this node and all below it; nil is no bound.
        var highest: [UInt8]?
    }

    private var nodes: [Node] = []
    private var free: [Int] = []
    private var root = RangeIndex.none
    private var random: UInt64

    private static let none = -1

    init(seed: UInt64) { self.random = seed }

    var count: Int { self.nodes.count - self.free.count }

    /// An owner has the same range once.
    mutating func insert(_ range: KeyRange, owner: Int) {
        let node = Node(lower: range.lower, upper: range.upper, owner: owner, priority: self.nextPriority(), highest: range.upper)
        let index: Int
        if let reused = self.free.popLast() {
            self.nodes[reused] = node
            index = reused
        } else {
            index = self.nodes.count
            self.nodes.append(node)
        }
        let (left, right) = self.split(self.root, before: node)
        self.root = self.merge(self.merge(left, index), right)
    }

    /// Does nothing if it is not there.
    mutating func remove(_ range: KeyRange, owner: Int) {
        self.root = self.removing(Node(lower: range.lower, upper: range.upper, owner: owner, priority: 0), from: self.root)
    }

    /// Calls `body` with the owner of each range that has `key`; with an owner of several that do, several times.
    func forEachOwner(of key: UnsafeRawBufferPointer, _ body: (Int) -> Void) { unsafe self.visit(self.root, key, body) }

    private func visit(_ index: Int, _ key: UnsafeRawBufferPointer, _ body: (Int) -> Void) {
        guard index != Self.none, unsafe ByteOrder.isBelow(key, self.nodes[index].highest) else { return }
        unsafe self.visit(self.nodes[index].left, key, body)
        guard unsafe !ByteOrder.precedes(key, self.nodes[index].lower) else { return }
        if unsafe ByteOrder.isBelow(key, self.nodes[index].upper) { body(self.nodes[index].owner) }
        unsafe self.visit(self.nodes[index].right, key, body)
    }

    // MARK: The tree

    private static func precedes(_ left: Node, _ right: Node) -> Bool {
        if left.lower != right.lower { return left.lower.lexicographicallyPrecedes(right.lower) }
        if left.upper != right.upper { return Self.isHigher(right.upper, than: left.upper) }
        return left.owner < right.owner
    }

    /// As upper bounds.
    private static func isHigher(_ left: [UInt8]?, than right: [UInt8]?) -> Bool {
        guard let right else { return false }
        return left.map { right.lexicographicallyPrecedes($0) } ?? true
    }

    private mutating func update(_ index: Int) {
        var highest = self.nodes[index].upper
        for child in [self.nodes[index].left, self.nodes[index].right] where child != Self.none {
            if Self.isHigher(self.nodes[child].highest, than: highest) { highest = self.nodes[child].highest }
        }
        self.nodes[index].highest = highest
    }

    /// What is before `node`, and the rest.
    private mutating func split(_ index: Int, before node: Node) -> (left: Int, right: Int) {
        guard index != Self.none else { return (Self.none, Self.none) }
        if Self.precedes(self.nodes[index], node) {
            let (left, right) = self.split(self.nodes[index].right, before: node)
            self.nodes[index].right = left
            self.update(index)
            return (index, right)
        }
        let (left, right) = self.split(self.nodes[index].left, before: node)
        self.nodes[index].left = right
        self.update(index)
        return (left, index)
    }

    /// Everything in `left` is before everything in `right`.
    private mutating func merge(_ left: Int, _ right: Int) -> Int {
        guard left != Self.none else { return right }
        guard right != Self.none else { return left }
        if self.nodes[left].priority > self.nodes[right].priority {
            self.nodes[left].right = self.merge(self.nodes[left].right, right)
            self.update(left)
            return left
        }
        self.nodes[right].left = self.merge(left, self.nodes[right].left)
        self.update(right)
        return right
    }

    private mutating func removing(_ node: Node, from index: Int) -> Int {
        guard index != Self.none else { return Self.none }
        if Self.precedes(node, self.nodes[index]) {
            self.nodes[index].left = self.removing(node, from: self.nodes[index].left)
        } else if Self.precedes(self.nodes[index], node) {
            self.nodes[index].right = self.removing(node, from: self.nodes[index].right)
        } else {
            let merged = self.merge(self.nodes[index].left, self.nodes[index].right)
            self.nodes[index] = Node(lower: [], upper: [], owner: 0, priority: 0)
            self.free.append(index)
            return merged
        }
        self.update(index)
        return index
    }

    /// SplitMix64.
    private mutating func nextPriority() -> UInt64 {
        self.random &+= 0x9e37_79b9_7f4a_7c15
        var mixed = self.random
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
