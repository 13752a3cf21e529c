internal import CCurl

/// One request on its own handle: the options, the reply as it grows, and what the result means. Used on the loop's thread.
@safe final class Transfer {
    let job: TransferJob
    let easy: UnsafeMutableRawPointer
    private var collector: ReplyCollector
    private var headerList: UnsafeMutablePointer<curl_slist>?
    private let message: UnsafeMutablePointer<CChar>

    private var limits: HTTPTransferLimits { job.configuration.limits }
    private var maximumBodyBytes: Int { job.request.maximumBodyBytes ?? limits.maximumBodyBytes }
    private var timeout: Duration { job.request.timeout ?? limits.timeout }

    init(_ job: TransferJob) throws(HTTPTransferError) {
        self.job = job
        collector = ReplyCollector(
            maximumHeaderBytes: job.configuration.limits.maximumHeaderBytes,
            maximumBodyBytes: job.request.maximumBodyBytes ?? job.configuration.limits.maximumBodyBytes,
            isHead: job.request.method == .head)
        guard let easy = unsafe curl_easy_init() else { throw Transfer.unusable(job, "no handle") }
        unsafe self.easy = unsafe easy
        unsafe message = .allocate(capacity: Int(CURL_ERROR_SIZE))
        unsafe message.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        unsafe headerList = nil
        try setTransport()
        try setTLS()
        try setRequest()
    }

    deinit {
        unsafe curl_easy_cleanup(easy)
        unsafe curl_slist_free_all(headerList)
        unsafe message.deallocate()
    }

    /// The transfer that has this handle.
    static func of(_ easy: UnsafeMutableRawPointer) -> Transfer? {
        var pointer: UnsafeMutableRawPointer?
        guard unsafe CCurl_get_private(easy, &pointer) == CURLE_OK, let pointer = unsafe pointer else { return nil }
        return unsafe Unmanaged<Transfer>.fromOpaque(pointer).takeUnretainedValue()
    }

    // MARK: - Options

    private func setTransport() throws(HTTPTransferError) {
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        try check(unsafe CCurl_set_pointer(easy, CURLOPT_PRIVATE, context))
        try check(unsafe CCurl_set_pointer(easy, CURLOPT_ERRORBUFFER, message))
        try check(unsafe CCurl_set_string(easy, CURLOPT_PROTOCOLS_STR, "https"))
        try check(unsafe CCurl_set_string(easy, CURLOPT_REDIR_PROTOCOLS_STR, "https"))
        if !job.configuration.usesEnvironmentProxies { try check(unsafe CCurl_set_string(easy, CURLOPT_PROXY, "")) }
        try set([
            (CURLOPT_NOSIGNAL, 1),
            (CURLOPT_FOLLOWLOCATION, 0),
            (CURLOPT_HTTP_VERSION, Int(CCurl_http_1_1)),
            (CURLOPT_PATH_AS_IS, 1),
            // A proxy's own reply is no part of the server's.
            (CURLOPT_SUPPRESS_CONNECT_HEADERS, 1),
            (CURLOPT_TIMEOUT_MS, timeout.curlMilliseconds),
            (CURLOPT_CONNECTTIMEOUT_MS, limits.connectTimeout.curlMilliseconds),
            (CURLOPT_LOW_SPEED_LIMIT, max(1, limits.minimumBytesPerSecond)),
            (CURLOPT_LOW_SPEED_TIME, limits.slownessTimeout.curlSeconds),
            // A resolver that hangs must not hold up the other transfers when one is over.
            (CURLOPT_QUICK_EXIT, 1),
        ])
        try check(unsafe CCurl_set_header_sink(easy, receiveHeader, context))
        try check(unsafe CCurl_set_body_sink(easy, receiveBody, context))
        // Known from Content-Length, before any of it is read; a HEAD's is that of a body that does not come.
        if job.request.method != .head {
            try check(unsafe CCurl_set_size(easy, CURLOPT_MAXFILESIZE_LARGE, curl_off_t(max(1, maximumBodyBytes))))
        }
    }

