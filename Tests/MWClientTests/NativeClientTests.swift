import MWClient
import MWProtocol
import NIOCore
import Testing

// The data calls of the native protocol against a server that answers what the test says.

/// Runs `body` with a client of the native protocol.
func withNativeClient<Result: Sendable>(
    _ server: FakeServer, _ change: (inout StorageClientConfiguration) -> Void = { _ in },
    _ body: (StorageClient) async throws -> Result
) async throws -> Result {
    let configuration = try server.configuration { configuration in
        configuration.subprotocol = .native
        change(&configuration)
    }
    return try await withClient(configuration, body)
}

extension FakeConnection {
    /// The next request of a kind, read; sessions are opened on the way.
    func next<Request: NativeRequest>(_ type: Request.Type) async throws -> (RequestID, Request) {
        while let frame = await self.frames.next() {
            if frame.kind == Request.kind.rawValue { return (frame.id, try Request(frame.fields)) }
            guard frame.kind == NativeRequestKind.openSession.rawValue else { break }
            self.openSession(frame.id)
        }
        throw Missing(kind: Request.kind)
    }

    struct Missing: Error { let kind: NativeRequestKind }

    func openSession(_ id: RequestID, _ session: UInt8 = 1, timeToLive: Int64 = 60_000, maximumOutcomes: Int64 = 100) {
        var opened = NativeSessionOpened()
        opened.session = ByteBuffer(repeating: session, count: 16)
        opened.timeToLiveMilliseconds = timeToLive
        opened.maximumOutcomes = maximumOutcomes
        self.reply { [opened] in NativeFrame.write(reply: opened, to: .openSession, id: id, to: &$0) }
    }

    func answer<Request: NativeRequest>(_ request: Request.Type, _ id: RequestID, _ reply: Request.Reply) {
        self.reply { NativeFrame.write(reply: reply, to: Request.kind, id: id, to: &$0) }
    }

    func fail<Request: NativeRequest>(_ request: Request.Type, _ id: RequestID, _ failure: NativeFailure) {
        self.reply { NativeFrame.write(failure: failure, of: Request.kind, id: id, to: &$0) }
    }
}

func written(_ revision: Int64) -> NativeWritten {
    var written = NativeWritten()
    written.revision = revision
    return written
}

func entry(_ key: String, _ value: String, _ revision: Int64, lease: Int64? = nil) -> NativeEntry {
    var entry = NativeEntry()
    entry.key = ByteBuffer(string: key)
    entry.value = ByteBuffer(string: value)
    entry.revision = revision
    entry.lease = lease
    return entry
}

