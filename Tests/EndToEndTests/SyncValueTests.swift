import MWClient
import TestCertificates
import Testing

@testable import mwstorage

/// What the commands that stay in sync are made of, as values.
@Suite("Values of the commands that stay in sync")
struct SyncValueTests {
    private static let incarnation = (0..<16).map { UInt8($0) }
    private static let revision = RevisionText(incarnation: incarnation, number: 7)
    private static let token = "000102030405060708090a0b0c0d0e0f:7"

    @Test("a revision is printed and taken with its incarnation, and only so")
    func revisions() {
        #expect("\(Self.revision)" == Self.token)
        #expect(RevisionText(argument: Self.token) == Self.revision)
        for text in ["7", ":7", "00:7", Self.token + "x", "000102030405060708090a0b0c0d0e0f:", "000102030405060708090a0b0c0d0e0f:-1", ""] {
            #expect(RevisionText(argument: text) == nil, "\(text)")
        }
    }

    @Test(
        "ranges are read",
        arguments: [
            ("a..b", "a", "b"), ("a..", "a", nil), ("..b", "", "b"), ("..", "", nil), ("a.b..c", "a.b", "c"),
        ] as [(String, String, String?)])
    func ranges(_ text: String, _ lower: String, _ upper: String?) throws {
        let range = try KeyRangeOptions.keyRange(text) { Array($0.utf8) }
        #expect(range == KeyRange(from: Array(lower.utf8), to: upper.map { Array($0.utf8) }))
    }

    @Test("what is no range is refused", arguments: ["", "a", "a...b", "a..b..c", "b..a", "a..a", "...a"])
    func badRanges(_ text: String) {
        #expect(throws: CommandFailure.self) { try KeyRangeOptions.keyRange(text) { Array($0.utf8) } }
    }

    @Test("a range of bytes is written in hexadecimal")
    func hexadecimalRange() throws {
        let range = try KeyRangeOptions.keyRange("2e2e..ff") { try #require(Bytes.bytes(hex: $0)) }
        #expect(range == KeyRange(from: [0x2E, 0x2E], to: [0xFF]))
        #expect(range.text == #""..".."\xff""#)
    }

    @Test("a revision is one line of JSON, or a line for each of its changes")
    func lines() {
        let changes = [
            ChangeLines.Change(key: Array("a".utf8), value: Array("1\n".utf8), isRemoval: false, previousRevision: 0, lease: 5),
            ChangeLines.Change(key: [0xFF], value: [], isRemoval: true, previousRevision: 3),
        ]
        #expect(
            String(decoding: ChangeLines(.ndjson).changes(changes, at: Self.revision), as: UTF8.self) == """
                {"event":"changes","revision":"\(Self.token)","changes":[{"change":"put","key":"a","value":"1\\n","encoding":"utf8",\
                "previous_revision":null,"lease":5},{"change":"remove","key":"/w==","value":null,"encoding":"base64","previous_revision":3}]}

                """)
        #expect(
            String(decoding: ChangeLines(.text).changes(changes, at: Self.revision), as: UTF8.self) == """
                \(Self.token) put "a" "1\\n"
                \(Self.token) remove "\\xff"

                """)
        #expect(ChangeLines(.raw).changes(changes, at: Self.revision) == Array("1\n".utf8))
        let entry = ChangeLines.Entry(key: Array("a".utf8), value: Array("1".utf8), revision: 2)
        #expect(
            String(decoding: ChangeLines(.json).state([entry], at: Self.revision), as: UTF8.self) == """
                {"event":"state","revision":"\(Self.token)","entries":[{"key":"a","value":"1","encoding":"utf8",\
                "revision":"\(RevisionText(incarnation: Self.incarnation, number: 2))"}]}

                """)
        #expect(
            String(decoding: ChangeLines(.ndjson).mark("resync", at: Self.revision, reason: "compacted"), as: UTF8.self)
                == #"{"event":"resync","revision":"\#(Self.token)","reason":"compacted"}"# + "\n")
        #expect(String(decoding: ChangeLines(.text).mark("synced", at: Self.revision), as: UTF8.self) == "\(Self.token) synced\n")
    }

    // Loads, follows, loads again; what was not finished is never seen.
    @Test("a copy on disk is what it was at its position, and a load shows only once it is whole")
    func replicaDirectory() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("copy")
        func entry(_ key: String, _ value: String, _ revision: UInt64) -> ReplicaDirectory.Entry {
            .init(key: Array(key.utf8), value: Array(value.utf8), revision: revision)
        }
        func contents(_ copy: ReplicaDirectory) throws -> [ReplicaDirectory.Entry] {
            var entries: [ReplicaDirectory.Entry] = []
            try copy.scan(from: [], to: nil) {
                entries.append($0)
                return true
            }
            return entries
        }
        var copy = try ReplicaDirectory(path: path, range: "all keys")
        #expect(copy.position == nil)
        try copy.beginLoading()
        try copy.load([entry("a", "1", 1), entry("b", "2", 2)])
        #expect(try contents(copy).isEmpty, "a load that is not whole does not show")
        try copy.finishLoading(incarnation: Self.incarnation, revision: 2)
        try copy.apply([.put(key: Array("c".utf8), value: Array("3".utf8)), .remove(key: Array("a".utf8))], revision: 3)
        let whole = [entry("b", "2", 2), entry("c", "3", 3)]
        #expect(try contents(copy) == whole)
        // Cut off in the middle of another load.
        try copy.beginLoading()
        try copy.load([entry("z", "9", 9)])
        copy.close()

        copy = try ReplicaDirectory(path: path, range: "all keys")
        #expect(copy.position?.revision == 3 && copy.position?.incarnation == Self.incarnation)
        #expect(try contents(copy) == whole)
        #expect(throws: CommandFailure.self, "another process") { try ReplicaDirectory(path: path, range: "all keys") }
        try copy.beginLoading()
        try copy.load([entry("d", "4", 4)])
        try copy.finishLoading(incarnation: Self.incarnation, revision: 4)
        #expect(try contents(copy) == [entry("d", "4", 4)])
        var backward: [[UInt8]] = []
        try copy.scan(from: [], to: Array("d".utf8), backward: true) {
            backward.append($0.key)
            return true
        }
        #expect(backward.isEmpty)
        copy.close()
        #expect(throws: CommandFailure.self, "another range") { try ReplicaDirectory(path: path, range: "\"a\"..") }
        #expect(throws: CommandFailure.self, "not a copy") { try ReplicaDirectory(path: directory.path, range: "all keys") }
        #expect(throws: CommandFailure.self, "nothing there") { try ReplicaDirectory(path: directory.file("none"), range: nil) }
    }
}
