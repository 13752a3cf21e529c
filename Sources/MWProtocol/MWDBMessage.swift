// mwDB's messages (May 2016): one binary WebSocket message each, what it is comes last.
//
//     message := data '#' type id
//
//     data   any bytes, elements separated by '#' (0x23)
//     type   one raw byte
//     id     Base64Number of 32 bits, 1 to 6 characters, never contains '#'
//
//     type                value  direction         data
//     RQST_GET              0    client to server  key#key#…
//     RESP_GET              1    server to client  value#value#…, a missing value is empty
//     RQST_PUT              2    client to server  key#value#key#value…
//     RESP_PUT              3    server to client  one raw byte: 01 done, 00 failed
//     RQST_REMOVE           3    client to server  key#key…
//     RESP_REMOVE           4    server to client  one raw byte: 01 done, 00 failed
//     RQST_FORCE_RELOAD     5    server to client  the whole put stream; then '#' 05, and no id
//     RQST_PREFIX           6    client to server  none, and no '#': the message is 06 id
//     RESP_PREFIX           7    server to client  base64 number
//
// Splitting: "a#" is one element a; "#" is one empty element; "a##b" is a, empty, b; nothing is no element.
// An answer to n keys has exactly n - 1 separators.

package import NIOCore

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// Joins a reply to its request. The original client counts from 0 to 1,000,000 and starts again, leaving out those in flight.
package struct RequestID: Hashable, Sendable, CustomStringConvertible {
    package let rawValue: Int32

    package init(_ rawValue: Int32) { self.rawValue = rawValue }

    package var description: String { "\(self.rawValue)" }

    /// The id the original client mistakes a FORCE_RELOAD for an answer to.
    package static let zero = RequestID(0)
}

/// What a client asks for.
package enum MWDBRequestType: UInt8, Hashable, Sendable {
    case get = 0
    case put = 2
    case remove = 3
    case prefix = 6
}

/// What a server says.
package enum MWDBReplyType: UInt8, Hashable, Sendable {
    case get = 1
    case put = 3
    case remove = 4
    case forceReload = 5
    case prefix = 7
}

/// What stands between elements, and before the trailer.
package let mwdbSeparator = UInt8(ascii: "#")

/// The elements of a message's data, still in the buffer they arrived in.
package struct MWDBElements: Hashable, Sendable {
    /// The data as it is on the wire.
    package let bytes: ByteBuffer

    package init(bytes: ByteBuffer) { self.bytes = bytes }

    /// Calls `body` once for each element, in order, without copying or allocating. The pointer is valid during the call only.
    package func forEach(_ body: (UnsafeRawBufferPointer) throws -> Void) rethrows {
        unsafe try self.bytes.withUnsafeReadableBytes { bytes in
            var cursor = unsafe ElementCursor(bytes)
            while let element = unsafe cursor.next() { unsafe try body(element) }
        }
    }

    /// Calls `body` with the only element; not at all if there are more of them, or none.
    ///
    /// - Returns: Whether it was called.
    package func withOnlyElement(_ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
        unsafe self.bytes.withUnsafeReadableBytes { bytes in
            var cursor = unsafe ElementCursor(bytes)
            guard let element = unsafe cursor.next(), unsafe cursor.isAtEnd else { return false }
            unsafe body(element)
            return true
        }
    }

    /// How many elements there are.
    package var count: Int {
        var count = 0
        unsafe self.forEach { _ in count += 1 }
        return count
    }

    /// One slice of the same storage for each element. Allocates the array: for tests and for what is rare.
    package var slices: [ByteBuffer] {
        var slices: [ByteBuffer] = []
        var rest = self.bytes
        while let slice = rest.readElement() { slices.append(slice) }
        return slices
    }
}

