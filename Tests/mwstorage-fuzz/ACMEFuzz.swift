import MWACME
import MWPKI

/// What a CA sends, and what a state file holds: whatever it is, an operation ends, with a result or an error.
enum ACMEFuzz {
    private static let key: PrivateKey = {
        do { return try .generate() } catch { preconditionFailure("no key: \(error)") }
    }()
    private static let now = Moment(date: Timestamp(secondsSince1970: 1_800_000_000), uptime: .seconds(1000))
    private static let statuses = [200, 201, 204, 301, 400, 403, 404, 409, 429, 500, 503]
    /// More than any order within the limits below needs.
    private static let maximumSteps = 2000

    static func run(_ input: [UInt8]) {
        checkState(input)
        checkText(String(decoding: input.prefix(200), as: UTF8.self))
        issue(input)
        operate(input)
        ask(input)
    }

    // MARK: - State files

    private static func checkState(_ input: [UInt8]) {
        check(AccountRecord.self, input)
        check(OrderInFlight.self, input)
        check(CertificateGeneration.self, input)
        check(AttemptRecord.self, input)
    }

    /// As it is, and as the contents of a file that is whole; what is read is written as it reads again.
    private static func check<Record: ACMERecord>(_ type: Record.Type, _ input: [UInt8]) {
        _ = try? Record(decoding: input, source: "fuzz")
        let head = "\(StateFile.magic) \(Record.kind) \(StateFile.version) \(Hex.encode(OpenSSL.sha256(input))) \(input.count)\n"
        guard let record = try? Record(decoding: Array(head.utf8) + input, source: "fuzz"), let once = try? record.encoded() else { return }
        let again = try? Record(decoding: once, source: "fuzz").encoded()
        precondition(again == once, "a record does not survive writing and reading")
    }

    private static func checkText(_ text: String) {
        let response = HTTPResponse(status: 200, headers: [.init("Retry-After", text), .init("Link", text)])
        let latest = now.date.adding(seconds: HTTPResponse.maximumRetryAfterSeconds)
        if let retryAt = response.retryAfter(at: now.date) { precondition(retryAt <= latest, "a Retry-After beyond all bounds") }
        for link in response.links(relation: "alternate") { _ = WebAddress.resolve(link, against: "https://ca.test/a") }
        if let identifier = Identifier(text) {
            precondition(Identifier(identifier.value) == identifier, "a name does not survive writing and reading")
        }
    }

    // MARK: - Replies

    /// The input in pieces at zero bytes: the first byte of each is the status, the second whether a nonce and a Location come along.
    private struct Replies {
        var pieces: ArraySlice<ArraySlice<UInt8>>

        init(_ input: [UInt8]) { pieces = input.split(separator: 0, omittingEmptySubsequences: false)[...] }

        mutating func next() -> Result<HTTPResponse, TransferFailure> {
            guard let piece = pieces.popFirst(), let first = piece.first else { return .failure(.timeout) }
            var response = HTTPResponse(status: statuses[Int(first) % statuses.count], body: Array(piece.dropFirst(2)))
            let extras = piece.dropFirst().first ?? 0
            if extras & 1 == 0 { response.headers.append(.init("Replay-Nonce", "nonce")) }
            if extras & 2 == 0 { response.headers.append(.init("Location", "https://ca.test/there")) }
            if extras & 4 != 0 { response.headers.append(.init("Retry-After", "\(extras)")) }
            if extras & 8 != 0 { response.headers.append(.init("Link", "<https://ca.test/other>;rel=alternate")) }
            return .success(response)
        }
    }

    private static var plan: IssuancePlan {
        var plan = IssuancePlan(directoryURL: "https://ca.test/directory", identifiers: [.dns("a.test"), .dns("*.a.test")])
        plan.termsOfServiceAgreed = true
        plan.limits.maximumFailures = 1
        plan.limits.maximumRejectedNonces = 2
        plan.limits.totalTimeout = .seconds(300)
        return plan
    }

    private static func issue(_ input: [UInt8]) {
        var replies = Replies(input)
        var account = AccountRecord(directoryURL: plan.directoryURL, key: key)
        if input.count % 2 == 1 { account.url = "https://ca.test/account" }
        guard
            var machine = try? IssuanceStateMachine(
                plan: plan, account: account, saved: nil, at: now, seed: 1, certificateKey: { key })
        else { return }
        var now = now
        var action = machine.start(at: now)
        var presented: Set<ChallengeAnswer> = []
        for _ in 0..<maximumSteps {
            switch action {
            case .finished, .failed:
                precondition(presented.isEmpty, "an answer is left behind")
                return
            case .send:
                switch replies.next() {
                case .success(let response): action = machine.responseReceived(response, at: now)
                case .failure(let failure): action = machine.transferFailed(failure, at: now)
                }
            case .wait(let pause):
                precondition(pause >= .zero)
                now = now.advanced(by: pause)
                action = machine.timerFired(at: now)
            case .present(let answer):
                precondition(!answer.token.contains("/") && !answer.token.contains("."), "a token that is a path")
                presented.insert(answer)
                action = machine.challengePresented(at: now)
            case .cleanUp(let answer):
                presented.remove(answer)
                action = machine.challengeCleanedUp(at: now)
            case .save: action = machine.stateSaved(at: now)
            }
        }
        preconditionFailure("an order without end")
    }

    private static func operate(_ input: [UInt8]) {
        var record = AccountRecord(directoryURL: plan.directoryURL, key: key)
        if input.count % 3 == 1 { record.pendingKey = key }
        let operations: [AccountStateMachine.Operation] = [.register, .find, .updateContacts([]), .rollover(to: key), .deactivate]
        for operation in operations {
            var replies = Replies(input)
            var machine = AccountStateMachine(operation, plan: plan, record: record, seed: 1)
            var action = machine.start(at: now)
            steps: for step in 0... {
                precondition(step < maximumSteps, "an operation without end")
                switch action {
                case .finished, .failed: break steps
                case .wait: action = machine.timerFired(at: now)
                case .save: action = machine.stateSaved(at: now)
                case .send:
                    switch replies.next() {
                    case .success(let response): action = machine.responseReceived(response, at: now)
                    case .failure(let failure): action = machine.transferFailed(failure, at: now)
                    }
                }
            }
        }
    }

    private static func ask(_ input: [UInt8]) {
        guard let id = CertificateID(authorityKeyIdentifier: [1], serialNumber: [1]) else { return }
        var replies = Replies(input)
        var machine = RenewalInfoStateMachine(plan: plan, directoryURL: plan.directoryURL, certificateID: id, seed: 1)
        var action = machine.start(at: now)
        for _ in 0..<maximumSteps {
            switch action {
            case .finished(let outcome):
                if case .window(let window, _) = outcome { precondition(window.end > window.start, "a window that ends before it begins") }
                return
            case .wait: action = machine.timerFired(at: now)
            case .send:
                switch replies.next() {
                case .success(let response): action = machine.responseReceived(response, at: now)
                case .failure(let failure): action = machine.transferFailed(failure, at: now)
                }
            }
        }
        preconditionFailure("a question without end")
    }
}
