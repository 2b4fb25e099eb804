/* Preloaded, it moves the clock by CLOCK_OFFSET seconds. The monotonic clock stays. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long long offset(void) { const char *t = getenv("CLOCK_OFFSET"); return t ? atoll(t) : 0; }
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int r = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += offset();
    return r;
}
time_t time(time_t *at) { struct timespec now; clock_gettime(CLOCK_REALTIME, &now); if (at) *at = now.tv_sec; return now.tv_sec; }
int gettimeofday(struct timeval *restrict now, void *restrict zone) { struct timespec s; clock_gettime(CLOCK_REALTIME, &s); now->tv_sec = s.tv_sec; now->tv_usec = s.tv_nsec / 1000; return 0; }
