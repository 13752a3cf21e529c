import ACMEPeers
import FakeCA
import MWACME
import MWPKI

@testable import mwstorage

/// The core of ACME with real requests: the machines over libcurl to a CA, challenges in the CA's own DNS, records in memory.
///
/// What the manager adds (files, the lock, the schedule, http-01) has tests of its own.
struct PeerBench {
    enum Outcome {
        case issued(IssuedCertificate)
        case failed(ACMEError, keepsOrder: Bool)

        var certificate: IssuedCertificate? { if case .issued(let certificate) = self { certificate } else { nil } }
        var error: ACMEError? { if case .failed(let error, _) = self { error } else { nil } }
    }

    var plan: IssuancePlan
    var account: AccountRecord
    var savedOrder: OrderInFlight?
    var seed: UInt64 = 1
    /// Requests that may take a minute, whatever the plan says.
    var hasTime: @Sendable (HTTPRequest) -> Bool = { _ in false }
    private let transfer: any ACMETransfer
    private let presenter: Presenter
    private(set) var presented: [ChallengeAnswer] = []
    private(set) var removed: [ChallengeAnswer] = []
    private(set) var requests: [HTTPRequest] = []
    private(set) var rejectedNonces = 0
    private(set) var waits: [Duration] = []

    /// Where answers are put for the CA to see.
    struct Presenter: Sendable {
        var type: ChallengeType
        var present: @Sendable (ChallengeAnswer) throws -> Void
        var remove: @Sendable (ChallengeAnswer) throws -> Void
    }

    init(_ pebble: Pebble, _ names: [String]) throws {
        let dns = pebble.dns
        try self.init(
            directoryURL: pebble.directoryURL, trustFile: pebble.trustFile,
            Presenter(type: .dns01) {
                try dns.setText($0.dnsRecordValue, of: $0.dnsRecordName)
            } remove: {
                try dns.clearText(of: $0.dnsRecordName)
            }, names)
    }

    init(_ ca: FakeHTTPSCA, _ names: [String] = ["www.example.test"]) throws {
        try self.init(
            directoryURL: ca.directoryURL, trustFile: ca.trustFile,
            Presenter(type: .http01) { answer in
                ca.with { _ = $0.world.insert(answer) }
            } remove: { answer in
                ca.with { _ = $0.world.remove(answer) }
            }, names)
    }

    init(
        directoryURL: String, trustFile: String, _ presenter: Presenter, _ names: [String]
    ) throws {
        plan = IssuancePlan(directoryURL: directoryURL, identifiers: names.compactMap { Identifier($0) })
        plan.termsOfServiceAgreed = true
        plan.challengePreference = [presenter.type]
        // Real time: what is tested is that it is repeated, not how long a CA is left in peace.
        plan.limits.firstBackoff = .milliseconds(2)
        plan.limits.maximumBackoff = .milliseconds(20)
        account = AccountRecord(directoryURL: directoryURL, key: try .generate())
        transfer = try Self.transfer(trustFile: trustFile)
        self.presenter = presenter
    }
}

extension PeerBench {
    /// As the commands have it.
    static func transfer(trustFile: String) throws -> any ACMETransfer { try CurlTransfer(caFiles: [trustFile]) }

    private static let clock = ContinuousClock()
    private static let started = clock.now
    private static func now() -> Moment { Moment(date: .now(), uptime: clock.now - started) }

    mutating func issue() async throws -> Outcome {
        let kind = plan.keyAlgorithm
        var machine = try IssuanceStateMachine(plan: plan, account: account, saved: savedOrder, at: Self.now(), seed: seed) {
            try PrivateKey.generate(kind)
        }
        var action = machine.start(at: Self.now())
        while true {
            switch action {
            case .send(let request, let timeout):
                switch await send(request, timeout) {
                case .success(let response): action = machine.responseReceived(response, at: Self.now())
                case .failure(let failure): action = machine.transferFailed(failure, at: Self.now())
                }
            case .wait(let pause):
                waits.append(pause)
                try await Task.sleep(for: pause)
                action = machine.timerFired(at: Self.now())
            case .present(let answer):
                presented.append(answer)
                try presenter.present(answer)
                action = machine.challengePresented(at: Self.now())
            case .cleanUp(let answer):
                try presenter.remove(answer)
                removed.append(answer)
                action = machine.challengeCleanedUp(at: Self.now())
            case .save(let state):
                switch state {
                case .account(let record): account = try AccountRecord(decoding: try record.encoded(), source: "account")
                case .order(let record): savedOrder = try OrderInFlight(decoding: try record.encoded(), source: "order")
                }
                action = machine.stateSaved(at: Self.now())
            case .finished(let issued):
                account = issued.account
                savedOrder = nil
                return .issued(issued)
            case .failed(let error, let keepsOrder):
                if !keepsOrder { savedOrder = nil }
                return .failed(error, keepsOrder: keepsOrder)
            }
        }
    }

    mutating func operate(_ operation: AccountStateMachine.Operation) async throws -> Result<ACMEAccount?, ACMEError> {
        var machine = AccountStateMachine(operation, plan: plan, record: account, seed: seed)
        var action = machine.start(at: Self.now())
        while true {
            switch action {
            case .send(let request, let timeout):
                switch await send(request, timeout) {
                case .success(let response): action = machine.responseReceived(response, at: Self.now())
                case .failure(let failure): action = machine.transferFailed(failure, at: Self.now())
                }
            case .wait(let pause):
                try await Task.sleep(for: pause)
                action = machine.timerFired(at: Self.now())
            case .save(let record):
                account = try AccountRecord(decoding: try record.encoded(), source: "account")
                action = machine.stateSaved(at: Self.now())
            case .finished(let record, let seen):
                account = record
                return .success(seen)
            case .failed(let error): return .failure(error)
            }
        }
    }

    private mutating func send(_ request: HTTPRequest, _ timeout: Duration) async -> Result<HTTPResponse, TransferFailure> {
        requests.append(request)
        do throws(TransferFailure) {
            let response = try await transfer.send(request, timeout: hasTime(request) ? .seconds(60) : timeout)
            if response.status == 400, String(decoding: response.body, as: UTF8.self).contains("error:badNonce") { rejectedNonces += 1 }
            return .success(response)
        } catch {
            return .failure(error)
        }
    }
}
