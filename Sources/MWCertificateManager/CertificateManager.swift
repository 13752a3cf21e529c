package import Logging
package import MWACME
internal import MWPKI
internal import ServiceLifecycle
internal import Synchronization

/// Keeps a server's certificate: gets it, asks when to renew it, renews it, and never gives up.
///
///     let manager = CertificateManager(configuration, driver: driver, logger: logger) { try await server.reload() }
///     try await manager.run()          // until graceful shutdown, or the task is cancelled
///
/// A failure is logged, counted, remembered on disk and tried again later; only what makes a start pointless is thrown.
package final class CertificateManager: Service, Sendable {
    static let noCertificate = RenewalDecision.noCertificate

    /// Makes the server present this generation from now on. Throws when it cannot: then the one in use stays, and this is
    /// called again within `maximumSleep`.
    package typealias Installer = @Sendable (StateDirectory.Numbered) async throws -> Void

    private let configuration: CertificateManagerConfiguration
    private let driver: ACMEDriver
    private let logger: Logger
    private let installed: Installer
    /// What could not be saved is known here only.
    private let memory = Mutex<RenewalState?>(nil)

    /// - Parameters:
    ///   - driver: its directory is replaced by the configuration's.
    ///   - installed: called with the certificate that is there at the start, and with each new one, whoever got it.
    package init(
        _ configuration: CertificateManagerConfiguration, driver: ACMEDriver, logger: Logger, installed: @escaping Installer
    ) {
        self.configuration = configuration
        var driver = driver
        driver.directory = configuration.stateDirectory
        self.driver = driver
        self.logger = logger
        self.installed = installed
    }

    /// Works until graceful shutdown begins or the task is cancelled; an order under way is kept for the next start, its
    /// answers are removed.
    ///
    /// Throws `ACMEError` where the plan cannot work, or the state directory cannot be used: `planInvalid`, `stateExposed`,
    /// `diskReadOnly`, `stateUnwritable`.
    package func run() async throws {
        try configuration.validate()
        try await driver.onDisk { try $0.prepare() }
        var loop = ManagerLoop(configuration, driver: driver, logger: logger, installed: installed) { [weak self] state in
            self?.memory.withLock { $0 = state }
        }
        try await loop.start()
        let begun = loop
        await cancelWhenGracefulShutdown {
            var loop = begun
            while !Task.isCancelled {
                let pause = await loop.step()
                guard pause > .zero else { continue }
                do { try await self.driver.clock.sleep(for: pause) } catch { return }
            }
        }
    }

    /// The certificate to start with; nil when there is none that is whole.
    ///
    /// Throws `stateExposed`. Blocks.
    package func current() throws(ACMEError) -> StateDirectory.Numbered? { try configuration.stateDirectory.load().current }

    /// Blocks. Throws `stateExposed`.
    package func status() throws(ACMEError) -> CertificateManagerStatus {
        var status = try CertificateManagerStatus(
            of: configuration.stateDirectory, plans: configuration.plans, at: driver.clock.now().date)
        if let state = memory.withLock({ $0 }), state.attempts > status.attempts {
            // The disk does not take it.
            status.attempts = state.attempts
            status.lastAttempt = state.lastAttempt
            status.lastError = state.lastError
            status.lastProblem = state.lastProblem
            status.retryAt = state.retryAt
        }
        return status
    }
}
