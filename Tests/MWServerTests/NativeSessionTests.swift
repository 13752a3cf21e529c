import MWPKI
import MWProtocol
import MWWebSocket
import NIOCore
import NIOEmbedded
import Testing

@testable import MWServer

/// The native protocol's requests that are answered on the event loop, and what is not one of them.
@Suite struct NativeSessionTests {
    private static func connect(limits: ServerLimits = ServerLimits()) throws -> (SessionHarness, HarnessClient) {
        let harness = try SessionHarness(limits: limits)
        return (harness, try harness.connect(NativeSession(administration: nil)))
    }

    private static func frames(_ client: HarnessClient) throws -> [NativeFrame] {
        try client.receive().flatMap { event in
            guard case .message(.binary, let payload) = event else { throw Unexpected(event: event) }
            return try NativeFrame.all(in: payload)
        }
    }

    private struct Unexpected: Error {
        let event: WebSocketEvent
    }

    private static func message(_ requests: (inout ByteBuffer) -> Void) -> ByteBuffer {
        var message = ByteBuffer()
        requests(&message)
        return message
    }

    @Test func `A welcome says who the client is and what it may count on`() throws {
        let (harness, client) = try Self.connect()
        var hello = NativeHello()
        hello.version = 99
        try client.send([Self.message { NativeFrame.write(hello, id: RequestID(1), to: &$0) }])
        let frame = try #require(try Self.frames(client).first)
        #expect(frame.role == .reply && frame.kind == 1 && frame.id == RequestID(1))
        let welcome = try NativeWelcome(frame.fields)
        #expect(welcome.version == NativeHello.currentVersion)
        #expect(welcome.serverVersion == softwareVersion)
        #expect(welcome.principal == "alice")
        #expect(welcome.maximumMessageBytes == Int64(harness.loop.limits.maximumMessageBytes))
        #expect(welcome.maximumRequestsInFlight == Int64(harness.loop.limits.maximumRequestsInFlight))
        #expect(welcome.connection == Int64(client.session.info.connectionID))
    }

    @Test func `Whoever may connect may ask who they are`() throws {
        let (harness, client) = try Self.connect()
        try client.send([Self.message { NativeFrame.write(NativeWhoAmI(), id: RequestID(2), to: &$0) }])
        let frame = try #require(try Self.frames(client).first)
        let identity = try NativeIdentity(frame.fields)
        let certificate = harness.principal.certificate
        #expect(identity.principal == "alice")
        #expect(identity.address == "192.0.2.1:4711")
        #expect(identity.certificate.fingerprint == "\(certificate.sha256)")
        #expect(identity.certificate.subject == certificate.subject)
        #expect(identity.certificate.issuer == certificate.issuer)
        #expect(identity.certificate.serial == certificate.serialNumber)
        #expect(identity.certificate.notAfter.secondsSince1970 == certificate.notAfter.secondsSince1970)
    }

    @Test func `A message of many requests lets others have their turn, and nothing of it is left over at the end`() throws {
        let harness = try SessionHarness()
        let native = NativeSession(administration: nil)
        native.turnTime = .zero
        let client = try harness.connect(native)
        let message = Self.message { message in
            for number: Int32 in 0..<20 { NativeFrame.write(NativePing(), id: RequestID(number), to: &message) }
        }
        // Its turns are scheduled: they come when the loop runs.
        try client.sendWithoutRunning([message, message])
        #expect(client.session.requestCount == 8)
        let other = try harness.connect(NativeSession(administration: nil))
        try other.sendWithoutRunning([Self.message { NativeFrame.write(NativePing(), id: RequestID(1), to: &$0) }])
        #expect(other.session.requestCount == 1)
        #expect(client.session.requestCount == 8)
        #expect(try Self.frames(client).map(\.id.rawValue) == Array(0..<20) + Array(0..<20))
        // One that ends between two turns is let go of.
        weak var session: SessionHandler?
        do {
            let leaving = NativeSession(administration: nil)
            leaving.turnTime = .zero
            let client = try harness.connect(leaving)
            try client.sendWithoutRunning([message])
            session = client.session
            client.channel.close(promise: nil)
            harness.eventLoop.run()
            #expect(client.session.requestCount == 8)
        }
        #expect(session == nil)
    }

    @Test func `Many requests of one message are all answered, with one write`() throws {
        let (_, client) = try Self.connect()
        let message = Self.message { message in
            for number: Int32 in 0..<500 {
                NativeFrame.write(NativePing(payload: ByteBuffer(integer: number)), id: RequestID(number), to: &message)
            }
        }
        try client.send([message, message])
        let frames = try Self.frames(client)
        #expect(frames.count == 1000)
        #expect(frames.map(\.id.rawValue) == Array(0..<500) + Array(0..<500))
        #expect(try frames.allSatisfy { try NativePong($0.fields).payload == ByteBuffer(integer: $0.id.rawValue) })
        #expect(client.writeCount == 1)
        #expect(client.session.requestCount == 1000)
    }

