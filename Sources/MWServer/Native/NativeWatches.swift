internal import MWProtocol
internal import NIOCore

/// The watches of one connection. Called on its event loop only; nothing is called after ``sessionEnded(_:)``.
///
/// Answers go through the session's `reply` and `fail`, which find their request by kind and id; a frame is not kept, for it holds the message.
final class NativeWatches {
    /// A request of one of the kinds `watch`, `endWatch`, `progress` and `reloadDone`.
    func requestReceived(_ frame: NativeFrame, of native: NativeSession, in session: SessionHandler) {
        native.fail(.unknownRequest(frame.kind), frame, in: session)
    }

    /// Everything that one read brought has been taken.
    func readBurstEnded(of native: NativeSession, in session: SessionHandler) {}

    /// The network takes bytes again.
    func mayGoOn(of native: NativeSession, in session: SessionHandler) {}

    /// Rights may be others from here on.
    func principalChanged(of native: NativeSession, in session: SessionHandler) {}

    /// About twice a second.
    func ticked(_ now: NIODeadline, of native: NativeSession, in session: SessionHandler) {}

    func sessionEnded(_ session: SessionHandler) {}
}
