package import NIOCore

/// When a step of a handshake, on a thread that stands back, lets others have its processor.
///
/// To stand back only says who goes next. A kernel leaves a thread that runs its processor for a time slice, which is longer than a step,
/// although a loop has become ready to run meanwhile: requests would wait for whole steps. So between its parts, of up to a tenth of a
/// millisecond, a step gives way by itself. Linux 6.17 and later count what is left of the slice as used then: where others are never done,
/// who always gave way would get much less than the share that its thread has. So a step that has waited for too long takes that share.
package struct StepTurns {
    /// Default 40 us: beyond, giving way costs less than a twentieth of a turn.
    package static let length = TimeAmount.microseconds(40)
    /// Since the step was asked for. Default 10 ms: far more than a few handshakes at once need beside loops that have time left. Beside a
    /// loop that is never done, a handshake that is alone takes 50 ms for it, and where several wait they get two thirds of their share or more.
    package static let patience = TimeAmount.milliseconds(10)

    private let patientUntil: NIODeadline
    private var endsAt: NIODeadline

    package init(askedAt: NIODeadline, beganAt now: NIODeadline) {
        self.patientUntil = askedAt + Self.patience
        self.endsAt = now + Self.length
    }

    /// Whether others come before the next part.
    package func isOver(at now: NIODeadline) -> Bool { now >= endsAt && now < patientUntil }

    /// Others had their turn.
    package mutating func began(at now: NIODeadline) { endsAt = now + Self.length }
}
