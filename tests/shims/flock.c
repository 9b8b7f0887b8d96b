/* flock as on a file system that does not share locks between clients: with FAKE_FLOCK=always it succeeds for everyone
 * and excludes nobody; with FAKE_FLOCK=never it is not there at all. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int flock(int fd, int operation) {
    const char *how = getenv("FAKE_FLOCK");
    if (how && strcmp(how, "always") == 0) return 0;
    if (how && strcmp(how, "never") == 0) {
        errno = ENOSYS;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, operation);
}
