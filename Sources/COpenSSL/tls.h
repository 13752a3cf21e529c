// libssl for Swift: the header, and its function-like macros as typed inline functions.
#pragma once
#include <openssl/ssl.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

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
