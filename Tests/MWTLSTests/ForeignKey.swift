import COpenSSL
import MWPKI

extension Identity {
    /// This certificate with a key that claims to be its own, but signs with another: what someone without the private key can do.
    func withForeignKey() throws -> Identity {
        let foreign = try PrivateKey.generate(.ec(.p256))
        let forged = unsafe key.withUnsafeKey { own in unsafe foreign.withUnsafeKey { other in unsafe forge(public: own, private: other) } }
        guard let forged = unsafe forged else { throw ForgeryFailed() }
        return Identity(uncheckedLeaf: leaf, intermediates: intermediates, key: try unsafe PrivateKey(uncheckedOwning: forged))
    }

    private struct ForgeryFailed: Error {}

    private func forge(public own: OpaquePointer, private other: OpaquePointer) -> OpaquePointer? {
        var point = [UInt8](repeating: 0, count: 65)
        var pointBytes = 0
        var scalar: OpaquePointer?
        guard unsafe EVP_PKEY_get_octet_string_param(own, "pub", &point, point.count, &pointBytes) == 1,
            unsafe EVP_PKEY_get_bn_param(other, "priv", &scalar) == 1
        else { return nil }
        defer { unsafe BN_free(scalar) }
        let builder = unsafe OSSL_PARAM_BLD_new()
        defer { unsafe OSSL_PARAM_BLD_free(builder) }
        // The builder keeps the pointers until it makes the parameters.
        let parameters = unsafe point.withUnsafeBytes { point in
            let isBuilt =
                unsafe OSSL_PARAM_BLD_push_utf8_string(builder, lasting("group"), lasting("prime256v1"), 0) == 1
                && OSSL_PARAM_BLD_push_octet_string(builder, lasting("pub"), point.baseAddress, pointBytes) == 1
                && OSSL_PARAM_BLD_push_BN(builder, lasting("priv"), scalar) == 1
            return unsafe isBuilt ? OSSL_PARAM_BLD_to_param(builder) : nil
        }
        guard let parameters = unsafe parameters else { return nil }
        defer { unsafe OSSL_PARAM_free(parameters) }
        let context = unsafe EVP_PKEY_CTX_new_from_name(nil, "EC", nil)
        defer { unsafe EVP_PKEY_CTX_free(context) }
        var forged: OpaquePointer?
        guard unsafe EVP_PKEY_fromdata_init(context) == 1,
            unsafe EVP_PKEY_fromdata(context, &forged, mws_evp_pkey_keypair, parameters) == 1
        else { return nil }
        return unsafe forged
    }

    private func lasting(_ text: StaticString) -> UnsafePointer<CChar> {
        unsafe UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
}
