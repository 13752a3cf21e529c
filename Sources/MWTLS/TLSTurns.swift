/// How the connections of one event loop take turns when one of them has much to encrypt. Used on its event loop only.
package protocol TLSTurns: AnyObject {
    /// Calls `body` once, after the network and everybody else who waits like this had their turn.
    func afterOthers(_ body: @escaping () -> Void)

    /// After a part of long work, and before the next: other threads get the processor, if this one has had it for long enough.
    ///
    /// - Parameter bytes: That were copied or encrypted, or could have been in the time that it took.
    func worked(_ bytes: Int)

    /// Bytes that a connection may hold that the network has not taken, before its writer is told to wait; half of it before it may go on.
    var maximumUnsentBytes: Int { get }
}
