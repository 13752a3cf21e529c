package import MWPKI
package import MWTLS
internal import Synchronization

/// Everything by which a server decides who gets in and who stays: one value, made as a whole and replaced as a whole.
package struct SecuritySet: Sendable {
    /// Counts the sets of a server's life, from 1 on.
    package let generation: UInt64
    /// Identity, trust store, revocation lists and refusals, as new handshakes get them.
    package let context: TLSContext
    /// Whose a certificate is, and what that one may do.
    package let accessPolicy: AccessPolicy

    package init(generation: UInt64 = 1, context: TLSContext, accessPolicy: AccessPolicy) {
        self.generation = generation
        self.context = context
        self.accessPolicy = accessPolicy
    }

    /// Judges a peer as a whole: its chain, its refusals, and who the access policy says it is.
    ///
    /// Costs up to half a millisecond of CPU; any thread may call it.
    package func judge(_ peer: VerifiedPeer) -> PeerVerdict {
        switch self.context.judge(peer) {
        case .success(let peer): self.admit(peer)
        case .failure(let error): .refused(PeerRefusal(error))
        }
    }

    /// Why `peer` may not read what the server says of itself; nil if it may. It tells of all keys, so it needs a right over all.
    func refusalToMonitor(_ peer: VerifiedPeer) -> PeerRefusal? {
        switch self.judge(peer) {
        case .refused(let refusal): return refusal
        case .admitted(_, let principal):
            guard principal.grants.everywhere.isDisjoint(with: [.read, .administer]) else { return nil }
            return PeerRefusal(
                .notAllowed, check: "policy.monitoring", toldPeer: "monitoring needs the right read or administer over all keys",
                detail: "\(principal.name) has neither read nor administer over all keys",
                remedy: "grant one of them, or ask on a loopback address")
        }
    }

    /// Whether a glance finds it likely that ``judge(_:)`` refuses: those are judged first.
    func isSuspect(_ peer: VerifiedPeer) -> Bool {
        if self.context.isSuspect(peer) { return true }
        if case .admitted = self.admit(peer) { return false }
        return true
    }

    /// The part of ``judge(_:)`` that a handshake with this set's context leaves over: whose certificate it is.
    package func admit(_ peer: VerifiedPeer) -> PeerVerdict {
        let principal: Principal
        switch self.accessPolicy.admit(peer) {
        case .success(let admitted): principal = admitted
        case .failure(let refusal): return .refused(PeerRefusal(refusal))
        }
        if let refusal = self.context.refusals.refusal(of: [], names: [principal.name]) {
            return .refused(
                PeerRefusal(
                    .refusedByList, check: "refused", toldPeer: "the identity is refused", detail: "\(refusal) is on our list of refusals"))
        }
        return .admitted(peer, principal)
    }
}

/// What a ``SecuritySet`` says of a peer.
package enum PeerVerdict: Sendable {
    case admitted(VerifiedPeer, Principal)
    case refused(PeerRefusal)
}

/// Why a peer is not, or no longer, let in.
package struct PeerRefusal: Sendable {
    package let cause: SessionEnd.Cause
    /// A stable name, as logs and rejections have them.
    package let check: String
    /// What the peer is told: nothing that it does not know.
    package let toldPeer: String
    /// For our own log.
    package let detail: String
    package let remedy: String?

    package init(_ cause: SessionEnd.Cause, check: String, toldPeer: String, detail: String, remedy: String? = nil) {
        self.cause = cause
        self.check = check
        self.remedy = remedy
        self.toldPeer = toldPeer
        self.detail = detail
    }

    package init(_ refusal: AccessRefusal) {
        self.init(
            .notAllowed, check: "policy.\(refusal.reason.rawValue)", toldPeer: "the access policy does not admit this certificate",
            detail: refusal.what, remedy: refusal.remedy)
    }

    /// Of a peer whose `VerifiedPeer.validUntil` is over.
    package init(endOf peer: VerifiedPeer, at now: Timestamp) {
        if let ended = peer.chain.first(where: { $0.notAfter <= now }) {
            self.init(
                .certificateExpired, check: "tls.\(TLSError.Code.certificateExpired)", toldPeer: "the certificate has expired",
                detail: "\(ended.subject) (\(ended.sha256)) ended at \(ended.notAfter)")
        } else {
            self.init(
                .revocationUnknown, check: "tls.\(TLSError.Code.revocationListExpired)",
                toldPeer: "it cannot be said whether the certificate was revoked",
                detail: "the revocation list of an authority of its chain ended at \(peer.validUntil); load its successor")
        }
    }

    package init(_ error: TLSError) {
        let (cause, told): (SessionEnd.Cause, String) =
            switch error.code {
            case .certificateRevoked: (.certificateRevoked, "the certificate was revoked")
            case .certificateRefused: (.refusedByList, "the certificate is refused")
            case .certificateExpired: (.certificateExpired, "the certificate has expired")
            case .revocationListExpired, .revocationListMissing:
                (.revocationUnknown, "it cannot be said whether the certificate was revoked")
            default: (.noLongerTrusted, "the certificate is not trusted any more")
            }
        self.init(cause, check: "tls.\(error.code)", toldPeer: told, detail: "\(error)", remedy: error.remedy)
    }
}

/// The set in use, for all event loops and whoever changes it.
package final class CurrentSecurity: Sendable {
    private let current: Mutex<SecuritySet>

    package init(_ set: SecuritySet) { self.current = Mutex(set) }

    package var set: SecuritySet { self.current.withLock { $0 } }

    /// Puts another in its place, with the next generation; nobody sees anything in between.
    package func replace(_ make: (SecuritySet) throws -> SecuritySet) rethrows -> SecuritySet {
        try self.current.withLock { current in
            current = try make(current)
            return current
        }
    }
}
