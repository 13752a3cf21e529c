import FakeCA
import Glibc
import MWACME
import MWCertificateManager
import MWPKI

/// Issues a certificate with a CA at the other end of standard input and output (`PipedExchange`), and kills itself at a step.
///
///     mwstorage-crash issue DIRECTORY OPERATION STEP before|after NAME…       OPERATION: obtain, rollover; STEP 0: never
///
/// Says `finished NUMBER`, `account done`, or `failed CODE` when it was not killed. Its umask is 0, so that modes are its own.
enum KilledIssuer {
    static func run(_ words: [String]) async throws {
        guard words.count > 4, let step = Int(words[2]) else { exit(64) }
        umask(0)
        let isAfter = words[3] == "after"
        let driver = ACMEDriver(
            directory: StateDirectory(path: words[0]), transfer: PipedTransfer(), presenter: Nowhere(),
            observer: { progress in
                if progress.number == step, progress.isDone == isAfter { kill(getpid(), SIGKILL) }
            })
        var plan = IssuancePlan(
            directoryURL: "\(FakeCA.base)/directory", identifiers: words[4...].compactMap { Identifier($0) })
        plan.termsOfServiceAgreed = true
        let operations = ACMEOperations(driver: driver)
        do throws(ACMEError) {
            if words[1] == "rollover" {
                _ = try await operations.rollover(plan, to: .ec(.p384))
                return report("account done")
            }
            let configuration = CertificateManagerConfiguration(plans: [plan], stateDirectory: driver.directory)
            switch try await operations.obtain(configuration, .ifDue) {
            case .issued(let current, _), .obtainedByAnother(let current), .notDue(let current, _, _): report("finished \(current.number)")
            }
        } catch {
            report("failed \(error.code)")
        }
    }

    /// The CA that plays along validates anything.
    private struct Nowhere: ChallengePresenter {
        func present(_ answer: ChallengeAnswer) async throws {}
        func remove(_ answer: ChallengeAnswer) async {}
    }

    private struct PipedTransfer: ACMETransfer {
        func send(_ request: HTTPRequest, timeout: Duration) async throws(TransferFailure) -> HTTPResponse {
            report(PipedExchange.line(request))
            guard let line = readLine() else { throw .connect("nobody there") }
            return try PipedExchange.response(line).get()
        }
    }
}
