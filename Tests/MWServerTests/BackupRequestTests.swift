import EngineContract
import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// Backups and compaction, asked for by an administrator of a running server.
@Suite struct BackupRequestTests {
    // The engine is in memory; its copies are files.
    @Test func `A backup is made under its name in the server's directory, and can be restored`() async throws {
        try await withTemporaryDirectory { directory in
            try await RunningServer.with({ $0.backupDirectory = directory + "/backups" }) { running in
                let administrator = try await running.connectNative()
                let storage = try #require(running.server.storage)
                try await storage.put([1], [2])
                var request = NativeBackupRequest()
                request.name = "before-work_1.0"
                let backup = try await administrator.ask(request)
                #expect(backup.path == directory + "/backups/before-work_1.0")
                #expect(backup.revision == 1 && backup.bytes > 0)
                #expect(backup.incarnation == ByteBuffer(integer: storage.incarnation.number))
                let again = try await administrator.failure(of: request)
                #expect(again?.code == .invalidArgument && again?.detail.contains("something is there") == true)
                // Without a name it is made of time and revision.
                let second = try await administrator.ask(NativeBackupRequest())
                #expect(second.path.hasPrefix(directory + "/backups/2") && second.path.hasSuffix("Z-r1"))
                let restore = try Restore(from: backup.path, engines: [.memory()])
                #expect(try restore.run(into: directory + "/new").entryCount == 1)
                await administrator.peer.close()
            }
        }
    }

    @Test(arguments: ["..", ".hidden", "a/b", "/tmp/x", "a\u{0}b", "a b", "ä", "x.partial", String(repeating: "x", count: 129)])
    func `A name that could lead elsewhere is refused, and nothing is made`(name: String) async throws {
        #expect(!BackupName.isGood(name))
        try await withTemporaryDirectory { directory in
            try await RunningServer.with({ $0.backupDirectory = directory + "/backups" }) { running in
                let administrator = try await running.connectNative()
                var request = NativeBackupRequest()
                request.name = name
                #expect(try await administrator.failure(of: request)?.code == .invalidArgument)
                #expect(try FileDescriptor.names(in: directory).isEmpty)
                await administrator.peer.close()
            }
        }
    }

    @Test func `Without a directory there are no backups, and who may not administer gets none`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            #expect(try await administrator.failure(of: NativeBackupRequest())?.code == .notConfigured)
            await administrator.peer.close()
        }
    }

    @Test func `History is forgotten up to the revision that was asked for, and not beyond the store's`() async throws {
        try await RunningServer.with { running in
            let administrator = try await running.connectNative()
            let storage = try #require(running.server.storage)
            for byte in 1...3 as ClosedRange<UInt8> { try await storage.put([byte], [byte]) }
            var request = NativeCompactRequest()
            request.revision = 2
            #expect(try await administrator.ask(request).revision == 2)
            #expect(storage.compactedRevision == Revision(2))
            for revision: Int64 in [-1, 4, .max, .min] {
                request.revision = revision
                #expect(try await administrator.failure(of: request)?.code == .invalidArgument)
            }
            let state = try await administrator.ask(NativeStatusRequest()).storage
            #expect(state.revision == 3 && state.compactedRevision == 2)
            #expect(state.incarnation == ByteBuffer(integer: storage.incarnation.number))
            await administrator.peer.close()
        }
    }
}
