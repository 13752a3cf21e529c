/// What went wrong with a keystore: which file, what was expected, what was found, and what to do.
///
/// Two errors are equal if their codes are. A description never contains a passphrase or key bytes.
package struct KeystoreError: Error, Hashable, CustomStringConvertible {
    /// The kind of failure; extensible, so switch with a default.
    package struct Code: Hashable, Sendable, CustomStringConvertible {
        private let name: String

        private init(_ name: String) {
            self.name = name
        }

        package var description: String { "keystore.\(name)" }

        /// The file exceeds ``KeystoreLimits/maximumFileBytes``.
        package static let fileTooLarge = Code("fileTooLarge")
        /// The bytes are neither PKCS#12 nor JKS nor PEM.
        package static let formatUnknown = Code("formatUnknown")
        /// A known format that is refused: JCEKS, a newer version, an integrity mode by signature.
        package static let formatUnsupported = Code("formatUnsupported")
        /// The structure is broken: a length, a tag, trailing bytes, a value out of its range.
        package static let malformed = Code("malformed")
        /// The integrity check failed: a wrong passphrase, or a damaged file. Nothing inside was looked at.
        package static let passphraseRejected = Code("passphraseRejected")
        /// The store opened, but an entry's key did not: its own passphrase is another one.
        package static let keyPassphraseRejected = Code("keyPassphraseRejected")
        /// The file needs a passphrase and none was given.
        package static let passphraseMissing = Code("passphraseMissing")
        /// The passphrase is not valid UTF-8.
        package static let passphraseMalformed = Code("passphraseMalformed")
        /// The store has no integrity check and that was not explicitly allowed.
        package static let unauthenticated = Code("unauthenticated")
        /// A cipher, digest or key derivation that we do not implement.
        package static let algorithmUnsupported = Code("algorithmUnsupported")
        /// An old cipher that needs OpenSSL's legacy provider, which is not installed.
        package static let legacyProviderMissing = Code("legacyProviderMissing")
        /// A limit of ``KeystoreLimits`` other than the file's size.
        package static let limitExceeded = Code("limitExceeded")
        /// Two entries whose aliases differ in case only, or not at all.
        package static let aliasDuplicate = Code("aliasDuplicate")
        /// No entry of the kind asked for has this alias.
        package static let aliasUnknown = Code("aliasUnknown")
        /// Several entries could be meant and no alias was given.
        package static let aliasAmbiguous = Code("aliasAmbiguous")
        /// The store has no private key.
        package static let keyMissing = Code("keyMissing")
        /// A private key has no certificate.
        package static let certificateMissing = Code("certificateMissing")
        /// The store has no trusted certificate.
        package static let trustAnchorMissing = Code("trustAnchorMissing")
        /// An entry's certificate cannot be parsed.
        package static let certificateMalformed = Code("certificateMalformed")
        /// An entry's private key cannot be parsed.
        package static let keyMalformed = Code("keyMalformed")
        /// An entry's private key is not that of its certificate.
        package static let keyMismatch = Code("keyMismatch")
        /// An argument of provisioning is not usable: a name, a subject alternative name, a number of days.
        package static let invalidRequest = Code("invalidRequest")
        /// libcrypto refused an operation that should not fail.
        package static let cryptographyFailed = Code("cryptographyFailed")
    }

    package var code: Code
    /// The file, entry or argument it is about.
    package var subject: String
    /// What happened.
    package var what: String
    package var expected: String?
    package var found: String?
    /// What to do about it.
    package var remedy: String?
    package var underlying: (any Error)?

    package init(
        _ code: Code, subject: String = "", _ what: String, expected: String? = nil, found: String? = nil, remedy: String? = nil,
        underlying: (any Error)? = nil
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
        var text = "\(code): "
        if !subject.isEmpty { text += "\(subject): " }
        text += what
        if let expected { text += "; expected \(expected)" }
        if let found { text += "; found \(found)" }
        if let underlying { text += " (\(underlying))" }
        if let remedy { text += "; \(remedy)" }
        return text
    }

    package static func == (left: KeystoreError, right: KeystoreError) -> Bool {
        left.code == right.code
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(code)
    }

    /// The same error about `subject`, or about an entry of it.
    func about(_ subject: String) -> KeystoreError {
        var error = self
        error.subject = self.subject.isEmpty ? subject : "\(subject): \(self.subject)"
        return error
    }

    static func malformed(_ what: String, expected: String? = nil, found: String? = nil) -> KeystoreError {
        KeystoreError(
            .malformed, what, expected: expected, found: found,
            remedy: "the file is damaged or of another kind; restore it or export it again")
    }
}
