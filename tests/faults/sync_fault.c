/* fdatasync that hangs while $SYNC_FAULT.hang exists, and fails while $SYNC_FAULT.fail exists. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int exists(const char *suffix) {
    const char *prefix = getenv("SYNC_FAULT");
    char path[4096];
    if (prefix == NULL) return 0;
    snprintf(path, sizeof path, "%s.%s", prefix, suffix);
    return access(path, F_OK) == 0;
}

int fdatasync(int descriptor) {
    while (exists("hang")) usleep(1000);
    if (exists("fail")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, descriptor);
}
