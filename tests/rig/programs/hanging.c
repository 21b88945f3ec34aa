/* hanging DIRECTORY: mounts a filesystem there whose one file `file` says "here", and serves it until it
 * is unmounted. Stopped by SIGSTOP it is what a dead network mount is: nothing is answered.
 * Requests and answers are those of linux/fuse.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOT = FUSE_ROOT_ID, THE_FILE };

static const char TEXT[] = "here\n";
static int device;

static void answer(const struct fuse_in_header *asked, int error, const void *body, size_t length)
{
    struct fuse_out_header header = {
        .len = sizeof header + (error ? 0 : length), .error = -error, .unique = asked->unique};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)body, error ? 0 : length}};
    if (writev(device, parts, 2) < 0 && errno != ENOENT)
        perror("answering");
}

static struct fuse_attr attributes(uint64_t node)
{
    struct fuse_attr found = {.ino = node, .nlink = 1, .blksize = 4096};
    found.mode = node == ROOT ? S_IFDIR | 0755 : S_IFREG | 0644;
    found.size = node == ROOT ? 0 : sizeof TEXT - 1;
    return found;
}

static void serve(const struct fuse_in_header *asked, const void *body)
{
    switch (asked->opcode) {
    case FUSE_INIT: {
        const struct fuse_init_in *offer = body;
        struct fuse_init_out taken = {.major = FUSE_KERNEL_VERSION,
            .minor = 31,
            .max_readahead = offer->max_readahead,
            .max_write = 4096};
        answer(asked, 0, &taken, sizeof taken);
        break;
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out found = {.attr = attributes(asked->nodeid)};
        answer(asked, 0, &found, sizeof found);
        break;
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out found = {.nodeid = THE_FILE, .attr = attributes(THE_FILE)};
        int missing = asked->nodeid != ROOT || strcmp(body, "file");
        answer(asked, missing ? ENOENT : 0, &found, sizeof found);
        break;
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out opened = {.open_flags = asked->opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0};
        answer(asked, 0, &opened, sizeof opened);
        break;
    }
    case FUSE_READ: {
        const struct fuse_read_in *wanted = body;
        size_t left = wanted->offset < sizeof TEXT - 1 ? sizeof TEXT - 1 - wanted->offset : 0;
        answer(asked, 0, TEXT + wanted->offset * (left > 0), left);
        break;
    }
    case FUSE_STATFS: {
        struct fuse_statfs_out found = {.st = {.bsize = 4096, .namelen = 255}};
        answer(asked, 0, &found, sizeof found);
        break;
    }
    case FUSE_READDIR:
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        answer(asked, 0, NULL, 0);
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    default:
        answer(asked, ENOSYS, NULL, 0);
    }
}

int main(int count, char **words)
{
    static char room[1 << 20] __attribute__((aligned(8)));
    char options[100];
    if (count < 2)
        return 2;
    device = open("/dev/fuse", O_RDWR);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("hanging", words[1], "fuse.hanging", MS_NOSUID | MS_NODEV, options)) {
        perror("mounting");
        return 1;
    }
    for (;;) {
        ssize_t length = read(device, room, sizeof room);
        if (length >= (ssize_t)sizeof(struct fuse_in_header))
            serve((const void *)room, room + sizeof(struct fuse_in_header));
        else if (length >= 0 || (errno != EINTR && errno != ENOENT))
            return 0;
    }
}
