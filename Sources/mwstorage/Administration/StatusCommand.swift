import ArgumentParser
import MWClient
import MWProtocol
import NIOCore

/// `mwstorage status`.
struct StatusCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show how the server is: certificates, connections, limits, reloads, storage, TLS.",
        discussion: "Needs the right to administer.")

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        let status = try await connection.withAdministration { try await $0.ask(NativeStatusRequest()) }
        let format = output.format ?? .text
        if format.isJSON { return try Output.line(ShownRecord.json(status).text) }
        try Output.record(Self.members(status).map { ($0, .string($1)) }, format: format)
    }

    /// Each part as lines with its name.
    static func members(_ status: NativeStatus) -> [(String, String)] {
        let server = status.server
        var members = [
            ("server", "\(ShownRecord.plain(server.version)), \(ShownRecord.plain(server.openSSL)), \(server.eventLoops) event loops"),
            ("since", "\(ShownRecord.text(server.startedAt)), now \(ShownRecord.text(server.now))"),
        ]
        members += server.addresses.map { ("listening", ShownRecord.plain($0)) }
        members.append(("certificate", status.certificate.map { ShownRecord.line($0) } ?? "none yet"))
        members += status.trustAnchors.map { ("trust anchor", ShownRecord.line($0)) }
        members += status.revocationLists.map { ("revocation list", Self.text($0)) }
        members += Self.members(status.connections)
        members.append(("tls", ShownRecord.counts(status.tls)))
        members += Self.members(status.reload)
        members += Self.members(status.storage)
        members += status.limits.map { limit in
            let used = limit.used.map { "\($0) of " } ?? ""
            return ("limit", "\(ShownRecord.plain(limit.name)): \(used)\(limit.maximum) \(ShownRecord.plain(limit.unit))")
        }
        for service in status.services {
            members += service.entries.map {
                (ShownRecord.plain(service.name), "\(ShownRecord.plain($0.name)): \(ShownRecord.plain($0.text))")
            }
        }
        return members
    }

    private static func text(_ list: NativeRevocationList) -> String {
        let until = list.nextUpdate.map { "until \(ShownRecord.text($0)) (\(ShownRecord.days(list.daysLeft ?? 0)))" } ?? "without an end"
        return "\(ShownRecord.plain(list.issuer)), \(list.revoked) revoked, \(until)"
    }

    private static func members(_ connections: NativeConnectionState) -> [(String, String)] {
        let counts = "\(connections.open) open with \(connections.certificates) certificates, \(connections.opening) opening"
        return [
            (
                "connections",
                "\(counts), \(connections.requestsInFlight) requests in flight\(connections.isAcceptingPaused ? ", accepting is paused" : "")"
            ),
            ("protocols", ShownRecord.counts(connections.subprotocols)),
            ("days left", ShownRecord.counts(connections.daysLeft.filter { $0.count > 0 })),
        ]
    }

    private static func members(_ reload: NativeReloadState) -> [(String, String)] {
        var members = [
            ("loaded", "generation \(reload.generation), at \(ShownRecord.text(reload.loadedAt))"),
            (
                "reloads",
                "\(reload.reloadsDone) done, \(reload.reloadsFailed) failed, the last at \(ShownRecord.text(reload.triedAt)) by "
                    + ShownRecord.plain(reload.trigger)
            ),
        ]
        if let failure = reload.failure { members.append(("reload failed", ShownRecord.plain(failure))) }
        members += reload.changedFiles.map { ("changed on disk", ShownRecord.plain($0)) }
        if let failure = reload.onDiskFailure { members.append(("not loadable", ShownRecord.plain(failure))) }
        for disk in reload.onDisk {
            guard let loaded = reload.loaded.first(where: { $0.name == disk.name }), loaded.text != disk.text else { continue }
            members.append(
                (
                    "differs on disk",
                    "\(ShownRecord.plain(disk.name)): \(ShownRecord.plain(disk.text)), loaded: \(ShownRecord.plain(loaded.text))"
                ))
        }
        return members
    }

    private static func members(_ storage: NativeStorageState) -> [(String, String)] {
        let engine = "\(ShownRecord.plain(storage.engine)) in \(ShownRecord.plain(storage.directory))"
        let queue = "\(storage.pendingRequests) writes of \(storage.pendingBytes) bytes wait\(storage.isCongested ? ", congested" : "")"
        let revision = RevisionText(
            incarnation: Array(storage.incarnation.readableBytesView), number: UInt64(max(0, storage.revision)))
        return [
            ("storage", "\(engine), durability \(ShownRecord.plain(storage.durability)), \(ShownRecord.plain(storage.health))"),
            ("commit queue", queue),
            ("revision", "\(revision), watches can begin behind \(storage.compactedRevision)"),
            ("watches", "\(storage.watches), the slowest is \(storage.greatestLag) revisions behind"),
            ("write sessions", "\(storage.sessions)"),
            ("leases", "\(storage.leases)"),
        ]
    }
}
