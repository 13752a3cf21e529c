// epoll(7), which Swift's module of the C library does not show.
#include <sys/epoll.h>
