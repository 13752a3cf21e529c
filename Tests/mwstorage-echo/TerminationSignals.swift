import Dispatch
import Glibc

/// SIGTERM and SIGINT, as something to wait for.
struct TerminationSignals {
    private let arrived: AsyncStream<Void>
    private let sources: [any DispatchSourceSignal]

    init() {
        let (arrived, continuation) = AsyncStream.makeStream(of: Void.self)
        self.arrived = arrived
        sources = [SIGTERM, SIGINT].map { number in
            // The source sees signals that the process ignores.
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { continuation.yield() }
            source.resume()
            return source
        }
        signal(SIGPIPE, SIG_IGN)
    }

    /// Returns at the first signal.
    func wait() async {
        for await _ in arrived { return }
    }
}
