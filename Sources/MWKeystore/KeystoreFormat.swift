package import MWPKI

extension Keystore {
    /// What the first bytes say; a PEM file may have any text before its first block.
    static func format(of bytes: [UInt8]) throws -> Format {
        if bytes.starts(with: JKSReader.magic) { return .jks }
        guard !bytes.starts(with: JKSReader.jceksMagic) else {
            throw KeystoreError(
                .formatUnsupported, "JCEKS keystores are not supported",
                remedy: "convert it: keytool -importkeystore -srckeystore OLD -srcstoretype JCEKS -destkeystore NEW -deststoretype PKCS12")
        }
        // A PFX begins with a SEQUENCE, whose length (over 127) takes one to four bytes more, and INTEGER 3.
        if bytes.first == DERTag.sequence { return .pkcs12 }
        if PEM.isPEM(bytes) { return .pem }
        throw KeystoreError(
            .formatUnknown, "not a keystore", expected: "PKCS#12, JKS or PEM",
            found: bytes.isEmpty
                ? "an empty file" : "a file that begins with " + bytes.prefix(4).map { Hex.encode([$0]) }.joined(separator: " "))
    }

    // MARK: - Writing

    /// PBKDF2 iterations of what is written. keytool's are 10,000; these cost a reader 20 ms for each of three derivations.
    package static let writtenIterations = 50_000

    /// The store as PKCS#12 that Java and openssl read: keystores, truststores, and both in one.
    package func pkcs12(
        passphrase: Passphrase, iterations: Int = writtenIterations, random: @escaping (Int) throws -> [UInt8] = OpenSSL.randomBytes
    ) throws -> [UInt8] {
        OpenSSL.prepare()
        return try PKCS12Writer.bytes(
            of: entries, revocationLists: revocationLists, passphrase.forStores(), iterations: iterations, random: random)
    }

    /// The store as JKS, for what cannot read PKCS#12. Aliases are lower-cased; revocation lists are lost.
    package func jks(
        passphrase: Passphrase, now: Timestamp = .now(), random: (Int) throws -> [UInt8] = OpenSSL.randomBytes
    ) throws -> [UInt8] {
        OpenSSL.prepare()
        return try JKSWriter.bytes(of: entries, passphrase.forStores(), now: now, random: random)
    }

    /// The store as PEM: each private key and its chain, then the trusted certificates and revocation lists.
    ///
    /// The keys are encrypted if there is a passphrase. Aliases are in the text between, as `openssl pkcs12` writes them.
    package func pem(passphrase: Passphrase? = nil) throws -> SecretBytes {
        try PEMBundle.bytes(of: self, passphrase)
    }
}
