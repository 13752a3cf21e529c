import MWProtocol
import NIOCore
import Synchronization

/// A lease as the server says it.
public struct Lease: Hashable, Sendable {
    /// Its number.
    public let id: LeaseID
    /// How long it lives without being kept alive, as granted.
    public let timeToLive: Duration
    /// What was left of that when the server answered.
    public let remaining: Duration

    init(_ lease: NativeLease) {
        self.id = LeaseID(lease.lease)
        self.timeToLive = .milliseconds(max(0, lease.timeToLiveMilliseconds))
        self.remaining = .milliseconds(max(0, lease.remainingMilliseconds))
    }
}

/// A lease that is kept alive while ``StorageClient/withLease(timeToLive:_:)`` runs.
public final class HeldLease: Sendable {
    /// To bind keys to: they go when it ends.
    public let id: LeaseID
    /// As the server granted it.
    public let timeToLive: Duration

    private struct State {
        /// Until then the server has it for sure: its time counts from when the request that was answered had been sent.
        var expiry: NIODeadline
        var lost: ClientError?
    }

    private let state: Mutex<State>
    private let core: ClientCore
    /// Of the store that granted it: another one may have a lease of the same number, which is somebody else's.
    let incarnation: Incarnation

    init(_ lease: Lease, of incarnation: Incarnation, sentAt: NIODeadline, core: ClientCore) {
        self.id = lease.id
        self.timeToLive = lease.timeToLive
        self.incarnation = incarnation
        self.core = core
        self.state = Mutex(State(expiry: sentAt + TimeAmount(lease.timeToLive)))
    }

    /// It has ended, or may have: the server said so, or did not say in time that it has it.
    public var isLost: Bool { self.loss != nil }

    /// Why it is lost, from when its time is over by this client's clock at the latest, whether somebody was awake then or not.
    var loss: ClientError? {
        let now = self.core.eventLoop.now
        return self.state.withLock { state in
            if state.lost == nil, now >= state.expiry { state.lost = self.lossError(nil) }
            return state.lost
        }
    }

    /// Returns once it ends within `margin`, if nothing keeps it alive until then.
    ///
    /// - Throws: `CancellationError`.
    package func waitUntilNearEnd(_ margin: Duration) async throws {
        while case let at = self.expiry - TimeAmount(margin), self.core.eventLoop.now < at { try await self.core.sleep(until: at) }
    }

    var expiry: NIODeadline { self.state.withLock { $0.expiry } }

    /// When to keep it alive next: after a third of its time, so that two attempts may be lost.
    var nextKeep: NIODeadline { self.expiry - TimeAmount(self.timeToLive * 2 / 3) }

    func kept(sentAt: NIODeadline) {
        let expiry = sentAt + TimeAmount(self.timeToLive)
        self.state.withLock { $0.expiry = max($0.expiry, expiry) }
    }

    func lose(_ cause: ClientError?) {
        let error = self.lossError(cause)
        self.state.withLock { if $0.lost == nil { $0.lost = error } }
    }

    private func lossError(_ cause: ClientError?) -> ClientError {
        ClientError(
            .leaseLost, subject: "lease \(self.id)", what: cause == nil ? "could not be kept alive in time" : "has ended",
            found: cause.map { "\($0)" }, remedy: "what was bound to it is gone: begin again", underlying: cause)
    }
}

