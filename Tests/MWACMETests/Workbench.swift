import FakeCA
import MWACME
import MWPKI

/// The shell's part of an issuance without any I/O: it does what the machine says, on a clock that only waiting moves.
struct Workbench {
    enum Outcome {
        case issued(IssuedCertificate)
        case failed(ACMEError, keepsOrder: Bool)
        /// Stopped where it was told to.
        case crashed

        var certificate: IssuedCertificate? { if case .issued(let certificate) = self { certificate } else { nil } }
        var error: ACMEError? { if case .failed(let error, _) = self { error } else { nil } }
    }

    var ca: FakeCA
    var plan: IssuancePlan
    var account: AccountRecord
    var savedOrder: OrderInFlight?
    var now = Moment(date: .now(), uptime: .seconds(1000))
    var seed: UInt64 = 1

    var waits: [Duration] = []
    var presented: [ChallengeAnswer] = []
    var steps: [String] = []
    /// Presenting fails for these.
    var unpresentable: Set<ChallengeType> = []
    /// Saving fails from this save on.
    var failingSave: Int?
    /// The power fails at this step, before or after its effect.
    var crash: (step: Int, afterEffect: Bool)?
    var saves = 0

    init(_ names: [String] = ["www.example.test"], seed: UInt64 = 1) throws {
        ca = try FakeCA(seed: seed)
        self.seed = seed
        var plan = IssuancePlan(directoryURL: "\(FakeCA.base)/directory", identifiers: names.compactMap { Identifier($0) })
        plan.termsOfServiceAgreed = true
        plan.contacts = ["mailto:admin@example.test"]
        self.plan = plan
        account = AccountRecord(directoryURL: plan.directoryURL, key: try .generate())
    }

    mutating func issue() throws -> Outcome {
        let kind = plan.keyAlgorithm
        var machine = try IssuanceStateMachine(plan: plan, account: account, saved: savedOrder, at: now, seed: seed) {
            try PrivateKey.generate(kind)
        }
        var action = machine.start(at: now)
        var step = 0
        while true {
            step += 1
            guard step < 20_000 else {
                return .failed(ACMEError(.timedOut, subject: "workbench", "it goes round in circles"), keepsOrder: false)
            }
            let crashesHere = crash?.step == step
            if crashesHere, crash?.afterEffect == false { return .crashed }
            switch action {
            case .send(let request, _):
                steps.append("\(request.method.rawValue) \(request.url.dropFirst(FakeCA.base.count))")
                let result = try ca.answer(request, at: now.date)
                if crashesHere { return .crashed }
                switch result {
                case .success(let response): action = machine.responseReceived(response, at: now)
                case .failure(let failure): action = machine.transferFailed(failure, at: now)
                }
            case .wait(let pause):
                waits.append(pause)
                now = now.advanced(by: pause)
                action = machine.timerFired(at: now)
            case .present(let answer):
                steps.append("present \(answer.identifier) \(answer.type.rawValue)")
                if unpresentable.contains(answer.type) {
                    action = machine.challengeFailed("no way", at: now)
                } else {
                    presented.append(answer)
                    ca.world.insert(answer)
                    if crashesHere { return .crashed }
                    action = machine.challengePresented(at: now)
                }
            case .cleanUp(let answer):
                steps.append("clean up \(answer.identifier)")
                ca.world.remove(answer)
                if crashesHere { return .crashed }
                action = machine.challengeCleanedUp(at: now)
            case .save(let state):
                saves += 1
                if let failingSave, saves >= failingSave {
                    action = machine.stateNotSaved("No space left on device", at: now)
                    continue
                }
                try save(state)
                if crashesHere { return .crashed }
                action = machine.stateSaved(at: now)
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

    /// Through the bytes of the file, as a real one goes.
    private mutating func save(_ state: ACMEState) throws {
        switch state {
        case .account(let record):
            steps.append("save account")
            account = try AccountRecord(decoding: try record.encoded(), source: "account")
        case .order(let record):
            steps.append("save order")
            savedOrder = try OrderInFlight(decoding: try record.encoded(), source: "order")
        }
    }

    mutating func operate(_ operation: AccountStateMachine.Operation) throws -> Result<(AccountRecord, ACMEAccount?), ACMEError> {
        var machine = AccountStateMachine(operation, plan: plan, record: account, seed: seed)
        var action = machine.start(at: now)
        var step = 0
        while true {
            step += 1
            if crash?.step == step, crash?.afterEffect == false { return .failure(ACMEError(.cancelled, subject: "workbench", "crashed")) }
            switch action {
            case .send(let request, _):
                steps.append("\(request.method.rawValue) \(request.url.dropFirst(FakeCA.base.count))")
                let result = try ca.answer(request, at: now.date)
                if crash?.step == step { return .failure(ACMEError(.cancelled, subject: "workbench", "crashed")) }
                switch result {
                case .success(let response): action = machine.responseReceived(response, at: now)
                case .failure(let failure): action = machine.transferFailed(failure, at: now)
                }
            case .wait(let pause):
                now = now.advanced(by: pause)
                action = machine.timerFired(at: now)
            case .save(let record):
                account = try AccountRecord(decoding: try record.encoded(), source: "account")
                if crash?.step == step { return .failure(ACMEError(.cancelled, subject: "workbench", "crashed")) }
                action = machine.stateSaved(at: now)
            case .finished(let record, let seen): return .success((record, seen))
            case .failed(let error): return .failure(error)
            }
        }
    }
}
