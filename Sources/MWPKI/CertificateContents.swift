internal import COpenSSL
internal import Glibc

/// What a certificate says, read once.
struct CertificateContents: Sendable {
    let derBytes: [UInt8]
    let sha256: CertificateFingerprint
    let publicKeyPin: PublicKeyPin
    let subject: String
    let issuer: String
    let commonName: String?
    let serialNumber: String
    let notBefore: Timestamp
    let notAfter: Timestamp
    let keyAlgorithm: KeyAlgorithm
    let signatureAlgorithm: String
    let signatureIsStrong: Bool
    let alternativeNames: AlternativeNames
    let isCertificateAuthority: Bool
    let isSelfIssued: Bool
    let keyUsage: KeyUsage?
    let extendedKeyUsages: [String]

    init(_ x509: OpaquePointer, source: String) throws {
        OpenSSL.clearErrors()
        defer { OpenSSL.clearErrors() }
        func malformed(_ what: String) -> PKIError {
            PKIError(.certificateMalformed, subject: source, what, underlying: OpenSSL.takeErrors())
        }
        guard let der = unsafe OpenSSL.encode({ unsafe i2d_X509(x509, $0) }),
            let sha256 = CertificateFingerprint(bytes: OpenSSL.sha256(der)),
            let keyInfo = unsafe OpenSSL.encode({ unsafe i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x509), $0) }),
            let pin = PublicKeyPin(bytes: OpenSSL.sha256(keyInfo))
        else { throw malformed("cannot be encoded again") }
        guard let subjectName = unsafe X509_get_subject_name(x509), let issuerName = unsafe X509_get_issuer_name(x509),
            let subject = unsafe DistinguishedName.text(subjectName), let issuer = unsafe DistinguishedName.text(issuerName)
        else { throw malformed("malformed subject or issuer") }
        guard let notBefore = unsafe Timestamp(asn1: X509_get0_notBefore(x509)),
            let notAfter = unsafe Timestamp(asn1: X509_get0_notAfter(x509))
        else { throw malformed("malformed validity dates") }
        // Reads and caches the extensions, and judges their form.
        let flags = unsafe X509_get_extension_flags(x509)
        guard flags & UInt32(EXFLAG_INVALID) == 0 else { throw malformed("a malformed or repeated extension") }

        derBytes = der
        self.sha256 = sha256
        publicKeyPin = pin
        self.subject = subject
        self.issuer = issuer
        commonName = try unsafe DistinguishedName.commonName(subjectName, source: source)
        serialNumber = unsafe IntegerText.hex(X509_get0_serialNumber(x509))
        self.notBefore = notBefore
        self.notAfter = notAfter
        keyAlgorithm = unsafe X509_get0_pubkey(x509).map { unsafe KeyAlgorithm(key: $0) } ?? .other("unreadable key")
        let signature = unsafe SignatureAlgorithm(certificate: x509)
        signatureAlgorithm = signature.name
        signatureIsStrong = signature.isStrong
        alternativeNames = try unsafe AlternativeNames(x509, source: source)
        isCertificateAuthority = unsafe X509_check_ca(x509) != 0
        isSelfIssued = flags & UInt32(EXFLAG_SI) != 0
        keyUsage = flags & UInt32(EXFLAG_KUSAGE) != 0 ? KeyUsage(rawValue: unsafe X509_get_key_usage(x509)) : nil
        extendedKeyUsages = try unsafe ExtendedKeyUsages.read(x509, source: source)
    }
}

/// How a certificate or list is signed.
struct SignatureAlgorithm {
    let name: String
    let isStrong: Bool

    private static let strongDigests: Set<Int32> = [
        NID_sha256, NID_sha384, NID_sha512, NID_sha512_256, NID_sha3_256, NID_sha3_384, NID_sha3_512,
    ]

    init(certificate x509: OpaquePointer) {
        let nid = unsafe X509_get_signature_nid(x509)
        var digest = NID_undef
        // Unlike the number, this knows the hash inside of the parameters of RSASSA-PSS, which is SHA-1 by default.
        let isKnown = unsafe X509_get_signature_info(x509, &digest, nil, nil, nil) == 1
        self.init(nid: nid, digest: isKnown ? digest : NID_undef)
    }

    init(revocationList crl: OpaquePointer) {
        let nid = unsafe X509_CRL_get_signature_nid(crl)
        var digest = NID_undef
        let isKnown = unsafe OBJ_find_sigid_algs(nid, &digest, nil) == 1
        self.init(nid: nid, digest: isKnown ? digest : NID_undef)
    }

    private init(nid: Int32, digest: Int32) {
        name = unsafe OBJ_nid2sn(nid).map { unsafe String(cString: $0) } ?? "unknown"
        // These have a hash of their own inside.
        isStrong = SignatureAlgorithm.strongDigests.contains(digest) || nid == NID_ED25519 || nid == NID_ED448
    }

    /// The fix for a weak one.
    static let remedy = "have it signed again with SHA-256, with keytool: -sigalg SHA256withECDSA or SHA256withRSA"
}

