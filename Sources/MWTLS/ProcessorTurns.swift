package import NIOCore

/// When a thread that has much to do lets others have its processor.
///
/// A kernel leaves a thread that runs its processor for a time slice, although another one has become ready to run meanwhile: requests on
/// one event loop would wait for what another one, or a handshake's step, is at. So long work has parts, of up to a tenth of a millisecond,
/// and between them a thread gives way by itself, if its turn is over. Measured for gets of 1 KiB, 2,000 a second, on one of two loops that
/// share a processor: with scans on the other one the 99th percentile was 0.8 ms and is 0.2, as it is alone; with gets of 16 MiB 3.7 and 0.4.
///
/// Linux 6.17 and later count what is left of the slice as used then: where others are never done, who always gave way would get much less
/// than the share that its thread has. So a turn is as long as the others' was, up to a limit, and a step that has waited for too long takes
/// its share.
package struct ProcessorTurns {
    /// Default 40 us: beyond, giving way costs less than a twentieth of a turn.
    package static let length = TimeAmount.microseconds(40)
    /// Of a handshake's step, since it was asked for. Default 10 ms: far more than a few handshakes at once need beside loops that have time
    /// left. Beside a loop that is never done, a handshake that is alone takes 50 ms for it, and where several wait they get two thirds of
    /// their share or more.
    package static let patience = TimeAmount.milliseconds(10)
    /// Bytes to be copied or encrypted between two looks at the clock. Default 64 KiB: 5 to 20 us, and what is not more costs no look.
    @inlinable package static var bytesPerLook: Int { 64 << 10 }

    /// Of a turn behind others that were long, each of which counts as much as this one then. Default 1 ms: beside others that are never done
    /// it gets a share, and who waits for it no more than half of a time slice.
    package static let maximumLength = TimeAmount.milliseconds(1)

    private let now: () -> NIODeadline
    private let giveWay: () -> Void
    private let patientUntil: NIODeadline
    private var endsAt: NIODeadline
    @usableFromInline var bytesToLook = Self.bytesPerLook

    /// The first turn begins now.
    ///
    /// - Parameters:
    ///   - askedAt: Since when a handshake's step has waited; nil for an event loop, which always gives way.
    ///   - giveWay: Lets others run that are ready, and returns when they have run.
    package init(askedAt: NIODeadline? = nil, now: @escaping () -> NIODeadline = { .now() }, giveWay: @escaping () -> Void) {
        self.now = now
        self.giveWay = giveWay
        self.patientUntil = askedAt.map { $0 + Self.patience } ?? .distantFuture
        self.endsAt = now() + Self.length
    }

    /// Between two parts: gives way if this turn is over.
    package mutating func partEnded() {
        let end = now()
        guard end >= endsAt, end < patientUntil else { return }
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
}
