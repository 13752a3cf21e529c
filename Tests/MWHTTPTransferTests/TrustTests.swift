import MWHTTPTransfer
import MWPKI
import TestCertificates
import TestHTTPS
import Testing

/// Whom a transfer talks to. Method: real TLS on loopback against certificates that are wrong in one way each.
@Suite struct TrustTests {
    private let bench: Workbench

    init() throws { bench = try Workbench() }

    @Test("a certificate of an authority that was given is accepted")
    func accepted() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let response = try await bench.transfer().send(TransferRequest(.get, url: server.url + "/"))
            #expect(response.status == 200)
        }
    }

    @Test("a certificate of another authority is refused, before the server sees the request")
    func otherAuthority() async throws {
        let stranger = try TestAuthority().issueServer()
        try await bench.serving(.tls(stranger), echo) { server async throws in
            let error = await bench.failure(of: TransferRequest(.get, url: server.url + "/secret-path"), by: try bench.transfer())
            #expect(error.code == .serverNotTrusted)
            #expect(error.description.contains("unable to get local issuer certificate"))
            #expect(error.description.contains("give its root certificate"))
            #expect(!error.description.contains("secret-path"))
            #expect(server.requests.isEmpty)
        }
    }

    @Test("the system's store does not vouch for a private authority, and an own one takes its place")
    func systemStore() async throws {
        try await bench.serving(nil, echo) { server async throws in
            let request = TransferRequest(.get, url: server.url + "/")
            #expect(try await bench.failure(of: request, by: bench.transfer(trust: .system)).code == .serverNotTrusted)
            let both = try bench.transfer(trust: .systemAnd(Array(bench.authority.root.pem.utf8)))
            #expect(try await both.send(request).status == 200)
            let other = Array(try TestAuthority().root.pem.utf8)
            #expect(try await bench.failure(of: request, by: bench.transfer(trust: .only(other))).code == .serverNotTrusted)
        }
    }

    @Test("a certificate for another name is refused")
    func otherName() async throws {
        let other = try bench.authority.issueServer(names: ["elsewhere.example"])
        let error = try await bench.failure(.tls(other), echo)
        #expect(error.code == .serverNotTrusted)
        #expect(error.description.contains("use a name that the server's certificate has"))
    }

    @Test("an expired certificate is refused")
    func expired() async throws {
        let error = try await bench.failure(.tls(try bench.authority.issueServer { $0.expire() }), echo)
        #expect(error.code == .serverNotTrusted)
        #expect(error.description.contains("expired"))
    }

    @Test("a certificate that begins tomorrow is refused, and the clock is named")
    func notYetValid() async throws {
        let error = try await bench.failure(.tls(try bench.authority.issueServer { $0.beginLater() }), echo)
        #expect(error.code == .serverNotTrusted)
        #expect(error.description.contains("clock"))
    }

    @Test("a server with TLS 1.1 only is refused, one with 1.2 is not")
    func oldVersion() async throws {
        let identity = try bench.authority.issueServer()
        #expect(try await bench.failure(.tls(identity, maximum: .tls11), echo).code == .tlsFailed)
        try await bench.serving(.tls(identity, maximum: .tls12), echo) { server async throws in
            #expect(try await bench.transfer().send(TransferRequest(.get, url: server.url + "/")).status == 200)
        }
    }

    @Test("a server without TLS gets no request")
    func noTLS() async throws {
        try await bench.serving(TestHTTPSServer.Protection.none, { $0.reply(status: 200) }) { server async throws in
            let error = await bench.failure(of: TransferRequest(.get, url: server.url + "/"), by: try bench.transfer())
            #expect(error.code == .tlsFailed)
            #expect(server.requests.allSatisfy { $0.method.isEmpty })
        }
    }

    @Test(
        "a URL that is not plainly https is refused before anything is sent",
        arguments: [
            "http://localhost:PORT/", "ftp://localhost:PORT/", "file:///etc/passwd", "localhost:PORT", "//localhost:PORT/", "",
            "https://user:password@localhost:PORT/", "https://", "https://localhost:99999/", "https://local host:PORT/", "https://[::1/",
            "https://localhost:PORT/\r\nHost: elsewhere", "https://localhost:PORT/\0", "javascript:alert(1)",
        ])
    func badURL(template: String) async throws {
        try await bench.serving(nil, echo) { server async throws in
            let url = template.replacing("PORT", with: "\(server.port)")
            let error = await bench.failure(of: TransferRequest(.get, url: url), by: try bench.transfer())
            #expect(error.code == .requestInvalid)
            #expect(!error.description.contains("password@"))
            #expect(server.connectionCount == 0)
        }
    }

    @Test("a redirect is the answer, and is not followed")
    func redirect() async throws {
        try await bench.serving(nil, { $0.reply(status: 302, headers: [("Location", "/elsewhere")]) }) { server async throws in
            let response = try await bench.transfer().send(TransferRequest(.get, url: server.url + "/"))
            #expect(response.status == 302)
            #expect(response.value(of: "location") == "/elsewhere")
            #expect(server.requests.map(\.target) == ["/"])
        }
    }

    @Test("neither an empty User-Agent nor empty trust is taken, and anchors that are no PEM fail closed")
    func configuration() async throws {
        for agent in ["", "a\r\nb", "ä"] {
            #expect(throws: HTTPTransferError(.configurationInvalid, subject: "", "")) { _ = try HTTPTransfer(userAgent: agent) }
        }
        #expect(throws: HTTPTransferError(.configurationInvalid, subject: "", "")) {
            _ = try HTTPTransfer(userAgent: "a", trust: .only([]))
        }
        try await bench.serving(nil, echo) { server async throws in
            let garbage = try bench.transfer(trust: .only(Array("no certificate".utf8)))
            let error = await bench.failure(of: TransferRequest(.get, url: server.url + "/"), by: garbage)
            #expect(error.code == .configurationInvalid || error.code == .serverNotTrusted)
            #expect(server.requests.isEmpty)
        }
    }
}
