/* A file system that does not answer, for LD_PRELOAD.
 *
 * The file that the variable HANGING_DISK names holds the beginning of a path. Calls with an absolute path that begins
 * so do not return until the file is gone or holds something else. The file that DISK_CALLS names gets a line for each
 * call that the first thread of a process makes: its process id, and the path or the name of the call.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int hangs(const char *path)
{
    char prefix[PATH_MAX];
    const char *control = getenv("HANGING_DISK");
    if (control == NULL || path == NULL || path[0] != '/')
        return 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, prefix, sizeof prefix - 1);
    close(file);
    return length > 0 && strncmp(path, prefix, (size_t)length) == 0;
}

static void note(const char *path)
{
    const char *log = getenv("DISK_CALLS");
    if (log == NULL || path == NULL || syscall(SYS_gettid) != getpid())
        return;
    int file = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return;
    dprintf(file, "%d %s\n", getpid(), path);
    close(file);
}

static void wait_for(const char *path)
{
    note(path);
    while (hangs(path))
        usleep(20000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define STAT(name, type)                                        \
    int name(const char *path, struct type *found)              \
    {                                                           \
        wait_for(path);                                         \
        return REAL(name)(path, found);                         \
    }

STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define STAT_AT(name, type)                                                     \
    int name(int directory, const char *path, struct type *found, int flags)    \
    {                                                                           \
        wait_for(path);                                                         \
        return REAL(name)(directory, path, found, flags);                       \
    }

STAT_AT(fstatat, stat)
STAT_AT(fstatat64, stat64)

#define OPEN(name)                              \
    int name(const char *path, int flags, ...)  \
    {                                           \
        va_list more;                           \
        va_start(more, flags);                  \
        int mode = va_arg(more, int);           \
        va_end(more);                           \
        wait_for(path);                         \
        return REAL(name)(path, flags, mode);   \
    }

OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                           \
    int name(int directory, const char *path, int flags, ...)   \
    {                                                           \
        va_list more;                                           \
        va_start(more, flags);                                  \
        int mode = va_arg(more, int);                           \
        va_end(more);                                           \
        wait_for(path);                                         \
        return REAL(name)(directory, path, flags, mode);        \
    }

OPEN_AT(openat)
OPEN_AT(openat64)

DIR *opendir(const char *path)
{
    wait_for(path);
    return REAL(opendir)(path);
}

int access(const char *path, int mode)
{
    wait_for(path);
    return REAL(access)(path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    wait_for(path);
    return REAL(mkdir)(path, mode);
}

#define SYNC(name)                      \
    int name(int descriptor)            \
    {                                   \
        note(#name);                    \
        return REAL(name)(descriptor);  \
    }

SYNC(fsync)
SYNC(fdatasync)

int flock(int descriptor, int operation)
{
    note("flock");
    return REAL(flock)(descriptor, operation);
}
