/* storm_uring.c - connects over liburing, as its manual pages show it: a socket(2) for each, one
 * IORING_OP_CONNECT, close(2). With -DFLAGS=... the ring is set up with these.
 */
#include <liburing.h>
#include "storm.h"

#ifndef FLAGS
#define FLAGS 0
#endif

struct slot {
    int fd;
    struct sockaddr_in name;
};

static void connect_all(unsigned n, unsigned in_flight)
{
    struct io_uring ring;
    int error = io_uring_queue_init(in_flight, &ring, FLAGS);
    if (error)
        die("io_uring_queue_init", -error);
    struct slot *slots = calloc(in_flight, sizeof *slots);
    unsigned *unused = calloc(in_flight, sizeof *unused), unused_count = in_flight;
    for (unsigned i = 0; i < in_flight; i++)
        unused[i] = i;

    unsigned begun = 0, done = 0;
    while (done < n) {
        while (begun < n && unused_count) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            if (!sqe)
                break;
            unsigned at = unused[--unused_count];
            struct slot *slot = &slots[at];
            slot->name = target(begun++);
            slot->fd = socket(AF_INET, SOCK_STREAM, 0);
            if (slot->fd < 0)
                die("socket", errno);
            io_uring_prep_connect(sqe, slot->fd, (struct sockaddr *)&slot->name, sizeof slot->name);
            sqe->user_data = at;
        }
        error = io_uring_submit_and_wait(&ring, 1);
        if (error < 0 && error != -EINTR)
            die("io_uring_submit_and_wait", -error);
        unsigned head, taken = 0;
        struct io_uring_cqe *cqe;
        io_uring_for_each_cqe(&ring, head, cqe) {
            outcomes[-cqe->res]++;
            close(slots[cqe->user_data].fd);
            unused[unused_count++] = cqe->user_data;
            taken++;
        }
        io_uring_cq_advance(&ring, taken);
        done += taken;
    }
    io_uring_queue_exit(&ring);
    free(slots);
    free(unused);
}
