internal import MWPKI

// How JKS protects a private key (sun.security.provider.KeyProtector).
//
//   EncryptedPrivateKeyInfo   SEQ { SEQ { 1.3.6.1.4.1.42.2.17.1.1, NULL }, OCTET STRING R }
//   R, offset 0        20     salt
//      20              n      PKCS#8 XOR keystream
//      20 + n          20     SHA-1 of: passphrase (UTF-16BE), PKCS#8
//   keystream                 d0 || d1 || …, d0 = SHA-1(passphrase || salt), d(i+1) = SHA-1(passphrase || d(i))

/// Takes JKS's protection off a private key, and puts it on.
enum JKSKeyProtector {
    private static let saltBytes = 20
    private static let checkBytes = 20

    /// The PKCS#8 bytes. Throws `keyPassphraseRejected` if the passphrase is not the key's.
    static func recover(_ protected: ArraySlice<UInt8>, _ passphrase: StorePassphrase) throws -> SecretBytes {
        var file = DERReader(protected)
        var info = try file.sequence("the protected key")
        try file.finish("the protected key")
        let identifier = try info.algorithmWithoutParameters("the key's protection")
        guard identifier == .jksKeyProtector else {
            throw KeystoreError(
                .algorithmUnsupported, "the key is protected in another way than JKS does", expected: "\(ObjectIdentifier.jksKeyProtector)",
                found: "\(identifier)")
        }
        let content = try info.octets("the protected key")
        try info.finish("the protected key")
        guard content.count > saltBytes + checkBytes else { throw KeystoreError.malformed("the protected key is cut off") }
        let encrypted = content.dropFirst(saltBytes).dropLast(checkBytes)
        let pkcs8 = try combine(encrypted, passphrase, salt: content.prefix(saltBytes))
        let check = try checksum(of: pkcs8, passphrase)
        let isRight = unsafe check.withUnsafeBytes { check in
            unsafe content.suffix(checkBytes).withUnsafeBytes { unsafe Cryptography.isEqual(check, $0) }
        }
        guard isRight else {
            throw KeystoreError(
                .keyPassphraseRejected, "the key has another passphrase than the store",
                remedy: "give the key's own passphrase (--key-passphrase-file)")
        }
        return pkcs8
    }

    /// The EncryptedPrivateKeyInfo. `salt` must have 20 random bytes.
    static func protect(_ pkcs8: SecretBytes, _ passphrase: StorePassphrase, random: (Int) throws -> [UInt8]) throws -> [UInt8] {
        let salt = try random(saltBytes)
        let encrypted = try pkcs8.withArray { try combine($0[...], passphrase, salt: salt[...]) }
        let check = try checksum(of: pkcs8, passphrase)
        let content = unsafe salt + encrypted.withUnsafeBytes { unsafe [UInt8]($0) } + check.withUnsafeBytes { unsafe [UInt8]($0) }
        return DER.sequence(
            [
                DER.sequence([DER.objectIdentifier(.jksKeyProtector), DER.null]),
                DER.octetString(content),
            ])
    }

    /// `input` XOR the keystream.
    private static func combine(_ input: ArraySlice<UInt8>, _ passphrase: StorePassphrase, salt: ArraySlice<UInt8>) throws -> SecretBytes {
        try unsafe SecretBytes(capacity: input.count) { out in
            var block = SecretBytes(copying: salt)
            var offset = 0
            var rest = input
            while !rest.isEmpty {
                block = try unsafe passphrase.utf16.withUnsafeBytes { passphrase in
                    try unsafe block.withUnsafeBytes { try unsafe Cryptography.digest(.sha1, passphrase, $0) }
                }
                unsafe block.withUnsafeBytes { stream in
                    for (index, byte) in rest.prefix(stream.count).enumerated() {
                        unsafe out[offset] = byte ^ stream[index]
                        offset += 1
                    }
                }
                rest = rest.dropFirst(block.count)
            }
            return offset
        }
    }

    private static func checksum(of pkcs8: SecretBytes, _ passphrase: StorePassphrase) throws -> SecretBytes {
        try unsafe passphrase.utf16.withUnsafeBytes { passphrase in
            try unsafe pkcs8.withUnsafeBytes { try unsafe Cryptography.digest(.sha1, passphrase, $0) }
        }
    }
}
