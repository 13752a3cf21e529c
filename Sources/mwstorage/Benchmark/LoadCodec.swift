import Glibc
import MWProtocol
import MWWebSocket
import NIOCore

/// What a reply was worth.
enum LoadOutcome {
    /// As it should be, with so many bytes of values read or written.
    case right(bytes: Int)
    /// The server says that it was not done.
    case failed(String)
    case wrong(LoadWrong)
}

/// How a reply differs from what was written.
enum LoadWrong: Hashable, Sendable, CustomStringConvertible {
    case absent(UInt64)
    case length(UInt64, found: Int, expected: Int)
    case bytes(UInt64)
    case count(found: Int, expected: Int)
    /// A scan came to another key than the next.
    case order(found: UInt64, expected: UInt64?)
    /// A page that is not the last, and has nothing.
    case emptyPage
    /// The reply to another kind of request.
    case kind

    var description: String {
        switch self {
        case .absent(let key): "\(LoadKeys.text(key)) is absent"
        case .length(let key, let found, let expected):
            "\(LoadKeys.text(key)) has a value of \(found) bytes, and \(expected) were written"
        case .bytes(let key): "\(LoadKeys.text(key)) has a value of the right length with other bytes"
        case .count(let found, let expected): "\(found) values answer \(expected) keys"
        case .order(let found, let expected):
            "a scan came to \(LoadKeys.text(found)) in place of \(expected.map(LoadKeys.text) ?? "the end")"
        case .emptyPage: "a scan's page is empty and says that there is more"
        case .kind: "a reply to something else than the request"
        }
    }

    var isMissing: Bool {
        switch self {
        case .absent, .order: true
        default: false
        }
    }
}

/// How far a scan has come.
struct LoadCursor {
    /// Where the next page begins.
    var lower: [UInt8] = []
    /// The number of the first of our keys there; nil behind the last.
    var expected: UInt64?

    /// From the first key of all.
    mutating func rewind() {
        lower.removeAll(keepingCapacity: true)
        lower.append(contentsOf: LoadKeys.prefix.utf8)
        expected = 0
    }

    mutating func begin(at key: UInt64) {
        lower = Array(LoadKeys.text(key).utf8)
        expected = key
    }

    /// - Parameter key: The last key of a page.
    mutating func goOn(behind key: UnsafeRawBufferPointer) {
        lower.removeAll(keepingCapacity: true)
        unsafe lower.append(contentsOf: key)
        lower.append(0)
    }
}

/// What one connection says and hears, as bytes: requests out of their numbers, and replies compared with what they must be. It allocates
/// nothing for a request, once its buffer has grown.
struct LoadCodec: ~Copyable {
    private let plan: LoadPlan
    private let values: LoadValues
    private let isFill: Bool
    private var machine: WebSocketStateMachine
    private var masks = LoadMasks()
    /// To be sent.
    private(set) var outbound = ByteBuffer()

    /// What a scan's range ends before: the byte behind the prefix' last.
    private static let scanEnd = Array("benchmark<".utf8)

    init(_ plan: LoadPlan, _ values: LoadValues) {
        self.plan = plan
        self.values = values
        isFill = plan.kind == .fill
        machine = WebSocketStateMachine(role: .client, limits: WebSocketLimits(maximumMessageBytes: plan.maximumMessageBytes))
    }

    // MARK: Bytes

    mutating func received(_ bytes: consuming ByteBuffer) { machine.bytesReceived(bytes) }

    @inline(__always)
    mutating func nextEvent() -> WebSocketEvent? {
        let mask = masks.next()
        return machine.nextEvent(outbound: &outbound, maskingKey: mask)
    }

    mutating func writeClose() {
        let mask = masks.next()
        machine.writeClose(.normal, to: &outbound, maskingKey: mask)
    }

    mutating func write(_ text: String) { outbound.writeString(text) }

    /// Forgets what was sent, and keeps the buffer for what comes, if it is not too large for that.
    mutating func sent(keeping maximumBytes: Int) {
        if outbound.capacity <= maximumBytes { outbound.clear() } else { outbound = ByteBuffer() }
    }

    // MARK: Requests

    private enum Operation { case read, write, scan }

    @inline(__always)
    private func operation(_ state: UInt64) -> Operation {
        switch plan.kind {
        case .put, .fill: .write
        case .scan: .scan
        case .mixed: plan.keys.isRead(state, share: plan.readShare) ? .read : .write
        case .get, .handshake, .idle, .attack: .read
        }
    }

    @inline(__always)
    private func key(_ index: Int, _ number: UInt64, _ state: UInt64) -> UInt64 {
        isFill ? number &* UInt64(plan.keysPerRequest) &+ UInt64(index) : plan.keys.key(index, ofState: state)
    }

    /// How many keys a request has: the last one of a fill may have less.
    @inline(__always)
    private func keyCount(_ number: UInt64) -> Int {
        guard isFill else { return plan.keysPerRequest }
        return min(plan.keysPerRequest, Int(plan.keys.count - number &* UInt64(plan.keysPerRequest)))
    }

