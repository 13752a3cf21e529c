/// What one server allows its peers, each limit with its unit, its default, and what happens when it is reached.
public struct ServerLimits: Sendable, Hashable {
    /// From accepting the TCP connection to the 101, TLS included. Then the connection is closed: a peer that stalls costs no more than this.
    public var openingTimeout: Duration = .seconds(5)

    /// Bytes of the opening handshake's request line and header fields. More is answered with 431. 16 KiB: no browser or library sends more.
    public var maximumHeaderBytes = 16 * 1024

    /// Bytes of one message, however it is fragmented. A larger one closes with 1009 and nothing of it is stored. 16 MiB: a save of many
    /// thousand nodes. An answer over it is not sent either.
    public var maximumMessageBytes = 16 * 1024 * 1024

    /// Bytes of one frame; `nil` is the message limit. A larger one closes with 1009.
    public var maximumFrameBytes: Int?

    /// Fragments of one message. More close with 1009: empty fragments cost their sender nothing.
    public var maximumFragments = 4_096

    /// Keys of one get or remove, pairs of one put. More close with 1009 and nothing of the request is done: a get of 16 million empty keys
    /// would hold up every other connection of its event loop for half a minute. 1,048,576: a whole model of short keys in one
    /// message, at the most two seconds.
    public var maximumKeysPerRequest = 1_048_576

    /// Conditions of one transaction, and operations of both its branches, in all. More are refused and nothing of it is done: they are looked
    /// at on the commit thread, while everybody's writes wait. 4,096, which the store has too: some milliseconds.
    public var maximumTransactionOperations = 4_096

    /// Entries in one page of a scan; whoever wants more asks for the next. 1,000: half a millisecond of an event loop.
    public var maximumScanEntries = 1_000

    /// Bytes of keys and values after which a page of a scan ends, unless its only entry is larger. 256 KiB: what one write to the network
    /// takes well, and far below any message limit.
    public var maximumScanBytes = 256 * 1024

    /// Snapshots that one connection holds. The next is refused: each keeps the engine from forgetting what was changed since. 16: scans of
    /// some parts of a program at once.
    public var maximumSnapshotsPerConnection = 16

    /// How long a snapshot stays that is not read from. 60 s: between two pages of a scan by somebody who looks at them.
    public var snapshotLifetime: Duration = .seconds(60)

    /// Silence of a peer before it is pinged: below the 30 to 60 s after which middleboxes forget a connection.
    public var pingInterval: Duration = .seconds(20)

    /// How long a pinged peer may stay silent. Then the connection is closed with 1011.
    public var pongTimeout: Duration = .seconds(20)

    /// From our close frame to the peer's. Then the TCP connection is closed.
    public var closingTimeout: Duration = .seconds(10)

    /// The same, for a peer whose certificate was taken back, has expired or is not allowed any more. 1 s: it is served nothing from our close
    /// frame on, and has no claim to more.
    public var refusedClosingTimeout: Duration = .seconds(1)

    /// Requests of one connection that are not answered yet. At the limit nothing more is read from it until one is.
    public var maximumRequestsInFlight = 1_024

    /// Bytes for one connection that the network has not taken yet. Over it nothing more is read from that connection.
    public var maximumUnsentBytes = 16 * 1024 * 1024

    /// In what time a connection that reached ``maximumUnsentBytes`` has to take an eighth of that. Else it is closed with 1013: a byte now
    /// and then would hold all of it for ever. 30 s: with the other defaults 70 kB/s, below what any link in use carries.
    public var unsentTimeout: Duration = .seconds(30)

    var leastTakenBytes: Int { max(1, self.maximumUnsentBytes / 8) }

    /// Watches of one connection. The next is answered with `tooMany`. 1,024: as many as requests in flight.
    public var maximumWatchesPerConnection = 1_024

    /// Ranges of one watch. More are answered with `tooMany`. 64: a change looks through them in six steps.
    public var maximumRangesPerWatch = 64

    /// Bytes of the bounds of all ranges that one connection watches. A watch that would bring more is answered with `tooMany`. 1 MiB: 8,192
    /// ranges between keys of 64 bytes.
    public var maximumWatchBoundBytesPerConnection = 1024 * 1024

    /// Bytes for one connection that the network has not taken yet, over which its watches are told nothing more as it happens: they go on
    /// from the history when these are taken. 1 MiB: what a link of 100 MB/s carries in 10 ms.
    public var maximumWatchBacklogBytes = 1024 * 1024

