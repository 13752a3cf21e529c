import Glibc
import MWACME
import MWCertificateManager
import MWPKI
import TestCertificates
import Testing

@testable import mwstorage

/// What `mwstorage acme status` says of a state directory, and how a CA's refusal reads. Method: states written as the manager writes them.
@Suite("acme commands: status and words")
struct ACMEStatusCommandTests {
    private let directory: TemporaryDirectory
    private static let ca = "https://ca.example/directory"
    private static let account = "https://ca.example/account/1"

    init() throws { directory = try TemporaryDirectory() }

    private func write(
        from: Int64 = -86_400, to: Int64 = 30 * 86_400 - 3600, _ change: (inout RenewalState, CertificateGeneration) -> Void = { _, _ in }
    ) throws {
        let now = Timestamp.now()
        let identity = try TestAuthority().issueServer(names: ["www.example.test"]) {
            $0.notBefore = now.adding(seconds: from)
            $0.notAfter = now.adding(seconds: to)
        }
        var generation = CertificateGeneration(
            chain: identity.chain, key: identity.key, directoryURL: Self.ca, accountURL: Self.account,
            identifiers: [.dns("www.example.test")], profile: "shortlived", created: now.adding(seconds: from), renewal: RenewalState())
        change(&generation.renewal, generation)
        let state = StateDirectory(path: directory.file("acme"))
        try state.prepare()
        _ = try state.add(generation)
    }

    private func save(_ change: (inout AccountRecord) -> Void) throws {
        var record = AccountRecord(directoryURL: Self.ca, key: try .generate(), contacts: ["mailto:admin@example.test"])
        record.url = Self.account
        change(&record)
        let state = StateDirectory(path: directory.file("acme"))
        try state.prepare()
        try state.save(record)
    }

    private func status(_ more: [String] = []) async throws -> CommandProcess.Ended {
        try await CommandProcess.run(["acme", "status", "--state", directory.file("acme")] + more)
    }

    @Test("a certificate with most of its life before it is good: exit code 0, with days left, profile and account")
    func good() async throws {
        try write()
        let ended = try await status(["--json"])
        #expect(ended.status == 0)
        let document = try ended.document
        #expect(document["status"]?.string == "good")
        #expect(document["certificate"]?["days_left"]?.integer == 29)
        #expect(document["certificate"]?["profile"]?.string == "shortlived")
        #expect(document["certificate"]?["account"]?.string == Self.account)
        #expect(document["attempts"]?.integer == 0)
        let text = try await status()
        #expect(text.text.contains("(29 days left)"))
        #expect(!text.text.contains("problem:") && !text.text.contains("failed attempts:"))
    }

    @Test("one whose share of life is over is due, one that has ended is expired: exit code 1", arguments: [false, true])
    func due(isOver: Bool) async throws {
        try write(from: -80 * 86_400, to: isOver ? -60 : 10 * 86_400)
        let ended = try await status(["--json"])
        #expect(ended.status == 1)
        #expect(try ended.document["status"]?.string == (isOver ? "expired" : "due"))
        #expect(try ended.document["due"]?.bool == true)
        #expect(ended.errors.isEmpty, "the exit code says it")
    }

    @Test("the CA's window, its page, and the next check are shown")
    func window() async throws {
        let now = Timestamp.now()
        let start = now.adding(days: 10)
        try write { state, generation in
            state.windowID = generation.certificateID
            state.window = RenewalWindow(start: start, end: now.adding(days: 11), explanationURL: "https://ca.example/why")
            state.selectedTime = now.adding(days: 10)
            state.checkAt = now.adding(seconds: 7200)
        }
        let document = try await status(["--json"]).document
        #expect(document["explanation_url"]?.string == "https://ca.example/why")
        #expect(document["window"]?["start"]?.string == "\(start)")
        #expect(document["next_check"]?.string == "\(now.adding(seconds: 7200))")
        #expect(document["next_renewal"]?.string == "\(start)")
        #expect(document["reason"]?.string?.contains("window") == true)
        let text = try await status().text
        for part in ["CA's window:", "explanation:", "https://ca.example/why", "next check:"] { #expect(text.contains(part)) }
    }

    // Method: as after two attempts that a CA refused for two names, with a rate limit at the end.
    @Test("failed attempts, the last error with each subproblem, and the end of a rate limit are shown")
    func trouble() async throws {
        let now = Timestamp.now()
        let limit = now.adding(seconds: 7200)
        try write(from: -80 * 86_400, to: 10 * 86_400) { state, _ in
            state.attempts = 2
            state.lastAttempt = now
            state.lastError = "refused"
            state.lastProblem = Self.problem
            state.retryAt = limit
        }
        try save { $0.retryAt = limit }
        let ended = try await status(["--json"])
        #expect(ended.status == 1, "due, although nothing is tried before the limit is over")
        let document = try ended.document
        #expect(document["attempts"]?.integer == 2)
        #expect(document["last_error"]?.string == "refused")
        #expect(document["rate_limited_until"]?.string == "\(limit)")
        #expect(document["retry_at"]?.string == "\(limit)")
        let subproblems = document["last_problem"]?["subproblems"]?.array ?? []
        #expect(subproblems.map { $0["identifier"]?.string } == ["bad.example", "worse.example"])
        #expect(subproblems.map { $0["detail"]?.string } == ["no such name", "forbidden here"])
        let text = try await status().text
        for part in ["failed attempts: ", "bad.example: dns: no such name", "worse.example: caa: forbidden here", "rate limited:"] {
            #expect(text.contains(part), "\(text)")
        }
    }

    private static let problem: ACMEProblem = {
        func part(_ kind: String, _ detail: String, _ name: String) -> ACMEProblem {
            var problem = ACMEProblem(type: ACMEProblem.typePrefix + kind, detail: detail)
            problem.identifier = .dns(name)
            return problem
        }
        var problem = ACMEProblem(type: ACMEProblem.typePrefix + "compound", detail: "two of three", status: 403)
        problem.subproblems = [part("dns", "no such name", "bad.example"), part("caa", "forbidden here", "worse.example")]
        return problem
    }()

    @Test("a refusal is three lines with every name that the CA complains about, and in JSON the problem as a whole")
    func words() throws {
        let later = Timestamp.now().adding(seconds: 60)
        let error = ACMEError(
            .orderInvalid, subject: "order", "the CA refused", remedy: "remove the names", problem: Self.problem, retryAt: later)
        let failure = CommandFailure(error)
        #expect(
            failure.text == """
                mwstorage: order: the CA refused
                  the CA says: compound: two of three (status 403) [bad.example: dns: no such name; worse.example: caa: forbidden here]
                  to mend it: remove the names; not before \(later)

                """)
        let json = try MWACME.JSONValue(parsing: Array(failure.json.text.utf8))
        #expect(json["code"]?.string == "acme.orderInvalid")
        #expect(json["retry_at"]?.string == "\(later)")
        #expect(json["problem"]?["type"]?.string == "urn:ietf:params:acme:error:compound")
        #expect(json["problem"]?["subproblems"]?.array?.map { $0["identifier"]?.string } == ["bad.example", "worse.example"])
    }

    @Test("a directory that others may read is refused, and the command that mends it named: exit code 78")
    func exposed() async throws {
        try write()
        #expect(unsafe chmod(directory.file("acme"), 0o755) == 0)
        let ended = try await status()
        #expect(ended.status == 78)
        #expect(ended.errors.contains("chmod 700"))
    }
}
