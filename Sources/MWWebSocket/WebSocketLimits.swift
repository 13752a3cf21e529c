/// What one connection may cost; each limit is answered with the close code named here.
package struct WebSocketLimits: Sendable, Equatable {
    /// Bytes of one message, all fragments together. Breach: 1009. Default 16 MiB: a whole saved model of mwDB, and what one peer may make
    /// us hold.
    package var maximumMessageBytes: Int
    /// Bytes of one frame's payload. Breach: 1009. Default: the message limit.
    package var maximumFrameBytes: Int
    /// Frames of one message, empty ones too. Breach: 1009. Default 4,096: an empty fragment costs its sender six bytes.
    package var maximumFragments: Int

    package static let defaultMaximumMessageBytes = 16 * 1024 * 1024
    package static let defaultMaximumFragments = 4096

    /// A limit below one is a programmer error.
    package init(
        maximumMessageBytes: Int = Self.defaultMaximumMessageBytes,
        maximumFrameBytes: Int? = nil,
        maximumFragments: Int = Self.defaultMaximumFragments
    ) {
        let maximumFrameBytes = maximumFrameBytes ?? maximumMessageBytes
        precondition(maximumMessageBytes > 0 && maximumFrameBytes > 0 && maximumFragments > 0, "a limit must be positive")
        // A ByteBuffer holds less than 4 GiB; with this no sum of lengths below can overflow it.
        precondition(maximumMessageBytes <= Int(UInt32.max) / 2, "maximumMessageBytes must be below 2 GiB")
        self.maximumMessageBytes = maximumMessageBytes
        self.maximumFrameBytes = maximumFrameBytes
        self.maximumFragments = maximumFragments
    }
}
