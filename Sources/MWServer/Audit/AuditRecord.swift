// One line of the audit log: a JSON object (RFC 8259) and \n, at most 4,096 bytes, so that a pipe takes it whole (PIPE_BUF):
//
//   time         RFC 3339, UTC, milliseconds
//   sequence     counts the events of this process from 1; a gap is an event that could not be written
//   event        what happened, see `AuditEvent.name`
//   suppressed   events of this kind that were not written, to keep a flood from filling the disk; absent if there are none
//   …            what the event holds; absent where it is not known
//
// Text of any length and any characters may come from a peer: it is cut, and everything that could end a line, a string or be taken for
// something else by a terminal is escaped.

internal import Glibc
package import MWPKI
internal import MWWebSocket

/// When something happened.
package struct AuditTime: Sendable, Hashable {
    package var time: Timestamp
    package var milliseconds: Int
    /// Seconds of a clock that is never set back.
    package var uptime: Double

    package init(time: Timestamp, milliseconds: Int = 0, uptime: Double) {
        self.time = time
        self.milliseconds = milliseconds
        self.uptime = uptime
    }

    /// The system's clocks.
    package static func now() -> AuditTime {
        var wall = timespec()
        var steady = timespec()
        _ = unsafe clock_gettime(CLOCK_REALTIME, &wall)
        _ = unsafe clock_gettime(CLOCK_MONOTONIC, &steady)
        return AuditTime(
            time: Timestamp(secondsSince1970: Int64(wall.tv_sec)), milliseconds: wall.tv_nsec / 1_000_000,
            uptime: Double(steady.tv_sec) + Double(steady.tv_nsec) / 1e9)
    }

    /// RFC 3339 with milliseconds, as `2026-11-24T15:40:53.071Z`.
    package var description: String {
        let digits = String(1000 + max(0, min(999, self.milliseconds))).dropFirst()
        return "\(self.time.description.dropLast()).\(digits)Z"
    }
}

/// An event with its place in the log.
package struct AuditRecord: Sendable {
    package let time: AuditTime
    package let sequence: UInt64
    package let event: AuditEvent
    package let suppressed: UInt64

    package init(time: AuditTime, sequence: UInt64, event: AuditEvent, suppressed: UInt64 = 0) {
        self.time = time
        self.sequence = sequence
        self.event = event
        self.suppressed = suppressed
    }

    /// The line, its end included.
    package var line: [UInt8] {
        var line = AuditLine()
        line.add("time", self.time.description)
        line.add("sequence", self.sequence)
        line.add("event", self.event.name)
        if self.suppressed > 0 { line.add("suppressed", self.suppressed) }
        self.event.write(to: &line)
        return line.finished
    }
}

extension AuditEvent {
    /// Stable names, for those who search the log.
    package var name: String {
        switch self {
        case .connectionAdmitted: "connection.admitted"
        case .connectionEnded: "connection.ended"
        case .handshakeRefused: "handshake.refused"
        case .challengeAnswered: "challenge.answered"
        case .openingRefused: "opening.refused"
        case .requestDenied: "request.denied"
        case .reloadDone: "reload.done"
        case .reloadFailed: "reload.failed"
        case .administration: "administration"
        case .certificateInstalled: "certificate.installed"
        case .serverStarted: "server.started"
        case .serverStopped: "server.stopped"
        }
    }

    fileprivate func write(to line: inout AuditLine) {
        switch self {
        case .connectionAdmitted(let session):
            line.add(session)
            line.add("protocol", session.subprotocol ?? "mwdb")
            line.add("tls", session.tls)
        case .connectionEnded(let session, let end):
            line.add(session)
            line.add("closed_by", end.side.rawValue)
            line.add("cause", end.cause.rawValue)
            if let code = end.code { line.add("code", UInt64(code.rawValue)) }
            line.add("reason", end.reason)
        case .handshakeRefused(let rejection), .openingRefused(let rejection):
            line.add(rejection)
        case .challengeAnswered(let serverName, let address):
            line.add("server_name", serverName)
            line.add("address", address)
        case .requestDenied(let session, let request):
            line.add(session)
            line.add("operation", request.operation)
            line.add("right", request.right)
            if let key = request.key { line.add(key: key, isCut: request.isKeyCut) }
        case .reloadDone(let reload), .reloadFailed(let reload):
            line.add(reload)
        case .administration(let session, let action):
            line.add(session)
            line.add("operation", action.operation)
            line.add("subject", action.subject)
            line.add("outcome", action.failure == nil ? "done" : "failed")
            line.add("reason", action.failure)
        case .certificateInstalled(let certificate, let source):
            line.add("source", source)
            line.add(certificate)
        case .serverStarted(let addresses):
            line.add("addresses", addresses)
        case .serverStopped:
            break
        }
    }
}

/// A JSON object that is written member by member.
private struct AuditLine {
    /// Escaped bytes of one text: more is cut, and ends with `…`.
    private static let maximumTextBytes = 320
    /// Those of a subject or issuer, of which there may be two.
    private static let maximumNameBytes = 400
    /// Those of an address, a number, a name of ours.
    private static let maximumWordBytes = 96
    /// Texts of one list.
    private static let maximumListCount = 3

