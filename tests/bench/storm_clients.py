"""storm_clients.py - connect_storm.py's contestants in Python, each a process of its own.

    python3 storm_clients.py NAME COUNT CONCURRENCY FIRST_ADDRESS ADDRESSES FIRST_PORT PORTS WARM_UP

Connects to COUNT targets, at most CONCURRENCY at a time, and closes what it connected. What counts
begins after the imports and WARM_UP connects, and includes whatever the contestant sets up for that
many. The answer is one line of JSON, as storm.h prints it: cpu and wall in seconds, kib that the
process grew at its peak, and {errno: how many} where 0 is connected.

Each is written as its manual shows it, and takes its targets from a list of (host, port).
"""
import json
import resource
import socket
import struct
import sys
import time
from pathlib import Path


def pyuring_connect_many(targets, concurrency, outcomes, timeout=None):
    import pyuring
    for outcome in pyuring.connect_many(targets, concurrency=concurrency, timeout=timeout):
        code = (outcome.error.errno or -1) if outcome.error else 0      # -1: our timeout has none
        outcomes[code] = outcomes.get(code, 0) + 1


def pyuring_with_timeout(targets, concurrency, outcomes):
    pyuring_connect_many(targets, concurrency, outcomes, 5)


def socket_loop(targets, concurrency, outcomes):
    for target in targets:
        sock = socket.socket()
        try:
            sock.connect(target)
            code = 0
        except OSError as error:
            code = error.errno
        sock.close()
        outcomes[code] = outcomes.get(code, 0) + 1


def threads(targets, concurrency, outcomes):
    """64 of them: with thousands it would be their creation that is measured."""
    import threading
    shared, parts = iter(targets), []           # next() on a list's iterator is atomic under the GIL

    def work(mine):
        parts.append(mine)
        socket_loop(shared, 1, mine)
    crew = [threading.Thread(target=work, args=({},)) for _ in range(64)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    for part in parts:
        for code, number in part.items():
            outcomes[code] = outcomes.get(code, 0) + number


def asyncio_sock_connect(targets, concurrency, outcomes, run=None):
    import asyncio

    async def work(shared, loop):
        for target in shared:
            sock = socket.socket()
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, target)
                code = 0
            except OSError as error:
                code = error.errno
            sock.close()
            outcomes[code] = outcomes.get(code, 0) + 1

    async def main():
        shared, loop = iter(targets), asyncio.get_running_loop()
        await asyncio.gather(*(work(shared, loop) for _ in range(concurrency)))
    (run or asyncio.run)(main())


def uvloop_sock_connect(targets, concurrency, outcomes):
    import asyncio
    import uvloop

    def run(main):
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main)
        loop.close()
    asyncio_sock_connect(targets, concurrency, outcomes, run)


def liburing_binding(targets, concurrency, outcomes):
    """The package `liburing` on PyPI. Its `res` raises what it stands for."""
    import liburing as lib
    ring, cqe = lib.Ring(), lib.Cqe()
    lib.io_uring_queue_init(concurrency, ring)
    under_way, shared, number, more = {}, iter(targets), 0, True
    while more or under_way:
        while more and len(under_way) < concurrency:
            try:
                host, port = next(shared)
            except StopIteration:
                more = False
                break
            sqe = lib.io_uring_get_sqe(ring)
            sock, name = socket.socket(), lib.Sockaddr(lib.AF_INET, host, port)
            lib.io_uring_prep_connect(sqe, sock.fileno(), name)
            sqe.user_data = number
            under_way[number] = sock, name
            number += 1
        if not under_way:
            break
        lib.io_uring_submit_and_wait(ring, 1)
        taken = 0
        for _ in lib.CqeIter(ring, cqe):
            entry = cqe[0]
            sock, _ = under_way.pop(entry.user_data)
            try:
                code = entry.res
            except OSError as error:
                code = error.errno
            sock.close()
            outcomes[code] = outcomes.get(code, 0) + 1
            taken += 1
        lib.io_uring_cq_advance(ring, taken)
    lib.io_uring_queue_exit(ring)


CONTESTANTS = {
    "pyuring": pyuring_connect_many,
    "pyuring-timeout": pyuring_with_timeout,
    "socket": socket_loop,
    "threads": threads,
    "asyncio": asyncio_sock_connect,
    "uvloop": uvloop_sock_connect,
    "liburing": liburing_binding,
}


def targets_of(count, first_address, addresses, first_port, ports):
    """A list of count (host, port), no string or tuple in it twice."""
    first = struct.unpack("!I", socket.inet_aton(first_address))[0]
    return [(socket.inet_ntoa(struct.pack("!I", first + i % addresses)),
             first_port + i // addresses % ports) for i in range(count)]


def cpu_seconds():
    """All threads of this process, those that io_uring starts as well."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def status_kib(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return -1


def main(name, count, concurrency, first_address, addresses, first_port, ports, warm_up):
    connect = CONTESTANTS[name]
    where = first_address, int(addresses), int(first_port), int(ports)
    connect(targets_of(int(warm_up), *where), 16, {})
    targets, outcomes = targets_of(int(count), *where), {}
    try:
        Path("/proc/self/clear_refs").write_text("5")       # VmHWM begins anew
    except OSError:
        pass
    before, cpu, wall = status_kib("VmRSS:"), cpu_seconds(), time.perf_counter()
    connect(targets, int(concurrency), outcomes)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    print(json.dumps({"cpu": cpu, "wall": wall, "kib": status_kib("VmHWM:") - before,
                      "outcomes": {str(code): number for code, number in outcomes.items()}}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(*sys.argv[1:])
