internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

// Writes: handed to storage with those of every other connection of the event loop, and answered when they are on stable storage. Nothing is
// handed on before all of the request has been read and judged.

extension NativeSession {
    func put(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.putRequests &+= 1
        do throws(NativeFailure) {
            let terms = try reading { () throws(ProtocolError) in
                try NativeKeyTerms(ofPut: frame.fields, session.grants, maximumKeys: session.loop.limits.maximumKeysPerRequest)
            }
            try self.admit(terms, .write, .put, in: session)
            let writeID = try terms.writeID?.identifier
            let lease = try terms.lease.map { (number) throws(NativeFailure) in try LeaseID(native: number) }
            // Whose they are; most puts have neither.
            let principal = writeID == nil && lease == nil ? "" : session.info.principal.name
            try self.submit(.put, frame.id, in: session) { (submitter, token) throws(StorageError) in
                try submitter.submit(token: token, writeID: writeID, principal: principal, lease: lease) {
                    (batch) throws(StorageError) in
                    try unsafe Self.forEachField(frame.fields) { (bytes) throws(StorageError) in
                        guard let pair = try? unsafe NativePairBytes(bytes) else { preconditionFailure("it has been read before") }
                        try unsafe batch.put(key: pair.key, value: pair.value)
                    }
                }
            }
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    func remove(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.removeRequests &+= 1
        do throws(NativeFailure) {
            let terms = try reading { () throws(ProtocolError) in
                try NativeKeyTerms(ofRemove: frame.fields, session.grants, maximumKeys: session.loop.limits.maximumKeysPerRequest)
            }
            try self.admit(terms, .write, .remove, in: session)
            let writeID = try terms.writeID?.identifier
            let principal = writeID == nil ? "" : session.info.principal.name
            try self.submit(.remove, frame.id, in: session) { (submitter, token) throws(StorageError) in
                try submitter.submit(token: token, writeID: writeID, principal: principal) { (batch) throws(StorageError) in
                    try unsafe Self.forEachField(frame.fields) { (key) throws(StorageError) in try unsafe batch.remove(key: key) }
                }
            }
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    /// Calls `body` with each field of tag 1, of fields that have been read before.
    @inline(__always)
    private static func forEachField(
        _ fields: NativeFields, _ body: (UnsafeRawBufferPointer) throws(StorageError) -> Void
    ) throws(StorageError) {
        var failure: StorageError?
        do throws(ProtocolError) {
            try unsafe fields.forEach { (tag, bytes) throws(ProtocolError) in
                guard tag == 1, failure == nil else { return }
                do throws(StorageError) { try unsafe body(bytes) } catch { failure = error }
            }
        } catch {
            preconditionFailure("these fields have been read before")
        }
        if let failure { throw failure }
    }

    // MARK: Transactions

    func transaction(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.transactionRequests &+= 1
        do throws(NativeFailure) {
            let limit = session.loop.limits.maximumTransactionOperations
            // Before records are made of them.
            let request = try reading { () throws(ProtocolError) in
                try NativeTransaction.stepCount(frame.fields) <= limit ? try NativeTransaction(frame.fields) : nil
            }
            guard let request else {
                throw NativeFailure(
                    .invalidArgument, "a transaction has at most \(limit) conditions and operations",
                    remedy: "split the transaction")
            }
            let transaction = try Transaction(request)
            let writeID = try self.identifier(request.writeID)
            try self.admit(transaction, in: session)
            let principal = session.info.principal.name
            try self.submit(.transaction, frame.id, in: session) { (submitter, token) throws(StorageError) in
                try submitter.submit(token: token, transaction: transaction, writeID: writeID, principal: principal)
            }
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    /// Whichever branch will run, all of both must be allowed: what is denied must not depend on what is stored.
    private func admit(_ transaction: Transaction, in session: SessionHandler) throws(NativeFailure) {
        let grants = session.info.principal.grants
        if transaction.compares.isEmpty, transaction.thenOperations.isEmpty, transaction.elseOperations.isEmpty {
            return try self.admit(.read, .transaction, in: session)
        }
        for compare in transaction.compares where !grants.allows(.read, compare.key) {
            throw self.deny(.read, compare.key, .transaction, in: session)
        }
        for operation in transaction.thenOperations + transaction.elseOperations {
            let right = if case .get = operation { AccessRight.read } else { AccessRight.write }
            guard grants.allows(right, operation.key) else { throw self.deny(right, operation.key, .transaction, in: session) }
        }
    }

    /// What was there before is told to those only who may read it now: a put needs no right to read.
    private func reply(_ outcome: TransactionOutcome, to request: PendingRequest) {
        let grants = request.session.info.principal.grants
        self.reply(to: .transaction, request.id, in: request.session) { (buffer) throws(NativeFailure) in
            // Other answers may be in front of it.
            let start = buffer.writerIndex - NativeFrame.headerBytes
            buffer.writeNativeField(1, outcome.revision.native)
            if outcome.isRepeated { buffer.writeNativeTruth(2) }
            if outcome.hasSucceeded { buffer.writeNativeTruth(3) }
            for entry in outcome.results {
                buffer.writeNativeEntry(4, grants.allows(.read, entry.key) ? entry : StoredEntry(key: entry.key), on: request.session.loop)
            }
            let limit = request.session.loop.limits.maximumMessageBytes
            // It has been done, and cannot be told.
            if buffer.writerIndex - start > limit {
                var failure = NativeFailure.answerTooBig(limit)
                failure.mayHaveTakenEffect = true
                throw failure
            }
        }
    }

    // MARK: Prefixes, sessions, leases

    func allocatePrefix(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.prefixRequests &+= 1
        self.submit(NativeAllocatePrefix.self, frame, in: session) { (request) throws(NativeFailure) in
            let writeID = try self.identifier(request.writeID)
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.allocatePrefix(token: token, writeID: writeID, principal: principal)
            }
        }
    }

    func openSession(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.sessionRequests &+= 1
        self.submit(NativeOpenSession.self, frame, in: session) { (request) throws(NativeFailure) in
            let timeToLive = try Duration(native: request.timeToLiveMilliseconds)
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.openSession(token: token, principal: principal, timeToLive: timeToLive)
            }
        }
    }

    func resumeSession(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.sessionRequests &+= 1
        self.submit(NativeResumeSession.self, frame, in: session) { (request) throws(NativeFailure) in
            let resumed = try reading { () throws(ProtocolError) in try SessionID(native: request.session) }
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.resumeSession(resumed, token: token, principal: principal)
            }
        }
    }

    func closeSession(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.sessionRequests &+= 1
        self.submit(NativeCloseSession.self, frame, in: session) { (request) throws(NativeFailure) in
            let closed = try reading { () throws(ProtocolError) in try SessionID(native: request.session) }
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.closeSession(closed, token: token, principal: principal)
            }
        }
    }

    func grantLease(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.leaseRequests &+= 1
        self.submit(NativeGrantLease.self, frame, in: session) { (request) throws(NativeFailure) in
            let timeToLive = try Duration(native: request.timeToLiveMilliseconds)
            let writeID = try self.identifier(request.writeID)
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.grantLease(token: token, principal: principal, timeToLive: timeToLive, writeID: writeID)
            }
        }
    }

    func keepLease(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.leaseRequests &+= 1
        self.submit(NativeKeepLease.self, frame, in: session) { (request) throws(NativeFailure) in
            let lease = try LeaseID(native: request.lease)
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.keepLease(lease, token: token, principal: principal)
            }
        }
    }

