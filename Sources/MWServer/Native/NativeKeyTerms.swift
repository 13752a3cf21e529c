internal import MWProtocol
internal import MWStorage
internal import NIOCore

/// What a get, put or remove says apart from what it reads or writes, and what is to be said of its keys: found in one pass over its fields,
/// where they are. Whatever is malformed shows here, before anything is done.
struct NativeKeyTerms {
    private(set) var keyCount = 0
    /// The first key without the right that is needed.
    private(set) var denied: [UInt8]?
    private(set) var isWithoutValues = false
    /// Not checked yet.
    private(set) var snapshot: Int64?
    private(set) var lease: Int64?
    private(set) var writeID: NativeWriteTerms?

    /// - Parameter maximumKeys: Keys behind so many are not looked at.
    init(ofGet fields: NativeFields, _ grants: AccessGrants, maximumKeys: Int) throws(ProtocolError) {
        var isWithoutValues: Bool?
        try unsafe fields.forEach { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: unsafe self.judge(value, .read, grants, maximumKeys)
            case 2: try isWithoutValues.setNativeField("without_values", unsafe value.nativeTruth("without_values"))
            case Self.snapshotTag: try self.snapshot.setNativeField("snapshot", unsafe value.nativeInteger("snapshot"))
            default: try tag.checkSkippable()
            }
        }
        self.isWithoutValues = isWithoutValues ?? false
    }

    init(ofPut fields: NativeFields, _ grants: AccessGrants, maximumKeys: Int) throws(ProtocolError) {
        try unsafe fields.forEach { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: unsafe self.judge(try NativePairBytes(value).key, .write, grants, maximumKeys)
            case Self.leaseTag: try self.lease.setNativeField("lease", unsafe value.nativeInteger("lease"))
            case Self.putWriteIDTag: try self.writeID.setNativeField("write_i_d", unsafe NativeWriteTerms(value))
            default: try tag.checkSkippable()
            }
        }
    }

    init(ofRemove fields: NativeFields, _ grants: AccessGrants, maximumKeys: Int) throws(ProtocolError) {
        try unsafe fields.forEach { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: unsafe self.judge(value, .write, grants, maximumKeys)
            case Self.removeWriteIDTag: try self.writeID.setNativeField("write_i_d", unsafe NativeWriteTerms(value))
            default: try tag.checkSkippable()
            }
        }
    }

    private static let snapshotTag = NativeTag(rawValue: 3).critical
    private static let leaseTag = NativeTag(rawValue: 2).critical
    private static let putWriteIDTag = NativeTag(rawValue: 3).critical
    private static let removeWriteIDTag = NativeTag(rawValue: 2).critical

    @inline(__always)
    private mutating func judge(_ key: UnsafeRawBufferPointer, _ right: AccessRight, _ grants: AccessGrants, _ maximumKeys: Int) {
        self.keyCount += 1
        guard !grants.everywhere.contains(right), self.denied == nil, self.keyCount <= maximumKeys else { return }
        if unsafe !grants.allows(right, key) { self.denied = unsafe Array(key) }
    }
}

/// A key and its value, where they are in a put.
@safe
struct NativePairBytes {
    @unsafe let key: UnsafeRawBufferPointer
    @unsafe let value: UnsafeRawBufferPointer

    init(_ pair: UnsafeRawBufferPointer) throws(ProtocolError) {
        var key: UnsafeRawBufferPointer?
        var value: UnsafeRawBufferPointer?
        try unsafe NativeFields.forEach(in: pair) { (tag, bytes) throws(ProtocolError) in
            switch tag {
            case 1: unsafe try key.setNativeField("key", bytes)
            case 2: unsafe try value.setNativeField("value", bytes)
            default: try tag.checkSkippable()
            }
        }
        unsafe self.key = key ?? UnsafeRawBufferPointer(start: nil, count: 0)
        unsafe self.value = value ?? UnsafeRawBufferPointer(start: nil, count: 0)
    }
}

/// A WriteID, as it was sent.
struct NativeWriteTerms {
    let session: SessionID
    private let sequence: Int64
    private let acknowledged: Int64

    init(_ record: UnsafeRawBufferPointer) throws(ProtocolError) {
        var session: SessionID?
        var sequence: Int64?
        var acknowledged: Int64?
        try unsafe NativeFields.forEach(in: record) { (tag, value) throws(ProtocolError) in
            switch tag {
            case 1: try session.setNativeField("session", unsafe SessionID(nativeBytes: value))
            case 2: try sequence.setNativeField("sequence", unsafe value.nativeInteger("sequence"))
            case 3: try acknowledged.setNativeField("acknowledged", unsafe value.nativeInteger("acknowledged"))
            default: try tag.checkSkippable()
            }
        }
        guard let session else { throw ProtocolError(.malformedField, "field write_i_d", expected: "a session in it") }
        self.session = session
        self.sequence = sequence ?? 0
        self.acknowledged = acknowledged ?? 0
    }

    /// The same as one that was read into a record.
    init(_ writeID: NativeWriteID) throws(ProtocolError) {
        self.session = try SessionID(native: writeID.session)
        self.sequence = writeID.sequence
        self.acknowledged = writeID.acknowledged
    }

    var identifier: WriteIdentifier {
        get throws(NativeFailure) {
            guard self.sequence >= 1, self.acknowledged >= 0 else {
                throw NativeFailure(
                    .invalidArgument, "a write with sequence \(self.sequence) and acknowledged \(self.acknowledged)",
                    remedy: "sequences begin at 1, acknowledged at 0")
            }
            return WriteIdentifier(session: self.session, sequence: UInt64(self.sequence), acknowledged: UInt64(self.acknowledged))
        }
    }
}

extension SessionID {
    /// Bytes of a session on the wire.
    private static let byteCount = MemoryLayout<UInt128>.size

    init(nativeBytes bytes: UnsafeRawBufferPointer) throws(ProtocolError) {
        guard bytes.count == Self.byteCount else {
            throw ProtocolError(.malformedField, "field session", expected: "\(Self.byteCount) bytes", found: "\(bytes.count)")
        }
        self.init(UInt128(bigEndian: unsafe bytes.loadUnaligned(as: UInt128.self)))
    }

    init(native bytes: ByteBuffer) throws(ProtocolError) {
        guard bytes.readableBytes == Self.byteCount, let number = bytes.getInteger(at: bytes.readerIndex, as: UInt128.self) else {
            throw ProtocolError(.malformedField, "field session", expected: "\(Self.byteCount) bytes", found: "\(bytes.readableBytes)")
        }
        self.init(number)
    }
}