    private var bytes: [UInt8] = []

    init() { self.bytes.reserveCapacity(1024) }

    var finished: [UInt8] { (self.bytes.isEmpty ? Array("{".utf8) : self.bytes) + Array("}\n".utf8) }

    mutating func add(_ name: StaticString, _ value: UInt64) {
        self.begin(name)
        self.bytes += String(value).utf8
    }

    mutating func add(_ name: StaticString, _ value: String?, atMost maximum: Int = AuditLine.maximumTextBytes) {
        guard let value else { return }
        self.begin(name)
        self.append(value, atMost: maximum)
    }

    mutating func add(_ name: StaticString, _ values: [String]) {
        self.begin(name)
        self.bytes.append(UInt8(ascii: "["))
        for (index, value) in values.prefix(Self.maximumListCount).enumerated() {
            if index > 0 { self.bytes.append(UInt8(ascii: ",")) }
            self.append(value, atMost: Self.maximumTextBytes / 2)
        }
        self.bytes.append(UInt8(ascii: "]"))
    }

    mutating func add(_ session: SessionInfo) {
        self.add("connection", session.connectionID)
        self.add("address", session.address, atMost: Self.maximumWordBytes)
        self.add("principal", session.principal.name)
        self.add(AuditedCertificate(session.principal.certificate))
    }

    mutating func add(_ certificate: AuditedCertificate) {
        self.add("sha256", certificate.fingerprint.hex)
        self.add("serial", certificate.serialNumber, atMost: Self.maximumWordBytes)
        self.add("subject", certificate.subject, atMost: Self.maximumNameBytes)
        self.add("issuer", certificate.issuer, atMost: Self.maximumNameBytes)
        if !certificate.names.isEmpty { self.add("names", certificate.names) }
        self.add("not_after", certificate.notAfter.description)
    }

    mutating func add(_ rejection: Rejection) {
        self.add("address", rejection.address, atMost: Self.maximumWordBytes)
        self.add("principal", rejection.principal)
        if let certificate = rejection.certificate { self.add(certificate) }
        self.add("check", rejection.check, atMost: Self.maximumWordBytes)
        self.add("reason", rejection.reason)
        self.add("expected", rejection.expected)
        self.add("found", rejection.found)
        self.add("remedy", rejection.remedy)
        self.add("told", rejection.told, atMost: Self.maximumWordBytes)
    }

    mutating func add(_ reload: AuditedReload) {
        self.add("trigger", reload.trigger)
        if let generation = reload.generation { self.add("generation", generation) }
        if let certificate = reload.certificate { self.add(certificate) }
        if let anchors = reload.trustAnchors { self.add("trust_anchors", UInt64(max(0, anchors))) }
        if let lists = reload.revocationLists { self.add("revocation_lists", UInt64(max(0, lists))) }
        if let closed = reload.closedConnections { self.add("closed_connections", UInt64(max(0, closed))) }
        self.add("reason", reload.failure, atMost: Self.maximumNameBytes)
    }

    mutating func add(key: [UInt8], isCut: Bool) {
        if let text = String(validating: key, as: UTF8.self) {
            self.add("key", text, atMost: 2 * DeniedRequest.maximumKeyBytes)
            self.add("key_encoding", "utf8")
        } else {
            self.add("key", Hex.encode(key), atMost: 2 * DeniedRequest.maximumKeyBytes)
            self.add("key_encoding", "hex")
        }
        if isCut {
            self.begin("key_is_cut")
            self.bytes += "true".utf8
        }
    }

    private mutating func begin(_ name: StaticString) {
        self.bytes.append(self.bytes.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
        self.bytes.append(UInt8(ascii: "\""))
        self.bytes += name.description.utf8
        self.bytes += "\":".utf8
    }

    private mutating func append(_ text: String, atMost maximum: Int) {
        self.bytes.append(UInt8(ascii: "\""))
        let end = self.bytes.count + maximum
        for scalar in text.unicodeScalars {
            let mark = self.bytes.count
            self.append(scalar)
            if self.bytes.count > end {
                self.bytes.removeSubrange(mark...)
                self.bytes += "…".utf8
                break
            }
        }
        self.bytes.append(UInt8(ascii: "\""))
    }

    /// RFC 8259 §7 demands it of control characters; the other invisible ones move a terminal's cursor or turn its text around.
    private mutating func append(_ scalar: Unicode.Scalar) {
        switch scalar {
        case "\"": self.bytes += "\\\"".utf8
        case "\\": self.bytes += "\\\\".utf8
        case " "..."~": self.bytes.append(UInt8(ascii: scalar))
        case _ where VisibleText.isInvisible(scalar):
            for unit in UTF16.encode(scalar) ?? UTF16.EncodedScalar() {
                self.bytes += "\\u".utf8
                self.bytes += Hex.encode([UInt8(unit >> 8), UInt8(unit & 0xFF)]).utf8
            }
        default: self.bytes += UTF8.encode(scalar) ?? UTF8.EncodedScalar()
        }
    }
}
