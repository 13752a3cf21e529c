internal import MWPKI

// The first part of an issuance: the directory, and an account that the CA knows.

extension IssuanceStateMachine {
    mutating func directoryRead(_ json: JSONValue, at now: Moment) throws -> Action {
        let directory = try ACMEDirectory(json, source: plan.directoryURL)
        conversation.directory = directory
        switch plan.profile {
        case .required(let name) where directory.profiles[name] == nil:
            let known = directory.profiles.keys.sorted().joined(separator: ", ")
            return giveUp(
                ACMEError(
                    .profileUnknown, subject: plan.directoryURL, "the CA has no profile \"\(name)\"",
                    remedy: known.isEmpty ? "it has none at all" : "it has: \(known)"), keepsOrder: false, at: now)
        case .preferred(let name) where directory.profiles[name] == nil:
            warnings.append("the CA has no profile \"\(name)\"; ordered without one")
        default: break
        }
        return prepareAccount(at: now)
    }

    mutating func prepareAccount(at now: Moment) -> Action {
        guard let directory = conversation.directory else { preconditionFailure("no directory yet") }
        phase = .registering
        if let pending = account.pendingKey {
            // A rollover was interrupted: the account has one of two keys.
            stage = .resolvingRollover
            return send(at: now) { plan in
                try AccountRequests.register(directory, plan: plan, contacts: [], key: pending, onlyExisting: true)
            }
        }
        guard account.url == nil else { return beginOrder(at: now) }
        do throws(ACMEError) {
            try AccountRequests.judge(directory, plan: plan)
        } catch {
            return giveUp(error, keepsOrder: false, at: now)
        }
        // Durable before the CA knows it, so that a crash does not leave an account nobody has the key of.
        stage = .savingAccountKey
        return .save(.account(account))
    }

    mutating func register(at now: Moment) -> Action {
        guard let directory = conversation.directory else { preconditionFailure("no directory yet") }
        stage = .registering
        let (key, contacts) = (account.key, plan.contacts)
        return send(at: now) { plan in
            try AccountRequests.register(directory, plan: plan, contacts: contacts, key: key, onlyExisting: false)
        }
    }

    mutating func registered(_ response: HTTPResponse) throws -> Action {
        account.url = try AccountRequests.accountURL(of: response, conversation.directory, plan: plan)
        account.contacts = plan.contacts
        account.retryAt = nil
        stage = .savingAccount
        return .save(.account(account))
    }

    mutating func rolloverResolved(_ response: HTTPResponse) throws -> Action {
        if let key = account.pendingKey { account.key = key }
        account.pendingKey = nil
        account.url = try AccountRequests.accountURL(of: response, conversation.directory, plan: plan)
        stage = .savingResolution
        return .save(.account(account))
    }

    mutating func pendingKeyUnknown() -> Action {
        account.pendingKey = nil
        stage = .savingResolution
        return .save(.account(account))
    }

    /// The CA forgot us (RFC 8555 §6.7: accountDoesNotExist): once, the account is made anew, and the order with it.
    mutating func registerAgain(at now: Moment) -> Action {
        hasReregistered = true
        warnings.append("the CA no longer knew the account; it was registered again")
        account.url = nil
        inFlight.orderURL = nil
        order = nil
        return prepareAccount(at: now)
    }

    /// Signed with the account's key, by its URL.
    var signer: Conversation.Signer {
        guard let url = account.url else { preconditionFailure("no account yet") }
        return .account(url: url, account.key)
    }

    mutating func send(at now: Moment, _ make: (IssuancePlan) throws -> Conversation.Request) -> Action {
        let request: Conversation.Request
        do {
            request = try make(plan)
        } catch {
            return giveUp(ACMEError(own: error, subject: plan.directoryURL), keepsOrder: true, at: now)
        }
        return act(on: conversation.begin(request), at: now)
    }
}
