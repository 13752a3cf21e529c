import MWACME
import MWCertificateManager
import NIOCore

extension ACMESettings {
    /// Who answers the challenges that are allowed.
    ///
    /// - Parameter server: Answers tls-alpn-01 on its own addresses; without one, a listener is opened for it.
    /// - Parameter report: told what could not be cleaned up.
    func presenters(
        server: (any ChallengePresenter)? = nil, _ report: @escaping @Sendable (String) -> Void
    ) throws -> ChallengePresenters {
        var presenters: [ChallengeType: any ChallengePresenter] = [:]
        if let tlsAddress { presenters[.tlsALPN01] = try server ?? ChallengeListener(address: tlsAddress) }
        if let httpAddress { presenters[.http01] = HTTPChallengeResponder(addresses: try httpAddress.socketAddresses()) }
        if let dnsHook { presenters[.dns01] = DNSHookPresenter(program: HookProgram(path: dnsHook), report: report) }
        return ChallengePresenters(presenters)
    }
}

extension HostAndPort {
    /// Where to listen; `[::]` is every address of both families.
    /// - Throws: `CommandFailure` with status 78 for a name without an address. Blocks.
    func socketAddresses() throws -> [SocketAddress] {
        do {
            if host == "::" {
                return [try SocketAddress(ipAddress: "0.0.0.0", port: port), try SocketAddress(ipAddress: "::", port: port)]
            }
            return [try SocketAddress.makeAddressResolvingHost(host, port: port)]
        } catch {
            throw CommandFailure(
                .configurationInvalid, "cannot listen on \(self)", why: "\(error)", remedy: "give an address of this machine",
                code: "configuration.invalid")
        }
    }
}
