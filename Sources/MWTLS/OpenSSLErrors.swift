internal import COpenSSL

/// The thread's OpenSSL error queue, taken out: the queue is empty afterwards.
struct OpenSSLErrors {
    /// Reasons of libssl (SSL_R_…), oldest first.
    private(set) var sslReasons: [Int32] = []
    /// One line each, oldest first.
    private(set) var lines: [String] = []

    /// ERR_error_string_n's longest line.
    private static let maximumLineBytes = 256

    /// Empties the queue. It is empty nearly always, and to see that costs a tenth of clearing all its places.
    static func forget() {
        if ERR_peek_error() != 0 { ERR_clear_error() }
    }

    static func drain() -> OpenSSLErrors {
        var errors = OpenSSLErrors()
        while true {
            let code = ERR_get_error()
            guard code != 0 else { return errors }
            if mws_err_is_ssl(code) != 0 { errors.sslReasons.append(mws_err_reason(code)) }
            var line = [CChar](repeating: 0, count: maximumLineBytes)
            unsafe ERR_error_string_n(code, &line, line.count)
            errors.lines.append(String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self))
        }
    }
}

/// A C string that OpenSSL owns, as a value.
func string(_ text: UnsafePointer<CChar>?) -> String? {
    guard let text = unsafe text else { return nil }
    return unsafe String(cString: text)
}
