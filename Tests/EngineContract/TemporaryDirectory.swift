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
    let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(parent)/mwstorage-XXXXXX".utf8CString)
    let made = unsafe template.withUnsafeMutableBufferPointer { unsafe mkdtemp($0.baseAddress!).map { unsafe String(cString: $0) } }
    guard let made else { throw StorageError(errno: errno, subject: parent) }
    return made
}

/// Removes a directory and all that it holds.
package func removeDirectory(_ path: String) {
    if unsafe unlink(path) == 0 { return }
    if let directory = unsafe opendir(path) {
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            names.append(unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) })
        }
        unsafe closedir(directory)
        for name in names where name != "." && name != ".." { removeDirectory(path + "/" + name) }
    }
    unsafe rmdir(path)
}
