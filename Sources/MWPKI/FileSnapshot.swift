internal import Glibc

/// Which files lie behind some paths, without their contents: two that are equal were most likely read alike.
package struct FileSnapshot: Sendable, Hashable {
    /// What replacing or changing a file changes.
    private struct Stamp: Hashable {
        var device: UInt64
        var inode: UInt64
        var size: Int64
        var mode: UInt32
        var modified: [Int]
        var changed: [Int]
    }

    /// Nil where nothing is, or nothing can be seen.
    private var stamps: [String: Stamp?] = [:]

    /// Looks at `paths`, at what symbolic links in them lead to, and in place of directories at what is in them. A system call each.
    package init(of paths: [String]) {
        for path in paths {
            // A directory itself changes with whatever is in it, and what is hidden in it is not read.
            for file in (try? MaterialPath.files(of: path, suffixes: [""])) ?? [path] { self.stamps[file] = Self.stamp(file) }
        }
    }

    /// Those that are not alike in both.
    package func paths(differingFrom other: FileSnapshot) -> [String] {
        Set(self.stamps.keys).union(other.stamps.keys).filter { self.stamps[$0] != other.stamps[$0] }.sorted()
    }

    private static func stamp(_ path: String) -> Stamp? {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { return nil }
        return Stamp(
            device: UInt64(status.st_dev), inode: UInt64(status.st_ino), size: Int64(status.st_size), mode: status.st_mode,
            modified: [status.st_mtim.tv_sec, status.st_mtim.tv_nsec], changed: [status.st_ctim.tv_sec, status.st_ctim.tv_nsec])
    }
}
