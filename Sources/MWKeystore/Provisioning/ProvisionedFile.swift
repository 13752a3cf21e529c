package import MWPKI

/// One file that provisioning wants written.
package struct ProvisionedFile: Sendable {
    /// Relative to the output directory, without folders.
    package let name: String
    package let contents: SecretBytes
    /// Holds a private key, a keystore or a passphrase: mode 0600 instead of 0644.
    package let isPrivate: Bool
    /// What it is, for people.
    package let summary: String
    /// Is meant to replace the one that is there, as a revocation list its predecessor.
    package let replaces: Bool

    init(_ name: String, _ contents: SecretBytes, isPrivate: Bool, replaces: Bool = false, _ summary: String) {
        self.name = name
        self.contents = contents
        self.isPrivate = isPrivate
        self.summary = summary
        self.replaces = replaces
    }

    /// A public file.
    init(_ name: String, text: String, replaces: Bool = false, _ summary: String) {
        self.init(name, SecretBytes(Array(text.utf8)), isPrivate: false, replaces: replaces, summary)
    }

    package var mode: UInt32 { isPrivate ? 0o600 : 0o644 }
}

/// What to make keys and certificates like.
package struct ProvisioningOptions: Sendable {
    package var keyAlgorithm: KeyAlgorithm
    /// How long certificates and revocation lists are valid. An authority lives ten years, or as long as what it issues.
    package var days: Int64
    /// The names and addresses that a server's certificate is valid for, the first also its common name.
    package var serverNames: [String]
    package var now: Timestamp

    /// One year: long enough not to expire in a trial, short enough that renewal stays in mind.
    package static let defaultDays: Int64 = 365
    /// A century; above, dates are mistakes.
    package static let maximumDays: Int64 = 36_500
    /// What a server on this machine is called.
    package static let localNames = ["localhost", "127.0.0.1", "::1"]
    static let authorityDays: Int64 = 3650

    package init(
        keyAlgorithm: KeyAlgorithm = .ec(.p256), days: Int64 = defaultDays, serverNames: [String] = localNames, now: Timestamp = .now()
    ) {
        self.keyAlgorithm = keyAlgorithm
        self.days = days
        self.serverNames = serverNames
        self.now = now
    }

    func validate() throws {
        guard (1...Self.maximumDays).contains(days) else {
            throw KeystoreError(
                .invalidRequest, subject: "--days", "not a usable number of days", expected: "1 to \(Self.maximumDays)", found: "\(days)")
        }
        guard !serverNames.isEmpty else {
            throw KeystoreError(.invalidRequest, subject: "--san", "a server needs a name or an address")
        }
    }
}
