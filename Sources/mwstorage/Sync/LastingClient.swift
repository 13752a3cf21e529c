import Logging
import MWClient

extension ConnectionOptions {
    /// As `withClient`, for a command that lasts: the first connection must succeed at once, each later one is tried for until it is there.
    ///
    /// What happens to the connection goes to standard error.
    func withLastingClient<Result: Sendable>(_ body: @escaping @Sendable (StorageClient) async throws -> Result) async throws -> Result {
        let settings = try await settings()
        let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .error)
        var configuration = try clientConfiguration(settings)
        configuration.reconnection.maximumFailedRounds = nil
        return try await withStorageClient(configuration, logger: logger) { client in
            let events = client.events
            return try await withThrowingTaskGroup(of: Result?.self) { group in
                group.addTask { try await body(client) }
                group.addTask {
                    try await Self.tell(events)
                    return nil
                }
                defer { group.cancelAll() }
                while let result = try await group.next() { if let result { return result } }
                throw CancellationError()
            }
        }
    }

    /// - Throws: why there never was a connection.
    private static func tell(_ events: AsyncStream<ConnectionEvent>) async throws {
        var hasBeenConnected = false
        var reason: ClientError?
        for await event in events {
            switch event {
            case .connected: hasBeenConnected = true
            case .resumed(let endpoint): Output.note("connected again, to \(endpoint)")
            case .moved: break
            case .disconnected(let error):
                reason = error
                if hasBeenConnected { Output.note("connection lost: \(error.subject): \(error.what)") }
            case .reconnecting(_, let pause):
                // All endpoints were tried once.
                if !hasBeenConnected, let reason { throw reason }
                Output.note("trying again in \(TimeSpan(pause))")
            case .gaveUp(let error): throw error
            }
        }
    }
}
