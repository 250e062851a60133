/* storm_chain.c - connects as pyuring/many.py makes them, in C: a chain of SOCKET, CONNECT and CLOSE on
 * a direct descriptor, silent where all goes well. With -DCHECK a SEND of nothing before CLOSE, as on
 * kernels that have E23. What the kernel takes for a chain; the rest of pyuring's time is Python.
 */
#include <liburing.h>
#include "storm.h"

#ifdef CHECK
#define LENGTH 4
#else
#define LENGTH 3
#endif
#define ENTRIES_MAX 4096
enum { SOCKET, CONNECT, SEND, CLOSE };

static void connect_all(unsigned n, unsigned in_flight)
{
    struct io_uring ring;
    unsigned entries = LENGTH * in_flight < ENTRIES_MAX ? LENGTH * in_flight : ENTRIES_MAX;
    int error = io_uring_queue_init(entries, &ring,
                                    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (error)
        die("io_uring_queue_init", -error);
    error = io_uring_register_files_sparse(&ring, in_flight);
    if (error)
        die("io_uring_register_files_sparse", -error);
    struct sockaddr_in *names = calloc(in_flight, sizeof *names);
    int *failures = calloc(in_flight, sizeof *failures);
    unsigned *unused = calloc(in_flight, sizeof *unused), unused_count = in_flight;
    for (unsigned i = 0; i < in_flight; i++)
        unused[i] = i;

    unsigned begun = 0, done = 0, quiet = IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
    while (done < n) {
        while (begun < n && unused_count) {
            if (io_uring_sq_space_left(&ring) < LENGTH)
                io_uring_submit(&ring);
            unsigned at = unused[--unused_count];
            names[at] = target(begun++);
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_socket_direct(sqe, AF_INET, SOCK_STREAM, 0, at, 0);
            sqe->flags |= quiet;
            sqe->user_data = at * 4 + SOCKET;
            sqe = io_uring_get_sqe(&ring);
            io_uring_prep_connect(sqe, at, (struct sockaddr *)&names[at], sizeof names[at]);
            sqe->flags |= quiet | IOSQE_FIXED_FILE;
            sqe->user_data = at * 4 + CONNECT;
#ifdef CHECK
            sqe = io_uring_get_sqe(&ring);
            io_uring_prep_send(sqe, at, NULL, 0, MSG_DONTWAIT | MSG_NOSIGNAL);
            sqe->flags |= quiet | IOSQE_FIXED_FILE;
            sqe->user_data = at * 4 + SEND;
#endif
            sqe = io_uring_get_sqe(&ring);
            io_uring_prep_close_direct(sqe, at);
            sqe->user_data = at * 4 + CLOSE;
        }
        error = io_uring_submit_and_wait(&ring, 1);
        if (error < 0 && error != -EINTR)
            die("io_uring_submit_and_wait", -error);
        unsigned head, taken = 0;
        struct io_uring_cqe *cqe;
        io_uring_for_each_cqe(&ring, head, cqe) {
            unsigned at = cqe->user_data / 4;
            taken++;
            if (cqe->user_data % 4 != CLOSE) {
                if (!failures[at])
                    failures[at] = -cqe->res;
                continue;
            }
            outcomes[failures[at]]++;
            failures[at] = 0;
            unused[unused_count++] = at;
            done++;
        }
        io_uring_cq_advance(&ring, taken);
    }
    io_uring_queue_exit(&ring);
    free(names);
    free(failures);
    free(unused);
}
