extension SessionHandler {
    /// Why nothing more is taken from the peer at the moment.
    package struct Holds: OptionSet, Sendable {
        package let rawValue: UInt8
        package init(rawValue: UInt8) { self.rawValue = rawValue }

        /// ``ServerLimits/maximumRequestsInFlight``
        static let requestsInFlight = Holds(rawValue: 1)
        /// ``ServerLimits/maximumUnsentBytes``
        static let unsentBytes = Holds(rawValue: 2)
        /// No new requests; the session closes when those in flight are answered.
        static let draining = Holds(rawValue: 4)
        /// The disk is slower than the network.
        package static let congestion = Holds(rawValue: 8)
        /// Reads that wait for writes hold too many bytes of keys.
        package static let waitingGets = Holds(rawValue: 16)
        /// Requests of the last message wait for their turn: see ``SessionHandler/mayTakeNext``.
        package static let unfinishedMessage = Holds(rawValue: 32)
        /// It had its turn; the other connections of the loop have theirs.
        static let turn = Holds(rawValue: 64)
    }

    /// What is counted on the way of every request.
    struct Tally {
        var requests: UInt64 = 0
        var receivedBytes: UInt64 = 0
        var writtenBytes = 0
    }

    /// What a peer says goes into the log as one line, whatever it says.
    static func printable(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
    }
}

extension String {
    /// What a peer says goes into the log as one line, whatever it says.
    var printable: String {
        String(String.UnicodeScalarView(self.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
    }
}

extension SessionHandler {
    /// The peer takes what is sent too slowly.
    package func closeAsSlowReader(_ reason: String) { self.close(.slowReader, self.loop.closeCodes.slowReader, reason) }
}
