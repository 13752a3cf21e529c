import Glibc
import MWPKI
import TestCertificates
import Testing

@testable import MWServer

/// What `revoke` leaves in the data directory.
@Suite struct RefusalJournalTests {
    private let now = Timestamp(secondsSince1970: 1_795_536_000)

    private func filled(_ directory: TemporaryDirectory) throws -> RefusalJournal {
        let journal = try RefusalJournal(directory: directory.path)
        #expect(try journal.add(.identity("alice"), by: "root", at: self.now))
        #expect(try journal.add(.serialNumber("a1", issuer: "CN=Test CA,O=x"), by: "spiffe://x/op\ner", at: self.now))
        return journal
    }

    @Test func `What was refused is refused after a restart, once, with who asked and when`() throws {
        let directory = try TemporaryDirectory()
        let journal = try self.filled(directory)
        #expect(try !journal.add(.identity("alice"), by: "other", at: self.now))
        let again = try RefusalJournal(directory: directory.path)
        #expect(again.all == journal.all)
        #expect(again.all.map(\.refusal) == [.identity("alice"), .serialNumber("a1", issuer: "CN=Test CA,O=x")])
        // A name with a line break in it is one line.
        #expect(again.all.map(\.by) == ["root", "spiffe://x/op\\0Aer"])
        #expect(again.all.allSatisfy { $0.since == self.now })
        #expect(try again.remove(.identity("alice")) && !again.remove(.identity("alice")))
        #expect(try RefusalJournal(directory: directory.path).refusals == RefusalSet([.serialNumber("a1", issuer: "CN=Test CA,O=x")]))
    }

    @Test func `The file is its owner's alone, and nothing else is left beside it`() throws {
        let directory = try TemporaryDirectory()
        _ = try self.filled(directory)
        var status = stat()
        #expect(unsafe stat(directory.file(RefusalJournal.fileName), &status) == 0)
        #expect(status.st_mode & 0o7777 == 0o600)
        #expect(try MaterialPath.files(of: directory.path, suffixes: [""]).count == 1)
        _ = unsafe chmod(directory.file(RefusalJournal.fileName), 0o644)
        #expect(throws: PKIError.self) { try RefusalJournal(directory: directory.path) }
    }

    // Every prefix, every byte changed, every line left out, and other files.
    @Test func `A file that was cut or changed anywhere is refused as a whole`() throws {
        let directory = try TemporaryDirectory()
        _ = try self.filled(directory)
        let path = directory.file(RefusalJournal.fileName)
        let bytes = try PrivateFile.read(path).bytes
        func expectDamaged(_ damaged: [UInt8], _ what: String) {
            #expect(throws: PKIError.self, "\(what)") { try RefusalJournal.decode(damaged, source: path) }
        }
        for count in bytes.indices { expectDamaged(Array(bytes.prefix(count)), "first \(count) bytes") }
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 0x04
            expectDamaged(damaged, "byte \(index)")
        }
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for index in lines.indices.dropLast() {
            var fewer = lines
            fewer.remove(at: index)
            expectDamaged(Array(fewer.joined(separator: [UInt8(ascii: "\n")])), "without line \(index + 1)")
        }
        expectDamaged(bytes + Array("serial 1\n".utf8), "a line more")
        #expect(try RefusalJournal.decode(bytes, source: path).count == 2)
        #expect(try RefusalJournal.decode(RefusalJournal.encode([]), source: path).isEmpty)
    }

    // A directory in the file's place makes every write fail.
    @Test func `A disk that does not keep a refusal says so, and the refusal holds all the same`() throws {
        let directory = try TemporaryDirectory()
        let journal = try RefusalJournal(directory: directory.path)
        #expect(unsafe mkdir(directory.file(RefusalJournal.fileName), 0o700) == 0)
        #expect(throws: PKIError.self) { try journal.add(.identity("alice"), by: "root", at: self.now) }
        #expect(journal.refusals.contains(.identity("alice")))
        // What cannot be forgotten on disk is not forgotten in memory.
        #expect(throws: PKIError.self) { try journal.remove(.identity("alice")) }
        #expect(journal.refusals.contains(.identity("alice")))
        #expect(throws: PKIError.self) { try RefusalJournal(directory: directory.path) }
    }

    // A directory in the file's place makes the first write fail; then it goes away.
    @Test func `A refusal that the disk did not keep is kept by asking again, whatever is asked then`() throws {
        for second in [Refusal.identity("alice"), .identity("bob")] {
            let directory = try TemporaryDirectory()
            let journal = try RefusalJournal(directory: directory.path)
            let path = directory.file(RefusalJournal.fileName)
            #expect(unsafe mkdir(path, 0o700) == 0)
            #expect(throws: PKIError.self) { try journal.add(.identity("alice"), by: "root", at: self.now) }
            #expect(unsafe rmdir(path) == 0)
            #expect(try journal.add(second, by: "root", at: self.now))
            #expect(try !journal.add(second, by: "root", at: self.now), "now both have it")
            let again = try RefusalJournal(directory: directory.path)
            #expect(again.all == journal.all && again.refusals.contains(.identity("alice")))
        }
    }

    @Test func `One refusal too many is an error, and is in force nowhere`() throws {
        let directory = try TemporaryDirectory()
        let full = (0..<RefusalJournal.maximumCount).map { RefusalRecord(refusal: .identity("user \($0)"), since: self.now, by: "root") }
        try PrivateFile.write(RefusalJournal.encode(full), to: directory.file(RefusalJournal.fileName))
        let journal = try RefusalJournal(directory: directory.path)
        #expect(throws: PKIError.self) { try journal.add(.identity("alice"), by: "root", at: self.now) }
        #expect(!journal.refusals.contains(.identity("alice")))
        #expect(try !journal.add(.identity("user 7"), by: "root", at: self.now))
        #expect(try journal.remove(.identity("user 7")) && journal.add(.identity("alice"), by: "root", at: self.now))
    }
}
