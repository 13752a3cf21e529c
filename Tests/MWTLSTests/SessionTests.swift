import COpenSSL
import MWPKI
import MWTLS
import NIOCore
import TestCertificates
import Testing

/// The stream of one connection: bytes arrive whole and in order however they are cut, and hostile bytes end as typed errors: cases 32, 34, 35.
@Suite struct SessionTests {
    private func connected(
        _ version: TLSPolicy.Version, serverPolicy: (inout TLSPolicy) -> Void = { _ in }
    ) throws -> (client: SessionEndpoint, server: SessionEndpoint) {
        let pair = try TestAuthority().materialPair()
        let ends = try attempt(version, server: pair.server, client: pair.client, serverPolicy: serverPolicy)
        try #require(ends.client.peer != nil && ends.server.peer != nil)
        return ends
    }

    @Test("A handshake and data fed byte by byte arrive as if fed at once", arguments: TLSPolicy.Version.allCases)
    func dripFeed(version: TLSPolicy.Version) throws {
        let pair = try TestAuthority().materialPair()
        let (client, server) = try attempt(version, server: pair.server, client: pair.client, pieceBytes: 1)
        #expect(client.peer?.leaf == pair.server.identity.leaf)
        #expect(server.peer?.leaf == pair.client.identity.leaf)
        try client.write("question")
        try server.write("answer")
        join(client, server, pieceBytes: 1)
        #expect(server.text == "question")
        #expect(client.text == "answer")
    }

    @Test("The rest of a record that OpenSSL took a part of is not taken for a record of its own")
    func restOfRecord() throws {
        let pair = try TestAuthority().materialPair()
        let client = SessionEndpoint(
            try TLSContext(client: pair.client, verification: .name(.dns("localhost")), policy: policy(.tls13)))
        let server = SessionEndpoint(try TLSContext(server: pair.server, policy: policy(.tls13)))
        client.step()
        server.feed(client.drain())
        server.step()
        // change_cipher_spec, and a record of 40 bytes cut in two. Its second half looks like a record of 0x3000 bytes.
        let recordBytes: UInt8 = 40
        server.feed(ByteBuffer(bytes: [0x14, 3, 3, 0, 1, 1] + [0x17, 3, 3, 0, recordBytes] + [UInt8](repeating: 9, count: 20)))
        server.step()
        #expect(server.error == nil && server.unreadCiphertextBytes == 0)
        server.feed(ByteBuffer(bytes: [0x17, 3, 3, 0x30, 0] + [UInt8](repeating: 9, count: 14)))
        #expect(!server.hasWholeRecord)
        server.feed(ByteBuffer(bytes: [9]))
        #expect(server.hasWholeRecord)
        // It was no ciphertext of the client's; that is for OpenSSL to find.
        server.step()
        #expect(server.error != nil)
    }

    // RFC 8446 §D.4: clients send one before their last flight, often in a segment of its own.
    @Test func `A change_cipher_spec is no reason for a step, and a second one is`() throws {
        let server = SessionEndpoint(try TLSContext(server: try TestAuthority().materialPair().server, policy: policy(.tls13)))
        let changeCipherSpec: [UInt8] = [0x14, 3, 3, 0, 1, 1]
        for byte in changeCipherSpec {
            server.feed(ByteBuffer(bytes: [byte]))
            #expect(!server.hasWholeRecord)
        }
        let record: [UInt8] = [0x16, 3, 1, 0, 2, 9]
        server.feed(ByteBuffer(bytes: record))
        #expect(!server.hasWholeRecord)
        server.feed(ByteBuffer(bytes: [9]))
        #expect(server.hasWholeRecord)
        let other = SessionEndpoint(try TLSContext(server: try TestAuthority().materialPair().server, policy: policy(.tls13)))
        other.feed(ByteBuffer(bytes: changeCipherSpec + changeCipherSpec))
        #expect(other.hasWholeRecord)
        // What begins with one, and what is none.
        for bytes: [UInt8] in [changeCipherSpec + [0x99], [0x14, 3, 3, 0, 2, 1, 1]] {
            let third = SessionEndpoint(try TLSContext(server: try TestAuthority().materialPair().server, policy: policy(.tls13)))
            third.feed(ByteBuffer(bytes: bytes))
            #expect(third.hasWholeRecord)
        }
    }

