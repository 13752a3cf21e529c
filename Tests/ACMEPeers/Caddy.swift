internal import Foundation

/// The CA that is in caddy, of Debian, alone in a network of its own: it looks for answers on the ports 80 and 443 of `localhost`.
package final class Caddy: Sendable {
    /// Only whoever is in its network gets there; see `inside`.
    package static let directoryURL = "https://localhost:15443/acme/local/directory"
    private let process: PeerProcess

    package static func start() async throws -> Caddy {
        let directory = try makePeerDirectory()
        try Data(configuration.utf8).write(to: URL(fileURLWithPath: directory + "/Caddyfile"))
        // Who is not root may have a network where he is.
        let namespaces = geteuid() == 0 ? ["unshare", "--net"] : ["unshare", "--user", "--map-root-user", "--net"]
        let process = try PeerProcess(
            namespaces + [
                "sh", "-c", "ip link set lo up && cd \"$1\" && exec caddy run --config Caddyfile --adapter caddyfile", "sh", directory,
            ], directory: directory, environment: ["XDG_DATA_HOME": directory, "XDG_CONFIG_HOME": directory])
        let caddy = Caddy(process)
        try await process.wait("caddy") {
            guard FileManager.default.fileExists(atPath: caddy.trustFile), let prefix = try? caddy.inside([]) else { return false }
            return await Curl.get(directoryURL, trust: caddy.trustFile, prefix: prefix) != nil
        }
        return caddy
    }

    private init(_ process: PeerProcess) { self.process = process }

    deinit { process.end(keepingDirectory: false) }

    /// A PEM file with whom to trust for `directoryURL`, and the root of what it issues.
    package var trustFile: String { process.directory + "/data/pki/authorities/local/root.crt" }

    package var log: String { (try? String(contentsOfFile: process.directory + "/log", encoding: .utf8)) ?? "" }

    /// The command that runs `command` in caddy's network.
    package func inside(_ command: [String]) throws -> [String] {
        guard let identifier = process.identifier else {
            throw PeerProcess.NotStarted(program: "caddy", reason: "it ended: \(process.log)")
        }
        let user = geteuid() == 0 ? [] : ["--user", "--preserve-credentials"]
        return ["/usr/bin/nsenter", "--target", "\(identifier)", "--net"] + user + ["--"] + command
    }

    private static let configuration = """
        {
          admin off
          skip_install_trust
          storage file_system data
          auto_https disable_redirects
          http_port 15080
          https_port 15443
        }
        https://localhost:15443 {
          bind 127.0.0.1
          tls internal
          acme_server
        }

        """
}
