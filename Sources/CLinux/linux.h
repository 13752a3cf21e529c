// What Swift cannot say: calls of prctl(2), which is variadic, of sync_file_range(2) and memfd_create(2), which the C library shows to GNU
// programs only, and the instruction for CRC32C.

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

#if defined(__x86_64__)

static inline int mws_has_crc32c(void) { return __builtin_cpu_supports("sse4.2"); }

// Goes on from `state`, which is not inverted at either end. Only where mws_has_crc32c().
__attribute__((target("sse4.2"))) static inline uint32_t mws_crc32c(uint32_t state, const void *bytes, size_t count) {
    const uint8_t *next = (const uint8_t *)bytes;
    uint64_t wide = state;
    for (; count >= 8; count -= 8, next += 8) {
        uint64_t word;
        memcpy(&word, next, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
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
