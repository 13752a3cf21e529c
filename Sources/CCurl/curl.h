// libcurl for Swift: the header, and its variadic functions as typed inline functions.
// Names: CCurl_ and what is set or read. An option of another kind than the function's is refused with CURLE_BAD_FUNCTION_ARGUMENT.
#pragma once
// The checks of curl_easy_setopt's macro want a constant option; these functions make the same checks themselves.
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#if LIBCURL_VERSION_NUM < 0x075700
#error "libcurl 7.87.0 or newer is needed"
#endif

static inline int CCurl_is_kind(CURLoption option, int kind) { return (int)option / 10000 * 10000 == kind; }

// curl_easy_setopt
static inline CURLcode CCurl_set_long(CURL *easy, CURLoption option, long value) {
  return CCurl_is_kind(option, CURLOPTTYPE_LONG) ? curl_easy_setopt(easy, option, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
static inline CURLcode CCurl_set_size(CURL *easy, CURLoption option, curl_off_t value) {
  return CCurl_is_kind(option, CURLOPTTYPE_OFF_T) ? curl_easy_setopt(easy, option, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
// libcurl keeps a copy; NULL takes the option back.
static inline CURLcode CCurl_set_string(CURL *easy, CURLoption option, const char *value) {
  return CCurl_is_kind(option, CURLOPTTYPE_OBJECTPOINT) ? curl_easy_setopt(easy, option, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
// Kept as it is: it must live as long as the transfer.
static inline CURLcode CCurl_set_pointer(CURL *easy, CURLoption option, void *value) {
  return CCurl_is_kind(option, CURLOPTTYPE_OBJECTPOINT) ? curl_easy_setopt(easy, option, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
static inline CURLcode CCurl_set_list(CURL *easy, CURLoption option, struct curl_slist *value) {
  return CCurl_is_kind(option, CURLOPTTYPE_OBJECTPOINT) ? curl_easy_setopt(easy, option, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
// libcurl keeps a copy.
static inline CURLcode CCurl_set_blob(CURL *easy, CURLoption option, const void *bytes, size_t count) {
  struct curl_blob blob = {(void *)bytes, count, CURL_BLOB_COPY};
  return CCurl_is_kind(option, CURLOPTTYPE_BLOB) ? curl_easy_setopt(easy, option, &blob) : CURLE_BAD_FUNCTION_ARGUMENT;
}
// libcurl keeps a copy of `count` bytes.
static inline CURLcode CCurl_set_body(CURL *easy, const void *bytes, size_t count) {
  CURLcode code = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)count);
  return code == CURLE_OK ? curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, bytes) : code;
}
// Takes bytes of the reply; any other result than `size * count` ends the transfer with CURLE_WRITE_ERROR.
typedef size_t (*CCurl_sink)(char *bytes, size_t size, size_t count, void *context);
static inline CURLcode CCurl_set_body_sink(CURL *easy, CCurl_sink sink, void *context) {
  CURLcode code = curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, sink);
  return code == CURLE_OK ? curl_easy_setopt(easy, CURLOPT_WRITEDATA, context) : code;
}
static inline CURLcode CCurl_set_header_sink(CURL *easy, CCurl_sink sink, void *context) {
  CURLcode code = curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, sink);
  return code == CURLE_OK ? curl_easy_setopt(easy, CURLOPT_HEADERDATA, context) : code;
}

// curl_easy_getinfo
static inline int CCurl_is_info(CURLINFO info, int kind) { return ((int)info & CURLINFO_TYPEMASK) == kind; }
static inline CURLcode CCurl_get_long(CURL *easy, CURLINFO info, long *value) {
  return CCurl_is_info(info, CURLINFO_LONG) ? curl_easy_getinfo(easy, info, value) : CURLE_BAD_FUNCTION_ARGUMENT;
}
// What CURLOPT_PRIVATE holds; getinfo counts it among the strings.
static inline CURLcode CCurl_get_private(CURL *easy, void **value) {
  char *pointer = NULL;
  CURLcode code = curl_easy_getinfo(easy, CURLINFO_PRIVATE, &pointer);
  *value = pointer;
  return code;
}

// curl_multi_setopt
static inline CURLMcode CCurl_multi_set_long(CURLM *multi, CURLMoption option, long value) {
  return CCurl_is_kind((CURLoption)option, CURLOPTTYPE_LONG) ? curl_multi_setopt(multi, option, value) : CURLM_BAD_FUNCTION_ARGUMENT;
}

// The result of a CURLMSG_DONE, which is a member of a union.
static inline CURLcode CCurl_result(const CURLMsg *message) { return message->data.result; }

// Macros with casts that Swift does not import.
static const long CCurl_global_default = CURL_GLOBAL_DEFAULT;
static const long CCurl_http_1_1 = CURL_HTTP_VERSION_1_1;
static const long CCurl_tls_1_2 = CURL_SSLVERSION_TLSv1_2;
