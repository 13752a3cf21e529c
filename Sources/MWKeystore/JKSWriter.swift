internal import MWPKI

/// Writes a JKS file; the layout is drawn in JKSReader.swift.
struct JKSWriter {
    private var bytes: [UInt8] = []

    static func bytes(
        of entries: [Keystore.Entry], _ passphrase: StorePassphrase, now: Timestamp, random: (Int) throws -> [UInt8]
    ) throws -> [UInt8] {
        var writer = JKSWriter()
        writer.bytes = JKSReader.magic
        writer.append(UInt32(2))
        writer.append(UInt32(entries.count))
        for entry in entries {
            try writer.append(entry, passphrase, now: now, random: random)
        }
        let digest = try JKSDigest.digest(of: writer.bytes[...], passphrase)
        return unsafe writer.bytes + digest.withUnsafeBytes { unsafe [UInt8]($0) }
    }

    private mutating func append(
        _ entry: Keystore.Entry, _ passphrase: StorePassphrase, now: Timestamp, random: (Int) throws -> [UInt8]
    ) throws {
        let milliseconds = max(0, (entry.created ?? now).secondsSince1970).multipliedReportingOverflow(by: 1000)
        guard !milliseconds.overflow else { throw KeystoreError.malformed("entry \(entry.alias.quoted)'s creation time is out of range") }
        switch entry.content {
        case .privateKey(let key, let chain):
            append(UInt32(1))
            try append(text: entry.alias.lowercased())
            append(UInt64(milliseconds.partialValue))
            append(block: try JKSKeyProtector.protect(key.pkcs8, passphrase, random: random))
            append(UInt32(chain.count))
            for certificate in chain { try append(certificate) }
        case .trustedCertificate(let certificate):
            append(UInt32(2))
            try append(text: entry.alias.lowercased())
            append(UInt64(milliseconds.partialValue))
            try append(certificate)
        }
    }

    private mutating func append(_ certificate: Certificate) throws {
        try append(text: "X.509")
        append(block: certificate.derBytes)
    }

    private mutating func append(text: String) throws {
        let encoded = JavaText.encode(text)
        guard let count = UInt16(exactly: encoded.count) else {
            throw KeystoreError(.limitExceeded, "an alias is too long", expected: "at most 65535 bytes", found: "\(encoded.count)")
        }
        append(count)
        bytes += encoded
    }

    private mutating func append(block: [UInt8]) {
        append(UInt32(truncatingIfNeeded: block.count))
        bytes += block
    }

    private mutating func append(_ value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }
}
