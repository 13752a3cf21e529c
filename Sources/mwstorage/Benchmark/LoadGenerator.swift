import Glibc
import MWClient
import MWTLS
import NIOCore
import NIOPosix

/// Where the load goes, and as whom.
struct LoadTarget: Sendable {
    var host: String
    var port: Int
    /// What the `Host` header says.
    var authority: String
    var context: TLSContext
    var verification: ServerVerification

    /// The first endpoint of the settings.
    init(_ settings: Settings, passphrase: PassphraseOptions) throws {
        let endpoint = try Endpoint(settings.required(.endpoint))
        let name = try settings.string(.serverName) ?? endpoint.host
        guard let serverName = ServerName(name) else {
            throw CommandFailure(
                .usage, "'\(name)' is not a name or address", remedy: "give --server-name the name in the server's certificate")
        }
        host = endpoint.host
        port = endpoint.port
        authority = endpoint.authority
        let material = try Material(settings, names: .client, passphrase: passphrase).load()
        verification = .name(serverName)
        context = try TLSContext(client: material, verification: verification, policy: TLSPolicy())
    }
}

/// Opens the connections of a plan on one event loop, runs them, and gathers what they measured.
struct LoadGenerator {
    let target: LoadTarget
    let plan: LoadPlan

    /// Opens all connections, lets them do their requests, and closes them.
    func run() async throws -> LoadResult {
        try await withRunner { runner in
            try await runner.openAll()
            let cpuBefore = processCPUSeconds()
            let clock = ContinuousClock()
            let begin = clock.now
            try await runner.finishAll()
            let elapsed = begin.duration(to: clock.now)
            return try await runner.result(seconds: elapsed / .seconds(1), clientCPUSeconds: processCPUSeconds() - cpuBefore)
        }
    }

    /// Opens all connections and holds them while `body` runs.
    func hold(_ body: @escaping @Sendable (Int) throws -> Void) async throws {
        try await withRunner { runner in
            try await runner.openAll()
            try await NIOThreadPool.singleton.runIfActive { try body(plan.connections) }
            try await runner.check()
        }
    }

    private func withRunner<Result: Sendable>(_ body: (LoadRunner) async throws -> Result) async throws -> Result {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let runner = LoadRunner(target: target, plan: plan, eventLoop: group.next())
        do {
            let result = try await body(runner)
            await runner.closeAll()
            try await group.shutdownGracefully()
            return result
        } catch {
            await runner.closeAll()
            try? await group.shutdownGracefully()
            throw error
        }
    }

    private func processCPUSeconds() -> Double {
        var usage = rusage()
        guard unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return 0 }
        func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
        return seconds(usage.ru_utime) + seconds(usage.ru_stime)
    }
}
