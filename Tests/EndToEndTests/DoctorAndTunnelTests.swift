import Foundation
import Logging
import MWClient
import MWPKI
import MWWebSocket
import NIOCore
import NIOPosix
import TestCertificates
import Testing

/// `doctor`, the tunnel and the client library against a server process.
@Suite(.timeLimit(.minutes(10))) struct DoctorAndTunnelTests {
    private static let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private static func configuration(_ directory: TemporaryDirectory, _ endpoints: [String]) throws -> StorageClientConfiguration {
        var configuration = StorageClientConfiguration(
            endpoints: try endpoints.map { try Endpoint($0) },
            identity: .pem(
                certificateChainFile: directory.file("client.chain.pem"), privateKeyFile: directory.file("client.key.pem"),
                trustFile: directory.file("client.trust.pem")))
        configuration.subprotocol = .mwdb
        configuration.reconnection.base = .milliseconds(1)
        return configuration
    }

    @Test("doctor finds nothing where nothing is wrong, and names the first cause where something is: exit codes 0 and 1")
    func doctor() async throws {
        let server = try await ServerProcess()
        let well = try await server.run(["doctor"])
        #expect(well.status == 0, "\(well.text)")
        #expect(well.text.hasSuffix("no fault found\n") && !well.text.contains("FAIL"))

        let arguments =
            ["doctor", "--endpoint", server.endpoint, "--trust", server.directory.file("client.trust.pem")]
            + TestStore.identity(server.directory, "stranger")
        let stranger = try await CommandProcess.run(arguments + ["-o", "json"])
        #expect(stranger.status == 1)
        let report = try #require(try JSONSerialization.jsonObject(with: Data(stranger.output)) as? [String: Any])
        #expect(report["first_cause"] as? String == "welcome")
        #expect(report["healthy"] as? Bool == false)
        #expect(try await CommandProcess.run(arguments).text.contains("unknown_ca"))
    }

    @Test("doctor names a key file that others may read, before anything is sent")
    func keyFileMode() async throws {
        let server = try await ServerProcess()
        let changed = unsafe chmod(server.directory.file("client.key.pem"), 0o644)
        #expect(changed == 0)
        let report = try await server.run(["doctor"])
        #expect(report.status == 1)
        #expect(report.text.contains("first cause: key and certificate files") && report.text.contains("chmod 600"))
    }

    @Test("a tunnel beyond loopback is refused: exit code 64")
    func tunnelBeyondLoopback() async throws {
        let directory = try TestStore.make()
        let tunnel = try await CommandProcess.run(
            ["tunnel", "--listen", "0.0.0.0:0", "wss://localhost:1", "--trust", directory.file("client.trust.pem")]
                + TestStore.identity(directory))
        #expect(tunnel.status == 64 && tunnel.output.isEmpty)
    }

    @Test("a client whose server is killed goes on with the other one; what was acknowledged there is there")
    func failover() async throws {
        let first = try await ServerProcess()
        let second = try await ServerProcess(["--data", first.directory.file("other")], directory: first.directory)
        let configuration = try Self.configuration(first.directory, [first.endpoint, second.endpoint])
        try await withStorageClient(configuration, logger: Self.quiet) { client in
            let events = client.events
            let key = Array("key".utf8)
            try await client.put([(key: key, value: Array("before".utf8))])
            var iterator = events.makeAsyncIterator()
            var connected: Endpoint?
            while connected == nil {
                if case .connected(let endpoint) = await iterator.next() { connected = endpoint }
            }
            let isFirst = connected?.description == first.endpoint
            (isFirst ? first : second).send(SIGKILL)
            while true {
                if case .resumed(let endpoint) = await iterator.next() {
                    #expect(endpoint.description == (isFirst ? second.endpoint : first.endpoint))
                    break
                }
            }
            // Another store: what was put into the first is not here.
            #expect(try await client.get([key]) == [nil])
            try await client.put([(key: key, value: Array("after".utf8))])
            #expect(try await client.get([key]) == [Array("after".utf8)])
        }
    }

    @Test("many calls in flight on one connection to a real server, each with its own answer")
    func manyInFlight() async throws {
        let server = try await ServerProcess()
        try await withStorageClient(Self.configuration(server.directory, [server.endpoint]), logger: Self.quiet) { client in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<300 {
                    group.addTask {
                        let key = Array("key \(number)".utf8)
                        let value = Array("value \(number)".utf8)
                        try await client.put([(key: key, value: value)])
                        #expect(try await client.get([key, Array("absent".utf8)]) == [value, nil])
                    }
                }
                try await group.waitForAll()
            }
            #expect(client.counters.connections == 1)
        }
    }

    @Test("through a tunnel a plain client saves 1,000 nodes in one put, and a second one reads them all")
    func tunnel() async throws {
        let server = try await ServerProcess()
        let tunnel = try await Tunnel.start(
            host: "127.0.0.1", port: 0, to: Self.configuration(server.directory, [server.endpoint]), logger: Self.quiet)
        let put = (0..<1000).map { "key\($0)#" + String(repeating: "v", count: 400) }.joined(separator: "#") + "#\u{2}A"
        #expect(try await Self.ask(tunnel, put) == "\u{1}#\u{3}A")
        let get = (0..<1000).map { "key\($0)" }.joined(separator: "#") + "#\u{0}C"
        let values = Array(repeating: String(repeating: "v", count: 400), count: 1000).joined(separator: "#")
        #expect(try await Self.ask(tunnel, get) == values + "#\u{1}C")
        await tunnel.stop()
    }

    /// Opens a plain WebSocket as mwDB's original client does, sends one message, returns the answer, closes.
    private static func ask(_ tunnel: Tunnel, _ message: String) async throws -> String {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(to: tunnel.address) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        return try await channel.executeThenClose { inbound, outbound in
            try await outbound.write(
                ByteBuffer(
                    string: "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
                        + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
            var machine = WebSocketStateMachine(role: .client)
            var outgoing = ByteBuffer()
            machine.writeMessage(.binary, ByteBuffer(string: message), to: &outgoing, maskingKey: 0x0102_0304)
            var head = ""
            var isOpen = false
            for try await var bytes in inbound {
                if !isOpen {
                    head += String(buffer: bytes)
                    guard head.hasSuffix("\r\n\r\n") else { continue }
                    #expect(head.hasPrefix("HTTP/1.1 101 "))
                    isOpen = true
                    try await outbound.write(outgoing)
                    continue
                }
                machine.bytesReceived(bytes)
                bytes.clear()
                if case .message(_, let answer) = machine.nextEvent(outbound: &bytes) { return String(buffer: answer) }
            }
            return ""
        }
    }
}
