// What every client may ask of a connection.
//
// hello    tag  value               welcome  tag  value
//          1    integer  version             1    integer  version, the lower of both sides'
//          2    text     name                2    text     server's version
//                                            3    text     principal
//                                            4    integer  largest message in bytes, either way
//                                            5    integer  requests in flight, at most
//                                            6    integer  connection's number
//                                            7    bytes    the store's incarnation, 16
//                                            8    integer  the store's revision
//                                            9    integer  the revision behind which watches can begin
//
// ping     1    bytes    anything   pong     1    bytes    the same
//
// whoami   –                        identity, see NativeIdentity

package import NIOCore

/// Says which protocol version the client speaks, and asks who is there. It need not be sent: without it, version 1 is spoken.
package struct NativeHello: NativeRequest {
    package typealias Reply = NativeWelcome
    package static let kind = NativeRequestKind.hello

    /// The version of this file. A later one only adds to it.
    package static let currentVersion: Int64 = 1

    package var version = currentVersion
    /// The client's software, for the log.
    package var name = ""

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "version", &self.version)
        try visitor.field(2, "name", &self.name)
    }
}

/// What the client may count on.
package struct NativeWelcome: NativeRecord {
    package var version = NativeHello.currentVersion
    package var serverVersion = ""
    package var principal = ""
    package var maximumMessageBytes: Int64 = 0
    package var maximumRequestsInFlight: Int64 = 0
    package var connection: Int64 = 0
    /// 16 bytes: which store this is. A restored one is another.
    package var incarnation = ByteBuffer()
    /// The store's revision.
    package var revision: Int64 = 0
    /// Watches can begin behind this revision.
    package var compactedRevision: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "version", &self.version)
        try visitor.field(2, "server_version", &self.serverVersion)
        try visitor.field(3, "principal", &self.principal)
        try visitor.field(4, "maximum_message_bytes", &self.maximumMessageBytes)
        try visitor.field(5, "maximum_requests_in_flight", &self.maximumRequestsInFlight)
        try visitor.field(6, "connection", &self.connection)
        try visitor.field(7, "incarnation", &self.incarnation)
        try visitor.field(8, "revision", &self.revision)
        try visitor.field(9, "compacted_revision", &self.compactedRevision)
    }
}

/// Asks for an answer, to see that there is one.
package struct NativePing: NativeRequest {
    package typealias Reply = NativePong
    package static let kind = NativeRequestKind.ping

    package var payload = ByteBuffer()

    package init() {}

    package init(payload: ByteBuffer) { self.payload = payload }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "payload", &self.payload)
    }
}

/// The answer, with the ping's payload.
package struct NativePong: NativeRecord {
    package var payload = ByteBuffer()

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "payload", &self.payload)
    }
}

/// Asks what the server sees of this client.
package struct NativeWhoAmI: NativeRequest {
    package typealias Reply = NativeIdentity
    package static let kind = NativeRequestKind.whoami

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// A certificate, as far as people need it.
package struct NativeCertificate: NativeRecord {
    /// RFC 4514.
    package var subject = ""
    /// RFC 4514.
    package var issuer = ""
    /// `sha256:` and 64 hexadecimal digits.
    package var fingerprint = ""
    /// Hexadecimal.
    package var serial = ""
    package var uris: [String] = []
    package var dnsNames: [String] = []
    package var emailAddresses: [String] = []
    package var ipAddresses: [String] = []
    package var notBefore = NativeTime(0)
    package var notAfter = NativeTime(0)
    /// Whole days until ``notAfter`` by the server's clock, negative after it.
    package var daysLeft: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "subject", &self.subject)
        try visitor.field(2, "issuer", &self.issuer)
        try visitor.field(3, "fingerprint", &self.fingerprint)
        try visitor.field(4, "serial", &self.serial)
        try visitor.field(5, "uris", &self.uris)
        try visitor.field(6, "dns_names", &self.dnsNames)
        try visitor.field(7, "email_addresses", &self.emailAddresses)
        try visitor.field(8, "ip_addresses", &self.ipAddresses)
        try visitor.field(9, "not_before", &self.notBefore)
        try visitor.field(10, "not_after", &self.notAfter)
        try visitor.field(11, "days_left", &self.daysLeft)
    }
}

/// What a principal may do with keys that begin with a prefix.
package struct NativeRight: NativeRecord {
    /// `read`, `write`, `watch` or `administer`.
    package var right = ""
    /// Empty: every key.
    package var prefix = ByteBuffer()

    package init() {}

    package init(_ right: String, prefix: ByteBuffer) {
        self.right = right
        self.prefix = prefix
    }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "right", &self.right)
        try visitor.field(2, "prefix", &self.prefix)
    }

    /// On one line, with what is not printable as `\xNN`: `read everything`, `write 'world/…'`.
    package var text: String {
        guard self.prefix.readableBytes > 0 else { return "\(self.right) everything" }
        var shown = ""
        for byte in self.prefix.readableBytesView {
            let isPrintable = byte >= 0x20 && byte < 0x7f
            shown += isPrintable ? String(Unicode.Scalar(byte)) : "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return "\(self.right) '\(shown)…'"
    }
}

/// What the server sees of a client, and what follows from it.
package struct NativeIdentity: NativeRecord {
    package var principal = ""
    package var certificate = NativeCertificate()
    /// The rules of the access policy that matched, each with its place in the file.
    package var rules: [String] = []
    package var rights: [NativeRight] = []
    package var isAdministrator = false
    package var address = ""
    /// Version, cipher suite, group.
    package var tls = ""
    package var connection: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "principal", &self.principal)
        try visitor.field(2, "certificate", &self.certificate)
        try visitor.field(3, "rules", &self.rules)
        try visitor.field(4, "rights", &self.rights)
        try visitor.field(5, "administrator", &self.isAdministrator)
        try visitor.field(6, "address", &self.address)
        try visitor.field(7, "tls", &self.tls)
        try visitor.field(8, "connection", &self.connection)
    }
}
