// Operations in one flat buffer. Integers of fixed size are little endian; a varint is 7 bits a byte, least significant
// first, the top bit set on all but the last.
//
//   offset  size  meaning
//   0       8     zero (an engine's sequence number goes here)
//   8       4     number of operations
//   12      …     operations, one after the other:
//                   01  varint n  n bytes engine key  varint m  m bytes value      put
//                   00  varint n  n bytes engine key                               remove
//
//   engine key := keyspace (1 byte) key
//
// This is the layout that LevelDB and RocksDB give to their own batches, so that RocksDB takes the buffer as it is.

import Glibc

/// Changes to apply together: appended without an allocation each, and reused.
@safe
package struct WriteBatch: ~Copyable, @unchecked Sendable {
    // Safety: the buffer has this one owner, and a non-copyable value is used by one thread at a time.
    private var base: UnsafeMutableRawPointer
    private var capacity: Int
    /// How many bytes the batch takes, its header included.
    package private(set) var byteCount: Int
    /// How many puts and removes it holds.
    package private(set) var operationCount: Int
    /// All that it does to data is in its history records as well, so that a log needs only these.
    package var isDataInHistory = false

    package static let headerBytes = 12
    private static let putTag: UInt8 = 1
    private static let removeTag: UInt8 = 0
    /// A tag and two lengths of at most five bytes, and the keyspace.
    private static let maximumOverheadBytes = 12
    /// The longest varint of 32 bits, for a length that is known only later.
    private static let paddedVarintBytes = 5

    package init(capacity: Int = 4096) {
        self.capacity = max(capacity, WriteBatch.headerBytes)
        unsafe self.base = UnsafeMutableRawPointer.allocate(byteCount: self.capacity, alignment: 8)
        unsafe self.base.initializeMemory(as: UInt8.self, repeating: 0, count: WriteBatch.headerBytes)
        self.byteCount = WriteBatch.headerBytes
        self.operationCount = 0
    }

    deinit { unsafe base.deallocate() }

    package var isEmpty: Bool { operationCount == 0 }

    /// Stores `value` under `key`.
    package mutating func put(
        in keyspace: Keyspace = .data, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) throws(StorageError) {
        try unsafe check(key)
        try unsafe check(value: value)
        reserve(WriteBatch.maximumOverheadBytes + key.count + value.count)
        unsafe appendKey(WriteBatch.putTag, keyspace, key)
        appendVarint(value.count)
        unsafe appendBytes(value)
        operationCount += 1
    }

    /// Makes `key` absent, whether or not it is there.
    package mutating func remove(in keyspace: Keyspace = .data, key: UnsafeRawBufferPointer) throws(StorageError) {
        try unsafe check(key)
        reserve(WriteBatch.maximumOverheadBytes + key.count)
        unsafe appendKey(WriteBatch.removeTag, keyspace, key)
        operationCount += 1
    }

    /// Makes a record of the store's own absent: its key may be longer than a client's.
    mutating func removeRecord(in keyspace: Keyspace, key: UnsafeRawBufferPointer) {
        reserve(WriteBatch.maximumOverheadBytes + key.count)
        unsafe appendKey(WriteBatch.removeTag, keyspace, key)
        operationCount += 1
    }

    /// Appends the operations of another batch.
    package mutating func append(_ other: borrowing WriteBatch) {
        let bytes = other.byteCount - WriteBatch.headerBytes
        reserve(bytes)
        unsafe (base + byteCount).copyMemory(from: other.base + WriteBatch.headerBytes, byteCount: bytes)
        byteCount += bytes
        operationCount += other.operationCount
    }

    /// Forgets the operations. Keeps the memory, of which there are `keepingAtMost` bytes then.
    package mutating func removeAll(keepingAtMost limit: Int = StorageLimits.maximumIdleBatchBytes) {
        // Who needed more needs it again soon, and would have to grow to there step by step.
        if capacity > limit { self = WriteBatch(capacity: limit) }
        byteCount = WriteBatch.headerBytes
        operationCount = 0
        isDataInHistory = false
    }

    /// A place in the batch to go back to.
    package struct Mark: Hashable, Sendable {
        package let byteCount: Int
        package let operationCount: Int
    }

    /// The place before the first operation of any batch.
    package static let start = Mark(byteCount: headerBytes, operationCount: 0)
    /// The place after the last operation.
    package var mark: Mark { Mark(byteCount: byteCount, operationCount: operationCount) }

    /// A put whose value is still being appended.
    package struct OpenPut: ~Copyable {
        fileprivate let lengthOffset: Int
    }

    /// Begins a put whose value comes in pieces, so that nobody has to gather it first.
    ///
    /// Call order: this, any number of `appendValue(_:)`, then ``endPut(_:)``; nothing else in between. The value may
    /// be longer than `StorageLimits.maximumValueBytes`: a record of the store holds keys beside values.
    package mutating func beginPut(in keyspace: Keyspace, key: UnsafeRawBufferPointer) -> OpenPut {
        reserve(WriteBatch.maximumOverheadBytes + key.count)
        unsafe appendKey(WriteBatch.putTag, keyspace, key)
        let open = OpenPut(lengthOffset: byteCount)
        byteCount += WriteBatch.paddedVarintBytes
        return open
    }

    /// Appends a piece of the value of the open put.
    package mutating func appendValue(_ bytes: UnsafeRawBufferPointer) {
        reserve(bytes.count)
        unsafe appendBytes(bytes)
    }

    /// Appends an integer to the value of the open put, big endian.
    package mutating func appendValue<I: FixedWidthInteger>(_ integer: I) {
        reserve(MemoryLayout<I>.size)
        unsafe base.storeBytes(of: integer.bigEndian, toByteOffset: byteCount, as: I.self)
        byteCount += MemoryLayout<I>.size
    }

    /// Ends a put that was begun.
    package mutating func endPut(_ open: consuming OpenPut) {
        // Both engines take a varint that is longer than it need be.
        var rest = UInt32(byteCount - open.lengthOffset - WriteBatch.paddedVarintBytes)
        for index in 0..<WriteBatch.paddedVarintBytes {
            let isLast = index == WriteBatch.paddedVarintBytes - 1
            let byte = UInt8(truncatingIfNeeded: rest) & 0x7F | (isLast ? 0 : 0x80)
            unsafe base.storeBytes(of: byte, toByteOffset: open.lengthOffset + index, as: UInt8.self)
            rest >>= 7
        }
        operationCount += 1
    }

    /// Appends bytes of this batch to the value of the open put.
    mutating func appendCopy(of range: Range<Int>) {
        reserve(range.count)
        unsafe ProcessorTurns.copy(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count), to: base + byteCount)
        byteCount += range.count
    }

    /// A copy of the bytes at `range`.
    borrowing func bytes(at range: Range<Int>) -> [UInt8] {
        unsafe Array(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
    }

    /// Whether the bytes at `range` are those of `key`.
    borrowing func holds(_ key: UnsafeRawBufferPointer, at range: Range<Int>) -> Bool {
        guard range.count == key.count else { return false }
        guard let start = key.baseAddress else { return true }
        return unsafe memcmp(start, base + range.lowerBound, range.count) == 0
    }

    /// Calls `body` with the key at `range`, borrowed for that call.
    @inline(__always)
    borrowing func withKey(at range: Range<Int>, _ body: (UnsafeRawBufferPointer) -> Void) {
        unsafe body(UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count))
    }

    /// Where the key, without its keyspace, of the operation is that was appended at `mark`.
    static func keyRange(ofOperationAt mark: Mark, keyBytes: Int) -> Range<Int> {
        var start = mark.byteCount + 3
        var rest = (keyBytes + 1) >> 7
        while rest > 0 {
            start += 1
            rest >>= 7
        }
        return start..<start + keyBytes
    }

    /// Overwrites the first bytes of each value that was put into `keyspace` between two marks with `integer`, big endian.
    ///
    /// Every such value must be at least as long.
    mutating func stamp<I: FixedWidthInteger>(_ integer: I, in keyspace: Keyspace, from start: Mark, to end: Mark) {
        unsafe forEach(from: start, to: end) { change in
            guard case .put(let key, let value) = unsafe change, unsafe key.first == keyspace.prefix else { return }
            guard let place = value.baseAddress, value.count >= MemoryLayout<I>.size else {
                preconditionFailure("a value that has no place for its stamp")
            }
            unsafe UnsafeMutableRawPointer(mutating: place).storeBytes(of: integer.bigEndian, as: I.self)
        }
    }

    /// Forgets the operations appended since `mark` was taken.
    package mutating func rollBack(to mark: Mark) {
        precondition(mark.byteCount <= byteCount, "a mark of another batch")
        byteCount = mark.byteCount
        operationCount = mark.operationCount
    }

    /// The whole buffer with its header, in the layout drawn above.
    package borrowing func withUnsafeBytes<R, E: Error>(_ body: (UnsafeRawBufferPointer) throws(E) -> R) throws(E) -> R {
        unsafe base.storeBytes(of: UInt32(truncatingIfNeeded: operationCount).littleEndian, toByteOffset: 8, as: UInt32.self)
        return unsafe try body(UnsafeRawBufferPointer(start: base, count: byteCount))
    }

    /// Calls `body` with each operation between two marks (all of them without), the keyspace byte still in the key.
    package borrowing func forEach(from start: Mark = WriteBatch.start, to end: Mark? = nil, _ body: (EngineChange) -> Void) {
        let count = (end?.byteCount ?? byteCount) - start.byteCount
        var reader = unsafe OperationReader(bytes: UnsafeRawBufferPointer(start: base + start.byteCount, count: count))
        while let change = unsafe reader.next() { unsafe body(change) }
    }

    /// The same of all operations, with the bytes of each, which lie one behind the other.
    package borrowing func forEachOperation(_ body: (EngineChange, UnsafeRawBufferPointer) -> Void) {
        let start = unsafe base + WriteBatch.headerBytes
        var reader = unsafe OperationReader(bytes: UnsafeRawBufferPointer(start: start, count: byteCount - WriteBatch.headerBytes))
        var from = 0
        while let change = unsafe reader.next() {
            unsafe body(change, UnsafeRawBufferPointer(start: start + from, count: reader.offset - from))
            from = reader.offset
        }
    }
}

