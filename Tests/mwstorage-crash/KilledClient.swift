import Glibc
import MWStorage
import Synchronization

/// Writes for ever under a session, as a client does that was cut off and sends again what it has no answer to: `session N`
/// when it had to open one, `ready`, then `once SEQUENCE REVISION first|repeated` for each answer.
///
/// Write N puts this process' number under the key once/N, so that one that is done twice shows in value and revision.
enum KilledClient {
    /// So many may be without an answer: what a kill catches.
    private static let window: UInt64 = 48
    private static let burst: UInt64 = 3
    /// So many answers of those that came last may have been lost on the way to whoever reads them.
    private static let unacknowledged: UInt64 = 8
    private static let principal = "crash"
    private static let sessionToken = UInt64.max

    /// - Parameter words: ENGINE DIRECTORY SESSION|- FIRST NUMBER SYNC|OS
    static func run(_ factory: StorageEngineFactory, _ words: [String]) throws {
        guard words.count == 5, let first = UInt64(words[2]), let durability = Durability(rawValue: words[4]) else { exit(64) }
        var options = StorageOptions(durability: durability)
        options.engine.writeBufferBytes = 64 << 10
        let storage = try Storage.open(directory: words[0], engine: factory, options: options)
        let state = Answers(acknowledged: first - 1)
        let submitter = storage.makeSubmitter { outcomes in
            for outcome in outcomes { state.take(outcome) }
        }
        if let number = UInt128(words[1]) {
            state.session.withLock { $0 = SessionID(number) }
        } else {
            try submitter.openSession(token: sessionToken, principal: principal)
            submitter.flush()
        }
        report("ready")
        var next = first
        while true {
            guard let session = state.session.withLock({ $0 }), next < state.acknowledged + window else {
                yieldProcessor()
                continue
            }
            for _ in 0..<burst {
                let acknowledged = max(first - 1, state.acknowledged - min(state.acknowledged, unacknowledged))
                let write = WriteIdentifier(session: session, sequence: next, acknowledged: acknowledged)
                try submitter.submit(token: next, writeID: write, principal: principal) { (batch) throws(StorageError) in
                    try batch.put(Array("once/\(next)".utf8), Array(words[3].utf8))
                }
                next += 1
            }
            submitter.flush()
        }
    }

    private final class Answers: Sendable {
        let session = Mutex<SessionID?>(nil)
        private let last: Atomic<UInt64>

        init(acknowledged: UInt64) { last = Atomic(acknowledged) }

        /// Answers come in order.
        var acknowledged: UInt64 { last.load(ordering: .acquiring) }

        func take(_ outcome: CommitOutcome) {
            switch outcome.result {
            case .written(let written):
                report("once \(outcome.token) \(written.revision) \(written.isRepeated ? "repeated" : "first")")
                last.store(outcome.token, ordering: .releasing)
            case .session(let grant):
                report("session \(grant.session.number)")
                session.withLock { $0 = grant.session }
            default: report("failed \(outcome.result)")
            }
        }
    }
}