    /// Appends a request, ready to be sent.
    ///
    /// - Parameter cursor: Where a scan has come to; others leave it alone.
    @inline(__always)
    mutating func writeRequest(_ number: UInt64, id: RequestID, cursor: LoadCursor) {
        let state = plan.keys.state(ofRequest: number)
        let operation = operation(state)
        let count = keyCount(number)
        let valueBytes = operation == .write ? values.length : 0
        let maximumBytes = Self.headBytes + count * (Self.keyBytes + valueBytes)
        let mask = masks.next()
        let (plan, values, isFill) = (plan, values, isFill)
        @inline(__always) func key(_ index: Int) -> UInt64 {
            isFill ? number &* UInt64(plan.keysPerRequest) &+ UInt64(index) : plan.keys.key(index, ofState: state)
        }
        machine.writeMessage(
            .binary, to: &outbound, expectedBytes: maximumBytes - count * Self.spareKeyBytes, maskingKey: mask
        ) { buffer in
            guard operation != .scan else { return Self.writeScan(id, cursor, entries: plan.scanEntries, to: &buffer) }
            unsafe LoadWriter.append(to: &buffer, maximumBytes: maximumBytes) { writer in
                let values = operation == .write ? values : nil
                if plan.isNative {
                    unsafe Self.writeNative(id, count, key, values, to: &writer)
                } else {
                    unsafe Self.writeMWDB(count, key, values, to: &writer)
                }
            }
            if !plan.isNative { Base64Number(id.rawValue).write(to: &buffer) }
        }
    }

    /// A get, or with values a put.
    @inline(__always)
    private static func writeNative(
        _ id: RequestID, _ count: Int, _ key: (Int) -> UInt64, _ values: LoadValues?, to writer: inout LoadWriter
    ) {
        // The frame's header, see ``NativeFrame``; its length comes last.
        unsafe writer.write(0 as UInt32)
        unsafe writer.write(UInt16(NativeRole.request.rawValue) << 8)
        unsafe writer.write((values == nil ? NativeRequestKind.get : .put).rawValue)
        unsafe writer.write(id.rawValue)
        for index in 0..<count {
            let number = key(index)
            let keyBytes = LoadKeys.byteCount(number)
            if let values {
                unsafe writer.write(1 as UInt16)
                unsafe writer.write(UInt32(2 * NativeFields.headerBytes + keyBytes + values.length))
            }
            unsafe writer.write(1 as UInt16)
            unsafe writer.write(UInt32(keyBytes))
            unsafe LoadKeys.write(number, to: &writer)
            if let values {
                unsafe writer.write(2 as UInt16)
                unsafe writer.write(UInt32(values.length))
                unsafe values.write(number, to: &writer)
            }
        }
        unsafe writer.patch(UInt32(writer.count - MemoryLayout<UInt32>.size), at: 0)
    }

    /// A get, or with values a put, up to its id.
    @inline(__always)
    private static func writeMWDB(_ count: Int, _ key: (Int) -> UInt64, _ values: LoadValues?, to writer: inout LoadWriter) {
        for index in 0..<count {
            let number = key(index)
            unsafe LoadKeys.write(number, to: &writer)
            unsafe writer.write(mwdbSeparator)
            if let values {
                unsafe values.write(number, to: &writer)
                unsafe writer.write(mwdbSeparator)
            }
        }
        unsafe writer.write((values == nil ? MWDBRequestType.get : .put).rawValue)
    }

    private static func writeScan(_ id: RequestID, _ cursor: LoadCursor, entries: Int, to buffer: inout ByteBuffer) {
        NativeFrame.write(.request, kind: NativeRequestKind.scan.rawValue, id: id, to: &buffer) { buffer in
            buffer.writeNativeField(1) { buffer in
                buffer.writeNativeField(1) { $0.writeBytes(cursor.lower) }
                buffer.writeNativeField(2) { $0.writeBytes(Self.scanEnd) }
            }
            buffer.writeNativeField(4, Int64(entries))
        }
    }

    /// Around a request's keys, at most.
    private static let headBytes = 32
    /// For a key and what is around it and its value, at most.
    private static let keyBytes = 3 * NativeFields.headerBytes + LoadKeys.maximumBytes
    /// What a key mostly is below that.
    private static let spareKeyBytes = 20

    // MARK: Replies

    /// Compares a reply or failure with what the request must be answered with.
    func outcome(_ frame: NativeFrame, of number: UInt64, cursor: inout LoadCursor) throws(ProtocolError) -> LoadOutcome {
        if case .failure = frame.role {
            let failure = try NativeFailure(frame.fields)
            return .failed("\(failure.code): \(failure.detail)")
        }
        let state = plan.keys.state(ofRequest: number)
        switch operation(state) {
        case .write:
            guard frame.kind == NativeRequestKind.put.rawValue else { return .wrong(.kind) }
            return .right(bytes: keyCount(number) * values.length)
        case .read:
            guard frame.kind == NativeRequestKind.get.rawValue else { return .wrong(.kind) }
            return try values(in: frame, number, state)
        case .scan:
            guard frame.kind == NativeRequestKind.scan.rawValue else { return .wrong(.kind) }
            return try page(frame, &cursor)
        }
    }

