internal import NIOCore

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Darwin)
    internal import Darwin
#endif

/// Writes past the channel's own queue, straight into its socket: the way through the queue takes longer than the encryption of a small message.
///
/// Past all that is in front of ``TLSHandler`` as well: nothing that must see what leaves may be there. Only while the queue holds nothing, so
/// that order is kept; what the socket does not take at once, and whatever is wrong with it, is the channel's. The channel hands out its socket for each write, and none once it is closed.
struct DirectWrites {
    /// Default 64 KiB: what a get of a small value, or a burst of them, comes to. Of more, the channel's way is a small part.
    static let maximumBytes = 64 * 1024

    private var socket: (any NIOTransportAccessibleChannelCore<NIOBSDSocket.Handle>)?
    /// Writes that the channel was given and has not told the end of.
    var writesUnderWay = 0

    /// None at all.
    init() {}

    init(around channel: any Channel) {
        socket = channel._channelCore as? any NIOTransportAccessibleChannelCore<NIOBSDSocket.Handle>
    }

    /// Whether the channel has a socket.
    var isPossible: Bool { socket != nil }

    /// Takes off `bytes` what the socket takes; returns whether that was all.
    func write(_ bytes: inout ByteBuffer) -> Bool {
        guard writesUnderWay == 0, let socket, bytes.readableBytes > 0, bytes.readableBytes <= Self.maximumBytes else { return false }
        let taken = try? socket.withUnsafeTransport { descriptor in
            unsafe bytes.withUnsafeReadableBytes { unsafe send(descriptor, $0.baseAddress, $0.count, Self.flags) }
        }
        guard let taken, taken > 0 else { return false }
        bytes.moveReaderIndex(forwardBy: taken)
        return bytes.readableBytes == 0
    }

    #if canImport(Darwin)
        // NIO sets SO_NOSIGPIPE.
        private static let flags: Int32 = 0
    #else
        private static let flags = Int32(MSG_NOSIGNAL)
    #endif
}
