internal import MWPKI

/// A passphrase in the encodings that the formats want.
struct StorePassphrase: Sendable {
    /// As given. What PBKDF2 takes.
    let utf8: SecretBytes
    /// UTF-16BE code units, no byte order mark, no terminator. What JKS takes.
    let utf16: SecretBytes
    /// The same with two zero bytes at the end. What PKCS#12's own derivation takes, RFC 7292 appendix B.1.
    let bmp: SecretBytes

    init(utf8 bytes: UnsafeRawBufferPointer) throws {
        utf8 = unsafe SecretBytes(copying: bytes)
        // One UTF-8 byte makes at most one UTF-16 code unit, so the array never moves and leaves no copy behind.
        var units: [UInt8] = []
        units.reserveCapacity(bytes.count * 2 + 2)
        defer { units.wipe() }
        let isMalformed = unsafe transcode(bytes.makeIterator(), from: UTF8.self, to: UTF16.self, stoppingOnError: true) { unit in
            units.append(UInt8(unit >> 8))
            units.append(UInt8(unit & 0xff))
        }
        guard !isMalformed else {
            throw KeystoreError(
                .passphraseMalformed, "the passphrase is not UTF-8", remedy: "save the passphrase file as UTF-8")
        }
        utf16 = SecretBytes(units)
        units.append(0)
        units.append(0)
        bmp = SecretBytes(units)
    }

    var isEmpty: Bool { utf8.isEmpty }

    /// With nothing at all as its BMP form: how some write an empty passphrase.
    var withoutTerminator: StorePassphrase {
        StorePassphrase(utf8: utf8, utf16: utf16, bmp: utf16)
    }

    private init(utf8: SecretBytes, utf16: SecretBytes, bmp: SecretBytes) {
        self.utf8 = utf8
        self.utf16 = utf16
        self.bmp = bmp
    }
}