    // The same bytes a byte at a time, as a slow network brings them.
    @Test func `Requests that come a byte at a time are answered the same`() throws {
        let (_, client) = try Self.connect()
        var bytes = ByteBuffer()
        var machine = WebSocketStateMachine(role: .client)
        let message = Self.message { message in
            NativeFrame.write(NativeHello(), id: RequestID(1), to: &message)
            NativeFrame.write(NativePing(payload: ByteBuffer(string: "p")), id: RequestID(2), to: &message)
        }
        machine.writeMessage(.binary, message, to: &bytes, maskingKey: 7)
        for byte in bytes.readableBytesView { try client.sendBytes(ByteBuffer(bytes: [byte])) }
        #expect(try Self.frames(client).map(\.id.rawValue) == [1, 2])
    }

    @Test func `What is unknown or malformed is answered with a typed failure, and the connection goes on`() throws {
        let (_, client) = try Self.connect()
        let message = Self.message { message in
            NativeFrame(.request, kind: 0x7abc, id: RequestID(1)).write(to: &message)
            var torn = ByteBuffer(bytes: [0, 1, 0, 0, 0, 9, 1])
            NativeFrame(.request, kind: 2, id: RequestID(2), fields: NativeFields(bytes: torn)).write(to: &message)
            torn = ByteBuffer(bytes: [0x80, 0x63, 0, 0, 0, 0])
            NativeFrame(.request, kind: 2, id: RequestID(3), fields: NativeFields(bytes: torn)).write(to: &message)
            NativeFrame.write(NativePing(), id: RequestID(4), to: &message)
        }
        try client.send([message])
        let frames = try Self.frames(client)
        #expect(frames.map(\.role) == [.failure, .failure, .failure, .reply])
        #expect(frames.map(\.id.rawValue) == [1, 2, 3, 4])
        #expect(frames.map(\.kind) == [0x7abc, 2, 2, 2], "a failure repeats its request's kind")
        let failures = try frames.prefix(3).map { try NativeFailure($0.fields) }
        #expect(failures.map(\.code) == [.unknownRequest, .malformedRequest, .unsupportedField])
        #expect(failures.allSatisfy { !$0.isRetryable && !$0.mayHaveTakenEffect })
    }

    @Test func `A torn frame closes with 1002, a text message with 1003; what came before is answered`() throws {
        let (_, client) = try Self.connect()
        var message = Self.message { NativeFrame.write(NativePing(), id: RequestID(1), to: &$0) }
        message.writeInteger(UInt32(100))
        try client.send([message])
        let events = try client.receive()
        #expect(events.count == 2)
        guard case .message = events.first, case .closeReceived(let code, _) = events.last else { return #expect(Bool(false), "\(events)") }
        #expect(code?.rawValue == 1002)

        for role: NativeRole in [.reply, .failure, .event] {
            let (_, other) = try Self.connect()
            try other.send([Self.message { NativeFrame(role, kind: 2, id: .zero).write(to: &$0) }])
            guard case .closeReceived(let code, _) = try other.receive().first else { return #expect(Bool(false), "\(role)") }
            #expect(code?.rawValue == 1003)
        }
        let (_, third) = try Self.connect()
        try third.send([ByteBuffer(string: "hello")], .text)
        guard case .closeReceived(let textCode, _) = try third.receive().first else { return #expect(Bool(false), "text") }
        #expect(textCode?.rawValue == 1003)
    }

    // A megabyte of pings over a network that takes 64 KiB at a time: memory must not hold all answers at once.
    @Test func `Requests of one message wait while the network is full, and are all answered in order`() throws {
        var limits = ServerLimits()
        limits.maximumUnsentBytes = 64 * 1024
        let (_, client) = try Self.connect(limits: limits)
        let network = try client.narrow(to: 64 * 1024)
        let payload = ByteBuffer(repeating: 7, count: 8 * 1024)
        let message = Self.message { message in
            for number: Int32 in 0..<128 { NativeFrame.write(NativePing(payload: payload), id: RequestID(number), to: &message) }
        }
        let after = Self.message { NativeFrame.write(NativePing(), id: RequestID(1000), to: &$0) }
        try client.send([message, after])
        var ids = try Self.frames(client).map(\.id.rawValue)
        #expect(ids.count < 128, "the network had enough before that")
        var rounds = 0
        while ids.count < 129, rounds < 200 {
            rounds += 1
            try client.take(network)
            ids += try Self.frames(client).map(\.id.rawValue)
        }
        #expect(ids == Array(0..<128) + [1000])
        #expect(network.writes.max() ?? 0 < 512 * 1024, "answers leave as they come")
    }

    @Test func `An answer over the message limit is a failure instead`() throws {
        var limits = ServerLimits()
        limits.maximumMessageBytes = 2048
        let (_, client) = try Self.connect(limits: limits)
        // Twice the size of the request's payload cannot be reached with a ping; a whoami has names, so the limit is below those.
        try client.send([Self.message { NativeFrame.write(NativePing(payload: ByteBuffer(repeating: 1, count: 2000)), id: .zero, to: &$0) }]
        )
        #expect(try Self.frames(client).map(\.role) == [.reply])
        limits.maximumMessageBytes = 128
        let (_, small) = try Self.connect(limits: limits)
        try small.send([Self.message { NativeFrame.write(NativeWhoAmI(), id: RequestID(5), to: &$0) }])
        let frame = try #require(try Self.frames(small).first)
        #expect(try NativeFailure(frame.fields).code == .answerTooBig)
    }
}
