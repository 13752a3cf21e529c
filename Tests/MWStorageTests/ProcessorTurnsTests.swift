import Testing

@testable import MWStorage

/// When a thread gives way. Method: a clock that the test moves, and a count of how often others were let run.
@Suite struct ProcessorTurnsTests {
    private static let asked = Duration.seconds(1)

    private final class Others {
        var now = ProcessorTurnsTests.asked
        var runs = 0
        /// How long they run.
        var length = Duration.zero

        func run() {
            runs += 1
            now = now + length
        }

        func turns(askedAt: Duration? = nil) -> ProcessorTurns {
            ProcessorTurns(askedAt: askedAt, now: { self.now }, giveWay: run)
        }
    }

    @Test func `Others come when a turn is over, not before, and then after each turn`() {
        let others = Others()
        var processorTurns = others.turns()
        func partEnded(at time: Duration) -> Int {
            others.now = time
            processorTurns.partEnded()
            return others.runs
        }
        let end = others.now + ProcessorTurns.length
        #expect(partEnded(at: others.now) == 0 && partEnded(at: end - .nanoseconds(1)) == 0 && partEnded(at: end) == 1)
        var runs = 1
        // As long as theirs was, within limits.
        let turns: [(theirs: Duration, ours: Duration)] = [
            (.milliseconds(100), ProcessorTurns.length), (.zero, ProcessorTurns.maximumLength),
            (.microseconds(300), ProcessorTurns.length), (.zero, .microseconds(300)),
        ]
        for (theirs, ours) in turns {
            let back = others.now
            others.length = theirs
            #expect(back == others.now && partEnded(at: back + ours - .nanoseconds(1)) == runs)
            runs += 1
            #expect(partEnded(at: back + ours) == runs)
        }
    }

    @Test func `A step that has waited for too long gives way no more, whoever kept it waiting`() {
        let others = Others()
        let patientUntil = Self.asked + ProcessorTurns.patience
        // The others on its processor.
        others.now = patientUntil - ProcessorTurns.length - .nanoseconds(1)
        var interrupted = others.turns(askedAt: Self.asked)
        others.now = patientUntil - .nanoseconds(1)
        interrupted.partEnded()
        #expect(others.runs == 1)
        others.now = patientUntil + .seconds(1)
        interrupted.partEnded()
        #expect(others.runs == 1)
        // Those before it in the queue.
        others.now = patientUntil
        var late = others.turns(askedAt: Self.asked)
        others.now = patientUntil + ProcessorTurns.length
        late.partEnded()
        #expect(others.runs == 1)
    }

    @Test func `Small parts are counted, and the clock is looked at when they have come to as much as a look is worth`() {
        let others = Others()
        var looks = 0
        var turns = ProcessorTurns(
            now: {
                looks += 1; return others.now
            }, giveWay: others.run)
        #expect(looks == 1)
        for _ in 0..<3 { turns.worked(ProcessorTurns.bytesPerLook / 4) }
        #expect(looks == 1)
        turns.worked(ProcessorTurns.bytesPerLook / 4)
        #expect(looks == 2 && others.runs == 0)
        others.now = others.now + ProcessorTurns.length
        turns.worked(ProcessorTurns.bytesPerLook - 1)
        #expect(looks == 2)
        turns.worked(1)
        #expect(looks == 4 && others.runs == 1)
    }

    @Test(arguments: [0, 1, ProcessorTurns.bytesPerLook, ProcessorTurns.bytesPerLook + 1, 1 << 20])
    func `Long work is done in parts, which are all of it, in order, and a copy is what was copied`(byteCount: Int) {
        var parts: [Range<Int>] = []
        ProcessorTurns.inParts(byteCount) { parts.append($0) }
        #expect(parts.reduce(0) { $1.lowerBound == $0 ? $1.upperBound : -1 } == byteCount)
        #expect(parts.allSatisfy { 1...ProcessorTurns.bytesPerLook ~= $0.count })
        let source = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 / 251) }
        var copied = [UInt8](repeating: 0xFF, count: byteCount)
        unsafe source.withUnsafeBytes { source in
            unsafe copied.withUnsafeMutableBytes { copied in
                if let start = copied.baseAddress { unsafe ProcessorTurns.copy(source, to: start) }
            }
        }
        #expect(copied == source)
    }

    @Test func `Long work that fails in a part ends with it`() {
        struct Failed: Error {}
        var count = 0
        #expect(throws: Failed.self) {
            try ProcessorTurns.inParts(10 * ProcessorTurns.bytesPerLook) { _ in
                count += 1
                if count == 3 { throw Failed() }
            }
        }
        #expect(count == 3)
    }
}
