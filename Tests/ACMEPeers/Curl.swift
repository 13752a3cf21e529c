internal import Foundation

/// The program curl, for what is not under test: whether a CA answers, and its management pages.
enum Curl {
    /// - Parameter prefix: What to start it with, as in another namespace.
    /// - Returns: The body, or nil when the page cannot be had.
    static func get(_ url: String, trust: String, prefix: [String] = []) async -> [UInt8]? {
        let words = prefix + ["curl", "--silent", "--fail", "--max-time", "20", "--noproxy", "*", "--cacert", trust, url]
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.standardInput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        let output = FileManager.default.temporaryDirectory.appendingPathComponent("mwstorage-curl-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: output) }
        _ = FileManager.default.createFile(atPath: output.path, contents: nil)
        guard let handle = try? FileHandle(forWritingTo: output) else { return nil }
        defer { try? handle.close() }
        process.standardOutput = handle
        let status: Int32 = await withCheckedContinuation { continuation in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do { try process.run() } catch { continuation.resume(returning: -1) }
        }
        guard status == 0, let body = try? Data(contentsOf: output) else { return nil }
        return Array(body)
    }
}
