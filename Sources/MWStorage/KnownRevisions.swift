import Glibc

/// Which revision put, or removed, the keys that were written lately: a write of one of them need not ask the engine what was there before,
/// which may have to read a block for that.
///
///     slot   offset  size
///            0       8     hash of the key
///            8       8     revision; zero: the key is absent
///            16      1     length of the key, plus one; zero: the slot is free
///            17      47    the key
///
/// A slot is a line of the processor's cache, and two are a set: where both are taken, the key that was written longer ago gives way. Longer
/// keys, and keys that go with a lease, are not kept. What is said here is what the engine holds, or is about to, or nothing: after a failed
/// write all of it must go.
@safe
struct KnownRevisions: ~Copyable, @unchecked Sendable {
    // Safety: the memory has this one owner, and a non-copyable value is used by one thread at a time.
    private var slots: UnsafeMutableRawPointer
    private var setCount: Int
    private var evictions = 0
    private let maximumBytes: Int

    static let maximumKeyBytes = 47
    private static let slotBytes = 64
    private static let setBytes = 2 * slotBytes
    private static let revisionOffset = 8
    private static let lengthOffset = 16
    private static let keyOffset = 17
    private static let firstSetCount = 128

    /// - Parameter maximumBytes: Memory that it may grow to, at least 16 KiB.
    init(maximumBytes: Int) {
        self.maximumBytes = maximumBytes
        self.setCount = KnownRevisions.firstSetCount
        unsafe self.slots = KnownRevisions.makeSlots(setCount)
    }

    deinit { unsafe slots.deallocate() }

    /// What is known of `key`: the revision that put it, zero if it is absent; nil if the engine must be asked.
    func revision(of key: UnsafeRawBufferPointer, _ hash: Int) -> Revision? {
        guard let slot = unsafe find(key, hash) else { return nil }
        return Revision(unsafe slot.load(fromByteOffset: KnownRevisions.revisionOffset, as: UInt64.self))
    }

    /// `key` was put, or removed (zero), by `revision`.
    mutating func set(_ key: UnsafeRawBufferPointer, _ hash: Int, _ revision: Revision) {
        guard key.count <= KnownRevisions.maximumKeyBytes else { return }
        if evictions > setCount / 8, 2 * setCount * KnownRevisions.setBytes <= maximumBytes { grow() }
        let slot = unsafe find(key, hash) ?? place(for: hash)
        if unsafe slot.load(fromByteOffset: KnownRevisions.lengthOffset, as: UInt8.self) == 0 {
            unsafe write(key, hash, to: slot)
        } else if unsafe !KnownRevisions.holds(slot, key, hash) {
            evictions += 1
            unsafe write(key, hash, to: slot)
        }
        unsafe slot.storeBytes(of: revision.number, toByteOffset: KnownRevisions.revisionOffset, as: UInt64.self)
    }

    /// The engine must be asked.
    mutating func forget(_ key: UnsafeRawBufferPointer, _ hash: Int) {
        if let slot = unsafe find(key, hash) { unsafe memset(slot, 0, KnownRevisions.slotBytes) }
    }

    private func find(_ key: UnsafeRawBufferPointer, _ hash: Int) -> UnsafeMutableRawPointer? {
        let first = unsafe self.first(of: hash)
        if unsafe KnownRevisions.holds(first, key, hash) { return unsafe first }
        let second = unsafe first + KnownRevisions.slotBytes
        return unsafe KnownRevisions.holds(second, key, hash) ? second : nil
    }

    /// The slot of its set that is free, or else whose key was written longer ago.
    private func place(for hash: Int) -> UnsafeMutableRawPointer {
        let first = unsafe self.first(of: hash)
        let second = unsafe first + KnownRevisions.slotBytes
        if unsafe first.load(fromByteOffset: KnownRevisions.lengthOffset, as: UInt8.self) == 0 { return unsafe first }
        if unsafe second.load(fromByteOffset: KnownRevisions.lengthOffset, as: UInt8.self) == 0 { return unsafe second }
        let firstRevision = unsafe first.load(fromByteOffset: KnownRevisions.revisionOffset, as: UInt64.self)
        let secondRevision = unsafe second.load(fromByteOffset: KnownRevisions.revisionOffset, as: UInt64.self)
        return unsafe firstRevision <= secondRevision ? first : second
    }

    private func first(of hash: Int) -> UnsafeMutableRawPointer {
        unsafe slots + (hash & (setCount - 1)) * KnownRevisions.setBytes
    }

    private func write(_ key: UnsafeRawBufferPointer, _ hash: Int, to slot: UnsafeMutableRawPointer) {
        unsafe slot.storeBytes(of: hash, as: Int.self)
        unsafe slot.storeBytes(of: UInt8(key.count + 1), toByteOffset: KnownRevisions.lengthOffset, as: UInt8.self)
        if let start = key.baseAddress {
            unsafe (slot + KnownRevisions.keyOffset).copyMemory(from: start, byteCount: key.count)
        }
    }

    private static func holds(_ slot: UnsafeMutableRawPointer, _ key: UnsafeRawBufferPointer, _ hash: Int) -> Bool {
        guard unsafe slot.load(as: Int.self) == hash, unsafe Int(slot.load(fromByteOffset: lengthOffset, as: UInt8.self)) == key.count + 1
        else { return false }
        guard let start = key.baseAddress else { return true }
        return unsafe memcmp(slot + keyOffset, start, key.count) == 0
    }

    private mutating func grow() {
        let (old, oldCount) = unsafe (slots, setCount)
        setCount *= 2
        evictions = 0
        unsafe slots = KnownRevisions.makeSlots(setCount)
        for index in 0..<2 * oldCount {
            let slot = unsafe old + index * KnownRevisions.slotBytes
            guard unsafe slot.load(fromByteOffset: KnownRevisions.lengthOffset, as: UInt8.self) != 0 else { continue }
            unsafe place(for: slot.load(as: Int.self)).copyMemory(from: slot, byteCount: KnownRevisions.slotBytes)
        }
        unsafe old.deallocate()
    }

    private static func makeSlots(_ setCount: Int) -> UnsafeMutableRawPointer {
        let slots = UnsafeMutableRawPointer.allocate(byteCount: setCount * setBytes, alignment: slotBytes)
        unsafe slots.initializeMemory(as: UInt8.self, repeating: 0, count: setCount * setBytes)
        return unsafe slots
    }
}
