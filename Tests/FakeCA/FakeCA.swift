internal import COpenSSL
package import MWACME
package import MWPKI
package import TestCertificates

/// A CA as a value: it answers requests from memory, checks every signature by itself, and does wrong when told to.
package struct FakeCA {
    package enum Route: Hashable {
        case directory, newNonce, newAccount, account, newOrder, order, authorization, challenge, finalize, certificate
        case revokeCert, keyChange, renewalInfo, unknown
    }

    package struct Account {
        package var number: Int
        package var jwk: [String: String]
        package var status = "valid"
        package var contacts: [String] = []
    }

    package struct Authorization {
        package var identifier: Identifier
        package var status = "pending"
        package var polls = 0
        package var problem: JSONValue?
    }

    package struct Order {
        package var account: Int
        package var identifiers: [Identifier]
        package var authorizations: [Int]
        package var status = "pending"
        package var polls = 0
        package var profile: String?
        package var replaces: String?
        package var error: JSONValue?
        package var chains: [[Certificate]] = []
    }

    /// What is seen of a challenge that failed, by whoever looks at its authorization.
    package enum FailedChallenge: CaseIterable {
        /// It and the authorization are invalid (RFC 8555 §7.1.6).
        case invalid
        /// It is; the authorization stays pending.
        case invalidInPending
        /// Neither is, and the challenge has an error.
        case pendingWithError
        /// The authorization is, and only the challenge itself tells the error.
        case silent
    }

    package enum Reply {
        case response(HTTPResponse)
        case failure(TransferFailure)
        /// What the CA does anyway, and then the reply is lost.
        case lost
    }

    /// Where it is, unless it is given another place.
    package static let base = "https://ca.test"
    package var base = FakeCA.base
    package let root: TestAuthority
    package let otherRoot: TestAuthority
    package let intermediate: TestAuthority

    // What it is like.
    package var badNoncePercent: UInt64 = 0
    package var noncesInReplies = true
    package var externalAccounts: [String: [UInt8]] = [:]
    package var termsOfService: String? = "https://ca.test/terms"
    package var profiles: [String] = []
    package var givesRenewalInfo = false
    package var challengeTypes = ["unheard-01", "http-01", "dns-01", "tls-alpn-01"]
    package var authorizationsAreValid = false
    /// Looks nowhere: whatever is to be validated is valid.
    package var validatesAnything = false
    package var validationPolls = 1
    package var processingPolls = 0
    package var readyPolls = 0
    package var retryAfter: String?
    package var refusedNames: [Identifier: String] = [:]
    package var failedChallenge = FailedChallenge.invalid
    package var hasRelativeURLs = false
    /// What it has not is an empty text, or null.
    package var hasEmptyFields = false
    /// Orders have `authorizations` only while they are pending, and `finalize` only when ready.
    package var hasSparseOrders = false
    package var change: (inout CertificateBuilder) -> Void = { _ in }
    package var changeChain: ([Certificate]) -> [Certificate] = { $0 }
    /// Called with the route, how often it was asked before, and the payload; nil is the usual reply.
    package var intercept: (Route, Int, JSONValue?) -> Reply? = { _, _, _ in nil }

    // What it knows.
    package var accounts: [Account] = []
    package var orders: [Order] = []
    package var authorizations: [Authorization] = []
    package var revoked: [(certificate: [UInt8], reason: Int?)] = []
    /// The answers that are in place in the world it looks at.
    package var world: Set<ChallengeAnswer> = []
    package var counts: [Route: Int] = [:]
    /// What the client did wrong; must stay empty.
    package var complaints: [String] = []
    package var seenBindings: [String] = []
    package var acceptLanguages: Set<String> = []
    private var nonces: Set<String> = []
    private var nextNonce = 0
    private var random: SplitMix64

    package init(seed: UInt64 = 1) throws {
        root = try TestAuthority(name: "Fake Root")
        otherRoot = try TestAuthority(name: "Other Root")
        intermediate = try root.intermediate(name: "Fake Intermediate")
        random = SplitMix64(seed: seed)
    }

    package func count(_ route: Route) -> Int { counts[route] ?? 0 }

    // MARK: - Answering

    package mutating func answer(_ request: HTTPRequest, at now: Timestamp) throws -> Result<HTTPResponse, TransferFailure> {
        let (route, number) = FakeCA.route(request.url, base: base)
        let before = counts[route] ?? 0
        counts[route] = before + 1
        if !request.headers.contains(where: { $0.name == "User-Agent" }) { complaints.append("no User-Agent") }
        if case .post = request.method {} else { return finish(try open(route, request, before: before)) }
        guard request.headers.contains(HTTPRequest.Header("Content-Type", "application/jose+json")) else {
            return .success(problem(415, "malformed", "content type"))
        }
        guard let message = SignedMessage(request.body) else { return .success(problem(400, "malformed", "no JWS")) }
        guard message.header["url"]?.string == request.url else { return .success(problem(401, "unauthorized", "url")) }
        guard let nonce = message.header["nonce"]?.string, nonces.remove(nonce) != nil, random.next() % 100 >= badNoncePercent else {
            return .success(problem(400, "badNonce", "nonce"))
        }
        switch intercept(route, before, message.payload) {
        case .response(var response)?:
            addNonce(to: &response)
            return .success(response)
        case .failure(let failure)?: return .failure(failure)
        case .lost?:
            _ = try serve(route, number, message, request, at: now)
            return .failure(.timeout)
        case nil: return .success(try serve(route, number, message, request, at: now))
        }
    }

    private mutating func finish(_ reply: Reply) -> Result<HTTPResponse, TransferFailure> {
        switch reply {
        case .response(let response): .success(response)
        case .failure(let failure): .failure(failure)
        case .lost: .failure(.timeout)
        }
    }

    private mutating func open(_ route: Route, _ request: HTTPRequest, before: Int) throws -> Reply {
        if let reply = intercept(route, before, nil) { return reply }
        switch route {
        case .directory: return .response(HTTPResponse(status: 200, body: directory.encoded))
        case .newNonce:
            if request.method != .head { complaints.append("newNonce by \(request.method)") }
            return .response(HTTPResponse(status: 200, headers: [.init("Replay-Nonce", makeNonce())]))
        default: return .response(HTTPResponse(status: 405))
        }
    }

    package var directory: JSONValue {
        var members: [String: JSONValue] = [:]
        for name in ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange"] { members[name] = .string(shown("\(base)/\(name)")) }
        if hasEmptyFields {
            for name in ["keyChange", "revokeCert", "renewalInfo"] { members[name] = .string("") }
        }
        if givesRenewalInfo { members["renewalInfo"] = .string("\(base)/renewalInfo") }
        members["unknown-extension"] = .array([.integer(1), .object(["a": .null])])
        var meta: [String: JSONValue] = ["externalAccountRequired": .bool(!externalAccounts.isEmpty)]
        if let termsOfService { meta["termsOfService"] = .string(termsOfService) }
        if hasEmptyFields {
            meta["termsOfService"] = .string("")
            meta["website"] = .null
        }
        if !profiles.isEmpty { meta["profiles"] = .object(Dictionary(uniqueKeysWithValues: profiles.map { ($0, .string("about \($0)")) })) }
        members["meta"] = .object(meta)
        return .object(members)
    }

    /// As it is written in a reply.
    func shown(_ url: String) -> String { hasRelativeURLs ? String(url.dropFirst(base.count)) : url }

    package static func route(_ url: String, base: String) -> (Route, Int) {
        let parts = url.dropFirst(base.count + 1).split(separator: "/").map(String.init)
        let number = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        let routes: [String: Route] = [
            "directory": .directory, "newNonce": .newNonce, "newAccount": .newAccount, "account": .account, "newOrder": .newOrder,
            "order": .order, "authz": .authorization, "chall": .challenge, "finalize": .finalize, "cert": .certificate,
            "revokeCert": .revokeCert, "keyChange": .keyChange, "renewalInfo": .renewalInfo,
        ]
        return (parts.first.flatMap { routes[$0] } ?? .unknown, number)
    }

    package mutating func makeNonce() -> String {
        nextNonce += 1
        let nonce = "nonce\(nextNonce)"
        nonces.insert(nonce)
        return nonce
    }

    private mutating func addNonce(to response: inout HTTPResponse) {
        if noncesInReplies { response.headers.append(.init("replay-nonce", makeNonce())) }
    }

    package mutating func reply(_ status: Int, _ json: JSONValue, _ headers: [HTTPRequest.Header] = []) -> HTTPResponse {
        var response = HTTPResponse(status: status, headers: headers, body: json.encoded)
        addNonce(to: &response)
        return response
    }

    package mutating func problem(_ status: Int, _ type: String, _ detail: String) -> HTTPResponse {
        reply(status, FakeCA.problemJSON(type, detail))
    }

    package static func problemJSON(_ type: String, _ detail: String) -> JSONValue {
        .object(["type": .string("urn:ietf:params:acme:error:\(type)"), "detail": .string(detail)])
    }

    package static func problemResponse(
        _ status: Int, _ type: String, _ detail: String = "as told", headers: [HTTPRequest.Header] = [], more: [String: JSONValue] = [:]
    ) -> Reply {
        var members = more
        members["type"] = .string("urn:ietf:params:acme:error:\(type)")
        members["detail"] = .string(detail)
        return .response(HTTPResponse(status: status, headers: headers, body: JSONValue.object(members).encoded))
    }
}
