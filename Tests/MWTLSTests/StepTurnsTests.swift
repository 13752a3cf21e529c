import NIOCore
import Testing

@testable import MWTLS

/// When a step gives way; time is a value here.
@Suite struct StepTurnsTests {
    private static let asked = NIODeadline.uptimeNanoseconds(1_000_000_000)

    @Test func `Others come when a turn is over, not before, and then after each turn`() {
        var turns = StepTurns(askedAt: Self.asked, beganAt: Self.asked)
        let end = Self.asked + StepTurns.length
        #expect(!turns.isOver(at: Self.asked) && !turns.isOver(at: end - .nanoseconds(1)) && turns.isOver(at: end))
        // However long they took.
        let back = end + .milliseconds(1)
        turns.began(at: back)
        #expect(!turns.isOver(at: back) && turns.isOver(at: back + StepTurns.length))
    }

    @Test func `A step that has waited for too long gives way no more, whoever kept it waiting`() {
        let patientUntil = Self.asked + StepTurns.patience
        // The others on its processor.
        var interrupted = StepTurns(askedAt: Self.asked, beganAt: Self.asked)
        interrupted.began(at: patientUntil - StepTurns.length - .nanoseconds(1))
        #expect(interrupted.isOver(at: patientUntil - .nanoseconds(1)) && !interrupted.isOver(at: patientUntil))
        interrupted.began(at: patientUntil)
        #expect(!interrupted.isOver(at: patientUntil + .seconds(1)))
        // Those before it in the queue.
        let late = StepTurns(askedAt: Self.asked, beganAt: patientUntil)
        #expect(!late.isOver(at: patientUntil + StepTurns.length))
    }
}
