package import MWStorage
import Synchronization

/// Opens the engine under test, again and again in the same directory.
struct ContractBench: Sendable {
    let factory: StorageEngineFactory
    let directory: String

    func open() throws(StorageError) -> any StorageEngine { try factory.open(directory, EngineOptions()) }
}

/// A key and its value, to compare whole scans.
package struct Entry: Hashable, Sendable, CustomStringConvertible {
    package let key: [UInt8]
    package let value: [UInt8]

    package init(_ key: [UInt8], _ value: [UInt8]) {
        self.key = key
        self.value = value
    }

    /// Texts in the data keyspace.
    package init(_ key: String, _ value: String) { self.init([1] + Array(key.utf8), Array(value.utf8)) }

    package var description: String { "\(key): \(value.count) bytes" }
}

extension StorageEngine {
    package func write(_ changes: [String: String?], sync: Bool = true) throws(StorageError) {
        var batch = WriteBatch()
        for (key, value) in changes {
            if let value { try batch.put(Array(key.utf8), Array(value.utf8)) } else { try batch.remove(Array(key.utf8)) }
        }
        try apply(batch, sync: sync)
    }

    package func value(_ key: [UInt8]) throws(StorageError) -> [UInt8]? {
        var value: [UInt8]?
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe read(key) { value = unsafe $0.map { unsafe Array($0) } }
        }
        return value
    }

    package func value(_ key: String) throws(StorageError) -> [UInt8]? { try value([1] + Array(key.utf8)) }

    package func all(in range: KeyRange = .all, _ direction: ScanDirection = .forward) throws(StorageError) -> [Entry] {
        try snapshot().all(in: range, direction)
    }
}

extension EngineSnapshot {
    package func value(_ key: String) throws(StorageError) -> [UInt8]? {
        var value: [UInt8]?
        let key = [1] + Array(key.utf8)
        try unsafe key.span.bytes.withUnsafeBytes { (key) throws(StorageError) in
            try unsafe read(key) { value = unsafe $0.map { unsafe Array($0) } }
        }
        return value
    }

    package func all(in range: KeyRange = .all, _ direction: ScanDirection = .forward) throws(StorageError) -> [Entry] {
        var entries: [Entry] = []
        let engineRange = range == .all ? range : range.engineRange(in: .data)
        try unsafe scan(engineRange, direction) { key, value in
            unsafe entries.append(Entry(Array(key), Array(value)))
            return true
        }
        return entries
    }
}

/// The same numbers for the same seed, on every machine (SplitMix64).
package struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// A thread whose error comes out where it is joined.
package final class TestThread: Sendable {
    private let thread: WorkerThread
    private let failure: Failure

    private final class Failure: Sendable {
        let error = Mutex<(any Error)?>(nil)
    }

    package init(_ body: @escaping @Sendable () throws -> Void) throws(StorageError) {
        let failure = Failure()
        self.failure = failure
        self.thread = try WorkerThread(name: "mw-test") {
            do { try body() } catch { failure.error.withLock { $0 = error } }
        }
    }

    package func join() throws {
        thread.join()
        if let error = failure.error.withLock({ $0 }) { throw error }
    }
}

/// Runs what blocks on a thread of its own, so that it does not hold up the other tests' tasks.
package func onOwnThread<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
    try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<R, any Error>) in
        do {
            let thread = try WorkerThread(name: "mw-blocking") { continuation.resume(with: Result { try body() }) }
            thread.detach()
        } catch {
            continuation.resume(throwing: error)
        }
    }
}
