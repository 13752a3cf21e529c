import ACMEPeers
import MWACME
import MWPKI
import Testing

/// Cases 1 to 6 and 9 of ACME, against pebble.
@Suite("ACME accounts at pebble")
struct PebbleAccountCases {
    // Method: an account record that knows nothing but its key registers ten times; the CA's own log counts the accounts.
    @Test(
        "case 1 account_create_and_reuse: ten starts with one key are one account",
        arguments: [KeyAlgorithm.ec(.p256), .ec(.p384), .rsa(bits: 2048)])
    func createAndReuse(_ kind: KeyAlgorithm) async throws {
        let pebble = try await Pebble.start { $0.isStrict = true }
        var bench = try PeerBench(pebble, ["one.test"])
        let key = try PrivateKey.generate(kind)
        bench.plan.contacts = ["mailto:admin@example.test"]
        var urls: Set<String?> = []
        for _ in 0..<10 {
            bench.account = AccountRecord(directoryURL: pebble.directoryURL, key: key)
            let account = try await bench.operate(.register).get()
            #expect(account?.status == .valid)
            urls.insert(bench.account.url)
        }
        #expect(urls.count == 1)
        #expect(pebble.accountCount == 1)
        #expect(try await bench.operate(.find).get()?.contacts == ["mailto:admin@example.test"])
        bench.plan.contacts = ["mailto:other@example.test"]
        #expect(try await bench.operate(.updateContacts(bench.plan.contacts)).get()?.contacts == bench.plan.contacts)
    }

    @Test("case 2 account_only_existing_missing: the CA's type is what is told, and no account is made")
    func onlyExistingMissing() async throws {
        let pebble = try await Pebble.start()
        var bench = try PeerBench(pebble, ["two.test"])
        let error = try #require(try await bench.operate(.find).failure)
        #expect(error.code == .accountMissing)
        #expect(error.problem?.kind == .accountDoesNotExist)
        #expect(pebble.accountCount == 0)
    }

    static let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

    // Method: one pebble that wants bindings; a good one, none, and one with another key. What is sent is counted.
    @Test("case 3 eab_required: bound with the right key; without one refused before any POST; a wrong one is final")
    func externalAccount() async throws {
        let pebble = try await Pebble.start { $0.externalAccountKeys = ["kid-1": Self.mac] }
        var bench = try PeerBench(pebble, ["three.test"])
        bench.plan.externalAccountBinding = .init(keyIdentifier: "kid-1", macKeyText: Self.mac)
        #expect(try await bench.issue().certificate != nil)

        bench = try PeerBench(pebble, ["three.test"])
        let missing = try #require(try await bench.operate(.register).failure)
        #expect(missing.code == .externalAccountRequired)
        #expect(bench.requests.allSatisfy { $0.method == .get })

        bench = try PeerBench(pebble, ["three.test"])
        bench.plan.externalAccountBinding = .init(keyIdentifier: "kid-1", macKeyText: "d3JvbmctLXdyb25nLS13cm9uZy0td3Jvbmc")
        let wrong = try #require(try await bench.issue().error)
        #expect(wrong.disposition == .permanent)
        #expect(wrong.problem != nil)
        #expect(bench.requests.count { $0.method == .post } == 1)
        #expect(pebble.accountCount == 1)
    }

    // Method: the key is changed; then each key tries to order, the old one on a copy of the record before the change.
    @Test(
        "case 5 key_rollover: the old key is refused afterwards, the new one works", arguments: [KeyAlgorithm.ec(.p384), .rsa(bits: 2048)])
    func rollover(_ kind: KeyAlgorithm) async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["rollover.test"])
        _ = try await bench.operate(.register).get()
        var old = bench
        let new = try PrivateKey.generate(kind)
        _ = try await bench.operate(.rollover(to: new)).get()
        #expect(bench.account.key.publicKeyPin == new.publicKeyPin)
        #expect(bench.account.pendingKey == nil)
        #expect(try await bench.issue().certificate != nil)
        #expect(try await old.issue().error != nil)
    }

    // Method: the record as it is on disk when the process dies between the POST and the rename: the pending key in it, and the CA
    // knows either that one or the old one.
    @Test("case 5 key_rollover: after a crash in between, the key that the CA knows is found", arguments: [false, true])
    func rolloverInterrupted(_ wasAccepted: Bool) async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["interrupted-\(wasAccepted).test"])
        _ = try await bench.operate(.register).get()
        var before = bench.account
        let new = try PrivateKey.generate(.ec(.p256))
        before.pendingKey = new
        if wasAccepted { _ = try await bench.operate(.rollover(to: new)).get() }
        bench.account = before
        #expect(try await bench.issue().certificate != nil)
        #expect(bench.account.pendingKey == nil)
        #expect((bench.account.key.publicKeyPin == new.publicKeyPin) == wasAccepted)
    }

    @Test("case 6 account_deactivate: later orders are refused, and it is told why")
    func deactivate() async throws {
        let pebble = try await Pebble.shared()
        var bench = try PeerBench(pebble, ["six.test"])
        _ = try await bench.operate(.register).get()
        #expect(try await bench.operate(.deactivate).get()?.status == .deactivated)
        let error = try #require(try await bench.issue().error)
        #expect(error.code == .accountRefused)
        #expect(error.disposition == .permanent)
        #expect(error.problem?.kind == .unauthorized)
    }

    // Method: pebble is started anew on the same port; it keeps nothing. The requests show one registration and one order.
    @Test("case 9 ca_forgot_account: registered again once, then ordered")
    func forgotten() async throws {
        let pebble = try await Pebble.start()
        var bench = try PeerBench(pebble, ["nine.test"])
        #expect(try await bench.issue().certificate != nil)
        let url = bench.account.url
        try await pebble.restart()
        let before = bench.requests.count
        #expect(try await bench.issue().certificate != nil)
        #expect(bench.account.url != url)
        #expect(bench.requests.dropFirst(before).count { $0.url.hasSuffix("/sign-me-up") } == 1)
        #expect(pebble.accountCount == 2)
        #expect(pebble.orderCount == 2)
    }
}

extension Result {
    var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}
