internal import MWPKI

// A state file, whole or refused:
//
//   mwstorage-acme SP kind SP 1 SP sha256 of the rest (64 hex digits) SP its length LF
//   JSON
//
// The caller writes it to a temporary file, syncs, renames and syncs the directory; the checksum is for what that cannot
// promise: a damaged disk, a copy that was cut off, an editor.

/// A record that is kept in one file.
package protocol ACMERecord: Sendable {
    /// One word in the first line, so that no record is taken for another.
    static var kind: String { get }
    init(json: JSONValue) throws
    func json() throws -> JSONValue
}

package enum StateFile {
    package static let magic = "mwstorage-acme"
    package static let version = 1
    /// A chain of ten certificates with RSA keys is 25 KiB.
    package static let maximumBytes = 1 << 20
}

extension ACMERecord {
    /// The bytes of the file. There is a private key in it: mode 0600.
    package func encoded() throws -> [UInt8] {
        let body = try json().encoded
        let digest = StateFile.hex(OpenSSL.sha256(body))
        return Array("\(StateFile.magic) \(Self.kind) \(StateFile.version) \(digest) \(body.count)\n".utf8) + body
    }

    /// Throws `stateMalformed` for everything that `encoded` did not write, byte for byte.
    package init(decoding bytes: [UInt8], source: String) throws(ACMEError) {
        func malformed(_ what: String, _ underlying: [String] = []) -> ACMEError {
            ACMEError(
                .stateMalformed, subject: source, what, remedy: "the file is damaged; the generation before it is used, if there is one",
                underlying: underlying)
        }
        guard bytes.count <= StateFile.maximumBytes else { throw malformed("the file is too large") }
        guard let end = bytes.firstIndex(of: UInt8(ascii: "\n")) else { throw malformed("the file is cut off or of another kind") }
        let fields = bytes[..<end].split(separator: 0x20, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
        guard fields.count == 5, fields[0] == StateFile.magic, fields[1] == Self.kind else {
            throw malformed("no \(Self.kind) of this program")
        }
        guard fields[2] == String(StateFile.version) else {
            throw malformed("written by another version (format \(ACMEProblem.safe(fields[2])))")
        }
        let body = Array(bytes[(end + 1)...])
        guard fields[4] == String(body.count) else { throw malformed("the file is cut off, or something follows it") }
        guard fields[3] == StateFile.hex(OpenSSL.sha256(body)) else { throw malformed("the checksum does not match") }
        do {
            try self.init(json: try JSONValue(parsing: body))
        } catch {
            throw malformed("its contents cannot be used", ["\(error)"])
        }
    }
}

extension StateFile {
    static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}

// MARK: - Fields of records

extension JSONValue {
    static func optional(_ text: String?) -> JSONValue { text.map { .string($0) } ?? .null }
    static func date(_ date: Timestamp?) -> JSONValue { date.map { .integer($0.secondsSince1970) } ?? .null }
    static func key(_ key: PrivateKey?) throws -> JSONValue {
        try key.map { .string(String(decoding: try $0.pem().bytes, as: UTF8.self)) } ?? .null
    }

    func required(_ name: String) throws(ACMEError) -> String {
        guard let text = self[name]?.string else { throw ACMEError(.stateMalformed, subject: name, "missing") }
        return text
    }

    func requiredDate(_ name: String) throws(ACMEError) -> Timestamp {
        guard let date = date(name) else { throw ACMEError(.stateMalformed, subject: name, "missing") }
        return date
    }

    func date(_ name: String) -> Timestamp? {
        guard case .integer(let seconds)? = self[name] else { return nil }
        return Timestamp(secondsSince1970: seconds)
    }

    func key(_ name: String) throws -> PrivateKey? {
        try self[name]?.string.map { try PrivateKey(pem: Array($0.utf8), source: name) }
    }

    func requiredKey(_ name: String) throws -> PrivateKey {
        guard let key = try key(name) else { throw ACMEError(.stateMalformed, subject: name, "missing") }
        return key
    }

    func identifiers(_ name: String) throws(ACMEError) -> [Identifier] {
        let texts = self[name]?.strings ?? []
        let identifiers = texts.compactMap { Identifier($0) }
        guard !identifiers.isEmpty, identifiers.count == texts.count else { throw ACMEError(.stateMalformed, subject: name, "not names") }
        return identifiers
    }
}
