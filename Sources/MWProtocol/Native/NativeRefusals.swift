// Refusing a client although its certificate is good.

/// Whom a refusal is about: exactly one of fingerprint, serial number with issuer, or identity.
package struct NativeRefusalTarget: NativeRecord {
    /// SHA-256 of the certificate, `sha256:` and 64 hexadecimal digits.
    package var fingerprint: String?
    /// Hexadecimal; with ``issuer``.
    package var serial: String?
    /// RFC 4514, as certificates are shown.
    package var issuer: String?
    /// A URI or DNS name of the certificate, its CN where it has neither, or its principal.
    package var identity: String?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "fingerprint", &self.fingerprint)
        try visitor.field(2, "serial", &self.serial)
        try visitor.field(3, "issuer", &self.issuer)
        try visitor.field(4, "identity", &self.identity)
    }

    /// For logs and people.
    package var text: String {
        let parts = [
            self.fingerprint, self.serial.map { "serial \($0)" }, self.issuer.map { "issuer \($0)" },
            self.identity.map { "identity \($0)" },
        ]
        return parts.compactMap { $0 }.joined(separator: " ")
    }
}

/// Refuses whom it names from now on, over restarts, and closes what they have open.
package struct NativeRefuseRequest: NativeRequest {
    package typealias Reply = NativeRefusalChange
    package static let kind = NativeRequestKind.refuse

    package var target = NativeRefusalTarget()
    /// Only says what would become of it. Critical: a server that does not know this must not do the rest.
    package var isTrial: Bool?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "target", &self.target)
        try visitor.field(NativeTag(rawValue: 2).critical, "trial", &self.isTrial)
    }
}

/// Takes a refusal back.
package struct NativeAcceptAgainRequest: NativeRequest {
    package typealias Reply = NativeRefusalChange
    package static let kind = NativeRequestKind.acceptAgain

    package var target = NativeRefusalTarget()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "target", &self.target)
    }
}

/// What a change of the list did.
package struct NativeRefusalChange: NativeRecord {
    /// False: it was so before.
    package var hasChanged = false
    /// Connections that are being closed because of it.
    package var connectionsClosed: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "changed", &self.hasChanged)
        try visitor.field(2, "connections_closed", &self.connectionsClosed)
    }
}

/// Asks for the list of refusals.
package struct NativeRefusalsRequest: NativeRequest {
    package typealias Reply = NativeRefusals
    package static let kind = NativeRequestKind.refusals

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// One refusal.
package struct NativeRefusal: NativeRecord {
    package var target = NativeRefusalTarget()
    package var since = NativeTime(0)
    /// The administrator's principal.
    package var by = ""

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "target", &self.target)
        try visitor.field(2, "since", &self.since)
        try visitor.field(3, "by", &self.by)
    }
}

/// All refusals.
package struct NativeRefusals: NativeRecord {
    package var refusals: [NativeRefusal] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "refusals", &self.refusals)
    }
}
