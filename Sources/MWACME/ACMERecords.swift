package import MWPKI

/// Our account at one CA, with what must be remembered about that CA.
package struct AccountRecord: ACMERecord {
    package static let kind = "account"

    package var directoryURL: String
    package var key: PrivateKey
    /// The key of a rollover that was asked for and not yet confirmed: which of the two the CA knows has to be found out.
    package var pendingKey: PrivateKey?
    /// Nil before the registration.
    package var url: String?
    package var contacts: [String]
    /// From Retry-After of a rate limit: no request to this CA before then.
    package var retryAt: Timestamp?

    /// Not registered yet.
    package init(directoryURL: String, key: PrivateKey, contacts: [String] = []) {
        self.directoryURL = directoryURL
        self.key = key
        self.contacts = contacts
    }

    /// The rate limit that holds now; one longer than `HTTPResponse.maximumRetryAfterSeconds` was saved by a clock that has been set since.
    package func rateLimit(at now: Timestamp) -> Timestamp? {
        guard let retryAt, retryAt > now, retryAt <= now.adding(seconds: HTTPResponse.maximumRetryAfterSeconds) else { return nil }
        return retryAt
    }

    package init(json: JSONValue) throws {
        directoryURL = try json.required("directory")
        key = try json.requiredKey("key")
        pendingKey = try json.key("pendingKey")
        url = json["url"]?.string
        contacts = json["contacts"]?.strings ?? []
        retryAt = json.date("retryAt")
    }

    package func json() throws -> JSONValue {
        .object([
            "directory": .string(directoryURL), "key": try .key(key), "pendingKey": try .key(pendingKey), "url": .optional(url),
            "contacts": .array(contacts.map { .string($0) }), "retryAt": .date(retryAt),
        ])
    }
}

/// An order that may have to be resumed, with the key its certificate will be for. Durable before the order exists.
package struct OrderInFlight: ACMERecord {
    package static let kind = "order"

    package var directoryURL: String
    package var accountURL: String?
    /// Nil until the CA made the order.
    package var orderURL: String?
    package var key: PrivateKey
    package var identifiers: [Identifier]
    package var profile: String?
    /// The CA did not take `replaces`; it is not sent again for that certificate.
    package var replacesRefused = false
    package var created: Timestamp

    package init(plan: IssuancePlan, key: PrivateKey, at now: Timestamp) {
        directoryURL = plan.directoryURL
        self.key = key
        identifiers = plan.identifiers
        profile = plan.profile?.name
        created = now
    }

    /// Whether this is an order for what the plan wants, so that finishing it is worth it.
    package func serves(_ plan: IssuancePlan) -> Bool {
        directoryURL == plan.directoryURL && Set(identifiers) == Set(plan.identifiers) && key.algorithm == plan.keyAlgorithm
            && profile == plan.profile?.name
    }

    package init(json: JSONValue) throws {
        directoryURL = try json.required("directory")
        accountURL = json["account"]?.string
        orderURL = json["order"]?.string
        key = try json.requiredKey("key")
        identifiers = try json.identifiers("identifiers")
        profile = json["profile"]?.string
        replacesRefused = json["replacesRefused"]?.bool ?? false
        created = try json.requiredDate("created")
    }

    package func json() throws -> JSONValue {
        .object([
            "directory": .string(directoryURL), "account": .optional(accountURL), "order": .optional(orderURL), "key": try .key(key),
            "identifiers": .array(identifiers.map { .string($0.value) }), "profile": .optional(profile),
            "replacesRefused": .bool(replacesRefused), "created": .date(created),
        ])
    }
}

/// One certificate with all that belongs to it, in one file, so that no crash leaves parts that disagree.
package struct CertificateGeneration: ACMERecord {
    package static let kind = "certificate"

    /// Leaf first; never empty.
    package let chain: [Certificate]
    package let key: PrivateKey
    package let directoryURL: String
    package let accountURL: String
    /// As ordered.
    package let identifiers: [Identifier]
    package let profile: String?
    package let created: Timestamp
    package var renewal: RenewalState

    package init(
        chain: [Certificate], key: PrivateKey, directoryURL: String, accountURL: String, identifiers: [Identifier], profile: String?,
        created: Timestamp, renewal: RenewalState
    ) {
        self.chain = chain
        self.key = key
        self.directoryURL = directoryURL
        self.accountURL = accountURL
        self.identifiers = identifiers
        self.profile = profile
        self.created = created
        self.renewal = renewal
    }

    package var leaf: Certificate { chain[0] }

    /// RFC 9773 §4.1; nil where the certificate has no authority key identifier.
    package var certificateID: CertificateID? { CertificateID(leaf) }

    /// What a server presents. Throws when the parts do not belong together.
    package func identity() throws -> Identity {
        try Identity(leaf: leaf, intermediates: Array(chain.dropFirst()), key: key, source: "certificate of \(identifiers[0])")
    }

    package init(json: JSONValue) throws {
        chain = try Certificate.list(pem: Array(try json.required("chain").utf8), source: "chain")
        key = try json.requiredKey("key")
        directoryURL = try json.required("directory")
        accountURL = try json.required("account")
        identifiers = try json.identifiers("identifiers")
        profile = json["profile"]?.string
        created = try json.requiredDate("created")
        renewal = RenewalState(json: json["renewal"])
        guard key.matches(leaf) else {
            throw ACMEError(.stateMalformed, subject: "certificate", "its key is another certificate's")
        }
    }

    package func json() throws -> JSONValue {
        .object([
            "chain": .string(chain.map(\.pem).joined()), "key": try .key(key), "directory": .string(directoryURL),
            "account": .string(accountURL), "identifiers": .array(identifiers.map { .string($0.value) }), "profile": .optional(profile),
            "created": .date(created), "renewal": renewal.json,
        ])
    }

    /// Why the plan wants another certificate than this, whatever its age; nil when it does not. The order of names is no reason.
    package func reasonToReplace(for plan: IssuancePlan, acceptingAuthorities: [String] = []) -> String? {
        if Set(identifiers) != Set(plan.identifiers) {
            let added = Set(plan.identifiers).subtracting(identifiers).sorted().map { "+\($0)" }
            let removed = Set(identifiers).subtracting(plan.identifiers).sorted().map { "-\($0)" }
            return "the names changed: " + (added + removed).joined(separator: " ")
        }
        if key.algorithm != plan.keyAlgorithm { return "the kind of key changed: \(key.algorithm) to \(plan.keyAlgorithm)" }
        if directoryURL != plan.directoryURL, !acceptingAuthorities.contains(directoryURL) {
            return "the CA changed: \(directoryURL) to \(plan.directoryURL)"
        }
        if profile != plan.profile?.name { return "the profile changed: \(profile ?? "none") to \(plan.profile?.name ?? "none")" }
        return nil
    }
}

/// What is remembered of attempts while there is no certificate to remember it with.
package struct AttemptRecord: ACMERecord {
    package static let kind = "attempts"

    package var renewal: RenewalState

    package init(renewal: RenewalState) { self.renewal = renewal }

    package init(json: JSONValue) throws { renewal = RenewalState(json: json["renewal"]) }

    package func json() throws -> JSONValue { .object(["renewal": renewal.json]) }
}

/// What an issuance wants kept before it goes on.
package enum ACMEState: Sendable {
    case account(AccountRecord)
    case order(OrderInFlight)
}