/// The key and value pairs of a put, still in the buffer they arrived in. It exists only if every key has its value.
package struct MWDBPairs: Hashable, Sendable {
    /// The data as it is on the wire: what a FORCE_RELOAD carries on.
    package let bytes: ByteBuffer

    /// nil when the last key has no separator after it, that is, no value.
    package init?(bytes: ByteBuffer) {
        let isWhole = unsafe bytes.withUnsafeReadableBytes { bytes in
            var cursor = unsafe ElementCursor(bytes)
            while unsafe cursor.next() != nil {
                if unsafe !cursor.endedWithSeparator { return false }
                _ = unsafe cursor.next()
            }
            return true
        }
        guard isWhole else { return nil }
        self.bytes = bytes
    }

    package var isEmpty: Bool { self.bytes.readableBytes == 0 }

    /// Calls `body` once for each pair, in order, without copying or allocating. The pointers are valid during the call only.
    /// `k#` at the end is an empty value under `k`.
    package func forEach(_ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws -> Void) rethrows {
        unsafe try self.bytes.withUnsafeReadableBytes { bytes in
            var cursor = unsafe ElementCursor(bytes)
            while let key = unsafe cursor.next() {
                let value = unsafe cursor.next() ?? UnsafeRawBufferPointer(start: nil, count: 0)
                unsafe try body(key, value)
            }
        }
    }

    /// Slices of the same storage. Allocates the array: for tests and for what is rare.
    package var slices: [(key: ByteBuffer, value: ByteBuffer)] {
        var slices: [(key: ByteBuffer, value: ByteBuffer)] = []
        var rest = self.bytes
        while let key = rest.readElement() { slices.append((key, rest.readElement() ?? ByteBuffer())) }
        return slices
    }
}

/// Walks over the elements of `data`.
@unsafe struct ElementCursor {
    private let bytes: UnsafeRawBufferPointer
    private var offset = 0
    /// Whether the element that `next` returned last had a separator after it.
    private(set) var endedWithSeparator = false

    init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = unsafe bytes }

    /// Nothing follows the element that `next` returned last.
    var isAtEnd: Bool { unsafe self.offset == self.bytes.count }

    mutating func next() -> UnsafeRawBufferPointer? {
        guard let base = unsafe self.bytes.baseAddress, unsafe self.offset < self.bytes.count else { return nil }
        let start = unsafe base + self.offset
        let rest = unsafe self.bytes.count - self.offset
        guard let separator = unsafe memchr(start, Int32(mwdbSeparator), rest) else {
            unsafe self.offset = unsafe self.bytes.count
            unsafe self.endedWithSeparator = false
            return unsafe UnsafeRawBufferPointer(start: start, count: rest)
        }
        let count = unsafe UnsafeRawPointer(separator) - start
        unsafe self.offset += count + 1
        unsafe self.endedWithSeparator = true
        return unsafe UnsafeRawBufferPointer(start: start, count: count)
    }
}

extension ByteBuffer {
    /// Reads up to the next separator, and over it.
    fileprivate mutating func readElement() -> ByteBuffer? {
        guard self.readableBytes > 0 else { return nil }
        guard let end = self.readableBytesView.firstIndex(of: mwdbSeparator) else { return self.readSlice(length: self.readableBytes) }
        let element = self.readSlice(length: end - self.readerIndex)
        self.moveReaderIndex(forwardBy: 1)
        return element
    }
}

/// Where the trailer of a message is, and what it says.
struct Trailer {
    /// Bytes of data in front of the separator.
    let dataBytes: Int
    let type: UInt8
    /// nil for a message that ends after its type.
    let id: RequestID?

    /// A separator, a type and the longest id: the trailer's separator is among these last bytes or nowhere.
    private static let maximumBytes = 1 + 1 + Base64Number.maximumInt32Characters

    /// - Returns: nil for a message without a separator where the trailer may start.
    init?(of message: borrowing ByteBuffer) throws(ProtocolError) {
        let trailer = try unsafe message.withUnsafeReadableBytes { (bytes) throws(ProtocolError) in unsafe try Trailer(bytes) }
        guard let trailer else { return nil }
        self = trailer
    }

    private init?(_ bytes: UnsafeRawBufferPointer) throws(ProtocolError) {
        let first = max(0, bytes.count - Self.maximumBytes)
        var separator = bytes.count - 1
        while separator >= first, unsafe bytes[separator] != mwdbSeparator { separator -= 1 }
        guard separator >= first else { return nil }
        let typeIndex = separator + 1
        guard typeIndex < bytes.count else {
            throw ProtocolError(.tornMessage, "message", expected: "a type and an id after the last separator", found: "the end")
        }
        self.dataBytes = separator
        self.type = unsafe bytes[typeIndex]
        let text = unsafe UnsafeRawBufferPointer(rebasing: bytes[(typeIndex + 1)...])
        self.id = unsafe text.isEmpty ? nil : try RequestID(text: text)
    }
}

extension RequestID {
    init(text: some Collection<UInt8>) throws(ProtocolError) {
        let number = try Base64Number(text: text)
        guard let id = Int32(exactly: number.value) else {
            throw ProtocolError(.numberOutOfRange, "request id", expected: "a number of 32 bits", found: "\(number.value)")
        }
        self.init(id)
    }
}
