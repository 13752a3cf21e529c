import ArgumentParser
import MWACME
import MWCertificateManager
import MWPKI

/// `mwstorage acme status`.
struct CertificateStatusCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Say how the certificate is, when it is renewed next and why, and what went wrong last.",
        discussion: """
            Asks no CA and changes nothing. The exit code is 1 if there is no certificate, or it is due, or over. Names, CA and kind of key \
            that are set differently from those of the certificate there is make it due.
            """)

    @OptionGroup(title: "Certificate") var certificate: ACMECertificateOptions
    @OptionGroup(title: "CA and state") var authority: ACMEAuthorityOptions
    @OptionGroup(title: "Configuration") var configuration: ConfigurationOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let place = try await ACMEWorkplace(
            authority, certificate: certificate, configuration: configuration, needs: .nothing, isForCurrent: true, output: output)
        let now = Timestamp.now()
        let status = try CertificateManagerStatus(
            of: place.state, plans: place.settings.plans.filter { !$0.identifiers.isEmpty }, at: now)
        let report = CertificateStatusReport(status, at: now)
        if place.format.isJSON {
            try Output.line(report.document.text)
        } else {
            for line in report.lines { try Output.line(line) }
        }
        if report.isDue { throw CommandFailure.silent(.no) }
    }
}

/// What `acme status` shows.
struct CertificateStatusReport {
    private static let daySeconds: Int64 = 86_400

    private let status: CertificateManagerStatus
    private let now: Timestamp

    init(_ status: CertificateManagerStatus, at now: Timestamp) {
        self.status = status
        self.now = now
    }

    /// Absent, over, or to be renewed now; also while a pause after failures postpones it.
    var isDue: Bool {
        guard let generation = status.generation, now < generation.certificate.notAfter, let renewal = status.nextRenewal else {
            return true
        }
        return renewal <= now || (status.attempts > 0 && renewal == status.retryAt)
    }

    private var state: String {
        guard let generation = status.generation else { return "absent" }
        return now >= generation.certificate.notAfter ? "expired" : isDue ? "due" : "good"
    }

    private func daysLeft(_ certificate: Certificate) -> Int64 { certificate.notAfter.seconds(since: now) / Self.daySeconds }

    // MARK: - JSON

    var document: JSONValue {
        .object([
            ("status", .string(state)), ("due", .bool(isDue)), ("state", .string(status.directory)),
            ("certificate", status.generation.map(certificate) ?? .null),
            ("next_check", .time(status.nextCheck)), ("next_renewal", .time(status.nextRenewal)), ("reason", .optional(status.reason)),
            (
                "window",
                status.window.map { .object([("start", .time($0.start)), ("end", .time($0.end))]) } ?? .null
            ),
            ("window_suspicious", .bool(status.isWindowSuspicious)), ("explanation_url", .optional(status.explanationURL)),
            ("attempts", .integer(Int64(status.attempts))), ("last_attempt", .time(status.lastAttempt)),
            ("last_error", .optional(status.lastError)), ("last_problem", status.lastProblem?.document ?? .null),
            ("last_check_error", .optional(status.lastCheckError)), ("retry_at", .time(status.retryAt)),
            ("rate_limited_until", .time(status.accounts.compactMap(\.rateLimitedUntil).max())),
            ("accounts", .array(status.accounts.map(account))), ("orders", .array(status.orders.map(order))),
            ("warnings", .array(status.warnings.map { .string($0) })),
        ])
    }

    private func certificate(_ generation: CertificateManagerStatus.Generation) -> JSONValue {
        let leaf = generation.certificate
        return .object([
            ("names", .array(generation.identifiers.map { .string($0.value) })), ("not_before", .time(leaf.notBefore)),
            ("not_after", .time(leaf.notAfter)), ("days_left", .integer(daysLeft(leaf))), ("issuer", .string(leaf.issuer)),
            ("serial_number", .string(leaf.serialNumber)), ("sha256", .string(leaf.sha256.hex)),
            ("key", .string("\(leaf.keyAlgorithm)")), ("profile", .optional(generation.profile)),
            ("directory", .string(generation.directoryURL)), ("account", .string(generation.accountURL)),
            ("generation", .integer(Int64(clamping: generation.number))), ("created", .time(generation.created)),
        ])
    }

