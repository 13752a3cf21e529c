internal import COpenSSL
internal import MWACME
internal import MWPKI
internal import TestCertificates

// What the fake CA does with a signed request.
extension FakeCA {
    mutating func serve(_ route: Route, _ number: Int, _ message: SignedMessage, _ request: HTTPRequest, at now: Timestamp) throws
        -> HTTPResponse
    {
        let usesKey = route == .newAccount || (route == .revokeCert && message.header["jwk"] != nil)
        if usesKey {
            guard let jwk = message.jwk, message.isSigned(by: jwk) else { return problem(401, "unauthorized", "signature by jwk") }
            return route == .newAccount ? try register(message, jwk) : try revoke(message, by: jwk)
        }
        guard let kid = message.header["kid"]?.string, message.header["jwk"] == nil,
            let index = accounts.firstIndex(where: { url("account", $0.number) == kid })
        else { return problem(400, "accountDoesNotExist", "no such account") }
        guard message.isSigned(by: accounts[index].jwk) else { return problem(401, "unauthorized", "signature by kid") }
        guard accounts[index].status == "valid" else { return problem(403, "unauthorized", "account is \(accounts[index].status)") }
        switch route {
        case .account: return updateAccount(index, message)
        case .keyChange: return try changeKey(index, message)
        case .newOrder: return newOrder(accounts[index].number, message)
        case .order: return lookAtOrder(number, of: accounts[index].number)
        case .authorization: return lookAtAuthorization(number)
        case .challenge where message.payload == .null: return lookAtChallenge(number, request.url)
        case .challenge: return validate(number, request.url, accounts[index])
        case .finalize: return try finalize(number, message, at: now)
        case .certificate: return certificate(number, request.url)
        case .revokeCert: return try revoke(message, by: nil)
        default: return problem(404, "malformed", "no such page")
        }
    }

    func url(_ kind: String, _ number: Int) -> String { "\(base)/\(kind)/\(number)" }
    /// Of one that was given no other place.
    package static func url(_ kind: String, _ number: Int) -> String { "\(base)/\(kind)/\(number)" }

    // MARK: - Accounts

    private mutating func register(_ message: SignedMessage, _ jwk: [String: String]) throws -> HTTPResponse {
        if let known = accounts.first(where: { $0.jwk == jwk }) {
            return reply(200, accountJSON(known), [.init("location", shown(url("account", known.number)))])
        }
        guard message.payload["onlyReturnExisting"]?.bool != true else {
            return problem(400, "accountDoesNotExist", "no account with this key")
        }
        if termsOfService != nil, !hasEmptyFields, message.payload["termsOfServiceAgreed"]?.bool != true {
            complaints.append("terms not agreed to")
        }
        if !externalAccounts.isEmpty {
            guard let binding = message.payload["externalAccountBinding"], let inner = SignedMessage(binding.encoded),
                let kid = inner.header["kid"]?.string, let mac = externalAccounts[kid],
                inner.header["alg"]?.string == "HS256", inner.header["nonce"] == nil,
                inner.header["url"]?.string == message.header["url"]?.string,
                try OpenSSL.hmacSHA256(Array(inner.signedText.utf8), key: SecretBytes(mac)) == inner.signature
            else { return problem(403, "unauthorized", "external account binding") }
            seenBindings.append(kid)
        }
        let account = Account(number: accounts.count + 1, jwk: jwk, contacts: message.payload["contact"]?.strings ?? [])
        accounts.append(account)
        return reply(201, accountJSON(account), [.init("Location", shown(url("account", account.number)))])
    }

    private func accountJSON(_ account: Account) -> JSONValue {
        .object(["status": .string(account.status), "contact": .array(account.contacts.map { .string($0) }), "orders": .string("x")])
    }

    private mutating func updateAccount(_ index: Int, _ message: SignedMessage) -> HTTPResponse {
        if let contacts = message.payload["contact"]?.strings { accounts[index].contacts = contacts }
        if message.payload["status"]?.string == "deactivated" { accounts[index].status = "deactivated" }
        return reply(200, accountJSON(accounts[index]))
    }

    private mutating func changeKey(_ index: Int, _ message: SignedMessage) throws -> HTTPResponse {
        guard let inner = SignedMessage(message.payload.encoded), let jwk = inner.jwk, inner.isSigned(by: jwk),
            inner.header["nonce"] == nil, inner.header["url"]?.string == message.header["url"]?.string,
            inner.payload["account"]?.string == url("account", accounts[index].number),
            inner.payload["oldKey"]?.jwk == accounts[index].jwk
        else { return problem(400, "malformed", "inner JWS") }
        accounts[index].jwk = jwk
        return reply(200, accountJSON(accounts[index]))
    }

