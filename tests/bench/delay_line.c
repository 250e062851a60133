/* delay_line.c - a long cable: packets read from one TUN device are written to the other, later.
 *
 *     delay_line FD FD DELAY_MS LOSS_PER_MILLION
 *
 * FD FD are two open TUN devices. Ends with its standard input, and then prints one line of JSON:
 * how many packets went through, how many were lost as asked for, and how many for want of room.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PACKET_SIZE 244                 /* the devices' MTU is less */
#define LENGTH 65536                    /* packets under way in one direction, at most */
#define BATCH 64

struct packet {
    uint64_t due_ns;
    uint32_t size;
    unsigned char bytes[PACKET_SIZE];
};

struct direction {
    int from, to;
    uint32_t head, tail;                /* counters, index = counter % LENGTH */
    struct packet *packets;
};

static uint64_t delay_ns, passed, lost, full;
static uint32_t loss, state = 2463534242u;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* 0 to 999,999; the same numbers in each run. */
static uint32_t dice(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % 1000000;
}

static void take_in(struct direction *way, uint64_t now)
{
    static unsigned char spare[PACKET_SIZE];
    for (int i = 0; i < BATCH; i++) {
        int room = way->tail - way->head < LENGTH;
        struct packet *packet = &way->packets[way->tail % LENGTH];
        ssize_t size = read(way->from, room ? packet->bytes : spare, PACKET_SIZE);
        if (size <= 0)
            return;
        if (!room) {
            full++;
        } else if (loss && dice() < loss) {
            lost++;
        } else {
            packet->size = size;
            packet->due_ns = now + delay_ns;
            way->tail++;
        }
    }
}

static void hand_out(struct direction *way, uint64_t now)
{
    for (int i = 0; i < BATCH && way->head != way->tail; i++) {
        struct packet *packet = &way->packets[way->head % LENGTH];
        if (packet->due_ns > now)
            return;
        if (write(way->to, packet->bytes, packet->size) < 0)
            full++;
        else
            passed++;
        way->head++;
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int a = atoi(argv[1]), b = atoi(argv[2]);
    delay_ns = atof(argv[3]) * 1e6;
    loss = atoi(argv[4]);
    struct direction ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
    for (int i = 0; i < 2; i++) {
        ways[i].packets = calloc(LENGTH, sizeof(struct packet));
        if (!ways[i].packets || fcntl(ways[i].from, F_SETFL, O_NONBLOCK))
            return 1;
    }
    struct pollfd polled[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {0, POLLIN, 0}};
    for (;;) {
        uint64_t now = now_ns(), due = UINT64_MAX;
        for (int i = 0; i < 2; i++) {
            hand_out(&ways[i], now);
            if (ways[i].head != ways[i].tail && ways[i].packets[ways[i].head % LENGTH].due_ns < due)
                due = ways[i].packets[ways[i].head % LENGTH].due_ns;
        }
        uint64_t pause = due > now ? due - now : 0;
        struct timespec until = {pause / 1000000000u, pause % 1000000000u};
        if (ppoll(polled, 3, due == UINT64_MAX ? NULL : &until, NULL) < 0 && errno != EINTR)
            return 1;
        now = now_ns();
        for (int i = 0; i < 2; i++)
            if (polled[i].revents)
                take_in(&ways[i], now);
        if (polled[2].revents)
            break;
    }
    printf("{\"passed\": %llu, \"lost\": %llu, \"full\": %llu}\n", (unsigned long long)passed,
           (unsigned long long)lost, (unsigned long long)full);
    return 0;
}
