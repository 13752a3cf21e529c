import MWPKI
import Testing

@testable import MWKeystore

// A damaged store gives a typed error: never a crash, never a key. What is tried:
//
//   truncation     every length of every readable store (cheap: the outermost length is wrong)
//   flips, JKS     every bit of every store (cheap: one SHA-1)
//   flips, PKCS#12 a wrong byte costs 10,000 iterations of the MAC's derivation, about 5 ms, so: one flip at every offset of one
//                  keystore and one truststore; at every 23rd offset of the others; and all 255 wrong values of each byte that is
//                  outside of what the MAC covers. Then every bit of a store of ours with a single iteration.
//   repaired flips every byte of a body is changed and the digest or MAC made right again: what a malicious author can do. The
//                  reader may then accept, but a key must still be its certificate's.

struct DamageTests {
    @Test("every truncation of every store is refused", arguments: BundledStore.readable)
    func truncation(_ store: BundledStore) throws {
        let bytes = try store.bytes()
        for count in 0..<bytes.count {
            #expect(throws: KeystoreError.self, "\(count) bytes") { try store.open(Array(bytes.prefix(count))) }
        }
        #expect(throws: KeystoreError.self, "a byte more") { try store.open(bytes + [0]) }
    }

    @Test("every flipped bit of a JKS store is refused", arguments: BundledStore.jks + BundledStore.obsolete)
    func flipsInJKS(_ store: BundledStore) throws {
        let bytes = try store.bytes()
        for offset in bytes.indices {
            for bit in 0..<8 { try expectRefused(store, bytes, offset, 1 << UInt8(bit)) }
        }
    }

    @Test(
        "a flip at every offset of a PKCS#12 store is refused", arguments: ["server.keystore", "client.truststore"], 0..<4)
    func flipsInPKCS12(_ name: String, _ quarter: Int) throws {
        let store = try #require(BundledStore.layout("pkcs12-ec").first { $0.path.hasSuffix(name) })
        let bytes = try store.bytes()
        for offset in bytes.indices where offset % 4 == quarter { try expectRefused(store, bytes, offset, 0x01 << UInt8(offset % 8)) }
    }

    @Test(
        "flips all over the other PKCS#12 stores are refused",
        arguments: BundledStore.pkcs12 + BundledStore.weak + [.several, .chainPKCS12])
    func someFlipsInPKCS12(_ store: BundledStore) throws {
        let bytes = try store.bytes()
        for offset in stride(from: 1, to: bytes.count, by: 23) { try expectRefused(store, bytes, offset, 0xff) }
    }

    @Test("all wrong values of a byte that the MAC does not cover are refused", arguments: [BundledStore.layout("pkcs12-ec")[1]])
    func frameOfPKCS12(_ store: BundledStore) throws {
        let bytes = try store.bytes()
        // PFX and authSafe headers: 30 bytes. MacData: what follows the authSafe's octets; its digest and salt are covered above.
        let content = 30..<30 + (Int(bytes[28]) << 8 | Int(bytes[29]))
        let iterations = bytes.count - 2..<bytes.count
        for offset in bytes.indices where !content.contains(offset) && !iterations.contains(offset) {
            let isOpaque = offset >= content.upperBound + 21 && offset < bytes.count - 4
            for mask in isOpaque ? [0x80] : Array(UInt8(1)...255) { try expectRefused(store, bytes, offset, mask) }
        }
    }

