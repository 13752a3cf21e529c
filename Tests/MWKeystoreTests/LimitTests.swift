import MWPKI
import Testing

@testable import MWKeystore

/// A file cannot make us work or allocate without bound.
struct LimitTests {
    @Test("a file over the limit is refused unread")
    func fileSize() {
        let bytes = [UInt8](repeating: 0x30, count: KeystoreLimits().maximumFileBytes + 1)
        #expect(throws: KeystoreError(.fileTooLarge, "")) { try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x")) }
    }

    @Test("iterations over the limit are refused before they are run, for the MAC and for the entries")
    func iterations() throws {
        let store = try BundledStore.several.open()
        let bytes = try store.pkcs12(passphrase: Passphrase("x"), iterations: 1000)
        var limits = KeystoreLimits()
        limits.maximumIterations = 999
        #expect(throws: KeystoreError(.limitExceeded, "")) {
            try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x"), limits: limits)
        }
        // MAC, certificates and two keys: four derivations.
        limits.maximumIterations = 1000
        limits.maximumTotalIterations = 3999
        #expect(throws: KeystoreError(.limitExceeded, "")) {
            try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x"), limits: limits)
        }
        limits.maximumTotalIterations = 4000
        #expect(try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x"), limits: limits).entries.count == 3)
    }

    @Test("a MAC that asks for 2^31-1 iterations is refused at once")
    func hostileIterations() throws {
        var bytes = try BundledStore.layout("pkcs12-ec")[1].bytes()
        // …, INTEGER 10000 at the end; made four bytes long, and the two sequences around it by two.
        #expect(bytes.suffix(4) == [0x02, 0x02, 0x27, 0x10])
        bytes = bytes.dropLast(4) + [0x02, 0x04, 0x7f, 0xff, 0xff, 0xff]
        bytes[3] += 2
        let macData = try #require(bytes.indices.first { bytes[$0...].starts(with: [0x30, 0x4d, 0x30, 0x31]) })
        bytes[macData + 1] += 2
        #expect(throws: KeystoreError(.limitExceeded, "")) { try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x")) }
    }

    @Test("entries, chains, aliases and salts are bounded")
    func counts() throws {
        let several = try BundledStore.several.open().pkcs12(passphrase: Passphrase("x"), iterations: 1)
        let chain = try BundledStore.chainPKCS12.open()
        func read(_ bytes: [UInt8], _ change: (inout KeystoreLimits) -> Void) throws {
            var limits = KeystoreLimits()
            change(&limits)
            _ = try Keystore(bytes: bytes, source: "x", passphrase: Passphrase("x"), limits: limits)
        }
        #expect(throws: KeystoreError(.limitExceeded, "")) { try read(several) { $0.maximumEntries = 2 } }
        #expect(throws: KeystoreError(.limitExceeded, "")) { try read(several) { $0.maximumSaltBytes = 8 } }
        #expect(throws: KeystoreError(.malformed, "")) { try read(several) { $0.maximumAliasBytes = 4 } }
        let chains = [try chain.pkcs12(passphrase: Passphrase("x"), iterations: 1), try chain.jks(passphrase: Passphrase("x"))]
        for bytes in chains {
            #expect(throws: KeystoreError(.limitExceeded, "")) { try read(bytes) { $0.maximumChainCertificates = 2 } }
        }
    }

    @Test(
        "DER has one form: lengths and integers that are not minimal, indefinite or cut off are refused",
        arguments: [
            [0x30, 0x80, 0x00, 0x00], [0x30, 0x81, 0x01, 0x00], [0x30, 0x82, 0x00, 0x80], [0x30, 0x85, 1, 0, 0, 0, 0],
            [0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            [0x30], [0x30, 0x81], [0x30, 0x01], [0x3f, 0x20, 0x00], [],
        ] as [[UInt8]])
    func lengths(_ bytes: [UInt8]) {
        var reader = DERReader(bytes[...])
        #expect(throws: KeystoreError(.malformed, "")) { try reader.sequence("x") }
    }

    @Test("DER integers are 0 to 2^31-1 in their shortest form")
    func integers() throws {
        func read(_ content: [UInt8]) throws -> Int {
            var reader = DERReader((([0x02, UInt8(content.count)]) + content)[...])
            return try reader.integer("x")
        }
        #expect(try read([0]) == 0)
        #expect(try read([0x7f]) == 127)
        #expect(try read([0x00, 0x80]) == 128)
        #expect(try read([0x7f, 0xff, 0xff, 0xff]) == Int(Int32.max))
        for bad: [UInt8] in [[], [0x80], [0x00, 0x7f], [0x00, 0x00], [0x00, 0x80, 0, 0, 0], [0xff, 0xff]] {
            #expect(throws: KeystoreError(.malformed, ""), "\(bad)") { try read(bad) }
        }
    }

    @Test(
        "object identifiers print as dotted numbers",
        arguments: [
            (ObjectIdentifier.trustedKeyUsage, "2.16.840.1.113894.746875.1.1"), (.sha256, "2.16.840.1.101.3.4.2.1"),
            (.jksKeyProtector, "1.3.6.1.4.1.42.2.17.1.1"),
        ])
    func identifiers(_ identifier: ObjectIdentifier, _ text: String) {
        #expect(identifier.description == text)
    }
}
