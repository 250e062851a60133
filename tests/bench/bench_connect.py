"""bench_connect.py - what one connect to a loopback listener costs, side by side.

Question: how much more CPU than socket.connect() does one pyuring.connect() take, where the network
costs nothing? Rounds are interleaved: 100 connects of each kind, then the next. CPU is this
thread's (user and system), so the kernel's loopback work for the SYN counts; accepting does not.

    python3 tests/bench/bench_connect.py [ROUNDS]
"""
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pyuring                                          # noqa: E402
from _report import head, median, ratio_of_medians      # noqa: E402

BATCH = 100


def main(rounds):
    head("One connect to 127.0.0.1, on a new blocking socket, microseconds.")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(BATCH)
    target = listener.getsockname()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()
        for title, address, accepted in (("connected", target, BATCH), ("refused", port, 0)):
            compare(title, rounds, address, listener, accepted)
    listener.close()


def compare(title, rounds, address, listener, accepted):
    kinds = {
        "os.getppid() (floor)": lambda sock: os.getppid(),
        "socket.connect": lambda sock: sock.connect(address),
        "pyuring.connect": lambda sock: pyuring.connect(sock, address),
        "  strategy native": lambda sock: pyuring.connect(sock, address, strategy="native"),
        "  strategy syscall": lambda sock: pyuring.connect(sock, address, strategy="syscall"),
    }
    if not pyuring.probe().available:
        print(f"no io_uring: {pyuring.probe().reason}")
        del kinds["  strategy native"]
    cpu, wall = {name: [] for name in kinds}, {name: [] for name in kinds}
    for i in range(rounds + 1):
        for name, connect in kinds.items():
            spent, elapsed = measure(connect, listener, accepted if "floor" not in name else 0)
            if i:                               # the first round warms up
                cpu[name].append(spent)
                wall[name].append(elapsed)
    base = "socket.connect"
    print(f"\n{title}{'':<{24 - len(title)}}{'CPU':>8}{'ratio':>8}{'wall':>10}{'ratio':>8}")
    for name in kinds:
        r_cpu, r_wall = (ratio_of_medians(t[name], t[base]) for t in (cpu, wall))
        print(f"{name:<24}{median(cpu[name]):8.1f}{r_cpu:8.2f}{median(wall[name]):10.1f}"
              f"{r_wall:8.2f}{'   lost' if r_cpu > 1.05 else ''}")


def measure(connect, listener, accepted):
    socks = [socket.socket() for _ in range(BATCH)]
    cpu, wall = time.thread_time(), time.perf_counter()
    for sock in socks:
        try:
            connect(sock)
        except ConnectionRefusedError:
            pass
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    for sock in socks:
        sock.close()
    for _ in range(accepted):
        listener.accept()[0].close()
    return cpu / BATCH * 1e6, wall / BATCH * 1e6


main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
