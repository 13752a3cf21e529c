internal import COpenSSL
package import MWACME
package import MWPKI

/// A JWS as its receiver reads it: verified with OpenSSL from the numbers of the JWK alone.
package struct SignedMessage {
    package let header: JSONValue
    package let payload: JSONValue
    package let signature: [UInt8]
    package let signedText: String

    package init?(_ body: [UInt8]) {
        guard let json = try? JSONValue(parsing: body), let protected = json["protected"]?.string, let payload = json["payload"]?.string,
            let signature = json["signature"]?.string.flatMap({ Base64URL.decode($0) }),
            let header = Base64URL.decode(protected).flatMap({ try? JSONValue(parsing: $0) }),
            let contents = Base64URL.decode(payload)
        else { return nil }
        self.header = header
        // POST-as-GET has none.
        self.payload = contents.isEmpty ? .null : (try? JSONValue(parsing: contents)) ?? .null
        self.signature = signature
        signedText = "\(protected).\(payload)"
    }

    package var jwk: [String: String]? { header["jwk"]?.jwk }

    package func isSigned(by jwk: [String: String]) -> Bool {
        guard let info = SignedMessage.publicKeyInfo(jwk), let algorithm = header["alg"]?.string else { return false }
        let digest = algorithm == "ES384" ? "SHA384" : "SHA256"
        let der: [UInt8]
        if algorithm.hasPrefix("ES") {
            guard jwk["kty"] == "EC", signature.count == (algorithm == "ES384" ? 96 : 64) else { return false }
            let half = signature.count / 2
            der = DER.sequence([
                DER.integer(unsigned: Array(signature.prefix(half))), DER.integer(unsigned: Array(signature.suffix(half))),
            ])
        } else {
            guard jwk["kty"] == "RSA" else { return false }
            der = signature
        }
        return SignedMessage.verify(der, of: Array(signedText.utf8), publicKeyInfo: info, digest: digest)
    }

    package static func verify(_ signature: [UInt8], of text: [UInt8], publicKeyInfo: [UInt8], digest: String) -> Bool {
        unsafe publicKeyInfo.withUnsafeBufferPointer { bytes in
            var cursor = bytes.baseAddress
            guard let key = unsafe d2i_PUBKEY(nil, &cursor, bytes.count) else { return false }
            defer { unsafe EVP_PKEY_free(key) }
            guard let context = unsafe EVP_MD_CTX_new() else { return false }
            defer { unsafe EVP_MD_CTX_free(context) }
            guard unsafe EVP_DigestVerifyInit_ex(context, nil, digest, nil, nil, key, nil) == 1 else { return false }
            return unsafe EVP_DigestVerify(context, signature, signature.count, text, text.count) == 1
        }
    }

    /// RFC 5280 §4.1, from the numbers.
    package static func publicKeyInfo(_ jwk: [String: String]) -> [UInt8]? {
        func number(_ name: String) -> [UInt8]? { jwk[name].flatMap { Base64URL.decode($0) } }
        func object(_ text: String) -> [UInt8] { (try? DER.objectIdentifier(text)) ?? [] }
        if let x = number("x"), let y = number("y") {
            let curve = jwk["crv"] == "P-384" ? "1.3.132.0.34" : "1.2.840.10045.3.1.7"
            return DER.sequence([
                DER.sequence([object("1.2.840.10045.2.1"), object(curve)]), DER.bitString([4] + x + y),
            ])
        }
        guard let modulus = number("n"), let exponent = number("e") else { return nil }
        return DER.sequence([
            DER.sequence([object("1.2.840.113549.1.1.1"), DER.null]),
            DER.bitString(DER.sequence([DER.integer(unsigned: modulus), DER.integer(unsigned: exponent)])),
        ])
    }

    /// The public half of a PKCS#10 request's key; nil when the request does not parse or is not signed with it.
    package static func requestKey(_ der: [UInt8]) -> PrivateKey? {
        unsafe der.withUnsafeBufferPointer { bytes -> PrivateKey? in
            var cursor = bytes.baseAddress
            guard let request = unsafe d2i_X509_REQ(nil, &cursor, bytes.count) else { return nil }
            defer { unsafe X509_REQ_free(request) }
            guard let key = unsafe X509_REQ_get_pubkey(request) else { return nil }
            guard unsafe X509_REQ_verify(request, key) == 1 else {
                unsafe EVP_PKEY_free(key)
                return nil
            }
            return try? unsafe PrivateKey(uncheckedOwning: key)
        }
    }

    package static func certificate(_ certificate: Certificate, hasKey jwk: [String: String]) -> Bool {
        guard let info = publicKeyInfo(jwk) else { return false }
        return PublicKeyPin(bytes: OpenSSL.sha256(info)) == certificate.publicKeyPin
    }
}

extension JSONValue {
    var jwk: [String: String]? {
        guard case .object(let members) = self else { return nil }
        return members.compactMapValues(\.string)
    }
}
