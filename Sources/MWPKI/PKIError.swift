/// What is wrong with a certificate, key, trust store, revocation list, passphrase or the file that holds it.
///
/// Two errors are equal when their codes are. Nothing secret is ever in one.
package struct PKIError: Error, Hashable, CustomStringConvertible {
    /// What kind of thing went wrong; new codes may be added.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        package let name: String

        private init(_ name: String) { self.name = name }

        package var description: String { name }

        package static let pemMalformed = Code("pemMalformed")
        package static let certificateMalformed = Code("certificateMalformed")
        package static let certificateMissing = Code("certificateMissing")
        package static let keyMalformed = Code("keyMalformed")
        package static let keyMissing = Code("keyMissing")
        /// A kind of key that no current TLS can use, as DSA.
        package static let keyUnsupported = Code("keyUnsupported")
        package static let keyTooWeak = Code("keyTooWeak")
        /// Signed with SHA-1, MD5 or older.
        package static let signatureTooWeak = Code("signatureTooWeak")
        /// The private key is not the certificate's.
        package static let keyMismatch = Code("keyMismatch")
        package static let passphraseMissing = Code("passphraseMissing")
        package static let passphraseRejected = Code("passphraseRejected")
        package static let passphraseMalformed = Code("passphraseMalformed")
        /// The chain is not in order, leaf first, each signed by the next.
        package static let chainMalformed = Code("chainMalformed")
        package static let trustStoreEmpty = Code("trustStoreEmpty")
        package static let revocationListMalformed = Code("revocationListMalformed")
        package static let revocationListExpired = Code("revocationListExpired")
        /// No trust anchor signed the revocation list.
        package static let revocationListUntrusted = Code("revocationListUntrusted")
        /// Revocation lists were given, but none for this authority.
        package static let revocationListMissing = Code("revocationListMissing")
        /// A line of a list of refused certificates or identities.
        package static let refusalMalformed = Code("refusalMalformed")
        package static let fileUnreadable = Code("fileUnreadable")
        package static let fileUnwritable = Code("fileUnwritable")
        package static let filePermissions = Code("filePermissions")
        /// A certificate or list cannot be built as described.
        package static let buildFailed = Code("buildFailed")
    }

    package let code: Code
    /// The file, alias or certificate that it is about.
    package let subject: String
    package let what: String
    package let expected: String?
    package let found: String?
    /// What the user can do.
    package let remedy: String?
    /// OpenSSL's reasons, first cause first.
    package let underlying: [String]

    package init(
        _ code: Code, subject: String, _ what: String, expected: String? = nil, found: String? = nil, remedy: String? = nil,
        underlying: [String] = []
    ) {
        self.code = code
        self.subject = subject
        self.what = what
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.underlying = underlying
    }

    package var description: String {
        var text = "pki.\(code): \(subject): \(what)"
        if let expected { text += ", expected \(expected)" }
        if let found { text += ", found \(found)" }
        if !underlying.isEmpty { text += " (\(underlying.joined(separator: "; ")))" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    package static func == (left: PKIError, right: PKIError) -> Bool { left.code == right.code }
    package func hash(into hasher: inout Hasher) { hasher.combine(code) }
}
