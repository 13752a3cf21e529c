import Logging
import MWClient
import MWProtocol
import MWWebSocket
import NIOCore
import Synchronization
import Testing

/// A store behind connections that break at every point, decided by a seed.
private final class FaultyStore: Sendable {
    private struct State {
        var random: SeededRandom
        var values: [String: String] = [:]
        /// How often each write was applied; the values of a test are unique, so more than once is a write that was sent again.
        var applied: [String: Int] = [:]
        var faultsLeft: Int
    }

    private enum Fault: CaseIterable { case cutBefore, cutAfter, restartBefore, restartAfter, answerThenCut }

    private let state: Mutex<State>

    init(seed: UInt64, faults: Int) { self.state = Mutex(State(random: SeededRandom(seed: seed), faultsLeft: faults)) }

    var appliedTwice: [String] { self.state.withLock { $0.applied.filter { $0.value > 1 }.keys.sorted() } }

    func serve(_ connection: FakeConnection) async {
        while let request = await connection.requests.next() {
            let fault = self.drawFault()
            switch fault {
            case .cutBefore?: return connection.cut()
            case .restartBefore?: return connection.close(.serviceRestart)
            default: break
            }
            let answer = self.apply(request)
            switch fault {
            case .cutAfter?: return connection.cut()
            case .restartAfter?: return connection.close(.serviceRestart)
            default: break
            }
            if let answer { connection.reply(values: answer, to: request) } else { connection.reply(done: true, to: request) }
            if fault == .answerThenCut { return connection.cut() }
        }
    }

    private func drawFault() -> Fault? {
        self.state.withLock { state in
            guard state.faultsLeft > 0, Int.random(in: 0..<6, using: &state.random) == 0 else { return nil }
            state.faultsLeft -= 1
            return Fault.allCases.randomElement(using: &state.random)
        }
    }

    private func apply(_ request: MWDBRequest) -> [String]? {
        self.state.withLock { state in
            switch request {
            case .get(let keys, _): return keys.slices.map { state.values[String(buffer: $0)] ?? "" }
            case .put(let pairs, _):
                for (key, value) in pairs.slices {
                    state.values[String(buffer: key)] = String(buffer: value)
                    state.applied["\(String(buffer: key))=\(String(buffer: value))", default: 0] += 1
                }
                return nil
            case .remove, .prefix: return nil
            }
        }
    }
}

@Suite(.timeLimit(.minutes(10))) struct FaultTests {
    @Test(
        "whatever breaks: an acknowledged write is there, a refused one is not, an unknown one is either, and none is done twice",
        arguments: 0..<12)
    func faults(seed: UInt64) async throws {
        // Six writers, each the only one of its key, so that what a read must return is known after each step.
        let server = try await FakeServer.start()
        let store = FaultyStore(seed: seed, faults: 25)
        var configuration = try server.configuration()
        // Every lost read is sent again: this is about what is done, not about how much.
        configuration.reconnection.retryPercent = 100
        configuration.reconnection.retryReserve = 1000
        configuration.timeouts.request = .seconds(60)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                await withTaskGroup(of: Void.self) { connections in
                    while let connection = await server.connections.next() { connections.addTask { await store.serve(connection) } }
                }
            }
            try await withStorageClient(configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }) { client in
                try await withThrowingTaskGroup(of: Void.self) { writers in
                    for writer in 0..<6 { writers.addTask { try await Self.write(as: writer, client) } }
                    try await writers.waitForAll()
                }
                #expect(client.counters.calls == client.counters.succeeded + client.counters.failed)
            }
            server.connections.finish()
            try await group.waitForAll()
        }
        #expect(store.appliedTwice == [])
        try await server.stop()
    }

    private static func write(as writer: Int, _ client: StorageClient) async throws {
        let key = Array("writer \(writer)".utf8)
        var possible: Set<String> = [""]
        for step in 1...25 {
            let value = "\(step)"
            do {
                try await client.put([(key: key, value: Array(value.utf8))])
                possible = [value]
            } catch let error as ClientError {
                #expect(error.code == .outcomeUnknown)
                if error.mayHaveTakenEffect { possible.insert(value) }
            }
            let seen = try await client.get([key])[0].map { String(decoding: $0, as: UTF8.self) } ?? ""
            #expect(possible.contains(seen), "writer \(writer), step \(step): read \(seen), possible \(possible)")
            possible = [seen]
        }
    }
}
