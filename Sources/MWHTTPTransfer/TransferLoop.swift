internal import CCurl
internal import Glibc
internal import Synchronization

/// The thread that drives all transfers of one `HTTPTransfer`, and what others may ask of it.
///
/// It runs from the first job until `idleTimeout` after the last, or until `close`.
final class TransferLoop: Sendable {
    private struct Shared: ~Copyable {
        var submitted: [TransferJob] = []
        var cancelled: Set<UInt64> = []
        /// Submitted and not finished.
        var inFlight = 0
        var isRunning = false
        var isClosed = false
        /// Set while the thread may be asleep in it; only to wake it up, and only under the lock, as the thread takes it away under it.
        var multi: Multi?
    }

    private let limits: HTTPTransferLimits
    private let ids = Atomic<UInt64>(0)
    private let shared = Mutex(Shared())

    init(limits: HTTPTransferLimits) { self.limits = limits }

    // MARK: - From any thread

    func makeID() -> UInt64 { ids.add(1, ordering: .relaxed).newValue }

    func submit(_ job: TransferJob) {
        let refusal = shared.withLock { shared -> HTTPTransferError? in
            if shared.isClosed || shared.cancelled.contains(job.id) {
                return HTTPTransferError(.cancelled, subject: job.url.origin, "cancelled before it was sent")
            }
            guard shared.inFlight < limits.maximumRequestsInFlight else {
                return HTTPTransferError(
                    .overloaded, subject: job.url.origin, "\(limits.maximumRequestsInFlight) requests are under way already",
                    remedy: "try again when some are done")
            }
            if !shared.isRunning {
                guard startThread() else {
                    return HTTPTransferError(
                        .ownFailure, subject: job.url.origin, "no thread could be started", remedy: "raise the limit on threads")
                }
                shared.isRunning = true
            }
            shared.inFlight += 1
            shared.submitted.append(job)
            shared.multi?.wakeUp()
            return nil
        }
        if let refusal { job.finish(.failure(refusal)) }
    }

    func cancel(_ id: UInt64) {
        shared.withLock { shared in
            shared.cancelled.insert(id)
            shared.multi?.wakeUp()
        }
    }

    /// After the job is finished: no cancellation of it can come any more.
    func forget(_ id: UInt64) { shared.withLock { _ = $0.cancelled.remove(id) } }

    func close() {
        shared.withLock { shared in
            shared.isClosed = true
            shared.multi?.wakeUp()
        }
    }

    // MARK: - On the thread

    private func startThread() -> Bool {
        let loop = unsafe Unmanaged.passRetained(self)
        var thread = pthread_t()
        let status = unsafe pthread_create(
            &thread, nil,
            { argument in
                guard let argument = unsafe argument else { return nil }
                unsafe Unmanaged<TransferLoop>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, loop.toOpaque())
        guard status == 0 else {
            unsafe loop.release()
            return false
        }
        pthread_detach(thread)
        return true
    }

    private func run() {
        // Signals are the business of other threads; a SIGPIPE of a lost connection stays pending here and harms nobody.
        var all = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_BLOCK, &all, nil)
        guard let multi = Multi(limits) else { return giveUp() }
        shared.withLock { $0.multi = multi }
        var active: [UInt64: Transfer] = [:]
        var idleSince = ContinuousClock.now
        while true {
            let (submitted, cancelled, isClosed) = shared.withLock { shared in
                defer { shared.submitted = [] }
                return (shared.submitted, shared.cancelled, shared.isClosed)
            }
            for job in submitted { start(job, on: multi, &active) }
            for id in isClosed ? Set(active.keys) : cancelled.intersection(active.keys) {
                end(id, of: multi, &active) { $0.cancelled() }
            }
            guard multi.perform() else {
                for id in Array(active.keys) { end(id, of: multi, &active) { $0.failed(CURLE_OUT_OF_MEMORY) } }
                return giveUp()
            }
            while let (id, code) = multi.nextFinished() {
                end(id, of: multi, &active) { code == CURLE_OK ? $0.succeeded() : $0.failed(code) }
            }
            let now = ContinuousClock.now
            if !active.isEmpty { idleSince = now }
            let remaining = limits.idleTimeout - (now - idleSince)
            if active.isEmpty, isClosed || remaining <= .zero, isOver() { return }
            multi.wait(atMost: active.isEmpty ? remaining : .seconds(1))
        }
    }

    private func start(_ job: TransferJob, on multi: Multi, _ active: inout [UInt64: Transfer]) {
        do throws(HTTPTransferError) {
            let transfer = try Transfer(job)
            active[job.id] = transfer
            guard multi.add(transfer) else { return end(job.id, of: multi, &active) { $0.failed(CURLE_OUT_OF_MEMORY) } }
        } catch {
            finish(job, .failure(error))
        }
    }

    private func end(
        _ id: UInt64, of multi: Multi, _ active: inout [UInt64: Transfer],
        _ result: (Transfer) -> Result<TransferResponse, HTTPTransferError>
    ) {
        guard let transfer = active.removeValue(forKey: id) else { return }
        // Its numbers are read before it leaves.
        let result = result(transfer)
        multi.remove(transfer)
        finish(transfer.job, result)
    }

    private func finish(_ job: TransferJob, _ result: Result<TransferResponse, HTTPTransferError>) {
        shared.withLock { $0.inFlight -= 1 }
        job.finish(result)
    }

    /// Unless a job came meanwhile, the next one starts a new thread.
    private func isOver() -> Bool {
        shared.withLock { shared in
            guard shared.submitted.isEmpty else { return false }
            shared.multi = nil
            shared.isRunning = false
            return true
        }
    }

    /// Nothing can be sent: whoever waits is told.
    private func giveUp() {
        let submitted = shared.withLock { shared in
            shared.multi = nil
            shared.isRunning = false
            defer { shared.submitted = [] }
            return shared.submitted
        }
        for job in submitted {
            finish(
                job,
                .failure(
                    HTTPTransferError(
                        .ownFailure, subject: job.url.origin, "libcurl cannot be started", remedy: "install libcurl 7.87 or newer with TLS")
                ))
        }
    }
}