    private mutating func revoke(_ message: SignedMessage, by jwk: [String: String]?) throws -> HTTPResponse {
        guard let der = message.payload["certificate"]?.string.flatMap({ Base64URL.decode($0) }) else {
            return problem(400, "malformed", "no certificate")
        }
        let certificate = try Certificate(der: der, source: "revoked")
        if let jwk, !SignedMessage.certificate(certificate, hasKey: jwk) { return problem(403, "unauthorized", "not its key") }
        guard !revoked.contains(where: { $0.certificate == der }) else { return problem(400, "alreadyRevoked", "done before") }
        revoked.append((der, message.payload["reason"]?.integer))
        return reply(200, .object([:]))
    }

    // MARK: - Orders

    private mutating func newOrder(_ account: Int, _ message: SignedMessage) -> HTTPResponse {
        let identifiers = (message.payload["identifiers"]?.array ?? []).compactMap { item -> Identifier? in
            item["value"]?.string.flatMap { Identifier($0) }
        }
        var order = Order(account: account, identifiers: identifiers, authorizations: [])
        order.profile = message.payload["profile"]?.string
        order.replaces = message.payload["replaces"]?.string
        // In another order than they were asked for.
        for identifier in identifiers.reversed() {
            authorizations.append(Authorization(identifier: identifier, status: authorizationsAreValid ? "valid" : "pending"))
            order.authorizations.append(authorizations.count)
        }
        if authorizationsAreValid, readyPolls == 0 { order.status = "ready" }
        orders.append(order)
        return reply(201, orderJSON(orders.count), [.init("Location", shown(url("order", orders.count)))])
    }

    private func orderJSON(_ number: Int) -> JSONValue {
        let order = orders[number - 1]
        var members: [String: JSONValue] = [
            "status": .string(order.status), "finalize": .string(shown(url("finalize", number))),
            "identifiers": .array(
                order.identifiers.sorted().map { .object(["type": .string($0.kind), "value": .string($0.value)]) }),
            "authorizations": .array(order.authorizations.map { .string(shown(url("authz", $0))) }), "expires": .string("whenever"),
        ]
        if hasEmptyFields { members.merge(["certificate": .string(""), "error": .null, "notBefore": .string("")]) { $1 } }
        if hasSparseOrders, order.status != "pending" { members["authorizations"] = nil }
        if hasSparseOrders, order.status != "ready" { members["finalize"] = nil }
        if order.status == "valid" { members["certificate"] = .string(shown(url("cert", number))) }
        if let error = order.error { members["error"] = error }
        if let replaces = order.replaces { members["replaces"] = .string(replaces) }
        return .object(members)
    }

    private mutating func lookAtOrder(_ number: Int, of account: Int) -> HTTPResponse {
        guard (1...max(1, orders.count)).contains(number), !orders.isEmpty, orders[number - 1].account == account else {
            return problem(404, "malformed", "no such order")
        }
        advance(number)
        return reply(200, orderJSON(number), waitHeader(number))
    }

    private func waitHeader(_ number: Int) -> [HTTPRequest.Header] {
        guard let retryAfter, ["processing", "pending"].contains(orders[number - 1].status) else { return [] }
        return [.init("Retry-After", retryAfter)]
    }

    private mutating func advance(_ number: Int) {
        let statuses = orders[number - 1].authorizations.map { authorizations[$0 - 1].status }
        switch orders[number - 1].status {
        case "pending" where statuses.contains("invalid") && !leavesPending:
            orders[number - 1].status = "invalid"
            orders[number - 1].error = FakeCA.problemJSON("unauthorized", "some authorization is invalid")
        case "pending" where statuses.allSatisfy { $0 == "valid" }:
            orders[number - 1].polls += 1
            if orders[number - 1].polls > readyPolls {
                orders[number - 1].status = "ready"
                orders[number - 1].polls = 0
            }
        case "processing":
            orders[number - 1].polls += 1
            if orders[number - 1].polls >= processingPolls { orders[number - 1].status = "valid" }
        default: break
        }
    }

    // MARK: - Authorizations

    private mutating func lookAtAuthorization(_ number: Int) -> HTTPResponse {
        var authorization = authorizations[number - 1]
        if authorization.status == "processing" {
            authorization.polls += 1
            if authorization.polls > validationPolls { authorization.status = authorization.problem == nil ? "valid" : "invalid" }
            authorizations[number - 1] = authorization
        }
        let isShownPending = authorization.status == "processing" || (authorization.status == "invalid" && leavesPending)
        var members: [String: JSONValue] = [
            "status": .string(isShownPending ? "pending" : authorization.status),
            "identifier": .object(["type": .string(authorization.identifier.kind), "value": .string(authorization.identifier.base.value)]),
            "challenges": .array(challengeTypes.compactMap { challengeJSON($0, number, isTold: failedChallenge != .silent) }),
        ]
        if authorization.identifier.isWildcard { members["wildcard"] = .bool(true) }
        return reply(200, .object(members))
    }

