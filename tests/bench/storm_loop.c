/* storm_loop.c - socket(2), connect(2), close(2), and the next. */
#include "storm.h"

static void connect_all(unsigned n, unsigned in_flight)
{
    (void)in_flight;
    for (unsigned i = 0; i < n; i++) {
        struct sockaddr_in name = target(i);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0)
            die("socket", errno);
        outcomes[connect(fd, (struct sockaddr *)&name, sizeof name) ? errno : 0]++;
        close(fd);
    }
}
