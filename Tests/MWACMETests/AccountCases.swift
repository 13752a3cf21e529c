import FakeCA
import MWACME
import MWPKI
import Testing

// Method of all: the machine against the fake CA, which verifies every signature by itself.
@Suite struct AccountCases {
    @Test(
        "case 1 account_create_and_reuse: ten starts make one account", arguments: [KeyAlgorithm.ec(.p256), .ec(.p384), .rsa(bits: 2048)])
    func createAndReuse(_ kind: KeyAlgorithm) throws {
        var bench = try Workbench()
        bench.account = AccountRecord(directoryURL: bench.plan.directoryURL, key: try .generate(kind))
        for _ in 0..<10 {
            let (record, account) = try bench.operate(.register).get()
            #expect(record.url == FakeCA.url("account", 1))
            #expect(account?.status == .valid)
        }
        #expect(bench.ca.accounts.count == 1)
        #expect(bench.ca.accounts[0].contacts == ["mailto:admin@example.test"])
        #expect(bench.ca.complaints.isEmpty)
    }

    @Test("case 2 account_only_existing_missing: the CA's type is surfaced")
    func onlyExistingMissing() throws {
        var bench = try Workbench()
        let result = try bench.operate(.find)
        let error = try #require(result.failure)
        #expect(error.code == .accountMissing)
        #expect(error.problem?.kind == .accountDoesNotExist)
        #expect(error.disposition == .permanent)
        #expect(bench.ca.accounts.isEmpty)
    }

    @Test("case 3 eab_required: with the right key it is bound")
    func externalAccountBound() throws {
        var bench = try Workbench()
        let mac: [UInt8] = Array(repeating: 0x5A, count: 32)
        bench.ca.externalAccounts["kid-1"] = mac
        bench.plan.externalAccountBinding = .init(keyIdentifier: "kid-1", macKeyText: Base64URL.encode(mac) + "=")
        #expect(try bench.issue().certificate != nil)
        #expect(bench.ca.seenBindings == ["kid-1"])
    }

    @Test("case 3 eab_required: without one it fails before any POST")
    func externalAccountMissing() throws {
        var bench = try Workbench()
        bench.ca.externalAccounts["kid-1"] = [1]
        let error = try #require(try bench.issue().error)
        #expect(error.code == .externalAccountRequired)
        #expect(error.disposition == .permanent)
        #expect(bench.steps.filter { $0.hasPrefix("POST") || $0.hasPrefix("HEAD") }.isEmpty)
    }

    @Test("case 3 eab_required: a wrong MAC is fatal and not retried")
    func externalAccountWrong() throws {
        var bench = try Workbench()
        bench.ca.externalAccounts["kid-1"] = [1, 2, 3]
        bench.plan.externalAccountBinding = .init(keyIdentifier: "kid-1", macKey: SecretBytes([3, 2, 1]))
        let error = try #require(try bench.issue().error)
        #expect(error.code == .accountRefused)
        #expect(error.disposition == .permanent)
        #expect(bench.ca.count(.newAccount) == 1)
    }