    private func setTLS() throws(HTTPTransferError) {
        try set([
            (CURLOPT_SSL_VERIFYPEER, 1), (CURLOPT_SSL_VERIFYHOST, 2), (CURLOPT_PROXY_SSL_VERIFYPEER, 1), (CURLOPT_PROXY_SSL_VERIFYHOST, 2),
            (CURLOPT_SSLVERSION, Int(CCurl_tls_1_2)), (CURLOPT_PROXY_SSLVERSION, Int(CCurl_tls_1_2)),
        ])
        let trust = job.configuration.trust
        if !trust.pem.isEmpty {
            try check(unsafe CCurl_set_blob(easy, CURLOPT_CAINFO_BLOB, trust.pem, trust.pem.count))
        }
        if !trust.includesSystem {
            // libcurl's own default for both is the system's store.
            try check(unsafe CCurl_set_string(easy, CURLOPT_CAINFO, nil))
            try check(unsafe CCurl_set_string(easy, CURLOPT_CAPATH, nil))
        }
    }

    private func setRequest() throws(HTTPTransferError) {
        let request = job.request
        try check(unsafe CCurl_set_string(easy, CURLOPT_URL, job.url.text))
        switch request.method {
        case .get: try set([(CURLOPT_HTTPGET, 1)])
        case .head: try set([(CURLOPT_NOBODY, 1)])
        case .post:
            try set([(CURLOPT_POST, 1)])
            try check(unsafe CCurl_set_body(easy, request.body, request.body.count))
        }
        // An empty one takes libcurl's own header away: no `Expect: 100-continue`, no form's content type.
        var lines = ["Expect:"]
        if !request.has("content-type") { lines.append("Content-Type:") }
        if !request.has("user-agent") { lines.append("User-Agent: " + job.configuration.userAgent) }
        for header in request.headers { lines.append(header.value.isEmpty ? header.name + ";" : header.name + ": " + header.value) }
        for line in lines {
            guard let longer = unsafe curl_slist_append(headerList, line) else { throw Transfer.unusable(job, "no memory") }
            unsafe headerList = unsafe longer
        }
        try check(unsafe CCurl_set_list(easy, CURLOPT_HTTPHEADER, headerList))
    }

    private func set(_ options: [(CURLoption, Int)]) throws(HTTPTransferError) {
        for (option, value) in options { try check(unsafe CCurl_set_long(easy, option, value)) }
    }

    /// An option that is not taken may be one of security: nothing is sent without it.
    private func check(_ code: CURLcode) throws(HTTPTransferError) {
        if code != CURLE_OK { throw Transfer.unusable(job, unsafe String(cString: curl_easy_strerror(code))) }
    }

    private static func unusable(_ job: TransferJob, _ reason: String) -> HTTPTransferError {
        HTTPTransferError(
            .ownFailure, subject: job.url.origin, "libcurl does not do what is needed",
            remedy: "install libcurl 7.87 or newer with OpenSSL",
            underlying: [reason])
    }

    // MARK: - The reply

    fileprivate func headerReceived(_ line: [UInt8]) -> Bool { collector.headerLineReceived(line) }
    fileprivate func bodyReceived(_ bytes: UnsafeRawBufferPointer) -> Bool { unsafe collector.bodyReceived(bytes) }

    func succeeded() -> Result<TransferResponse, HTTPTransferError> {
        collector.result.mapError { $0.error(subject: job.url.origin, limits: limits, maximumBodyBytes: maximumBodyBytes) }
    }

    func cancelled() -> Result<TransferResponse, HTTPTransferError> {
        .failure(HTTPTransferError(.cancelled, subject: job.url.origin, "cancelled; the server may have done it"))
    }

    func failed(_ code: CURLcode) -> Result<TransferResponse, HTTPTransferError> {
        let said = unsafe String(cString: message)
        let outcome = TransferOutcome(
            code: code, message: safe(said.isEmpty ? unsafe String(cString: curl_easy_strerror(code)) : said),
            verification: number(CURLINFO_SSL_VERIFYRESULT), collected: collector.failure)
        return .failure(outcome.error(subject: job.url.origin, limits: limits, maximumBodyBytes: maximumBodyBytes))
    }

    private func number(_ info: CURLINFO) -> Int {
        var value = 0
        return unsafe CCurl_get_long(easy, info, &value) == CURLE_OK ? value : 0
    }
}

private func receiveHeader(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ context: UnsafeMutableRawPointer?
) -> Int {
    guard let context = unsafe context else { return -1 }
    let transfer = unsafe Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue()
    let line = unsafe Array(UnsafeRawBufferPointer(start: bytes, count: size * count))
    return transfer.headerReceived(line) ? size * count : -1
}

private func receiveBody(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ context: UnsafeMutableRawPointer?
) -> Int {
    guard let context = unsafe context else { return -1 }
    let transfer = unsafe Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue()
    let isTaken = unsafe transfer.bodyReceived(UnsafeRawBufferPointer(start: bytes, count: size * count))
    return isTaken ? size * count : -1
}
