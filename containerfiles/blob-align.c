// EXPERIMENTAL, off unless preloaded: rounds the sizes of virtio-gpu's blobs up to the host's pages, so that stock Mesa may
// work in a guest whose host has larger pages than it (krunkit on Apple Silicon: 16 KiB under 4 KiB). docs/venus.md says
// why, what was seen, and what it cannot mend. The tested way is the patched Mesa of Containerfile.krun.
//
//   LD_PRELOAD=/usr/local/lib/blob-align.so
//   HESPER_BLOB_ALIGN_BYTES   a power of two; 16384 if unset, 1 leaves sizes alone
//   HESPER_BLOB_ALIGN_LOG=1   writes every blob's size to stderr
//
// A host that maps a blob into its guest can only do so in whole pages of its own. Mesa's Venus asks for whole guest
// pages. Where all sizes are multiples of the host's pages, so are all offsets that the guest's kernel finds for blobs in
// the window, since it packs them. The kernel refuses (before Linux 7.2) to map another length than the blob's own, so the
// lengths of mmap and munmap are rounded with it. Code calls the kernel directly: looking functions up may itself map.
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// The kernel's interface (include/uapi/drm/virtgpu_drm.h), which not every system has a header for
struct create_blob {
    uint32_t memory, flags, object, resource;
    uint64_t bytes;
    uint32_t padding, command_bytes;
    uint64_t command, blob;
};
#define CREATE_BLOB _IOWR('d', 0x40 + 0x0a, struct create_blob)
#define BLOB_IS_MAPPABLE 1u

#define DRM_MAJOR 226u
#define DRM_OFFSETS_FROM (INT64_C(1) << 32) // where the offsets that stand for graphics memory begin

// Mappings whose length was rounded. One that finds no room is unmapped but for its last pages.
static struct mapping {
    void *start;
    size_t asked_bytes, bytes;
} mappings[4096];
static size_t mapping_count;
static atomic_flag mappings_lock = ATOMIC_FLAG_INIT;

static void lock(void) {
    while (atomic_flag_test_and_set_explicit(&mappings_lock, memory_order_acquire)) {}
}
static void unlock(void) { atomic_flag_clear_explicit(&mappings_lock, memory_order_release); }

static uint64_t alignment(void) {
    const char *text = getenv("HESPER_BLOB_ALIGN_BYTES");
    uint64_t bytes = text == NULL ? 16384 : strtoull(text, NULL, 10);
    if (bytes == 0 || (bytes & (bytes - 1)) != 0) {
        dprintf(STDERR_FILENO, "blob-align: HESPER_BLOB_ALIGN_BYTES=%s is no power of two\n", text);
        _exit(1);
    }
    return bytes;
}

static uint64_t round_up(uint64_t bytes) {
    uint64_t mask = alignment() - 1;
    return bytes > UINT64_MAX - mask ? bytes : (bytes + mask) & ~mask;
}

static int is_graphics_memory(int fd, off_t offset) {
    struct stat status;
    return fd >= 0 && offset >= DRM_OFFSETS_FROM && fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) &&
           major(status.st_rdev) == DRM_MAJOR;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request != CREATE_BLOB) return (int)syscall(SYS_ioctl, fd, request, argument);
    struct create_blob *blob = argument;
    uint64_t asked_bytes = blob->bytes;
    if (blob->flags & BLOB_IS_MAPPABLE) blob->bytes = round_up(asked_bytes);
    int status = (int)syscall(SYS_ioctl, fd, request, argument);
    int failure = errno;
    if (getenv("HESPER_BLOB_ALIGN_LOG") != NULL)
        dprintf(STDERR_FILENO, "blob-align: blob of %llu bytes for %llu%s\n", (unsigned long long)blob->bytes,
                (unsigned long long)asked_bytes, status == 0 ? "" : ", refused");
    errno = failure;
    return status;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
    size_t asked_bytes = bytes;
    if (address == NULL && is_graphics_memory(fd, offset)) bytes = round_up(bytes);
    void *start = (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
    if (bytes != asked_bytes && start != MAP_FAILED) {
        lock();
        if (mapping_count < sizeof mappings / sizeof *mappings)
            mappings[mapping_count++] = (struct mapping){start, asked_bytes, bytes};
        unlock();
    }
    return start;
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
    return mmap(address, bytes, protection, flags, fd, offset);
}

int munmap(void *start, size_t bytes) {
    lock();
    for (size_t i = 0; i < mapping_count; i++)
        if (mappings[i].start == start && mappings[i].asked_bytes == bytes) {
            bytes = mappings[i].bytes;
            mappings[i] = mappings[--mapping_count];
            break;
        }
    unlock();
    return (int)syscall(SYS_munmap, start, bytes);
}
