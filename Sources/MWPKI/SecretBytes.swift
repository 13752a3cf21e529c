internal import COpenSSL

/// Bytes that are overwritten when released, never printed, compared in constant time.
@safe package final class SecretBytes: Sendable, CustomStringConvertible {
    // Safety: written only in the initialiser.
    private nonisolated(unsafe) let storage: UnsafeMutableRawBufferPointer

    package var count: Int { unsafe storage.count }
    package var isEmpty: Bool { unsafe storage.isEmpty }

    package init(copying bytes: UnsafeRawBufferPointer) {
        unsafe storage = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        unsafe storage.copyMemory(from: bytes)
    }

    /// Copies `bytes`; the caller's array is the caller's to wipe.
    package init(_ bytes: [UInt8]) {
        unsafe storage = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        unsafe storage.copyBytes(from: bytes)
    }

    /// Copies `bytes` and wipes them.
    package convenience init(taking bytes: inout [UInt8]) {
        self.init(bytes)
        unsafe bytes.withUnsafeMutableBytes { unsafe OPENSSL_cleanse($0.baseAddress, $0.count) }
        bytes = []
    }

    deinit {
        unsafe OPENSSL_cleanse(storage.baseAddress, storage.count)
        unsafe storage.deallocate()
    }

    package func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(self) { try unsafe body(UnsafeRawBufferPointer(storage)) }
    }

    /// Lends a copy as an array, for what reads arrays, and wipes it: whoever keeps it, or a slice of it, then has zeros.
    package func withBytes<R>(_ body: ([UInt8]) throws -> R) rethrows -> R {
        let copy = bytes
        defer { SecretBytes.wipe(copy) }
        return try body(copy)
    }

    /// Overwrites the storage of `bytes`, whoever shares it: an ordinary change would wipe a copy, made for the purpose, if somebody did.
    static func wipe(_ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { storage in
            guard let start = storage.baseAddress else { return }
            unsafe OPENSSL_cleanse(UnsafeMutableRawPointer(mutating: start), storage.count)
        }
    }

    /// A copy that nobody wipes; for what must be an array, as the contents of a file that is about to be written.
    package var bytes: [UInt8] { unsafe withUnsafeBytes { unsafe Array($0) } }

    package func isEqual(to other: SecretBytes) -> Bool {
        guard count == other.count else { return false }
        return unsafe withUnsafeBytes { left in
            unsafe other.withUnsafeBytes { right in unsafe CRYPTO_memcmp(left.baseAddress, right.baseAddress, left.count) == 0 }
        }
    }

    package var description: String { "(\(count) secret bytes)" }
}
