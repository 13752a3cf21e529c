import Glibc
import MWStorage

/// Writes where files cannot grow (RLIMIT_FSIZE: a write past it fails with EFBIG), until that is noticed; then lets them grow.
///
/// Value N under the key N: 20 KiB of the byte N. Says `stored N` for each that was acknowledged, `failed CODE`, `read N`
/// for each value that could be read while nothing could be written, `refused CODE` for a write at that time, `writable`
/// when the store has become so by itself, and `done`.
enum LimitedWriter {
    /// Less than the engine's log holds before it begins another.
    private static let fileBytes = 512 << 10
    private static let writeBufferBytes = 1 << 20
    private static let valueBytes = 20 << 10
    /// Far more than fit.
    private static let valueCount = 1000

    static func run(_ factory: StorageEngineFactory, _ directory: String) async throws {
        // It would end the process at the first such write.
        signal(SIGXFSZ, SIG_IGN)
        let unlimited = try fileLimit()
        var options = StorageOptions()
        options.engine.writeBufferBytes = writeBufferBytes
        options.limits.firstRecoveryDelay = .milliseconds(1)
        options.limits.maximumRecoveryDelay = .milliseconds(20)
        let storage = try Storage.open(directory: directory, engine: factory, options: options)
        let watch = RecoveryWatch()
        let observation = storage.observe(watch)
        defer { observation.cancel() }
        try setFileLimit(rlim_t(fileBytes))
        let stored = await fill(storage)
        for number in stored where try storage.get(key(number)) == value(number) { report("read \(number)") }
        do throws(StorageError) { try await storage.put(key(valueCount), [1]) } catch { report("refused \(error.code)") }
        try setFileLimit(unlimited)
        await watch.recovery()
        report("writable")
        try await storage.put(key(valueCount), [1])
        storage.close()
        report("done")
    }

    /// - Returns: what was acknowledged.
    private static func fill(_ storage: Storage) async -> [Int] {
        var stored: [Int] = []
        for number in 0..<valueCount {
            do throws(StorageError) {
                try await storage.put(key(number), value(number))
                stored.append(number)
                report("stored \(number)")
            } catch {
                report("failed \(error.code)")
                break
            }
        }
        return stored
    }

    private static func key(_ number: Int) -> [UInt8] { Array("\(number)".utf8) }
    private static func value(_ number: Int) -> [UInt8] {
        [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: valueBytes)
    }

    private static let resource = __rlimit_resource_t(RLIMIT_FSIZE.rawValue)

    private static func fileLimit() throws(StorageError) -> rlim_t {
        var limit = rlimit()
        guard unsafe getrlimit(resource, &limit) == 0 else { throw StorageError(errno: errno, subject: "RLIMIT_FSIZE") }
        return limit.rlim_cur
    }

    /// Only the soft limit, which may be raised again.
    private static func setFileLimit(_ bytes: rlim_t) throws(StorageError) {
        var limit = rlimit()
        guard unsafe getrlimit(resource, &limit) == 0 else { throw StorageError(errno: errno, subject: "RLIMIT_FSIZE") }
        limit.rlim_cur = bytes
        guard unsafe setrlimit(resource, &limit) == 0 else { throw StorageError(errno: errno, subject: "RLIMIT_FSIZE") }
    }
}

/// Awaits the store's becoming writable again.
private final class RecoveryWatch: StorageObserver {
    private let changes: AsyncStream<StorageHealth>
    private let continuation: AsyncStream<StorageHealth>.Continuation

    init() { (changes, continuation) = AsyncStream.makeStream() }

    func committed(_ commit: borrowing Commit) {}
    func healthChanged(_ health: StorageHealth) { continuation.yield(health) }

    func recovery() async {
        for await health in changes where health == .writable { return }
    }
}
