public import Logging
import MWProtocol
package import NIOCore
import NIOPosix
import Synchronization

/// A client of one store: many calls in flight over one mutually authenticated connection, which it opens again whenever it is lost.
///
/// ```swift
/// try await withStorageClient(configuration, logger: logger) { client in
///     try await client.put([(key: Array("greeting".utf8), value: Array("hello".utf8))])
///     let values = try await client.get([Array("greeting".utf8)])
/// }
/// ```
///
/// Calls may be made from any task, before ``run()`` too: they wait in a bounded queue, each with its own deadline, until a connection is
/// there. When a connection is lost, calls that were not sent wait for the next, and reads that were sent are sent again.
///
/// In the native protocol, which is the default, keys are any bytes but none, values any bytes; an absent key is `nil`, an empty value is one.
/// A write that was sent and not answered is sent again under its number: it happens exactly once. Where nobody can know whether it happened
/// (its deadline passed, the session ended, the store is another one) it fails with `outcomeUnknown`.
///
/// With ``StorageClientConfiguration/subprotocol`` `.mwdb` it speaks mwDB's protocol, which separates keys and values by `#` (0x23): a key or
/// value that contains one is refused with `invalidArgument`; a missing and an empty value look alike, and both are read as `nil`; a put or a
/// remove that was sent and not answered when the connection was lost fails with `outcomeUnknown`. What that protocol has no request for
/// throws `unsupported`.
public final class StorageClient: Sendable {
    let core: ClientCore

    /// Checks the configuration; connects only in ``run()``.
    ///
    /// - Throws: ``ClientError`` with `invalidArgument`.
    public convenience init(configuration: StorageClientConfiguration, logger: Logger) throws {
        try self.init(configuration: configuration, logger: logger, eventLoop: MultiThreadedEventLoopGroup.singleton.next())
    }

    package convenience init(configuration: StorageClientConfiguration, logger: Logger, eventLoop: any EventLoop) throws {
        try self.init(configuration: configuration, logger: logger, eventLoop: eventLoop, environment: ClientEnvironment())
    }

    package init(
        configuration: StorageClientConfiguration, logger: Logger, eventLoop: any EventLoop, environment: ClientEnvironment
    ) throws {
        self.core = try ClientCore(
            configuration, speaking: configuration.subprotocol.spoken, logger: logger, eventLoop: eventLoop, environment: environment)
    }

    // MARK: Life

    /// Connects, and stays connected until ``close()`` or cancellation, whereupon it returns.
    ///
    /// - Throws: ``ClientError`` when no endpoint is worth another attempt: why. Every call fails with the same error then.
    public func run() async throws { try await self.core.run() }

    /// Takes no new calls, lets those that were made finish for `timeouts.drain` at most, then leaves with a closing handshake.
    ///
    /// Returns once the client has ended. Calling it again, or on a client that never ran, is fine.
    public func close() async { await self.core.close() }

    // MARK: Calls