@Suite(.timeLimit(.minutes(10))) struct NativeClientTests {
    static let store = Incarnation(Array(repeating: 1, count: 16)) ?? .unknown

    @Test("an absent key is nil and an empty value is one; revisions are the store's")
    func reads() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let read = client.read([bytes("a"), bytes("b"), bytes("c")])
            let connection = try #require(await server.connections.next())
            let (id, get) = try await connection.next(NativeGet.self)
            #expect(get.keys.map { String(buffer: $0) } == ["a", "b", "c"])
            var values = NativeValues()
            values.revision = 9
            values.entries = [entry("", "1", 7, lease: 3), entry("", "", 0), entry("", "", 8)]
            connection.answer(NativeGet.self, id, values)
            let result = try await read
            #expect(
                result.entries == [
                    Entry(
                        key: bytes("a"), value: bytes("1"), revision: Revision(incarnation: Self.store, number: 7),
                        lease: LeaseID(rawValue: 3)),
                    nil,
                    Entry(key: bytes("c"), value: [], revision: Revision(incarnation: Self.store, number: 8)),
                ])
            #expect(result.revision == Revision(incarnation: Self.store, number: 9))

            async let values2 = client.get([bytes("a"), bytes("b"), bytes("c")])
            let (again, _) = try await connection.next(NativeGet.self)
            connection.answer(NativeGet.self, again, values)
            #expect(try await values2 == [bytes("1"), nil, []])
        }
        try await server.stop()
    }

    @Test("writes open a session first, carry its id and their sequence, and say their revision")
    func writes() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let put = client.put([(key: bytes("k#"), value: [0, 35, 255])], lease: LeaseID(rawValue: 5))
            let connection = try #require(await server.connections.next())
            let (id, request) = try await connection.next(NativePut.self)
            #expect(Array(request.pairs[0].key.readableBytesView) == bytes("k#") && request.lease == 5)
            #expect(Array(request.pairs[0].value.readableBytesView) == [0, 35, 255])
            #expect(request.writeID?.session == ByteBuffer(repeating: 1, count: 16))
            #expect(request.writeID?.sequence == 1 && request.writeID?.acknowledged == 0)
            connection.answer(NativePut.self, id, written(4))
            #expect(try await put == Revision(incarnation: Self.store, number: 4))

            async let removal = client.remove([bytes("k#")])
            let (removalID, remove) = try await connection.next(NativeRemove.self)
            #expect(remove.writeID?.sequence == 2 && remove.writeID?.acknowledged == 1)
            connection.answer(NativeRemove.self, removalID, written(5))
            #expect(try await removal.number == 5)

            async let prefix = client.allocatePrefix()
            let (prefixID, allocate) = try await connection.next(NativeAllocatePrefix.self)
            #expect(allocate.writeID?.sequence == 3)
            var given = NativePrefix()
            given.prefix = 77
            connection.answer(NativeAllocatePrefix.self, prefixID, given)
            #expect(try await prefix == 77)
        }
        try await server.stop()
    }

    @Test("a transaction says what it found, and one about another store is not sent")
    func transactions() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            let known = Entry(key: bytes("k"), value: bytes("1"), revision: Revision(incarnation: Self.store, number: 3))
            let transaction = Transaction(
                if: [.isUnchanged(known), .isAbsent(bytes("n")), .value(bytes("v"), .greater, bytes("a"))],
                then: [.put(bytes("k"), bytes("2"), lease: LeaseID(rawValue: 9)), .remove(bytes("r"))], otherwise: [.get(bytes("k"))])
            async let done = client.transaction(transaction)
            let connection = try #require(await server.connections.next())
            let (id, request) = try await connection.next(NativeTransaction.self)
            #expect(request.compares.map(\.target) == [1, 0, 2] && request.compares.map(\.relation) == [0, 0, 3])
            #expect(request.compares[0].number == 3 && request.compares[1].number == 0)
            #expect(request.thenOperations.map(\.action) == [1, 2] && request.elseOperations.map(\.action) == [0])
            #expect(request.thenOperations[0].lease == 9 && request.writeID?.sequence == 1)
            var result = NativeTransactionResult()
            result.revision = 6
            result.results = [entry("", "9", 5)]
            connection.answer(NativeTransaction.self, id, result)
            let found = Entry(key: bytes("k"), value: bytes("9"), revision: Revision(incarnation: Self.store, number: 5))
            let expected = TransactionResult(
                revision: Revision(incarnation: Self.store, number: 6), hasSucceeded: false, entries: [found])
            #expect(try await done == expected)

            let other = Revision(incarnation: try #require(Incarnation(Array(repeating: 2, count: 16))), number: 3)
            let foreign = Transaction(if: [.revision(bytes("k"), .equal, other)], then: [])
            #expect(await failure { _ = try await client.transaction(foreign) }?.code == .wrongIncarnation)
            #expect(client.counters.outcomeUnknown == 0)
        }
        try await server.stop()
    }

    @Test("mwDB's protocol says what it cannot do")
    func unsupported() async throws {
        let server = try await FakeServer.start()
        try await withClient(server.configuration()) { client in
            #expect(await failure { _ = try await client.read([bytes("k")]) }?.code == .unsupported)
            #expect(await failure { _ = try await client.transaction(Transaction(then: [])) }?.code == .unsupported)
            #expect(await failure { for try await _ in client.scan(.all) {} }?.code == .unsupported)
            let put = await failure { try await client.put([(key: bytes("k"), value: [])], lease: LeaseID(rawValue: 1)) }
            #expect(put?.code == .unsupported && put?.remedy?.contains("native") == true)
        }
        try await server.stop()
    }

    @Test("requests that wait together share a message, and a message over the server's limit is not sent")
    func shared() async throws {
        let server = try await FakeServer.start()
        var welcome = FakeServer.welcome(store: 1)
        welcome.maximumMessageBytes = 10_000
        server.welcome = welcome
        try await withNativeClient(server) { client in
            await withTaskGroup(of: Void.self) { group in
                for number in 0..<20 { group.addTask { _ = try? await client.get(bytes("\(number)")) } }
                let connection = await server.connections.next()
                for _ in 0..<20 {
                    guard let (id, _) = try? await connection?.next(NativeGet.self) else { continue }
                    var values = NativeValues()
                    values.entries = [NativeEntry()]
                    connection?.answer(NativeGet.self, id, values)
                }
            }
            #expect(client.counters.succeeded == 20)
            let tooBig = await failure { _ = try await client.get(Array(repeating: 0, count: 10_000)) }
            #expect(tooBig?.code == .invalidArgument)
        }
        try await server.stop()
    }

    // MARK: Scans

    private static func page(_ entries: [NativeEntry], _ revision: Int64, more: Bool) -> NativeScanPage {
        var page = NativeScanPage()
        page.revision = revision
        page.entries = entries
        page.hasMore = more
        return page
    }

    private static func snapshot(_ id: Int64, _ revision: Int64) -> NativeSnapshotOpened {
        var opened = NativeSnapshotOpened()
        opened.snapshot = id
        opened.revision = revision
        return opened
    }

    private static func keys(_ client: StorageClient, _ options: ScanOptions = ScanOptions()) async throws -> [String] {
        var keys: [String] = []
        for try await entry in client.scan(KeyRange(from: bytes("a"), to: bytes("z")), options: options) {
            keys.append(String(decoding: entry.key, as: UTF8.self))
        }
        return keys
    }

    @Test("a range of one page needs no snapshot; a longer one is read in one, which is let go at the end")
    func scan() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let small = Self.keys(client)
            let connection = try #require(await server.connections.next())
            let (id, _) = try await connection.next(NativeScan.self)
            connection.answer(NativeScan.self, id, Self.page([entry("b", "1", 1)], 5, more: false))
            #expect(try await small == ["b"])

            async let large = Self.keys(client)
            let (first, _) = try await connection.next(NativeScan.self)
            connection.answer(NativeScan.self, first, Self.page([entry("b", "1", 1)], 5, more: true))
            // The store changes in between: the first page is read again.
            let (open, _) = try await connection.next(NativeOpenSnapshot.self)
            connection.answer(NativeOpenSnapshot.self, open, Self.snapshot(3, 6))
            let (second, again) = try await connection.next(NativeScan.self)
            #expect(again.snapshot == 3 && again.range.lower == ByteBuffer(string: "a"))
            connection.answer(NativeScan.self, second, Self.page([entry("c", "1", 6)], 6, more: true))
            let (third, last) = try await connection.next(NativeScan.self)
            #expect(last.range.lower == ByteBuffer(bytes: bytes("c") + [0]) && last.range.upper == ByteBuffer(string: "z"))
            connection.answer(NativeScan.self, third, Self.page([entry("d", "1", 1)], 6, more: false))
            #expect(try await large == ["c", "d"])
            let (_, close) = try await connection.next(NativeCloseSnapshot.self)
            #expect(close.snapshot == 3)
        }
        try await server.stop()
    }

    @Test("a lost connection: a scan goes on if nothing has changed, and fails if something has", arguments: [5, 6])
    func scanLost(revision: Int64) async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            async let keys = Self.keys(client)
            let lost = try #require(await server.connections.next())
            let (first, _) = try await lost.next(NativeScan.self)
            lost.answer(NativeScan.self, first, Self.page([entry("y", "1", 1)], 5, more: true))
            let (open, _) = try await lost.next(NativeOpenSnapshot.self)
            lost.answer(NativeOpenSnapshot.self, open, Self.snapshot(3, 5))
            let (_, second) = try await lost.next(NativeScan.self)
            #expect(second.range.lower == ByteBuffer(bytes: bytes("y") + [0]))
            lost.cut()
            let connection = try #require(await server.connections.next())
            let (again, _) = try await connection.next(NativeOpenSnapshot.self)
            connection.answer(NativeOpenSnapshot.self, again, Self.snapshot(1, revision))
            if revision == 5 {
                let (last, request) = try await connection.next(NativeScan.self)
                #expect(request.snapshot == 1)
                connection.answer(NativeScan.self, last, Self.page([entry("yy", "1", 2)], 5, more: false))
                #expect(try await keys == ["y", "yy"])
            } else {
                do {
                    _ = try await keys
                    Issue.record("the store has changed")
                } catch let error as ClientError {
                    #expect(error.code == .snapshotLost)
                }
            }
        }
        try await server.stop()
    }

    @Test("without a snapshot it goes on behind the last key, backward as well")
    func scanInconsistent() async throws {
        let server = try await FakeServer.start()
        try await withNativeClient(server) { client in
            var options = ScanOptions()
            options.isConsistent = false
            options.direction = .backward
            options.isKeysOnly = true
            options.pageEntries = 1
            async let keys = Self.keys(client, options)
            let lost = try #require(await server.connections.next())
            let (first, request) = try await lost.next(NativeScan.self)
            #expect(request.isBackward && request.isKeysOnly && request.limit == 1 && request.snapshot == nil)
            lost.answer(NativeScan.self, first, Self.page([entry("c", "", 1)], 5, more: true))
            _ = try await lost.next(NativeScan.self)
            lost.cut()
            let connection = try #require(await server.connections.next())
            let (last, rest) = try await connection.next(NativeScan.self)
            #expect(rest.range.lower == ByteBuffer(string: "a") && rest.range.upper == ByteBuffer(string: "c"))
            connection.answer(NativeScan.self, last, Self.page([entry("b", "", 1)], 9, more: false))
            #expect(try await keys == ["c", "b"])
        }
        try await server.stop()
    }
}
