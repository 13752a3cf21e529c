import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// What is wrong inside of requests for data: each is answered with a typed failure, nothing is stored, and the connection goes on.
@Suite struct NativeBadRequestTests {
    static let kinds: [NativeRequestKind] = [
        .get, .put, .remove, .scan, .transaction, .openSnapshot, .closeSnapshot, .allocatePrefix, .openSession, .resumeSession,
        .closeSession, .grantLease, .keepLease, .revokeLease,
    ]

    private static func failure(_ client: NativeHarnessClient, _ kind: NativeRequestKind, _ fields: [UInt8]) throws -> NativeFailure? {
        try client.send(kind, RequestID(7)) { $0.writeBytes(fields) }
        let frame = try #require(try client.frames().first)
        #expect(frame.id == RequestID(7) && frame.kind == kind.rawValue)
        return frame.role == .failure ? try NativeFailure(frame.fields) : nil
    }

    private static func field(_ tag: UInt16, _ value: [UInt8]) -> [UInt8] {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(tag, UInt32(value.count))
        return Array(buffer.readableBytesView) + value
    }

    private static let critical: UInt16 = 0x8000

    @Test(arguments: kinds) func `Torn fields, and fields that must be understood and are not, are refused`(kind: NativeRequestKind) throws
    {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let before = harness.disk.writeCount
        #expect(try Self.failure(client, kind, [1])?.code == .malformedRequest)
        #expect(try Self.failure(client, kind, [0, 1, 0, 0, 0, 9, 1])?.code == .malformedRequest)
        #expect(try Self.failure(client, kind, [0, 1, 0xff, 0xff, 0xff, 0xff])?.code == .malformedRequest)
        #expect(try Self.failure(client, kind, Self.field(Self.critical | 99, []))?.code == .unsupportedField)
        #expect(harness.disk.writeCount == before && client.client.session.requestsInFlight == 0)
        _ = try client.ask(NativePing())
    }

    static let malformed: [(NativeRequestKind, [UInt8])] = [
        (.get, field(2, [2])), (.get, field(2, [])), (.get, field(2, [1]) + field(2, [1])),
        (.get, field(critical | 3, [1, 2, 3])),
        (.get, field(critical | 3, Array(repeating: 0, count: 8)) + field(critical | 3, Array(repeating: 0, count: 8))),
        (.put, field(1, [0])), (.put, field(1, field(1, [1]) + field(1, [1]))), (.put, field(1, field(2, [1]) + field(2, [1]))),
        (.put, field(critical | 2, [1])), (.put, field(critical | 3, [])), (.put, field(critical | 3, field(1, [1, 2]))),
        (.put, field(critical | 3, field(1, Array(repeating: 0, count: 16)) + field(2, [1]))),
        (.remove, field(critical | 2, field(2, Array(repeating: 0, count: 8)))), (.remove, field(critical | 2, [9])),
        (.scan, field(1, [1])), (.scan, field(2, [7])), (.scan, field(4, [1])), (.scan, field(1, []) + field(1, [])),
        (.transaction, field(critical | 1, [1])), (.transaction, field(2, field(1, [1]))),
        (.transaction, field(critical | 4, field(1, [1]))), (.closeSnapshot, field(1, [1])), (.openSession, field(1, [1])),
        (.resumeSession, field(1, [1])), (.resumeSession, []), (.closeSession, field(1, [])), (.grantLease, field(1, [])),
        (.keepLease, field(1, [0])), (.revokeLease, field(1, [0])), (.allocatePrefix, field(critical | 1, field(1, [3]))),
    ]

    @Test(arguments: malformed.indices) func `A value of the wrong size, a field that comes twice, or a torn record is malformed`(
        index: Int
    ) throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let (kind, fields) = Self.malformed[index]
        #expect(try Self.failure(client, kind, fields)?.code == .malformedRequest)
        #expect(harness.storage.revision == .zero)
    }

    @Test func `A critical field inside of a pair that nobody knows is refused, another is skipped`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let pair = Self.field(1, [0x61]) + Self.field(2, [0x62])
        #expect(try Self.failure(client, .put, Self.field(1, pair + Self.field(Self.critical | 9, [])))?.code == .unsupportedField)
        try client.send(.put, RequestID(1)) { $0.writeBytes(Self.field(1, pair + Self.field(9, [1])) + Self.field(77, [2])) }
        harness.deliver(1)
        #expect(try client.frames().map(\.role) == [.reply])
        #expect(try client.ask(NativeGet(["a"])).entries.map(\.shown) == ["=b@1"])
    }

    @Test func `Numbers that make no sense, keys and values that are too long, and too many of them are refused`() throws {
        var limits = ServerLimits()
        limits.maximumKeysPerRequest = 3
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connectNative()
        let four = ["a", "b", "c", "d"]
        #expect(try client.failure(of: NativeGet(four))?.code == .invalidArgument)
        #expect(try client.failure(of: NativePut(four.map { ($0, "") }))?.code == .invalidArgument)
        #expect(try client.failure(of: NativeRemove(four))?.code == .invalidArgument)
        var scan = NativeScan(limit: -1)
        #expect(try client.failure(of: scan)?.code == .invalidArgument)
        scan = NativeScan()
        scan.maximumBytes = .min
        #expect(try client.failure(of: scan)?.code == .invalidArgument)
        for number: Int64 in [0, -1, 5, .min, .max] {
            #expect(try client.failure(of: NativeGet(["a"], snapshot: number))?.code == .snapshotUnknown)
            #expect(try client.failure(of: NativeScan(snapshot: number))?.code == .snapshotUnknown)
        }
        let long = String(repeating: "k", count: StorageLimits.maximumKeyBytes + 1)
        #expect(try client.failure(of: NativePut([("a", "1"), (long, "2")]))?.code == .invalidArgument)
        #expect(try client.failure(of: NativeRemove([long]))?.code == .invalidArgument)
        #expect(try client.failure(of: NativeTransaction(then: [.put(long, "1")]))?.code == .invalidArgument)
        #expect(harness.storage.revision == .zero)
    }

    // Fields of every kind and none, each time from the same seed.
    @Test func `Random fields in any kind of request are answered, once each`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        var random = SplitMix(state: 11)
        func bytes(_ depth: Int) -> [UInt8] {
            (0..<random.number(0...3)).flatMap { _ -> [UInt8] in
                let tag = UInt16(random.number(0...6)) | (random.number(0...2) == 0 ? Self.critical : 0)
                let value =
                    switch random.number(0...4) {
                    case 0: [UInt8](repeating: UInt8(random.number(0...255)), count: random.number(0...20))
                    case 1: [0, 0, 0, 0, 0, 0, 0, UInt8(random.number(0...3))]
                    case 2: [UInt8(random.number(0...1))]
                    case 3: [UInt8](repeating: UInt8(random.number(0...1)), count: 16)
                    default: depth > 0 ? bytes(depth - 1) : []
                    }
                return Self.field(tag, value)
            }
        }
        var answered = 0
        for round in 0..<2_000 {
            let kind = random.pick(Self.kinds)
            let before = client.client.session.requestsInFlight
            try client.send(kind, RequestID(Int32(round))) { $0.writeBytes(bytes(2)) }
            let submitted = client.client.session.requestsInFlight - before
            if submitted > 0 { harness.deliver(submitted) }
            answered += try client.frames().filter { $0.id == RequestID(Int32(round)) && $0.kind == kind.rawValue }.count
        }
        #expect(answered == 2_000 && client.client.session.requestsInFlight == 0)
    }
}
