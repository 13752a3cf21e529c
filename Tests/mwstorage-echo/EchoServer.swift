import MWServer
import MWWebSocket
import NIOCore

/// One for each event loop; the delegate keeps nothing, so one serves all.
final class EchoFactory: SessionFactory, SessionDelegate {
    func makeDelegate(for info: SessionInfo) -> any SessionDelegate { self }

    func messageReceived(_ opcode: MessageOpcode, _ payload: ByteBuffer, in session: SessionHandler) {
        session.send(opcode, payload)
    }
}
