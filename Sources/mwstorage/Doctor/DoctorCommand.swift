import ArgumentParser
import Logging
import MWClient
import MWPKI

/// `mwstorage doctor`.
struct DoctorCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Connect step by step, and explain what is wrong.",
        discussion: """
            Examines clock, files, certificates, name, network, TLS, both sides' trust, the server's welcome and the protocol, in this order, \
            as strictly as any other command: nothing turns verification off. Names the first cause; what fails behind it may only follow \
            from it. The exit code is 1 if it found a fault; a warning is none.
            """)

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let settings = try await connection.settings()
        let logger = try LogLines.logger(settings, label: "mwstorage.doctor", fallback: .critical)
        let configuration = try connection.clientConfiguration(settings, loadsIdentity: false)
        let sources = try [Setting.certificate, .key, .keystore, .trust].compactMap { setting in
            try settings.found(setting).map { "\(setting.name): \($0.values.joined(separator: ", ")) (\($0.origin))" }
        }
        let doctor = Doctor(configuration: configuration, sources: sources, logger: logger)
        var reports: [DoctorReport] = []
        for endpoint in configuration.endpoints { reports.append(await doctor.examine(endpoint)) }
        try print(reports)
        if reports.contains(where: { $0.firstCause != nil }) { throw CommandFailure.silent(.no) }
    }

    private func print(_ reports: [DoctorReport]) throws {
        switch output.format ?? .text {
        case .json: try Output.line((reports.count == 1 ? reports[0].json : .array(reports.map(\.json))).text)
        case .ndjson: for report in reports { try Output.line(report.json.text) }
        case .text, .table, .raw: for report in reports { try Output.line(report.text) }
        }
    }
}

extension DoctorReport {
    /// `VERDICT  check  evidence`, one fact a line, the remedy behind an arrow, the first cause at the end.
    fileprivate var text: String {
        let indent = String(repeating: " ", count: 6 + Self.checkWidth + 2)
        var lines = ["\(self.endpoint)"]
        for finding in self.findings {
            let verdict = finding.verdict.shown.padded(to: 6)
            lines.append(verdict + finding.check.rawValue.padded(to: Self.checkWidth + 2) + (finding.evidence.first ?? ""))
            lines += finding.evidence.dropFirst().map { indent + $0 }
            if let remedy = finding.remedy { lines.append(indent + "-> " + remedy) }
        }
        if let cause = self.firstCause {
            lines.append("first cause: \(cause.check.rawValue): \(cause.evidence.prefix(2).joined(separator: ", "))")
            if let remedy = cause.remedy { lines.append("to mend it: \(remedy)") }
        } else {
            lines.append("no fault found")
        }
        return lines.joined(separator: "\n")
    }

    private static let checkWidth = Check.allCases.map(\.rawValue.count).max() ?? 0

    fileprivate var json: JSONValue {
        .object([
            ("endpoint", .string(self.endpoint)), ("healthy", .bool(self.firstCause == nil)),
            ("first_cause", .optional(self.firstCause?.check.rawValue)),
            (
                "checks",
                .array(
                    self.findings.map { finding in
                        .object([
                            ("check", .string(finding.check.rawValue)), ("verdict", .string(finding.verdict.rawValue)),
                            ("evidence", .array(finding.evidence.map { .string($0) })), ("remedy", .optional(finding.remedy)),
                        ])
                    })
            ),
        ])
    }
}

extension DoctorReport.Verdict {
    fileprivate var shown: String {
        switch self {
        case .ok: "OK"
        case .warn: "WARN"
        case .fail: "FAIL"
        case .skipped: "-"
        }
    }
}

extension String {
    fileprivate func padded(to width: Int) -> String {
        self + String(repeating: " ", count: Swift.max(0, width - self.count))
    }
}
