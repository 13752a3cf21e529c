// The answer to `mwstorage status`.

package import NIOCore

/// Asks how the server is.
package struct NativeStatusRequest: NativeRequest {
    package typealias Reply = NativeStatus
    package static let kind = NativeRequestKind.status

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {}
}

/// How the server is.
package struct NativeStatus: NativeRecord {
    package var server = NativeServerState()
    /// The server's own; not there while it has none.
    package var certificate: NativeCertificate?
    package var trustAnchors: [NativeCertificate] = []
    package var revocationLists: [NativeRevocationList] = []
    package var connections = NativeConnectionState()
    package var limits: [NativeLimit] = []
    package var reload = NativeReloadState()
    package var storage = NativeStorageState()
    /// Version, cipher suite and group of the connections that are open.
    package var tls: [NativeCount] = []
    /// Whatever else takes part in serving has to say, such as the ACME service.
    package var services: [NativeService] = []

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "server", &self.server)
        try visitor.field(2, "certificate", &self.certificate)
        try visitor.field(3, "trust_anchors", &self.trustAnchors)
        try visitor.field(4, "revocation_lists", &self.revocationLists)
        try visitor.field(5, "connections", &self.connections)
        try visitor.field(6, "limits", &self.limits)
        try visitor.field(7, "reload", &self.reload)
        try visitor.field(8, "storage", &self.storage)
        try visitor.field(9, "tls", &self.tls)
        try visitor.field(10, "services", &self.services)
    }
}

/// The process.
package struct NativeServerState: NativeRecord {
    package var version = ""
    package var openSSL = ""
    package var startedAt = NativeTime(0)
    package var now = NativeTime(0)
    package var addresses: [String] = []
    package var eventLoops: Int64 = 0
    package var isDraining = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "version", &self.version)
        try visitor.field(2, "openssl", &self.openSSL)
        try visitor.field(3, "started_at", &self.startedAt)
        try visitor.field(4, "now", &self.now)
        try visitor.field(5, "addresses", &self.addresses)
        try visitor.field(6, "event_loops", &self.eventLoops)
        try visitor.field(7, "draining", &self.isDraining)
    }
}

/// A revocation list in use.
package struct NativeRevocationList: NativeRecord {
    package var issuer = ""
    package var thisUpdate = NativeTime(0)
    package var nextUpdate: NativeTime?
    /// Whole days until ``nextUpdate``.
    package var daysLeft: Int64?
    package var revoked: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "issuer", &self.issuer)
        try visitor.field(2, "this_update", &self.thisUpdate)
        try visitor.field(3, "next_update", &self.nextUpdate)
        try visitor.field(4, "days_left", &self.daysLeft)
        try visitor.field(5, "revoked", &self.revoked)
    }
}

/// The connections, counted.
package struct NativeConnectionState: NativeRecord {
    package var open: Int64 = 0
    /// Without their 101 yet.
    package var opening: Int64 = 0
    package var requestsInFlight: Int64 = 0
    /// By subprotocol.
    package var subprotocols: [NativeCount] = []
    /// By the days that the client's certificate has left: `0`, `1-7`, …
    package var daysLeft: [NativeCount] = []
    /// Different client certificates.
    package var certificates: Int64 = 0
    /// New ones wait in the system, for want of descriptors.
    package var isAcceptingPaused = false

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "open", &self.open)
        try visitor.field(2, "opening", &self.opening)
        try visitor.field(3, "requests_in_flight", &self.requestsInFlight)
        try visitor.field(4, "subprotocols", &self.subprotocols)
        try visitor.field(5, "days_left", &self.daysLeft)
        try visitor.field(6, "certificates", &self.certificates)
        try visitor.field(7, "accepting_paused", &self.isAcceptingPaused)
    }
}

/// A limit, and how much of it is used, where that is a number at all.
package struct NativeLimit: NativeRecord {
    package var name = ""
    package var maximum: Int64 = 0
    /// `connections`, `bytes`, `milliseconds`, …
    package var unit = ""
    package var used: Int64?

    package init() {}

    package init(_ name: String, _ maximum: Int64, _ unit: String, used: Int64? = nil) {
        self.name = name
        self.maximum = maximum
        self.unit = unit
        self.used = used
    }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "name", &self.name)
        try visitor.field(2, "maximum", &self.maximum)
        try visitor.field(3, "unit", &self.unit)
        try visitor.field(4, "used", &self.used)
    }
}

