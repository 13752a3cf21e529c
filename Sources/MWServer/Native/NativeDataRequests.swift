internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

// Reads: answered at once, on the event loop, from what is on stable storage. They do not wait for writes of the same connection that are
// not answered yet: a client that wants to read what it wrote waits for the reply, or asks in one transaction.

extension NativeSession {
    /// Reads keys where they are, straight into the outbound buffer.
    ///
    /// - Parameter isAbsent: Its only key has no value.
    func get(_ frame: NativeFrame, isAbsent: Bool = false, in session: SessionHandler) {
        do throws(NativeFailure) {
            let storage = try self.store()
            session.loop.counters.getRequests &+= 1
            let limits = session.loop.limits
            let grants = session.info.principal.grants
            let terms = try reading { () throws(ProtocolError) in
                try NativeKeyTerms(ofGet: frame.fields, grants, maximumKeys: limits.maximumKeysPerRequest)
            }
            try self.admit(terms, .read, .get, in: session)
            let snapshot: StorageSnapshot?
            if let number = terms.snapshot {
                snapshot = try self.snapshots.use(number, at: session.loop.now)
            } else {
                snapshot = nil
            }
            if snapshot == nil, terms.keyCount == 1, !isAbsent,
                try self.answerOnlyKey(frame, isWithoutValue: terms.isWithoutValues, from: storage.storage, in: session)
            {
                session.loop.counters.keysRead &+= 1
                return
            }
            self.reply(to: .get, frame.id, expectedBytes: 1_024, in: session) { (buffer) throws(NativeFailure) in
                var answer = NativeValuesWriter(
                    frame.fields, on: session.loop, isWithoutValues: terms.isWithoutValues, maximumBytes: limits.maximumMessageBytes)
                do throws(StorageError) {
                    if let snapshot {
                        try answer.write(from: snapshot, to: &buffer)
                    } else {
                        try answer.write(from: storage.storage, to: &buffer)
                    }
                } catch {
                    throw self.storageFailed(error, wasSubmitted: false, in: session)
                }
                if answer.isTooBig { throw .answerTooBig(limits.maximumMessageBytes) }
            }
            session.loop.counters.keysRead &+= UInt64(terms.keyCount)
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    // MARK: Scans

    /// Reads a page of a range, bounded in entries and bytes so that it is bounded in time.
    func scan(_ frame: NativeFrame, in session: SessionHandler) {
        do throws(NativeFailure) {
            let storage = try self.store()
            session.loop.counters.scanRequests &+= 1
            let request = try reading { () throws(ProtocolError) in try NativeScan(frame.fields) }
            guard request.limit >= 0, request.maximumBytes >= 0 else {
                throw NativeFailure(.invalidArgument, "a scan of \(request.limit) entries and \(request.maximumBytes) bytes at most")
            }
            let range = KeyRange(request.range)
            let grants = session.info.principal.grants
            guard grants.covers(.read, range) else { throw self.deny(.read, range.lower, .scan, in: session) }
            let snapshot: StorageSnapshot
            if let number = request.snapshot {
                snapshot = try self.snapshots.use(number, at: session.loop.now)
            } else {
                snapshot = try self.takeSnapshot(of: storage.storage, in: session)
            }
            var page = NativePageWriter(request, on: session.loop)
            self.reply(to: .scan, frame.id, expectedBytes: 4_096, in: session) { (buffer) throws(NativeFailure) in
                do throws(StorageError) {
                    try page.write(range, from: snapshot, to: &buffer)
                } catch {
                    throw self.storageFailed(error, wasSubmitted: false, in: session)
                }
            }
            session.loop.counters.keysRead &+= UInt64(page.count)
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    // MARK: Snapshots

    func openSnapshot(_ frame: NativeFrame, in session: SessionHandler) {
        do throws(NativeFailure) {
            let storage = try self.store()
            session.loop.counters.snapshotRequests &+= 1
            _ = try reading { () throws(ProtocolError) in try NativeOpenSnapshot(frame.fields) }
            try self.admit(.read, .openSnapshot, in: session)
            let snapshot = try self.takeSnapshot(of: storage.storage, in: session)
            let limits = session.loop.limits
            var opened = NativeSnapshotOpened()
            opened.snapshot = try self.snapshots.add(snapshot, limit: limits.maximumSnapshotsPerConnection, at: session.loop.now)
            opened.revision = snapshot.revision.native
            opened.lifetimeMilliseconds = limits.snapshotLifetime.native
            self.reply(opened, to: .openSnapshot, frame.id, in: session)
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    func closeSnapshot(_ frame: NativeFrame, in session: SessionHandler) {
        do throws(NativeFailure) {
            session.loop.counters.snapshotRequests &+= 1
            let request = try reading { () throws(ProtocolError) in try NativeCloseSnapshot(frame.fields) }
            try self.snapshots.remove(request.snapshot)
            self.reply(NativeDone(), to: .closeSnapshot, frame.id, in: session)
        } catch {
            self.fail(error, frame, in: session)
        }
    }

    private func takeSnapshot(of storage: Storage, in session: SessionHandler) throws(NativeFailure) -> StorageSnapshot {
        do throws(StorageError) {
            return try storage.snapshot()
        } catch {
            throw self.storageFailed(error, wasSubmitted: false, in: session)
        }
    }

    // MARK: What may go on

    func store() throws(NativeFailure) -> StorageLoop {
        guard let storage = self.storage else { throw .noStorage }
        return storage
    }

    /// Whether a request may go on, by its keys: all of it or nothing.
    func admit(_ terms: NativeKeyTerms, _ right: AccessRight, _ kind: NativeRequestKind, in session: SessionHandler) throws(NativeFailure) {
        let limit = session.loop.limits.maximumKeysPerRequest
        guard terms.keyCount <= limit else { throw .tooManyKeys(limit) }
        if let key = terms.denied { throw self.deny(right, key, kind, in: session) }
        if terms.keyCount == 0 { try self.admit(right, kind, in: session) }
    }

    /// Whether a request may go on that names no key: who has `right` over some key may.
    func admit(_ right: AccessRight, _ kind: NativeRequestKind, in session: SessionHandler) throws(NativeFailure) {
        guard session.info.principal.grants.somewhere.contains(right) else { throw self.deny(right, nil, kind, in: session) }
    }

    /// Counts and records a denial.
    ///
    /// - Returns: What to answer.
    func deny(_ right: AccessRight, _ key: [UInt8]?, _ kind: NativeRequestKind, in session: SessionHandler) -> NativeFailure {
        session.loop.counters.deniedRequests &+= 1
        session.loop.audit.record(
            .requestDenied(session.info, DeniedRequest(operation: "\(kind)", right: right.rawValue, key: key)))
        return .denied(session.info.principal.name, kind, right, key)
    }

    /// Says in the log what the store said; the client is told without its details.
    ///
    /// - Returns: What to answer.
    func storageFailed(_ error: StorageError, wasSubmitted: Bool, in session: SessionHandler) -> NativeFailure {
        let failure = NativeFailure(error, wasSubmitted: wasSubmitted)
        if failure.code == .storageFailure || failure.code == .storageReadOnly { self.log("\(error)", in: session) }
        return failure
    }
}

extension KeyRange {
    init(_ range: NativeRange) {
        self.init(lower: Array(range.lower.readableBytesView), upper: range.upper.map { Array($0.readableBytesView) })
    }

    var isEmpty: Bool { self.upper.map { !self.lower.lexicographicallyPrecedes($0) } ?? false }
}

/// Writes the fields of NativeValues: an entry for each key of a get, then the revision.
struct NativeValuesWriter {
    private let fields: NativeFields
    private let loop: SessionLoop
    private let isWithoutValues: Bool
    private let maximumBytes: Int
    private(set) var isTooBig = false

    /// Bytes that may be read for one that an answer may have: large values are read for nothing where they are not told.
    private static let bytesReadPerByte = 16

    private static let keysTag: NativeTag = 1
    private static let revisionTag: NativeTag = 1
    private static let entriesTag: NativeTag = 2

    init(_ fields: NativeFields, on loop: SessionLoop, isWithoutValues: Bool, maximumBytes: Int) {
        self.loop = loop
        self.fields = fields
        self.isWithoutValues = isWithoutValues
        self.maximumBytes = maximumBytes
    }

    mutating func write(from storage: Storage, to buffer: inout ByteBuffer) throws(StorageError) {
        let start = buffer.writerIndex
        let (_, revision) = try storage.withConsistentReads { (reader) throws(StorageError) in
            // It may be for the second time.
            buffer.moveWriterIndex(to: start)
            self.isTooBig = false
            var bytesRead = 0
            try unsafe self.forEachKey { (key) throws(StorageError) in
                guard !self.isTooBig else { return }
                let keyStart = buffer.writerIndex
                try unsafe reader.read(key) { stored in
                    unsafe bytesRead += stored?.bytes.count ?? 0
                    buffer.writeNativeEntry(Self.entriesTag, stored, isWithoutValue: self.isWithoutValues, on: self.loop)
                }
                self.loop.passedEntry(of: buffer.writerIndex - keyStart)
                self.isTooBig = self.isTooBig(buffer.writerIndex - start, bytesRead)
            }
        }
        buffer.writeNativeField(Self.revisionTag, revision.native)
    }

    mutating func write(from snapshot: StorageSnapshot, to buffer: inout ByteBuffer) throws(StorageError) {
        let start = buffer.writerIndex
        var bytesRead = 0
        try unsafe self.forEachKey { (key) throws(StorageError) in
            guard !self.isTooBig else { return }
            let keyStart = buffer.writerIndex
            try unsafe snapshot.read(key) { stored in
                unsafe bytesRead += stored?.bytes.count ?? 0
                buffer.writeNativeEntry(Self.entriesTag, stored, isWithoutValue: self.isWithoutValues, on: self.loop)
            }
            self.loop.passedEntry(of: buffer.writerIndex - keyStart)
            self.isTooBig = self.isTooBig(buffer.writerIndex - start, bytesRead)
        }
        buffer.writeNativeField(Self.revisionTag, snapshot.revision.native)
    }

    private func isTooBig(_ bytes: Int, _ bytesRead: Int) -> Bool {
        bytes > self.maximumBytes || bytesRead / Self.bytesReadPerByte > self.maximumBytes
    }

    @inline(__always)
    private func forEachKey(_ body: (UnsafeRawBufferPointer) throws(StorageError) -> Void) throws(StorageError) {
        try unsafe Self.forEachKey(of: self.fields, body)
    }

    /// Calls `body` with each key of a get whose fields have been read before.
    @inline(__always)
    static func forEachKey<Failure: Error>(
        of fields: NativeFields, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        var failure: Failure?
        do throws(ProtocolError) {
            try unsafe fields.forEach { (tag, key) throws(ProtocolError) in
                guard tag == Self.keysTag, failure == nil else { return }
                do throws(Failure) { try unsafe body(key) } catch { failure = error }
            }
        } catch {
            preconditionFailure("these fields have been read before")
        }
        if let failure { throw failure }
    }
}

/// Writes the fields of NativeScanPage.
private struct NativePageWriter {
    private(set) var count = 0
    private let loop: SessionLoop
    private let direction: ScanDirection
    private let isKeysOnly: Bool
    private let maximumCount: Int
    private let maximumBytes: Int

    /// Bytes that may be passed over for one that a page may have: a page of keys reads large values for nothing.
    private static let bytesSeenPerByte = 16

    init(_ request: NativeScan, on loop: SessionLoop) {
        self.loop = loop
        func bounded(_ asked: Int64, _ limit: Int) -> Int { asked == 0 ? limit : min(limit, Int(asked)) }
        self.direction = request.isBackward ? .backward : .forward
        self.isKeysOnly = request.isKeysOnly
        self.maximumCount = bounded(request.limit, loop.limits.maximumScanEntries)
        self.maximumBytes = bounded(request.maximumBytes, loop.limits.maximumScanBytes)
    }

    /// At least one entry, if there is any: a page always gets somewhere.
    mutating func write(_ range: KeyRange, from snapshot: StorageSnapshot, to buffer: inout ByteBuffer) throws(StorageError) {
        buffer.writeNativeField(1, snapshot.revision.native)
        guard !range.isEmpty else { return }
        let loop = self.loop
        var (bytes, bytesSeen) = (0, 0)
        var hasMore = false
        try unsafe snapshot.scan(range, self.direction) { key, stored in
            guard self.count < self.maximumCount, bytes < self.maximumBytes, bytesSeen < self.maximumBytes * Self.bytesSeenPerByte else {
                hasMore = true
                return false
            }
            unsafe buffer.writeNativeEntry(
                2, key: key, value: stored.bytes, stored.revision, stored.lease, isWithoutValue: self.isKeysOnly, on: loop)
            self.count += 1
            unsafe bytes += key.count + (self.isKeysOnly ? 0 : stored.bytes.count)
            let entryBytes = unsafe key.count + stored.bytes.count
            bytesSeen += entryBytes
            loop.passedEntry(of: entryBytes)
            return true
        }
        if hasMore { buffer.writeNativeTruth(3) }
    }
}
