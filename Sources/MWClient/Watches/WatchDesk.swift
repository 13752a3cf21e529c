import MWProtocol
import NIOCore

/// The watches of a client on its event loop: keeps their handlers, arms them on each connection, and routes what the server says of them.
///
/// A watch's request id is in use for as long as it is armed. Such ids are above those of calls, so that the two never meet.
final class WatchDesk {
    /// What is expected under an id.
    private enum Expected {
        /// The reply to the request of a watch, then its events.
        case watch(WatchID)
        case progress(WatchID)
        /// The reply to an `endWatch`: the watch's id is free then.
        case end(watch: RequestID)
        /// Its watch is being ended: what is still on its way is dropped.
        case ended
    }

    private struct Watch {
        let handler: any WatchHandler
        var request: RequestID?
    }

    /// The connection that can be written to, and its store; nil while there is none.
    struct Line {
        let incarnation: Incarnation
        /// Collects a frame to be sent.
        let write: (_ write: (inout ByteBuffer) -> Void) -> Void
    }

    private var line: Line?
    private var watches: [WatchID: Watch] = [:]
    private var expected: [RequestID: Expected] = [:]
    private var lastWatch: UInt64 = 0
    private var nextRequest = WatchDesk.firstRequest
    private var endedBecause: ClientError?

    /// The ids of calls are below.
    static let firstRequest = CallTableStateMachine.maximumRequestID + 1

    /// Whether an answer with this id is one for this desk.
    static func owns(_ id: RequestID) -> Bool { id.rawValue >= self.firstRequest }

    // MARK: Watches

    /// Registers a watch, and begins it as soon as there is a connection.
    func open(_ handler: any WatchHandler) -> WatchID {
        self.lastWatch += 1
        let id = WatchID(rawValue: self.lastWatch)
        if let endedBecause {
            handler.received(.ended(endedBecause))
            return id
        }
        self.watches[id] = Watch(handler: handler)
        self.arm(id)
        return id
    }

    /// Begins a watch that is not armed: after it was refused, or ended by the server, or `suspend`ed.
    func arm(_ id: WatchID) {
        guard let line = self.line, var watch = self.watches[id], watch.request == nil else { return }
        guard let request = watch.handler.watchRequest(on: line.incarnation) else { return }
        let requestID = self.take(.watch(id))
        watch.request = requestID
        self.watches[id] = watch
        line.write { NativeFrame.write(request, id: requestID, to: &$0) }
    }

    /// Has the server end the watch; its handler hears nothing more of it until it is armed again.
    func suspend(_ id: WatchID) {
        guard let request = self.watches[id]?.request else { return }
        self.watches[id]?.request = nil
        guard let line = self.line else { return }
        self.expected[request] = .ended
        let end = self.take(.end(watch: request))
        line.write { buffer in
            var message = NativeEndWatch()
            message.watch = Int64(request.rawValue)
            NativeFrame.write(message, id: end, to: &buffer)
        }
    }

    /// Ends a watch for good; its handler hears nothing more.
    func close(_ id: WatchID) {
        self.suspend(id)
        self.watches[id] = nil
    }

    /// Asks for a ``WatchSignal/progress(_:)``; it does not come when the watch is not armed, or its connection is lost.
    func askProgress(_ id: WatchID) {
        guard let line = self.line, let watch = self.watches[id]?.request else { return }
        let request = self.take(.progress(id))
        line.write { buffer in
            var message = NativeProgressRequest()
            message.watch = Int64(watch.rawValue)
            NativeFrame.write(message, id: request, to: &buffer)
        }
    }

    // MARK: What happens

    /// There is a connection to a store: everything is armed on it.
    func connected(_ line: Line) {
        self.line = line
        for id in self.watches.keys.sorted(by: { $0.rawValue < $1.rawValue }) { self.arm(id) }
    }

    /// The connection is gone, or left.
    func disconnected(because cause: ClientError) {
        self.line = nil
        self.expected.removeAll(keepingCapacity: true)
        for (id, watch) in self.watches.sorted(by: { $0.key.rawValue < $1.key.rawValue }) where watch.request != nil {
            self.watches[id]?.request = nil
            watch.handler.received(.disconnected(cause))
        }
    }

    /// The client ends.
    func end(because cause: ClientError) {
        guard self.endedBecause == nil else { return }
        self.endedBecause = cause
        self.line = nil
        self.expected = [:]
        let watches = self.watches.sorted { $0.key.rawValue < $1.key.rawValue }
        self.watches = [:]
        for (_, watch) in watches { watch.handler.received(.ended(cause)) }
    }

    /// A reply or a failure for which ``owns(_:)`` holds.
    ///
    /// - Returns: false: nothing like it was asked.
    func answered(_ frame: NativeFrame) -> Bool {
        guard let expected = self.expected[frame.id] else { return false }
        switch expected {
        case .watch(let id):
            guard frame.kind == NativeRequestKind.watch.rawValue, let watch = self.watches[id] else { return false }
            guard frame.role == .failure else {
                watch.handler.received(.began(frame.fields))
                return true
            }
            self.expected[frame.id] = nil
            self.watches[id]?.request = nil
            guard let failure = try? NativeFailure(frame.fields) else { return false }
            watch.handler.received(.refused(failure))
            return true
        case .progress(let id):
            self.expected[frame.id] = nil
            guard frame.role == .reply, let watch = self.watches[id], watch.request != nil else { return true }
            watch.handler.received(.progress(frame.fields))
            return true
        case .end(let watch):
            self.expected[frame.id] = nil
            self.expected[watch] = nil
            return true
        case .ended:
            return true
        }
    }

    /// An event of a watch.
    ///
    /// - Returns: false: there is no such watch.
    func received(_ event: NativeFrame) -> Bool {
        switch self.expected[event.id] {
        case .watch(let id):
            let kind = NativeEventKind(rawValue: event.kind)
            if kind == .watchEnded {
                self.expected[event.id] = nil
                self.watches[id]?.request = nil
            }
            self.watches[id]?.handler.received(.event(kind, event.fields))
            return true
        case .ended: return true
        case .progress, .end, nil: return false
        }
    }

    private func take(_ expected: Expected) -> RequestID {
        while true {
            let id = RequestID(self.nextRequest)
            self.nextRequest = self.nextRequest == .max ? Self.firstRequest : self.nextRequest + 1
            guard self.expected[id] == nil else { continue }
            self.expected[id] = expected
            return id
        }
    }
}
