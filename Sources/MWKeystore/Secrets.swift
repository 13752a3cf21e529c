internal import COpenSSL
internal import MWPKI

extension SecretBytes {
    /// Allocates `capacity` bytes and lets `body` fill them; it returns how many it used, at most `capacity`.
    convenience init(capacity: Int, _ body: (UnsafeMutableRawBufferPointer) throws -> Int) rethrows {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(capacity, 1), alignment: 16)
        defer {
            unsafe OPENSSL_cleanse(buffer.baseAddress, buffer.count)
            unsafe buffer.deallocate()
        }
        let count = unsafe min(try body(UnsafeMutableRawBufferPointer(rebasing: buffer[..<capacity])), capacity)
        unsafe self.init(copying: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }

    convenience init(copying bytes: ArraySlice<UInt8>) {
        // The base class copies from a buffer, and an initializer cannot be called from within a closure.
        unsafe self.init(capacity: bytes.count) {
            unsafe $0.copyBytes(from: bytes)
            return bytes.count
        }
    }

    /// Lets `body` read the bytes as an array that is overwritten afterwards. `body` must keep no slice of it.
    func withArray<Result>(_ body: ([UInt8]) throws -> Result) rethrows -> Result {
        var copy = bytes
        defer { copy.wipe() }
        return try body(copy)
    }
}

extension [UInt8] {
    /// Overwrites and empties the array. Only memory that no other array shares is reached.
    mutating func wipe() {
        unsafe withUnsafeMutableBytes { unsafe OPENSSL_cleanse($0.baseAddress, $0.count) }
        removeAll()
    }
}
