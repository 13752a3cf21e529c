/// What each of the server's metrics is: the HELP lines of an exposition.
package enum ServerMetricNames {
    package static let help: [String: String] = [
        "mwstorage_build_info": "Always 1; the labels say what runs.",
        "mwstorage_received_bytes_total": "Bytes of WebSocket frames received.",
        "mwstorage_sent_bytes_total": "Bytes of WebSocket frames sent.",
        "mwstorage_connections": "Open connections.",
        "mwstorage_connections_accepted_total": "TCP connections accepted.",
        "mwstorage_connections_opened_total": "Connections that got their 101.",
        "mwstorage_connections_closed_total": "Connections that ended, by cause.",
        "mwstorage_handshakes_total": "TLS handshakes, by outcome: completed, or what refused them.",
        "mwstorage_openings_refused_total": "Opening handshakes answered with something else than 101, by status.",
        "mwstorage_openings_timed_out_total": "Connections without their 101 in time.",
        "mwstorage_openings_shed_total": "Connections closed as soon as they were accepted, by reason.",
        "mwstorage_requests_total": "Requests, by type.",
        "mwstorage_requests_failed_total": "Requests that failed, as a disk that is full makes them.",
        "mwstorage_requests_denied_total": "Requests beyond the rights of who sent them.",
        "mwstorage_keys_read_total": "Keys looked up.",
        "mwstorage_force_reloads_total": "Changes told to other mwDB clients.",
        "mwstorage_force_reloads_deferred_total": "Of these, those that had to wait for an answer.",
        "mwstorage_commit_batches_total": "Commits, for each event loop that had requests in them.",
        "mwstorage_commit_batch_requests_total": "Requests in these commits.",
        "mwstorage_watches": "Open watches.",
        "mwstorage_watch_lag_revisions": "How many revisions behind the store the slowest watch is.",
        "mwstorage_watch_events_total": "Events sent to watches.",
        "mwstorage_watches_lagged_total": "Times that a watch went on from history because its client took too little.",
        "mwstorage_watches_overflowed_total": "Watches that ended because their client took too little for too long.",
        "mwstorage_watches_resynced_total": "Times that a watch began anew with the state because the history that it needed was gone.",
        "mwstorage_reloads_total": "Reloads of certificates, trust, revocation lists and policy, by outcome.",
        "mwstorage_reload_failed": "1 if the last reload failed, so that an older set is in use than is on disk, else 0.",
        "mwstorage_reload_last_success_timestamp_seconds": "When what is in use was loaded, the start included, in seconds since 1970.",
        "mwstorage_reload_last_failure_timestamp_seconds": "When a reload failed last, in seconds since 1970.",
        "mwstorage_accepting_paused": "1 while connections wait in the system's queue because file descriptors run low, else 0.",
        "mwstorage_server_certificate_not_after_timestamp_seconds": "End of the server's certificate, in seconds since 1970.",
        "mwstorage_trust_anchor_not_after_timestamp_seconds": "End of each trust anchor, in seconds since 1970; the first 64.",
        "mwstorage_revocation_list_next_update_timestamp_seconds": "When each revocation list ends, in seconds since 1970.",
        "mwstorage_client_certificate_remaining_seconds": "What was left of the clients' certificates when they connected.",
        "mwstorage_audit_events_total": "Lines written to the audit log.",
        "mwstorage_audit_events_dropped_total": "Events that could not be written, and are lost.",
        "mwstorage_audit_events_suppressed_total": "Refusals over the audit log's budget, counted instead of written.",
        "mwstorage_audit_write_failures_total": "Attempts to write to the audit log that failed.",
        "mwstorage_audit_writable": "1 if the audit log could be written when it was last tried, else 0.",
    ]

    private static let day = 86_400.0

    package static let buckets: [String: [Double]] = [
        "mwstorage_client_certificate_remaining_seconds": [0, 3_600, day, 7 * day, 30 * day, 90 * day, 365 * day]
    ]
}
