/// One value of a policy file with its place, whatever the file's syntax: what the reader of the syntax hands to ``AccessPolicyReader``.
package struct PolicyNode: Sendable {
    package indirect enum Content: Sendable {
        case text(String)
        /// What the syntax takes for something else than text, as the number 1 or YAML's `no`.
        case other(String)
        case list([PolicyNode])
        /// In the order of the file; names may repeat.
        case map([(name: PolicyNode, value: PolicyNode)])
    }

    package let content: Content
    package let place: PolicyPlace

    package init(_ content: Content, at place: PolicyPlace) {
        self.content = content
        self.place = place
    }

    /// For messages: what it is, without what it says.
    var kind: String {
        switch self.content {
        case .text: "text"
        case .other(let text): "\(PolicyText.shown(text)), which is no text without quotes"
        case .list: "a list"
        case .map: "a map"
        }
    }
}

/// What comes from a file or a peer, made fit for one line of a message.
package enum PolicyText {
    private static let longest = 64

    /// In single quotes; cut after 64 characters; what is not visible ASCII is escaped.
    package static func shown(_ text: String) -> String { "'\(self.escaped(Array(text.utf8)))'" }

    /// A key: visible ASCII as it is, other bytes as `\xNN`, cut after 64 bytes.
    package static func escaped(_ bytes: some Collection<UInt8>) -> String {
        var text = ""
        for byte in bytes.prefix(self.longest) {
            if (0x20...0x7E).contains(byte), byte != UInt8(ascii: "\\") {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let digits = String(byte, radix: 16)
                text += "\\x" + (digits.count == 1 ? "0" : "") + digits
            }
        }
        return bytes.count > self.longest ? text + "… (\(bytes.count) bytes)" : text
    }
}
