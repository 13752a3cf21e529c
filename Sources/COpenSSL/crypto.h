// libcrypto for Swift: the headers, and its function-like macros and variadics as typed inline functions.
// Names: COpenSSL_ and the name of the macro.
#pragma once
#include <openssl/asn1.h>
#include <openssl/asn1t.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/objects.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

// Library start. NO_LOAD_CONFIG: no openssl.cnf may weaken us. NO_ATEXIT: no clean-up under the feet of threads that still work.
static inline uint64_t COpenSSL_INIT_OPTIONS(void) {
  return (uint64_t)OPENSSL_INIT_NO_LOAD_CONFIG | (uint64_t)OPENSSL_INIT_NO_ATEXIT;
}

// Memory that OpenSSL allocated.
static inline void COpenSSL_free(void *pointer) { OPENSSL_free(pointer); }
static inline void COpenSSL_clear_free(void *pointer, size_t count) { OPENSSL_clear_free(pointer, count); }

// BIO
static inline long COpenSSL_BIO_get_mem_data(BIO *bio, const char **data) {
  char *start = NULL;
  long count = BIO_get_mem_data(bio, &start);
  *data = start;
  return count;
}

// Stacks
static inline int COpenSSL_sk_X509_num(const STACK_OF(X509) *stack) { return sk_X509_num(stack); }
static inline X509 *COpenSSL_sk_X509_value(const STACK_OF(X509) *stack, int index) { return sk_X509_value(stack, index); }
static inline STACK_OF(X509) *COpenSSL_sk_X509_new_null(void) { return sk_X509_new_null(); }
static inline int COpenSSL_sk_X509_push(STACK_OF(X509) *stack, X509 *certificate) { return sk_X509_push(stack, certificate); }
static inline X509 *COpenSSL_sk_X509_set(STACK_OF(X509) *stack, int index, X509 *certificate) { return sk_X509_set(stack, index, certificate); }
static inline void COpenSSL_sk_X509_free(STACK_OF(X509) *stack) { sk_X509_free(stack); }
static inline void COpenSSL_sk_X509_pop_free(STACK_OF(X509) *stack) { sk_X509_pop_free(stack, X509_free); }
static inline int COpenSSL_sk_GENERAL_NAME_num(const GENERAL_NAMES *stack) { return sk_GENERAL_NAME_num(stack); }
static inline int COpenSSL_sk_ASN1_OBJECT_num(const EXTENDED_KEY_USAGE *stack) { return sk_ASN1_OBJECT_num(stack); }
static inline ASN1_OBJECT *COpenSSL_sk_ASN1_OBJECT_value(const EXTENDED_KEY_USAGE *stack, int index) {
  return sk_ASN1_OBJECT_value(stack, index);
}
static inline int COpenSSL_sk_X509_REVOKED_num(const STACK_OF(X509_REVOKED) *stack) { return sk_X509_REVOKED_num(stack); }
static inline X509_REVOKED *COpenSSL_sk_X509_REVOKED_value(const STACK_OF(X509_REVOKED) *stack, int index) {
  return sk_X509_REVOKED_value(stack, index);
}

// The type (GEN_DNS, …) of one name, and its octets where it is a plain string or an address; otherwise *data is NULL.
static inline int COpenSSL_GENERAL_NAME(const GENERAL_NAMES *stack, int index, const uint8_t **data, int *count) {
  int type = -1;
  const void *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(stack, index), &type);
  *data = NULL;
  *count = 0;
  if (value && (type == GEN_DNS || type == GEN_URI || type == GEN_EMAIL || type == GEN_IPADD)) {
    *data = ASN1_STRING_get0_data((const ASN1_STRING *)value);
    *count = ASN1_STRING_length((const ASN1_STRING *)value);
  }
  return type;
}

// RFC 4514 order and escapes; UTF-8 where `utf8`, otherwise every byte above 0x7F as a hex pair.
static inline int COpenSSL_X509_NAME_print_rfc4514(BIO *bio, const X509_NAME *name, int utf8) {
  unsigned long flags = XN_FLAG_RFC2253;
  if (utf8) flags &= ~(unsigned long)ASN1_STRFLGS_ESC_MSB;
  return X509_NAME_print_ex(bio, name, 0, flags);
}

// Keys
static inline EVP_PKEY *COpenSSL_generate_ec(const char *curve) { return EVP_PKEY_Q_keygen(NULL, NULL, "EC", curve); }
static inline EVP_PKEY *COpenSSL_generate_rsa(size_t bits) { return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", bits); }
static inline EVP_PKEY *COpenSSL_generate_ed25519(void) { return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"); }

// How many times a password-based scheme (PKCS#5 v1, v2, PKCS#12) hashes, so that a file cannot make us work for hours:
// the count of iterations; for scrypt N*r*p; -1 where the scheme is unknown or its parameters malformed.
static inline int64_t COpenSSL_pbe_cost(const X509_ALGOR *algorithm) {
  const ASN1_OBJECT *object = NULL;
  const void *parameter = NULL;
  int type = 0;
  int64_t cost = -1;
  X509_ALGOR_get0(&object, &type, &parameter, algorithm);
  if (type != V_ASN1_SEQUENCE || !parameter) return -1;
  if (OBJ_obj2nid(object) != NID_pbes2) {
    PBEPARAM *pbe = (PBEPARAM *)ASN1_item_unpack((const ASN1_STRING *)parameter, ASN1_ITEM_rptr(PBEPARAM));
    if (pbe && !ASN1_INTEGER_get_int64(&cost, pbe->iter)) cost = -1;
    PBEPARAM_free(pbe);
    return cost;
  }
  PBE2PARAM *pbe2 = (PBE2PARAM *)ASN1_item_unpack((const ASN1_STRING *)parameter, ASN1_ITEM_rptr(PBE2PARAM));
  if (!pbe2) return -1;
  X509_ALGOR_get0(&object, &type, &parameter, pbe2->keyfunc);
  if (type == V_ASN1_SEQUENCE && parameter && OBJ_obj2nid(object) == NID_id_pbkdf2) {
    PBKDF2PARAM *kdf = (PBKDF2PARAM *)ASN1_item_unpack((const ASN1_STRING *)parameter, ASN1_ITEM_rptr(PBKDF2PARAM));
    if (kdf && !ASN1_INTEGER_get_int64(&cost, kdf->iter)) cost = -1;
    PBKDF2PARAM_free(kdf);
  } else if (type == V_ASN1_SEQUENCE && parameter && OBJ_obj2nid(object) == NID_id_scrypt) {
    SCRYPT_PARAMS *kdf = (SCRYPT_PARAMS *)ASN1_item_unpack((const ASN1_STRING *)parameter, ASN1_ITEM_rptr(SCRYPT_PARAMS));
    int64_t n, r, p;
    if (kdf && ASN1_INTEGER_get_int64(&n, kdf->costParameter) && ASN1_INTEGER_get_int64(&r, kdf->blockSize) &&
        ASN1_INTEGER_get_int64(&p, kdf->parallelizationParameter) && n > 0 && r > 0 && p > 0 && n < (1 << 30) &&
        r < (1 << 16) && p < (1 << 16))
      cost = n * r * p;
    SCRYPT_PARAMS_free(kdf);
  }
  PBE2PARAM_free(pbe2);
  return cost;
}
