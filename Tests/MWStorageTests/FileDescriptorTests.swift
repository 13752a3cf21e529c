import EngineContract
import Glibc
import Testing

@testable import MWStorage

@Suite struct FileDescriptorTests {
    /// So many pieces that one call does not take them, and such that are at, over and far over what is written at once.
    @Test(arguments: [
        [1], Array(repeating: 3, count: 5000), [FileDescriptor.maximumBytesAtOnce, 1], [1, FileDescriptor.maximumBytesAtOnce],
        [3 * FileDescriptor.maximumBytesAtOnce + 7, 5, FileDescriptor.maximumBytesAtOnce - 1, 1, 1],
    ])
    func `Pieces are written one behind the other, however many there are and however long`(counts: [Int]) async throws {
        let whole = (0..<counts.reduce(0, +)).map { UInt8(truncatingIfNeeded: $0 / 253) }
        let offset = 11
        try await withTemporaryDirectory { directory in
            let file = try FileDescriptor(opening: directory + "/file", O_CREAT | O_RDWR, mode: 0o600)
            defer { file.close() }
            try unsafe whole.withUnsafeBytes { bytes in
                var start = 0
                var pieces = unsafe counts.map { count in
                    defer { start += count }
                    return unsafe iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress.map { unsafe $0 + start }), iov_len: count)
                }
                try unsafe file.write(&pieces, at: offset, subject: "file")
            }
            var read = [UInt8](repeating: 0, count: offset + whole.count + 1)
            let count = try unsafe read.withUnsafeMutableBytes { unsafe try file.read(into: $0, at: 0, subject: "file") }
            #expect(count == offset + whole.count && Array(read[offset..<offset + whole.count]) == whole)
        }
    }
}