    @Test("case 4 tos_changed_userActionRequired: permanent, with the page to open, and no loop")
    func termsChanged() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in
            guard route == .newOrder else { return nil }
            return FakeCA.problemResponse(
                403, "userActionRequired", "new terms", headers: [.init("Link", "<https://ca.test/terms-2>;rel=\"terms-of-service\"")],
                more: ["instance": .string("https://ca.test/agree")])
        }
        let error = try #require(try bench.issue().error)
        #expect(error.code == .termsNotAccepted)
        #expect(error.disposition == .permanent)
        #expect(error.problem?.instance == "https://ca.test/agree")
        #expect(error.problem?.termsOfService == "https://ca.test/terms-2")
        #expect(error.description.contains("https://ca.test/agree"))
        #expect(bench.ca.count(.newOrder) == 1)
    }

    @Test("case 4: terms nobody agreed to are not agreed to")
    func termsNotAgreed() throws {
        var bench = try Workbench()
        bench.plan.termsOfServiceAgreed = false
        let error = try #require(try bench.issue().error)
        #expect(error.code == .termsNotAccepted)
        #expect(error.remedy?.contains("https://ca.test/terms") == true)
        #expect(bench.ca.count(.newAccount) == 0)
    }

    @Test("case 5 key_rollover: the new key works, the old one does not")
    func rollover() throws {
        var bench = try Workbench()
        _ = try bench.operate(.register).get()
        let old = bench.account.key
        let new = try PrivateKey.generate(.ec(.p384))
        _ = try bench.operate(.rollover(to: new)).get()
        #expect(bench.account.key.publicKeyPin == new.publicKeyPin)
        #expect(bench.account.pendingKey == nil)
        #expect(bench.ca.accounts.map(\.jwk) == [try JSONWebKey(new).members])
        #expect(try bench.issue().certificate != nil)
        bench.account.key = old
        bench.savedOrder = nil
        #expect(try bench.issue().error?.code == .accountRefused)
    }

    @Test("case 5 key_rollover: killed at any step, the next start finds the key that works", arguments: 1...12, [false, true])
    func rolloverKilled(_ step: Int, _ afterEffect: Bool) throws {
        var bench = try Workbench()
        _ = try bench.operate(.register).get()
        bench.crash = (step, afterEffect)
        _ = try bench.operate(.rollover(to: try .generate()))
        bench.crash = nil
        #expect(try bench.issue().certificate != nil)
        #expect(bench.account.pendingKey == nil)
        #expect(bench.ca.accounts.map(\.jwk) == [try JSONWebKey(bench.account.key).members])
    }

    @Test("case 6 account_deactivate: later orders are refused, and it says so")
    func deactivate() throws {
        var bench = try Workbench()
        _ = try bench.operate(.register).get()
        let (_, account) = try bench.operate(.deactivate).get()
        #expect(account?.status == .deactivated)
        let error = try #require(try bench.issue().error)
        #expect(error.code == .accountRefused)
        #expect(error.description.contains("deactivated"))
    }

    @Test("contacts are updated")
    func contacts() throws {
        var bench = try Workbench()
        let (record, account) = try bench.operate(.updateContacts(["mailto:other@example.test"])).failureOrRegistered(&bench)
        #expect(record.contacts == ["mailto:other@example.test"])
        #expect(account?.contacts == ["mailto:other@example.test"])
        #expect(bench.ca.accounts[0].contacts == ["mailto:other@example.test"])
    }

    @Test("case 9 ca_forgot_account: registered again once, then ordered")
    func forgotten() throws {
        var bench = try Workbench()
        #expect(try bench.issue().certificate != nil)
        bench.ca.accounts = []
        let outcome = try bench.issue()
        #expect(outcome.certificate?.warnings.contains { $0.contains("registered again") } == true)
        #expect(bench.ca.accounts.count == 1)
    }

    @Test("case 9 ca_forgot_account: a CA that never knows anybody is left, without a loop")
    func alwaysForgotten() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, _, _ in route == .newOrder ? FakeCA.problemResponse(400, "accountDoesNotExist") : nil }
        #expect(try bench.issue().error?.code == .accountMissing)
        #expect(bench.ca.count(.newAccount) == 2)
        #expect(bench.ca.count(.newOrder) == 2)
    }

    @Test("case 9 ca_forgot_account: in the middle of a validation, what was presented is removed, and the next attempt succeeds")
    func forgottenInTheMiddle() throws {
        var bench = try Workbench()
        bench.ca.intercept = { route, count, _ in
            route == .authorization && count == 1 ? FakeCA.problemResponse(400, "accountDoesNotExist") : nil
        }
        let error = try #require(try bench.issue().error)
        #expect(error.code == .accountMissing)
        #expect(error.disposition == .retry)
        #expect(bench.ca.world.isEmpty)
        bench.ca.accounts = []
        #expect(try bench.issue().certificate != nil)
    }

    @Test("case 25 revoke_account_key, revoke_cert_key, reasons: alreadyRevoked is success", arguments: RevocationReason.allCases)
    func revoke(_ reason: RevocationReason) throws {
        var bench = try Workbench()
        let first = try #require(try bench.issue().certificate).generation
        let second = try #require(try bench.issue().certificate).generation
        _ = try bench.operate(.revoke(first.leaf, reason: reason)).get()
        _ = try bench.operate(.revokeByKey(second.leaf, key: second.key, reason: reason)).get()
        #expect(bench.ca.revoked.map(\.certificate) == [first.leaf.derBytes, second.leaf.derBytes])
        #expect(bench.ca.revoked.map(\.reason) == [reason.rawValue, reason.rawValue])
        _ = try bench.operate(.revoke(first.leaf, reason: reason)).get()
        #expect(bench.ca.revoked.count == 2)
        #expect(first.key.publicKeyPin != second.key.publicKeyPin)
    }

    @Test("a rate limit keeps nobody from revoking or deactivating, and stays")
    func rateLimitAndRevocation() throws {
        var bench = try Workbench()
        let first = try #require(try bench.issue().certificate).generation
        let second = try #require(try bench.issue().certificate).generation
        let retryAt = bench.now.date.adding(seconds: 7200)
        bench.account.retryAt = retryAt
        _ = try bench.operate(.revoke(first.leaf, reason: .keyCompromise)).get()
        _ = try bench.operate(.revokeByKey(second.leaf, key: second.key, reason: .keyCompromise)).get()
        #expect(bench.ca.revoked.count == 2)
        #expect(bench.account.retryAt == retryAt)
        #expect(try bench.operate(.rollover(to: try .generate())).failure?.code == .rateLimited)
        #expect(try bench.operate(.deactivate).get().1?.status == .deactivated)
        #expect(bench.account.retryAt == retryAt)
    }

    // Method: the CA changes the key, and a proxy replaces its reply.
    @Test("a refusal that is no problem document leaves both keys of a rollover, and the next start finds the one that works")
    func rolloverBehindProxy() throws {
        var bench = try Workbench()
        _ = try bench.operate(.register).get()
        bench.ca.intercept = { route, _, _ in
            route == .keyChange ? .response(HTTPResponse(status: 403, body: Array("<html>".utf8))) : nil
        }
        let new = try PrivateKey.generate()
        #expect(try bench.operate(.rollover(to: new)).failure != nil)
        #expect(bench.account.pendingKey?.publicKeyPin == new.publicKeyPin)
        bench.ca.accounts[0].jwk = try JSONWebKey(new).members
        #expect(try bench.issue().certificate != nil)
        #expect(bench.account.key.publicKeyPin == new.publicKeyPin)
    }
}

extension Result {
    var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}

extension Result where Success == (AccountRecord, ACMEAccount?), Failure == ACMEError {
    /// An update of nobody's contacts fails; after a registration it does not.
    func failureOrRegistered(_ bench: inout Workbench) throws -> Success {
        #expect(failure?.code == .accountMissing)
        _ = try bench.operate(.register).get()
        return try bench.operate(.updateContacts(["mailto:other@example.test"])).get()
    }
}
