import MWStorage
import Synchronization
import Testing

@Suite struct DiskSyncTests {
    @Test func `It is done once, whoever is first, and everybody waits for it`() async throws {
        let (begun, ended) = (Counter(), Counter())
        let sync = DiskSync {
            begun.add()
            ended.add()
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    try sync.run()
                    #expect(ended.count == 1)
                }
            }
            try await group.waitForAll()
        }
        #expect(begun.count == 1)
    }

    @Test func `What it has failed with it says each time, and is not tried again`() {
        let attempts = Counter()
        let sync = DiskSync { () throws(StorageError) in
            attempts.add()
            throw StorageError(.ioError, subject: "disk", found: "attempt \(attempts.count)")
        }
        for _ in 0..<3 { #expect(throws: StorageError(.ioError, subject: "disk", found: "attempt 1")) { try sync.run() } }
        #expect(attempts.count == 1)
    }

    private final class Counter: Sendable {
        private let value = Atomic<Int>(0)

        var count: Int { value.load(ordering: .sequentiallyConsistent) }
        func add() { value.add(1, ordering: .sequentiallyConsistent) }
    }
}