enum IntegerText {
    static func hex(_ integer: UnsafePointer<ASN1_INTEGER>?) -> String {
        guard let integer = unsafe integer, let number = unsafe ASN1_INTEGER_to_BN(integer, nil) else { return "" }
        defer { unsafe BN_free(number) }
        guard let text = unsafe BN_bn2hex(number) else { return "" }
        defer { unsafe COpenSSL_free(text) }
        let digits = unsafe String(cString: text).lowercased()
        let trimmed = digits.drop { $0 == "0" }
        return trimmed.isEmpty ? "0" : String(trimmed)
    }
}

extension Timestamp {
    /// Nil when malformed or, as `nextUpdate` may be, absent.
    init?(asn1 time: UnsafePointer<ASN1_TIME>?) {
        var parts = unsafe tm()
        guard let time = unsafe time, unsafe ASN1_TIME_to_tm(time, &parts) == 1 else { return nil }
        unsafe self.init(
            year: Int(parts.tm_year) + 1900, month: Int(parts.tm_mon) + 1, day: Int(parts.tm_mday), hour: Int(parts.tm_hour),
            minute: Int(parts.tm_min), second: Int(parts.tm_sec))
    }
}

/// RFC 5280 §4.2.1.6: subject alternative names.
struct AlternativeNames: Sendable {
    private(set) var present = false
    private(set) var dns: [String] = []
    private(set) var uris: [String] = []
    private(set) var emails: [String] = []
    private(set) var addresses: [String] = []

    init(_ x509: OpaquePointer, source: String) throws {
        var critical: Int32 = 0
        guard let raw = unsafe X509_get_ext_d2i(x509, NID_subject_alt_name, &critical, nil) else {
            // -1: there is none; otherwise it is malformed, or there are two.
            guard critical == -1 else {
                throw PKIError(
                    .certificateMalformed, subject: source, "malformed subject alternative names", underlying: OpenSSL.takeErrors())
            }
            return
        }
        let names = OpaquePointer(raw)
        defer { unsafe GENERAL_NAMES_free(names) }
        present = true
        for index in unsafe 0..<COpenSSL_sk_GENERAL_NAME_num(names) {
            var data: UnsafePointer<UInt8>? = nil
            var count: Int32 = 0
            let type = unsafe COpenSSL_GENERAL_NAME(names, index, &data, &count)
            let bytes = unsafe data.map { unsafe Array(UnsafeBufferPointer(start: $0, count: Int(count))) } ?? []
            switch type {
            case GEN_DNS: dns.append(try AlternativeNames.text(bytes, kind: "DNS name", source: source))
            case GEN_URI: uris.append(try AlternativeNames.text(bytes, kind: "URI", source: source))
            case GEN_EMAIL: emails.append(try AlternativeNames.text(bytes, kind: "mail address", source: source))
            case GEN_IPADD: addresses.append(try AlternativeNames.address(bytes, source: source))
            default: break  // a directory name, other name or registered ID: names nobody we know
            }
        }
    }

    /// IA5String of visible characters: a NUL, blank or control character is an attempt to be read as another name.
    private static func text(_ bytes: [UInt8], kind: String, source: String) throws -> String {
        guard !bytes.isEmpty, bytes.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw PKIError(
                .certificateMalformed, subject: source, "a subject alternative name (\(kind)) with a NUL, blank or other unprintable byte",
                found: "\"\(VisibleText.escape(String(decoding: bytes, as: UTF8.self)))\"", remedy: "do not trust this certificate")
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func address(_ bytes: [UInt8], source: String) throws -> String {
        let family = bytes.count == 4 ? AF_INET : AF_INET6
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard bytes.count == 4 || bytes.count == 16,
            unsafe inet_ntop(family, bytes, &text, socklen_t(text.count)) != nil
        else {
            throw PKIError(
                .certificateMalformed, subject: source, "an IP address of \(bytes.count) bytes in the subject alternative names",
                expected: "4 or 16")
        }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

enum ExtendedKeyUsages {
    static func read(_ x509: OpaquePointer, source: String) throws -> [String] {
        var critical: Int32 = 0
        guard let raw = unsafe X509_get_ext_d2i(x509, NID_ext_key_usage, &critical, nil) else {
            guard critical == -1 else {
                throw PKIError(.certificateMalformed, subject: source, "malformed extended key usages", underlying: OpenSSL.takeErrors())
            }
            return []
        }
        let usages = OpaquePointer(raw)
        defer { unsafe EXTENDED_KEY_USAGE_free(usages) }
        return unsafe (0..<COpenSSL_sk_ASN1_OBJECT_num(usages)).map { index in
            unsafe ObjectText.name(COpenSSL_sk_ASN1_OBJECT_value(usages, index))
        }
    }
}

enum ObjectText {
    /// OpenSSL's short name, or the dotted number.
    static func name(_ object: OpaquePointer?) -> String {
        guard let object = unsafe object else { return "" }
        let nid = unsafe OBJ_obj2nid(object)
        if nid != NID_undef, let name = unsafe OBJ_nid2sn(nid) { return unsafe String(cString: name) }
        // An identifier longer than this is cut, which no name we compare with is.
        var text = [CChar](repeating: 0, count: 256)
        _ = unsafe OBJ_obj2txt(&text, Int32(text.count), object, 1)
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
