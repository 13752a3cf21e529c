internal import MWPKI

// RFC 8555 §7.1. Fields we do not know are passed over; a field we need that is missing or of another type is an error.

/// RFC 8555 §7.1.1, read anew in each cycle.
package struct ACMEDirectory: Hashable, Sendable {
    package var newNonce: String
    package var newAccount: String
    package var newOrder: String
    package var revokeCert: String?
    package var keyChange: String?
    /// RFC 9773: absent where the CA gives no renewal information.
    package var renewalInfo: String?
    package var termsOfService: String?
    package var website: String?
    package var caaIdentities: [String]
    package var externalAccountRequired: Bool
    /// Name to description, of the profiles extension.
    package var profiles: [String: String]

    init(_ json: JSONValue, source: String) throws(ACMEError) {
        newNonce = try json.url("newNonce", of: source)
        newAccount = try json.url("newAccount", of: source)
        newOrder = try json.url("newOrder", of: source)
        revokeCert = try json.optionalURL("revokeCert", of: source)
        keyChange = try json.optionalURL("keyChange", of: source)
        renewalInfo = try json.optionalURL("renewalInfo", of: source)
        let meta = json["meta"]
        // An empty one is none: some CAs write all that they have not.
        termsOfService = meta?["termsOfService"]?.string.flatMap { $0.isEmpty ? nil : ACMEProblem.safe($0) }
        website = meta?["website"]?.string.flatMap { $0.isEmpty ? nil : ACMEProblem.safe($0) }
        caaIdentities = (meta?["caaIdentities"]?.strings ?? []).map(ACMEProblem.safe)
        externalAccountRequired = meta?["externalAccountRequired"]?.bool ?? false
        profiles = [:]
        if case .object(let members)? = meta?["profiles"] {
            for (name, description) in members { profiles[ACMEProblem.safe(name)] = ACMEProblem.safe(description.string ?? "") }
        }
    }
}

/// RFC 8555 §7.1.6; a status of a later RFC is `other`.
package enum ACMEStatus: Hashable, Sendable {
    case pending, ready, processing, valid, invalid, deactivated, expired, revoked
    case other(String)

    init(_ text: String) {
        switch text {
        case "pending": self = .pending
        case "ready": self = .ready
        case "processing": self = .processing
        case "valid": self = .valid
        case "invalid": self = .invalid
        case "deactivated": self = .deactivated
        case "expired": self = .expired
        case "revoked": self = .revoked
        default: self = .other(ACMEProblem.safe(text))
        }
    }
}

/// RFC 8555 §7.1.2.
package struct ACMEAccount: Hashable, Sendable {
    package var status: ACMEStatus
    package var contacts: [String]
    package var termsOfServiceAgreed: Bool?
    package var orders: String?

    init(_ json: JSONValue, source: String) {
        // Some servers leave out what did not change.
        status = ACMEStatus(json["status"]?.string ?? "valid")
        contacts = (json["contact"]?.strings ?? []).map(ACMEProblem.safe)
        termsOfServiceAgreed = json["termsOfServiceAgreed"]?.bool
        orders = json["orders"]?.string
    }
}

/// RFC 8555 §7.1.3.
package struct ACMEOrder: Hashable, Sendable {
    package var status: ACMEStatus
    package var identifiers: Set<Identifier>
    /// Never empty while the order is pending.
    package var authorizations: [String]
    /// Some CAs give it only when the order is ready.
    package var finalize: String?
    package var certificate: String?
    package var error: ACMEProblem?
    package var profile: String?
    package var replaces: String?

    /// As many as public CAs allow names in one order.
    package static let maximumAuthorizations = 100

    init(_ json: JSONValue, source: String) throws(ACMEError) {
        status = ACMEStatus(try json.text("status", of: source))
        identifiers = Set((json["identifiers"]?.array ?? []).compactMap { Identifier($0) })
        let urls = json["authorizations"]?.array ?? []
        // Once they are all valid, some CAs leave them out.
        guard urls.count <= ACMEOrder.maximumAuthorizations, !urls.isEmpty || status != .pending else {
            throw ACMEError.malformed(source, "an order without authorizations, or with too many")
        }
        authorizations = []
        for url in urls {
            guard let text = url.string.flatMap({ WebAddress.resolve($0, against: source) }) else {
                throw ACMEError.malformed(source, "an authorization without a URL")
            }
            if !authorizations.contains(text) { authorizations.append(text) }
        }
        finalize = try json.optionalURL("finalize", of: source)
        certificate = try json.optionalURL("certificate", of: source)
        error = ACMEProblem(json["error"])
        profile = json["profile"]?.string.map(ACMEProblem.safe)
        replaces = json["replaces"]?.string.map(ACMEProblem.safe)
    }
}

