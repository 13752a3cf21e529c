import ArgumentParser
import Glibc
import Logging
import MWPKI
import MWServer
import MWTLS
import MWWebSocket
import NIOCore

/// An echo over the server's own TLS and WebSocket layers: what conformance suites and raw probes talk to. Only the message handler differs.
@main
struct EchoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mwstorage-echo", abstract: "Echoes WebSocket messages over mutual TLS.", subcommands: [Serve.self, Connect.self])
}

/// What both ends need for mutual TLS.
struct MaterialOptions: ParsableArguments {
    @Option(help: "PEM file of our chain, leaf first.")
    var certificate: String

    @Option(help: "PEM file of our private key.")
    var key: String

    @Option(help: "PEM file of the authorities or peers to accept.")
    var trust: String

    @Option(name: .customLong("tls-min"), help: "Oldest version of TLS: 1.2 or 1.3.")
    var oldestVersion = "1.2"

    func load() throws -> TLSMaterial {
        try TLSMaterialSource.pem(certificateChainFile: certificate, privateKeyFile: key, trustFile: trust).load()
    }

    func policy() throws -> TLSPolicy {
        guard let version = TLSPolicy.Version(rawValue: "TLSv\(oldestVersion)") else {
            throw ValidationError("--tls-min is 1.2 or 1.3")
        }
        // However busy the machine is; a server has a limit of its own.
        return TLSPolicy(minimumVersion: version, handshakeTimeout: .seconds(120))
    }
}

/// What an echo takes that a storage server does not: the suite sends up to 16 MiB, in up to 65,536 fragments and more.
enum EchoLimits {
    static let maximumMessageBytes = 64 * 1024 * 1024
    static let maximumFragments = 1 << 20
}

struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Listen on loopback until SIGTERM.")

    @Option(help: "TCP port; 0 lets the system choose.")
    var port = 0

    @Option(help: "Event loops.")
    var loops = 1

    @Flag(help: "Log connections to standard error.")
    var verbose = false

    @Option(help: "Seconds for an opening, and for the peer's end of a connection; default: as the storage server.")
    var patience: Int?

    @OptionGroup var material: MaterialOptions

    func run() async throws {
        // Before any thread: SIGTERM is waited for below, in one place.
        let signals = TerminationSignals()
        var options = SessionServer.Options()
        options.limits.maximumMessageBytes = EchoLimits.maximumMessageBytes
        options.limits.maximumFragments = EchoLimits.maximumFragments
        options.limits.maximumConnectionsPerCertificate = options.limits.maximumConnections
        options.opening = OpeningPolicy(paths: .any, origins: .any, subprotocols: .ignored)
        var policy = try material.policy()
        if let patience {
            options.limits.openingTimeout = .seconds(patience)
            policy.lingerTimeout = .seconds(patience)
            // What only these would end has not been ended as it should.
            options.limits.closingTimeout = .seconds(5 * patience)
            options.limits.pingInterval = .seconds(5 * patience)
        }
        policy.handshakeTimeout = options.limits.openingTimeout
        var logger = Logger(label: "mwstorage-echo") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = verbose ? .debug : .error

        let server = try await SessionServer(
            options,
            security: CurrentSecurity(
                SecuritySet(context: try TLSContext(server: material.load(), policy: policy), accessPolicy: .none)),
            eventLoops: loops, logger: logger
        ) { _ in EchoFactory() }
        let addresses = try await server.listen(on: [ListenAddress(host: "127.0.0.1", port: port)])
        print("listening on wss://127.0.0.1:\(addresses.first?.port ?? port)")
        fflush(nil)
        await signals.wait()
        await server.stop(.stop, code: 1001, reason: "the echo ends", within: .seconds(5))
        await server.shutdown()
    }
}

struct Connect: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Connect, echo until closed, exit 0.")

    @Argument(help: "wss://host:port/path")
    var url: String

    @Option(help: "Name to expect in the server's certificate; default: the host of the URL.")
    var serverName: String?

    @OptionGroup var material: MaterialOptions

    func run() async throws {
        let client = try EchoClient(url, serverName: serverName, material: material.load(), policy: material.policy())
        try await client.run()
    }
}
