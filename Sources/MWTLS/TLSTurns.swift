/// How the connections of one event loop take turns when one of them has much to encrypt. Used on its event loop only.
package protocol TLSTurns: AnyObject {
    /// Calls `body` once, after the network and everybody else who waits like this had their turn.
    func afterOthers(_ body: @escaping () -> Void)

    /// Bytes that a connection may hold that the network has not taken, before its writer is told to wait; half of it before it may go on.
    var maximumUnsentBytes: Int { get }
}
