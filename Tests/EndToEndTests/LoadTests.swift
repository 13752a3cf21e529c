import MWProtocol
import MWWebSocket
import NIOCore
import Testing

@testable import mwstorage

/// What `mwstorage benchmark` does without a server: which keys, which values, when, and what it says of a reply.
@Suite("Load")
struct LoadTests {
    // MARK: Keys

    @Test("the same seed asks for the same keys, another one for others")
    func seeds() {
        func keys(_ seed: UInt64) -> [UInt64] {
            let keys = LoadKeys(count: 1000, seed: seed)
            return (0..<500).flatMap { number in (0..<3).map { keys.key($0, ofState: keys.state(ofRequest: number)) } }
        }
        #expect(keys(7) == keys(7))
        #expect(keys(7) != keys(8))
        #expect(keys(7).allSatisfy { $0 < 1000 })
        #expect(Set(keys(7)).count > 700, "1,500 draws out of 1,000 leave out 223 of them on average")
    }

    @Test(
        "a key is its prefix and its number, and no other key is taken for one", arguments: [0, 7, 10, 99, 100, 123_456_789, 999_999_999])
    func keyText(_ number: UInt64) {
        var buffer = ByteBuffer()
        unsafe LoadWriter.append(to: &buffer, maximumBytes: LoadKeys.maximumBytes) { unsafe LoadKeys.write(number, to: &$0) }
        #expect(String(buffer: buffer) == "benchmark;\(number)")
        #expect(buffer.readableBytes == LoadKeys.byteCount(number))
        #expect(unsafe buffer.withUnsafeReadableBytes { unsafe LoadKeys.number(of: $0) } == number)
        for other in ["benchmark;", "benchmark;large", "benchmark;07", "benchmark;7x", "benchmark:7", "7", ""] {
            #expect(unsafe Array(other.utf8).withUnsafeBytes { unsafe LoadKeys.number(of: $0) } == nil, "\(other)")
        }
    }

    @Test("the next key of a scan is the next in byte order", arguments: [1, 2, 9, 10, 11, 15, 99, 100, 101, 1234, 10_000])
    func scanOrder(_ count: Int) {
        let keys = LoadKeys(count: count, seed: 1)
        var walked: [UInt64] = []
        var next: UInt64? = 0
        while let number = next {
            walked.append(number)
            next = keys.successor(of: number)
        }
        #expect(walked == (0..<UInt64(count)).sorted { Array("\($0)".utf8).lexicographicallyPrecedes(Array("\($1)".utf8)) })
    }

