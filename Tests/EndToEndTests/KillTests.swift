import Foundation
import Logging
import MWClient
import MWPKI
import Synchronization
import TestCertificates
import Testing

/// The server process is killed with SIGKILL while 16 clients put, at a moment that chance picks; then it is started again on its data.
@Suite("A killed server")
struct KillTests {
    private static let rounds = 20
    private static let clients = 16
    /// Every put writes so many keys with the same value: they are there together or not at all.
    private static let keysOfOnePut = 3

    @Test("20 times: what was acknowledged is there after the restart, and no put is half there", arguments: ["rocksdb", "leveldb"])
    func acknowledgedIsThere(engine: String) async throws {
        let directory = try TestStore.make()
        var acknowledged = 0
        for round in 0..<Self.rounds {
            let server = try await ServerProcess(["--engine", engine], directory: directory)
            let puts = try await putUntilKilled(server, round: round, after: .random(in: 1...300))
            #expect(await server.waitUntilEnded() == SIGKILL)
            let restarted = try await ServerProcess(["--engine", engine], directory: directory)
            try await check(puts, at: restarted, round: round)
            #expect(await restarted.terminate() == 0)
            acknowledged += puts.reduce(0) { $0 + $1.acknowledged }
        }
        #expect(acknowledged >= Self.rounds, "at least one put of each round was acknowledged before the kill")
    }

    /// What one client did: it puts 0, 1, 2, … one after the other.
    private struct Puts: Sendable {
        var client: Int
        var acknowledged: Int
    }

    /// Acknowledged puts of all clients; kills the server at the one that it was told.
    private final class Trigger: Sendable {
        private let count = Atomic(0)
        private let limit: Int
        private let server: ServerProcess

        init(_ server: ServerProcess, after limit: Int) {
            self.server = server
            self.limit = limit
        }

        /// - Returns: Whether to go on.
        func acknowledged() -> Bool {
            let count = count.add(1, ordering: .relaxed).newValue
            if count == limit { server.send(SIGKILL) }
            return count < limit
        }
    }

    private func putUntilKilled(_ server: ServerProcess, round: Int, after limit: Int) async throws -> [Puts] {
        let trigger = Trigger(server, after: limit)
        let clients = try (0..<Self.clients).map { _ in try connect(server) }
        return await withTaskGroup(of: Puts.self) { group in
            for (number, client) in clients.enumerated() {
                group.addTask { await Self.put(client, number, round: round, trigger) }
            }
            var puts: [Puts] = []
            for await done in group {
                puts.append(done)
                // Who waits for a connection waits in vain.
                group.cancelAll()
            }
            return puts
        }
    }

    private static func put(_ client: StorageClient, _ number: Int, round: Int, _ trigger: Trigger) async -> Puts {
        await withTaskGroup(of: Void.self) { running in
            // It ends with our cancellation: the server it would like to come back to is gone.
            running.addTask { try? await client.run() }
            var acknowledged = 0
            while (try? await client.put(pairs(round, number, acknowledged))) != nil {
                acknowledged += 1
                if !trigger.acknowledged() { break }
            }
            running.cancelAll()
            return Puts(client: number, acknowledged: acknowledged)
        }
    }

    private func check(_ puts: [Puts], at server: ServerProcess, round: Int) async throws {
        let client = try connect(server)
        try await withThrowingTaskGroup(of: Void.self) { running in
            running.addTask { try await client.run() }
            for done in puts {
                // One more than was acknowledged may have been stored: the answer was lost.
                for put in 0...done.acknowledged {
                    let pairs = Self.pairs(round, done.client, put)
                    let values = try await client.get(pairs.map(\.key))
                    let isThere = values.allSatisfy { $0 == pairs[0].value }
                    let isAbsent = values.allSatisfy { $0 == nil }
                    #expect(isThere || (isAbsent && put == done.acknowledged), "put \(put) of client \(done.client) in round \(round)")
                }
            }
            running.cancelAll()
        }
    }

    private static func pairs(_ round: Int, _ client: Int, _ put: Int) -> [(key: [UInt8], value: [UInt8])] {
        (0..<keysOfOnePut).map { (Array("\(round);\(client);\(put);\($0)".utf8), Array("value \(round) \(client) \(put)".utf8)) }
    }

    private func connect(_ server: ServerProcess) throws -> StorageClient {
        let directory = server.directory
        let identity = TLSMaterialSource.pem(
            certificateChainFile: directory.file("client.chain.pem"), privateKeyFile: directory.file("client.key.pem"),
            trustFile: directory.file("client.trust.pem"))
        var configuration = StorageClientConfiguration(endpoints: [try Endpoint(server.endpoint)], identity: identity)
        configuration.subprotocol = .mwdb
        configuration.timeouts.request = .seconds(60)
        return try StorageClient(configuration: configuration, logger: Logger(label: "kill", factory: { _ in SwiftLogNoOpLogHandler() }))
    }
}
