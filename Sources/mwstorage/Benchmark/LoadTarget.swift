import MWClient
import MWPKI
import MWTLS

/// Where the load goes, and as whom.
struct LoadTarget: Sendable {
    var host: String
    var port: Int
    /// What the `Host` header says.
    var authority: String
    /// What the request line says.
    var path: String
    var context: TLSContext
    var verification: ServerVerification

    /// The first endpoint of the settings.
    init(_ settings: Settings, _ options: ConnectionOptions) throws {
        let endpoint = try Endpoint(settings.required(.endpoint))
        let name = try settings.string(.serverName) ?? endpoint.host
        guard let serverName = ServerName(name) else {
            throw CommandFailure(
                .usage, "'\(name)' is not a name or address", remedy: "give --server-name the name in the server's certificate")
        }
        host = endpoint.host
        port = endpoint.port
        authority = endpoint.authority
        path = endpoint.path
        let material = try options.material(settings).load()
        switch try options.verification(settings) {
        case .pinned(let pins): verification = .pinned(Set(pins.compactMap { CertificateFingerprint($0) }), sni: serverName)
        case .name, .nameFromEndpoint: verification = .name(serverName)
        }
        context = try TLSContext(client: material, verification: verification, policy: TLSPolicy())
    }
}
