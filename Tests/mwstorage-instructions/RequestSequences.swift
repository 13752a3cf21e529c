import MWProtocol
import MWStorage
import MWTLS
import MWWebSocket
import NIOCore

/// What can be counted, by name.
enum RequestSequences {
    private static let valueBytes = 1_024
    private static let largeBytes = 64 << 10
    private static let recordBytes = TLSSession.maximumRecordPlaintextBytes
    private static let burst = 16
    private static let scanned = 100
    private static let watchers = 50

    static var names: [String] { self.all.map(\.name) }

    /// nil if there is none of this name.
    static func make(_ name: String) throws -> (any RequestSequence)? { try self.all.first { $0.name == name }?.make() }

    /// Names that end in `-tls` decrypt and encrypt, as a connection does; the others begin and end at the session handler.
    private static var all: [(name: String, make: () throws -> any RequestSequence)] {
        [
            ("mwdb-get", { try served(.mwdb, [mwdbGet(1)], of: 1) }),
            ("mwdb-get-16", { try served(.mwdb, gets(mwdbGet), of: 1) }),
            ("mwdb-get-multi", { try served(.mwdb, [mwdbGet(1, keys: burst)], of: burst) }),
            ("mwdb-get-tls", { try served(.mwdb, [mwdbGet(1)], of: 1, isEncrypted: true) }),
            ("mwdb-get-16-tls", { try served(.mwdb, gets(mwdbGet), of: 1, isEncrypted: true) }),
            ("mwdb-get-64k-tls", { try served(.mwdb, [mwdbGet(largeNumber)], of: 1, valueBytes: largeBytes, isEncrypted: true) }),
            ("mwdb-put", { try served(.mwdb, [mwdbPut(1)], of: 0, isWriting: true) }),
            ("mwdb-put-16", { try served(.mwdb, try (1...burst).map { try mwdbPut($0) }, of: 0, isWriting: true) }),
            ("mwdb-put-64k-tls", { try served(.mwdb, [mwdbLargePut()], of: 0, isWriting: true, isEncrypted: true) }),
            ("native-get", { try served(.native, [nativeGet(1)], of: 1) }),
            ("native-get-16", { try served(.native, gets(nativeGet), of: 1) }),
            ("native-get-multi", { try served(.native, [nativeGet(1, keys: burst)], of: burst) }),
            ("native-get-tls", { try served(.native, [nativeGet(1)], of: 1, isEncrypted: true) }),
            ("native-get-16-tls", { try served(.native, gets(nativeGet), of: 1, isEncrypted: true) }),
            ("native-put", { try served(.native, [nativePut(1)], of: 0, isWriting: true) }),
            ("native-put-16", { try served(.native, (1...burst).map { nativePut($0) }, of: 0, isWriting: true) }),
            ("native-scan-100", { try served(.native, [nativeScan()], of: scanned) }),
            ("watch-50", { try WatchedPuts(watchers: watchers, key: key(1), value: value) }),
            ("tls-open-1k", { try OpenedRecords(bytes: valueBytes) }),
            ("tls-open-16k", { try OpenedRecords(bytes: recordBytes) }),
            ("tls-seal-1k", { try SealedRecords(bytes: valueBytes) }),
            ("tls-seal-16k", { try SealedRecords(bytes: recordBytes) }),
            ("websocket-decode", { DecodedFrames(messages: burst, bytes: valueBytes) }),
        ]
    }

    // MARK: Requests

    private static let value = [UInt8](repeating: UInt8(ascii: "v"), count: valueBytes)
    private static let largeValue = [UInt8](repeating: UInt8(ascii: "v"), count: largeBytes)
    /// Of the key behind the others, with the large value.
    private static let largeNumber = 2 * scanned + 1

    private static func key(_ number: Int) -> [UInt8] {
        let digits = String(number)
        return Array("key/\(String(repeating: "0", count: 8 - digits.count))\(digits)".utf8)
    }

