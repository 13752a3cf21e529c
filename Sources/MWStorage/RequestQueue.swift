/// Requests of one submitter on their way: filled by its owner, then owned by the commit thread, then filled again.
final class RequestQueue: @unchecked Sendable {
    // Safety: it has one owner at a time, and changes hands under the commit queue's lock.
    let submitter: UInt32
    /// What the writes put and remove: keys and values of clients, without what the store adds.
    var batch = WriteBatch()
    private(set) var requests: [Request] = []
    /// How they ended, in their order: filled by the commit thread.
    var outcomes: [CommitOutcome] = []
    var deliverTo: Submitter?
    /// Bytes of requests that are not in the batch.
    private var payloadBytes = 0
    /// All of them can be evaluated while the commit before is being written.
    private(set) var readsOnlyState = true
    /// Some are writes of sessions, or under leases.
    private(set) var hasSessions = false

    init(submitter: UInt32) { self.submitter = submitter }

    /// What the requests take, about.
    var byteCount: Int { batch.byteCount + payloadBytes }

    func append(_ kind: Request.Kind, token: UInt64, payloadBytes: Int = 0) {
        requests.append(Request(token: token, kind: kind, end: batch.mark))
        if !kind.readsOnlyState { readsOnlyState = false }
        if case .guardedWrite = kind { hasSessions = true }
        self.payloadBytes += payloadBytes
    }

    func removeAll() {
        payloadBytes = 0
        readsOnlyState = true
        hasSessions = false
        batch.removeAll()
        requests.removeAll(keepingCapacity: requests.capacity <= StorageLimits.maximumIdleRequests)
        outcomes.removeAll(keepingCapacity: outcomes.capacity <= StorageLimits.maximumIdleRequests)
        deliverTo = nil
    }
}

/// One request in a queue; its operations end at `end` in the queue's batch.
struct Request {
    enum Kind {
        case write
        // In boxes: most requests are plain writes, and stay small.
        indirect case guardedWrite(WriteTerms)
        indirect case transaction(TransactionRequest)
        indirect case allocatePrefix(WriteTerms?)
        case reservePrefixes(below: UInt32)
        indirect case openSession(OpenSessionRequest)
        indirect case resumeSession(SessionRequest)
        indirect case closeSession(SessionRequest)
        indirect case grantLease(GrantLeaseRequest)
        indirect case keepLease(WriteTerms)
        indirect case revokeLease(WriteTerms)
        case compact(Revision)

        /// It asks for no values of keys, but only for which revisions and leases they have, and for outcomes.
        var readsOnlyState: Bool {
            switch self {
            case .write, .guardedWrite: true
            default: false
            }
        }
    }

    let token: UInt64
    let kind: Kind
    let end: WriteBatch.Mark
}

/// Which write it is, whose, and under which lease.
struct WriteTerms {
    var writeID: WriteIdentifier?
    var principal: String
    var lease: LeaseID?
}

struct TransactionRequest {
    let transaction: Transaction
    let terms: WriteTerms
}

struct OpenSessionRequest {
    let principal: String
    let timeToLive: Duration
}

struct SessionRequest {
    let session: SessionID
    let principal: String
}

struct GrantLeaseRequest {
    let timeToLive: Duration
    let terms: WriteTerms
}
