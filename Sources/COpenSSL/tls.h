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

// A library context with the default provider's algorithms, but of its decoders and key types only those that a peer's certificate may
// need.
//
// OpenSSL 3.0 and 3.1 build the decoder of a certificate's public key anew for each certificate, out of every decoder and key type there
// is: with all of them that is 40 % of the instructions of a mutual handshake, with these half of it. The algorithms are the default
// provider's own, asked for and called in its own context; this one only leaves some out of its lists.
struct mws_peer_algorithms {
    OSSL_PROVIDER *base;
    OSSL_ALGORITHM *decoders;
    OSSL_ALGORITHM *key_types;
};

// Written once, by mws_peer_library, before anything can ask for it.
static inline struct mws_peer_algorithms *mws_peer_algorithms(void) {
    static struct mws_peer_algorithms algorithms;
    return &algorithms;
}

// Whether TLS as we speak it has no use for it: no finite fields (DHE), no SM2, and no keys of MACs and KDFs that are not its own.
static inline int mws_is_foreign_to_tls(const OSSL_ALGORITHM *algorithm) {
    static const char *const names[] = {"DH", "DHX", "SM2", "SCRYPT", "CMAC", "POLY1305", "SIPHASH"};
    size_t count = strcspn(algorithm->algorithm_names, ":");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == count && strncmp(algorithm->algorithm_names, names[i], count) == 0) return 1;
    return 0;
}

// The algorithms of `operation` without the foreign ones; with `properties`, only those that have them all. Never freed.
static inline OSSL_ALGORITHM *mws_chosen_algorithms(OSSL_PROVIDER *provider, int operation, const char *const properties[]) {
    int no_cache = 0;
    size_t count = 0, chosen = 0;
    const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(provider, operation, &no_cache);
    while (all && all[count].algorithm_names) count++;
    if (count == 0 || no_cache) return NULL;
    OSSL_ALGORITHM *list = (OSSL_ALGORITHM *)calloc(count + 1, sizeof *list);
    for (size_t i = 0; list && i < count; i++) {
        int has_all = !mws_is_foreign_to_tls(&all[i]);
        for (size_t j = 0; has_all && properties && properties[j]; j++) has_all = strstr(all[i].property_definition, properties[j]) != NULL;
        if (has_all) list[chosen++] = all[i];
    }
    return list;
}

static inline const OSSL_ALGORITHM *mws_peer_query(void *context, int operation, int *no_cache) {
    (void)context;
    struct mws_peer_algorithms *algorithms = mws_peer_algorithms();
    *no_cache = 0;
    if (operation == OSSL_OP_DECODER) return algorithms->decoders;
    if (operation == OSSL_OP_KEYMGMT) return algorithms->key_types;
    return OSSL_PROVIDER_query_operation(algorithms->base, operation, no_cache);
}

static inline int mws_peer_capabilities(void *context, const char *capability, OSSL_CALLBACK *callback, void *argument) {
    (void)context;
    return OSSL_PROVIDER_get_capabilities(mws_peer_algorithms()->base, capability, callback, argument);
}

static inline int mws_peer_provider_init(
    const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *core, const OSSL_DISPATCH **functions, void **context) {
    static const OSSL_DISPATCH table[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))mws_peer_query},
        {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))mws_peer_capabilities},
        {0, NULL},
    };
    (void)handle, (void)core;
    *functions = table;
    // Its algorithms are called with its context.
    *context = OSSL_PROVIDER_get0_provider_ctx(mws_peer_algorithms()->base);
    return 1;
}

// Call it once; NULL where this OpenSSL does not go along, and its own default context does. Never freed.
static inline OSSL_LIB_CTX *mws_peer_library(void) {
    static const char *const of_certificates[] = {"input=der", "structure=SubjectPublicKeyInfo", NULL};
    struct mws_peer_algorithms *algorithms = mws_peer_algorithms();
    algorithms->base = OSSL_PROVIDER_load(NULL, "default");
    if (!algorithms->base) return NULL;
    algorithms->decoders = mws_chosen_algorithms(algorithms->base, OSSL_OP_DECODER, of_certificates);
    algorithms->key_types = mws_chosen_algorithms(algorithms->base, OSSL_OP_KEYMGMT, NULL);
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    if (library && algorithms->decoders && algorithms->key_types &&
        OSSL_PROVIDER_add_builtin(library, "mwstorage-peers", mws_peer_provider_init) && OSSL_PROVIDER_load(library, "mwstorage-peers"))
        return library;
    OSSL_LIB_CTX_free(library);
    return NULL;
}
