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
/// there. When a connection is lost, calls that were not sent wait for the next; reads that were sent are sent again; a put or a remove
/// that was sent and not answered fails with `outcomeUnknown`, since mwDB's protocol has no way to ask what became of it.
///
/// Keys and values are bytes. mwDB's protocol separates them by `#` (0x23): a key or value that contains one is refused with
/// `invalidArgument`, and so is an empty key; a missing and an empty value look alike, and both are read as `nil`.
public final class StorageClient: Sendable {
    fileprivate let core: ClientCore

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
        self.core = try ClientCore(configuration, speaking: .mwdb, logger: logger, eventLoop: eventLoop, environment: environment)
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

    /// Reads the values of `keys`, in their order; `nil` where a key is absent or its value empty, which this protocol cannot tell apart.
    ///
    /// All values come from one message, so together they must fit `limits.maximumMessageBytes`.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func get(_ keys: [[UInt8]], timeout: Duration? = nil) async throws -> [[UInt8]?] {
        guard !keys.isEmpty else { return [] }
        try Self.check(keys)
        guard case .values(let data) = try await self.core.call(Request.get(keys), timeout) else { throw Self.impossibleAnswer }
        do {
            return try MWDBReply.values(data, count: keys.count).map { $0.readableBytes == 0 ? nil : Array($0.readableBytesView) }
        } catch {
            throw ClientError(
                .protocolMismatch, subject: "get", what: "the answer does not fit the question", found: error.found,
                expected: error.expected, underlying: error)
        }
    }

    /// Stores `pairs` together or not at all; returns once they are on the server's disk.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``; after one with ``ClientError/mayHaveTakenEffect`` the pairs may have been stored.
    public func put(_ pairs: [(key: [UInt8], value: [UInt8])], timeout: Duration? = nil) async throws {
        guard !pairs.isEmpty else { return }
        try Self.check(pairs.lazy.map(\.key))
        _ = try await self.core.call(Request.put(pairs), timeout)
    }

    /// Removes `keys` together or not at all; a key that is absent is no error.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``; after one with ``ClientError/mayHaveTakenEffect`` the keys may have been removed.
    public func remove(_ keys: [[UInt8]], timeout: Duration? = nil) async throws {
        guard !keys.isEmpty else { return }
        try Self.check(keys)
        _ = try await self.core.call(Request.remove(keys), timeout)
    }

    /// Takes a prefix that no client of this store ever had or will have.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``.
    public func allocatePrefix(timeout: Duration? = nil) async throws -> UInt32 {
        guard case .prefix(let prefix) = try await self.core.call(Request.allocatePrefix(), timeout) else { throw Self.impossibleAnswer }
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

    private static let impossibleAnswer = ClientError(
        .protocolMismatch, subject: "answer", what: "is of another kind than the request")

    private static func check(_ keys: some Sequence<[UInt8]>) throws {
        for key in keys where key.isEmpty { throw ClientError.invalid("key", "is empty", remedy: "a key has at least one byte") }
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