    @Test("every flipped bit of a store of ours is refused")
    func flipsInOurs() throws {
        let (bytes, _) = try Self.cheapStore()
        for offset in bytes.indices {
            for bit in 0..<8 {
                var damaged = bytes
                damaged[offset] ^= 1 << UInt8(bit)
                #expect(throws: KeystoreError.self, "offset \(offset), bit \(bit)") {
                    try Keystore(bytes: damaged, source: "ours", passphrase: Passphrase("x"), limits: Self.cheapLimits)
                }
            }
        }
    }

    @Test(
        "a changed JKS whose digest fits never yields a wrong key",
        arguments: [BundledStore.layout("jks-ec")[0], .layout("jks-ec")[1], .chainJKS])
    func repairedJKS(_ store: BundledStore) throws {
        let bytes = try store.bytes()
        let pins = try Self.pins(store.open())
        let passphrase = try Passphrase(store.password).forStores()
        for offset in 4..<bytes.count - JKSReader.digestBytes {
            for mask in [UInt8(0x01), 0x80, 0xff] {
                var changed = Array(bytes.dropLast(JKSReader.digestBytes))
                changed[offset] ^= mask
                changed += try JKSDigest.digest(of: changed[...], passphrase).bytes
                try expectOnlyKnownKeys(changed, Passphrase(store.password), pins)
            }
        }
    }

    @Test("a changed PKCS#12 whose MAC fits never yields a wrong key")
    func repairedPKCS12() throws {
        let (bytes, pins) = try Self.cheapStore()
        var outer = DERReader(bytes[...])
        var pfx = try outer.sequence("")
        _ = try pfx.integer("")
        var info = try pfx.sequence("")
        _ = try info.objectIdentifier("")
        var explicit = try info.explicit0("")
        let content = try explicit.octets("")
        for offset in content.indices {
            for mask in [UInt8(0x01), 0x80, 0xff] {
                var changed = Array(content)
                changed[offset - content.startIndex] ^= mask
                try expectOnlyKnownKeys(Self.sealed(changed), Passphrase("x"), pins)
            }
        }
    }

    @Test("a changed store without MAC may be read, but never crashes")
    func unauthenticated() throws {
        let store = BundledStore.macless
        let bytes = try store.bytes()
        var refused = 0
        for offset in bytes.indices {
            var damaged = bytes
            damaged[offset] ^= 0xff
            if (try? store.open(damaged)) == nil { refused += 1 }
        }
        #expect(refused > bytes.count / 10)
    }

    // MARK: -

    private func expectRefused(_ store: BundledStore, _ bytes: [UInt8], _ offset: Int, _ mask: UInt8) throws {
        var damaged = bytes
        damaged[offset] ^= mask
        #expect(throws: KeystoreError.self, "offset \(offset), mask \(mask)") { try store.open(damaged) }
    }

    private func expectOnlyKnownKeys(_ bytes: [UInt8], _ passphrase: Passphrase, _ pins: Set<PublicKeyPin>) throws {
        do {
            let store = try Keystore(bytes: bytes, source: "changed", passphrase: passphrase, limits: Self.cheapLimits)
            #expect(Self.pins(store).isSubset(of: pins))
        } catch is KeystoreError {
        } catch is PKIError {
        }
    }

    private static func pins(_ store: Keystore) -> Set<PublicKeyPin> {
        Set(store.entries.filter(\.isPrivateKey).compactMap { $0.certificates.first?.publicKeyPin })
    }

    /// A flip must not make a cheap derivation an expensive one.
    private static let cheapLimits: KeystoreLimits = {
        var limits = KeystoreLimits()
        limits.maximumIterations = 100
        return limits
    }()

    /// A key, its certificate and a trusted one, under one iteration.
    private static func cheapStore() throws -> (bytes: [UInt8], pins: Set<PublicKeyPin>) {
        let key = try BundledStore.layout("pkcs12-ec")[0].open()
        let trusted = try BundledStore.layout("pkcs12-ec")[3].open().entries.filter { $0.alias != "wsTestKey" }
        let store = try Keystore(entries: key.entries + trusted)
        return (try store.pkcs12(passphrase: Passphrase("x"), iterations: 1), pins(key))
    }

    /// A PFX around an authenticated safe, with a MAC that fits.
    private static func sealed(_ content: [UInt8]) throws -> [UInt8] {
        let salt = [UInt8](repeating: 7, count: 8)
        let key = try Cryptography.pkcs12Derivation(
            .sha256, Passphrase("x").forStores().bmp, salt: salt[...], iterations: 1, purpose: .mac, count: 32)
        let mac = try Cryptography.hmac(.sha256, key: key, content[...])
        let digest = DER.sequence([DER.sequence([DER.objectIdentifier(.sha256), DER.null]), DER.octetString(mac)])
        return DER.sequence(
            [
                DER.integer(3), DER.sequence([DER.objectIdentifier(.data), DER.context(0, constructed: DER.octetString(content))]),
                DER.sequence([digest, DER.octetString(salt), DER.integer(1)]),
            ])
    }
}