    @inline(__always)
    private func values(in frame: NativeFrame, _ number: UInt64, _ state: UInt64) throws(ProtocolError) -> LoadOutcome {
        let count = keyCount(number)
        var index = 0
        var wrong: LoadWrong?
        unsafe try frame.fields.forEach { (tag, entry) throws(ProtocolError) in
            guard tag.rawValue == 2 else { return }
            if index < count, wrong == nil {
                unsafe try entryFields(entry) { (_, value, isPresent) in
                    wrong = unsafe difference(isPresent ? value : nil, key(index, number, state))
                }
            }
            index += 1
        }
        if let wrong { return .wrong(wrong) }
        guard index == count else { return .wrong(.count(found: index, expected: count)) }
        return .right(bytes: count * values.length)
    }

    private func page(_ frame: NativeFrame, _ cursor: inout LoadCursor) throws(ProtocolError) -> LoadOutcome {
        var wrong: LoadWrong?
        var entries = 0
        var bytes = 0
        var hasMore = false
        var expected = cursor.expected
        var position = cursor
        unsafe try frame.fields.forEach { (tag, field) throws(ProtocolError) in
            if tag.rawValue == 3 { hasMore = unsafe try field.nativeTruth("more") }
            guard tag.rawValue == 2 else { return }
            entries += 1
            unsafe try entryFields(field) { (key, value, isPresent) in
                unsafe position.goOn(behind: key)
                // Somebody else's keys may be among them.
                guard let number = unsafe LoadKeys.number(of: key) else { return }
                if number < plan.keys.count {
                    if number != expected { wrong = wrong ?? .order(found: number, expected: expected) }
                    expected = plan.keys.successor(of: number)
                }
                let difference = unsafe difference(isPresent ? value : nil, number)
                wrong = wrong ?? difference
                bytes += value.count
            }
        }
        position.expected = expected
        cursor = position
        if hasMore {
            if entries == 0 { wrong = wrong ?? .emptyPage }
        } else {
            if let expected { wrong = wrong ?? .absent(expected) }
            cursor.rewind()
        }
        if let wrong { return .wrong(wrong) }
        return .right(bytes: bytes)
    }

    @inline(__always)
    private func entryFields(
        _ entry: UnsafeRawBufferPointer,
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ isPresent: Bool) -> Void
    ) throws(ProtocolError) {
        var key = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        var value = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        var revision: Int64 = 0
        unsafe try NativeFields.forEach(in: entry) { (tag, field) throws(ProtocolError) in
            switch tag.rawValue {
            case 1: unsafe key = unsafe field
            case 2: unsafe value = unsafe field
            case 3: revision = unsafe try field.nativeInteger("revision")
            default: break
            }
        }
        unsafe body(key, value, revision != 0)
    }

    /// Compares a value that was read with what was written; nil if it is that.
    @inline(__always)
    private func difference(_ value: UnsafeRawBufferPointer?, _ key: UInt64) -> LoadWrong? {
        guard let value = unsafe value else { return .absent(key) }
        if unsafe values.isValue(value, of: key) { return nil }
        return value.count == values.length ? .bytes(key) : .length(key, found: value.count, expected: values.length)
    }

    // MARK: mwDB's replies

    /// Compares a reply with what the request must be answered with.
    func outcome(_ reply: MWDBReply, of number: UInt64) -> LoadOutcome {
        let state = plan.keys.state(ofRequest: number)
        let count = keyCount(number)
        switch (reply, operation(state)) {
        case (.put(let isDone, _), .write): return isDone ? .right(bytes: count * values.length) : .failed("the put was not done")
        case (.get(let data, _), .read):
            guard let wrong = difference(data, count, number, state) else { return .right(bytes: count * values.length) }
            return .wrong(wrong)
        default: return .wrong(.kind)
        }
    }

    private func difference(_ data: ByteBuffer, _ count: Int, _ number: UInt64, _ state: UInt64) -> LoadWrong? {
        unsafe data.withUnsafeReadableBytes { bytes in
            var offset = 0
            for index in 0..<count {
                // No value has a separator in it.
                let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset...])
                let end = unsafe rest.baseAddress.flatMap { unsafe memchr($0, Int32(mwdbSeparator), rest.count) }
                let length =
                    if let end = unsafe end, let base = rest.baseAddress { unsafe UnsafeRawPointer(end) - base } else { rest.count }
                let value = unsafe UnsafeRawBufferPointer(rebasing: rest[..<length])
                let key = key(index, number, state)
                // Absent and empty look alike.
                if let wrong = unsafe difference(value.isEmpty ? nil : value, key) { return wrong }
                offset += length + 1
                let isLast = index == count - 1
                guard isLast ? offset == bytes.count + 1 : offset <= bytes.count else {
                    return .count(found: isLast ? count + 1 : index + 1, expected: count)
                }
            }
            return nil
        }
    }
}
