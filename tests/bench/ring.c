/* ring.c - bench_ring.py's contestants in C: NOPs and reads over liburing, and a loop of pread(2).
 *
 *     ring nop|read|pread BATCH COUNT FILE
 *
 * Prints CPU and wall seconds that COUNT of them took, start-up and a warm-up excluded.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SIZE 4096
#define FILE_SIZE (8 << 20)

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
         + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static struct io_uring ring;
static char *buffers;
static int fd;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void work(const char *what, unsigned batch, unsigned long count)
{
    unsigned long offset = 0;
    for (unsigned long done = 0; done < count; done += batch) {
        if (!strcmp(what, "pread")) {
            for (unsigned i = 0; i < batch; i++, offset = (offset + SIZE) % FILE_SIZE)
                if (pread(fd, buffers + (size_t)i * SIZE, SIZE, offset) != SIZE)
                    die("pread");
            continue;
        }
        for (unsigned i = 0; i < batch; i++) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            if (*what == 'n') {
                io_uring_prep_nop(sqe);
            } else {
                io_uring_prep_read(sqe, fd, buffers + (size_t)i * SIZE, SIZE, offset);
                offset = (offset + SIZE) % FILE_SIZE;
            }
            sqe->user_data = i;
        }
        if (io_uring_submit_and_wait(&ring, batch) < 0)
            die("io_uring_submit_and_wait");
        unsigned head, taken = 0;
        struct io_uring_cqe *cqe;
        io_uring_for_each_cqe(&ring, head, cqe) {
            if (cqe->res < 0 || (*what == 'r' && cqe->res != SIZE))
                die("cqe->res");
            taken++;
        }
        io_uring_cq_advance(&ring, taken);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    unsigned batch = atoi(argv[2]);
    unsigned long count = atol(argv[3]);
    fd = open(argv[4], O_RDONLY);
    buffers = aligned_alloc(SIZE, (size_t)SIZE * batch);
    if (fd < 0 || !buffers)
        die(argv[4]);
    memset(buffers, 1, (size_t)SIZE * batch);
    int error = io_uring_queue_init(batch, &ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (error)
        return 1;
    work(argv[1], batch, count / 10);
    double cpu = cpu_seconds(), wall = wall_seconds();
    work(argv[1], batch, count);
    printf("%.6f %.6f\n", cpu_seconds() - cpu, wall_seconds() - wall);
    return 0;
}
