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

/// Ends a call of `client` at a deadline after it was sent; on a busy machine that takes more attempts, each with twice the time.
///
/// - Returns: The error of the one that was sent.
func putUntilSent(_ client: StorageClient) async -> ClientError? {
    var timeout = Duration.milliseconds(100)
    while true {
        let error = await failure { try await client.put([(key: bytes("k"), value: bytes("v"))], timeout: timeout) }
        guard timeout < .seconds(30), error?.code == .deadlineExceeded, error?.mayHaveTakenEffect == false else { return error }
        timeout *= 2
    }
}

/// The error that `body` throws, as a `ClientError`.
func failure(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch { return error as? ClientError }
}
