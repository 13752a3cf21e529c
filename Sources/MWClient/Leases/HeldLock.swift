import MWProtocol
import NIOCore

/// A lock that is held while ``StorageClient/lock(_:timeToLive:timeout:_:)`` runs.
public struct HeldLock: Sendable {
    /// Greater than that of everybody who held the lock before: whoever the holder writes to can refuse a smaller one than it has seen, and
    /// with it a holder that does not know yet that it has lost the lock.
    public let token: Revision
    /// The key that stands for this holder, bound to ``lease``.
    public let key: [UInt8]
    /// Kept alive while the lock is held; once it is lost, so is the lock.
    public let lease: HeldLease
}

extension StorageClient {
    /// Runs `body` while nobody else holds the lock `name`: first come, first served.
    ///
    /// Who wants the lock puts a key `name/…`, bound to a lease of its own. The key with the lowest revision holds it; every other waits for
    /// the one right before it to go, so that one who leaves wakes one. A holder that is gone is waited for as long as its lease lives.
    /// `name/` must be the lock's alone, and needs the rights to read, write and watch.
    ///
    /// A lock in a network is an agreement, not a fence: a holder whose machine stood still goes on for a moment after it has lost the lock.
    /// ``HeldLock/token`` is for those that must not be fooled.
    ///
    /// - Parameters:
    ///   - name: at least one byte.
    ///   - timeToLive: how long others wait for a holder that is gone.
    ///   - timeout: how long to wait for the lock; `nil` is for ever.
    /// - Throws: `deadlineExceeded` when others held it for too long; `leaseLost` when it was lost, whereupon `body` is cancelled; what `body`
    ///   throws; ``ClientError``.
    public func lock<Result: Sendable>(
        _ name: [UInt8], timeToLive: Duration = .seconds(15), timeout: Duration? = nil,
        _ body: @escaping @Sendable (HeldLock) async throws -> Result
    ) async throws -> Result {
        try self.requireNative("a lock")
        try Self.check([name])
        let deadline = timeout.map { self.core.eventLoop.now + TimeAmount($0) }
        return try await self.withLease(timeToLive: timeToLive) { lease in
            let key = name + Self.separator + Self.unique(lease.id)
            var request = Request.nativePut([(key: key, value: [])], lease: lease.id)
            request.incarnation = lease.incarnation
            let token = try await self.write(request, nil)
            try await self.waitForTurn(LockPlace(name: name, key: key, token: token, deadline: deadline))
            if let loss = lease.loss { throw loss }
            return try await body(HeldLock(token: token, key: key, lease: lease))
        }
    }

    private static let separator = Array("/".utf8)

    /// A lease's number is given once.
    private static func unique(_ lease: LeaseID) -> [UInt8] { Array(String(UInt64(bitPattern: lease.rawValue), radix: 16).utf8) }

    private func waitForTurn(_ place: LockPlace) async throws {
        while true {
            try place.checkTime(self.core.eventLoop.now)
            var predecessor: Entry?
            var isThere = false
            var revision = place.token
            var options = ScanOptions()
            options.isKeysOnly = true
            for try await page in self.scan(.prefix(place.name + Self.separator), options: options).pages {
                revision = page.revision
                // Another store: its keys are in another queue.
                guard revision.incarnation == place.token.incarnation else { throw place.gone }
                for entry in page.entries {
                    if entry.key == place.key { isThere = true }
                    guard entry.revision.compared(to: place.token) == .earlier else { continue }
                    if predecessor.map({ $0.revision.compared(to: entry.revision) == .earlier }) ?? true { predecessor = entry }
                }
            }
            guard isThere else { throw place.gone }
            guard let predecessor else { return }
            try await self.waitForEnd(of: predecessor.key, after: revision, place)
        }
    }

    private func waitForEnd(of key: [UInt8], after revision: Revision, _ place: LockPlace) async throws {
        do {
            try await self.core.waitForChange(of: .key(key), after: revision, until: place.deadline)
        } catch let error as ClientError {
            guard let failure = error.underlying as? NativeFailure, failure.isRetryable else { throw error }
            try await self.core.sleep(until: self.core.eventLoop.now + Self.pause)
        }
    }

    /// Before a watch that was refused for now is asked for again.
    private static let pause: TimeAmount = .milliseconds(200)
}

/// Under a `deadlineExceeded` of ``StorageClient/lock(_:timeToLive:timeout:_:)``: the time to wait for the lock was over, not that of a request.
package struct LockHeldByOthers: Error {}

/// Who waits for a lock, and until when.
private struct LockPlace {
    let name: [UInt8]
    let key: [UInt8]
    let token: Revision
    let deadline: NIODeadline?

    private var subject: String { "lock \(ByteText.quoted(self.name))" }

    func checkTime(_ now: NIODeadline) throws(ClientError) {
        guard let deadline, deadline <= now else { return }
        throw ClientError(
            .deadlineExceeded, subject: self.subject, what: "was held by others for too long", remedy: "try again later",
            underlying: LockHeldByOthers())
    }

    var gone: ClientError {
        ClientError(.leaseLost, subject: self.subject, what: "our place in the queue is gone", remedy: "begin again")
    }
}