    private static func served(
        _ dialect: ServedRequests.Dialect, _ messages: [ByteBuffer], of keys: Int, valueBytes: Int = valueBytes, isWriting: Bool = false,
        isEncrypted: Bool = false
    ) throws -> ServedRequests {
        let stored = (1..<largeNumber).map { (key: key($0), value: value) } + [(key: key(largeNumber), value: largeValue)]
        return try ServedRequests(
            dialect, messages, stored: stored, minimumBytesPerRequest: max(1, keys * valueBytes), isWriting: isWriting,
            isEncrypted: isEncrypted)
    }

    private static func gets(_ make: (_ number: Int, _ keys: Int) throws -> ByteBuffer) rethrows -> [ByteBuffer] {
        try (1...burst).map { try make($0, 1) }
    }

    private static func mwdbGet(_ number: Int, keys: Int = 1) throws -> ByteBuffer {
        var message = ByteBuffer()
        try MWDBRequest.writeGet((number..<number + keys).map { key($0) }, id: RequestID(Int32(number)), to: &message)
        return message
    }

    private static func mwdbPut(_ number: Int, _ value: [UInt8] = value) throws -> ByteBuffer {
        var message = ByteBuffer()
        try MWDBRequest.writePut([(key: key(number), value: value)], id: RequestID(Int32(number)), to: &message)
        return message
    }

    private static func mwdbLargePut() throws -> ByteBuffer { try mwdbPut(largeNumber, largeValue) }

    private static func message(_ request: some NativeRequest, _ number: Int) -> ByteBuffer {
        var message = ByteBuffer()
        NativeFrame.write(request, id: RequestID(Int32(number)), to: &message)
        return message
    }

    private static func nativeGet(_ number: Int, keys: Int = 1) -> ByteBuffer {
        var get = NativeGet()
        get.keys = (number..<number + keys).map { ByteBuffer(bytes: key($0)) }
        return message(get, number)
    }

    private static func nativePut(_ number: Int) -> ByteBuffer {
        var pair = NativePair()
        pair.key = ByteBuffer(bytes: key(number))
        pair.value = ByteBuffer(bytes: value)
        var put = NativePut()
        put.pairs = [pair]
        return message(put, number)
    }

    private static func nativeScan() -> ByteBuffer {
        var scan = NativeScan()
        scan.range.lower = ByteBuffer(bytes: key(1))
        scan.limit = Int64(scanned)
        return message(scan, 1)
    }
}

/// A client's messages, a burst at a time.
final class ServedRequests: RequestSequence {
    enum Dialect {
        case mwdb
        case native
    }

    private let rig: ServerRig
    private let connection: RigConnection
    private let messages: [ByteBuffer]
    private let isWriting: Bool
    let minimumBytesPerStep: Int

    init(
        _ dialect: Dialect, _ messages: [ByteBuffer], stored: [(key: [UInt8], value: [UInt8])], minimumBytesPerRequest: Int,
        isWriting: Bool, isEncrypted: Bool
    ) throws {
        self.rig = try ServerRig()
        self.messages = messages
        self.isWriting = isWriting
        self.minimumBytesPerStep = minimumBytesPerRequest * messages.count
        try self.rig.fill(stored)
        self.connection = try self.rig.connect(subprotocol: dialect == .native ? nativeSubprotocol : nil, isEncrypted: isEncrypted)
    }

    var requestsPerStep: Int { self.messages.count }
    var sentBytes: Int { self.connection.network.sentBytes }

    func prepare(_ steps: Int) throws { try self.connection.prepare(self.messages, count: steps) }

    func step() {
        self.connection.receiveNext()
        if self.isWriting { self.rig.commit() } else { self.rig.eventLoop.run() }
    }
}

/// Puts, from within the process, that many connections watch; a request is one put, with all that it causes.
final class WatchedPuts: RequestSequence {
    private let rig: ServerRig
    private let connections: [RigConnection]
    private let submitter: Submitter
    private let key: [UInt8]
    private let value: [UInt8]

