// libssl for Swift: the header, and its function-like macros as typed inline functions.
#pragma once
#include <stdlib.h>
#include <string.h>
#include <openssl/core_dispatch.h>
#include <openssl/ssl.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/provider.h>

// `SSL_CTX_*` macros over SSL_CTX_ctrl.
static inline int mws_ssl_ctx_set_min_version(SSL_CTX *context, int version) { return (int)SSL_CTX_set_min_proto_version(context, version); }
static inline int mws_ssl_ctx_set_max_version(SSL_CTX *context, int version) { return (int)SSL_CTX_set_max_proto_version(context, version); }
static inline void mws_ssl_ctx_set_mode(SSL_CTX *context, long mode) { (void)SSL_CTX_set_mode(context, mode); }
static inline int mws_ssl_ctx_set_groups(SSL_CTX *context, const char *list) { return (int)SSL_CTX_set1_groups_list(context, list); }
static inline int mws_ssl_ctx_set_signature_algorithms(SSL_CTX *context, const char *list) {
    return (int)SSL_CTX_set1_sigalgs_list(context, list);
}
static inline int mws_ssl_ctx_set_client_signature_algorithms(SSL_CTX *context, const char *list) {
    return (int)SSL_CTX_set1_client_sigalgs_list(context, list);
}
static inline void mws_ssl_ctx_disable_session_cache(SSL_CTX *context) { (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF); }
static inline void mws_ssl_ctx_set_maximum_chain_bytes(SSL_CTX *context, long bytes) { (void)SSL_CTX_set_max_cert_list(context, bytes); }
static inline int mws_ssl_ctx_add_chain_certificate(SSL_CTX *context, X509 *certificate) {
    return (int)SSL_CTX_add1_chain_cert(context, certificate);
}

// `SSL_*` macros over SSL_ctrl.
static inline int mws_ssl_set_server_name(SSL *ssl, const char *name) { return (int)SSL_set_tlsext_host_name(ssl, name); }
static inline int mws_ssl_negotiated_group(SSL *ssl) { return (int)SSL_get_negotiated_group(ssl); }
static inline const char *mws_ssl_negotiated_group_name(SSL *ssl) {
    int group = (int)SSL_get_negotiated_group(ssl);
    return group > 0 ? SSL_group_to_name(ssl, group) : 0;
}

// Option bits are macros with casts or shifts that Swift does not import.
static const uint64_t mws_ssl_options_on = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                           SSL_OP_PRIORITIZE_CHACHA | SSL_OP_NO_SSLv3 | SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1;
static const uint64_t mws_ssl_options_off = SSL_OP_ALLOW_UNSAFE_LEGACY_RENEGOTIATION | SSL_OP_LEGACY_SERVER_CONNECT |
                                            SSL_OP_ALLOW_CLIENT_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_TLS_ROLLBACK_BUG |
                                            SSL_OP_NO_EXTENDED_MASTER_SECRET | SSL_OP_ALLOW_NO_DHE_KEX | SSL_OP_NO_ANTI_REPLAY;
static const long mws_ssl_modes = SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS |
                                  SSL_MODE_AUTO_RETRY | SSL_MODE_NO_AUTO_CHAIN;

