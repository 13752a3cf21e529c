// Calls of prctl(2), which is variadic: Swift cannot make them.

#ifndef MWS_LINUX_H
#define MWS_LINUX_H

#include <errno.h>
#include <sys/prctl.h>

// 0, or the errno.
static inline int mws_set_undumpable(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : errno; }

// 0, or the errno. This thread, those it makes, and children cannot gain rights by setuid programs or file capabilities.
static inline int mws_set_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno; }

static inline int mws_has_no_new_privileges(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }

#endif
