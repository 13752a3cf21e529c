package import Logging
package import MWProtocol
import NIOCore
import NIOPosix

/// A client of the native protocol that asks a server who we are, how it is, and, as an administrator, has it do things.
///
/// Everything it asks may be asked again: after a lost connection it is, within the retry budget and the deadline.
package final class AdministrationClient: Sendable {
    private let core: ClientCore

    private init(configuration: StorageClientConfiguration, logger: Logger) throws {
        self.core = try ClientCore(
            configuration, speaking: .native, logger: logger, eventLoop: MultiThreadedEventLoopGroup.singleton.next())
    }

    /// Runs a client for as long as `body` runs, then closes it.
    ///
    /// - Throws: what `body` throws; ``ClientError`` when the configuration is invalid.
    package static func with<Result: Sendable>(
        _ configuration: StorageClientConfiguration, logger: Logger, _ body: (AdministrationClient) async throws -> Result
    ) async throws -> Result {
        let client = try AdministrationClient(configuration: configuration, logger: logger)
        return try await client.core.whileRunning { try await body(client) }
    }

    /// Sends `request` and returns its reply.
    ///
    /// - Parameter timeout: from now to the result, waiting for a connection included; `timeouts.request` if not given.
    /// - Throws: ``ClientError``; `forbidden` when the access policy says no, `protocolMismatch` when the server does not speak the native
    ///   protocol or has no such request.
    package func ask<Request: NativeRequest>(_ request: Request, timeout: Duration? = nil) async throws -> Request.Reply {
        try await self.core.ask(request, timeout).0
    }

    /// Every connection of the server, however many pages that takes.
    package func sessions() async throws -> [NativeSessionEntry] {
        var all: [NativeSessionEntry] = []
        var request = NativeSessionsRequest()
        while true {
            let page = try await self.ask(request)
            all += page.sessions
            // A page without an end to go on from would be asked for for ever.
            guard page.hasMore, let last = page.sessions.last, last.connection > request.after else { return all }
            request.after = last.connection
        }
    }
}
