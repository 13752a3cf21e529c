import Glibc
import MWPKI
import TestCertificates
import Testing

@Suite struct RefusalTests {
    private static let digits = String(repeating: "ab", count: 32)

    private func fingerprint() throws -> CertificateFingerprint { try #require(CertificateFingerprint(Self.digits)) }

    // Each form once, with what may stand around it.
    @Test func `A list says one refusal a line, with comments and blank lines between`() throws {
        let text = """
            # taken back on 24 November
            sha256:\(Self.digits)   # the old laptop

            \tserial 00:0A:1b issuer CN=Test CA,O=x
            serial 7
            identity spiffe://example.org/alice
            identity half # full
            """
        let set = try RefusalSet.parse(Array(text.utf8), source: "refused")
        let wanted: Set<Refusal> = [
            .certificate(try fingerprint()), .serialNumber("a1b", issuer: "CN=Test CA,O=x"), .serialNumber("7", issuer: nil),
            .identity("spiffe://example.org/alice"), .identity("half # full"),
        ]
        #expect(set.refusals == wanted)
        #expect(try RefusalSet.parse([], source: "refused").isEmpty)
    }

    @Test(arguments: [
        "sha256:abc", "sha256:\(RefusalTests.digits) and more", "sha512:\(RefusalTests.digits)", "serial", "serial xyz",
        "serial 1 by CN=x", "serial 1 issuer", "serial \(String(repeating: "1", count: 41))", "identity", "identity  ", "alice",
        "identity a\u{1b}b",
    ]) func `A line that says nothing is an error with its number`(line: String) throws {
        let text = "# first\nidentity bob\n\(line)\n"
        let error = try #require(throws: PKIError.self) { try RefusalSet.parse(Array(text.utf8), source: "refused") }
        #expect(error.code == .refusalMalformed)
        #expect(error.subject == "refused, line 3", "\(error)")
    }

    @Test func `Bytes that are no text, and more lines than any list has, are refused`() throws {
        #expect(throws: PKIError.self) { try RefusalSet.parse([0x69, 0xFF, 0xFE], source: "x") }
        let many = (0...RefusalSet.maximumCount).map { "serial \(String($0, radix: 16))\n" }.joined()
        #expect(throws: PKIError.self) { try RefusalSet.parse(Array(many.utf8), source: "x") }
    }

    @Test func `What is printed reads back as the same`() throws {
        let refusals: [Refusal] = [
            .certificate(try fingerprint()), .serialNumber("0", issuer: nil), .serialNumber("ff", issuer: "CN=a b,O=c#d"),
            .identity("al ice"),
        ]
        for refusal in refusals { #expect(try Refusal("\(refusal)") == refusal) }
    }

    // 20,000 lines of random bytes and of damaged good lines, with a fixed seed.
    @Test func `Whatever a list says, it is read or refused, never half`() throws {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((state >> 33) % UInt64(bound))
        }
        let good = ["sha256:\(Self.digits) # x", "serial 0a1b issuer CN=Test CA", "identity spiffe://a/b", "# comment"].map {
            Array($0.utf8)
        }
        for _ in 0..<20_000 {
            var bytes = good[random(good.count)]
            for _ in 0..<random(4) { bytes[random(bytes.count)] = UInt8(random(256)) }
            if random(4) == 0 { bytes.removeLast(random(bytes.count)) }
            do {
                for refusal in try RefusalSet.parse(bytes, source: "x").refusals { #expect(try Refusal("\(refusal)") == refusal) }
            } catch { #expect((error as? PKIError)?.code == .refusalMalformed) }
        }
    }

    @Test func `A peer is refused by its certificate, its serial number, an authority of its chain, or any of its names`() throws {
        let authority = try TestAuthority()
        let alice = try authority.issueClient(name: "alice").leaf
        let named = try authority.issueClient(name: "alice") { $0.alternativeNames = [.uri("spiffe://x/a"), .dns("a.example")] }.leaf
        let chain = [alice, authority.root]
        func refusal(_ refusal: Refusal, _ chain: [Certificate], _ names: [String] = []) -> Refusal? {
            RefusalSet([refusal, .identity("somebody else")]).refusal(of: chain, names: names)
        }
        for wanted in [
            Refusal.certificate(alice.sha256), .certificate(authority.root.sha256), .serialNumber(alice.serialNumber, issuer: nil),
            .serialNumber(alice.serialNumber, issuer: alice.issuer), .identity("alice"),
        ] { #expect(refusal(wanted, chain) == wanted) }
        #expect(refusal(.serialNumber(alice.serialNumber, issuer: "CN=Other CA"), chain) == nil)
        #expect(refusal(.identity("laptop"), chain, ["laptop"]) == .identity("laptop"))
        // A common name is nobody's beside a subject alternative name.
        #expect(refusal(.identity("alice"), [named, authority.root]) == nil)
        #expect(refusal(.identity("spiffe://x/a"), [named]) != nil && refusal(.identity("a.example"), [named]) != nil)
        #expect(RefusalSet().refusal(of: chain, names: ["alice"]) == nil)
    }
}

@Suite struct RevocationListLoadingTests {
    @Test func `Of several lists of one authority the newest counts`() throws {
        let authority = try TestAuthority()
        let alice = try authority.issueClient().leaf
        let now = Timestamp.now()
        let old = try authority.revocationList {
            $0.thisUpdate = now.adding(days: -9)
            $0.nextUpdate = now.adding(days: -2)
        }
        let new = try authority.revocationList(revoking: [alice])
        for lists in [[old, new], [new, old]] { #expect(try authority.trustStore(revocationLists: lists).revocationLists == [new]) }
        #expect(throws: PKIError.self) { try authority.trustStore(revocationLists: [old]) }
    }

    @Test func `A grace lets a late list in for that long, with a warning that names issuer and date`() throws {
        let authority = try TestAuthority()
        let now = Timestamp.now()
        let late = try authority.revocationList {
            $0.thisUpdate = now.adding(days: -9)
            $0.nextUpdate = now.adding(seconds: -60)
        }
        func store(_ grace: Int64) throws -> TrustStore {
            try TrustStore(
                anchors: [TrustAnchor(certificate: authority.root)], revocationLists: [late], revocationGraceSeconds: grace, at: now)
        }
        #expect(throws: PKIError.self) { try store(0) }
        let over = try #require(throws: PKIError.self) { try store(59) }
        #expect(over.code == .revocationListExpired && "\(over)".contains("CN=Test CA") && "\(over)".contains("\(late.nextUpdate)"))
        let warnings = try store(120).warnings(at: now)
        #expect(warnings.count == 1)
        #expect(warnings.first?.contains("CN=Test CA") == true && warnings.first?.contains("\(late.nextUpdate)") == true)
    }

    @Test func `A list is warned of when four fifths of its life are over`() throws {
        let authority = try TestAuthority()
        let now = Timestamp.now()
        let list = try authority.revocationList {
            $0.thisUpdate = now
            $0.nextUpdate = now.adding(seconds: 1000)
        }
        let store = try authority.trustStore(revocationLists: [list])
        #expect(store.warnings(at: now.adding(seconds: 799)).isEmpty)
        #expect(store.warnings(at: now.adding(seconds: 800)).first?.contains("\(list.nextUpdate)") == true)
    }

    @Test func `A chain ends with its first certificate, or with the list that speaks for it`() throws {
        let authority = try TestAuthority()
        let now = Timestamp.now()
        let leaf = try authority.issueClient { $0.notAfter = now.adding(seconds: 500) }.leaf
        let list = try authority.revocationList { $0.nextUpdate = now.adding(seconds: 100) }
        let chain = [leaf, authority.root]
        #expect(try authority.trustStore().end(of: chain) == now.adding(seconds: 500))
        #expect(try authority.trustStore(revocationLists: [list]).end(of: chain) == now.adding(seconds: 100))
        let graced = try TrustStore(
            anchors: [TrustAnchor(certificate: authority.root)], revocationLists: [list], revocationGraceSeconds: 50)
        #expect(graced.end(of: chain) == now.adding(seconds: 150))
        #expect(try authority.trustStore(revocationLists: [list]).end(of: [try TestAuthority(name: "Other").root]) > now.adding(days: 1))
    }

    // A directory as `trust` and as `crl`, with an old list, a DER list and files that do not count.
    @Test func `Directories of certificates and of lists are read file by file`() throws {
        let (one, two) = (try TestAuthority(name: "One"), try TestAuthority(name: "Two"))
        let directory = try TemporaryDirectory()
        let material = TLSMaterial(identity: try one.issueServer(), trustStore: try one.trustStore())
        _ = try material.writePEM(to: directory, prefix: "server")
        for name in ["trust", "lists", "empty"] { try makeDirectory(directory.file(name)) }
        try directory.write("trust/one.pem", one.root.pem)
        try directory.write("trust/two.crt", two.root.pem)
        try directory.write("trust/.hidden.pem", "not a certificate")
        try directory.write("trust/README", "not a certificate")
        try directory.write("lists/one.pem", try one.revocationList().pem)
        try directory.write("lists/two.der", try two.revocationList().derBytes)
        func source(_ lists: [String]) -> TLSMaterialSource {
            .pem(
                certificateChainFile: directory.file("server.chain.pem"), privateKeyFile: directory.file("server.key.pem"),
                trustFile: directory.file("trust"), revocationListFiles: lists.map { directory.file($0) })
        }
        let store = try source(["lists"]).load().trustStore
        #expect(store.anchors.count == 2 && store.revocationLists.count == 2)
        // Who names a directory of lists means that there are some.
        #expect(throws: PKIError.self) { try source(["empty"]).load() }
        #expect(throws: PKIError.self) { try source(["lists/one.pem"]).load() }
    }

    private func makeDirectory(_ path: String) throws { #expect(unsafe mkdir(path, 0o700) == 0) }
}
