import Foundation
import MWProtocol
import NIOCore
import Testing

/// The specification for other languages against the types: what a client's author reads is what is on the wire.
@Suite struct NativeDocumentationTests {
    private static let document: String = {
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let pages = ["NativeProtocol", "NativeData"].map { "Sources/MWProtocol/MWProtocol.docc/\($0).md" }
        return pages.map { (try? String(contentsOfFile: sources.appendingPathComponent($0).path, encoding: .utf8)) ?? "" }.joined(
            separator: "\n")
    }()

    // Every field is written down by a visitor, as a row of its table.
    @Test func `Each record's table has its fields, with tag, kind of value and name`() throws {
        try Self.check(NativeFailure(), "The failure")
        try Self.check(NativeHello(), "Hello")
        try Self.check(NativeWelcome(), "Welcome")
        try Self.check(NativePing(), "Ping")
        try Self.check(NativePong(), "Pong")
        try Self.check(NativeIdentity(), "Identity")
        try Self.check(NativeCertificate(), "Certificate")
        try Self.check(NativeRight(), "Right")
        try Self.check(NativeSessionsRequest(), "SessionsRequest")
        try Self.check(NativeSessions(), "Sessions")
        try Self.check(NativeSessionEntry(), "SessionEntry")
        try Self.check(NativeRejectionsRequest(), "RejectionsRequest")
        try Self.check(NativeRejections(), "Rejections")
        try Self.check(NativeRejection(), "Rejection")
        try Self.check(NativeRefuseRequest(), "RefuseRequest")
        try Self.check(NativeAcceptAgainRequest(), "AcceptAgainRequest")
        try Self.check(NativeRefusalTarget(), "RefusalTarget")
        try Self.check(NativeRefusalChange(), "RefusalChange")
        try Self.check(NativeRefusals(), "Refusals")
        try Self.check(NativeRefusal(), "Refusal")
        try Self.check(NativeAuthorities(), "Authorities")
        try Self.check(NativeAuthority(), "Authority")
        try Self.check(NativeCount(), "Count")
        try Self.check(NativeStatus(), "Status")
        try Self.check(NativeServerState(), "ServerState")
        try Self.check(NativeRevocationList(), "RevocationList")
        try Self.check(NativeConnectionState(), "ConnectionState")
        try Self.check(NativeLimit(), "Limit")
        try Self.check(NativeReloadState(), "ReloadState")
        try Self.check(NativeStorageState(), "StorageState")
        try Self.check(NativeService(), "Service")
        try Self.check(NativeText(), "Text")
    }