    /// Reads the values of `keys`, in their order; `nil` where a key is absent. All are read at one revision of the store.
    ///
    /// In mwDB's protocol `nil` is an empty value, too, as it cannot tell them apart. All values come in one message, so together they must
    /// fit `limits.maximumMessageBytes`. See ``read(_:keysOnly:timeout:)`` for their revisions.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func get(_ keys: [[UInt8]], timeout: Duration? = nil) async throws -> [[UInt8]?] {
        guard !keys.isEmpty else { return [] }
        try Self.check(keys)
        if case .native = self.core.clientProtocol {
            return try await self.read(Request.nativeGet(keys), keys, timeout) { _, entry, _ in entry.revision > 0 ? entry.value : nil }
                .values
        }
        guard case .values(let data) = try await self.core.call(Request.get(keys), timeout) else { throw ClientError.impossibleAnswer }
        do {
            return try MWDBReply.values(data, count: keys.count).map { $0.readableBytes == 0 ? nil : Array($0.readableBytesView) }
        } catch {
            throw ClientError(
                .protocolMismatch, subject: "get", what: "the answer does not fit the question", found: error.found,
                expected: error.expected, underlying: error)
        }
    }

    /// Reads the value of one key; see ``get(_:timeout:)-([[UInt8]],_)``.
    public func get(_ key: [UInt8], timeout: Duration? = nil) async throws -> [UInt8]? {
        let values: [[UInt8]?] = try await self.get([key], timeout: timeout)
        return values[0]
    }

    /// Stores `pairs` together or not at all; returns once they are on the server's disk.
    ///
    /// - Parameters:
    ///   - lease: they are removed when it ends; native protocol only.
    ///   - timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Returns: the revision that the store had then, with the pairs in it; ``Revision/unknown`` in mwDB's protocol, or of no pairs.
    /// - Throws: ``ClientError``; after one with ``ClientError/mayHaveTakenEffect`` the pairs may have been stored.
    @discardableResult
    public func put(
        _ pairs: [(key: [UInt8], value: [UInt8])], lease: LeaseID? = nil, timeout: Duration? = nil
    ) async throws -> Revision {
        guard !pairs.isEmpty else { return .unknown }
        try Self.check(pairs.lazy.map(\.key))
        if case .native = self.core.clientProtocol { return try await self.write(.nativePut(pairs, lease: lease), timeout) }
        if lease != nil { throw ClientError.unsupported("a put with a lease") }
        _ = try await self.core.call(Request.put(pairs), timeout)
        return .unknown
    }

    /// Removes `keys` together or not at all; a key that is absent is no error.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Returns: the revision that the store had then, without the keys; ``Revision/unknown`` in mwDB's protocol, or of no keys.
    /// - Throws: ``ClientError``; after one with ``ClientError/mayHaveTakenEffect`` the keys may have been removed.
    @discardableResult
    public func remove(_ keys: [[UInt8]], timeout: Duration? = nil) async throws -> Revision {
        guard !keys.isEmpty else { return .unknown }
        try Self.check(keys)
        if case .native = self.core.clientProtocol { return try await self.write(.nativeRemove(keys), timeout) }
        _ = try await self.core.call(Request.remove(keys), timeout)
        return .unknown
    }

    /// Takes a prefix that no client of this store ever had or will have.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func allocatePrefix(timeout: Duration? = nil) async throws -> UInt32 {
        if case .native = self.core.clientProtocol {
            let (reply, _) = try await self.core.ask(NativeAllocatePrefix(), timeout)
            guard let prefix = UInt32(exactly: reply.prefix) else { throw ClientError.impossibleAnswer }
            return prefix
        }
        guard case .prefix(let prefix) = try await self.core.call(Request.allocatePrefix(), timeout) else {
            throw ClientError.impossibleAnswer
        }
        return prefix
    }

    // MARK: What happens

    /// What happens to the connection from now on; every access makes a stream of its own, which ends with the client.
    public var events: AsyncStream<ConnectionEvent> { self.core.shared.events.subscribe() }

    /// What other clients wrote from now on, as far as the server announces it; every access makes a stream of its own, which ends with
    /// the client. Nothing is announced for the time without a connection: on ``ConnectionEvent/resumed(_:)``, load anew.
    public var reloads: AsyncStream<Reload> { self.core.shared.reloads.subscribe() }

    /// What the client did so far.
    public var counters: ClientCounters { self.core.shared.counters.withLock { $0 } }

    // MARK: Private

    static func check(_ keys: some Sequence<[UInt8]>) throws {
        for key in keys where key.isEmpty { throw ClientError.invalid("key", "is empty", remedy: "a key has at least one byte") }
    }

    func write(_ request: Request, _ timeout: Duration?) async throws -> Revision {
        try await self.core.ask(request, timeout) { (fields, origin) throws(ProtocolError) in
            Revision(origin.incarnation, try NativeRead.revision(fields))
        }
    }

    /// - Parameter make: of a key and what was read there.
    func read<Value>(
        _ request: Request, _ keys: [[UInt8]], _ timeout: Duration?, _ make: ([UInt8], ReadEntry, Incarnation) -> Value
    ) async throws -> (revision: Revision, values: [Value]) {
        try await self.core.ask(request, timeout) { (fields, origin) throws(ProtocolError) in
            let page = try NativeRead.page(fields)
            guard page.entries.count == keys.count else {
                throw ProtocolError(
                    .malformedField, "values", expected: "one for each of \(keys.count) keys", found: "\(page.entries.count)")
            }
            let values = zip(keys, page.entries).map { make($0, $1, origin.incarnation) }
            return (Revision(origin.incarnation, page.revision), values)
        }
    }
}

/// Runs a client for as long as `body` runs, then closes it.
///
/// - Throws: what `body` throws; ``ClientError`` when the configuration is invalid.
public func withStorageClient<Result: Sendable>(
    _ configuration: StorageClientConfiguration, logger: Logger,
    _ body: (StorageClient) async throws -> Result
) async throws -> Result {
    let client = try StorageClient(configuration: configuration, logger: logger)
    return try await client.core.whileRunning { try await body(client) }
}
