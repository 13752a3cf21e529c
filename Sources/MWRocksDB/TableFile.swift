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
    /// Nil: it is made where it belongs.
    private let memory: FileDescriptor?
    /// All of `memory`, once it is whole.
    private var mapped = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

    /// What is written before the disk begins with it, in bytes: a sync of the log beside it does not wait for a whole table.
    private static let pieceBytes = 1 << 20

    /// Call order: this, ``open()``, any number of ``append(_:_:)``, ``finish()``, ``writeOut()``.
    ///
    /// - Parameter memory: A file in memory to make it in, which is then the table's own. Whatever fails up to and with ``finish()`` may be for
    ///   want of memory: the same may do without.
    init(at path: String, in memory: FileDescriptor?, _ database: RocksDBDatabase) {
        guard let environment = unsafe rocksdb_envoptions_create(),
            let writer = unsafe rocksdb_sstfilewriter_create(environment, database.tableOptions)
        else { fatalError("out of memory") }
        (self.path, self.memory, self.database) = (path, memory, database)
        unsafe (self.environment, self.writer) = (environment, writer)
    }

    deinit {
        if let start = unsafe mapped.baseAddress { unsafe munmap(UnsafeMutableRawPointer(mutating: start), mapped.count) }
        unsafe rocksdb_sstfilewriter_destroy(writer)
        unsafe rocksdb_envoptions_destroy(environment)
        memory?.close()
    }

    func open() throws(StorageError) {
        try unsafe database.check { unsafe rocksdb_sstfilewriter_open(writer, memory?.ownPath ?? path, $0) }
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

    /// Completes the table.
    func finish() throws(StorageError) {
        try unsafe database.check { unsafe rocksdb_sstfilewriter_finish(writer, $0) }
        guard let memory else { return }
        let count = try memory.length(subject: path)
        guard let start = unsafe mmap(nil, count, PROT_READ, MAP_SHARED | MAP_POPULATE, memory.raw, 0), unsafe start != MAP_FAILED else {
            throw StorageError(errno: errno, subject: path)
        }
        unsafe mapped = UnsafeRawBufferPointer(start: start, count: count)
    }

    /// Brings it where it belongs; it is on stable storage when this returns, but for its name.
    func writeOut() throws(StorageError) {
        // RocksDB's writer has synced what it made.
        guard memory != nil else { return }
        let file = try FileDescriptor(opening: path, O_CREAT | O_WRONLY | O_TRUNC, mode: 0o600)
        defer { file.close() }
        let count = unsafe mapped.count
        var pieceStart = 0
        try ProcessorTurns.inParts(count) { (part) throws(StorageError) in
            unsafe try file.write(UnsafeRawBufferPointer(rebasing: mapped[part]), at: part.lowerBound, subject: path)
            guard part.upperBound - pieceStart >= TableFile.pieceBytes || part.upperBound == count else { return }
            file.startWriting(pieceStart..<part.upperBound)
            pieceStart = part.upperBound
        }
        try file.sync(subject: path)
    }
}
