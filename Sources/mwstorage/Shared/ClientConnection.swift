import Logging
import MWClient
import MWPKI

extension ConnectionOptions {
    /// Runs `body` with a client of the configured server, and leaves with a closing handshake.
    ///
    /// A command that meets no server says so at once: it tries each endpoint once.
    func withClient<Result: Sendable>(
        speaking subprotocol: StorageClientConfiguration.Subprotocol = .native, _ body: (StorageClient) async throws -> Result
    ) async throws -> Result {
        let settings = try await settings()
        let logger = try LogLines.logger(settings, label: "mwstorage", fallback: .error)
        var configuration = try clientConfiguration(settings)
        configuration.subprotocol = subprotocol
        return try await withStorageClient(configuration, logger: logger, body)
    }

    /// The client's configuration from all layers of settings; the identity's files are read here once, so that what is wrong with them
    /// is said before anything is sent.
    ///
    /// - Parameter loadsIdentity: false leaves that to whoever explains it better.
    func clientConfiguration(_ settings: Settings, loadsIdentity: Bool = true) throws -> StorageClientConfiguration {
        let endpoints = try settings.found(.endpoint)
        let urls = try endpoints?.values.map { text in
            do { return try Endpoint(text) } catch {
                var failure = CommandFailure(error)
                failure.status = endpoints?.origin == .flag ? .usage : .configurationInvalid
                throw failure
            }
        }
        let source = try material(settings)
        if loadsIdentity { _ = try CommandFailure.configuration { try source.load() } }
        var configuration = StorageClientConfiguration(endpoints: urls ?? [], identity: source)
        configuration.verification = try verification(settings)
        configuration.reconnection.maximumFailedRounds = 1
        if let timeout = try settings.value(.timeout, expected: "a span of time: 500ms, 30s, 5m", { TimeSpan(argument: $0) }) {
            configuration.timeouts.request = timeout.duration
            configuration.timeouts.connect = timeout.duration
            configuration.timeouts.tls = timeout.duration
            configuration.timeouts.upgrade = timeout.duration
        }
        return configuration
    }
}
