/// A moment of a store: the number of requests that had changed it by then. The empty store is at zero.
///
/// Revisions can be compared within one ``Incarnation`` of a store only.
package struct Revision: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }

    /// Before every change; as the revision of a key, that it is absent.
    package static let zero = Revision(0)

    package var next: Revision { Revision(number + 1) }
    package var description: String { String(number) }

    package static func < (left: Revision, right: Revision) -> Bool { left.number < right.number }
}

/// Which life of a store a revision belongs to: new with every store that is made or restored, so that a revision from before
/// a restore is never taken for one from after it.
package struct Incarnation: Hashable, Sendable, CustomStringConvertible {
    package let number: UInt128

    package init(_ number: UInt128) { self.number = number }

    /// Its 16 bytes, as on the wire.
    package var bytes: [UInt8] { number.bigEndianBytes }

    package static func random() -> Incarnation { Incarnation(.random(in: 1...UInt128.max)) }

    /// 32 hexadecimal digits.
    package var description: String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 32 - digits.count) + digits
    }
}

/// Under whose name a client's writes happen exactly once. Whoever knows it still has to be the same principal.
package struct SessionID: Hashable, Sendable {
    package let number: UInt128

    package init(_ number: UInt128) { self.number = number }

    package static func random() -> SessionID { SessionID(.random(in: 1...UInt128.max)) }
}

/// A lease's number; never used twice by a store.
package struct LeaseID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }

    package var description: String { String(number) }

    package static func < (left: LeaseID, right: LeaseID) -> Bool { left.number < right.number }
}
