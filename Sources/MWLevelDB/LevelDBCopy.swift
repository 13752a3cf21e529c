import Glibc
import MWStorage

/// A copy of a LevelDB directory to open, so that the original stays as it is.
///
/// LevelDB never changes a table once it is written, and only ever unlinks it: tables are hard links where the file system
/// allows. Everything else is copied.
enum LevelDBCopy {
    static func make(of directory: String, in scratch: String) throws(StorageError) {
        for name in try FileDescriptor.names(in: directory) where name != "LOCK" && !name.hasPrefix("LOG") {
            let source = directory + "/" + name
            let target = scratch + "/" + name
            let isTable = name.hasSuffix(".ldb") || name.hasSuffix(".sst")
            if isTable, unsafe link(source, target) == 0 { continue }
            try FileDescriptor.copy(source, to: target)
        }
    }
}
