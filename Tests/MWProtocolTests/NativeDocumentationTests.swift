import Foundation
import MWProtocol
import NIOCore
import Testing

/// The specification for other languages against the types: what a client's author reads is what is on the wire.
@Suite struct NativeDocumentationTests {
    private static let document: String = {
        let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let path = sources.appendingPathComponent("Sources/MWProtocol/MWProtocol.docc/NativeProtocol.md").path
        return (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
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
