internal import MWPKI

// JKS, as OpenJDK's JavaKeyStore writes it. All integers are big-endian.
//
//   offset  size  meaning
//   0       4     magic, FE ED FE ED (JCEKS: CE CE CE CE, refused)
//   4       4     version, 1 or 2
//   8       4     number of entries
//   12      …     entries:
//                   4  tag: 1 private key, 2 trusted certificate
//                   2  length of the alias, then the alias in modified UTF-8
//                   8  creation, milliseconds since 1970
//                   private key:  4 length, EncryptedPrivateKeyInfo (see JKSKeyProtector); 4 number of certificates, certificates
//                   trusted:      1 certificate
//                   certificate:  version 2 only: 2 length, type "X.509"; 4 length, DER
//   end-20  20    SHA-1 of: passphrase (UTF-16BE), "Mighty Aphrodite", every byte before
//
// The digest is checked before anything after the magic is parsed; Java parses first.

/// Reads a JKS file.
struct JKSReader {
    static let magic: [UInt8] = [0xfe, 0xed, 0xfe, 0xed]
    static let jceksMagic: [UInt8] = [0xce, 0xce, 0xce, 0xce]
    static let digestBytes = 20
    static let weakness =
        "JKS protects keys with SHA-1 and no stretching: anybody who has the file can guess passphrases fast; "
        + "convert it: mwstorage keystore convert FILE --to pkcs12 --out NEW"

    private let limits: KeystoreLimits
    private var rest: ArraySlice<UInt8>
    private var version: UInt32 = 2

    static func entries(
        of bytes: [UInt8], _ passphrase: StorePassphrase, keyPassphrase: StorePassphrase?, limits: KeystoreLimits
    ) throws -> [Keystore.Entry] {
        guard bytes.count >= 12 + digestBytes else { throw KeystoreError.malformed("the file is cut off") }
        let body = bytes.dropLast(digestBytes)
        let expected = try JKSDigest.digest(of: body, passphrase)
        let isIntact = unsafe expected.withUnsafeBytes { expected in
            unsafe bytes.suffix(digestBytes).withUnsafeBytes { unsafe Cryptography.isEqual(expected, $0) }
        }
        guard isIntact else {
            throw KeystoreError(
                .passphraseRejected, "the digest does not match: another passphrase, or a damaged file", remedy: "check the passphrase")
        }
        var reader = JKSReader(limits: limits, rest: body.dropFirst(4))
        return try reader.readEntries(keyPassphrase ?? passphrase)
    }

    private mutating func readEntries(_ keyPassphrase: StorePassphrase) throws -> [Keystore.Entry] {
        version = try readUInt32("the version")
        guard version == 1 || version == 2 else {
            throw KeystoreError(.formatUnsupported, "an unknown version of JKS", expected: "1 or 2", found: "\(version)")
        }
        let count = try readUInt32("the number of entries")
        guard count <= limits.maximumEntries else {
            throw KeystoreError(
                .limitExceeded, "the file claims too many entries", expected: "at most \(limits.maximumEntries)", found: "\(count)")
        }
        var entries: [Keystore.Entry] = []
        for number in 1...max(count, 1) where number <= count {
            entries.append(try readEntry("entry \(number)", keyPassphrase))
        }
        guard rest.isEmpty else { throw KeystoreError.malformed("\(rest.count) bytes follow the last entry") }
        return entries
    }

    private mutating func readEntry(_ what: String, _ keyPassphrase: StorePassphrase) throws -> Keystore.Entry {
        let tag = try readUInt32("\(what)'s tag")
        let aliasBytes = try read(Int(try readUInt16("\(what)'s alias")), "\(what)'s alias")
        guard aliasBytes.count <= limits.maximumAliasBytes, let alias = JavaText.decode(aliasBytes) else {
            throw KeystoreError.malformed("\(what)'s alias is not modified UTF-8, or too long")
        }
        let created = try readTime("\(what)'s creation time")
        let about = "entry \(alias.quoted)"
        switch tag {
        case 1:
            let protected = try readBlock("\(about)'s key")
            let chain = try readChain(about)
            do {
                let key = try StoredKey(pkcs8: JKSKeyProtector.recover(protected, keyPassphrase))
                return try Keystore.Entry(alias: alias, created: created, key: key, chain: chain)
            } catch let error as KeystoreError {
                throw error.about(about)
            }
        case 2:
            return Keystore.Entry(alias: alias, created: created, trusted: try readCertificate(about))
        default:
            throw KeystoreError.malformed("\(what) is of an unknown kind", expected: "1 or 2", found: "\(tag)")
        }
    }

    private mutating func readChain(_ what: String) throws -> [Certificate] {
        let count = try readUInt32("\(what)'s chain")
        guard count <= limits.maximumChainCertificates else {
            throw KeystoreError(
                .limitExceeded, "\(what) claims too long a chain", expected: "at most \(limits.maximumChainCertificates)", found: "\(count)"
            )
        }
        var chain: [Certificate] = []
        while chain.count < count {
            chain.append(try readCertificate(what))
        }
        return chain
    }

    private mutating func readCertificate(_ what: String) throws -> Certificate {
        if version == 2 {
            let type = try read(Int(try readUInt16("\(what)'s certificate type")), "\(what)'s certificate type")
            guard JavaText.decode(type) == "X.509" else {
                throw KeystoreError(.formatUnsupported, "\(what) holds a certificate that is not X.509")
            }
        }
        return try Certificate.stored(try readBlock("\(what)'s certificate"), what)
    }

    // MARK: - Integers and blocks, bounded by the bytes left

    private mutating func read(_ count: Int, _ what: String) throws -> ArraySlice<UInt8> {
        guard count <= rest.count else {
            throw KeystoreError.malformed("\(what) is longer than the bytes left", expected: "at most \(rest.count)", found: "\(count)")
        }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }

    private mutating func readBlock(_ what: String) throws -> ArraySlice<UInt8> {
        try read(Int(try readUInt32(what)), what)
    }

    private mutating func readUInt16(_ what: String) throws -> UInt16 {
        try read(2, what).reduce(0) { $0 << 8 | UInt16($1) }
    }

    private mutating func readUInt32(_ what: String) throws -> UInt32 {
        try read(4, what).reduce(0) { $0 << 8 | UInt32($1) }
    }

    private mutating func readTime(_ what: String) throws -> Timestamp {
        let milliseconds = try read(8, what).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        return Timestamp(secondsSince1970: Int64(truncatingIfNeeded: milliseconds) / 1000)
    }

    private init(limits: KeystoreLimits, rest: ArraySlice<UInt8>) {
        self.limits = limits
        self.rest = rest
    }
}

/// The digest at the end of a JKS file.
enum JKSDigest {
    private static let whitener = Array("Mighty Aphrodite".utf8)

    static func digest(of body: ArraySlice<UInt8>, _ passphrase: StorePassphrase) throws -> SecretBytes {
        try unsafe passphrase.utf16.withUnsafeBytes { passphrase in
            try unsafe whitener.withUnsafeBytes { whitener in
                try unsafe body.withUnsafeBytes { try unsafe Cryptography.digest(.sha1, passphrase, whitener, $0) }
            }
        }
    }
}
