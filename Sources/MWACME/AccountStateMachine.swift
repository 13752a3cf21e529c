package import MWPKI

//   idle ─start→ directory ─→ [both keys?] ─→ the operation ─→ [save] ─→ over
//
// Responsibilities: everything about an account but ordering: register, find, update, roll the key over, deactivate; and revoke.

/// One operation on an account: `start`, then each action's event, until `.finished` or `.failed`.
package struct AccountStateMachine: ~Copyable {
    package enum Operation: Sendable {
        /// Makes the account, or finds the one with this key.
        case register
        /// RFC 8555 §7.3.1: never makes one.
        case find
        case updateContacts([String])
        case rollover(to: PrivateKey)
        /// RFC 8555 §7.3.6: for ever.
        case deactivate
        case revoke(Certificate, reason: RevocationReason?)
        /// Needs no account.
        case revokeByKey(Certificate, key: PrivateKey, reason: RevocationReason?)
    }

    package enum Action: Sendable {
        case send(HTTPRequest, timeout: Duration)
        case wait(Duration)
        /// Must be durable before `stateSaved`.
        case save(AccountRecord)
        case finished(AccountRecord, ACMEAccount?)
        case failed(ACMEError)
    }

    private enum Stage {
        case idle, readingDirectory
        /// Asking with the pending key of an interrupted rollover.
        case resolving
        case savingKey
        case registering(thenOperate: Bool)
        case operating
        case savingPendingKey
        case savingResolution
        case saving(thenOperate: Bool)
        case failing(ACMEError)
        case over
    }

    private let plan: IssuancePlan
    private let operation: Operation
    private var record: AccountRecord
    private var account: ACMEAccount?
    private var conversation: Conversation
    private var stage = Stage.idle

    /// `plan` gives the directory, contacts, terms, binding and limits; its names do not matter.
    package init(_ operation: Operation, plan: IssuancePlan, record: AccountRecord, seed: UInt64) {
        self.operation = operation
        self.plan = plan
        self.record = record
        conversation = Conversation(plan: plan, seed: seed)
    }

    // MARK: - Events

    package mutating func start(at now: Moment) -> Action {
        guard case .idle = stage else { preconditionFailure("started twice") }
        if let retryAt = record.rateLimit(at: now.date), waitsForRateLimit {
            return end(
                ACMEError(
                    .rateLimited, subject: plan.directoryURL, "the CA asked to wait", retryAt: retryAt, disposition: .retryOrFallback))
        }
        guard WebAddress.isUsable(plan.directoryURL) else {
            return end(
                ACMEError(
                    .planInvalid, subject: ACMEProblem.safe(plan.directoryURL), "not the URL of a directory", remedy: "give an https URL"))
        }
        stage = .readingDirectory
        return act(on: conversation.begin(.get(plan.directoryURL)), at: now)
    }

    package mutating func responseReceived(_ response: HTTPResponse, at now: Moment) -> Action {
        act(on: conversation.responseReceived(response, at: now), at: now)
    }

    package mutating func transferFailed(_ failure: TransferFailure, at now: Moment) -> Action {
        act(on: conversation.transferFailed(failure, at: now), at: now)
    }

    package mutating func timerFired(at now: Moment) -> Action { act(on: conversation.timerFired(), at: now) }

    package mutating func stateSaved(at now: Moment) -> Action {
        switch stage {
        case .savingKey: return register(onlyExisting: false, key: record.key, thenOperate: false, at: now)
        case .savingPendingKey: return rollOver(at: now)
        case .savingResolution: return begin(at: now)
        case .saving(thenOperate: true): return operate(at: now)
        case .saving(thenOperate: false):
            stage = .over
            return .finished(record, account)
        case .failing(let error): return end(error)
        default: preconditionFailure("nothing was to be saved")
        }
    }

    package mutating func stateNotSaved(_ reason: String, at now: Moment) -> Action {
        if case .failing(let error) = stage { return end(error) }
        return end(
            ACMEError(
                .stateUnwritable, subject: "account", "the account cannot be saved", remedy: "make room, or the directory writable",
                disposition: .retry, underlying: [reason]))
    }

    /// A limit on orders must not keep a stolen key trusted.
    private var waitsForRateLimit: Bool {
        switch operation {
        case .revoke, .revokeByKey, .deactivate: false
        case .register, .find, .updateContacts, .rollover: true
        }
    }

    // MARK: - Steps

    private mutating func act(on step: Conversation.Step, at now: Moment) -> Action {
        switch step {
        case .send(let request, let timeout): return .send(request, timeout: timeout)
        case .wait(let pause): return .wait(pause)
        case .reply(let response, let json): return replied(response, json, at: now)
        case .failed(let error): return refused(error, at: now)
        }
    }

    private mutating func replied(_ response: HTTPResponse, _ json: JSONValue, at now: Moment) -> Action {
        do {
            switch stage {
            case .readingDirectory:
                conversation.directory = try ACMEDirectory(json, source: plan.directoryURL)
                return begin(at: now)
            case .resolving:
                // The CA knows the new key: the rollover had succeeded.
                if let key = record.pendingKey { record.key = key }
                record.pendingKey = nil
                record.url = try AccountRequests.accountURL(of: response, conversation.directory, plan: plan)
                stage = .savingResolution
                return .save(record)
            case .registering(let thenOperate):
                record.url = try AccountRequests.accountURL(of: response, conversation.directory, plan: plan)
                account = ACMEAccount(json, source: plan.directoryURL)
                if case .register = operation { record.contacts = plan.contacts }
                return save(thenOperate: thenOperate, at: now)
            case .operating: return operated(json, at: now)
            default: preconditionFailure("no reply was awaited")
            }
        } catch {
            return end(ACMEError(own: error, subject: plan.directoryURL))
        }
    }

    private mutating func begin(at now: Moment) -> Action {
        if case .revokeByKey = operation { return operate(at: now) }
        if let pending = record.pendingKey {
            stage = .resolving
            return send(at: now) { directory, plan in
                try AccountRequests.register(directory, plan: plan, contacts: [], key: pending, onlyExisting: true)
            }
        }
        switch operation {
        case .register:
            if let directory = conversation.directory {
                do throws(ACMEError) { try AccountRequests.judge(directory, plan: plan) } catch { return end(error) }
            }
            // The key is durable before the CA knows it.
            stage = .savingKey
            return .save(record)
        case .find: return register(onlyExisting: true, key: record.key, thenOperate: false, at: now)
        case .updateContacts, .rollover, .deactivate, .revoke, .revokeByKey:
            return record.url == nil ? register(onlyExisting: true, key: record.key, thenOperate: true, at: now) : operate(at: now)
        }
    }

    private mutating func register(onlyExisting: Bool, key: PrivateKey, thenOperate: Bool, at now: Moment) -> Action {
        stage = .registering(thenOperate: thenOperate)
        let contacts = plan.contacts
        return send(at: now) { directory, plan in
            try AccountRequests.register(directory, plan: plan, contacts: contacts, key: key, onlyExisting: onlyExisting)
        }
    }

    private mutating func operate(at now: Moment) -> Action {
        let record = record
        func signer() throws(ACMEError) -> Conversation.Signer {
            guard let url = record.url else { throw ACMEError(.accountMissing, subject: plan.directoryURL, "no account yet") }
            return .account(url: url, record.key)
        }
        let plan = plan
        switch operation {
        case .register, .find: preconditionFailure("registration is no second step")
        case .rollover(let key):
            self.record.pendingKey = key
            stage = .savingPendingKey
            return .save(self.record)
        case .updateContacts(let contacts):
            stage = .operating
            return send(at: now) { _, _ in
                .post(record.url ?? "", .object(["contact": .array(contacts.map { .string($0) })]), by: try signer())
            }
        case .deactivate:
            stage = .operating
            return send(at: now) { _, _ in .post(record.url ?? "", .object(["status": .string("deactivated")]), by: try signer()) }
        case .revoke(let certificate, let reason):
            stage = .operating
            return send(at: now) { directory, _ in
                AccountRequests.revoke(
                    try directory.url(\.revokeCert, "revocation", plan), certificate: certificate, reason: reason, by: try signer())
            }
        case .revokeByKey(let certificate, let key, let reason):
            stage = .operating
            return send(at: now) { directory, _ in
                AccountRequests.revoke(
                    try directory.url(\.revokeCert, "revocation", plan), certificate: certificate, reason: reason, by: .key(key))
            }
        }
    }

    private mutating func rollOver(at now: Moment) -> Action {
        stage = .operating
        let record = record
        return send(at: now) { directory, plan in
            guard let account = record.url, let key = record.pendingKey else {
                throw ACMEError(.accountMissing, subject: plan.directoryURL, "no account yet")
            }
            return try AccountRequests.rollover(
                try directory.url(\.keyChange, "key rollover", plan), account: account, from: record.key, to: key)
        }
    }

    private mutating func operated(_ json: JSONValue, at now: Moment) -> Action {
        switch operation {
        case .updateContacts(let contacts):
            record.contacts = contacts
            account = ACMEAccount(json, source: plan.directoryURL)
        case .rollover(let key):
            record.key = key
            record.pendingKey = nil
        case .deactivate: account = ACMEAccount(json, source: plan.directoryURL)
        case .register, .find, .revoke, .revokeByKey: break
        }
        if case .revokeByKey = operation {
            stage = .over
            return .finished(record, nil)
        }
        return save(thenOperate: false, at: now)
    }

    private mutating func refused(_ error: ACMEError, at now: Moment) -> Action {
        switch (stage, operation) {
        case (.resolving, _) where error.code == .accountMissing:
            // The CA does not know the new key: the old one is still the account's.
            record.pendingKey = nil
            stage = .savingResolution
            return .save(record)
        case (.operating, .revoke), (.operating, .revokeByKey):
            // RFC 8555 §7.6: what was to be achieved is so.
            if error.problem?.kind == .alreadyRevoked { return operated(.null, at: now) }
        case (.operating, .rollover) where error.problem?.kind != nil && error.code != .serverFailed:
            // A clear no; anything less clear, as a proxy's page, leaves both keys to be tried next time.
            record.pendingKey = nil
            stage = .failing(error)
            return .save(record)
        default: break
        }
        if let retryAt = error.retryAt {
            record.retryAt = retryAt
            stage = .failing(error)
            return .save(record)
        }
        return end(error)
    }

    private mutating func send(
        at now: Moment, _ make: (ACMEDirectory, IssuancePlan) throws -> Conversation.Request
    ) -> Action {
        guard let directory = conversation.directory else { preconditionFailure("no directory yet") }
        do {
            let request = try make(directory, plan)
            return act(on: conversation.begin(request), at: now)
        } catch {
            return end(ACMEError(own: error, subject: plan.directoryURL))
        }
    }

    private mutating func save(thenOperate: Bool, at now: Moment) -> Action {
        // One that still holds is for those operations that it did not keep from.
        record.retryAt = record.rateLimit(at: now.date)
        stage = .saving(thenOperate: thenOperate)
        return .save(record)
    }

    private mutating func end(_ error: ACMEError) -> Action {
        stage = .over
        return .failed(error)
    }
}

extension ACMEDirectory {
    func url(_ path: KeyPath<ACMEDirectory, String?>, _ what: String, _ plan: IssuancePlan) throws(ACMEError) -> String {
        guard let url = self[keyPath: path] else {
            throw ACMEError(.planInvalid, subject: plan.directoryURL, "this CA offers no \(what)")
        }
        return url
    }
}
