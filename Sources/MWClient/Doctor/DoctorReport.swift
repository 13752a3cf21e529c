/// What `doctor` found, check by check, in the order in which a connection needs them.
package struct DoctorReport: Sendable, Equatable {
    /// In the order of examination: each needs those before it.
    package enum Check: String, Sendable, CaseIterable {
        case clock
        case files = "key and certificate files"
        case chain = "certificate chain"
        case dates = "dates"
        case usage = "key usage"
        case identity = "identity"
        case algorithms = "algorithms"
        case revocation = "revocation lists"
        case name = "name resolution"
        case tcp = "TCP"
        case tls = "TLS"
        case serverTrust = "server's certificate"
        case issuers = "announced issuers"
        case welcome = "welcome"
        case seen = "identity the server saw"
        case `protocol` = "protocol"
    }

    package enum Verdict: String, Sendable {
        case ok, warn, fail
        /// It could not be examined: something before it failed.
        case skipped
    }

    package struct Finding: Sendable, Equatable {
        package let check: Check
        package let verdict: Verdict
        /// What was seen, one fact each.
        package let evidence: [String]
        /// What to do; `nil` where nothing is to be done.
        package let remedy: String?

        package init(_ check: Check, _ verdict: Verdict, _ evidence: [String], remedy: String? = nil) {
            self.check = check
            self.verdict = verdict
            self.evidence = evidence
            self.remedy = remedy
        }
    }

    /// The endpoint's URL.
    package let endpoint: String
    package let findings: [Finding]

    package init(endpoint: String, findings: [Finding]) {
        self.endpoint = endpoint
        self.findings = findings
    }

    /// The first check that failed: what fails behind it may only follow from it.
    package var firstCause: Finding? { self.findings.first { $0.verdict == .fail } }
}
