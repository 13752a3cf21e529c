// What Swift cannot say: calls of prctl(2), which is variadic, of sync_file_range(2) and memfd_create(2), which the C library shows to GNU
// programs only, and instructions: that for CRC32C, and that which asks for memory before it is needed.

#ifndef MWS_LINUX_H
#define MWS_LINUX_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// 0, or the errno.
static inline int mws_set_undumpable(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : errno; }

// 0, or the errno. This thread, those it makes, and children cannot gain rights by setuid programs or file capabilities.
static inline int mws_set_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno; }

static inline int mws_has_no_new_privileges(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }

// Starts to write out what is dirty there, and does not wait; 0, or the errno.
static inline int mws_start_writing(int descriptor, int64_t offset, int64_t count) {
    const unsigned start_write = 2;  // SYNC_FILE_RANGE_WRITE
    return syscall(SYS_sync_file_range, descriptor, offset, count, start_write) == 0 ? 0 : errno;
}

// A file in memory, which is gone once nobody has it open; its descriptor, or -1.
static inline int mws_memory_file(const char *name) {
    const unsigned close_on_exec = 1;  // MFD_CLOEXEC
    return (int)syscall(SYS_memfd_create, name, close_on_exec);
}

// Asks for the line of memory at `address`, to be written to.
static inline void mws_prefetch(const void *address) { __builtin_prefetch(address, 1); }

#if defined(__x86_64__)

static inline int mws_has_crc32c(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"); }

typedef long long mws_pair __attribute__((vector_size(16)));

static inline uint64_t mws_word(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    return word;
}

// Goes on from `state`, which is not inverted at either end. Only where mws_has_crc32c().
//
// The instruction takes three cycles, and begins in each: three parts of a block are summed at once, and those in front shifted behind the
// others by a product of polynomials. (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel, 2011)
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t mws_crc32c(uint32_t state, const void *bytes, size_t count) {
    enum { part = 256 };
    const mws_pair two_parts = {0xdd7e3b0c, 0}, one_part = {0xb9e02b86, 0};  // x^(bits - 33), reflected
    const uint8_t *next = (const uint8_t *)bytes;
    for (; count >= 3 * part; count -= 3 * part, next += 3 * part) {
        uint64_t first = state, second = 0, third = 0;
        for (int offset = 0; offset < part; offset += 8) {
            first = __builtin_ia32_crc32di(first, mws_word(next + offset));
            second = __builtin_ia32_crc32di(second, mws_word(next + part + offset));
            if (offset < part - 8) third = __builtin_ia32_crc32di(third, mws_word(next + 2 * part + offset));
        }
        const mws_pair wide_first = {(long long)first, 0}, wide_second = {(long long)second, 0};
        const mws_pair shifted =
            __builtin_ia32_pclmulqdq128(wide_first, two_parts, 0) ^ __builtin_ia32_pclmulqdq128(wide_second, one_part, 0);
        state = (uint32_t)__builtin_ia32_crc32di(third, mws_word(next + 3 * part - 8) ^ (uint64_t)shifted[0]);
    }
    uint64_t wide = state;
    for (; count >= 8; count -= 8, next += 8) wide = __builtin_ia32_crc32di(wide, mws_word(next));
    uint32_t narrow = (uint32_t)wide;
    for (; count > 0; count--, next++) narrow = __builtin_ia32_crc32qi(narrow, *next);
    return narrow;
}

#else

static inline int mws_has_crc32c(void) { return 0; }

static inline uint32_t mws_crc32c(uint32_t state, const void *bytes, size_t count) {
    (void)bytes;
    (void)count;
    return state;
}

#endif

#endif
