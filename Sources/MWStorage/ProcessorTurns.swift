import Glibc

/// When a thread that has much to do lets others have its processor.
///
/// A kernel leaves a thread that runs its processor for a time slice, although another one has become ready to run meanwhile: requests on
/// one event loop would wait for what another one, a handshake's step or a commit is at. So long work has parts, of up to a tenth of a
/// millisecond, and between them a thread gives way by itself, if its turn is over. Measured for gets of 1 KiB, 2,000 a second, on one of two loops that
/// share a processor: with scans on the other one the 99th percentile was 0.8 ms and is 0.2, as it is alone; with gets of 16 MiB 3.7 and 0.4.
///
/// Linux 6.17 and later count what is left of the slice as used then: where others are never done, who always gave way would get much less
/// than the share that its thread has. So a turn is as long as the others' was, up to a limit, and a step that has waited for too long takes
/// its share.
package struct ProcessorTurns {
    /// Default 40 us: beyond, giving way costs less than a twentieth of a turn.
    package static let length = Duration.microseconds(40)
    /// Of a handshake's step, since it was asked for. Default 10 ms: far more than a few handshakes at once need beside loops that have time
    /// left. Beside a loop that is never done, a handshake that is alone takes 50 ms for it, and where several wait they get two thirds of
    /// their share or more.
    package static let patience = Duration.milliseconds(10)
    /// Bytes to be copied or encrypted between two looks at the clock. Default 64 KiB: 5 to 20 us, and what is not more costs no look.
    @inlinable package static var bytesPerLook: Int { 64 << 10 }

    /// Of a turn behind others that were long, each of which counts as much as this one then. Default 1 ms: beside others that are never done
    /// it gets a share, and who waits for it no more than half of a time slice.
    package static let maximumLength = Duration.milliseconds(1)

    private let now: () -> Duration
    private let giveWay: () -> Void
    /// Nil: for ever.
    private let patientUntil: Duration?
    private var endsAt: Duration
    @usableFromInline var bytesToLook = Self.bytesPerLook

    /// The first turn begins now.
    ///
    /// - Parameters:
    ///   - askedAt: Since when a handshake's step has waited; nil for who always gives way.
    ///   - giveWay: Lets others run that are ready, and returns when they have run.
    package init(
        askedAt: Duration? = nil, now: @escaping () -> Duration = StorageOptions.monotonicClock,
        giveWay: @escaping () -> Void = { sched_yield() }
    ) {
        self.now = now
        self.giveWay = giveWay
        self.patientUntil = askedAt.map { $0 + Self.patience }
        self.endsAt = now() + Self.length
    }

    /// Between two parts: gives way if this turn is over.
    package mutating func partEnded() {
        let end = now()
        guard end >= endsAt, patientUntil.map({ end < $0 }) ?? true else { return }
        giveWay()
        let back = now()
        endsAt = back + max(Self.length, min(back - end, Self.maximumLength))
    }

    /// The same, for parts that are small: after each, how many bytes can be copied in the time that it took.
    @inlinable @inline(__always)
    package mutating func worked(_ bytes: Int) {
        bytesToLook -= bytes
        if bytesToLook <= 0 { look() }
    }

    @inline(never) @usableFromInline
    mutating func look() {
        bytesToLook = Self.bytesPerLook
        partEnded()
    }

    // MARK: Long work of whatever thread, by turns of its own

    /// Calls `body` with one part after the other of `byteCount` bytes that are to be copied, looked through or written. What is small is one
    /// part, and looks at no clock.
    package static func inParts<Failure: Error>(_ byteCount: Int, _ body: (Range<Int>) throws(Failure) -> Void) throws(Failure) {
        guard byteCount > bytesPerLook else { return byteCount > 0 ? try body(0..<byteCount) : () }
        var turns = ProcessorTurns()
        for start in stride(from: 0, to: byteCount, by: bytesPerLook) {
            try body(start..<min(start + bytesPerLook, byteCount))
            turns.partEnded()
        }
    }

    /// Copies `source` to `destination`, in parts.
    @inline(__always)
    package static func copy(_ source: UnsafeRawBufferPointer, to destination: UnsafeMutableRawPointer) {
        guard let start = source.baseAddress else { return }
        guard source.count > bytesPerLook else { return unsafe destination.copyMemory(from: start, byteCount: source.count) }
        unsafe copyInParts(source, to: destination)
    }

    @inline(never)
    private static func copyInParts(_ source: UnsafeRawBufferPointer, to destination: UnsafeMutableRawPointer) {
        inParts(source.count) { part in
            let source = unsafe UnsafeRawBufferPointer(rebasing: source[part])
            if let start = source.baseAddress { unsafe (destination + part.lowerBound).copyMemory(from: start, byteCount: part.count) }
        }
    }
}
