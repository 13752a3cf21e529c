/// Every bound of a transfer. What is reached ends the request with a typed error; nothing waits or grows without one.
package struct HTTPTransferLimits: Sendable, Hashable {
    /// The whole request, from `send` to the last byte; waiting for a connection counts. Some CAs validate
    /// within the request, and give that 30 s.
    package var timeout: Duration = .seconds(60)
    /// Name, TCP and TLS. A host that is up answers within a round trip; this leaves room for two lost packets.
    package var connectTimeout: Duration = .seconds(10)
    /// Fewer bytes a second than this …
    package var minimumBytesPerSecond = 64
    /// … for so long, whole seconds, is a peer that holds us (slow loris), or one that died without a word. Silence counts as slowness, so a
    /// CA that thinks before it answers needs all of `timeout`, which bounds the trickle too.
    package var slownessTimeout: Duration = .seconds(60)
    /// Status line and headers of one reply, informational ones and trailers included. Real ones have 1 to 4 KiB.
    package var maximumHeaderBytes = 64 << 10
    /// Of one reply. A certificate chain has 10 KiB.
    package var maximumBodyBytes = 1 << 20
    /// At a time, to all hosts, those kept for the next request included; further requests wait for one.
    package var maximumConnections = 16
    /// Without any request for so long, the connections and the thread are given up; the next request starts them again.
    package var idleTimeout: Duration = .seconds(30)
    /// Requests that run or wait; the next is refused. With the two limits on a reply this bounds the memory.
    package var maximumRequestsInFlight = 256

    package init() {}
}

extension Duration {
    /// For libcurl, to which 0 means for ever: 1 ms at least, 24 days at most.
    var curlMilliseconds: Int {
        let (seconds, attoseconds) = components
        guard seconds < Int64(Int32.max) / 1000 else { return Int(Int32.max) }
        return max(1, Int(seconds) * 1000 + Int(attoseconds / 1_000_000_000_000_000))
    }

    var curlSeconds: Int { max(1, curlMilliseconds / 1000) }
}
