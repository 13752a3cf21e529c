import MWProtocol
import NIOCore

/// What could be read can be written again, and reads as the same; whatever the bytes are taken for.
enum NativeFuzz {
    static func run(_ input: [UInt8]) {
        var message = ByteBuffer(bytes: input)
        while let frame = try? NativeFrame(readingFrom: &message) {
            var again = ByteBuffer()
            frame.write(to: &again)
            precondition((try? NativeFrame.all(in: again)) == [frame], "a frame does not survive writing and reading")
            check(frame.fields)
        }
        check(NativeFields(bytes: ByteBuffer(bytes: input)))
    }

    private static func check(_ fields: NativeFields) {
        check(NativeHello.self, fields)
        check(NativeWelcome.self, fields)
        check(NativePing.self, fields)
        check(NativeIdentity.self, fields)
        check(NativeFailure.self, fields)
        check(NativeSessionsRequest.self, fields)
        check(NativeSessions.self, fields)
        check(NativeRejectionsRequest.self, fields)
        check(NativeRejections.self, fields)
        check(NativeRefuseRequest.self, fields)
        check(NativeAcceptAgainRequest.self, fields)
        check(NativeRefusals.self, fields)
        check(NativeRefusalChange.self, fields)
        check(NativeAuthorities.self, fields)
        check(NativeStatus.self, fields)
        check(NativeOpenSession.self, fields)
        check(NativeResumeSession.self, fields)
        check(NativeSessionOpened.self, fields)
        check(NativeGet.self, fields)
        check(NativeValues.self, fields)
        check(NativePut.self, fields)
        check(NativeRemove.self, fields)
        check(NativeWritten.self, fields)
        check(NativeScan.self, fields)
        check(NativeScanPage.self, fields)
        check(NativeTransaction.self, fields)
        check(NativeTransactionResult.self, fields)
        check(NativeSnapshotOpened.self, fields)
        check(NativeAllocatePrefix.self, fields)
        check(NativeWatch.self, fields)
        check(NativeChanges.self, fields)
        check(NativeState.self, fields)
        check(NativeResync.self, fields)
        check(NativeWatchEnded.self, fields)
        check(NativeReloadNotice.self, fields)
        check(NativeGrantLease.self, fields)
        check(NativeLease.self, fields)
        check(NativeRevokeLease.self, fields)
        check(NativeReloadClientsRequest.self, fields)
        check(NativeReloadClients.self, fields)
        check(NativeBackup.self, fields)
    }

    private static func check<Record: NativeRecord>(_ type: Record.Type, _ fields: NativeFields) {
        guard let record = try? Record(fields) else { return }
        _ = record.nativeShown
        var written = ByteBuffer()
        record.writeNativeValue(to: &written)
        precondition((try? Record(NativeFields(bytes: written))) == record, "a \(type) does not survive writing and reading")
    }
}