    @Test("A million bytes survive any cut", arguments: TLSPolicy.Version.allCases, [nil, 1_000, 16_384, 65_536])
    func manyBytes(version: TLSPolicy.Version, pieceBytes: Int?) throws {
        let (client, server) = try connected(version)
        let data = ByteBuffer(bytes: (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) })
        try client.session.write(data)
        try server.session.write(data)
        join(client, server, pieceBytes: pieceBytes)
        #expect(server.plaintext == data)
        #expect(client.plaintext == data)
        #expect(client.error == nil && server.error == nil)
    }

    @Test(
        "Plaintext leaves in as few records as RFC 8446 §5.1 allows", arguments: TLSPolicy.Version.allCases, [1, 16_384, 16_385, 100_000])
    func fewRecords(version: TLSPolicy.Version, bytes: Int) throws {
        let (client, _) = try connected(version)
        try client.session.write(ByteBuffer(repeating: 7, count: bytes))
        var ciphertext = client.drain()
        var records = 0
        while let header = ciphertext.readBytes(length: 5) {
            ciphertext.moveReaderIndex(forwardBy: Int(header[3]) << 8 | Int(header[4]))
            records += 1
        }
        #expect(records == (bytes + 16_383) / 16_384)
    }

    @Test("34: an end without close_notify is a truncation; what came before it is delivered", arguments: TLSPolicy.Version.allCases)
    func truncation(version: TLSPolicy.Version) throws {
        let (client, server) = try connected(version)
        try client.write("whole")
        try client.write("half")
        var ciphertext = client.drain()
        ciphertext = ciphertext.getSlice(at: ciphertext.readerIndex, length: ciphertext.readableBytes - 3) ?? ciphertext
        server.feed(ciphertext)
        server.step()
        server.end()
        #expect(server.text == "whole")
        #expect(server.error?.code == .truncated)
        #expect(server.error?.isPermanent == false)
        #expect(!server.isClosedByPeer)
    }

    @Test("close_notify ends the stream in order, and nothing is written after it", arguments: TLSPolicy.Version.allCases)
    func orderlyClose(version: TLSPolicy.Version) throws {
        let (client, server) = try connected(version)
        try client.write("last words")
        client.session.close()
        join(client, server)
        #expect(server.text == "last words")
        #expect(server.isClosedByPeer)
        #expect(server.error == nil)
        #expect(throws: TLSError(.closed, "", "")) { try client.write("more") }
        // Half closed: the answer still arrives (RFC 8446 §6.1).
        try server.write("answer")
        join(client, server)
        #expect(client.text == "answer")
    }

    @Test("A flipped bit in a record is found", arguments: TLSPolicy.Version.allCases)
    func corruption(version: TLSPolicy.Version) throws {
        let (client, server) = try connected(version)
        try client.write("data")
        var ciphertext = client.drain()
        let last = ciphertext.writerIndex - 1
        let byte: UInt8 = try #require(ciphertext.getInteger(at: last))
        ciphertext.setInteger(byte ^ 1, at: last)
        server.feed(ciphertext)
        server.step()
        #expect(server.error?.code == .recordRejected)
        #expect(server.error?.alert == .badRecordMAC)
        #expect(server.text.isEmpty)
        join(client, server)
        #expect(client.error?.alert == .badRecordMAC)
        #expect(client.error?.isPermanent == false)
    }

    @Test(
        "35: plain HTTP on the port is told apart",
        arguments: ["GET / HTTP/1.1\r\n\r\n", "POST /x HTTP/1.0\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n"])
    func plainHTTP(request: String) throws {
        let server = SessionEndpoint(try TLSContext(server: TestAuthority().materialPair().server))
        server.feed(ByteBuffer(string: request))
        server.step()
        #expect(server.error?.code == .plaintextReceived)
    }

    @Test("35: TLS 1.1 and 1.0 are refused with protocol_version", arguments: [TLS1_1_VERSION, TLS1_VERSION])
    func oldVersion(version: Int32) throws {
        let server = SessionEndpoint(try TLSContext(server: TestAuthority().materialPair().server))
        let client = RawPeer(.client, minimum: version, maximum: version)
        join(client, server)
        #expect(server.error?.code == .versionRejected)
        #expect(server.error?.alert == .protocolVersion)
        #expect(client.alertReceived == TLSAlert.protocolVersion.rawValue)
    }

    /// An SSLv2 hello; SSH; zeros; a record that is too long; an alert; application data; empty records without end.
    static let notTLS: [[UInt8]] = [
        [0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10] + [UInt8](repeating: 1, count: 40),
        Array("SSH-2.0-OpenSSH_9.2\r\n".utf8),
        [UInt8](repeating: 0, count: 64),
        [0x16, 0x03, 0x01, 0xff, 0xff] + [UInt8](repeating: 0, count: 64),
        [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28],
        [0x17, 0x03, 0x03, 0x00, 0x01, 0x00],
        [[UInt8]](repeating: [0x16, 0x03, 0x01, 0x00, 0x00], count: 64).flatMap { $0 },
    ]

    @Test("35: what is no TLS at all ends as a typed error", arguments: notTLS)
    func noise(bytes: [UInt8]) throws {
        let server = SessionEndpoint(try TLSContext(server: TestAuthority().materialPair().server))
        server.feed(ByteBuffer(bytes: bytes))
        server.step()
        server.end()
        #expect(server.peer == nil)
        #expect(server.error != nil)
    }

    @Test("A handshake cut anywhere is abandoned, never established", arguments: TLSPolicy.Version.allCases)
    func cutHandshake(version: TLSPolicy.Version) throws {
        let authority = try TestAuthority()
        let pair = try authority.materialPair()
        let context = try TLSContext(server: pair.server, policy: policy(version))
        let hello = SessionEndpoint(try TLSContext(client: pair.client, verification: .name(.dns("localhost")), policy: policy(version)))
        hello.step()
        let bytes = hello.drain()
        for length in stride(from: 0, to: bytes.readableBytes, by: 7) {
            let server = SessionEndpoint(context)
            server.feed(try #require(bytes.getSlice(at: bytes.readerIndex, length: length)))
            server.step()
            #expect(server.error == nil)
            server.end()
            #expect(server.error?.code == .handshakeAbandoned)
        }
    }

    @Test("32: renegotiation is refused, and insisting on it ends the connection")
    func renegotiation() throws {
        let authority = try TestAuthority()
        let server = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(.tls12)))
        let client = RawPeer(.client, identity: try authority.issueClient(), maximum: TLS1_2_VERSION)
        join(client, server)
        try #require(server.peer != nil)
        unsafe client.withSSL { ssl in
            _ = unsafe SSL_renegotiate(ssl)
            _ = unsafe SSL_do_handshake(ssl)
        }
        join(client, server)
        #expect(server.session.phase != .handshaking)
        #expect(client.failures.contains("no renegotiation"))
        #expect(client.plaintext.readableBytes == 0)
    }

    @Test("32: a flood of KeyUpdates is cut off, an honest one is not")
    func keyUpdates() throws {
        let (client, server) = try connected(.tls13)
        let authority = try TestAuthority()
        let flooded = SessionEndpoint(try TLSContext(server: authority.materialPair().server, policy: policy(.tls13)))
        let flooder = RawPeer(.client, identity: try authority.issueClient())
        join(flooder, flooded)
        try #require(flooded.peer != nil)
        func update() {
            unsafe flooder.withSSL { ssl in
                _ = unsafe SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED)
                _ = unsafe SSL_do_handshake(ssl)
            }
        }
        update()
        flooder.write("data after an update")
        join(flooder, flooded)
        #expect(flooded.text == "data after an update")
        #expect(flooded.error == nil)
        for _ in 0..<100 where flooded.error == nil {
            update()
            join(flooder, flooded)
        }
        #expect(flooded.error?.code == .keyUpdateFlood)
        // And the other connection did not count them.
        try client.write("unharmed")
        join(client, server)
        #expect(server.text == "unharmed")
    }
}
