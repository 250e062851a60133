/* storm.h - what storm_uring.c and storm_loop.c share: their targets, their clock, their answer.
 *
 * Arguments: COUNT CONCURRENCY FIRST_ADDRESS ADDRESSES FIRST_PORT PORTS WARM_UP. Target i is address
 * number i % ADDRESSES, port number i / ADDRESSES % PORTS, as in storm_clients.py. The answer is one
 * line of JSON; memory in KiB, CPU and wall in seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static unsigned count, concurrency, addresses, ports, warm_up;
static in_addr_t first_address;
static in_port_t first_port;
static unsigned outcomes[4096];         /* by errno; 0 is connected */

static struct sockaddr_in target(unsigned i)
{
    struct sockaddr_in name = {.sin_family = AF_INET};
    name.sin_addr.s_addr = htonl(first_address + i % addresses);
    name.sin_port = htons(first_port + i / addresses % ports);
    return name;
}

static void die(const char *doing, int code)
{
    fprintf(stderr, "%s: %s\n", doing, strerror(code));
    exit(1);
}

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

static long status_kib(const char *field)
{
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, field, strlen(field)))
            value = atol(line + strlen(field));
    if (file)
        fclose(file);
    return value;
}

/* VmHWM begins anew. */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

/* connect_all(n, m): connect to targets 0 to n - 1, at most m at a time. */
static void connect_all(unsigned n, unsigned in_flight);

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    count = atoi(argv[1]);
    concurrency = atoi(argv[2]);
    first_address = ntohl(inet_addr(argv[3]));
    addresses = atoi(argv[4]);
    first_port = atoi(argv[5]);
    ports = atoi(argv[6]);
    warm_up = atoi(argv[7]);

    connect_all(warm_up, 16);
    memset(outcomes, 0, sizeof outcomes);
    reset_peak();
    long before = status_kib("VmRSS:");
    double cpu = cpu_seconds(), wall = wall_seconds();
    connect_all(count, concurrency);
    cpu = cpu_seconds() - cpu;
    wall = wall_seconds() - wall;
    printf("{\"cpu\": %.6f, \"wall\": %.6f, \"kib\": %ld, \"outcomes\": {", cpu, wall,
           status_kib("VmHWM:") - before);
    const char *comma = "";
    for (unsigned code = 0; code < 4096; code++)
        if (outcomes[code]) {
            printf("%s\"%u\": %u", comma, code, outcomes[code]);
            comma = ", ";
        }
    puts("}}");
    return 0;
}
