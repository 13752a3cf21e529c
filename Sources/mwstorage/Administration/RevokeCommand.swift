import ArgumentParser
import MWClient
import MWPKI
import MWProtocol

/// `mwstorage revoke`.
struct RevokeCommand: AsyncParsableCommand, CommandWithOutput {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Refuse a client from now on, although its certificate is good; or take that back.",
        discussion: """
            Needs the right to administer. Connections that are open are closed before the command returns, and the refusal outlives a \
            restart of the server. It needs no authority: an authority's own revocation list does the same for everybody who reads it.
            """)

    @Option(help: ArgumentHelp("The certificate with this fingerprint.", valueName: "hex"))
    var sha256: String?

    @Option(help: ArgumentHelp("The certificate with this serial number, of --issuer.", valueName: "hex"))
    var serial: String?

    @Option(help: ArgumentHelp("Its issuer, as 'mwstorage sessions -o json' shows it.", valueName: "name"))
    var issuer: String?

    @Option(help: ArgumentHelp("Every certificate with this URI, DNS name or principal.", valueName: "name"))
    var identity: String?

    @Flag(help: "Take the refusal back.")
    var undo = false

    @Flag(help: "List the refusals.")
    var list = false

    @Flag(help: "Do not ask.")
    var yes = false

    @Flag(help: "Only say how many connections it would close.")
    var dryRun = false

    @OptionGroup(title: "Connection") var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        let targets = [sha256, serial, identity].compactMap { $0 }.count
        if list {
            guard targets == 0, issuer == nil, !undo, !dryRun else { throw ValidationError("--list stands alone.") }
            return
        }
        guard targets == 1 else { throw ValidationError("Give exactly one of --sha256, --serial and --identity, or --list.") }
        guard (serial == nil) == (issuer == nil) else {
            throw ValidationError("--serial and --issuer belong together: a serial number is unique to its issuer only.")
        }
        if undo, dryRun { throw ValidationError("--undo and --dry-run exclude each other: nothing is closed by taking it back.") }
        if let sha256, CertificateFingerprint(sha256) == nil {
            throw ValidationError("--sha256 is 64 hexadecimal digits, with or without colons or 'sha256:'.")
        }
    }

    private var target: NativeRefusalTarget {
        var target = NativeRefusalTarget()
        target.fingerprint = sha256.flatMap { CertificateFingerprint($0) }.map { "\($0)" }
        target.serial = serial
        target.issuer = issuer
        target.identity = identity
        return target
    }

    func run() async throws {
        if list { return try await printList() }
        let target = self.target
        if undo {
            var request = NativeAcceptAgainRequest()
            request.target = target
            return try report(try await connection.withAdministration { [request] in try await $0.ask(request) })
        }
        if !dryRun { try Confirmation.ask("refuse \(ShownRecord.plain(target.text)) from now on, and close what it has open?", yes: yes) }
        var request = NativeRefuseRequest()
        request.target = target
        request.isTrial = dryRun ? true : nil
        try report(try await connection.withAdministration { [request] in try await $0.ask(request) })
    }

    private func report(_ change: NativeRefusalChange) throws {
        if !change.hasChanged { Output.note(undo ? "nothing to do: it was not refused" : "nothing to do: it is refused already") }
        let format = output.format ?? .text
        if format.isJSON { return try Output.line(ShownRecord.json(change).text) }
        if dryRun { return Output.note("would close \(change.connectionsClosed) connections") }
        if change.hasChanged, !undo { Output.note("refused; \(change.connectionsClosed) connections were closed") }
        if change.hasChanged, undo { Output.note("not refused any more") }
    }

    private func printList() async throws {
        let refusals = try await connection.withAdministration { try await $0.ask(NativeRefusalsRequest()) }.refusals
        let format = output.format ?? .text
        switch format {
        case .json: try Output.line(JSONValue.array(refusals.map { ShownRecord.json($0) }).text)
        case .ndjson: for refusal in refusals { try Output.line(ShownRecord.json(refusal).text) }
        case .text, .table, .raw:
            try Output.rows(
                ["refused", "since", "by"],
                refusals.map { [ShownRecord.value($0.target.text), ShownRecord.value($0.since), ShownRecord.value($0.by)] }, format: format)
        }
    }
}
