internal import COpenSSL

/// The start of libcrypto and its error queue.
package enum OpenSSL {
    /// Starts libcrypto without any `openssl.cnf`; call it before the first other OpenSSL function. Cheap after the first time.
    package static func prepare() { _ = started }

    // The first initialisation decides for the process: a later implicit one cannot load a configuration any more.
    private static let started: Bool = {
        OPENSSL_init_crypto(COpenSSL_INIT_OPTIONS(), nil) == 1
    }()

    /// Of the library that runs, as it says it: `OpenSSL 3.0.17 1 Jul 2025`.
    package static var version: String { unsafe String(cString: OpenSSL_version(OPENSSL_VERSION)) }

    /// Empties the calling thread's error queue, so that what is found there later was queued later.
    package static func clearErrors() { ERR_clear_error() }

    /// Takes the reasons off the calling thread's error queue, first cause first.
    package static func takeErrors() -> [String] {
        var reasons: [String] = []
        while true {
            let error = ERR_get_error()
            if error == 0 { return reasons }
            if let reason = unsafe ERR_reason_error_string(error) {
                reasons.append("OpenSSL: " + (unsafe String(cString: reason)))
            } else {
                reasons.append("OpenSSL: error " + String(error, radix: 16))
            }
        }
    }

    /// SHA-256 of `bytes`.
    package static func sha256(_ bytes: [UInt8]) -> [UInt8] {
        prepare()
        var digest = [UInt8](repeating: 0, count: 32)
        _ = unsafe SHA256(bytes, bytes.count, &digest)
        return digest
    }

    /// Unpredictable bytes.
    package static func randomBytes(_ count: Int) throws -> [UInt8] {
        prepare()
        var bytes = [UInt8](repeating: 0, count: count)
        clearErrors()
        guard unsafe RAND_bytes(&bytes, Int32(clamping: count)) == 1 else {
            throw PKIError(.buildFailed, subject: "random bytes", "the generator failed", underlying: takeErrors())
        }
        return bytes
    }

    /// What an `i2d_…` function writes; nil when it fails.
    static func encode(_ i2d: (UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>?) -> Int32) -> [UInt8]? {
        var buffer: UnsafeMutablePointer<UInt8>? = nil
        let count = unsafe i2d(&buffer)
        guard count > 0, let start = unsafe buffer else { return nil }
        defer { unsafe COpenSSL_clear_free(start, Int(count)) }
        return unsafe Array(UnsafeBufferPointer(start: start, count: Int(count)))
    }

    /// What a function writes into a memory BIO; nil when it fails.
    static func print(_ body: (OpaquePointer) -> Bool) -> [UInt8]? {
        guard let bio = unsafe BIO_new(BIO_s_mem()) else { return nil }
        defer { unsafe BIO_free(bio) }
        guard unsafe body(bio) else { return nil }
        var data: UnsafePointer<CChar>? = nil
        let count = unsafe COpenSSL_BIO_get_mem_data(bio, &data)
        guard count > 0, let start = unsafe data else { return [] }
        return unsafe Array(UnsafeRawBufferPointer(start: start, count: count))
    }
}
