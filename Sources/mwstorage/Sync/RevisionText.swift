import ArgumentParser
import MWClient
import MWPKI

/// A revision as commands print it and take it: `INCARNATION:NUMBER`. The incarnation, 32 hexadecimal digits, says of which store; a bare
/// number is refused, as it would be taken for a revision of whatever store is there now.
struct RevisionText: Hashable, Sendable, ExpressibleByArgument, CustomStringConvertible {
    static let incarnationBytes = 16

    var incarnation: [UInt8]
    var number: UInt64

    init(incarnation: [UInt8], number: UInt64) {
        self.incarnation = incarnation
        self.number = number
    }

    init?(argument: String) {
        let parts = argument.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let incarnation = Hex.decode(parts[0]), incarnation.count == Self.incarnationBytes,
            parts[1].utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let number = UInt64(parts[1])
        else { return nil }
        self.init(incarnation: incarnation, number: number)
    }

    init(_ revision: Revision) { self.init(incarnation: revision.incarnation.bytes, number: revision.number) }

    var revision: Revision { Revision(incarnation: Incarnation(incarnation) ?? .unknown, number: number) }

    var description: String { "\(Hex.encode(incarnation)):\(number)" }

    /// Another revision of the same store.
    func with(_ number: UInt64) -> RevisionText { RevisionText(incarnation: incarnation, number: number) }
}
