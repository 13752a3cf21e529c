import ArgumentParser
import Logging
import MWClient
import NIOCore
import UnixSignals

/// `mwstorage tunnel`.
struct TunnelCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "tunnel", abstract: "Let programs without mutual TLS reach the server through a local port.",
        discussion: """
            Listens for plain WebSocket connections (ws://) on loopback only, and carries each to the server over mutual TLS, as the \
            identity given. Meant for clients that cannot do it themselves, as mwDB's original one. Whoever can connect to the port acts as \
            that identity: pages of a browser are kept out, other programs of this machine are not.

            Prints one line once it listens. SIGTERM and SIGINT end it.
            """)

    @Option(help: ArgumentHelp("Loopback address and port to listen on; port 0 for any (default: 127.0.0.1:8080).", valueName: "host:port"))
    var listen: String?

    @Argument(
        help: ArgumentHelp("The server, wss://HOST[:PORT]; several are tried in random order. In place of --endpoint.", valueName: "url"))
    var servers: [String] = []

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private static let defaultAddress = "127.0.0.1:8080"

    func run() async throws {
        // Before the start, so that no signal meets its default.
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        var connection = self.connection
        if !self.servers.isEmpty { connection.endpoint = self.servers }
        let settings = try await connection.settings()
        let (host, port) = try Self.address(self.listen ?? Self.defaultAddress)
        let tunnel = try await Self.start(
            host, port, connection.clientConfiguration(settings), LogLines.logger(settings, label: "mwstorage.tunnel", fallback: .warning))
        try Output.line("listening on ws://\(Self.shown(tunnel.address))")
        for await _ in signals { break }
        await tunnel.stop()
    }

    private static func start(
        _ host: String, _ port: Int, _ configuration: StorageClientConfiguration, _ logger: Logger
    ) async throws -> Tunnel {
        do {
            return try await Tunnel.start(host: host, port: port, to: configuration, logger: logger)
        } catch let error as ClientError where error.code == .invalidArgument {
            var failure = CommandFailure(error)
            failure.status = .usage
            throw failure
        } catch let error as IOError {
            throw CommandFailure(
                .unreachable, "cannot listen on \(host):\(port)", why: systemMessage(error.errnoCode),
                remedy: "choose another port with --listen, or 0 for any", code: "tunnel.listen")
        }
    }

    /// `127.0.0.1:8080`, `[::1]:8080`.
    private static func address(_ text: String) throws -> (String, Int) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw ValidationError("--listen wants HOST:PORT, as 127.0.0.1:8080 or [::1]:8080.")
        }
        var host = text[..<colon]
        if host.first == "[", host.last == "]" { host = host.dropFirst().dropLast() }
        return (host == "localhost" ? "127.0.0.1" : String(host), Int(port))
    }

    private static func shown(_ address: SocketAddress) -> String {
        let host = address.ipAddress ?? ""
        return "\(host.contains(":") ? "[\(host)]" : host):\(address.port ?? 0)"
    }
}
