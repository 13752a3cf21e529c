import Logging
import MWClient
import MWPKI
import MWProtocol

/// Records of the native protocol as the command shows them: as JSON with the protocol's own names, and as lines for people.
enum ShownRecord {
    static func json(_ record: some NativeRecord) -> JSONValue { json(record.nativeShown) }

    private static func json(_ shown: NativeShown) -> JSONValue {
        switch shown {
        case .absent: .null
        case .integer(let value): .integer(value)
        case .truth(let value): .bool(value)
        case .time(let time): .string(text(time))
        case .text(let text): .string(text)
        case .bytes(let bytes): Bytes.json(bytes)
        case .list(let values): .array(values.map(json))
        case .record(let fields): .object(fields.map { ($0.name, json($0.value)) })
        }
    }

    /// RFC 3339 in UTC.
    static func text(_ time: NativeTime) -> String { Timestamp(secondsSince1970: time.secondsSince1970).description }

    static func value(_ time: NativeTime) -> JSONValue { .string(text(time)) }

    /// What another machine said, on one line, with nothing that moves a cursor.
    static func plain(_ text: String) -> String { VisibleText.escape(text) }

    static func value(_ text: String) -> JSONValue { .string(plain(text)) }

    static func value(_ text: String?) -> JSONValue { text.map { value($0) } ?? .null }

    /// `CN=…, sha256:…, until … (89 days left)`
    static func line(_ certificate: NativeCertificate) -> String {
        let until = "until \(text(certificate.notAfter)) (\(days(certificate.daysLeft)))"
        return "\(plain(certificate.subject)), \(plain(certificate.fingerprint)), \(until)"
    }

    static func days(_ daysLeft: Int64) -> String {
        if daysLeft < 0 { return "expired" }
        return daysLeft == 1 ? "1 day left" : "\(daysLeft) days left"
    }

    static func names(of certificate: NativeCertificate) -> [String] {
        certificate.uris.map { "uri:\(plain($0))" } + certificate.dnsNames.map { "dns:\(plain($0))" }
            + certificate.emailAddresses.map { "email:\(plain($0))" } + certificate.ipAddresses.map { "ip:\(plain($0))" }
    }

    static func counts(_ counts: [NativeCount]) -> String {
        counts.isEmpty ? "-" : counts.map { "\(plain($0.name)): \($0.count)" }.joined(separator: ", ")
    }
}

extension ConnectionOptions {
    /// Runs `body` with a client of the native protocol to the configured server.
    func withAdministration<Result: Sendable>(_ body: (AdministrationClient) async throws -> Result) async throws -> Result {
        let settings = try await settings()
        let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .error)
        return try await AdministrationClient.with(try clientConfiguration(settings), logger: logger, body)
    }
}
