import MWProtocol
import NIOCore
import Synchronization

/// What the server says of a whole connection: so far, that what this client holds of its store is to be read afresh.
final class NoticeDesk {
    /// Who holds copies; without anybody a notice is acknowledged at once. On the event loop only.
    private var holders: [ReloadHolderID: ReloadHandler] = [:]

    func hold(_ id: ReloadHolderID, _ handler: @escaping ReloadHandler) { self.holders[id] = handler }

    func release(_ id: ReloadHolderID) { self.holders[id] = nil }

    /// - Parameter write: puts a frame on the connection that the notice came from, if it is still there, and sends it. Called on any thread, once.
    func reload(
        _ notice: NativeReloadNotice, _ write: @escaping @Sendable (_ frame: @Sendable @escaping (inout ByteBuffer) -> Void) -> Void
    ) {
        var message = NativeReloadDone()
        message.reload = notice.reload
        let acknowledgement = message
        let countdown = Countdown(self.holders.count + 1) {
            write { NativeFrame.write(acknowledgement, id: Link.unheededID, to: &$0) }
        }
        let holders = self.holders.sorted { $0.key.rawValue < $1.key.rawValue }
        let said = ReloadNotice(notice)
        for (_, handler) in holders { handler(said) { countdown.countDown() } }
        countdown.countDown()
    }
}

/// Somebody who holds what was read.
struct ReloadHolderID: Hashable, Sendable {
    let rawValue: UInt64
}

/// Takes a notice, on the event loop; it must call `done`, once, on any thread, when everything in the ranges was dropped or read afresh.
typealias ReloadHandler = @Sendable (_ notice: ReloadNotice, _ done: @escaping @Sendable () -> Void) -> Void

/// Does something when it has been called often enough.
private final class Countdown: Sendable {
    private let left: Atomic<Int>
    private let body: @Sendable () -> Void

    init(_ count: Int, _ body: @escaping @Sendable () -> Void) {
        self.left = Atomic(count)
        self.body = body
    }

    func countDown() {
        if self.left.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { self.body() }
    }
}

/// What an administrator wants to be read afresh.
struct ReloadNotice: Sendable, Equatable {
    /// None: everything.
    let ranges: [KeyRange]
    let reason: String

    init(ranges: [KeyRange], reason: String) {
        self.ranges = ranges
        self.reason = reason
    }

    init(_ notice: NativeReloadNotice) { self.init(ranges: notice.ranges.map { KeyRange($0) }, reason: notice.reason) }

    /// Whether something of `held` is meant.
    func touches(_ held: [KeyRange]) -> Bool {
        self.ranges.isEmpty || self.ranges.contains { range in held.contains { $0.intersects(range) } }
    }

    func covers(_ key: [UInt8]) -> Bool { self.ranges.isEmpty || self.ranges.contains { $0.contains(key) } }
}
