import Logging
import MWACME
import MWCertificateManager
import MWPKI
import MWServer
import NIOPosix
import Synchronization

/// The certificate of a server that gets it itself: joins `StorageServer`, `CertificateManager` and the network.
///
///     state directory ─▶ identity(), at the start and with each reload ─▶ StorageServer
///     CertificateManager ─▶ install, then reload ─────────────────────────────▲
///                        └─▶ challenges: on the server's own listener, or http-01, dns-01
final class ServerCertificate: Sendable {
    private let settings: ACMESettings
    private let logger: Logger
    private let state: StateDirectory
    /// The last one the manager installed: what is served does not depend on the disk any more.
    private let installed = Mutex<StateDirectory.Numbered?>(nil)

    /// Between a failure that ends the manager and its next start.
    private static let restartPause: Duration = .seconds(60)

    init(_ settings: ACMESettings, logger: Logger) {
        self.settings = settings
        self.logger = logger
        self.state = StateDirectory(path: settings.stateDirectory)
    }

    /// The newest certificate there is, or the one before it until that begins; `nil` while there is none that clients would accept today: a
    /// server that was off for too long starts, and gets another.
    ///
    /// Throws `ACMEError` when others may read the state directory. Blocks.
    func identity() throws -> Identity? {
        let installed = installed.withLock { $0 }
        var candidates = [installed].compactMap { $0 }
        do throws(ACMEError) {
            let contents = try state.load()
            if let found = contents.current, found.number > installed?.number ?? 0 {
                candidates = [found, installed ?? contents.previous].compactMap { $0 }
            }
        } catch {
            // The manager says what is wrong with the disk.
            if installed == nil { throw error }
        }
        let now = Timestamp.now()
        // The manager installs what begins later, then.
        let begun = candidates.first { $0.generation.leaf.validity(at: now) != .notYetValid }
        guard let generation = begun?.generation, generation.leaf.validity(at: now) == .valid else { return nil }
        return try generation.identity()
    }

    /// Gets and renews it until the task is cancelled.
    ///
    /// - Throws: what makes it pointless to go on: the server has no certificate, and cannot get one. Where it has one it is served, and this
    ///   tries again.
    func keep(for server: StorageServer) async throws {
        let manager = try manager(for: server)
        while !Task.isCancelled {
            do {
                return try await manager.run()
            } catch {
                guard server.hasIdentity else { throw error }
                logger.critical("the certificate is not renewed; the one in use is served until it ends", metadata: ["reason": "\(error)"])
            }
            try? await Task.sleep(for: Self.restartPause)
        }
    }

    private func manager(for server: StorageServer) throws -> CertificateManager {
        let presenters = try settings.presenters(server: ListenerPresenter(server: server)) { [logger] in logger.warning("\($0)") }
        let driver = ACMEDriver(
            directory: state, transfer: try CurlTransfer(caFiles: settings.caFiles), presenter: presenters,
            observer: { [logger] progress in
                guard !progress.isDone else { return }
                logger.debug(
                    "acme", metadata: ["step": "\(progress.step)", "phase": "\(progress.phase?.rawValue ?? "none")"])
            })
        let manager = CertificateManager(settings.managerConfiguration(state), driver: driver, logger: logger) { [self] new in
            try await install(new, in: server)
        }
        server.addStatus(of: "acme") { await Self.status(of: manager) }
        return manager
    }

    /// What `mwstorage status` shows of it: the same as `mwstorage acme status`.
    private static func status(of manager: CertificateManager) async -> [(name: String, text: String)] {
        do {
            // Reads the state directory.
            return try await NIOThreadPool.singleton.runIfActive { try CertificateStatusReport(manager.status(), at: .now()).parts }
        } catch {
            return [("not readable", "\(error)")]
        }
    }

    private func install(_ new: StateDirectory.Numbered, in server: StorageServer) async throws {
        let old = installed.withLock { installed in
            defer { installed = new }
            return installed
        }
        do {
            try await server.reload(.renewal)
        } catch {
            installed.withLock { $0 = old }
            throw error
        }
    }
}

/// tls-alpn-01 on the addresses that clients use (RFC 8737).
private struct ListenerPresenter: ChallengePresenter {
    let server: StorageServer

    func present(_ answer: ChallengeAnswer) async throws {
        server.presentChallenge(serverName: answer.alpnServerName, identity: try answer.alpnIdentity(at: .now()))
    }

    func remove(_ answer: ChallengeAnswer) async { server.removeChallenge(serverName: answer.alpnServerName) }
}