    /// After how much silence a watch is told how far it has been told everything. 10 s: as much has to be read again at most, where nothing
    /// changes, when its client resumes from there.
    public var watchProgressInterval: Duration = .seconds(10)

    /// In what time the next page of a watch's state must be taken: it holds a snapshot, which keeps the store from forgetting what is old.
    /// Then the watch ends with `watchOverflowed`. 60 s: longer than any pause of a link that is not cut.
    public var watchStateTimeout: Duration = .seconds(60)

    /// Open connections. The next opening handshake is answered with 503.
    public var maximumConnections = 10_000

    /// Open connections of the same principal, whatever their certificates. The next opening handshake is answered with 503. 2,000: room for
    /// twice ``maximumConnectionsPerCertificate`` while a certificate is replaced by its successor.
    public var maximumConnectionsPerPrincipal = 2_000

    /// Open connections that present the same certificate. The next opening handshake is answered with 503.
    public var maximumConnectionsPerCertificate = 1_000

    /// Connections of one event loop that have not had their 101 yet, whoever they are. The next ones are closed as soon as they are accepted:
    /// a peer without a certificate holds a descriptor and some KiB until ``openingTimeout``, and must not take those of the clients. 1,024:
    /// at 1.5 ms for each handshake, a third of what a loop gets through in that time.
    public var maximumOpenings = 1_024

    /// Handshakes that may begin in a second, whoever they are, and how many at once after a quiet time. The next connections are closed as
    /// soon as they are accepted, before any TLS. 1,000: what two cores get through, at 1.5 ms each and with other work to do. 2,000 at once:
    /// a fifth of ``maximumConnections`` coming back together after a network was cut.
    public var maximumHandshakesPerSecond = 1_000
    /// See ``maximumHandshakesPerSecond``.
    public var maximumHandshakeBurst = 2_000

    /// The same for one IPv4 address, or one IPv6 network (/64). 100: a tenth of all, so that one address with bad certificates costs a
    /// seventh of a core. 1,000 at once: all connections of one certificate, behind one address.
    public var maximumHandshakesPerSecondAndAddress = 100
    /// See ``maximumHandshakesPerSecondAndAddress``.
    public var maximumHandshakeBurstOfAddress = 1_000

    /// Descriptors that connections leave to the engine, log and listeners: accepting pauses before they take these, and goes on when some
    /// connections have ended. At most half of what the process may have. 512: the engine's tables and logs, and some.
    public var descriptorReserve = 512

    /// Age at which a connection is drained with 1001, for example to make clients meet a new policy; `nil` is never.
    public var connectionLifetime: Duration?

    /// TLS handshake steps of one event loop that are computed at a time, on threads that stand back behind the loops: a full handshake costs
    /// 1.5 ms of CPU in two or three steps, and nobody who is connected waits for somebody else's.
    public var maximumHandshakeStepsPerTurn = 1

    /// Handshake steps of one event loop that may wait for their turn. More connections are closed: they would miss ``openingTimeout`` anyway.
    public var maximumWaitingHandshakes = 4_096

    /// Lines of the log about refused peers, each second of each event loop in the long run. More are counted, and said with the next one: a
    /// flood of strangers must not fill the disk, nor hide everything else. The audit log and the metrics have them all.
    public var refusalLinesPerSecond = 5

    /// How many of them at once.
    public var refusalLinesAtOnce = 50

    /// The defaults.
    public init() {}
}

/// The WebSocket close code for each reason to end a connection that is not the peer's breach of the protocol (RFC 6455 §7.4).
public struct ServerCloseCodes: Sendable, Hashable {
    /// The server stops: 1001, going away.
    public var stop: UInt16 = 1001
    /// The server restarts: 1012, so that clients come back at once.
    public var restart: UInt16 = 1012
    /// The connection reached ``ServerLimits/connectionLifetime``: 1001.
    public var lifetime: UInt16 = 1001
    /// The peer does not answer pings: 1011.
    public var missedPong: UInt16 = 1011
    /// The peer does not take what is sent to it: 1013, try again later.
    public var slowReader: UInt16 = 1013
    /// The peer's certificate was taken back, has expired or is not allowed any more, or it asked for what it has no right to and what has no
    /// other answer: 1008, policy violation.
    public var refused: UInt16 = 1008
    /// A stored value could not be read: 1011.
    public var storageFailure: UInt16 = 1011

    /// The defaults.
    public init() {}

    var all: [UInt16] { [self.stop, self.restart, self.lifetime, self.missedPong, self.slowReader, self.refused, self.storageFailure] }
}
