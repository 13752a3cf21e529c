/// A status code that may stand in a close frame (RFC 6455 §7.4).
///
/// A value that exists may go on the wire: the codes that are reserved for what never travels (1004, 1005, 1006, 1015) and those outside of
/// the assigned ranges cannot be made.
package struct CloseCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt16

    /// `nil` for a code that must not appear in a close frame.
    package init?(rawValue: UInt16) {
        switch rawValue {
        // RFC 6455 §7.4.1 and the IANA registry of close codes: 1012 to 1014 were added after the RFC.
        case 1000...1003, 1007...1014: break
        // RFC 6455 §7.4.2: 3000 to 3999 are registered, 4000 to 4999 private.
        case 3000...4999: break
        default: return nil
        }
        self.rawValue = rawValue
    }

    private init(assigned rawValue: UInt16) {
        self.rawValue = rawValue
    }

    package static let normal = CloseCode(assigned: 1000)
    package static let goingAway = CloseCode(assigned: 1001)
    package static let protocolError = CloseCode(assigned: 1002)
    package static let unsupportedData = CloseCode(assigned: 1003)
    package static let invalidPayload = CloseCode(assigned: 1007)
    package static let policyViolation = CloseCode(assigned: 1008)
    package static let messageTooBig = CloseCode(assigned: 1009)
    package static let mandatoryExtension = CloseCode(assigned: 1010)
    package static let internalError = CloseCode(assigned: 1011)
    package static let serviceRestart = CloseCode(assigned: 1012)
    package static let tryAgainLater = CloseCode(assigned: 1013)

    /// Whether a client that was told this code gains nothing by coming back with the same data.
    package var isPermanent: Bool {
        switch rawValue {
        case 1002, 1003, 1007...1010: true
        default: false
        }
    }

    package var description: String { String(rawValue) }
}