extension StorageClient {
    /// Asks for a lease; nobody keeps it alive but ``keepLease(_:timeout:)``.
    ///
    /// - Parameters:
    ///   - timeToLive: above zero; the server has bounds of its own, and says what it gives.
    ///   - timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func grantLease(timeToLive: Duration, timeout: Duration? = nil) async throws -> Lease {
        try await self.grant(timeToLive, timeout).0
    }

    private func grant(_ timeToLive: Duration, _ timeout: Duration?) async throws -> (Lease, Incarnation) {
        try self.requireNative("a lease")
        var request = NativeGrantLease()
        request.timeToLiveMilliseconds = timeToLive.wholeMilliseconds
        guard request.timeToLiveMilliseconds > 0 else { throw ClientError.invalid("time to live", "is below a millisecond") }
        let (lease, origin) = try await self.core.ask(request, timeout)
        return (Lease(lease), origin.incarnation)
    }

    /// Keeps a lease alive for its whole time again.
    ///
    /// - Throws: ``ClientError``; `leaseLost` when it has ended.
    public func keepLease(_ id: LeaseID, timeout: Duration? = nil) async throws -> Lease {
        try self.requireNative("a lease")
        return try await self.keep(id, of: nil, timeout)
    }

    /// - Parameter incarnation: the store that granted it, where that is known: another one is not asked.
    private func keep(_ id: LeaseID, of incarnation: Incarnation?, _ timeout: Duration?) async throws -> Lease {
        var message = NativeKeepLease()
        message.lease = id.rawValue
        var request = Request(message)
        request.incarnation = incarnation
        return try await self.core.ask(request, timeout) { (fields, _) throws(ProtocolError) in Lease(try NativeLease(fields)) }
    }

    /// Ends a lease: the keys bound to it are removed, all at one revision.
    ///
    /// - Returns: that revision.
    /// - Throws: ``ClientError``; `leaseLost` when it has ended before.
    @discardableResult
    public func revokeLease(_ id: LeaseID, timeout: Duration? = nil) async throws -> Revision {
        try self.requireNative("a lease")
        return try await self.core.ask(Self.revocation(id, of: nil), timeout) { (fields, origin) throws(ProtocolError) in
            Revision(origin.incarnation, try NativeRead.revision(fields))
        }
    }

    private static func revocation(_ id: LeaseID, of incarnation: Incarnation?) -> Request {
        var message = NativeRevokeLease()
        message.lease = id.rawValue
        var request = Request(message)
        request.incarnation = incarnation
        return request
    }

    /// Runs `body` with a lease that is kept alive at a third of its time, over reconnections too, and revoked when `body` ends.
    ///
    /// When the lease is lost, ``HeldLease/isLost`` is true and `body` is cancelled. It is taken for lost once its time is over by this
    /// client's clock, counted from when the last request that was answered had been sent: never later than by the server's.
    ///
    /// - Parameter timeToLive: how long keys bound to it stay when this client is gone; as in ``grantLease(timeToLive:timeout:)``.
    /// - Returns: what `body` returns, whether the lease was lost meanwhile or not.
    /// - Throws: what `body` throws, but `leaseLost` when the lease was lost; ``ClientError`` when none was granted.
    public func withLease<Result: Sendable>(
        timeToLive: Duration, _ body: @escaping @Sendable (HeldLease) async throws -> Result
    ) async throws -> Result {
        let held = try await self.hold(timeToLive)
        do {
            let result = try await self.whileKept(held, body)
            if !held.isLost {
                let request = Self.revocation(held.id, of: held.incarnation)
                _ = try? await self.core.call(request, min(held.timeToLive, self.core.requestTimeout))
            }
            return result
        } catch {
            // Not waited for: this task may be cancelled.
            if !held.isLost { self.core.post(Self.revocation(held.id, of: held.incarnation)) }
            throw held.loss ?? error
        }
    }

    private func hold(_ timeToLive: Duration) async throws -> HeldLease {
        let sentAt = self.core.eventLoop.now
        let (lease, incarnation) = try await self.grant(timeToLive, nil)
        let held = HeldLease(lease, of: incarnation, sentAt: sentAt, core: self.core)
        // It waited for a connection, perhaps: some of its time may be over.
        if held.nextKeep <= self.core.eventLoop.now {
            let sentAt = self.core.eventLoop.now
            do {
                _ = try await self.keep(held.id, of: held.incarnation, held.timeToLive)
                held.kept(sentAt: sentAt)
            } catch {
                held.lose(error as? ClientError)
                throw held.loss ?? error
            }
        }
        return held
    }

    private func whileKept<Result: Sendable>(
        _ held: HeldLease, _ body: @escaping @Sendable (HeldLease) async throws -> Result
    ) async throws -> Result {
        try await withThrowingTaskGroup(of: Result?.self) { group in
            group.addTask { try await body(held) }
            group.addTask {
                await self.keep(held)
                return nil
            }
            defer { group.cancelAll() }
            while let ended = try await group.next() {
                if let result = ended { return result }
                // The lease is lost: `body` is told, and has the last word.
                group.cancelAll()
            }
            throw CancellationError()
        }
    }

    /// Returns when the lease is lost, or this task is cancelled.
    private func keep(_ held: HeldLease) async {
        while !Task.isCancelled, !held.isLost {
            guard (try? await self.core.sleep(until: min(held.nextKeep, held.expiry))) != nil else { return }
            let sentAt = self.core.eventLoop.now
            let left = held.expiry - sentAt
            guard !held.isLost else { return }
            do {
                _ = try await self.keep(held.id, of: held.incarnation, .nanoseconds(left.nanoseconds))
                held.kept(sentAt: sentAt)
            } catch let error as ClientError where Self.lossCodes.contains(error.code) {
                return held.lose(error)
            } catch {
                let pause = TimeAmount(min(held.timeToLive / 10, Self.longestPause))
                guard (try? await self.core.sleep(until: min(self.core.eventLoop.now + pause, held.expiry))) != nil else { return }
            }
        }
    }

    /// Of failures after which there is no use in trying again.
    private static let lossCodes: Set<ClientError.Code> = [.leaseLost, .wrongIncarnation, .closed]

    /// Between two attempts to keep a lease alive, when one failed.
    private static let longestPause: Duration = .seconds(1)
}

extension Duration {
    /// Rounded down; what is longer than the wire can say is its longest.
    var wholeMilliseconds: Int64 {
        let (seconds, attoseconds) = self.components
        let (product, isTooLong) = seconds.multipliedReportingOverflow(by: 1_000)
        return isTooLong ? .max : product.addingReportingOverflow(attoseconds / 1_000_000_000_000_000).partialValue
    }
}
