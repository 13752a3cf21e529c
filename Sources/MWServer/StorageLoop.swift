internal import MWProtocol
package import MWStorage
package import NIOCore

/// Who handed a request to storage, and is told what became of it.
protocol PendingRequestOwner: AnyObject {
    func requestEnded(_ request: PendingRequest, _ result: CommitOutcome.Result)
}

/// A request on its way through storage: whom to tell.
struct PendingRequest {
    /// What it is in the protocol of its connection.
    enum Kind {
        case mwdb(MWDBReplyType)
        case native(NativeRequestKind)
    }

    let owner: any PendingRequestOwner
    let session: SessionHandler
    let kind: Kind
    let id: RequestID

    init(_ owner: any PendingRequestOwner, _ session: SessionHandler, _ kind: Kind, _ id: RequestID) {
        self.owner = owner
        self.session = session
        self.kind = kind
        self.id = id
    }
}

/// The sessions of one event loop and their way into storage and back.
///
///     put, put, …  ─▶ submitter ── one flush when everything ready on the loop has run ─▶ commit thread
///     replies      ◀─ one turn of the loop for all outcomes of a commit ◀───────────────────────┘
package final class StorageLoop: SessionFactory {
    package let loop: SessionLoop
    package let storage: Storage
    private let submitter: Submitter
    private var pending: [PendingRequest?] = []
    private var freeSlots: [Int] = []
    private var congested: [SessionHandler] = []
    private let reloads: ReloadBroadcaster?
    /// What this loop's native clients watch; nil on a server without watches.
    let watches: WatchLoop?
    private let administration: (any AdministrationService)?
    private var whenEnded: () -> Void

    /// - Parameters:
    ///   - submitter: Its `deliver` must bring outcomes to ``outcomesDelivered(_:)`` on `loop`.
    ///   - reloads: Counts the sessions that want to hear of changes.
    ///   - watches: What native clients watch.
    ///   - administration: What is done for administrators.
    ///   - whenEnded: Called once, when nothing will be brought here any more.
    package init(
        on loop: SessionLoop, storage: Storage, submitter: Submitter, reloads: ReloadBroadcaster? = nil, watches: WatchLoop? = nil,
        administration: (any AdministrationService)? = nil, whenEnded: @escaping () -> Void = {}
    ) {
        self.loop = loop
        self.storage = storage
        self.submitter = submitter
        self.reloads = reloads
        self.watches = watches
        self.administration = administration
        self.whenEnded = whenEnded
    }

    package func loopEnded() {
        self.whenEnded()
        self.whenEnded = {}
        self.watches?.loopEnded()
    }

    package func makeDelegate(for info: SessionInfo) -> any SessionDelegate {
        guard info.subprotocol == nil else { return NativeSession(administration: self.administration, storage: self) }
        self.reloads?.sessionOpened()
        return MWDBSession(on: self)
    }

    func sessionEnded() { self.reloads?.sessionEnded() }

    // MARK: Requests

    func submit(_ request: PendingRequest, _ body: (inout WriteBatch) throws(StorageError) -> Void) throws(StorageError) {
        try self.submit(request) { (submitter, token) throws(StorageError) in try submitter.submit(token: token, body) }
    }

    func allocatePrefix(_ request: PendingRequest) throws(StorageError) {
        try self.submit(request) { (submitter, token) throws(StorageError) in try submitter.allocatePrefix(token: token) }
    }

    /// Hands over what `body` submits with the token that it is given; `request` is told of the outcome, unless this throws.
    @inline(__always)
    func submit(_ request: PendingRequest, _ body: (Submitter, UInt64) throws(StorageError) -> Void) throws(StorageError) {
        let slot = self.takeSlot()
        do throws(StorageError) {
            try body(self.submitter, UInt64(slot))
        } catch {
            self.freeSlots.append(slot)
            throw error
        }
        self.pending[slot] = request
        self.loop.scheduleTurnEnd()
    }

    private func takeSlot() -> Int {
        if let slot = self.freeSlots.popLast() { return slot }
        self.pending.append(nil)
        return self.pending.count - 1
    }

    package func turnEnded() { self.submitter.flush() }

    // MARK: Outcomes

    /// What became of the requests of this loop in one commit.
    package func outcomesDelivered(_ outcomes: [CommitOutcome]) {
        self.loop.counters.commitBatches &+= 1
        self.loop.counters.commitBatchRequests &+= UInt64(outcomes.count)
        self.loop.turn {
            for outcome in outcomes {
                let slot = Int(truncatingIfNeeded: outcome.token)
                guard let request = self.pending[slot] else { preconditionFailure("storage answers a request once") }
                self.pending[slot] = nil
                self.freeSlots.append(slot)
                request.owner.requestEnded(request, outcome.result)
            }
            self.releaseIfUncongested()
        }
    }

    // MARK: Congestion

    /// Whether the disk is behind the network.
    var isCongested: Bool { self.submitter.isCongested }

    /// Reads nothing more from this client until the disk has caught up.
    func holdUntilUncongested(_ session: SessionHandler) {
        session.hold(.congestion)
        self.congested.append(session)
    }

    private func releaseIfUncongested() {
        guard !self.congested.isEmpty, !self.isCongested else { return }
        let sessions = self.congested
        self.congested = []
        for session in sessions {
            session.release(.congestion)
            // There may be the rest of a message.
            if session.isOpen { session.delegate.mayGoOn(in: session) }
        }
    }

    /// Another loop's requests may be what was in the way: nothing tells this one when they are gone.
    package func ticked(_ now: NIODeadline) {
        self.releaseIfUncongested()
        // First what was brought: the connections say how far they have come.
        self.watches?.ticked(now)
        for session in self.loop.sessions { (session.delegate as? NativeSession)?.ticked(now, in: session) }
    }

    // MARK: FORCE_RELOAD

    /// Tells every client of this loop what others put.
    package func reloadsCommitted(_ batch: ReloadBatch) {
        var own: [ObjectIdentifier: [Int]] = [:]
        for (index, request) in batch.requests.enumerated() where request.origin.submitter == self.submitter.identifier {
            // The commit is announced before its outcomes: the request is still here.
            guard let pending = self.pending[Int(truncatingIfNeeded: request.origin.token)] else { continue }
            own[ObjectIdentifier(pending.session), default: []].append(index)
        }
        // Worked out once for each rule of the policy, not for each session.
        var visible: [ObjectIdentifier: ReloadBatch] = [:]
        self.loop.turn {
            for session in self.loop.sessions {
                guard let client = session.delegate as? MWDBSession else { continue }
                let grants = session.info.principal.grants
                var seen = batch
                if grants.everywhere.isDisjoint(with: [.read, .watch]) {
                    seen = visible[ObjectIdentifier(grants)] ?? batch.visible(to: grants)
                    visible[ObjectIdentifier(grants)] = seen
                }
                client.reload(seen, without: own.isEmpty ? [] : own[ObjectIdentifier(session)] ?? [], in: session)
            }
        }
    }
}