// What the info callback tells with its `where` bits.
static inline int mws_ssl_where_is_alert_read(int where) { return (where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT; }
static inline int mws_ssl_where_is_alert_written(int where) { return (where & SSL_CB_WRITE_ALERT) == SSL_CB_WRITE_ALERT; }
static inline int mws_ssl_where_is_loop(int where) { return (where & SSL_CB_LOOP) != 0; }

// EVP_PKEY_fromdata selects with a macro of enum casts.
static const int mws_evp_pkey_keypair = EVP_PKEY_KEYPAIR;

// BIO flags and error codes are macros or inline functions on private fields.
static inline void mws_bio_clear_retry(BIO *bio) { BIO_clear_retry_flags(bio); }
static inline void mws_bio_set_retry_read(BIO *bio) { BIO_set_retry_read(bio); }
static inline int mws_err_is_ssl(unsigned long code) { return ERR_GET_LIB(code) == ERR_LIB_SSL; }
static inline int mws_err_reason(unsigned long code) { return ERR_GET_REASON(code); }

// Library contexts with the default provider's algorithms, but only with those that TLS as we speak it may need.
//
// OpenSSL 3.0 and 3.1 build the decoder of a certificate's public key anew for each certificate, out of every decoder, every key type and
// every other algorithm that there is: with all of them that is 40 % of the instructions of a mutual handshake, with these 15 %. So libssl
// there gets no decoder at all: it reads peers' certificates without their keys, and whoever verifies them reads them again with `certificates`,
// each one once (PeerVerification.swift). The algorithms are the default provider's own, asked for and called in its own context; ours only
// leave some out of its lists.
struct mws_libraries {
    // For libssl.
    OSSL_LIB_CTX *tls;
    // For the certificates of peers; NULL where `tls` reads their keys itself.
    OSSL_LIB_CTX *certificates;
};

struct mws_algorithms {
    OSSL_PROVIDER *base;
    OSSL_ALGORITHM *ciphers;
    OSSL_ALGORITHM *macs;
    OSSL_ALGORITHM *derivations;
    OSSL_ALGORITHM *exchanges;
    OSSL_ALGORITHM *key_types;
    OSSL_ALGORITHM *decoders;
};

// Written once, by mws_make_libraries, before anything can ask for it.
static inline struct mws_algorithms *mws_algorithms(void) {
    static struct mws_algorithms algorithms;
    return &algorithms;
}

// From 3.2 on decoders are kept, and keys are best read where they are needed.
static inline int mws_decoders_are_kept(void) { return OpenSSL_version_num() >= 0x30200000UL; }

static inline int mws_is_named(const OSSL_ALGORITHM *algorithm, const char *const names[]) {
    size_t count = strcspn(algorithm->algorithm_names, ":");
    for (size_t i = 0; names[i]; i++)
        if (strlen(names[i]) == count && strncmp(algorithm->algorithm_names, names[i], count) == 0) return 1;
    return 0;
}

// The algorithms of `operation` with one of the names `only`, or with none of the names `never`, and with all of `properties`; each may be
// NULL. Never freed.
static inline OSSL_ALGORITHM *mws_chosen_algorithms(
    OSSL_PROVIDER *provider, int operation, const char *const only[], const char *const never[], const char *const properties[]) {
    int no_cache = 0;
    size_t count = 0, chosen = 0;
    const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(provider, operation, &no_cache);
    while (all && all[count].algorithm_names) count++;
    if (count == 0 || no_cache) return NULL;
    OSSL_ALGORITHM *list = (OSSL_ALGORITHM *)calloc(count + 1, sizeof *list);
    for (size_t i = 0; list && i < count; i++) {
        int is_chosen = (!only || mws_is_named(&all[i], only)) && (!never || !mws_is_named(&all[i], never));
        for (size_t j = 0; is_chosen && properties && properties[j]; j++)
            is_chosen = strstr(all[i].property_definition, properties[j]) != NULL;
        if (is_chosen) list[chosen++] = all[i];
    }
    return list;
}

static inline const OSSL_ALGORITHM *mws_tls_query(void *context, int operation, int *no_cache) {
    (void)context;
    struct mws_algorithms *algorithms = mws_algorithms();
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_CIPHER: return algorithms->ciphers;
    case OSSL_OP_MAC: return algorithms->macs;
    case OSSL_OP_KDF: return algorithms->derivations;
    case OSSL_OP_KEYEXCH: return algorithms->exchanges;
    case OSSL_OP_KEYMGMT: return algorithms->key_types;
    case OSSL_OP_DECODER: return mws_decoders_are_kept() ? algorithms->decoders : NULL;
    default: return OSSL_PROVIDER_query_operation(algorithms->base, operation, no_cache);
    }
}

// The fewer operations there are, the cheaper is a decoder. Here the signatures of a chain are verified; that of the handshake, in the other.
static inline const OSSL_ALGORITHM *mws_certificate_query(void *context, int operation, int *no_cache) {
    (void)context;
    struct mws_algorithms *algorithms = mws_algorithms();
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT: return algorithms->key_types;
    case OSSL_OP_DECODER: return algorithms->decoders;
    case OSSL_OP_DIGEST:
    case OSSL_OP_SIGNATURE: return OSSL_PROVIDER_query_operation(algorithms->base, operation, no_cache);
    default: return NULL;
    }
}

static inline int mws_capabilities(void *context, const char *capability, OSSL_CALLBACK *callback, void *argument) {
    (void)context;
    return OSSL_PROVIDER_get_capabilities(mws_algorithms()->base, capability, callback, argument);
}

