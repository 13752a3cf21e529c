// libssl for Swift: the header, and its function-like macros as typed inline functions.
#pragma once
#include <openssl/ssl.h>
