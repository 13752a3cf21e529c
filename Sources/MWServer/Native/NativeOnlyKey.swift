internal import MWProtocol
internal import MWStorage
internal import MWWebSocket
internal import NIOCore

// A get of one key: the hot path. Its value goes from where it lies into the outbound buffer, with all that is around it. There is no other
// key that it would have to agree with.

extension NativeSession {
    private enum Outcome {
        case answered
        /// There is no value, and nothing was written. Since which revision it is not there, the key cannot say: it may have gone since the
        /// store's revision was read.
        case absent
        case failed(NativeFailure)
    }

    /// Answers a message that is a get of one key and nothing else, as most are, where it lies.
    ///
    /// - Returns: false if it is anything else, or has to wait, or may not be done; nothing was done then, and the general way says why.
    @inline(__always)
    func answerOnlyGet(_ message: ByteBuffer, in session: SessionHandler) -> Bool {
        guard let storage = self.storage?.storage, session.mayTakeNext else { return false }
        let found = unsafe message.withUnsafeReadableBytes { bytes -> (RequestID, Outcome)? in
            guard let (id, key, rest) = unsafe NativeFrame.firstField(1, ofOnlyRequest: NativeRequestKind.get.rawValue, in: bytes),
                unsafe rest.count == 0 || Self.saysWithValues(rest), session.loop.limits.maximumKeysPerRequest >= 1,
                unsafe session.grants.everywhere.contains(.read) || session.grants.allows(.read, key)
            else { return nil }
            return unsafe (id, self.answer(key, id, isWithoutValue: false, from: storage, in: session))
        }
        guard let (id, outcome) = found else { return false }
        switch outcome {
        case .answered:
            session.countRequest()
            session.loop.counters.getRequests &+= 1
            session.loop.counters.keysRead &+= 1
        case .absent:
            var message = message
            guard let frame = try? NativeFrame(readingFrom: &message) else { return false }
            session.countRequest()
            self.get(frame, isAbsent: true, in: session)
        case .failed(let failure):
            session.countRequest()
            session.loop.counters.getRequests &+= 1
            self.fail(failure, .get, id, in: session)
        }
        return true
    }

    /// Whether these fields are the one that a get may have and that asks for what is done without it, as our client writes it.
    private static func saysWithValues(_ fields: UnsafeRawBufferPointer) -> Bool {
        guard fields.count == NativeFields.headerBytes + 1 else { return false }
        return unsafe fields.loadUnaligned(as: UInt16.self) == UInt16(bigEndian: 2)
            && fields.loadUnaligned(fromByteOffset: 2, as: UInt32.self) == UInt32(bigEndian: 1) && fields[NativeFields.headerBytes] == 0
    }

    /// Answers a get whose only key may be read.
    ///
    /// - Returns: false if there is no value; nothing was written then.
    func answerOnlyKey(
        _ frame: NativeFrame, isWithoutValue: Bool, from storage: Storage, in session: SessionHandler
    ) throws(NativeFailure) -> Bool {
        var outcome = Outcome.absent
        unsafe NativeValuesWriter.forEachKey(of: frame.fields) { key in
            outcome = unsafe self.answer(key, frame.id, isWithoutValue: isWithoutValue, from: storage, in: session)
        }
        switch outcome {
        case .answered: return true
        case .absent: return false
        case .failed(let failure): throw failure
        }
    }

    @inline(__always)
    private func answer(
        _ key: UnsafeRawBufferPointer, _ id: RequestID, isWithoutValue: Bool, from storage: Storage, in session: SessionHandler
    ) -> Outcome {
        let maximumBytes = session.loop.limits.maximumMessageBytes
        let revision = storage.revision
        var isThere = false
        var isTooBig = false
        do throws(StorageError) {
            try unsafe storage.read(key) { stored in
                guard let stored else { return }
                isThere = true
                // It may have been put since.
                let reply = NativeValueReply(id, stored, isWithoutValue: isWithoutValue, max(revision, stored.revision))
                isTooBig = reply.byteCount > maximumBytes
                if !isTooBig { reply.send(in: session) }
            }
        } catch {
            return .failed(self.storageFailed(error, wasSubmitted: false, in: session))
        }
        if isTooBig { return .failed(.answerTooBig(maximumBytes)) }
        return isThere ? .answered : .absent
    }
}

/// The reply to a get of one key that is there, a frame of known length:
///
///     frame header 12 │ entry, without its key │ revision 14
@safe
private struct NativeValueReply {
    private let id: RequestID
    private let stored: StoredValue
    private let revision: Revision
    private let entry: NativeEntryLayout
    let byteCount: Int

    /// Of the field behind the entry.
    private static let revisionFieldBytes = NativeFields.headerBytes + MemoryLayout<Int64>.size
    private static let entriesTag: NativeTag = 2
    private static let revisionTag: NativeTag = 1

    init(_ id: RequestID, _ stored: StoredValue, isWithoutValue: Bool, _ revision: Revision) {
        self.id = id
        self.stored = stored
        self.revision = revision
        self.entry = NativeEntryLayout(valueBytes: isWithoutValue ? 0 : unsafe stored.bytes.count, stored.revision, stored.lease)
        self.byteCount = NativeFrame.headerBytes + self.entry.byteCount + Self.revisionFieldBytes
    }

    func send(in session: SessionHandler) {
        guard self.byteCount > SessionHandler.maximumBytesAtOnce, self.entry.valueBytes > 0 else {
            return unsafe session.send(.binary, payloadBytes: self.byteCount) { unsafe self.write(into: $0, on: session.loop) }
        }
        var (head, tail) = (ByteBuffer(), ByteBuffer())
        let headBytes = self.byteCount - self.entry.valueBytes - Self.revisionFieldBytes
        _ = unsafe head.writeWithUnsafeMutableBytes(minimumWritableBytes: headBytes) { bytes in
            var cursor = unsafe ByteCursor(UnsafeMutableRawBufferPointer(rebasing: bytes[..<headBytes]))
            self.writeHead(&cursor, on: session.loop)
            precondition(cursor.isAtEnd, "an answer is as long as was said")
            return headBytes
        }
        tail.writeNativeField(Self.revisionTag, self.revision.native)
        unsafe session.sendLarge(head, self.stored.bytes, tail)
    }

    /// Fills ``byteCount`` bytes.
    private func write(into bytes: UnsafeMutableRawBufferPointer, on loop: SessionLoop) {
        var cursor = unsafe ByteCursor(bytes)
        self.writeHead(&cursor, on: loop)
        if self.entry.valueBytes > 0 { unsafe cursor.write(self.stored.bytes, on: loop) }
        cursor.write(Self.revisionTag, self.revision.native)
        // What is not written was somebody else's.
        precondition(cursor.isAtEnd, "an answer is as long as was said")
    }

    /// All that is in front of the value.
    @inline(__always)
    private func writeHead(_ cursor: inout ByteCursor, on loop: SessionLoop) {
        cursor.writeHeader(byteCount: self.byteCount, ofReplyTo: .get, self.id)
        unsafe self.entry.writeHead(Self.entriesTag, key: UnsafeRawBufferPointer(start: nil, count: 0), to: &cursor, on: loop)
    }
}
