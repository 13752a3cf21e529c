/// Every bound of an ACME client. The defaults suit public CAs; tests shrink them.
package struct ACMELimits: Sendable, Hashable {
    /// For one request with its reply. Some CAs validate within the request that answers a challenge, and give that 30 s.
    package var requestTimeout: Duration = .seconds(60)
    /// A directory, order or chain is a few KiB; anything larger is not ACME.
    package var maximumReplyBytes = 1 << 20
    /// GET only.
    package var maximumRedirects = 5
    /// With half of all nonces refused, so many in a row happen once in 10^18 requests.
    package var maximumRejectedNonces = 60
    /// This many rejections are answered at once; after them the usual backoff applies.
    package var unpausedRejectedNonces = 12
    /// Transfers that failed, server errors and damaged replies, per request.
    package var maximumFailures = 4
    /// The first pause after a failure; each next is twice as long.
    package var firstBackoff: Duration = .seconds(1)
    package var maximumBackoff: Duration = .seconds(30)
    /// A longer Retry-After ends the attempt instead, so that nothing is held open meanwhile.
    package var maximumInlineWait: Duration = .seconds(60)
    /// The first pause between two looks at an authorization or order; each next is twice as long.
    package var firstPollPause: Duration = .milliseconds(50)
    package var maximumPollPause: Duration = .seconds(10)
    /// From the answer to the last challenge until all are valid.
    package var validationTimeout: Duration = .seconds(600)
    /// From finalize until the certificate is there: longer than the ten minutes that some CAs ask to wait between two looks.
    package var processingTimeout: Duration = .seconds(1200)
    /// An order that is still processing so long after it was made is given up for a new one: its CA has lost it.
    package var maximumProcessingAge: Duration = .seconds(3600)
    /// So long an order is kept whose certificate may have been issued and cannot be had; after that a new one is made.
    package var maximumUnclearAge: Duration = .seconds(86_400)
    /// The whole attempt, with all retries in it.
    package var totalTimeout: Duration = .seconds(1800)
    /// A CA that keeps a client going round in circles is left.
    package var maximumRequests = 4000
    /// How often finalize is sent for one order.
    package var maximumFinalizeAttempts = 8
    /// How often the other authorizations are looked at once one is invalid.
    package var maximumLooksAfterFailure = 4
    package var maximumAlternateChains = 8
    /// How far in the future a certificate may begin, for clocks that are slow.
    package var toleratedClockSkew: Duration = .seconds(3600)

    package init() {}
}

/// SplitMix64: for jitter and for the choice of a renewal time, where nothing has to be secret.
package struct SplitMix64: RandomNumberGenerator, Sendable, Hashable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// In [0, 1).
    package mutating func fraction() -> Double { Double(next() >> 11) * 0x1p-53 }
}

extension Duration {
    var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }

    /// `first` doubled `count` times, at most `maximum`, and up to a quarter shorter or longer.
    static func backoff(_ count: Int, first: Duration, maximum: Duration, random: inout SplitMix64) -> Duration {
        let grown = first.inSeconds * Double(sign: .plus, exponent: min(max(count, 0), 40), significand: 1)
        return .seconds(min(grown, maximum.inSeconds) * (0.75 + 0.5 * random.fraction()))
    }
}