extension WriteBatch {
    /// Stores `value` under `key`.
    package mutating func put(in keyspace: Keyspace = .data, _ key: [UInt8], _ value: [UInt8]) throws(StorageError) {
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe value.span.bytes.withUnsafeBytes { (value) throws(StorageError) in
                try unsafe put(in: keyspace, key: key, value: value)
            }
        }
    }

    /// Makes `key` absent, whether or not it is there.
    package mutating func remove(in keyspace: Keyspace = .data, _ key: [UInt8]) throws(StorageError) {
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe remove(in: keyspace, key: key)
        }
    }

    func check(value: UnsafeRawBufferPointer) throws(StorageError) { try WriteBatch.check(valueBytes: value.count) }

    func check(_ key: UnsafeRawBufferPointer) throws(StorageError) { try WriteBatch.check(keyBytes: key.count) }

    static func check(valueBytes: Int) throws(StorageError) {
        guard valueBytes <= StorageLimits.maximumValueBytes else {
            throw StorageError(
                .valueTooLarge, subject: "put", found: "a value of \(valueBytes) bytes",
                expected: "at most \(StorageLimits.maximumValueBytes)", remedy: "split the value")
        }
    }

    static func check(keyBytes: Int) throws(StorageError) {
        guard keyBytes <= StorageLimits.maximumKeyBytes else {
            throw StorageError(
                .keyTooLarge, subject: "write", found: "a key of \(keyBytes) bytes",
                expected: "at most \(StorageLimits.maximumKeyBytes)", remedy: "use a shorter key")
        }
    }

    /// Has room for so many more bytes.
    mutating func reserve(_ bytes: Int) {
        let needed = byteCount + bytes
        guard needed > capacity else { return }
        let grown = max(needed, capacity * 2)
        let moved = UnsafeMutableRawPointer.allocate(byteCount: grown, alignment: 8)
        unsafe moved.copyMemory(from: base, byteCount: byteCount)
        unsafe base.deallocate()
        unsafe base = moved
        capacity = grown
    }

    private mutating func appendKey(_ tag: UInt8, _ keyspace: Keyspace, _ key: UnsafeRawBufferPointer) {
        unsafe base.storeBytes(of: tag, toByteOffset: byteCount, as: UInt8.self)
        byteCount += 1
        appendVarint(key.count + 1)
        unsafe base.storeBytes(of: keyspace.prefix, toByteOffset: byteCount, as: UInt8.self)
        byteCount += 1
        unsafe appendBytes(key)
    }

    private mutating func appendVarint(_ value: Int) {
        var rest = UInt32(value)
        while rest >= 0x80 {
            unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest) | 0x80, toByteOffset: byteCount, as: UInt8.self)
            byteCount += 1
            rest >>= 7
        }
        unsafe base.storeBytes(of: UInt8(truncatingIfNeeded: rest), toByteOffset: byteCount, as: UInt8.self)
        byteCount += 1
    }

    private mutating func appendBytes(_ bytes: UnsafeRawBufferPointer) {
        unsafe ProcessorTurns.copy(bytes, to: base + byteCount)
        byteCount += bytes.count
    }
}

/// One operation of a batch, borrowed; the first byte of the key is its keyspace.
@unsafe
package enum EngineChange {
    case put(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
    case remove(key: UnsafeRawBufferPointer)
}

/// Reads back what `WriteBatch` wrote (our own bytes: a bad one is a fault of this program).
@safe
private struct OperationReader {
    private let bytes: UnsafeRawBufferPointer
    /// Behind the last operation.
    private(set) var offset = 0

    init(bytes: UnsafeRawBufferPointer) { unsafe self.bytes = bytes }

    mutating func next() -> EngineChange? {
        guard unsafe offset < bytes.count else { return nil }
        let isPut = unsafe bytes[offset] == 1
        offset += 1
        let key = unsafe slice()
        return unsafe isPut ? .put(key: key, value: slice()) : .remove(key: key)
    }

    private mutating func slice() -> UnsafeRawBufferPointer {
        var count = 0
        var shift = 0
        while true {
            let byte = unsafe bytes[offset]
            offset += 1
            count |= Int(byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 { break }
        }
        defer { offset += count }
        return unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }
}
