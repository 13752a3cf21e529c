import MWProtocol
import MWStorage
import NIOCore
import Testing

@testable import MWServer

/// Transactions, writes that happen exactly once, prefixes and leases of the native protocol, over a store in memory.
@Suite struct NativeWriteTests {
    // MARK: Transactions

    @Test func `A transaction does its then operations where all conditions hold, and its else operations otherwise, at one revision`()
        throws
    {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("a", "1")]))
        let done = try client.write(
            NativeTransaction(
                if: [NativeCompare("a", 0, 0, number: 1), NativeCompare("a", 1, 0, number: 1), NativeCompare("a", 2, 0, value: "1")],
                then: [.get("a"), .put("a", "2"), .get("a"), .remove("a"), .get("a"), .put("b", "3")], else: [.put("never", "x")]))
        #expect(done.hasSucceeded && done.revision == 2)
        #expect(done.results.map { String(buffer: $0.value) } == ["1", "1", "2", "2", "", ""], "each step sees those before it")
        #expect(done.results.map { String(buffer: $0.key) } == ["a", "a", "a", "a", "a", "b"])
        let not = try client.write(
            NativeTransaction(if: [NativeCompare("b", 1, 0, number: 1)], then: [.put("never", "x")], else: [.get("b")]))
        #expect(!not.hasSucceeded && not.revision == 2)
        #expect(not.results.map(\.shown) == ["b=3@2"])
        #expect(try client.ask(NativeGet(["a", "b", "never"])).entries.map(\.shown) == ["=@0", "=3@2", "=@0"])
        #expect(harness.sessions.loop.counters.transactionRequests == 2)
    }

    static let conditions: [(NativeCompare, Bool)] = [
        (NativeCompare("there", 0, 0, number: 1), true), (NativeCompare("there", 0, 0, number: 0), false),
        (NativeCompare("there", 0, 1, number: 0), true), (NativeCompare("none", 0, 1, number: 0), false),
        (NativeCompare("none", 0, 0, number: 0), true), (NativeCompare("none", 0, 1, number: 1), true),
        (NativeCompare("there", 1, 1, number: 1), false), (NativeCompare("there", 1, 2, number: 2), true),
        (NativeCompare("there", 1, 3, number: 0), true), (NativeCompare("none", 1, 0, number: 0), true),
        (NativeCompare("there", 2, 2, value: "n"), true), (NativeCompare("there", 2, 3, value: "l"), true),
        (NativeCompare("there", 2, 1, value: "m"), false), (NativeCompare("none", 2, 0, value: ""), true),
        (NativeCompare("there", 2, 3, value: "m\0"), false),
    ]

    @Test(arguments: conditions.indices) func `A condition holds as the specification says`(index: Int) throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        _ = try client.write(NativePut([("there", "m")]))
        let (compare, expected) = Self.conditions[index]
        let outcome = try client.write(NativeTransaction(if: [compare], then: [.get("there")]))
        #expect(outcome.hasSucceeded == expected)
        #expect(outcome.results.count == (expected ? 1 : 0))
    }

    @Test func `A transaction with numbers that mean nothing, or too many steps, is refused, and nothing of it is done`() throws {
        var limits = ServerLimits()
        limits.maximumTransactionOperations = 3
        let harness = try StorageHarness(limits: limits)
        let client = try harness.connectNative()
        let bad: [NativeTransaction] = [
            NativeTransaction(if: [NativeCompare("a", 3, 0)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", -1, 0)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", 0, 2)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", 0, 0, number: 2)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", 1, 4)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", 1, 0, number: -1)], then: [.put("a", "1")]),
            NativeTransaction(if: [NativeCompare("a", 2, .min)], then: [.put("a", "1")]),
            NativeTransaction(then: [.put("a", "1"), NativeOperation(3, "b")]),
            NativeTransaction(then: [.put("a", "1"), NativeOperation(.max, "b")]),
            NativeTransaction(then: [.put("a", "1"), NativeOperation(0, "b", lease: 1)]),
            NativeTransaction(then: [.put("a", "1", lease: -1)]),
            NativeTransaction(if: [NativeCompare("a", 0, 0)], then: [.put("a", "1"), .put("b", "1")], else: [.put("c", "1")]),
        ]
        for transaction in bad { #expect(try client.failure(of: transaction)?.code == .invalidArgument) }
        #expect(harness.storage.revision == .zero)
    }

    // MARK: Exactly once

    private func session(_ client: NativeHarnessClient) throws -> ByteBuffer {
        let opened = try client.write(NativeOpenSession())
        #expect(opened.session.readableBytes == 16 && opened.timeToLiveMilliseconds > 0 && opened.maximumOutcomes > 0)
        return opened.session
    }

    @Test func `A write that comes again, over another connection, does nothing and gets the first outcome`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let session = try self.session(client)
        let first = try client.write(NativePut([("a", "1")], writeID: NativeWriteID(session, 1)))
        let transaction = NativeTransaction(then: [.get("a"), .put("a", "2")], writeID: NativeWriteID(session, 2))
        let second = try client.write(transaction)
        let third = try client.write(NativeRemove(["a", "none"], writeID: NativeWriteID(session, 3)))
        var prefixRequest = NativeAllocatePrefix()
        prefixRequest.writeID = NativeWriteID(session, 4)
        let fourth = try client.write(prefixRequest)
        _ = try client.write(NativePut([("a", "later")]))

        let again = try harness.connectNative()
        let firstAgain = try again.write(NativePut([("a", "1")], writeID: NativeWriteID(session, 1)))
        #expect(firstAgain.isRepeated && firstAgain.revision == first.revision && firstAgain.changes == first.changes)
        let secondAgain = try again.write(transaction)
        #expect(secondAgain.isRepeated && secondAgain.results == second.results && secondAgain.hasSucceeded)
        #expect(secondAgain.revision == second.revision)
        let thirdAgain = try again.write(NativeRemove(["a", "none"], writeID: NativeWriteID(session, 3)))
        #expect(thirdAgain.isRepeated && thirdAgain.revision == third.revision && thirdAgain.changes == 1)
        let fourthAgain = try again.write(prefixRequest)
        #expect(fourthAgain.isRepeated && fourthAgain.prefix == fourth.prefix)
        #expect(try again.ask(NativeGet(["a"])).entries.map { String(buffer: $0.value) } == ["later"])
    }

    @Test func `A repetition under an identifier of another kind of write is refused`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let session = try self.session(client)
        _ = try client.write(NativePut([("a", "1")], writeID: NativeWriteID(session, 1)))
        let transaction = NativeTransaction(then: [.put("a", "2")], writeID: NativeWriteID(session, 1))
        #expect(try client.failure(of: transaction, submitted: true)?.code == .invalidArgument)
        #expect(try client.ask(NativeGet(["a"])).entries.map(\.shown) == ["=1@1"])
    }

    @Test func `A session is its principal's: another one cannot use, resume or close it`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let session = try self.session(client)
        _ = try client.write(NativePut([("a", "1")], writeID: NativeWriteID(session, 1)))
        let other = try harness.connectNative(as: try VerifiedPeers.principal("bob"))
        #expect(
            try other.failure(of: NativePut([("a", "2")], writeID: NativeWriteID(session, 1)), submitted: true)?.code == .sessionUnknown)
        #expect(
            try other.failure(of: NativePut([("a", "2")], writeID: NativeWriteID(session, 2)), submitted: true)?.code == .sessionUnknown)
        var resume = NativeResumeSession()
        resume.session = session
        #expect(try other.failure(of: resume, submitted: true)?.code == .sessionUnknown)
        var close = NativeCloseSession()
        close.session = session
        #expect(try other.failure(of: close, submitted: true)?.code == .sessionUnknown)
        #expect(try client.write(resume).session == session)
        _ = try client.write(close)
        #expect(try client.failure(of: resume, submitted: true)?.code == .sessionUnknown)
        #expect(
            try client.failure(of: NativePut([("a", "2")], writeID: NativeWriteID(session, 2)), submitted: true)?.code == .sessionUnknown)
        #expect(try client.ask(NativeGet(["a"])).entries.map(\.shown) == ["=1@1"])
        #expect(harness.sessions.loop.counters.sessionRequests == 6)
    }

    @Test func `What has been acknowledged is forgotten, and is never done again`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let session = try self.session(client)
        for sequence: Int64 in 1...3 {
            _ = try client.write(NativePut([("a", "\(sequence)")], writeID: NativeWriteID(session, sequence, acknowledged: sequence - 1)))
        }
        let repeated = NativePut([("a", "1")], writeID: NativeWriteID(session, 1))
        #expect(try client.failure(of: repeated, submitted: true)?.code == .outcomeForgotten)
        #expect(try client.ask(NativeGet(["a"])).entries.map(\.shown) == ["=3@3"])
    }

    @Test func `Sequences and acknowledgements that cannot be are refused`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let session = try self.session(client)
        for (sequence, acknowledged): (Int64, Int64) in [(0, 0), (-1, 0), (.min, 0), (1, -1)] {
            let writeID = NativeWriteID(session, sequence, acknowledged: acknowledged)
            #expect(try client.failure(of: NativePut([("a", "1")], writeID: writeID))?.code == .invalidArgument)
            #expect(try client.failure(of: NativeTransaction(then: [.put("a", "1")], writeID: writeID))?.code == .invalidArgument)
        }
        #expect(
            try client.failure(of: NativePut([("a", "1")], writeID: NativeWriteID(ByteBuffer(string: "short"), 1)))?.code
                == .malformedRequest)
        var resume = NativeResumeSession()
        #expect(try client.failure(of: resume)?.code == .malformedRequest)
        resume.session = ByteBuffer(repeating: 1, count: 17)
        #expect(try client.failure(of: resume)?.code == .malformedRequest)
        var open = NativeOpenSession()
        open.timeToLiveMilliseconds = -1
        #expect(try client.failure(of: open)?.code == .invalidArgument)
        open.timeToLiveMilliseconds = .max
        #expect(try client.write(open).timeToLiveMilliseconds < .max, "the server gives less")
    }

    // MARK: Prefixes and leases

    @Test func `No two prefixes are the same, whichever protocol asks`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        let mwdb = try harness.connect()
        let first = try client.write(NativeAllocatePrefix()).prefix
        try mwdb.send("\u{6}A")
        harness.deliver(1)
        _ = try mwdb.messages()
        #expect(try client.write(NativeAllocatePrefix()).prefix == first + 2)
    }

    @Test func `Keys that go with a lease say so, and go when it is revoked, all at one revision`() throws {
        let harness = try StorageHarness()
        let client = try harness.connectNative()
        var grant = NativeGrantLease()
        grant.timeToLiveMilliseconds = 60_000
        let lease = try client.write(grant)
        #expect(lease.lease > 0 && lease.timeToLiveMilliseconds == 60_000 && lease.remainingMilliseconds <= 60_000)
        _ = try client.write(NativePut([("a", "1"), ("b", "2")], lease: lease.lease))
        _ = try client.write(NativeTransaction(then: [.put("c", "3", lease: lease.lease), .put("d", "4")]))
        #expect(try client.ask(NativeGet(["a", "b", "c", "d"])).entries.map(\.lease) == [lease.lease, lease.lease, lease.lease, nil])
        #expect(try client.ask(NativeScan()).entries.map(\.lease) == [lease.lease, lease.lease, lease.lease, nil])
        var keep = NativeKeepLease()
        keep.lease = lease.lease
        #expect(try client.write(keep).timeToLiveMilliseconds == 60_000)

        let other = try harness.connectNative(as: try VerifiedPeers.principal("bob"))
        #expect(try other.failure(of: keep, submitted: true)?.code == .leaseUnknown)
        #expect(try other.failure(of: NativePut([("e", "1")], lease: lease.lease), submitted: true)?.code == .leaseUnknown)

        var revoke = NativeRevokeLease()
        revoke.lease = lease.lease
        let written = try client.write(revoke)
        #expect(written.changes == 3 && written.revision == 3)
        #expect(try client.ask(NativeScan()).entries.map(\.shown) == ["d=4@2"])
        #expect(try client.failure(of: revoke, submitted: true)?.code == .leaseUnknown)
        #expect(try client.failure(of: keep, submitted: true)?.code == .leaseUnknown)
        #expect(try client.failure(of: NativePut([("e", "1")], lease: lease.lease), submitted: true)?.code == .leaseUnknown)
        for number: Int64 in [0, -1, .min] {
            (keep.lease, revoke.lease) = (number, number)
            #expect(try client.failure(of: keep)?.code == .invalidArgument)
            #expect(try client.failure(of: revoke)?.code == .invalidArgument)
            #expect(try client.failure(of: NativePut([("e", "1")], lease: number))?.code == .invalidArgument)
        }
        grant.timeToLiveMilliseconds = -1
        #expect(try client.failure(of: grant)?.code == .invalidArgument)
    }
}