    private func account(_ account: CertificateManagerStatus.Account) -> JSONValue {
        .object([
            ("directory", .string(account.directoryURL)), ("account", .optional(account.url)),
            ("contacts", .array(account.contacts.map { .string($0) })), ("rate_limited_until", .time(account.rateLimitedUntil)),
            ("rolling_over", .bool(account.isRollingOver)),
        ])
    }

    private func order(_ order: CertificateManagerStatus.Order) -> JSONValue {
        .object([
            ("directory", .string(order.directoryURL)), ("order", .optional(order.url)),
            ("names", .array(order.identifiers.map { .string($0.value) })), ("created", .time(order.created)),
        ])
    }

    // MARK: - Text

    /// For people, without what there is not.
    var parts: [(name: String, text: String)] {
        (certificateParts + renewalParts + troubleParts + accountParts).compactMap { part in part.1.map { (part.0, $0) } }
    }

    /// The same as lines, in columns.
    var lines: [String] {
        let shown = parts.map { ($0.name + ":", $0.text) }
        let width = shown.map(\.0.count).max() ?? 0
        return shown.map { label, text in label + String(repeating: " ", count: width - label.count + 1) + text }
    }

    private var certificateParts: [(String, String?)] {
        guard let generation = status.generation else { return [("certificate", "absent"), ("state", status.directory)] }
        let leaf = generation.certificate
        return [
            ("certificate", state), ("names", generation.identifiers.map(\.value).joined(separator: ", ")),
            ("ends", "\(leaf.notAfter) (\(daysLeft(leaf)) days left)"), ("issuer", leaf.issuer), ("serial number", leaf.serialNumber),
            ("key", "\(leaf.keyAlgorithm)"), ("profile", generation.profile), ("CA", generation.directoryURL),
            ("account", generation.accountURL), ("state", "\(status.directory), generation \(generation.number)"),
        ]
    }

    private var renewalParts: [(String, String?)] {
        [
            ("next check", status.nextCheck.map { "\($0)" }),
            ("next renewal", status.nextRenewal.map { "\($0)" + (status.reason.map { ": \($0)" } ?? "") }),
            ("CA's window", status.window.map { "\($0.start) to \($0.end)" }), ("explanation", status.explanationURL),
            ("window", status.isWindowSuspicious ? "had passed when the certificate was new: it may be revoked soon" : nil),
        ]
    }

    private var troubleParts: [(String, String?)] {
        var parts: [(String, String?)] = [
            ("failed attempts", status.attempts > 0 ? "\(status.attempts)" : nil),
            ("last attempt", status.attempts > 0 ? status.lastAttempt.map { "\($0)" } : nil), ("last error", status.lastError),
            ("problem", status.lastProblem.map { $0.type ?? "no problem document" }),
        ]
        for problem in status.lastProblem?.subproblems ?? [] { parts.append(("subproblem", problem.description)) }
        parts += [("last check", status.lastCheckError), ("not before", status.retryAt.map { "\($0)" })]
        return parts + status.warnings.map { ("warning", $0) }
    }

    private var accountParts: [(String, String?)] {
        var parts: [(String, String?)] = []
        for account in status.accounts where account.url != status.generation?.accountURL {
            parts.append(("other account", "\(account.url ?? "not registered") at \(account.directoryURL)"))
        }
        for account in status.accounts {
            parts.append(("rate limited", account.rateLimitedUntil.map { "until \($0), at \(account.directoryURL)" }))
            parts.append(("account key", account.isRollingOver ? "being rolled over at \(account.directoryURL)" : nil))
        }
        for order in status.orders {
            parts.append(
                ("order under way", "\(order.url ?? "not made yet") for \(order.identifiers.map(\.value).joined(separator: ", "))"))
        }
        return parts
    }
}

extension JSONValue {
    /// RFC 3339, or null.
    fileprivate static func time(_ value: Timestamp?) -> JSONValue { .optional(value.map { "\($0)" }) }
}
