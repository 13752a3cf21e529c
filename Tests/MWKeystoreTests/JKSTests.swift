import MWPKI
import Testing

@testable import MWKeystore

/// What JKS allows and what it does not, on files made by hand with a digest that fits.
struct JKSTests {
    static let passphrase = "x"

    @Test("a JKS file of our own is read back", arguments: [BundledStore.several, .chainPKCS12])
    func roundTrip(_ bundled: BundledStore) throws {
        let store = try bundled.open()
        let bytes = try store.jks(passphrase: Passphrase("pässwörd"))
        let read = try Keystore(bytes: bytes, source: "ours", passphrase: Passphrase("pässwörd"))
        #expect(read.format == .jks)
        #expect(contents(read) == contents(store))
    }

    @Test("an empty store is a store")
    func empty() throws {
        #expect(try open(JKSReader.magic + be(2) + be(0)).entries.isEmpty)
    }

    @Test("version 1 has certificates without a type")
    func versionOne() throws {
        let der = try certificate()
        let entry = be(2) + utf("a") + time + be(UInt32(der.count)) + der
        #expect(try open(JKSReader.magic + be(1) + be(1) + entry).entries.map(\.alias) == ["a"])
    }

    @Test("alias text is Java's", arguments: ["a", "ä", "\u{0}b", "𝄞", "汉"])
    func aliases(_ alias: String) throws {
        let der = try certificate()
        let body = JKSReader.magic + be(2) + be(1) + be(2) + utf(alias) + time + utf("X.509") + be(UInt32(der.count)) + der
        #expect(try open(body).entries.map(\.alias) == [alias])
    }

    static let header = JKSReader.magic + be(2)

    @Test(
        "what is not JKS is refused with its code",
        arguments: [
            ("version 3", JKSReader.magic + be(3) + be(0), KeystoreError.Code.formatUnsupported),
            ("version 0", JKSReader.magic + be(0) + be(0), .formatUnsupported),
            ("trailing bytes", header + be(0) + [0], .malformed),
            ("tag 3", header + be(1) + be(3) + utf("a") + time, .malformed),
            ("tag 0", header + be(1) + be(0) + utf("a") + time, .malformed),
            ("count 0xFFFFFFFF", header + be(.max), .limitExceeded),
            ("a count over the entries", header + be(1), .malformed),
            ("an alias longer than the file", header + be(1) + be(2) + [0xff, 0xff], .malformed),
            ("an alias that is no modified UTF-8", header + be(1) + be(2) + [0, 1, 0xff] + time, .malformed),
            ("an alias with a plain NUL", header + be(1) + be(2) + [0, 1, 0] + time, .malformed),
            ("a key's length 0xFFFFFFFF", header + be(1) + be(1) + utf("a") + time + be(.max), .malformed),
            ("a certificate's length 0xFFFFFFFF", header + be(1) + be(2) + utf("a") + time + utf("X.509") + be(.max), .malformed),
            ("a chain of 0xFFFFFFFF", header + be(1) + be(1) + utf("a") + time + be(1) + [0] + be(.max), .limitExceeded),
            ("a certificate of another type", header + be(1) + be(2) + utf("a") + time + utf("PGP") + be(0), .formatUnsupported),
            ("a certificate that is none", header + be(1) + be(2) + utf("a") + time + utf("X.509") + be(1) + [0], .certificateMalformed),
            ("a key without a chain", header + be(1) + be(1) + utf("a") + time + be(0) + be(0), .malformed),
        ])
    func refusals(_ name: String, _ body: [UInt8], _ code: KeystoreError.Code) throws {
        let error = #expect(throws: KeystoreError.self) { try open(body) }
        #expect(error?.code == code)
    }

    @Test("a key of another protector is refused")
    func foreignProtector() throws {
        let info = DER.sequence([
            DER.sequence([DER.objectIdentifier(.pbes2), DER.null]), DER.octetString([UInt8](repeating: 0, count: 64)),
        ])
        let body = Self.header + be(1) + be(1) + utf("a") + time + be(UInt32(info.count)) + info + be(0)
        #expect(throws: KeystoreError(.algorithmUnsupported, "")) { try open(body) }
    }

    @Test("two aliases that differ in case only are refused")
    func duplicates() throws {
        let der = try certificate()
        func entry(_ alias: String) -> [UInt8] { be(2) + utf(alias) + time + utf("X.509") + be(UInt32(der.count)) + der }
        #expect(throws: KeystoreError(.aliasDuplicate, "")) { try open(Self.header + be(2) + entry("a") + entry("A")) }
    }

    @Test("magic: JCEKS has its own message, anything else is unknown")
    func magic() throws {
        #expect(throws: KeystoreError(.formatUnsupported, "")) { try open(JKSReader.jceksMagic + be(2) + be(0)) }
        #expect(throws: KeystoreError(.formatUnknown, "")) { try open([0xfe, 0xed, 0xfe, 0xee] + be(2) + be(0)) }
    }

    @Test("the digest is checked before anything is parsed")
    func order() throws {
        let body = JKSReader.magic + be(99) + be(.max)
        #expect(throws: KeystoreError(.passphraseRejected, "")) {
            try Keystore(bytes: body + [UInt8](repeating: 0, count: 20), source: "x", passphrase: Passphrase("x"))
        }
    }

    private func open(_ body: [UInt8]) throws -> Keystore {
        let digest = try JKSDigest.digest(of: body[...], Passphrase(Self.passphrase).forStores())
        return try Keystore(bytes: body + digest.bytes, source: "made by hand", passphrase: Passphrase(Self.passphrase))
    }

    private func certificate() throws -> [UInt8] {
        try BundledStore.openssl.open().entries[0].certificates[0].derBytes
    }
}

private let time = [UInt8](repeating: 0, count: 8)

private func be(_ value: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
}

private func utf(_ text: String) -> [UInt8] {
    let bytes = JavaText.encode(text)
    return [UInt8(bytes.count >> 8), UInt8(bytes.count & 0xff)] + bytes
}
