import MWProtocol
import NIOCore

/// What the server says of a whole connection: so far, that what this client holds of its store is to be read afresh.
final class NoticeDesk {
    /// Takes a notice; it must call `done`, once, on the event loop, when everything in the ranges was dropped or read afresh.
    typealias ReloadHandler = (_ notice: NativeReloadNotice, _ done: @escaping () -> Void) -> Void

    /// Who holds copies; without anybody a notice is acknowledged at once.
    var reloadHandler: ReloadHandler?

    /// - Parameter write: puts a frame on the connection that the notice came from, if it is still there, and sends it.
    func reload(_ notice: NativeReloadNotice, _ write: @escaping (_ frame: (inout ByteBuffer) -> Void) -> Void) {
        let done = {
            write { buffer in
                var message = NativeReloadDone()
                message.reload = notice.reload
                NativeFrame.write(message, id: Link.unheededID, to: &buffer)
            }
        }
        if let reloadHandler { reloadHandler(notice, done) } else { done() }
    }
}
