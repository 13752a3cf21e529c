package import MWACME
internal import MWPKI

// The programs of an operator. Each is run directly, without a shell, with these arguments:
//
//   dns-01           PROGRAM present NAME VALUE       sets a TXT record VALUE at NAME (`_acme-challenge.example.com.`, the dot at the
//                                                     end is there); returns when the name servers have it. VALUE is 43 characters of
//                                                     base64url, and may begin with `-`. A name and its wildcard need two records of
//                                                     the same NAME at once: add, do not replace.
//                    PROGRAM cleanup NAME VALUE       removes that record, and no other; one that is not there is no error
//   after issuing    PROGRAM issued NUMBER DATE NAME…     the generation's number, the end of its certificate (RFC 3339), its names
//
// Exit status 0 is success. Anything else, a signal, or more time than `timeout` is failure: its process group is killed, and the
// last of what it printed is in the error. Its standard input is empty. It inherits the environment but for what begins with
// `MWSTORAGE_` (that is ours, and may hold secrets), and no open file.

/// A program of the operator, run with a bound on its time.
package struct HookProgram: Sendable, Hashable {
    package let path: String
    /// Until it is killed. Slow name servers take a minute.
    package var timeout: Duration = .seconds(120)

    /// - Parameter path: absolute; arguments are not split from it.
    package init(path: String) { self.path = path }

    /// Throws `PresentingError` when it cannot be started, fails or takes too long. Cancelling the task kills it.
    package func run(_ arguments: [String]) async throws(PresentingError) {
        let child: ChildProcess
        do {
            child = try ChildProcess(path, arguments)
        } catch {
            throw PresentingError("\(path) cannot be run: \(error)")
        }
        let end = await child.wait(timeout: timeout)
        let output = end.output.isEmpty ? "" : "; it said: \(end.output)"
        switch end.cause {
        case .exited(0): return
        case .exited(let status): throw PresentingError("\(path) \(arguments[0]) failed with status \(status)\(output)")
        case .killed(let signal): throw PresentingError("\(path) \(arguments[0]) was ended by signal \(signal)\(output)")
        case .timedOut: throw PresentingError("\(path) \(arguments[0]) took longer than \(timeout) and was killed\(output)")
        case .cancelled: throw PresentingError("\(path) \(arguments[0]) was stopped before it was done")
        }
    }

    func runAfterIssue(of current: StateDirectory.Numbered) async throws(PresentingError) {
        try await run(
            ["issued", "\(current.number)", "\(current.generation.leaf.notAfter)"] + current.generation.identifiers.map(\.value))
    }
}

/// dns-01 by a program that changes the zone.
package struct DNSHookPresenter: ChallengePresenter {
    private let program: HookProgram
    /// Told of records that could not be removed.
    private let report: @Sendable (String) -> Void

    package init(program: HookProgram, report: @escaping @Sendable (String) -> Void = { _ in }) {
        self.program = program
        self.report = report
    }

    package func present(_ answer: ChallengeAnswer) async throws {
        try await program.run(["present", answer.dnsRecordName, answer.dnsRecordValue])
    }

    package func remove(_ answer: ChallengeAnswer) async {
        do throws(PresentingError) {
            try await program.run(["cleanup", answer.dnsRecordName, answer.dnsRecordValue])
        } catch {
            report("the record \(answer.dnsRecordName) may still be there: \(error)")
        }
    }
}
