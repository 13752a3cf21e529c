import MWProtocol

/// A watch of a client's, for its whole life and over all connections. Unique in a client.
struct WatchID: Hashable, Sendable {
    let rawValue: UInt64
}

/// What the engine tells the handler of a watch.
enum WatchSignal {
    /// The server began the watch: a ``NativeWatching``.
    case began(NativeFields)
    /// An event of the watch, in the order in which the server sent them. After `watchEnded` nothing comes until it is armed again.
    case event(NativeEventKind, NativeFields)
    /// The reply to `askProgress`, in order with the events: a ``NativeProgress``.
    case progress(NativeFields)
    /// The server would not begin it. Nothing comes until it is armed again.
    case refused(NativeFailure)
    /// The connection is gone, or was left for another one. The handler is asked for its request again once there is one.
    case disconnected(ClientError)
    /// The client has ended: the last signal.
    case ended(ClientError)
}

/// Somebody who has a watch. Called on the client's event loop, in order; it must not wait there.
protocol WatchHandler: AnyObject {
    /// What to ask of the store `incarnation`: at the start, and again on each new connection and after `arm`.
    ///
    /// - Returns: nil: nothing, until `arm` is called.
    func watchRequest(on incarnation: Incarnation) -> NativeWatch?
    func received(_ signal: WatchSignal)
}
