internal import CCurl

/// libcurl's set of transfers and their connections. Used on one thread, `wakeUp` excepted.
@safe final class Multi: @unchecked Sendable {
    // Safety: all but curl_multi_wakeup, which is thread safe, is called on the loop's thread.
    private let multi: UnsafeMutableRawPointer

    /// Once for the process, thread safe, and never undone: libcurl cannot know who else still works.
    private static let isReady: Bool = curl_global_init(Int(CCurl_global_default)) == CURLE_OK

    /// Nil when libcurl cannot be used.
    init?(_ limits: HTTPTransferLimits) {
        guard Multi.isReady, let multi = unsafe curl_multi_init() else { return nil }
        unsafe self.multi = unsafe multi
        // To libcurl, 0 is no limit.
        let connections = max(1, limits.maximumConnections)
        let options = [
            (CURLMOPT_MAX_TOTAL_CONNECTIONS, connections), (CURLMOPT_MAXCONNECTS, connections),
            // One request at a time on a connection.
            (CURLMOPT_PIPELINING, 0),
        ]
        for (option, value) in options where unsafe CCurl_multi_set_long(multi, option, value) != CURLM_OK { return nil }
    }

    deinit { unsafe curl_multi_cleanup(multi) }

    func add(_ transfer: Transfer) -> Bool { unsafe curl_multi_add_handle(multi, transfer.easy) == CURLM_OK }

    func remove(_ transfer: Transfer) { unsafe curl_multi_remove_handle(multi, transfer.easy) }

    /// Does what can be done without waiting.
    func perform() -> Bool {
        var running: Int32 = 0
        return unsafe curl_multi_perform(multi, &running) == CURLM_OK
    }

    /// A transfer that has ended, by its job.
    func nextFinished() -> (id: UInt64, CURLcode)? {
        var waiting: Int32 = 0
        while let message = unsafe curl_multi_info_read(multi, &waiting) {
            guard unsafe message.pointee.msg == CURLMSG_DONE, let easy = unsafe message.pointee.easy_handle,
                let transfer = unsafe Transfer.of(easy)
            else { continue }
            return (transfer.job.id, unsafe CCurl_result(message))
        }
        return nil
    }

    /// Until something can be done, a timer of libcurl is due, or `wakeUp`.
    func wait(atMost duration: Duration) {
        _ = unsafe curl_multi_poll(multi, nil, 0, Int32(clamping: duration.curlMilliseconds), nil)
    }

    /// From any thread.
    func wakeUp() { unsafe curl_multi_wakeup(multi) }
}
