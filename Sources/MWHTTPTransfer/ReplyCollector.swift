/// Puts a reply together from what libcurl hands over: header lines, then bytes of the body, then trailers; and counts them.
///
/// `headerLineReceived`* → `bodyReceived`* → `result`. Whatever returns false ends the transfer; `failure` then says why.
struct ReplyCollector {
    enum Failure: Error, Hashable {
        case headersTooLarge, bodyTooLarge, malformed
        /// Its end is that of the connection: libcurl takes a cut for it.
        case lengthUnknown
    }

    private enum Phase {
        /// Before a status line; `informational` ones may have gone before.
        case start
        case informational, headers
        /// After the blank line: what comes as a header now is a trailer.
        case body
    }

    let maximumHeaderBytes: Int
    let maximumBodyBytes: Int
    let isHead: Bool
    private(set) var failure: Failure?
    private var phase = Phase.start
    private var status = 0
    private var headers: [TransferRequest.Header] = []
    private var body: [UInt8] = []
    private var headerBytes = 0

    /// - Parameter isHead: The reply has no body, whatever its headers say.
    init(maximumHeaderBytes: Int, maximumBodyBytes: Int, isHead: Bool = false) {
        self.maximumHeaderBytes = maximumHeaderBytes
        self.maximumBodyBytes = maximumBodyBytes
        self.isHead = isHead
    }

    /// The whole reply, once libcurl says that there is no more.
    var result: Result<TransferResponse, Failure> {
        if let failure { return .failure(failure) }
        guard case .body = phase else { return .failure(.malformed) }
        let hasNoBody = isHead || status == 204 || status == 304
        guard hasNoBody || saysItsLength || endsByItself else { return .failure(.lengthUnknown) }
        return .success(TransferResponse(status: status, headers: headers, body: body))
    }

    private var saysItsLength: Bool { headers.contains { ["content-length", "transfer-encoding"].contains($0.name.lowercased()) } }

    /// RFC 9112 §6.3: without a length the body goes on until the connection ends; §9.8: only close_notify tells that from a cut, and libcurl
    /// does not always say which it was. Of a JSON object or array that was cut, the end is missing; of a certificate chain it need not be.
    private var endsByItself: Bool {
        guard let type = headers.first(where: { $0.name.lowercased() == "content-type" })?.value.lowercased() else { return false }
        let media = type.prefix { $0 != ";" && $0 != " " && $0 != "\t" }
        guard media == "application/json" || (media.hasPrefix("application/") && media.hasSuffix("+json")) else { return false }
        func isBlank(_ byte: UInt8) -> Bool { [0x20, 0x09, 0x0A, 0x0D].contains(byte) }
        guard let first = body.first(where: { !isBlank($0) }), let last = body.last(where: { !isBlank($0) }) else { return false }
        // A number or a word could be cut without a trace.
        return (first, last) == (UInt8(ascii: "{"), UInt8(ascii: "}")) || (first, last) == (UInt8(ascii: "["), UInt8(ascii: "]"))
    }

    /// One line, its end included.
    mutating func headerLineReceived(_ line: [UInt8]) -> Bool {
        headerBytes += line.count
        guard headerBytes <= maximumHeaderBytes else { return fail(.headersTooLarge) }
        let end = line.lastIndex { $0 != 0x0D && $0 != 0x0A }.map { $0 + 1 } ?? 0
        let content = line[..<end]
        switch phase {
        case .start: return statusLineReceived(content)
        case .informational:
            if content.isEmpty { phase = .start }
            return true
        case .headers:
            if content.isEmpty {
                phase = .body
                return true
            }
            return fieldReceived(content)
        case .body: return true
        }
    }

    mutating func bodyReceived(_ bytes: some Collection<UInt8>) -> Bool {
        guard case .body = phase else { return fail(.malformed) }
        guard bytes.count <= maximumBodyBytes - body.count else { return fail(.bodyTooLarge) }
        body.append(contentsOf: bytes)
        return true
    }

    // RFC 9112 §4: HTTP/1.1 SP 3 digits, then SP and anything.
    private mutating func statusLineReceived(_ line: ArraySlice<UInt8>) -> Bool {
        let words = line.split(separator: 0x20, maxSplits: 2, omittingEmptySubsequences: false)
        guard words.count >= 2, words[0].starts(with: "HTTP/1.".utf8), words[1].count == 3,
            let code = Int(String(decoding: words[1], as: UTF8.self)), (100...999).contains(code)
        else { return fail(.malformed) }
        status = code
        headers = []
        // RFC 9110 §15.2: any number of these before the reply itself. 101 was not asked for, and is no HTTP afterwards.
        guard code != 101 else { return fail(.malformed) }
        phase = code < 200 ? .informational : .headers
        return true
    }

    private mutating func fieldReceived(_ line: ArraySlice<UInt8>) -> Bool {
        if line.first == 0x20 || line.first == 0x09 {
            // RFC 9112 §5.2: obsolete folding is one space.
            guard !headers.isEmpty else { return fail(.malformed) }
            headers[headers.count - 1].value += " " + ReplyCollector.text(line)
            return true
        }
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex else { return fail(.malformed) }
        headers.append(.init(ReplyCollector.text(line[..<colon]), ReplyCollector.text(line[(colon + 1)...])))
        return true
    }

    /// Without blanks and tabs around it.
    private static func text(_ bytes: ArraySlice<UInt8>) -> String {
        guard let first = bytes.firstIndex(where: { $0 != 0x20 && $0 != 0x09 }),
            let last = bytes.lastIndex(where: { $0 != 0x20 && $0 != 0x09 })
        else { return "" }
        return String(decoding: bytes[first...last], as: UTF8.self)
    }

    private mutating func fail(_ failure: Failure) -> Bool {
        self.failure = self.failure ?? failure
        return false
    }
}
