// Lets virgl_test_server run over lavapipe on a kernel that has no /dev/udmabuf. Loaded into it by LD_PRELOAD; a test
// aid, never part of Hesper.
//
// Venus shares a guest's mapped memory with the host by file descriptors. Lavapipe makes such a descriptor by asking
// /dev/udmabuf to wrap the memfd that holds the memory in a dma-buf. The vtest socket only ever passes the descriptor
// on and maps it, and a memfd can be passed and mapped just as well. So: opening the device gives an empty memfd that
// stands for it, and the request to wrap a memfd answers with another descriptor of that same memfd.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

static int device = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void create_device(void) { device = memfd_create("hesper-udmabuf", MFD_CLOEXEC); }

static int is_device(const char *path) { return path != NULL && strcmp(path, "/dev/udmabuf") == 0; }

static int open_device(void) {
    pthread_once(&once, create_device);
    return device;
}

static int open_next(const char *symbol, const char *path, int flags, mode_t mode) {
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, symbol);
    return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    if (is_device(path)) return open_device();
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_next("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    if (is_device(path)) return open_device();
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_next("open64", path, flags, mode);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd >= 0 && fd == device && request == UDMABUF_CREATE) {
        const struct udmabuf_create *create = argument;
        return fcntl((int)create->memfd, F_DUPFD_CLOEXEC, 0);
    }
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return next(fd, request, argument);
}