    private var leavesPending: Bool { failedChallenge == .invalidInPending || failedChallenge == .pendingWithError }

    private mutating func lookAtChallenge(_ number: Int, _ url: String) -> HTTPResponse {
        let type = url.split(separator: "/").last.map(String.init) ?? ""
        guard let challenge = challengeJSON(type, number, isTold: true) else { return problem(404, "malformed", "no such challenge") }
        return reply(200, challenge)
    }

    private func challengeJSON(_ type: String, _ number: Int, isTold: Bool) -> JSONValue? {
        let authorization = authorizations[number - 1]
        if type == "unheard-01" { return .object(["type": .string(type), "nothing": .array([])]) }
        guard let known = ChallengeType(rawValue: type), known.canProve(authorization.identifier) else { return nil }
        var members: [String: JSONValue] = [
            "type": .string(type), "url": .string(shown("\(url("chall", number))/\(type)")), "token": .string(FakeCA.token(number)),
            "status": .string("pending"),
        ]
        if authorization.status == "invalid", let problem = authorization.problem, type == "http-01", isTold {
            members["error"] = problem
            members["status"] = .string(failedChallenge == .pendingWithError ? "pending" : "invalid")
        }
        return .object(members)
    }

    package static func token(_ number: Int) -> String { "token-of_authorization\(number)" }

    private mutating func validate(_ number: Int, _ url: String, _ account: Account) -> HTTPResponse {
        let type = url.split(separator: "/").last.map(String.init) ?? ""
        let identifier = authorizations[number - 1].identifier
        let thumbprint = JSONWebKey(members: account.jwk).thumbprint
        let expected = "\(FakeCA.token(number)).\(thumbprint)"
        let isThere =
            validatesAnything
            || world.contains { $0.identifier == identifier && $0.type.rawValue == type && $0.keyAuthorization == expected }
        if !isThere { complaints.append("\(identifier): nothing presented for \(type)") }
        if let refused = refusedNames[identifier] {
            authorizations[number - 1].problem = FakeCA.problemJSON(refused, "cannot validate \(identifier)")
        } else if !isThere {
            authorizations[number - 1].problem = FakeCA.problemJSON("unauthorized", "nothing there")
        }
        authorizations[number - 1].status = "processing"
        return reply(200, .object(["type": .string(type), "status": .string("processing"), "url": .string(url), "token": .string("t")]))
    }

    // MARK: - Certificates

    private mutating func finalize(_ number: Int, _ message: SignedMessage, at now: Timestamp) throws -> HTTPResponse {
        guard orders[number - 1].status == "ready" else { return problem(403, "orderNotReady", "it is \(orders[number - 1].status)") }
        guard let csr = message.payload["csr"]?.string.flatMap({ Base64URL.decode($0) }), let key = SignedMessage.requestKey(csr) else {
            return problem(400, "badCSR", "its signature")
        }
        let identifiers = orders[number - 1].identifiers
        for identifier in identifiers {
            let bytes = DER.addressBytes(identifier.value) ?? Array(identifier.value.utf8)
            if !csr.contains(subsequence: bytes) { return problem(400, "badCSR", "no \(identifier)") }
        }
        var builder = CertificateBuilder(subject: [], days: 90, from: now)
        builder.alternativeNames = identifiers.map(\.alternativeName)
        builder.extendedKeyUsages = ["serverAuth"]
        change(&builder)
        let leaf = try builder.issued(for: key, by: intermediate.identity)
        let crossed = try CertificateBuilder.authority(name: "Fake Intermediate").issued(
            for: intermediate.identity.key, by: otherRoot.identity)
        orders[number - 1].chains = [changeChain([leaf, intermediate.certificate]), [leaf, crossed]]
        orders[number - 1].status = processingPolls == 0 ? "valid" : "processing"
        orders[number - 1].polls = 0
        return reply(200, orderJSON(number), waitHeader(number))
    }

    private mutating func certificate(_ number: Int, _ url: String) -> HTTPResponse {
        let chains = orders[number - 1].chains
        let index = url.hasSuffix("/alternate") ? 1 : 0
        guard index < chains.count else { return problem(404, "malformed", "no certificate") }
        var response = HTTPResponse(status: 200, body: Array(chains[index].map(\.pem).joined().utf8))
        response.headers = [
            .init("Link", "<\(base)/directory>;rel=\"index\", <\(shown(self.url("cert", number)))/alternate>;rel=\"alternate\""),
            .init("Replay-Nonce", makeNonce()),
        ]
        return response
    }
}

extension Identifier {
    var kind: String { if case .ip = self { "ip" } else { "dns" } }
}

extension [UInt8] {
    package func contains(subsequence other: [UInt8]) -> Bool {
        guard count >= other.count else { return false }
        return (0...(count - other.count)).contains { self[$0..<$0 + other.count].elementsEqual(other) }
    }
}
