"""scan.py - every port of 127.0.0.1, against nmap and nc; and a million connects, and what they leave.

    ports       65,535 ports, of which a few are open: wall time from the start of the process to its
                end, interleaved, medians; each has to find the open ports, and no others. But: where
                the kernel gives a connect the very port that it is to connect to, it succeeds, with
                itself (RFC 9293, 3.5). That is about one in each scan of a whole machine by itself;
                nmap leaves those out
    million     1,000,000 connects to loopback: descriptors, memory and threads after the first
                thousand and at the end

Both in a network of their own (storm_network.py), as root; else the machine's. CPU is user and system of
the process. nmap is asked to be as fast as it can; nc tries one port after another.

    python3 tests/bench/scan.py [ports million] [--rounds N] [--concurrency N] [--quick]
"""
import argparse
import contextlib
import errno
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pyuring                                          # noqa: E402
import storm_network                                    # noqa: E402
from _report import head, median, ratio_of_medians      # noqa: E402

HOST, LAST_PORT, OURS = "127.0.0.1", 65535, "pyuring"
OPEN = 22, 80, 443, 3306, 8080, 65535
ALL_OF_THEM = f"1-{LAST_PORT}"
SCANNER = """
import sys
sys.path.insert(0, sys.argv[1])
import pyuring
targets = (("{host}", port) for port in range(1, {last} + 1))
for outcome in pyuring.connect_many(targets, concurrency=int(sys.argv[2])):
    if not outcome.error:
        print(outcome.address[1], "open")
"""


# -- ports ------------------------------------------------------------------------------------------
def scanners(concurrency):
    """{name: (command, what it prints of an open port)}"""
    ours = SCANNER.format(host=HOST, last=LAST_PORT)
    yield OURS, [sys.executable, "-c", ours, str(ROOT), str(concurrency)], r"^(\d+) open"
    yield "nmap", ["nmap", "-sT", "-n", "-Pn", "-T5", "--min-rate", "100000", f"-p{ALL_OF_THEM}", HOST], \
        r"^(\d+)/tcp +open"
    # OpenBSD's nc says who is there with -v only, and on standard error, like those who are not.
    yield "nc", ["nc", "-n", "-v", "-z", HOST, ALL_OF_THEM], r" (\d+) port .*succeeded"


def ports(rounds, concurrency, own):
    head(f"\nAll {LAST_PORT:,} ports of {HOST}, {len(OPEN)} of them opened here, {concurrency} in flight; seconds.")
    found = list(scanners(concurrency))
    for name, command, _ in found:
        if not shutil.which(command[0]):
            print(f"missing: {name}")
    found = [row for row in found if shutil.which(row[1][0])]
    walls, cpus, with_itself, wrong = ({name: [] for name, _, _ in found} for _ in range(4))
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with contextlib.ExitStack() as listeners:
        expected = set()
        for port in OPEN:
            listener = listeners.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
                listener.listen(100)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:     # someone has it: open all the same
                    print(f"not opened: port {port} ({error.strerror})")
                    continue
            expected.add(port)
        for _ in range(rounds):
            for name, command, pattern in found:
                wall, cpu, said = run(command)
                walls[name].append(wall)
                cpus[name].append(cpu)
                ports_found = {int(port) for port in re.findall(pattern, said, re.MULTILINE)}
                others = ports_found - expected
                if not expected <= ports_found \
                        or own and (len(others) > 9 or not all(low <= port <= high for port in others)):
                    wrong[name].append(sorted(ports_found ^ expected)[:5])
                with_itself[name].append(len(others))
            found.append(found.pop(0))
    print(f"{'':<12}{'wall':>8}{'CPU':>8}{'theirs / pyuring: wall':>30}{'CPU':>8}")
    for name in sorted(walls, key=lambda name: name != OURS):
        print(f"{name:<12}{median(walls[name]):8.2f}{median(cpus[name]):8.2f}", end="")
        if name != OURS:
            r_wall, r_cpu = (ratio_of_medians(t[name], t[OURS]) for t in (walls, cpus))
            lost = [what for what, ratio in (("wall", r_wall), ("CPU", r_cpu)) if ratio < 1]
            print(f"{r_wall:30.2f}{r_cpu:8.2f}{'   lost: ' + ', '.join(lost) if lost else ''}", end="")
        if own and any(with_itself[name]):
            print(f"   ({sum(with_itself[name])} connected to themselves, in {rounds} scans)", end="")
        print(f"   WRONG about ports {wrong[name][0]} and so on" if wrong[name] else "")


def run(command):
    """(wall seconds, CPU seconds, all that it printed)"""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, result.stdout


# -- million ----------------------------------------------------------------------------------------
def million(count, concurrency):
    head(f"\n{count:,} connects to loopback, {concurrency} in flight: what is there after 1,000, and then.")
    cpus = sorted(os.sched_getaffinity(0))
    with storm_network.Server(cpus[-1]) as server:
        places = [(f"127.0.0.{i // storm_network.PORTS + 1}", server.first_port + i % storm_network.PORTS)
                  for i in range(256)]
        os.sched_setaffinity(0, {cpus[0]})
        connected, failed, states = 0, {}, []
        cpu, began = time.process_time(), time.perf_counter()
        targets = (places[i % 256] for i in range(count))
        for outcome in pyuring.connect_many(targets, concurrency=concurrency):
            if outcome.error is None:
                connected += 1
            else:
                failed[outcome.error.errno] = failed.get(outcome.error.errno, 0) + 1
            if connected + sum(failed.values()) in (1000, count):
                states.append(("after 1,000" if not states else f"after {count:,}", state()))
        states.append(("when closed", state()))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        os.sched_setaffinity(0, cpus)
        storm_network.settle()
        accepted = server.accepted()
    print(f"{'':<18}{'descriptors':>12}{'RSS KiB':>10}{'threads':>9}")
    for when, (descriptors, rss, threads) in states:
        print(f"{when:<18}{descriptors:12}{rss:10}{threads:9}")
    print(f"{connected:,} connected, the server saw {accepted:,}; errors: {failed or 'none'}; "
          f"{wall:.1f} s, {cpu / count * 1e6:.1f} us of CPU each")
    (_, first), (_, last) = states[:2]
    grown = [what for what, a, b in zip(("descriptors", "memory", "threads"), first, last)
             if b > a * (1.02 if what == "memory" else 1)]
    print(f"{'MISSED: more of ' + ', '.join(grown) if grown else 'met: no more of anything'}"
          f"{'' if connected == accepted == count else '; MISSED: not all connected'}")


def state():
    status = Path("/proc/self/status").read_text()
    rss, threads = (int(re.search(rf"^{field}:\s+(\d+)", status, re.MULTILINE)[1])
                    for field in ("VmRSS", "Threads"))
    return len(os.listdir("/proc/self/fd")) - 1, rss, threads       # less the one that lists them


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="see the first lines of this file")
    parser.add_argument("what", nargs="*", help="ports, million; both by default")
    parser.add_argument("--rounds", type=int, default=5, help="of ports")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="3 rounds, and 100,000 for a million")
    options = parser.parse_args()
    with storm_network.own_network() as problem:
        if problem:
            print(f"not in a network of its own ({problem}): the machine's, with its open ports")
        if not options.what or "ports" in options.what:
            ports(3 if options.quick else options.rounds, options.concurrency, own=not problem)
        if not options.what or "million" in options.what:
            million(100_000 if options.quick else 1_000_000, options.concurrency)
