import ArgumentParser
import MWPKI
import MWTLS

/// What is done to a server at the same time, and kept up: who is thrown out comes back.
struct AttackPlan: Sendable {
    /// Connections that say half a client hello, all of it, or nothing, and then nothing more.
    var halfOpen: Int
    /// Clients with a good certificate that ask for values and do not take them.
    var slowReaders: Int
    /// Handshakes under way with a certificate that the server does not trust, each begun anew when it was refused.
    var badHandshakes: Int
    /// The addresses it comes from, in turn; none leaves it to the system.
    var sources: [String]

    /// What slow readers ask for, and how long its value is.
    static let slowKey = "benchmark;large"
    static let slowValueBytes = 256 * 1024
}

/// What `mwstorage benchmark attack` can be told.
struct AttackOptions: ParsableArguments {
    @Option(help: "Attack: connections that never finish their handshake.")
    var halfOpen = 1_000

    @Option(help: "Attack: clients that ask and do not read.")
    var slowReaders = 100

    @Option(help: "Attack: handshakes under way with a certificate that is not trusted.")
    var badHandshakes = 8

    @Option(
        help: ArgumentHelp(
            "Attack: an address of ours; repeat for several, to be used in turn. On loopback any of 127.0.0.0/8 will do on Linux.",
            valueName: "address"))
    var source: [String] = []

    func validate() throws {
        for (name, count) in [("--half-open", halfOpen), ("--slow-readers", slowReaders), ("--bad-handshakes", badHandshakes)] {
            guard (0...100_000).contains(count) else { throw ValidationError("\(name) must be between 0 and 100000") }
        }
    }
}

extension LoadTarget {
    /// The same server, seen by somebody with a certificate of his own making.
    func stranger() throws -> TLSContext {
        let material = TLSMaterial(identity: try CertificateBuilder.client(name: "stranger").identity(), trustStore: context.trustStore)
        return try TLSContext(client: material, verification: verification, policy: context.policy)
    }
}
