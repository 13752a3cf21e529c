package import MWACME

/// Puts answers to challenges where the CA looks, and takes them away.
package protocol ChallengePresenter: Sendable {
    /// Returns when a CA that looks now finds the answer. What was presented is removed, also when this throws or is cancelled.
    func present(_ answer: ChallengeAnswer) async throws
    /// One that is not there is as one that was removed.
    func remove(_ answer: ChallengeAnswer) async
}

/// The presenter of each kind of challenge.
package struct ChallengePresenters: ChallengePresenter {
    private let presenters: [ChallengeType: any ChallengePresenter]

    package init(_ presenters: [ChallengeType: any ChallengePresenter]) { self.presenters = presenters }

    /// What can be answered, the best first: for `IssuancePlan.challengePreference`.
    package var types: [ChallengeType] { [.tlsALPN01, .http01, .dns01].filter { presenters[$0] != nil } }

    package func present(_ answer: ChallengeAnswer) async throws {
        guard let presenter = presenters[answer.type] else { throw PresentingError("nothing here answers \(answer.type.rawValue)") }
        try await presenter.present(answer)
    }

    package func remove(_ answer: ChallengeAnswer) async { await presenters[answer.type]?.remove(answer) }
}

/// Why an answer is not in place, in words.
package struct PresentingError: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