    func revokeLease(_ frame: NativeFrame, in session: SessionHandler) {
        session.loop.counters.leaseRequests &+= 1
        self.submit(NativeRevokeLease.self, frame, in: session) { (request) throws(NativeFailure) in
            let lease = try LeaseID(native: request.lease)
            let writeID = try self.identifier(request.writeID)
            return { (submitter, token, principal) throws(StorageError) in
                try submitter.revokeLease(lease, token: token, principal: principal, writeID: writeID)
            }
        }
    }

    private func identifier(_ writeID: NativeWriteID?) throws(NativeFailure) -> WriteIdentifier? {
        guard let writeID else { return nil }
        return try reading { () throws(ProtocolError) in try NativeWriteTerms(writeID) }.identifier
    }

    // MARK: Into storage and back

    private typealias Submission = (Submitter, UInt64, String) throws(StorageError) -> Void

    /// Hands over what is rare, and needs the right to write some key.
    private func submit<Request: NativeRequest>(
        _ type: Request.Type, _ frame: NativeFrame, in session: SessionHandler,
        _ prepare: (Request) throws(NativeFailure) -> Submission
    ) {
        do throws(NativeFailure) {
            let request = try reading { () throws(ProtocolError) in try Request(frame.fields) }
            try self.admit(.write, Request.kind, in: session)
            let submission = try prepare(request)
            let principal = session.info.principal.name
            try self.submit(Request.kind, frame.id, in: session) { (submitter, token) throws(StorageError) in
                try submission(submitter, token, principal)
            }
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    private func submit(
        _ kind: NativeRequestKind, _ id: RequestID, in session: SessionHandler,
        _ body: (Submitter, UInt64) throws(StorageError) -> Void
    ) throws(NativeFailure) {
        let storage = try self.store()
        do throws(StorageError) {
            try storage.submit(PendingRequest(self, session, .native(kind), id), body)
        } catch {
            throw self.storageFailed(error, wasSubmitted: false, in: session)
        }
        self.hasUnflushedWrites = true
        session.requestStarted()
    }
}

extension NativeSession: PendingRequestOwner {
    /// What storage made of a request that this session had handed to it.
    func requestEnded(_ request: PendingRequest, _ result: CommitOutcome.Result) {
        guard case .native(let kind) = request.kind else { preconditionFailure("this session speaks the native protocol") }
        let (id, session) = (request.id, request.session)
        switch (kind, result) {
        case (.put, .written(let written)), (.remove, .written(let written)), (.revokeLease, .written(let written)):
            let reply = NativeWrittenReply(kind, id, written)
            unsafe session.send(.binary, payloadBytes: reply.byteCount) { unsafe reply.write(into: $0) }
        case (.transaction, .transaction(let outcome)): self.reply(outcome, to: request)
        case (.allocatePrefix, .prefix(let prefix, let isRepeated)):
            var reply = NativePrefix()
            reply.prefix = Int64(prefix)
            reply.isRepeated = isRepeated
            self.reply(reply, to: kind, id, in: session)
        case (.openSession, .session(let grant)), (.resumeSession, .session(let grant)):
            self.reply(NativeSessionOpened(grant), to: kind, id, in: session)
        case (.grantLease, .lease(let grant)), (.keepLease, .lease(let grant)):
            self.reply(NativeLease(grant), to: kind, id, in: session)
        case (.closeSession, .done): self.reply(NativeDone(), to: kind, id, in: session)
        case (_, .failed(let error)):
            self.fail(self.storageFailed(error, wasSubmitted: true, in: session), kind, id, in: session)
        default:
            // A repetition gets the first outcome, whatever it is of.
            self.fail(
                NativeFailure(
                    .invalidArgument, "the WriteID is that of an earlier write, which was no \(kind)",
                    remedy: "never use a sequence for another write"),
                kind, id, in: session)
        }
        session.requestEnded()
        self.takeRequests(in: session)
    }
}

// MARK: - What the fields mean

extension LeaseID {
    init(native number: Int64) throws(NativeFailure) {
        guard number > 0 else { throw NativeFailure(.invalidArgument, "the lease \(number)", remedy: "leases have positive numbers") }
        self.init(UInt64(number))
    }
}

extension Duration {
    init(native milliseconds: Int64) throws(NativeFailure) {
        guard milliseconds >= 0 else {
            throw NativeFailure(.invalidArgument, "a time to live of \(milliseconds) milliseconds", remedy: "ask for a positive one")
        }
        self = .milliseconds(milliseconds)
    }
}

extension NativeSessionOpened {
    init(_ grant: SessionGrant) {
        self.init()
        self.session = ByteBuffer(integer: grant.session.number)
        self.timeToLiveMilliseconds = grant.timeToLive.native
        self.maximumOutcomes = Int64(grant.maximumOutcomes)
    }
}

extension NativeLease {
    init(_ grant: LeaseGrant) {
        self.init()
        self.lease = grant.lease.native
        self.timeToLiveMilliseconds = grant.timeToLive.native
        self.remainingMilliseconds = grant.remaining.native
    }
}

extension NativeTransaction {
    /// How many conditions and operations there are, without making anything of them.
    static func stepCount(_ fields: NativeFields) throws(ProtocolError) -> Int {
        var count = 0
        let comparesTag = NativeTag(rawValue: 1).critical
        try unsafe fields.forEach { (tag, _) in
            if tag == comparesTag || tag == 2 || tag == 3 { count += 1 }
        }
        return count
    }
}

extension Transaction {
    /// Throws `invalidArgument` for numbers that mean nothing.
    init(_ request: NativeTransaction) throws(NativeFailure) {
        self.init()
        for compare in request.compares { self.compares.append(try Compare(compare)) }
        for operation in request.thenOperations { self.thenOperations.append(try Operation(operation)) }
        for operation in request.elseOperations { self.elseOperations.append(try Operation(operation)) }
    }
}

extension Transaction.Compare {
    fileprivate init(_ compare: NativeCompare) throws(NativeFailure) {
        let condition: Transaction.Condition
        switch (compare.target, compare.relation, compare.number) {
        case (0, 0, 1), (0, 1, 0): condition = .isPresent
        case (0, 0, 0), (0, 1, 1): condition = .isAbsent
        case (1, _, 0...): condition = .revision(try Transaction.Relation(native: compare.relation), Revision(UInt64(compare.number)))
        case (2, _, _): condition = .value(try Transaction.Relation(native: compare.relation), Array(compare.value.readableBytesView))
        default:
            throw NativeFailure(
                .invalidArgument, "a condition with target \(compare.target), relation \(compare.relation) and number \(compare.number)",
                remedy: "see the specification of Compare")
        }
        self.init(Array(compare.key.readableBytesView), condition)
    }
}

extension Transaction.Relation {
    fileprivate init(native number: Int64) throws(NativeFailure) {
        switch number {
        case 0: self = .equal
        case 1: self = .notEqual
        case 2: self = .less
        case 3: self = .greater
        default: throw NativeFailure(.invalidArgument, "a relation of number \(number)", remedy: "see the specification of Compare")
        }
    }
}

extension Transaction.Operation {
    fileprivate init(_ operation: NativeOperation) throws(NativeFailure) {
        let key = Array(operation.key.readableBytesView)
        switch (operation.action, operation.lease) {
        case (0, nil): self = .get(key)
        case (1, nil): self = .put(key, Array(operation.value.readableBytesView))
        case (1, let lease?): self = .put(key, Array(operation.value.readableBytesView), lease: try LeaseID(native: lease))
        case (2, nil): self = .remove(key)
        case (0...2, _): throw NativeFailure(.invalidArgument, "a lease for an operation that puts nothing")
        default: throw NativeFailure(.invalidArgument, "an operation with action \(operation.action)", remedy: "0 get, 1 put, 2 remove")
        }
    }
}
