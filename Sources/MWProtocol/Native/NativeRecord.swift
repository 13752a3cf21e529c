package import NIOCore

// Records: fields with names, for everything that is not a hot path. A type says its fields once, in `visit`; reading, writing and
// showing them are three visitors of the same list, so that they cannot disagree.

/// Something that is written as fields: the content of a request, a reply, a failure or an event, or a value inside of one.
package protocol NativeRecord: NativeValue, Hashable, Sendable {
    /// Hands every field to the visitor, with its tag and name.
    mutating func visit<Visitor: NativeFieldVisitor>(_ visitor: inout Visitor) throws(ProtocolError)
}

/// What is done with each field of a record. When a record is read, a field that is not there keeps the value of a new record.
package protocol NativeFieldVisitor {
    /// One value.
    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value) throws(ProtocolError)
    /// A value, or none.
    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value?) throws(ProtocolError)
    /// The same tag any number of times, in order.
    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ values: inout [Value]) throws(ProtocolError)
}

/// What can be the value of a field.
package protocol NativeValue: Hashable, Sendable {
    init()
    init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError)
    func writeNativeValue(to buffer: inout ByteBuffer)
    /// For people and scripts.
    var nativeShown: NativeShown { get }
}

/// A value as it is shown, whatever shows it.
package indirect enum NativeShown: Hashable, Sendable {
    case absent
    case integer(Int64)
    case truth(Bool)
    case time(NativeTime)
    case text(String)
    case bytes([UInt8])
    case list([NativeShown])
    case record([NativeShownField])
}

/// A field as it is shown.
package struct NativeShownField: Hashable, Sendable {
    package let name: String
    package let value: NativeShown
}

/// Seconds since 1970 in UTC.
package struct NativeTime: Hashable, Sendable, Comparable {
    package var secondsSince1970: Int64

    package init(_ secondsSince1970: Int64) { self.secondsSince1970 = secondsSince1970 }

    package static func < (left: NativeTime, right: NativeTime) -> Bool { left.secondsSince1970 < right.secondsSince1970 }
}

// MARK: - Reading and writing

extension NativeRecord {
    /// Reads the fields; those nobody knows are skipped.
    ///
    /// Throws ``ProtocolError/Code/tornField``, ``ProtocolError/Code/malformedField``, or ``ProtocolError/Code/unsupportedField`` for an
    /// unknown field that must be understood.
    package init(_ fields: NativeFields) throws(ProtocolError) {
        self.init()
        var reader = try FieldReader(fields)
        try self.visit(&reader)
        try reader.finish()
    }

    package init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError) { try self.init(NativeFields(bytes: bytes)) }

    package func writeNativeValue(to buffer: inout ByteBuffer) {
        var writer = FieldWriter(buffer)
        // The writer takes the buffer over: two owners would mean a copy.
        buffer = ByteBuffer()
        var copy = self
        // Only reading can fail.
        try? copy.visit(&writer)
        buffer = writer.buffer
    }

    package var nativeShown: NativeShown {
        var shower = FieldShower()
        var copy = self
        try? copy.visit(&shower)
        return .record(shower.fields)
    }
}

private struct FieldReader: NativeFieldVisitor {
    private var slices: [(tag: NativeTag, value: ByteBuffer)]
    private var known: Set<NativeTag> = []

    init(_ fields: NativeFields) throws(ProtocolError) { self.slices = try fields.slices() }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value) throws(ProtocolError) {
        var optional: Value?
        try self.field(tag, name, &optional)
        if let optional { value = optional }
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value?) throws(ProtocolError) {
        var values: [Value] = []
        try self.field(tag, name, &values)
        guard values.count <= 1 else {
            throw ProtocolError(.malformedField, "field \(name)", expected: "it at most once", found: "it \(values.count) times")
        }
        if let only = values.first { value = only }
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ values: inout [Value]) throws(ProtocolError) {
        self.known.insert(tag)
        for slice in self.slices where slice.tag == tag {
            values.append(try Value(nativeBytes: slice.value, name: name))
        }
    }

    func finish() throws(ProtocolError) {
        for slice in self.slices where slice.tag.isCritical && !self.known.contains(slice.tag) {
            throw ProtocolError(.unsupportedField, "field \(slice.tag)", expected: "only fields that this version knows")
        }
    }
}

private struct FieldWriter: NativeFieldVisitor {
    var buffer: ByteBuffer

    init(_ buffer: ByteBuffer) { self.buffer = buffer }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value) {
        self.write(tag, value)
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value?) {
        if let value { self.write(tag, value) }
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ values: inout [Value]) {
        for value in values { self.write(tag, value) }
    }

    private mutating func write(_ tag: NativeTag, _ value: some NativeValue) {
        self.buffer.writeNativeField(tag) { value.writeNativeValue(to: &$0) }
    }
}

private struct FieldShower: NativeFieldVisitor {
    var fields: [NativeShownField] = []

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value) {
        self.fields.append(NativeShownField(name: name, value: value.nativeShown))
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ value: inout Value?) {
        self.fields.append(NativeShownField(name: name, value: value?.nativeShown ?? .absent))
    }

    mutating func field<Value: NativeValue>(_ tag: NativeTag, _ name: String, _ values: inout [Value]) {
        self.fields.append(NativeShownField(name: name, value: .list(values.map(\.nativeShown))))
    }
}

// MARK: - Values

extension Int64: NativeValue {
    package init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError) {
        guard bytes.readableBytes == MemoryLayout<Int64>.size, let value = bytes.getInteger(at: bytes.readerIndex, as: Int64.self) else {
            throw ProtocolError(.malformedField, "field \(name)", expected: "an integer of 8 bytes", found: "\(bytes.readableBytes) bytes")
        }
        self = value
    }

    package func writeNativeValue(to buffer: inout ByteBuffer) { buffer.writeInteger(self) }

    package var nativeShown: NativeShown { .integer(self) }
}

extension Bool: NativeValue {
    package init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError) {
        switch (bytes.readableBytes, bytes.readableBytesView.first) {
        case (1, 0): self = false
        case (1, 1): self = true
        default: throw ProtocolError(.malformedField, "field \(name)", expected: "one byte, 0 or 1")
        }
    }

    package func writeNativeValue(to buffer: inout ByteBuffer) { buffer.writeInteger(UInt8(self ? 1 : 0)) }

    package var nativeShown: NativeShown { .truth(self) }
}

extension NativeTime: NativeValue {
    package init() { self.init(0) }

    package init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError) {
        self.init(try Int64(nativeBytes: bytes, name: name))
    }

    package func writeNativeValue(to buffer: inout ByteBuffer) { buffer.writeInteger(self.secondsSince1970) }

    package var nativeShown: NativeShown { .time(self) }
}

extension String: NativeValue {
    package init(nativeBytes bytes: ByteBuffer, name: String) throws(ProtocolError) {
        guard let text = String(validating: bytes.readableBytesView, as: UTF8.self) else {
            throw ProtocolError(.malformedField, "field \(name)", expected: "text in UTF-8")
        }
        self = text
    }

    package func writeNativeValue(to buffer: inout ByteBuffer) { buffer.writeString(self) }

    package var nativeShown: NativeShown { .text(self) }
}

extension ByteBuffer: NativeValue {
    package init(nativeBytes bytes: ByteBuffer, name: String) { self = bytes }

    package func writeNativeValue(to buffer: inout ByteBuffer) { buffer.writeImmutableBuffer(self) }

    package var nativeShown: NativeShown { .bytes(Array(self.readableBytesView)) }
}
