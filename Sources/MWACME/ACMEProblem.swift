package import MWPKI

/// RFC 7807, as RFC 8555 §6.7 uses it: what the CA found wrong, with a subproblem for each identifier where it has several.
package struct ACMEProblem: Hashable, Sendable, CustomStringConvertible {
    /// The last part of an ACME error type; those a client acts on have names here.
    package struct Kind: Hashable, Sendable, CustomStringConvertible {
        package let name: String

        init(_ name: String) { self.name = name }

        package var description: String { name }

        package static let accountDoesNotExist = Kind("accountDoesNotExist")
        package static let alreadyReplaced = Kind("alreadyReplaced")
        package static let alreadyRevoked = Kind("alreadyRevoked")
        package static let badCSR = Kind("badCSR")
        package static let badNonce = Kind("badNonce")
        package static let caa = Kind("caa")
        package static let connection = Kind("connection")
        package static let dns = Kind("dns")
        package static let externalAccountRequired = Kind("externalAccountRequired")
        package static let incorrectResponse = Kind("incorrectResponse")
        package static let invalidProfile = Kind("invalidProfile")
        package static let malformed = Kind("malformed")
        package static let orderNotReady = Kind("orderNotReady")
        package static let rateLimited = Kind("rateLimited")
        package static let rejectedIdentifier = Kind("rejectedIdentifier")
        package static let serverInternal = Kind("serverInternal")
        package static let tls = Kind("tls")
        package static let unauthorized = Kind("unauthorized")
        package static let unsupportedIdentifier = Kind("unsupportedIdentifier")
        package static let userActionRequired = Kind("userActionRequired")
    }

    package static let typePrefix = "urn:ietf:params:acme:error:"
    /// Enough for any sentence, too little to flood a log.
    package static let maximumTextCharacters = 600
    /// As many as an order may have identifiers at the larger public CAs.
    package static let maximumSubproblems = 100

    /// The whole URN; nil where the reply was no problem document, as an HTML page of a proxy.
    package var type: String?
    package var detail: String?
    package var status: Int?
    package var identifier: Identifier?
    package var subproblems: [ACMEProblem] = []
    /// A page for people: what to do, as agreeing to new terms.
    package var instance: String?
    /// From the Link header `terms-of-service`.
    package var termsOfService: String?
    /// From Retry-After.
    package var retryAt: Timestamp?

    package init(type: String?, detail: String? = nil, status: Int? = nil) {
        self.type = type
        self.detail = detail
        self.status = status
    }

    package var kind: Kind? {
        guard let type, type.hasPrefix(ACMEProblem.typePrefix) else { return nil }
        return Kind(String(type.dropFirst(ACMEProblem.typePrefix.count)))
    }

    /// One line: type, detail, status, then each subproblem with its identifier.
    package var description: String {
        var text = identifier.map { "\($0): " } ?? ""
        text += kind?.name ?? type ?? "no problem document"
        if let detail { text += ": \(detail)" }
        if let status { text += " (status \(status))" }
        if let instance { text += ", see \(instance)" }
        if let termsOfService, termsOfService != instance { text += ", terms of service \(termsOfService)" }
        if !subproblems.isEmpty { text += " [" + subproblems.map(\.description).joined(separator: "; ") + "]" }
        return text
    }

    /// The words the CA used, to find what it blames.
    func mentions(_ words: [String]) -> Bool {
        let text = ((type ?? "") + " " + (detail ?? "")).lowercased()
        return words.contains { text.contains($0) } || subproblems.contains { $0.mentions(words) }
    }
}

extension ACMEProblem {
    /// A problem inside of another object: a challenge's or order's `error`.
    init?(_ json: JSONValue?) {
        guard let json, case .object = json else { return nil }
        self.init(json, depth: 0)
    }

    private init(_ json: JSONValue, depth: Int) {
        self.init(
            type: json["type"]?.string.map(ACMEProblem.safe), detail: json["detail"]?.string.map(ACMEProblem.safe),
            status: json["status"]?.integer)
        instance = json["instance"]?.string.map(ACMEProblem.safe)
        identifier = json["identifier"].flatMap { Identifier($0) }
        // RFC 8555 §6.7.1: subproblems have none of their own.
        guard depth == 0 else { return }
        subproblems = (json["subproblems"]?.array ?? []).prefix(ACMEProblem.maximumSubproblems).map { ACMEProblem($0, depth: 1) }
    }

    /// As it is kept in a state file.
    var json: JSONValue {
        .object([
            "type": .optional(type), "detail": .optional(detail), "status": status.map { .integer(Int64($0)) } ?? .null,
            "instance": .optional(instance), "identifier": identifier?.json ?? .null,
            "subproblems": .array(subproblems.map(\.json)),
        ])
    }

    /// A reply whose status is an error; anything that is not a problem document keeps its status only.
    init(_ response: HTTPResponse, at now: Timestamp) {
        // Some servers send the document with another content type, so the form decides.
        if let json = try? JSONValue(parsing: response.body), case .object = json {
            self.init(json, depth: 0)
        } else {
            self.init(type: nil)
        }
        status = response.status
        retryAt = response.retryAfter(at: now)
        termsOfService = response.links(relation: "terms-of-service").first.map(ACMEProblem.safe)
        if kind == nil, response.status == 429 { type = ACMEProblem.typePrefix + Kind.rateLimited.name }
    }

    /// A stranger's text, made safe to print and of bounded length.
    static func safe(_ text: String) -> String {
        let cut = text.count > maximumTextCharacters ? text.prefix(maximumTextCharacters) + "…" : text[...]
        return VisibleText.escape(String(cut))
    }
}
