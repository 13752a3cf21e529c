package import MWACME
package import MWPKI
internal import NIOPosix

/// Does what the machines of MWACME say: sends, waits, presents and saves. Holds no rules of its own.
///
/// Whoever calls holds the `StateLock`. A cancelled task ends an operation at its next step: what was presented is removed, and
/// the order is kept for the next time.
package struct ACMEDriver: Sendable {
    package var directory: StateDirectory
    package var transfer: any ACMETransfer
    package var presenter: any ChallengePresenter
    package var clock: any ManagerClock
    package var observer: Progress.Observer
    /// For jitter and for choices where nothing has to be secret.
    package var seed: @Sendable () -> UInt64

    package init(
        directory: StateDirectory, transfer: any ACMETransfer, presenter: any ChallengePresenter = ChallengePresenters([:]),
        clock: any ManagerClock = SystemClock(), observer: @escaping Progress.Observer = { _ in },
        seed: @escaping @Sendable () -> UInt64 = { .random(in: .min ... .max) }
    ) {
        self.directory = directory
        self.transfer = transfer
        self.presenter = presenter
        self.clock = clock
        self.observer = observer
        self.seed = seed
    }

    /// What an issuance brought.
    package struct Issued: Sendable {
        package let current: StateDirectory.Numbered
        package let warnings: [String]
    }

    // MARK: - A certificate

    /// Orders a certificate, or finishes the order that is saved for this plan, and makes it the current generation.
    ///
    /// Throws `ACMEError`; then the generation in use is as it was, but for `replacesRefused`.
    package func issue(_ plan: IssuancePlan, accountAlgorithm: KeyAlgorithm = .ec(.p256)) async throws(ACMEError) -> Issued {
        var steps = StepCounter(observer: observer)
        try await steps.run(.proveWritable) { () async throws(ACMEError) in try await onDisk { try $0.proveWritable() } }
        let contents = try await onDisk { try $0.load() }
        let (account, accountWarnings) = try await account(for: plan, algorithm: accountAlgorithm)
        let (saved, orderWarnings) = try await onDisk { try $0.order(at: plan.directoryURL, finished: contents) }
        let key = try await certificateKey(plan, saved)
        let start = clock.now()
        var machine: IssuanceStateMachine
        do {
            machine = try IssuanceStateMachine(plan: plan, account: account, saved: saved, at: start, seed: seed()) { key }
        } catch {
            throw ACMEError(.ownFailure, subject: plan.directoryURL, "the order cannot be begun", underlying: ["\(error)"])
        }
        var action = machine.start(at: start)
        var isCancelled = false
        while true {
            if !isCancelled, Task.isCancelled, action.canBeCancelled {
                isCancelled = true
                action = machine.cancel(at: clock.now())
            }
            steps.phase = machine.phase
            switch action {
            case .finished(let issued):
                let current = try await keep(issued, plan, &steps)
                return Issued(current: current, warnings: accountWarnings + orderWarnings + contents.warnings + issued.warnings)
            case .failed(let error, let keepsOrder):
                if machine.replacesRefused, !keepsOrder { await rememberRefusal(contents.current, plan) }
                if !keepsOrder {
                    await steps.run(.removeOrder) { await inBackground { directory.removeOrder(at: plan.directoryURL) } }
                }
                throw error
            default: action = await perform(action, &machine, &steps)
            }
        }
    }

    private func perform(
        _ action: IssuanceStateMachine.Action, _ machine: inout IssuanceStateMachine, _ steps: inout StepCounter
    ) async -> IssuanceStateMachine.Action {
        switch action {
        case .send(let request, let timeout):
            switch await send(request, timeout, &steps) {
            case .success(let response): return machine.responseReceived(response, at: clock.now())
            // The next turn sees that the task is cancelled, and what this returns is not performed.
            case .failure(let failure): return machine.transferFailed(failure, at: clock.now())
            }
        case .wait(let duration):
            guard await wait(duration, &steps) else { return machine.cancel(at: clock.now()) }
            return machine.timerFired(at: clock.now())
        case .present(let answer):
            do {
                try await steps.run(.present(answer.identifier, answer.type)) { try await presenter.present(answer) }
            } catch {
                if Task.isCancelled { return machine.cancel(at: clock.now()) }
                return machine.challengeFailed("\(error)", at: clock.now())
            }
            return machine.challengePresented(at: clock.now())
        case .cleanUp(let answer):
            await steps.run(.remove(answer.identifier, answer.type)) {
                // Safety: awaited at once; a task of its own so that a cancelled operation still cleans up.
                await Task { [presenter] in await presenter.remove(answer) }.value
            }
            return machine.challengeCleanedUp(at: clock.now())
        case .save(let state):
            do throws(ACMEError) {
                switch state {
                case .account(let record):
                    try await steps.run(.saveAccount) { () async throws(ACMEError) in try await onDisk { try $0.save(record) } }
                case .order(let record):
                    try await steps.run(.saveOrder) { () async throws(ACMEError) in try await onDisk { try $0.save(record) } }
                }
            } catch {
                return machine.stateNotSaved("\(error)", at: clock.now())
            }
            return machine.stateSaved(at: clock.now())
        case .finished, .failed: preconditionFailure("the end is no step")
        }
    }

    /// The certificate first; only then what belonged to the order may go.
    private func keep(
        _ issued: IssuedCertificate, _ plan: IssuancePlan, _ steps: inout StepCounter
    ) async throws(ACMEError) -> StateDirectory.Numbered {
        let current: StateDirectory.Numbered = try await steps.run(.saveCertificate) { () async throws(ACMEError) in
            try await onDisk { try $0.add(issued.generation) }
        }
        await steps.run(.removeOrder) {
            await inBackground {
                directory.removeOrder(at: plan.directoryURL)
                directory.removeAttempts()
            }
        }
        // Only the end of a rate limit is in it: an account that cannot be saved now is saved the next time.
        await steps.run(.saveAccount) { try? await onDisk { try $0.save(issued.account) } }
        return current
    }

    private func account(
        for plan: IssuancePlan, algorithm: KeyAlgorithm
    ) async throws(ACMEError) -> (record: AccountRecord, warnings: [String]) {
        let (saved, warnings) = try await onDisk { try $0.account(at: plan.directoryURL) }
        if let saved { return (saved, warnings) }
        return (AccountRecord(directoryURL: plan.directoryURL, key: try await generate(algorithm), contacts: plan.contacts), warnings)
    }

    private func certificateKey(_ plan: IssuancePlan, _ saved: OrderInFlight?) async throws(ACMEError) -> PrivateKey {
        if let saved, saved.serves(plan) { return saved.key }
        return try await generate(plan.keyAlgorithm)
    }

    /// RSA takes a second or more.
    package func generate(_ algorithm: KeyAlgorithm) async throws(ACMEError) -> PrivateKey {
        do {
            return try await NIOThreadPool.singleton.runIfActive { try PrivateKey.generate(algorithm) }
        } catch {
            throw ACMEError(.keyUnsupported, subject: "\(algorithm)", "no key can be made", underlying: ["\(error)"])
        }
    }

    /// RFC 9773 §5: `replaces` is not sent again for that certificate.
    private func rememberRefusal(_ current: StateDirectory.Numbered?, _ plan: IssuancePlan) async {
        guard var current, plan.replaces?.certificateID == current.generation.certificateID else { return }
        current.generation.renewal.replacesRefused = true
        let changed = current
        try? await onDisk { try $0.update(changed) }
    }

    // MARK: - An account

    /// One operation on the account at the plan's CA, whose record is saved as it goes.
    package func operate(
        _ operation: AccountStateMachine.Operation, plan: IssuancePlan, accountAlgorithm: KeyAlgorithm = .ec(.p256)
    ) async throws(ACMEError) -> (record: AccountRecord, account: ACMEAccount?) {
        var steps = StepCounter(observer: observer)
        try await steps.run(.proveWritable) { () async throws(ACMEError) in try await onDisk { try $0.proveWritable() } }
        let (record, _) = try await account(for: plan, algorithm: accountAlgorithm)
        var machine = AccountStateMachine(operation, plan: plan, record: record, seed: seed())
        var action = machine.start(at: clock.now())
        while true {
            switch action {
            case .finished(let record, let account): return (record, account)
            case .failed(let error): throw error
            case .save(let record):
                do throws(ACMEError) {
                    try await steps.run(.saveAccount) { () async throws(ACMEError) in try await onDisk { try $0.save(record) } }
                } catch {
                    action = machine.stateNotSaved("\(error)", at: clock.now())
                    continue
                }
                action = machine.stateSaved(at: clock.now())
            case .send(let request, let timeout):
                try stopIfCancelled(plan)
                switch await send(request, timeout, &steps) {
                case .success(let response): action = machine.responseReceived(response, at: clock.now())
                case .failure(let failure):
                    try stopIfCancelled(plan)
                    action = machine.transferFailed(failure, at: clock.now())
                }
            case .wait(let duration):
                guard await wait(duration, &steps) else { throw cancelled(plan) }
                action = machine.timerFired(at: clock.now())
            }
        }
    }

    private func stopIfCancelled(_ plan: IssuancePlan) throws(ACMEError) {
        if Task.isCancelled { throw cancelled(plan) }
    }

    private func cancelled(_ plan: IssuancePlan) -> ACMEError {
        ACMEError(.cancelled, subject: plan.directoryURL, "stopped before it was done", disposition: .retry)
    }

    // MARK: - Renewal information

    /// Asks the CA that issued a certificate when to renew it. A cancelled task is a temporary failure.
    package func renewalInfo(_ id: CertificateID, directoryURL: String, plan: IssuancePlan) async -> RenewalInfoOutcome {
        var steps = StepCounter(observer: observer)
        var machine = RenewalInfoStateMachine(plan: plan, directoryURL: directoryURL, certificateID: id, seed: seed())
        var action = machine.start(at: clock.now())
        while true {
            switch action {
            case .finished(let outcome): return outcome
            case .wait(let duration):
                guard await wait(duration, &steps) else { return .temporaryFailure("stopped") }
                action = machine.timerFired(at: clock.now())
            case .send(let request, let timeout):
                switch await send(request, timeout, &steps) {
                case .success(let response): action = machine.responseReceived(response, at: clock.now())
                case .failure(let failure): action = machine.transferFailed(failure, at: clock.now())
                }
            }
        }
    }

    // MARK: - Steps

    private func send(
        _ request: HTTPRequest, _ timeout: Duration, _ steps: inout StepCounter
    ) async -> Result<HTTPResponse, TransferFailure> {
        await steps.run(.send(request.method, url: request.url)) {
            do throws(TransferFailure) {
                return .success(try await transfer.send(request, timeout: timeout))
            } catch {
                return .failure(error)
            }
        }
    }

    /// False when the task was cancelled meanwhile.
    private func wait(_ duration: Duration, _ steps: inout StepCounter) async -> Bool {
        await steps.run(.wait(duration)) { (try? await clock.sleep(for: duration)) != nil }
    }

    /// Off the threads that tasks share: a sync may take as long as a disk likes.
    func onDisk<Value: Sendable>(_ body: @escaping @Sendable (StateDirectory) throws -> Value) async throws(ACMEError) -> Value {
        let directory = directory
        let result: Result<Value, ACMEError> = await inBackground {
            do {
                return .success(try body(directory))
            } catch {
                return .failure(StateTrouble.error(directory.path, underlying: error))
            }
        }
        return try result.get()
    }

    /// Done also in a task that is cancelled.
    func inBackground<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
        await withCheckedContinuation { continuation in
            NIOThreadPool.singleton.submit { _ in continuation.resume(returning: body()) }
        }
    }
}

extension IssuanceStateMachine.Action {
    /// Not what is over, nor the removal of an answer: that goes on. Nor what has just been earned: an order whose URL is not saved is lost.
    fileprivate var canBeCancelled: Bool {
        switch self {
        case .send, .wait, .present: true
        case .save, .cleanUp, .finished, .failed: false
        }
    }
}

/// Numbers the steps and tells of each before and after it.
private struct StepCounter {
    let observer: Progress.Observer
    var phase: IssuanceStateMachine.Phase?
    private var number = 0

    init(observer: @escaping Progress.Observer) { self.observer = observer }

    mutating func run<Value, Failure: Error>(
        _ step: Progress.Step, _ body: () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        number += 1
        observer(Progress(number: number, step: step, isDone: false, phase: phase))
        let value = try await body()
        observer(Progress(number: number, step: step, isDone: true, phase: phase))
        return value
    }
}
