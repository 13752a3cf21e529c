import MWKeystore
import MWPKI
import MWProtocol
import MWWebSocket
import NIOCore

/// What is fuzzed: each decoder that reads bytes from a peer or a file, and what must hold for any bytes.
enum FuzzTarget: String, CaseIterable {
    case websocket
    case mwdb
    case native
    case jks
    case pkcs12
    case policy
    case acme
    case transaction
    case records
    case log
    case export
    case backup

    /// Runs one input. A broken promise is a trap, which the driver reports with the input.
    func run(_ input: [UInt8]) {
        switch self {
        case .websocket: WebSocketFuzz.run(input)
        case .mwdb: MWDBFuzz.run(input)
        case .native: NativeFuzz.run(input)
        case .jks: KeystoreFuzz.runJKS(input)
        case .pkcs12: KeystoreFuzz.runPKCS12(input)
        case .policy: PolicyFuzz.run(input)
        case .acme: ACMEFuzz.run(input)
        case .transaction: TransactionFuzz.run(input)
        case .records: RecordFuzz.run(input)
        case .log: LogFuzz.run(input)
        case .export: ExportFuzz.run(input)
        case .backup: BackupFuzz.run(input)
        }
    }
}

/// However the bytes arrive, the machine says the same, and answers the same.
private enum WebSocketFuzz {
    static func run(_ input: [UInt8]) {
        guard let control = input.first else { return }
        let role: WebSocketRole = control & 1 == 0 ? .server : .client
        let bytes = Array(input.dropFirst())
        let whole = transcript(role, [bytes[...]])
        precondition(transcript(role, bytes.indices.map { bytes[$0...$0] }) == whole, "a byte at a time is told another story")
        let cut = min(bytes.count, Int(control >> 1))
        precondition(transcript(role, [bytes[..<cut], bytes[cut...]]) == whole, "two pieces are told another story")
    }

    private struct Transcript: Equatable {
        var events: [WebSocketEvent] = []
        var outbound = ByteBuffer()
        var isClosed = false
    }

    private static func transcript(_ role: WebSocketRole, _ pieces: [ArraySlice<UInt8>]) -> Transcript {
        let limits = WebSocketLimits(maximumMessageBytes: 4096)
        var machine = WebSocketStateMachine(role: role, limits: limits)
        var transcript = Transcript()
        for piece in pieces {
            machine.bytesReceived(ByteBuffer(bytes: piece))
            while let event = machine.nextEvent(outbound: &transcript.outbound, maskingKey: 0x0102_0304) {
                if case .message(_, let payload) = event { precondition(payload.readableBytes <= limits.maximumMessageBytes) }
                transcript.events.append(event)
            }
        }
        transcript.isClosed = machine.state == .closed
        return transcript
    }
}

/// What could be read can be written again, and reads as the same.
private enum MWDBFuzz {
    static func run(_ input: [UInt8]) {
        if let request = try? MWDBRequest(message: ByteBuffer(bytes: input)) { checkRequest(request) }
        if let reply = try? MWDBReply(message: ByteBuffer(bytes: input)) {
            if case .get(let data, _) = reply { for count in 0...4 { _ = try? MWDBReply.values(data, count: count) } }
        }
        if let number = try? Base64Number(text: input) {
            var text = ByteBuffer()
            number.write(to: &text)
            precondition((try? Base64Number(text: text.readableBytesView)) == number, "a number does not survive writing and reading")
        }
    }

    private static func checkRequest(_ request: MWDBRequest) {
        var written = ByteBuffer()
        do {
            switch request {
            case .get(let keys, let id):
                try MWDBRequest.writeGet(keys.slices.map(\.readableBytesView), id: id, to: &written)
                precondition(keys.slices.count == keys.count)
            case .remove(let keys, let id):
                try MWDBRequest.writeRemove(keys.slices.map(\.readableBytesView), id: id, to: &written)
            case .put(let pairs, let id):
                try MWDBRequest.writePut(pairs.slices.map { ($0.key.readableBytesView, $0.value.readableBytesView) }, id: id, to: &written)
            case .prefix(let id):
                MWDBRequest.writePrefix(id: id, to: &written)
            }
            let again = try MWDBRequest(message: written)
            precondition(elements(again) == elements(request) && again.id == request.id, "a request does not survive writing and reading")
        } catch {
            preconditionFailure("a request that was read cannot be written: \(error)")
        }
    }

    private static func elements(_ request: MWDBRequest) -> [ByteBuffer] {
        switch request {
        case .get(let keys, _), .remove(let keys, _): keys.slices
        case .put(let pairs, _): pairs.slices.flatMap { [$0.key, $0.value] }
        case .prefix: []
        }
    }
}
