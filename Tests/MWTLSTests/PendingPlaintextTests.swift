import NIOCore
import NIOEmbedded
import Testing

@testable import MWTLS

/// What waits to be encrypted. Method: operations at random, beside a model that knows only how much was written, flushed and taken.
@Suite struct PendingPlaintextTests {
    private final class Model {
        let loop = EmbeddedEventLoop()
        var pending = PendingPlaintext()
        /// The bytes that were written count up, so that each says where it belongs.
        private var written = 0
        private var flushed = 0
        private var taken = 0
        /// Where flushes ended, whose promises have not come back.
        private var promises: [(end: Int, promise: EventLoopPromise<Void>)] = []
        var unflushedCount: Int { self.written - self.flushed }
        var waitingCount: Int { self.written - self.taken }

        private static let longest = 40_000
        private static let pattern = ByteBuffer(bytes: (0..<longest + 256).map { UInt8(truncatingIfNeeded: $0) })

        /// What is written from the byte `start` on.
        private func bytes(_ start: Int, _ count: Int) -> ByteBuffer? { Self.pattern.getSlice(at: start % 256, length: count) }

        func append(_ count: Int) {
            guard let bytes = self.bytes(self.written, count) else { preconditionFailure("at most \(Self.longest)") }
            self.pending.append(bytes)
            self.written += count
        }

        func flush(isPromised: Bool) {
            let promise = isPromised ? self.loop.makePromise(of: Void.self) : nil
            if let promise { self.promises.append((self.written, promise)) }
            self.pending.flush(promise)
            self.flushed = self.written
        }

        /// - Returns: false if there was nothing.
        func take(_ maximumBytes: Int) -> Bool {
            guard let (bytes, promise) = self.pending.next(upTo: maximumBytes) else { return false }
            #expect(bytes == self.bytes(self.taken, bytes.readableBytes) && bytes.readableBytes <= maximumBytes)
            self.taken += bytes.readableBytes
            #expect(self.taken <= self.flushed, "only what is flushed")
            guard let promise else { return true }
            let next = self.promises.removeFirst()
            #expect(promise.futureResult === next.promise.futureResult && self.taken == next.end, "behind the last byte of its flush")
            promise.succeed(())
            return true
        }

        func removeUnflushed() {
            self.pending.removeUnflushed()
            self.written = self.flushed
        }

        func removeAll() {
            let left = self.pending.removeAll()
            #expect(left.map { ObjectIdentifier($0.futureResult) } == self.promises.map { ObjectIdentifier($0.promise.futureResult) })
            for promise in left { promise.succeed(()) }
            self.promises = []
            (self.written, self.flushed) = (self.taken, self.taken)
        }

        func check() {
            #expect(self.pending.byteCount == self.written - self.taken)
            #expect(self.pending.flushedByteCount == self.flushed - self.taken)
            #expect(self.pending.hasFlushed == (self.taken < self.flushed || !self.promises.isEmpty))
            // A promise that waits for no byte is waited for as well.
            #expect(self.pending.isEmpty == (self.written == self.taken && self.promises.isEmpty))
        }
    }

    @Test(arguments: 0..<8 as Range<UInt64>)
    func `What is written comes out whole and in order, once it is flushed, each promise behind its flush`(seed: UInt64) {
        var random = SplitMix(state: seed)
        let model = Model()
        for _ in 0..<600 {
            switch Int.random(in: 0..<40, using: &random) {
            case 0..<14: model.append([0, 1, 300, 9_000, 17_000, 40_000].randomElement(using: &random) ?? 0)
            case 14..<22: model.flush(isPromised: Bool.random(using: &random))
            case 22..<38: _ = model.take([1, 1000, 16 << 10, 1 << 20].randomElement(using: &random) ?? 1)
            case 38: model.removeUnflushed()
            default: if Int.random(in: 0..<20, using: &random) == 0 { model.removeAll() }
            }
            model.check()
        }
        model.flush(isPromised: true)
        while model.take(1 << 20) {}
        model.check()
        #expect(model.pending.isEmpty)
    }

    // A peer takes a piece for each that is written: places of those that are gone pile up in front, and room is made now and then.
    @Test(arguments: [0, 1, 63, 64, 65, 200])
    func `A backlog that never ends stays whole while the places of what is gone are given up`(backlog: Int) {
        let model = Model()
        func write() {
            model.append(17_000)
            model.flush(isPromised: true)
        }
        for _ in 0..<backlog { write() }
        for round in 0..<500 {
            write()
            // Something that is not flushed yet, whenever room may be made.
            model.append(5)
            #expect(model.take(1 << 20))
            model.check()
            if round.isMultiple(of: 3) { model.removeUnflushed() }
            model.check()
        }
        model.flush(isPromised: false)
        while model.take(1 << 20) {}
        model.check()
        #expect(model.pending.isEmpty)
    }

    @Test func `Small writes are put together up to 16 KiB, and never with what was flushed before`() {
        var pending = PendingPlaintext()
        for _ in 0..<20 { pending.append(ByteBuffer(repeating: 1, count: 1 << 10)) }
        pending.flush(nil)
        pending.append(ByteBuffer(repeating: 2, count: 10))
        pending.flush(nil)
        var counts: [Int] = []
        while let next = pending.next(upTo: 1 << 20) { counts.append(next.bytes.readableBytes) }
        #expect(counts == [16 << 10, 4 << 10, 10])
    }
}

/// The same for the same seed everywhere.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        self.state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = self.state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