/// The set of certificates, lists and policy in use, beside what the files say now.
package struct NativeReloadState: NativeRecord {
    /// Counts the sets that were taken into use, the first included.
    package var generation: Int64 = 0
    /// When the files of the set in use were read.
    package var loadedAt = NativeTime(0)
    /// When that was tried last, the start included.
    package var triedAt = NativeTime(0)
    /// What asked for it.
    package var trigger = ""
    /// Why it failed; not there: it did not.
    package var failure: String?
    package var reloadsDone: Int64 = 0
    package var reloadsFailed: Int64 = 0
    /// Files that differ from what was read of them.
    package var changedFiles: [String] = []
    /// What is in use; the same names as in ``onDisk``.
    package var loaded: [NativeText] = []
    /// What a reload would take now.
    package var onDisk: [NativeText] = []
    /// Why it could not.
    package var onDiskFailure: String?
    /// In the answer to a reload: connections that it closed.
    package var connectionsClosed: Int64?

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "generation", &self.generation)
        try visitor.field(2, "loaded_at", &self.loadedAt)
        try visitor.field(3, "tried_at", &self.triedAt)
        try visitor.field(4, "trigger", &self.trigger)
        try visitor.field(5, "failure", &self.failure)
        try visitor.field(6, "reloads_done", &self.reloadsDone)
        try visitor.field(7, "reloads_failed", &self.reloadsFailed)
        try visitor.field(8, "changed_files", &self.changedFiles)
        try visitor.field(9, "loaded", &self.loaded)
        try visitor.field(10, "on_disk", &self.onDisk)
        try visitor.field(11, "on_disk_failure", &self.onDiskFailure)
        try visitor.field(12, "connections_closed", &self.connectionsClosed)
    }
}

/// The store.
package struct NativeStorageState: NativeRecord {
    package var engine = ""
    package var directory = ""
    /// `sync` or `os`.
    package var durability = ""
    /// Writes that wait for their commit.
    package var pendingRequests: Int64 = 0
    package var pendingBytes: Int64 = 0
    /// So many wait that the server stops reading from those who write.
    package var isCongested = false
    /// Whether it takes writes.
    package var health = ""
    package var incarnation = ByteBuffer()
    package var revision: Int64 = 0
    package var compactedRevision: Int64 = 0
    /// Sessions, leases, watches, and how far behind the slowest watch is, in revisions.
    package var sessions: Int64 = 0
    package var leases: Int64 = 0
    package var watches: Int64 = 0
    package var greatestLag: Int64 = 0

    package init() {}

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "engine", &self.engine)
        try visitor.field(2, "directory", &self.directory)
        try visitor.field(3, "durability", &self.durability)
        try visitor.field(4, "pending_requests", &self.pendingRequests)
        try visitor.field(5, "pending_bytes", &self.pendingBytes)
        try visitor.field(6, "congested", &self.isCongested)
        try visitor.field(7, "health", &self.health)
        try visitor.field(8, "incarnation", &self.incarnation)
        try visitor.field(9, "revision", &self.revision)
        try visitor.field(10, "compacted_revision", &self.compactedRevision)
        try visitor.field(11, "sessions", &self.sessions)
        try visitor.field(12, "leases", &self.leases)
        try visitor.field(13, "watches", &self.watches)
        try visitor.field(14, "greatest_lag", &self.greatestLag)
    }
}

/// A name and what it stands for.
package struct NativeText: NativeRecord {
    package var name = ""
    package var text = ""

    package init() {}

    package init(_ name: String, _ text: String) {
        self.name = name
        self.text = text
    }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "name", &self.name)
        try visitor.field(2, "text", &self.text)
    }
}

/// A part of the process with a status of its own.
package struct NativeService: NativeRecord {
    package var name = ""
    package var entries: [NativeText] = []

    package init() {}

    package init(_ name: String, _ entries: [NativeText]) {
        self.name = name
        self.entries = entries
    }

    package mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError) {
        try visitor.field(1, "name", &self.name)
        try visitor.field(2, "entries", &self.entries)
    }
}
