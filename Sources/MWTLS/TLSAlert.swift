/// An alert of the TLS protocol (RFC 8446 §6, RFC 5246 §7.2): what one side tells the other when it ends the connection.
package struct TLSAlert: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt8

    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let closeNotify = TLSAlert(rawValue: 0)
    package static let unexpectedMessage = TLSAlert(rawValue: 10)
    package static let badRecordMAC = TLSAlert(rawValue: 20)
    package static let recordOverflow = TLSAlert(rawValue: 22)
    package static let handshakeFailure = TLSAlert(rawValue: 40)
    package static let badCertificate = TLSAlert(rawValue: 42)
    package static let unsupportedCertificate = TLSAlert(rawValue: 43)
    package static let certificateRevoked = TLSAlert(rawValue: 44)
    package static let certificateExpired = TLSAlert(rawValue: 45)
    package static let certificateUnknown = TLSAlert(rawValue: 46)
    package static let illegalParameter = TLSAlert(rawValue: 47)
    package static let unknownCA = TLSAlert(rawValue: 48)
    package static let accessDenied = TLSAlert(rawValue: 49)
    package static let decodeError = TLSAlert(rawValue: 50)
    package static let decryptError = TLSAlert(rawValue: 51)
    package static let protocolVersion = TLSAlert(rawValue: 70)
    package static let insufficientSecurity = TLSAlert(rawValue: 71)
    package static let internalError = TLSAlert(rawValue: 80)
    package static let userCanceled = TLSAlert(rawValue: 90)
    package static let noRenegotiation = TLSAlert(rawValue: 100)
    package static let missingExtension = TLSAlert(rawValue: 109)
    package static let unsupportedExtension = TLSAlert(rawValue: 110)
    package static let unrecognizedName = TLSAlert(rawValue: 112)
    package static let certificateRequired = TLSAlert(rawValue: 116)
    package static let noApplicationProtocol = TLSAlert(rawValue: 120)

    /// The name in the RFCs with its number: `certificate_required (116)`.
    package var description: String { "\(name) (\(rawValue))" }

    /// The name in the RFCs: `certificate_required`.
    package var name: String { Self.names[rawValue] ?? "unknown_alert" }

    /// Whether the same attempt would be answered in the same way: retrying only makes noise in the other side's log.
    package var isPermanent: Bool {
        switch self {
        case .closeNotify, .internalError, .userCanceled, .unexpectedMessage, .badRecordMAC, .recordOverflow, .decodeError: false
        default: true
        }
    }

    /// What the receiver of the alert can do about it.
    var remedy: String {
        switch self {
        case .certificateRequired: "give this client a certificate that the peer trusts"
        case .unknownCA: "add our certificate, or the authority that signed it, to the peer's trust store; send its intermediates"
        case .certificateExpired: "renew our certificate and compare the clocks"
        case .certificateRevoked: "issue a new certificate: this one was revoked"
        case .unsupportedCertificate: "use a certificate whose extended key usage allows this side of a connection"
        case .badCertificate, .certificateUnknown, .accessDenied:
            "look into the peer's log: it names what it disliked about our certificate"
        case .handshakeFailure, .insufficientSecurity: "compare versions, suites and certificates with `mwstorage doctor`"
        case .protocolVersion: "use TLS 1.2 or 1.3 on both sides"
        case .decryptError: "check that certificate and private key belong together"
        default: "look into the peer's log"
        }
    }

    private static let names: [UInt8: String] = [
        0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed", 22: "record_overflow",
        30: "decompression_failure", 40: "handshake_failure", 41: "no_certificate", 42: "bad_certificate", 43: "unsupported_certificate",
        44: "certificate_revoked", 45: "certificate_expired", 46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca",
        49: "access_denied", 50: "decode_error", 51: "decrypt_error", 60: "export_restriction", 70: "protocol_version",
        71: "insufficient_security", 80: "internal_error", 86: "inappropriate_fallback", 90: "user_canceled", 100: "no_renegotiation",
        109: "missing_extension", 110: "unsupported_extension", 111: "certificate_unobtainable", 112: "unrecognized_name",
        113: "bad_certificate_status_response", 114: "bad_certificate_hash_value", 115: "unknown_psk_identity",
        116: "certificate_required", 120: "no_application_protocol",
    ]
}
