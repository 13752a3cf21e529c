import Logging
import MWClient

let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Runs `body` with a running client, and closes it.
func withClient<Result: Sendable>(
    _ configuration: StorageClientConfiguration, _ body: (StorageClient) async throws -> Result
) async throws -> Result {
    try await withStorageClient(configuration, logger: quiet, body)
}

/// The error that `body` throws, as a `ClientError`.
func failure(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch { return error as? ClientError }
}