    init(watchers: Int, key: [UInt8], value: [UInt8]) throws {
        self.rig = try ServerRig()
        self.key = key
        self.value = value
        self.submitter = self.rig.storage.makeSubmitter { _ in }
        // An event names the revision before, if there is one.
        try self.rig.fill([(key: key, value: value)])
        var range = NativeRange()
        range.lower = ByteBuffer(bytes: key)
        var watch = NativeWatch()
        watch.ranges = [range]
        var message = ByteBuffer()
        NativeFrame.write(watch, id: RequestID(1), to: &message)
        self.connections = try (0..<watchers).map { [rig] _ in
            let connection = try rig.connect(subprotocol: nativeSubprotocol, isEncrypted: false)
            try connection.prepare([message], count: 1)
            connection.receiveNext()
            return connection
        }
        self.rig.eventLoop.runEverything()
        self.bytesBefore = self.connections.reduce(0) { $0 + $1.network.sentBytes }
    }

    private let bytesBefore: Int

    var requestsPerStep: Int { 1 }
    var minimumBytesPerStep: Int { self.connections.count * self.value.count }
    var sentBytes: Int { self.connections.reduce(0) { $0 + $1.network.sentBytes } - self.bytesBefore }

    func prepare(_ steps: Int) {}

    func step() throws {
        try self.submitter.submit(token: 0) { (batch) throws(StorageError) in try batch.put(self.key, self.value) }
        self.submitter.flush()
        self.rig.commit()
    }
}

/// Records that a server's session decrypts.
final class OpenedRecords: RequestSequence {
    private let pair: SessionPair
    private let plaintext: ByteBuffer
    private var records: [ByteBuffer] = []
    private(set) var sentBytes = 0

    init(bytes: Int) throws {
        let peers = try Peers()
        self.pair = try SessionPair(peers.client, peers.server)
        self.plaintext = ByteBuffer(repeating: 0x76, count: bytes)
    }

    var requestsPerStep: Int { 1 }
    var minimumBytesPerStep: Int { self.plaintext.readableBytes }

    func prepare(_ steps: Int) throws {
        var made: [ByteBuffer] = []
        for _ in 0..<steps {
            try self.pair.client.write(self.plaintext)
            made.append(self.pair.client.takeOutboundCiphertext())
        }
        self.records = made.reversed() + self.records
    }

    func step() throws {
        self.pair.server.receive(self.records.removeLast())
        var plaintext = ByteBuffer()
        guard case .needsCiphertext = self.pair.server.read(into: &plaintext) else { throw WrongAnswer(bytes: 0) }
        self.sentBytes += plaintext.readableBytes
    }
}

/// Records that a server's session encrypts.
final class SealedRecords: RequestSequence {
    private let pair: SessionPair
    private let plaintext: ByteBuffer
    private(set) var sentBytes = 0

    init(bytes: Int) throws {
        let peers = try Peers()
        self.pair = try SessionPair(peers.client, peers.server)
        self.plaintext = ByteBuffer(repeating: 0x76, count: bytes)
    }

    var requestsPerStep: Int { 1 }
    var minimumBytesPerStep: Int { self.plaintext.readableBytes }

    func prepare(_ steps: Int) {}

    func step() throws {
        try self.pair.server.write(self.plaintext)
        self.sentBytes += self.pair.server.takeOutboundCiphertext().readableBytes
    }
}

/// Frames that one read brings, until all their messages are out.
final class DecodedFrames: RequestSequence {
    private var client = WebSocketStateMachine(role: .client)
    private var server = WebSocketStateMachine(role: .server)
    private let message: ByteBuffer
    private var reads: [ByteBuffer] = []
    private var outbound = ByteBuffer()
    let requestsPerStep: Int
    private(set) var sentBytes = 0

    init(messages: Int, bytes: Int) {
        self.requestsPerStep = messages
        self.message = ByteBuffer(repeating: 0x76, count: bytes)
    }

    var minimumBytesPerStep: Int { self.requestsPerStep * self.message.readableBytes }

    func prepare(_ steps: Int) {
        var frames = ByteBuffer()
        for _ in 0..<self.requestsPerStep { self.client.writeMessage(.binary, self.message, to: &frames, maskingKey: 0x1234_5678) }
        for _ in 0..<steps { self.reads.append(ByteBuffer(bytes: frames.readableBytesView)) }
    }

    func step() throws {
        self.server.bytesReceived(self.reads.removeLast())
        while let event = self.server.nextEvent(outbound: &self.outbound) {
            guard case .message(.binary, let payload) = event else { throw WrongAnswer(bytes: 0) }
            self.sentBytes += payload.readableBytes
        }
    }
}