    @Test func `So have those of data, watches and leases`() throws {
        try Self.check(NativeWriteID(), "WriteID")
        try Self.check(NativeWritten(), "Written")
        try Self.check(NativeOpenSession(), "OpenSession")
        try Self.check(NativeResumeSession(), "ResumeSession")
        try Self.check(NativeSessionOpened(), "SessionOpened")
        try Self.check(NativeCloseSession(), "CloseSession")
        try Self.check(NativeRange(), "Range")
        try Self.check(NativeEntry(), "Entry")
        try Self.check(NativeGet(), "Get")
        try Self.check(NativeValues(), "Values")
        try Self.check(NativePair(), "Pair")
        try Self.check(NativePut(), "Put")
        try Self.check(NativeRemove(), "Remove")
        try Self.check(NativeScan(), "Scan")
        try Self.check(NativeScanPage(), "ScanPage")
        try Self.check(NativeSnapshotOpened(), "SnapshotOpened")
        try Self.check(NativeCloseSnapshot(), "CloseSnapshot")
        try Self.check(NativeAllocatePrefix(), "AllocatePrefix")
        try Self.check(NativePrefix(), "Prefix")
        try Self.check(NativeCompare(), "Compare")
        try Self.check(NativeOperation(), "Operation")
        try Self.check(NativeTransaction(), "Transaction")
        try Self.check(NativeTransactionResult(), "TransactionResult")
        try Self.check(NativeWatch(), "Watch")
        try Self.check(NativeWatching(), "Watching")
        try Self.check(NativeEndWatch(), "EndWatch")
        try Self.check(NativeProgressRequest(), "ProgressRequest")
        try Self.check(NativeProgress(), "Progress")
        try Self.check(NativeChange(), "Change")
        try Self.check(NativeChanges(), "Changes")
        try Self.check(NativeState(), "State")
        try Self.check(NativeSynced(), "Synced")
        try Self.check(NativeResync(), "Resync")
        try Self.check(NativeWatchEnded(), "WatchEnded")
        try Self.check(NativeReloadNotice(), "ReloadNotice")
        try Self.check(NativeReloadDone(), "ReloadDone")
        try Self.check(NativeDrainNotice(), "DrainNotice")
        try Self.check(NativeGrantLease(), "GrantLease")
        try Self.check(NativeKeepLease(), "KeepLease")
        try Self.check(NativeLease(), "Lease")
        try Self.check(NativeRevokeLease(), "RevokeLease")
        try Self.check(NativeReloadClientsRequest(), "ReloadClientsRequest")
        try Self.check(NativeReloadClients(), "ReloadClients")
        try Self.check(NativeBackupRequest(), "BackupRequest")
        try Self.check(NativeBackup(), "Backup")
        try Self.check(NativeCompactRequest(), "CompactRequest")
        try Self.check(NativeCompacted(), "Compacted")
    }

    @Test func `Each event kind stands in its table with its name`() {
        for (kind, name) in NativeEventKind.names {
            #expect(Self.document.contains("\n| \(kind.rawValue) | \(name) | "), "\(name)")
        }
    }

    @Test func `Each kind and each failure code stands in its table with its name`() {
        for (kind, name) in NativeRequestKind.names {
            #expect(Self.document.contains("\n| \(kind.rawValue) | \(name) | "), "\(name)")
        }
        for (code, name) in NativeFailure.Code.names {
            #expect(Self.document.contains("\n| \(code.rawValue) | \(name) | "), "\(name)")
        }
    }

    private static func check(_ record: some NativeRecord, _ title: String) throws {
        var visitor = RowVisitor()
        var copy = record
        try copy.visit(&visitor)
        let section = try #require(Self.section(title), "no section \(title)")
        let table = section.split(separator: "\n", omittingEmptySubsequences: false).drop { !$0.hasPrefix("| tag |") }.dropFirst(2).prefix {
            $0.hasPrefix("|")
        }
        #expect(table.map(String.init) == visitor.rows, "\(title)")
    }

    private static func section(_ title: String) -> String? {
        for mark in ["\n## ", "\n### "] {
            if let start = Self.document.range(of: "\(mark)\(title)\n") {
                let rest = Self.document[start.upperBound...]
                return String(rest[..<(rest.range(of: "\n#")?.lowerBound ?? rest.endIndex)])
            }
        }
        return nil
    }
}

private struct RowVisitor: NativeFieldVisitor {
    var rows: [String] = []

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value) { self.add(tag, name, "", Value.self) }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value?) {
        self.add(tag, name, "optional ", Value.self)
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ values: inout [Value]) {
        self.add(tag, name, "any number of ", Value.self)
    }

    private mutating func add<Value>(_ tag: NativeTag, _ name: String, _ often: String, _ type: Value.Type) {
        let kind =
            switch type {
            case is Int64.Type: "integer"
            case is Bool.Type: "truth"
            case is NativeTime.Type: "time"
            case is String.Type: "text"
            case is ByteBuffer.Type: "bytes"
            default: "\(type)".replacingOccurrences(of: "Native", with: "")
            }
        let number = tag.isCritical ? "32768 + \(tag.rawValue - 32768)" : "\(tag.rawValue)"
        self.rows.append("| \(number) | \(often)\(kind) | \(name) |")
    }
}
