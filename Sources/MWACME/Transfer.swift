package import MWPKI

/// What an ACME core wants sent; whoever has a network sends it.
package struct HTTPRequest: Sendable, Hashable {
    package enum Method: String, Sendable, Hashable {
        case get = "GET"
        case head = "HEAD"
        case post = "POST"
    }

    package struct Header: Sendable, Hashable {
        package var name: String
        package var value: String

        package init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    package var method: Method
    /// Always https.
    package var url: String
    package var headers: [Header]
    package var body: [UInt8]
    /// More than this is `TransferFailure.tooLarge`.
    package var maximumReplyBytes: Int

    package init(method: Method, url: String, headers: [Header] = [], body: [UInt8] = [], maximumReplyBytes: Int = 1 << 20) {
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.maximumReplyBytes = maximumReplyBytes
    }
}

/// What came back, whatever its status. Redirects are not followed by the transfer: the core decides.
package struct HTTPResponse: Sendable, Hashable {
    package var status: Int
    package var headers: [HTTPRequest.Header]
    package var body: [UInt8]

    package init(status: Int, headers: [HTTPRequest.Header] = [], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    /// All values of a header, whatever the case of its name.
    package func values(of name: String) -> [String] {
        let wanted = name.lowercased()
        return headers.filter { $0.name.lowercased() == wanted }.map(\.value)
    }

    package func value(of name: String) -> String? { values(of: name).first }

    /// A week: the longest rate limit of public CAs. A longer Retry-After is a mistake that would outlast the certificate.
    package static let maximumRetryAfterSeconds: Int64 = 7 * 86_400

    /// RFC 9110 §10.2.3: seconds from now, or an HTTP-date. Nil when absent or malformed.
    package func retryAfter(at now: Timestamp) -> Timestamp? {
        guard let text = value(of: "Retry-After")?.trimmed, !text.isEmpty else { return nil }
        let latest = now.adding(seconds: HTTPResponse.maximumRetryAfterSeconds)
        if text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
            // Too many digits to be a number are a very long time.
            return min(now.adding(seconds: Int64(text) ?? .max), latest)
        }
        return Timestamp(httpDate: text).map { min($0, latest) }
    }

    /// RFC 8288: the targets of the Link headers with this relation.
    package func links(relation: String) -> [String] {
        values(of: "Link").flatMap { LinkHeader.targets(in: $0, relation: relation) }
    }
}

/// Whoever has a network: one request to one response.
///
/// https only, redirects not followed, the CA's certificate always verified, no more than `maximumReplyBytes` of a body read.
/// Throws `timeout` when `timeout` is over, whatever it was doing; cancelling the task ends the transfer.
package protocol ACMETransfer: Sendable {
    func send(_ request: HTTPRequest, timeout: Duration) async throws(TransferFailure) -> HTTPResponse
}

/// Why there is no response.
package enum TransferFailure: Error, Hashable, Sendable {
    case timeout
    /// No address, no route, refused, reset.
    case connect(String)
    /// The CA's certificate was refused, or TLS failed.
    case tls(String)
    /// The reply was larger than `maximumReplyBytes`.
    case tooLarge
    case other(String)
}

/// When something happened: the date for what is compared with dates, the uptime for how long something takes.
///
/// A clock that is set while an order runs moves the first and not the second.
package struct Moment: Sendable, Hashable {
    package var date: Timestamp
    /// Monotonic, from any beginning.
    package var uptime: Duration

    package init(date: Timestamp, uptime: Duration) {
        self.date = date
        self.uptime = uptime
    }

    package func advanced(by duration: Duration) -> Moment {
        Moment(date: date.adding(seconds: duration.components.seconds), uptime: uptime + duration)
    }
}

extension String {
    /// Without blanks and tabs around it.
    var trimmed: String {
        var text = self[...]
        while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return String(text)
    }
}

private enum LinkHeader {
    // <https://…>;rel="alternate", <…>; rel=up; title="a, b"
    static func targets(in header: String, relation: String) -> [String] {
        var targets: [String] = []
        for part in split(header, at: ",") {
            let pieces = split(part, at: ";").map(\.trimmed)
            guard let target = pieces.first, target.hasPrefix("<"), target.hasSuffix(">"), target.count > 2 else { continue }
            let relations = pieces.dropFirst().compactMap { piece -> String? in
                let sides = piece.split(separator: "=", maxSplits: 1).map { String($0).trimmed }
                guard sides.count == 2, sides[0].lowercased() == "rel" else { return nil }
                return sides[1].hasPrefix("\"") && sides[1].hasSuffix("\"") && sides[1].count >= 2
                    ? String(sides[1].dropFirst().dropLast()) : sides[1]
            }
            let names = relations.flatMap { $0.lowercased().split(separator: " ").map(String.init) }
            if names.contains(relation.lowercased()) { targets.append(String(target.dropFirst().dropLast())) }
        }
        return targets
    }

    /// At separators outside of <…> and "…".
    private static func split(_ text: String, at separator: Character) -> [String] {
        var parts: [String] = [""]
        var inQuotes = false
        var inTarget = false
        for character in text {
            switch character {
            case "\"" where !inTarget: inQuotes.toggle()
            case "<" where !inQuotes: inTarget = true
            case ">" where !inQuotes: inTarget = false
            default: break
            }
            if character == separator, !inQuotes, !inTarget {
                parts.append("")
            } else {
                parts[parts.count - 1].append(character)
            }
        }
        return parts
    }
}
