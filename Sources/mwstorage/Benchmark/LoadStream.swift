import MWProtocol
import MWWebSocket
import NIOCore

/// The conversation of one connection, as bytes: up to so many requests in flight, each in a slot of its own.
struct LoadStream: ~Copyable {
    private let isNative: Bool
    private var codec: LoadCodec
    /// The requests in flight: a request's id is its slot and one.
    private var slots: [LoadTicket?]
    private var free: [Int]
    /// One for each slot of a scan; one in all where there are no scans.
    private var cursors: [LoadCursor]
    /// The server said goodbye, and why.
    private(set) var goodbye: String?

    /// - Parameter index: Which connection it is, of all.
    init(_ plan: LoadPlan, _ values: LoadValues, index: Int) {
        isNative = plan.isNative
        codec = LoadCodec(plan, values)
        slots = Array(repeating: nil, count: plan.inFlight)
        free = Array((0..<plan.inFlight).reversed())
        cursors = Array(repeating: LoadCursor(), count: plan.kind == .scan ? plan.inFlight : 1)
        for slot in cursors.indices {
            // Side by side they would all read what the first has just brought into every cache.
            cursors[slot].begin(at: plan.keys.key(slot, ofState: plan.keys.state(ofRequest: UInt64(index))))
        }
    }

    // MARK: What is sent

    var hasRoom: Bool { !free.isEmpty }

    /// To be sent.
    var outbound: ByteBuffer { codec.outbound }

    /// Forgets what was sent, see ``LoadCodec``.
    mutating func sent(keeping maximumBytes: Int) { codec.sent(keeping: maximumBytes) }

    mutating func write(_ text: String) { codec.write(text) }

    mutating func writeClose() { codec.writeClose() }

    @inline(__always)
    mutating func begin(_ ticket: LoadTicket) {
        let slot = free.removeLast()
        slots[slot] = ticket
        codec.writeRequest(ticket.number, id: RequestID(Int32(slot + 1)), cursor: cursors[cursor(of: slot)])
    }

    /// Begins what there is room for, and what is due by now.
    mutating func fill(from book: inout LoadBook, _ now: UInt64) {
        while hasRoom, let ticket = book.next(now) { begin(ticket) }
    }

    @inline(__always)
    private func cursor(of slot: Int) -> Int { cursors.count > 1 ? slot : 0 }

    // MARK: What is received

    /// Takes what the server sent, and settles what it answers.
    mutating func receive(_ bytes: consuming ByteBuffer, at now: UInt64, _ book: inout LoadBook) throws {
        codec.received(bytes)
        while let event = codec.nextEvent() {
            switch event {
            case .message(_, var message):
                if isNative {
                    while let frame = try NativeFrame(readingFrom: &message) { try received(frame, now, &book) }
                } else {
                    try received(MWDBReply(message: message), now, &book)
                }
            case .closeReceived(let code, let reason): goodbye = "\(code.map { "\($0)" } ?? "") \(reason)"
            case .violation(let error): throw error
            case .ping, .pong: continue
            }
        }
    }

    @inline(__always)
    private mutating func received(_ frame: NativeFrame, _ now: UInt64, _ book: inout LoadBook) throws {
        // What nobody asked for.
        if case .event = frame.role { return }
        let (slot, ticket) = try take(frame.id)
        let outcome = try codec.outcome(frame, of: ticket.number, cursor: &cursors[cursor(of: slot)])
        book.settle(ticket, outcome, at: now)
    }

    private mutating func received(_ reply: MWDBReply, _ now: UInt64, _ book: inout LoadBook) throws {
        guard let id = reply.id else { return }
        let (_, ticket) = try take(id)
        book.settle(ticket, codec.outcome(reply, of: ticket.number), at: now)
    }

    /// Frees the slot that is answered.
    @inline(__always)
    private mutating func take(_ id: RequestID) throws -> (slot: Int, ticket: LoadTicket) {
        let slot = Int(id.rawValue) - 1
        guard slots.indices.contains(slot), let ticket = slots[slot] else {
            throw CommandFailure(
                .protocolMismatch, "the server answered a request that was not made", why: "its id is \(id)", code: "protocol.unknownID")
        }
        slots[slot] = nil
        free.append(slot)
        return (slot, ticket)
    }
}
