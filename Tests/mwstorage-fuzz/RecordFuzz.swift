import MWStorage

/// What the store keeps: a record is refused as damaged, or is written again with the same bytes; a batch gives back what went into it.
enum RecordFuzz {
    static func run(_ input: [UInt8]) {
        unsafe input.withUnsafeBytes { input in
            unsafe checkRecords(input)
            unsafe checkKeys(input)
        }
        checkIdentity(input)
        checkBatch(input)
    }

    // MARK: Records

    private static func checkRecords(_ input: UnsafeRawBufferPointer) {
        if let value = unsafe StoredValue(decoding: input) {
            var stored = [UInt8](repeating: 0, count: unsafe StoredValue.byteCount(ofValueOf: value.bytes.count, value.lease))
            unsafe stored.withUnsafeMutableBytes {
                unsafe StoredValue.encode(value.bytes, revision: value.revision, lease: value.lease, into: $0)
            }
            precondition(unsafe stored.elementsEqual(input), "a value is written in another way")
            var batch = WriteBatch()
            let isPut: Void? = try? unsafe batch.putData(key: input, value: value.bytes, revision: value.revision, lease: value.lease)
            if isPut != nil { unsafe requireOnly(batch, holds: input) }
        }
        if let session = unsafe decoded(SessionRecord.init(decoding:), input) {
            var batch = WriteBatch()
            batch.putSession(SessionID(1), session)
            unsafe requireOnly(batch, holds: input)
        }
        if let outcome = unsafe decoded(OutcomeRecord.init(decoding:), input) {
            var batch = WriteBatch()
            batch.putOutcome(SessionID(1), 1, outcome)
            unsafe requireOnly(batch, holds: input)
        }
        if let lease = unsafe decoded(LeaseRecord.init(decoding:), input) {
            var batch = WriteBatch()
            batch.putLease(LeaseID(1), lease)
            unsafe requireOnly(batch, holds: input)
        }
        unsafe checkHistory(input)
    }

    private static func checkHistory(_ input: UnsafeRawBufferPointer) {
        guard let time = unsafe decoded(HistoryRecord.time(of:), input) else { return }
        var batch = WriteBatch()
        let open = batch.beginHistory(of: Revision(1), at: time)
        do throws(StorageError) {
            try unsafe HistoryRecord.forEachChange(of: input) { change in
                batch.appendChange(change)
                return true
            }
            batch.endPut(open)
            unsafe requireOnly(batch, holds: input)
        } catch {
            batch.endPut(open)
            requireCorrupt(error)
            // What was reported is the beginning of what is there.
            unsafe batch.forEach { change in
                guard case .put(_, let value) = unsafe change else { preconditionFailure("a removal") }
                precondition(unsafe input.starts(with: value), "a change that is not there")
            }
        }
    }

    private static func requireOnly(_ batch: borrowing WriteBatch, holds bytes: UnsafeRawBufferPointer) {
        var values = 0
        unsafe batch.forEach { change in
            guard case .put(_, let value) = unsafe change else { preconditionFailure("a removal") }
            precondition(unsafe value.elementsEqual(bytes), "a record is written in another way")
            values += 1
        }
        precondition(values == 1)
    }

    // MARK: Keys

    private static func checkKeys(_ input: UnsafeRawBufferPointer) {
        func require(_ key: [UInt8]?) {
            if let key { precondition(unsafe key.elementsEqual(input), "a key is written in another way") }
        }
        unsafe require(decoded(SessionRecord.session(ofKey:), input).map(SessionRecord.key(of:)))
        unsafe require(decoded(OutcomeRecord.write(ofKey:), input).map { OutcomeRecord.key(of: $0.session, $0.sequence) })
        unsafe require(decoded(LeaseRecord.lease(ofKey:), input).map(LeaseRecord.key(of:)))
        unsafe require(decoded(HistoryRecord.revision(ofKey:), input).map(HistoryRecord.key(of:)))
        unsafe require(decoded(LeaseRecord.binding(ofKey:), input).map { unsafe LeaseRecord.key(of: $0.lease, boundTo: $0.key) })
    }

