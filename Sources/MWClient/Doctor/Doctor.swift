package import Logging
package import MWPKI
import MWProtocol
import MWTLS
import NIOCore
import NIOPosix

/// Walks the way of a connection step by step, and explains where it ends. Verification is as strict as any client's: what an untrusted
/// server showed comes out of the error with which it was refused.
package struct Doctor: Sendable {
    private typealias Finding = DoctorReport.Finding

    private let configuration: StorageClientConfiguration
    private let sources: [String]
    private let logger: Logger

    /// - Parameters:
    ///   - configuration: the client's; its identity need not be loadable.
    ///   - sources: which files the identity comes from, for the evidence.
    package init(configuration: StorageClientConfiguration, sources: [String], logger: Logger) {
        self.configuration = configuration
        self.sources = sources
        self.logger = logger
    }

    /// Examines one endpoint; what is ours is examined with each.
    package func examine(_ endpoint: Endpoint, now: Timestamp = .now()) async -> DoctorReport {
        let identity = self.configuration.identity
        let material = Result { try identity.load() }
        var findings = IdentityExamination.examine(material, sources: self.sources, now: now)
        let (address, name) = await self.resolve(endpoint)
        findings.append(name)
        var isReachable = false
        if let address {
            let tcp = await self.reach(address)
            findings.append(tcp)
            isReachable = tcp.verdict == .ok
        } else {
            findings.append(Finding(.tcp, .skipped, ["there is no address"]))
        }
        if !isReachable {
            findings += Self.skipped([.tls, .serverTrust, .issuers, .welcome, .seen, .protocol], "the server cannot be reached")
        } else if case .success(let material) = material {
            findings += await self.connect(endpoint, material)
        } else {
            findings += Self.skipped(
                [.tls, .serverTrust, .issuers, .welcome, .seen, .protocol], "our own identity or trust cannot be loaded")
        }
        return DoctorReport(endpoint: "\(endpoint)", findings: findings)
    }

    private static func skipped(_ checks: [DoctorReport.Check], _ why: String) -> [Finding] {
        checks.map { Finding($0, .skipped, [why]) }
    }

    // MARK: Name and TCP

    private func resolve(_ endpoint: Endpoint) async -> (SocketAddress?, Finding) {
        do {
            let address = try await NIOThreadPool.singleton.runIfActive {
                try SocketAddress.makeAddressResolvingHost(endpoint.host, port: endpoint.port)
            }
            return (address, Finding(.name, .ok, ["\(endpoint.host) is \(address.ipAddress ?? "\(address)")"]))
        } catch {
            return (
                nil,
                Finding(
                    .name, .fail, ["\(endpoint.host) has no address: \(ConnectionError.text(of: error))"],
                    remedy: "check the endpoint's spelling and this machine's name resolution")
            )
        }
    }

    private func reach(_ address: SocketAddress) async -> Finding {
        let shown = "\(address.ipAddress ?? "?"), port \(address.port ?? 0)"
        let start = NIODeadline.now()
        do {
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connectTimeout(TimeAmount(self.configuration.timeouts.connect))
                .connect(to: address).get()
            let elapsed = NIODeadline.now() - start
            try? await channel.close()
            return Finding(.tcp, .ok, ["\(shown) answered in \(Self.milliseconds(elapsed))"])
        } catch {
            return Finding(
                .tcp, .fail, ["\(shown): \(ConnectionError.text(of: error))"],
                remedy: "check that the server runs and listens on this address and port, and that no firewall is in between")
        }
    }

    private static func milliseconds(_ amount: TimeAmount) -> String { "\(amount.nanoseconds / 1_000_000) ms" }

    // MARK: TLS, the welcome, the protocol

    private struct Outcome: Sendable {
        var peer: VerifiedPeer?
        var error: ClientError?
    }

    private func connect(_ endpoint: Endpoint, _ material: TLSMaterial) async -> [Finding] {
        let outcome = await self.attempt(endpoint)
        guard let peer = outcome.peer else { return self.refused(outcome.error, endpoint) }
        var findings = [
            Finding(
                .tls, .ok, ["\(peer.tlsVersion), \(peer.cipher), group \(peer.group)", "no protocol is negotiated (ALPN): none is needed"]),
            Finding(.serverTrust, .ok, self.evidence(of: peer, endpoint)), Self.issuers(peer.announcedIssuers, material.identity),
        ]
        if let error = outcome.error {
            findings.append(Self.finding(.welcome, error))
            findings += Self.skipped([.seen, .protocol], "the server did not let us in")
            return findings
        }
        findings.append(Finding(.welcome, .ok, ["the server answered 101"]))
        let seen = await self.askWhoWeAre(endpoint)
        findings.append(seen)
        findings.append(await self.ask(endpoint, speaking: seen.verdict == .skipped ? .mwdb : .native))
        return findings
    }

    /// One attempt as a client makes it, up to the 101.
    private func attempt(_ endpoint: Endpoint) async -> Outcome {
        let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
        let configuration = self.configuration
        return await withCheckedContinuation { continuation in
            eventLoop.execute {
                let attempt = ClientConnector(configuration: configuration, eventLoop: eventLoop).connect(to: endpoint)
                attempt.whenComplete { result in
                    switch result {
                    case .success(let opened):
                        opened.close()
                        continuation.resume(returning: Outcome(peer: opened.peer))
                    case .failure(let failure):
                        continuation.resume(returning: Outcome(peer: attempt.peer, error: failure.error))
                    }
                }
            }
        }
    }

    private func refused(_ error: ClientError?, _ endpoint: Endpoint) -> [Finding] {
        guard let error else { return [] }
        if error.code == .serverNotTrusted {
            let tls = Finding(.tls, .ok, ["the server speaks TLS"])
            return [tls, Self.finding(.serverTrust, error)] + Self.skipped([.issuers, .welcome, .seen, .protocol], "we refuse the server")
        }
        if error.code == .unauthenticated {
            // TLS 1.2: the server's verdict is part of the handshake.
            return [Finding(.tls, .ok, ["the server speaks TLS"])]
                + Self.skipped([.serverTrust, .issuers], "the server ended the handshake") + [Self.finding(.welcome, error)]
                + Self.skipped([.seen, .protocol], "the server did not let us in")
        }
        return [Self.finding(.tls, error)] + Self.skipped([.serverTrust, .issuers, .welcome, .seen, .protocol], "TLS failed")
    }

    private static func finding(_ check: DoctorReport.Check, _ error: ClientError) -> Finding {
        var evidence = ["\(error.subject): \(error.what)"]
        if let found = error.found { evidence.append("got \(found)") }
        if let expected = error.expected { evidence.append("wanted \(expected)") }
        if let certificate = (error.underlying as? TLSError)?.certificate {
            evidence += ["\(certificate)", "valid \(certificate.notBefore) to \(certificate.notAfter)"]
        }
        return Finding(check, .fail, evidence, remedy: error.remedy)
    }

    private func evidence(of peer: VerifiedPeer, _ endpoint: Endpoint) -> [String] {
        let wanted =
            switch self.configuration.verification {
            case .nameFromEndpoint: "wanted the name \(endpoint.host)"
            case .name(let name): "wanted the name \(name)"
            case .pinned: "wanted a pinned certificate"
            }
        let names = peer.leaf.dnsNames + peer.leaf.ipAddresses
        return [
            "\(wanted), got \(names.isEmpty ? "no name" : names.joined(separator: ", "))",
            "chain: " + peer.chain.map(\.subject).joined(separator: " < "), "certificate \(peer.leaf.sha256)",
            "valid until \(peer.leaf.notAfter)",
        ]
    }

    private static func issuers(_ announced: [String], _ identity: Identity) -> Finding {
        guard !announced.isEmpty else { return Finding(.issuers, .ok, ["the server announces none: it may accept any"]) }
        let ours = identity.chain.flatMap { [$0.issuer, $0.subject] }
        let evidence = announced.map { "accepts \($0)" }
        guard announced.contains(where: ours.contains) else {
            return Finding(
                .issuers, .warn, evidence + ["our issuer is \(identity.leaf.issuer)"],
                remedy: "use a certificate of one of these issuers, or have ours added to the server's trust store")
        }
        return Finding(.issuers, .ok, evidence)
    }

    private func configuration(for endpoint: Endpoint) -> StorageClientConfiguration {
        var configuration = self.configuration
        configuration.endpoints = [endpoint]
        configuration.reconnection.maximumFailedRounds = 1
        return configuration
    }

    /// What the server sees of us, if it speaks the protocol in which it can say so.
    private func askWhoWeAre(_ endpoint: Endpoint) async -> Finding {
        do {
            let identity = try await AdministrationClient.with(self.configuration(for: endpoint), logger: self.logger) { client in
                try await client.ask(NativeWhoAmI())
            }
            let rights = identity.rights.isEmpty ? "none" : identity.rights.map { VisibleText.escape($0.text) }.joined(separator: ", ")
            return Finding(
                .seen, .ok,
                [
                    "principal \(VisibleText.escape(identity.principal))",
                    "certificate \(VisibleText.escape(identity.certificate.fingerprint))",
                ]
                    + identity.rules.map { "matched by \(VisibleText.escape($0))" } + ["rights: \(rights)"])
        } catch let error as ClientError where error.code == .protocolMismatch {
            return Finding(.seen, .skipped, ["the server does not speak \(nativeSubprotocol), in which it could say so"])
        } catch {
            return Self.finding(.seen, error as? ClientError ?? ClientError(.protocolMismatch, subject: "whoami", what: "\(error)"))
        }
    }

    /// A read that changes nothing, in what the server speaks.
    private func ask(_ endpoint: Endpoint, speaking subprotocol: StorageClientConfiguration.Subprotocol) async -> Finding {
        var configuration = self.configuration(for: endpoint)
        configuration.subprotocol = subprotocol
        let name = subprotocol == .native ? nativeSubprotocol : "mwDB's protocol"
        let start = NIODeadline.now()
        do {
            try await withStorageClient(configuration, logger: self.logger) { client in
                _ = try await client.get([Array("mwstorage.doctor".utf8)])
            }
            return Finding(.protocol, .ok, ["\(name): a read was answered in \(Self.milliseconds(NIODeadline.now() - start))"])
        } catch let error as ClientError where error.code == .forbidden && error.underlying is NativeFailure {
            return Finding(
                .protocol, .ok,
                ["\(name): a read was answered in \(Self.milliseconds(NIODeadline.now() - start)): its key is not ours to read"])
        } catch {
            return Self.finding(.protocol, error as? ClientError ?? ClientError(.protocolMismatch, subject: "read", what: "\(error)"))
        }
    }
}