    @Test("the share of reads is what was asked for", arguments: [0, 0.5, 0.9, 1])
    func readShare(_ share: Double) {
        let keys = LoadKeys(count: 10, seed: 3)
        let reads = (0..<10_000).count { keys.isRead(keys.state(ofRequest: UInt64($0)), share: share) }
        #expect(abs(Double(reads) / 10_000 - share) < 0.02)
        if share == 0 || share == 1 { #expect(reads == Int(share) * 10_000) }
    }

    // MARK: Values

    @Test("a value is known again, and no other is taken for it", arguments: [1, 7, 8, 9, 1024, 65_536, 65_545, 200_000])
    func values(_ length: Int) {
        let values = LoadValues(length: length, seed: 5)
        func isValue(_ bytes: [UInt8], _ key: UInt64, _ values: LoadValues) -> Bool {
            unsafe bytes.withUnsafeBytes { unsafe values.isValue($0, of: key) }
        }
        var buffer = ByteBuffer()
        unsafe LoadWriter.append(to: &buffer, maximumBytes: length) { unsafe values.write(42, to: &$0) }
        let bytes = Array(buffer.readableBytesView)
        #expect(bytes.count == length)
        #expect(!bytes.contains(mwdbSeparator))
        #expect(isValue(bytes, 42, values))
        for place in Set([0, length / 2, length - 1, min(8, length - 1)]) {
            var damaged = bytes
            damaged[place] ^= 1
            #expect(!isValue(damaged, 42, values), "byte \(place)")
        }
        #expect(!isValue(Array(bytes.dropLast()), 42, values))
        #expect(!isValue(bytes + [0], 42, values))
        guard length >= 8 else { return }
        #expect(!isValue(bytes, 43, values))
        #expect(!isValue(bytes, 42, LoadValues(length: length, seed: 6)))
    }

    // MARK: Schedule

    @Test("loops share a schedule: together they are due as one would be", arguments: [1, 3, 1000, 999_983, 10_000_000])
    func schedule(_ rate: Int) {
        let whole = LoadSchedule(start: 1_000_000, rate: rate, loop: 0, loops: 1)
        let parts = (0..<3).map { LoadSchedule(start: 1_000_000, rate: rate, loop: $0, loops: 3) }
        #expect((0..<30).map { whole.due($0) } == (0..<30).map { parts[$0 % 3].due($0 / 3) })
        #expect(whole.due(rate) == 1_001_000_000)
        for schedule in parts + [whole] {
            for index in [0, 1, 17, 1_000_000_007] {
                #expect(schedule.dueCount(by: schedule.due(index) + 1) > index)
                #expect(schedule.dueCount(by: schedule.due(index) - 1) <= index)
            }
        }
    }

    @Test("a request that is given out late is due when it was due")
    func lateness() throws {
        var dispenser = LoadDispenser(
            LoadSchedule(start: 1000, rate: 1_000_000, loop: 0, loops: 1), loop: 0, loops: 1, limit: 5, isWarmUp: false)
        #expect(dispenser.next(999) == nil)
        #expect(dispenser.next(1000) == LoadTicket(number: 0, due: 1000))
        #expect(dispenser.next(1999) == nil)
        var late: [UInt64] = []
        dispenser.notice(3500) { late.append($0) }
        #expect(late == [2500, 1500, 500], "the first was given out without a look")
        #expect(dispenser.nextDue == 4000)
        // The server stalls: nobody has room until now.
        #expect(dispenser.next(9000) == LoadTicket(number: 1, due: 2000))
        #expect(dispenser.next(9000) == LoadTicket(number: 2, due: 3000))
        #expect(!dispenser.isEmpty)
        var waited: [UInt64] = []
        dispenser.stop(9000) { waited.append($0) }
        #expect(waited == [5000, 4000], "there were to be five in all")
        #expect(dispenser.isEmpty)
        #expect(dispenser.next(20_000) == nil)
        #expect(dispenser.nextDue == nil)
    }

    @Test("without a schedule a request is due when there is room, and loops share the numbers")
    func unscheduled() {
        var dispenser = LoadDispenser(nil, loop: 1, loops: 4, limit: 2, isWarmUp: false)
        #expect(dispenser.next(5) == LoadTicket(number: 1, due: 5))
        #expect(dispenser.next(6) == LoadTicket(number: 5, due: 6))
        #expect(dispenser.next(7) == nil)
        #expect(dispenser.isEmpty)
        var warmUp = LoadDispenser(nil, loop: 1, loops: 4, limit: nil, isWarmUp: true)
        #expect(warmUp.next(5)?.isMeasured == false)
    }

    @Test("a schedule with an end has what is due before it")
    func scheduleEnd() {
        let schedule = LoadSchedule(start: 1000, rate: 1_000_000, loop: 0, loops: 1)
        let dispenser = LoadDispenser(schedule, loop: 0, loops: 1, limit: nil, end: 11_000, isWarmUp: false)
        #expect(dispenser.limit == 10)
    }

    // MARK: Requests and replies

    private func plan(
        _ kind: BenchmarkCommand.Kind, isNative: Bool = true, keys: Int = 100, valueBytes: Int = 16, keysPerRequest: Int = 3
    ) -> LoadPlan {
        LoadPlan(
            kind: kind, isNative: isNative, connections: 1, inFlight: 1, extent: .requests(1), warmUp: 0, rate: nil,
            keys: LoadKeys(count: keys, seed: 1), valueBytes: valueBytes, keysPerRequest: keysPerRequest, readShare: 0.5, scanEntries: 10,
            loops: 1, timeout: 1)
    }

    private func value(_ plan: LoadPlan, _ key: UInt64) -> ByteBuffer {
        var buffer = ByteBuffer()
        let values = LoadValues(length: plan.valueBytes, seed: plan.keys.seed)
        unsafe LoadWriter.append(to: &buffer, maximumBytes: plan.valueBytes) { unsafe values.write(key, to: &$0) }
        return buffer
    }

    /// What a server reads of a request.
    private func message(_ plan: LoadPlan, _ number: UInt64, cursor: LoadCursor = LoadCursor()) throws -> ByteBuffer {
        var codec = LoadCodec(plan, LoadValues(length: plan.valueBytes, seed: plan.keys.seed))
        codec.writeRequest(number, id: RequestID(9), cursor: cursor)
        var server = WebSocketStateMachine(role: .server)
        server.bytesReceived(codec.outbound)
        var outbound = ByteBuffer()
        guard case .message(.binary, let message) = server.nextEvent(outbound: &outbound) else { throw NoMessage() }
        return message
    }

    private struct NoMessage: Error {}

    @Test("requests are those of the protocol")
    func requests() throws {
        let get = plan(.get)
        let state = get.keys.state(ofRequest: 4)
        let keys = (0..<3).map { get.keys.key($0, ofState: state) }
        let names = keys.map { ByteBuffer(string: "benchmark;\($0)") }

        let frame = try #require(try NativeFrame.all(in: message(get, 4)).first)
        #expect(frame.role == .request && frame.kind == NativeGet.kind.rawValue && frame.id == RequestID(9))
        #expect(try NativeGet(frame.fields).keys == names)
        let put = try #require(try NativeFrame.all(in: message(plan(.put), 4)).first)
        #expect(try NativePut(put.fields).pairs.map(\.key) == names)
        #expect(try NativePut(put.fields).pairs.map(\.value) == keys.map { value(get, $0) })
        // The last request of a fill has what is left.
        let fill = try #require(try NativeFrame.all(in: message(plan(.fill), 33)).first)
        #expect(try NativePut(fill.fields).pairs.map(\.key) == [ByteBuffer(string: "benchmark;99")])
        var cursor = LoadCursor()
        cursor.begin(at: 17)
        let scan = try #require(try NativeFrame.all(in: message(plan(.scan), 0, cursor: cursor)).first)
        #expect(try NativeScan(scan.fields).range.lower == ByteBuffer(string: "benchmark;17"))
        #expect(try NativeScan(scan.fields).range.upper == ByteBuffer(string: "benchmark<"))
        #expect(try NativeScan(scan.fields).limit == 10)

        guard case .get(let elements, id: RequestID(9)) = try MWDBRequest(message: message(plan(.get, isNative: false), 4)),
            case .put(let pairs, id: RequestID(9)) = try MWDBRequest(message: message(plan(.put, isNative: false), 4))
        else { throw NoMessage() }
        #expect(elements.slices == names)
        #expect(pairs.slices.map(\.key) == names)
        #expect(pairs.slices.map(\.value) == keys.map { value(get, $0) })
    }

    private func outcome(_ plan: LoadPlan, _ frame: NativeFrame, cursor: inout LoadCursor) throws -> String {
        let codec = LoadCodec(plan, LoadValues(length: plan.valueBytes, seed: plan.keys.seed))
        return Self.text(try codec.outcome(frame, of: 4, cursor: &cursor))
    }

    private static func text(_ outcome: LoadOutcome) -> String {
        switch outcome {
        case .right(let bytes): "right \(bytes)"
        case .failed(let what): "failed \(what)"
        case .wrong(let wrong): "wrong \(wrong)"
        }
    }

    private func frame(_ reply: some NativeRecord, to kind: NativeRequestKind) throws -> NativeFrame {
        var buffer = ByteBuffer()
        NativeFrame.write(reply: reply, to: kind, id: RequestID(9), to: &buffer)
        return try #require(try NativeFrame.all(in: buffer).first)
    }

    @Test("a reply is right only with every value that was written, in order")
    func replies() throws {
        let plan = plan(.get)
        let state = plan.keys.state(ofRequest: 4)
        let keys = (0..<3).map { plan.keys.key($0, ofState: state) }
        var reply = NativeValues()
        reply.revision = 8
        reply.entries = keys.map { key in
            var entry = NativeEntry()
            entry.value = value(plan, key)
            entry.revision = 3
            return entry
        }
        func outcome(_ change: (inout NativeValues) -> Void = { _ in }) throws -> String {
            var changed = reply
            change(&changed)
            var cursor = LoadCursor()
            return try self.outcome(plan, frame(changed, to: .get), cursor: &cursor)
        }
        #expect(try outcome() == "right 48")
        #expect(try outcome { $0.entries.removeLast() } == "wrong 2 values answer 3 keys")
        #expect(try outcome { $0.entries.append($0.entries[0]) } == "wrong 4 values answer 3 keys")
        #expect(try outcome { $0.entries[1] = NativeEntry() } == "wrong benchmark;\(keys[1]) is absent")
        #expect(try outcome { $0.entries.swapAt(0, 2) }.hasSuffix("with other bytes"))
        #expect(
            try outcome { $0.entries[2].value = ByteBuffer(string: "x") }
                == "wrong benchmark;\(keys[2]) has a value of 1 bytes, and 16 were written")
        var cursor = LoadCursor()
        #expect(try self.outcome(plan, frame(NativeWritten(), to: .put), cursor: &cursor).hasPrefix("wrong"))
        #expect(try self.outcome(self.plan(.put), frame(NativeWritten(), to: .put), cursor: &cursor) == "right 48")
        var buffer = ByteBuffer()
        NativeFrame.write(failure: NativeFailure(.overloaded, "too much"), of: .get, id: RequestID(9), to: &buffer)
        let failure = try #require(try NativeFrame.all(in: buffer).first)
        #expect(try self.outcome(plan, failure, cursor: &cursor) == "failed overloaded: too much")
    }

