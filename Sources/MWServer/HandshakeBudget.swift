package import NIOCore

/// How many handshakes may begin: a token bucket for all, and one for each address. A value: time comes in as an argument.
///
/// A handshake costs 1.5 ms of CPU before the peer has proved anything. Who has no token is turned away when its connection is accepted, before
/// any byte of TLS is looked at.
package struct HandshakeBudget: Sendable {
    package enum Verdict: Sendable, Hashable {
        case admitted
        /// Too many from this address.
        case addressExhausted
        /// Too many in all.
        case exhausted
    }

    private let rate: TokenBucket.Rate
    private var all = TokenBucket()
    private var addresses: AddressBuckets

    /// - Parameter seed: Unpredictable: nobody can then choose addresses that share a bucket with somebody else's.
    package init(_ limits: ServerLimits, seed: (UInt64, UInt64)) {
        self.rate = TokenBucket.Rate(perSecond: limits.maximumHandshakesPerSecond, burst: limits.maximumHandshakeBurst)
        self.addresses = AddressBuckets(
            TokenBucket.Rate(
                perSecond: limits.maximumHandshakesPerSecondAndAddress, burst: limits.maximumHandshakeBurstOfAddress), seed: seed)
    }

    /// One more handshake, from `address`; nil is a peer without one, as on this machine.
    ///
    /// - Parameter now: Nanoseconds, of any clock that only goes forward.
    package mutating func admit(_ address: AddressPrefix?, at now: UInt64) -> Verdict {
        // The address first: what it has too much of must not cost the others their tokens.
        if let address, !self.addresses.take(address, at: now) { return .addressExhausted }
        return self.all.take(at: now, self.rate) ? .admitted : .exhausted
    }
}

/// What counts as one address: all of IPv4's (/32), and the network part of IPv6's (/64), of which one host has 2^64.
package struct AddressPrefix: Sendable, Hashable {
    /// IPv4 above the range of any IPv6 network that is in use (`::ffff:0:0/96` is IPv4).
    package let bits: UInt64

    package init(v4 address: UInt32) { self.bits = 0xFFFF_0000_0000 | UInt64(address) }

    package init(v6 bytes: [UInt8]) {
        func bits(_ range: Range<Int>) -> UInt64 { bytes[range].reduce(0) { $0 << 8 | UInt64($1) } }
        precondition(bytes.count == 16, "an IPv6 address has 16 bytes")
        // RFC 4291 §2.5.5.2: an IPv4 address, as sockets that listen on both families say it.
        let isMapped = bits(0..<8) == 0 && bits(8..<12) == 0xFFFF
        self.bits = isMapped ? AddressPrefix(v4: UInt32(bits(12..<16))).bits : bits(0..<8)
    }

    /// nil for what has no IP address.
    package init?(_ address: SocketAddress) {
        // The kernel's sockaddr_in: family 2, port 2, address 4 bytes. sockaddr_in6: family 2, port 2, flow 4, address 16 bytes.
        switch address {
        case .v4(let address):
            let bytes = unsafe withUnsafeBytes(of: address.address) { unsafe Array($0[4..<8]) }
            self.init(v4: bytes.reduce(0) { $0 << 8 | UInt32($1) })
        case .v6(let address): self.init(v6: unsafe withUnsafeBytes(of: address.address) { unsafe Array($0[8..<24]) })
        case .unixDomainSocket: return nil
        }
    }
}

/// A token bucket in one number: when it will be full again (the generic cell rate algorithm).
package struct TokenBucket: Sendable, Hashable {
    package struct Rate: Sendable, Hashable {
        /// Nanoseconds in which one token comes.
        fileprivate let interval: UInt64
        /// Nanoseconds in which an empty bucket fills.
        fileprivate let capacity: UInt64

        /// At least one token, and one a second.
        package init(perSecond: Int, burst: Int) {
            self.interval = 1_000_000_000 / UInt64(max(1, min(perSecond, 1_000_000_000)))
            self.capacity = self.interval.multipliedReportingOverflow(by: UInt64(max(1, min(burst, 1_000_000_000)))).partialValue
        }
    }

    /// Nanoseconds; in the past: it is full.
    private var fullAt: UInt64 = 0

    package init() {}

    /// Whether a token was there.
    package mutating func take(at now: UInt64, _ rate: Rate) -> Bool {
        let next = max(self.fullAt, now) + rate.interval
        guard next - now <= rate.capacity else { return false }
        self.fullAt = next
        return true
    }

    /// Whether one is there.
    package func hasToken(at now: UInt64, _ rate: Rate) -> Bool { max(self.fullAt, now) + rate.interval - now <= rate.capacity }
}

/// A token bucket for each address, in as much memory as for one, however many addresses there are.
///
/// Two tables of buckets, with one of each for an address: it is refused when both are empty. Addresses share buckets, so that a million of them
/// need no more memory than one; that a heavy one takes both buckets of another is one chance in a thousand million for each pair.
package struct AddressBuckets: Sendable {
    /// For addresses. 512 KiB in all.
    private static let defaultTableLength = 1 << 15

    private let rate: TokenBucket.Rate
    private let seed: (UInt64, UInt64)
    private var first: [TokenBucket]
    private var second: [TokenBucket]

    /// - Parameter tableLength: Buckets in each table; a power of two.
    package init(_ rate: TokenBucket.Rate, seed: (UInt64, UInt64), tableLength: Int = Self.defaultTableLength) {
        precondition(tableLength > 0 && tableLength & (tableLength - 1) == 0, "a table's length is a power of two")
        self.rate = rate
        self.seed = seed
        self.first = Array(repeating: TokenBucket(), count: tableLength)
        self.second = self.first
    }

    /// What it occupies, now and for ever.
    package var byteCount: Int { (self.first.capacity + self.second.capacity) * MemoryLayout<TokenBucket>.stride }

    package mutating func take(_ address: AddressPrefix, at now: UInt64) -> Bool { self.take(key: address.bits, at: now) }

    /// The same for whatever else `key` stands for.
    package mutating func take(key: UInt64, at now: UInt64) -> Bool {
        let one = self.index(key, self.seed.0)
        let other = self.index(key, self.seed.1)
        guard self.first[one].hasToken(at: now, self.rate) || self.second[other].hasToken(at: now, self.rate) else { return false }
        _ = self.first[one].take(at: now, self.rate)
        _ = self.second[other].take(at: now, self.rate)
        return true
    }

    private func index(_ key: UInt64, _ seed: UInt64) -> Int {
        // Two rounds of the finaliser of MurmurHash3, keyed before each: enough where the seed is secret and nobody sees the index.
        var hash = key ^ seed
        for _ in 0..<2 {
            hash ^= hash >> 33
            hash = hash &* 0xFF51_AFD7_ED55_8CCD
            hash ^= hash >> 33
            hash = hash &* 0xC4CE_B9FE_1A85_EC53
            hash ^= hash >> 33
            hash = hash &+ seed
        }
        return Int(truncatingIfNeeded: hash) & (self.first.count - 1)
    }
}
