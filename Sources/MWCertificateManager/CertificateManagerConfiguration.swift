package import MWACME
package import MWPKI

/// Which certificate a `CertificateManager` keeps, and how.
package struct CertificateManagerConfiguration: Sendable {
    /// What to order, for each CA in order of preference: the names and the kind of key are those of the first for all.
    package let plans: [IssuancePlan]
    package var stateDirectory: StateDirectory
    /// ES256, ES384 or RS256.
    package var accountAlgorithm: KeyAlgorithm = .ec(.p256)
    /// So many failures in a row that another CA might not have, and the next one is tried.
    package var failuresBeforeFallback = AuthoritySequence.defaultFailuresBeforeFallback
    /// Run after each new certificate is in use.
    package var afterIssue: HookProgram?
    /// The wall clock and the directory are looked at this often: a clock that is set, and a certificate that another process
    /// got, are noticed within it, and the cost is a listing of a small directory.
    package var maximumSleep: Duration = .seconds(60)
    /// While another process orders. It is done within seconds as a rule.
    package var lockPause: Duration = .seconds(2)

    /// - Parameter plans: at least one.
    package init(plans: [IssuancePlan], stateDirectory: StateDirectory) {
        precondition(!plans.isEmpty, "no CA")
        self.plans = plans.map { plan in
            var plan = plan
            plan.identifiers = plans[0].identifiers
            plan.keyAlgorithm = plans[0].keyAlgorithm
            return plan
        }
        self.stateDirectory = stateDirectory
    }

    /// Throws `planInvalid` for what no CA could fulfil.
    package func validate() throws(ACMEError) {
        for plan in plans { try plan.validate() }
    }

    /// Of what is ordered, wherever.
    var digest: String { plans.map(\.digest).joined(separator: " ") }

    /// What is wanted of the CA that issued a generation; of the preferred one where that CA is no longer among ours.
    func plan(for generation: CertificateGeneration) -> IssuancePlan {
        plans.first { $0.directoryURL == generation.directoryURL } ?? plans[0]
    }
}