    /// Nil if it is damaged, and called that.
    private static func decoded<Record>(
        _ decode: (UnsafeRawBufferPointer) throws(StorageError) -> Record, _ input: UnsafeRawBufferPointer
    ) -> Record? {
        do throws(StorageError) { return unsafe try decode(input) } catch {
            requireCorrupt(error)
            return nil
        }
    }

    private static func requireCorrupt(_ error: StorageError) {
        precondition(error.code == .corrupt && error.remedy != nil, "damage that is called \(error)")
    }

    // MARK: Identity

    /// What the store says of itself: pieces of the input, of the lengths that its first bytes say.
    private static func checkIdentity(_ input: [UInt8]) {
        let store = Meta()
        var rest = input.dropFirst(3)
        for (key, count) in zip([MetaRecord.incarnationKey, MetaRecord.revisionKey, MetaRecord.compactedKey], input) where count < 32 {
            store.records[[Keyspace.meta.prefix] + key] = Array(rest.prefix(Int(count)))
            rest = rest.dropFirst(Int(count))
        }
        do throws(StorageError) {
            guard let identity = try StoreIdentity(readingFrom: store) else { return }
            var batch = WriteBatch()
            identity.store(in: &batch)
            let again = Meta()
            unsafe batch.forEach { change in
                if case .put(let key, let value) = unsafe change { unsafe again.records[Array(key)] = Array(value) }
            }
            let isSame = try StoreIdentity(readingFrom: again) == identity
            precondition(isSame, "a store that is another one")
            for (key, value) in store.records { precondition(again.records[key] == value, "a number is written in another way") }
        } catch {
            requireCorrupt(error)
        }
    }

    private final class Meta: EngineReading, @unchecked Sendable {
        // Safety: used by one thread.
        var records: [[UInt8]: [UInt8]] = [:]

        func read(_ key: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Void) {
            guard let record = unsafe records[Array(key)] else { return body(nil) }
            unsafe record.withUnsafeBytes { unsafe body($0) }
        }
    }

    // MARK: Batches

    private struct Change: Equatable {
        var key: [UInt8]
        var value: [UInt8]?
    }

    /// Operations: what to do, how long the key is, how long the value; and the bytes of both.
    private static func checkBatch(_ input: [UInt8]) {
        var batch = WriteBatch(capacity: Int(input.first ?? 0))
        var changes: [Change] = []
        var mark = (batch.mark, 0)
        var rest = input.dropFirst()
        func take(_ count: Int) -> [UInt8] {
            defer { rest = rest.dropFirst(count) }
            return Array(rest.prefix(count))
        }
        while rest.count >= 3 {
            let head = take(3)
            let keyspace = Keyspace(rawPrefix: head[0] >> 4)
            let key = take(Int(head[1]))
            // More than there is: lengths that take two and three bytes.
            let value = [UInt8](repeating: head[0], count: Int(head[2]) * Int(head[2]) / 3) + take(Int(head[2]))
            switch head[0] % 8 {
            case 0...2:
                guard (try? batch.put(in: keyspace, key, value)) != nil else { continue }
                changes.append(Change(key: [keyspace.prefix] + key, value: value))
            case 3:
                guard (try? batch.remove(in: keyspace, key)) != nil else { continue }
                changes.append(Change(key: [keyspace.prefix] + key))
            case 4:
                let open = unsafe key.span.bytes.withUnsafeBytes { unsafe batch.beginPut(in: keyspace, key: $0) }
                batch.appendValue(head[1])
                unsafe value.withUnsafeBytes { unsafe batch.appendValue($0) }
                batch.endPut(open)
                changes.append(Change(key: [keyspace.prefix] + key, value: [head[1]] + value))
            case 5: mark = (batch.mark, changes.count)
            case 6:
                batch.rollBack(to: mark.0)
                changes.removeLast(changes.count - mark.1)
            default:
                var other = WriteBatch()
                guard (try? other.put(key, value)) != nil else { continue }
                batch.append(other)
                changes.append(Change(key: [Keyspace.data.prefix] + key, value: value))
            }
        }
        var found: [Change] = []
        unsafe batch.forEach { change in
            switch unsafe change {
            case .put(let key, let value): unsafe found.append(Change(key: Array(key), value: Array(value)))
            case .remove(let key): unsafe found.append(Change(key: Array(key)))
            }
        }
        precondition(found == changes && batch.operationCount == changes.count, "a batch is not what went into it")
    }
}
