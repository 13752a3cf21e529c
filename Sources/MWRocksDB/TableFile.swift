import CRocksDB
import Glibc
import MWStorage

/// A sorted table that is made outside of the database, to be taken in (``RocksDBDatabase/takeIn(_:)``).
///
/// It is made in memory and copied to the disk by us: RocksDB's writer would have the system forget its pages at once, and each get of what
/// was just written would go to the disk.
@safe
final class TableFile {
    private let path: String
    private let database: RocksDBDatabase
    private let writer: OpaquePointer
    private let environment: OpaquePointer
    /// Nil where the system has no files in memory; then it is made where it belongs.
    private let memory: FileDescriptor?

    /// What is written before the disk begins with it, in bytes: a sync of the log beside it does not wait for a whole table.
    private static let pieceBytes = 1 << 20

    init(at path: String, _ database: RocksDBDatabase) throws(StorageError) {
        guard let environment = unsafe rocksdb_envoptions_create(),
            let writer = unsafe rocksdb_sstfilewriter_create(environment, database.tableOptions)
        else { fatalError("out of memory") }
        (self.path, self.database) = (path, database)
        unsafe (self.environment, self.writer) = (environment, writer)
        let file = FileDescriptor.inMemory(named: "mwstorage-table")
        let isOpen: Void? = try? file.map { (file) throws(StorageError) in
            unsafe try database.check { unsafe rocksdb_sstfilewriter_open(writer, file.ownPath, $0) }
        }
        if isOpen == nil { file?.close() }
        memory = isOpen == nil ? nil : file
        if isOpen == nil { try unsafe database.check { unsafe rocksdb_sstfilewriter_open(writer, path, $0) } }
    }

    deinit {
        unsafe rocksdb_sstfilewriter_destroy(writer)
        unsafe rocksdb_envoptions_destroy(environment)
        memory?.close()
    }

    /// Adds a key behind those before, with its value, or with nil that it is removed.
    func append(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer?) throws(StorageError) {
        let keyStart = unsafe key.assumingMemoryBound(to: CChar.self).baseAddress
        try unsafe database.check { error in
            if let value = unsafe value {
                let valueStart = unsafe value.assumingMemoryBound(to: CChar.self).baseAddress
                unsafe rocksdb_sstfilewriter_put(writer, keyStart, key.count, valueStart, value.count, error)
            } else {
                unsafe rocksdb_sstfilewriter_delete(writer, keyStart, key.count, error)
            }
        }
    }

    /// Completes the file; it is on stable storage when this returns, but for its name.
    func finish() throws(StorageError) {
        try unsafe database.check { unsafe rocksdb_sstfilewriter_finish(writer, $0) }
        guard let memory else { return }
        let count = try memory.length(subject: path)
        guard let start = unsafe mmap(nil, count, PROT_READ, MAP_SHARED | MAP_POPULATE, memory.raw, 0), unsafe start != MAP_FAILED else {
            throw StorageError(errno: errno, subject: path)
        }
        defer { unsafe munmap(start, count) }
        let file = try FileDescriptor(opening: path, O_CREAT | O_WRONLY | O_TRUNC, mode: 0o600)
        defer { file.close() }
        for offset in stride(from: 0, to: count, by: TableFile.pieceBytes) {
            let piece = offset..<min(count, offset + TableFile.pieceBytes)
            unsafe try file.write(UnsafeRawBufferPointer(start: start + offset, count: piece.count), at: offset, subject: path)
            file.startWriting(piece)
        }
        try file.sync(subject: path)
    }
}
