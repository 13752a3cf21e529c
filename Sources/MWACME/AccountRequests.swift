internal import MWPKI

/// The payloads of RFC 8555 §7.3, and §7.6.
enum AccountRequests {
    /// RFC 8555 §7.3: a new account, or the one that has this key.
    static func register(
        _ directory: ACMEDirectory, plan: IssuancePlan, contacts: [String], key: PrivateKey, onlyExisting: Bool
    ) throws -> Conversation.Request {
        var payload: [String: JSONValue] = [:]
        if onlyExisting {
            payload["onlyReturnExisting"] = .bool(true)
        } else {
            if plan.termsOfServiceAgreed { payload["termsOfServiceAgreed"] = .bool(true) }
            if !contacts.isEmpty { payload["contact"] = .array(contacts.map { .string($0) }) }
            if let binding = plan.externalAccountBinding {
                payload["externalAccountBinding"] = try bind(key, binding, url: directory.newAccount)
            }
        }
        return .post(directory.newAccount, .object(payload), by: .key(key))
    }

    /// RFC 8555 §7.3.4: the account's public key, authenticated with the CA's MAC key.
    private static func bind(_ key: PrivateKey, _ binding: IssuancePlan.ExternalAccountBinding, url: String) throws -> JSONValue {
        let header: [String: JSONValue] = ["kid": .string(binding.keyIdentifier), "url": .string(url)]
        let signed = try JSONWebSignature.authenticate(try JSONWebKey(key).json.encoded, header: header, key: binding.macKey)
        return try JSONValue(parsing: signed)
    }

    /// What must hold before an account can be made; judged before anything is sent.
    static func judge(_ directory: ACMEDirectory, plan: IssuancePlan) throws(ACMEError) {
        if directory.externalAccountRequired, plan.externalAccountBinding == nil {
            throw ACMEError(
                .externalAccountRequired, subject: plan.directoryURL, "this CA wants an external account binding",
                remedy: "get a key identifier and an HMAC key from the CA" + (directory.website.map { ", see \($0)" } ?? ""))
        }
        if let terms = directory.termsOfService, !plan.termsOfServiceAgreed {
            throw ACMEError(
                .termsNotAccepted, subject: plan.directoryURL, "the CA's terms of service have not been agreed to",
                remedy: "read \(terms), then agree to them in the configuration")
        }
    }

    static func accountURL(of response: HTTPResponse, _ directory: ACMEDirectory?, plan: IssuancePlan) throws(ACMEError) -> String {
        let source = directory?.newAccount ?? plan.directoryURL
        guard let location = response.value(of: "Location"), let url = WebAddress.resolve(location, against: source) else {
            throw ACMEError.malformed(source, "no Location with the account's URL")
        }
        return url
    }

    /// RFC 8555 §7.3.5: signed by the new key, inside of a request signed by the old one.
    static func rollover(_ url: String, account: String, from old: PrivateKey, to new: PrivateKey) throws -> Conversation.Request {
        let change = JSONValue.object(["account": .string(account), "oldKey": try JSONWebKey(old).json])
        let inner = try JSONWebSignature.sign(
            change.encoded, header: ["jwk": try JSONWebKey(new).json, "url": .string(url)], key: new)
        return Conversation.Request(
            url: url, signer: .account(url: account, old), payload: inner, expects: .anything, isRepeatable: false)
    }

    /// RFC 8555 §7.6.
    static func revoke(_ url: String, certificate: Certificate, reason: RevocationReason?, by signer: Conversation.Signer)
        -> Conversation.Request
    {
        var payload: [String: JSONValue] = ["certificate": .string(Base64URL.encode(certificate.derBytes))]
        if let reason { payload["reason"] = .integer(Int64(reason.rawValue)) }
        var request = Conversation.Request.post(url, .object(payload), by: signer)
        request.expects = .anything
        return request
    }
}

/// RFC 5280 §5.3.1, those a subscriber may give.
package enum RevocationReason: Int, Hashable, Sendable, CaseIterable {
    case unspecified = 0
    case keyCompromise = 1
    case affiliationChanged = 3
    case superseded = 4
    case cessationOfOperation = 5
}