static inline int mws_tls_provider_init(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **functions, void **context) {
    static const OSSL_DISPATCH table[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))mws_tls_query},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))mws_capabilities},
        {0, NULL},
    };
    (void)handle, (void)core;
    *functions = table;
    // Its algorithms are called with its context.
    *context = OSSL_PROVIDER_get0_provider_ctx(mws_algorithms()->base);
    return 1;
}

static inline int mws_certificate_provider_init(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **functions, void **context) {
    static const OSSL_DISPATCH table[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))mws_certificate_query},
        {0, NULL},
    };
    (void)handle, (void)core;
    *functions = table;
    *context = OSSL_PROVIDER_get0_provider_ctx(mws_algorithms()->base);
    return 1;
}

// A library context with one provider; NULL where this OpenSSL does not go along.
static inline OSSL_LIB_CTX *mws_library_with(const char *name, OSSL_provider_init_fn *provider) {
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    if (library && OSSL_PROVIDER_add_builtin(library, name, provider) && OSSL_PROVIDER_load(library, name)) return library;
    OSSL_LIB_CTX_free(library);
    return NULL;
}

// Call it once; both NULL where this OpenSSL does not go along, and its own default context does. Never freed.
static inline struct mws_libraries mws_make_libraries(void) {
    static const char *const of_certificates[] = {"input=der", "structure=SubjectPublicKeyInfo", NULL};
    // Those of the policy's suites, and of session tickets, which nobody gets.
    static const char *const ciphers[] = {"AES-256-GCM", "AES-128-GCM", "ChaCha20-Poly1305", "AES-256-CBC", NULL};
    static const char *const macs[] = {"HMAC", NULL};
    static const char *const derivations[] = {"HKDF", "TLS13-KDF", "TLS1-PRF", NULL};
    // No finite fields (DHE), no SM2, and no keys of MACs and KDFs that are not those of TLS.
    static const char *const foreign[] = {"DH", "DHX", "SM2", "SCRYPT", "CMAC", "POLY1305", "SIPHASH", NULL};
    struct mws_libraries libraries = {NULL, NULL};
    struct mws_algorithms *algorithms = mws_algorithms();
    OSSL_PROVIDER *base = algorithms->base = OSSL_PROVIDER_load(NULL, "default");
    if (!base) return libraries;
    algorithms->ciphers = mws_chosen_algorithms(base, OSSL_OP_CIPHER, ciphers, NULL, NULL);
    algorithms->macs = mws_chosen_algorithms(base, OSSL_OP_MAC, macs, NULL, NULL);
    algorithms->derivations = mws_chosen_algorithms(base, OSSL_OP_KDF, derivations, NULL, NULL);
    algorithms->exchanges = mws_chosen_algorithms(base, OSSL_OP_KEYEXCH, NULL, foreign, NULL);
    algorithms->key_types = mws_chosen_algorithms(base, OSSL_OP_KEYMGMT, NULL, foreign, NULL);
    algorithms->decoders = mws_chosen_algorithms(base, OSSL_OP_DECODER, NULL, foreign, of_certificates);
    if (!algorithms->ciphers || !algorithms->macs || !algorithms->derivations || !algorithms->exchanges || !algorithms->key_types ||
        !algorithms->decoders)
        return libraries;
    if (!mws_decoders_are_kept()) {
        libraries.certificates = mws_library_with("mwstorage-certificates", mws_certificate_provider_init);
        if (!libraries.certificates) return libraries;
    }
    libraries.tls = mws_library_with("mwstorage-tls", mws_tls_provider_init);
    if (!libraries.tls) {
        OSSL_LIB_CTX_free(libraries.certificates);
        libraries.certificates = NULL;
    }
    return libraries;
}

// What `certificate` says, read again, with its key, by `library`; NULL when it cannot be. The caller's own.
static inline X509 *mws_x509_read_again(X509 *certificate, OSSL_LIB_CTX *library) {
    unsigned char *bytes = NULL;
    int count = i2d_X509(certificate, &bytes);
    if (count <= 0) return NULL;
    const unsigned char *cursor = bytes;
    X509 *copy = X509_new_ex(library, NULL);
    if (copy && !d2i_X509(&copy, &cursor, count)) {
        X509_free(copy);
        copy = NULL;
    }
    OPENSSL_free(bytes);
    return copy;
}