/// RFC 8555 §7.1.4.
package struct ACMEAuthorization: Hashable, Sendable {
    package var status: ACMEStatus
    /// With the `*.` of a wildcard.
    package var identifier: Identifier
    /// Only those of a type we know and with a token we can use.
    package var challenges: [ACMEChallenge]
    /// What else was offered, for a message.
    package var skippedChallenges: [String]

    init(_ json: JSONValue, source: String) throws(ACMEError) {
        status = ACMEStatus(try json.text("status", of: source))
        guard let identifier = json["identifier"].flatMap({ Identifier($0) }) else {
            throw ACMEError.malformed(source, "an authorization without an identifier we know")
        }
        // RFC 8555 §7.1.4: the identifier of a wildcard's authorization has no `*.`.
        let isWildcard = json["wildcard"]?.bool ?? false
        self.identifier = isWildcard && !identifier.isWildcard ? Identifier("*." + identifier.value) ?? identifier : identifier
        challenges = []
        skippedChallenges = []
        for item in json["challenges"]?.array ?? [] {
            if let challenge = ACMEChallenge(item, source: source) {
                challenges.append(challenge)
            } else {
                skippedChallenges.append(ACMEProblem.safe(item["type"]?.string ?? "a challenge without a type"))
            }
        }
    }

    /// The problems of its challenges, each with the identifier.
    var problems: [ACMEProblem] {
        challenges.compactMap { challenge in
            guard var problem = challenge.error else { return nil }
            problem.identifier = problem.identifier ?? identifier
            return problem
        }
    }
}

package enum ChallengeType: String, Hashable, Sendable, CaseIterable {
    /// RFC 8737, on port 443.
    case tlsALPN01 = "tls-alpn-01"
    /// RFC 8555 §8.3, on port 80.
    case http01 = "http-01"
    /// RFC 8555 §8.4.
    case dns01 = "dns-01"

    /// Whether the RFCs let it prove this kind of name.
    package func canProve(_ identifier: Identifier) -> Bool {
        switch identifier {
        // RFC 8738 §7: no DNS record for an address. RFC 8555 §8.3, RFC 8737 §3: only DNS proves a wildcard.
        case .ip: self != .dns01
        case .dns: !identifier.isWildcard || self == .dns01
        }
    }
}

/// RFC 8555 §7.1.5.
package struct ACMEChallenge: Hashable, Sendable {
    package var type: ChallengeType
    package var url: String
    /// Only base64url: it goes into paths.
    package var token: String
    package var status: ACMEStatus
    package var error: ACMEProblem?

    /// RFC 8555 §8.1 asks for 128 bits; this is room for 1000 and still a file name.
    package static let maximumTokenBytes = 200

    /// Nil for a type we do not know (whose other fields are none of our business) and for a token that is no token.
    init?(_ json: JSONValue, source: String) {
        guard let type = json["type"]?.string.flatMap({ ChallengeType(rawValue: $0) }),
            let url = json["url"]?.string.flatMap({ WebAddress.resolve($0, against: source) }), let token = json["token"]?.string,
            Base64URL.isText(token),
            token.utf8.count <= ACMEChallenge.maximumTokenBytes
        else { return nil }
        self.type = type
        self.url = url
        self.token = token
        status = ACMEStatus(json["status"]?.string ?? "pending")
        error = ACMEProblem(json["error"])
    }
}

// MARK: - Fields

extension ACMEError {
    static func malformed(_ subject: String, _ what: String) -> ACMEError {
        ACMEError(
            .replyMalformed, subject: subject, "the CA's reply cannot be used: \(what)",
            remedy: "check that the directory URL is that of an ACME server", disposition: .retryOrFallback)
    }
}

extension JSONValue {
    func text(_ name: String, of source: String) throws(ACMEError) -> String {
        guard let text = self[name]?.string else { throw ACMEError.malformed(source, "\"\(name)\" is missing") }
        return text
    }

    /// RFC 8555 has whole URLs; a relative one is resolved against where it was found.
    func url(_ name: String, of source: String) throws(ACMEError) -> String {
        guard let url = WebAddress.resolve(try text(name, of: source), against: source) else {
            throw ACMEError.malformed(source, "\"\(name)\" is no https URL")
        }
        return url
    }

    /// Nil where it is absent, null or empty.
    func optionalURL(_ name: String, of source: String) throws(ACMEError) -> String? {
        switch self[name] {
        case nil, .string("")?: nil
        default: try url(name, of: source)
        }
    }
}

/// Just enough of RFC 3986.
package enum WebAddress {
    package static let maximumBytes = 2048

    /// RFC 8555 §6.1: https only. Visible ASCII, a host, no user in it.
    package static func isUsable(_ text: String) -> Bool {
        guard text.utf8.count <= maximumBytes, text.lowercased().hasPrefix("https://"),
            text.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "<") })
        else { return false }
        let authority = authority(of: text)
        return !authority.isEmpty && !authority.contains("@") && !authority.hasPrefix(":")
    }

    /// Host and port.
    static func authority(of url: String) -> Substring {
        url.dropFirst("https://".count).prefix { !"/?#".contains($0) }
    }

    /// RFC 3986 §5.2 for what a Location may be: a whole URL, a path from the root, or one from here.
    package static func resolve(_ reference: String, against base: String) -> String? {
        let lower = reference.lowercased()
        let absolute: String
        if lower.hasPrefix("https://") || lower.hasPrefix("http://") {
            absolute = reference
        } else if reference.hasPrefix("//") {
            absolute = "https:" + reference
        } else if reference.hasPrefix("/") {
            absolute = "https://" + authority(of: base) + reference
        } else {
            let path = base.prefix { $0 != "?" && $0 != "#" }
            // RFC 3986 §4.2: what has a colon in its first segment has another scheme.
            guard !reference.isEmpty, !reference.prefix(while: { $0 != "/" }).contains(":"), let slash = path.lastIndex(of: "/"),
                path.distance(from: path.startIndex, to: slash) >= 8
            else {
                return nil
            }
            absolute = path[...slash] + reference
        }
        return isUsable(absolute) ? absolute : nil
    }
}