    @Test("of mwDB's replies too")
    func mwdbReplies() throws {
        let plan = plan(.get, isNative: false)
        let state = plan.keys.state(ofRequest: 4)
        let values = (0..<3).map { String(buffer: value(plan, plan.keys.key($0, ofState: state))) }
        let codec = LoadCodec(plan, LoadValues(length: plan.valueBytes, seed: plan.keys.seed))
        func outcome(_ parts: [String]) -> String {
            Self.text(codec.outcome(.get(ByteBuffer(string: parts.joined(separator: "#")), id: RequestID(9)), of: 4))
        }
        #expect(outcome(values) == "right 48")
        #expect(outcome([values[0], "", values[2]]).hasSuffix("is absent"))
        #expect(outcome([values[0], values[2], values[1]]).hasSuffix("with other bytes"))
        #expect(outcome([values[0], values[1]]).hasPrefix("wrong"))
        #expect(outcome(values + [values[0]]).hasPrefix("wrong"))
        #expect(outcome([]).hasSuffix("is absent"))
        #expect(Self.text(codec.outcome(.put(isDone: true, id: RequestID(9)), of: 4)).hasPrefix("wrong"))
    }

    @Test("a scan is right only if no key is left out, and begins anew behind the last")
    func scans() throws {
        let plan = plan(.scan, keys: 20, keysPerRequest: 1)
        let order = (0..<20).sorted { "\($0)" < "\($1)" }.map { UInt64($0) }
        func page(_ keys: some Sequence<UInt64>, _ foreign: [String] = [], more: Bool) throws -> NativeFrame {
            var page = NativeScanPage()
            page.entries = keys.map { key in
                var entry = NativeEntry()
                entry.key = ByteBuffer(string: "benchmark;\(key)")
                entry.value = value(plan, key)
                entry.revision = 1
                return entry
            }
            page.entries += foreign.map { key in
                var entry = NativeEntry()
                entry.key = ByteBuffer(string: key)
                entry.value = ByteBuffer(string: "somebody's")
                entry.revision = 1
                return entry
            }
            page.hasMore = more
            return try frame(page, to: .scan)
        }
        var cursor = LoadCursor()
        cursor.begin(at: order[3])
        #expect(try outcome(plan, page(order[3..<9], more: true), cursor: &cursor) == "right 96")
        #expect(cursor.lower == Array("benchmark;\(order[8])\0".utf8))
        #expect(try outcome(plan, page(order[9...], ["benchmark;large"], more: false), cursor: &cursor).hasPrefix("right"))
        #expect(cursor.lower == Array("benchmark;".utf8) && cursor.expected == 0)
        #expect(try outcome(plan, page(order[0..<5] + order[6..<8], more: true), cursor: &cursor).hasPrefix("wrong a scan came to"))
        #expect(try outcome(plan, page(order[8..<19], more: false), cursor: &cursor) == "wrong benchmark;\(order[19]) is absent")
        #expect(try outcome(plan, page([], more: true), cursor: &cursor).hasPrefix("wrong a scan's page is empty"))
    }
}
