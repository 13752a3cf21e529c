package import History
package import MWClient
import MWProtocol
import Synchronization

/// A `StorageClient`, in the words of the model.
package struct ModelledClient: Sendable {
    package let number: Int
    package let client: StorageClient
    private let seen = SeenIncarnation()

    package init(number: Int, _ client: StorageClient) {
        self.number = number
        self.client = client
    }

    /// Does `operation`, and says what became of it, and in which store.
    package func perform(_ operation: ModelOperation) async -> (outcome: ModelOutcome, incarnation: String?) {
        do {
            switch operation {
            case .get(let keys):
                let read = try await self.client.read(keys.map { Array($0.utf8) })
                return (.read(revision: read.revision.number, .init(read.entries.compactMap(\.self))), self.name(read.revision))
            case .scan(let range): return try await self.scan(range)
            case .write(let steps): return try await self.write(steps)
            case .transaction(let compares, let then, let otherwise):
                return try await self.transaction(compares, then, otherwise)
            case .revoke(let lease):
                var request = NativeRevokeLease()
                request.lease = lease
                let reply = try await self.client.ask(request)
                // The reply does not say of which store: nobody restores one while leases are in use.
                return (.written(revision: UInt64(reply.revision), changes: Int(reply.changes)), "\(self.seen.incarnation)")
            }
        } catch let error as ClientError {
            return (error.mayHaveTakenEffect ? .unknown : .refused, nil)
        } catch {
            return (.unknown, nil)
        }
    }

    private func scan(_ range: ModelRange) async throws -> (ModelOutcome, String?) {
        var options = ScanOptions()
        options.pageEntries = 3
        var entries: [Entry] = []
        var revision: Revision?
        for try await page in self.client.scan(KeyRange(range), options: options).pages {
            entries += page.entries
            revision = page.revision
        }
        guard let revision else { return (.refused, nil) }
        return (.read(revision: revision.number, .init(entries)), self.name(revision))
    }

    private func write(_ steps: [ModelStep]) async throws -> (ModelOutcome, String?) {
        var pairs: [(key: [UInt8], value: [UInt8])] = []
        var keys: [[UInt8]] = []
        var lease: LeaseID?
        for step in steps {
            switch step {
            case .get: break
            case .put(let key, let value, let number):
                pairs.append((Array(key.utf8), Array(value.utf8)))
                lease = number.map { LeaseID(rawValue: $0) }
            case .remove(let key): keys.append(Array(key.utf8))
            }
        }
        precondition(pairs.isEmpty || keys.isEmpty, "the protocol has puts, and removes")
        let revision = pairs.isEmpty ? try await self.client.remove(keys) : try await self.client.put(pairs, lease: lease)
        return (.written(revision: revision.number, changes: pairs.isEmpty ? nil : pairs.count), self.name(revision))
    }

    private func transaction(
        _ compares: [ModelCompare], _ then: [ModelStep], _ otherwise: [ModelStep]
    ) async throws -> (ModelOutcome, String?) {
        let incarnation = self.seen.incarnation
        let conditions = compares.map { compare -> Transaction.Condition in
            let key = Array(compare.key.utf8)
            switch compare.condition {
            case .isPresent(let isPresent): return isPresent ? .exists(key) : .isAbsent(key)
            case .valueIs(let value): return .value(key, .equal, Array(value.utf8))
            case .revisionIs(let revision): return .revision(key, .equal, Revision(incarnation: incarnation, number: revision))
            }
        }
        let result = try await self.client.transaction(
            Transaction(if: conditions, then: then.map(Transaction.Operation.init), otherwise: otherwise.map(Transaction.Operation.init)))
        let before = result.entries.map { entry in entry.map(ModelEntry.init) }
        return (
            .transaction(revision: result.revision.number, hasSucceeded: result.hasSucceeded, before: before),
            self.name(result.revision)
        )
    }

    /// - Returns: nil when there is none to be had.
    package func grantLease(_ timeToLive: Duration) async -> Int64? {
        var request = NativeGrantLease()
        request.timeToLiveMilliseconds = timeToLive.components.seconds * 1000
        return try? await self.client.ask(request).lease
    }

    package func keepLease(_ lease: Int64) async {
        var request = NativeKeepLease()
        request.lease = lease
        _ = try? await self.client.ask(request)
    }

    private func name(_ revision: Revision) -> String {
        self.seen.incarnation = revision.incarnation
        return "\(revision.incarnation)"
    }
}

/// The store that was heard of last.
private final class SeenIncarnation: Sendable {
    private let state = Mutex(Incarnation.unknown)

    var incarnation: Incarnation {
        get { self.state.withLock { $0 } }
        set { self.state.withLock { $0 = newValue } }
    }
}

extension ModelEntry {
    package init(_ entry: Entry) {
        self.init(String(decoding: entry.value, as: UTF8.self), entry.revision.number, lease: entry.lease?.rawValue)
    }
}

extension [String: ModelEntry] {
    package init(_ entries: some Sequence<Entry>) {
        self.init(entries.map { (String(decoding: $0.key, as: UTF8.self), ModelEntry($0)) }) { $1 }
    }
}

extension KeyRange {
    package init(_ range: ModelRange) { self.init(from: Array(range.lower.utf8), to: range.upper.map { Array($0.utf8) }) }
}

extension Transaction.Operation {
    fileprivate init(_ step: ModelStep) {
        let key = Array(step.key.utf8)
        switch step {
        case .get: self = .get(key)
        case .put(_, let value, let lease): self = .put(key, Array(value.utf8), lease: lease.map { LeaseID(rawValue: $0) })
        case .remove: self = .remove(key)
        }
    }
}
