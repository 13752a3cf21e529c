import Glibc
import MWStorage

/// Runs `body` with the path of a new directory, and removes that with all it holds.
package func withTemporaryDirectory<R>(_ body: (String) async throws -> R) async throws -> R {
    let path = try makeTemporaryDirectory()
    defer { removeDirectory(path) }
    return try await body(path)
}

/// A new directory, which the caller removes.
package func makeTemporaryDirectory() throws -> String {
    try FileDescriptor.makeTemporaryDirectory(in: unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp")
}

/// Removes a directory and all that it holds.
package func removeDirectory(_ path: String) { FileDescriptor.removeDirectory(path) }
