"""connect_storm.py - thousands of connects at a time, side by side, on loopback and over a delay line.

Question: what does a connect cost, in CPU, time and memory, when there are very many? Against a
plain C program over liburing, a C loop of connect(2), and what one would write in Python otherwise.

    loopback    5,000 and 50,000 connects, then as many refusals, at 256 and 4,096 in flight
    delay       20,000 connects at 4,096 in flight, to a server that is 50 ms away (as root)

Each measurement is a fresh process on one CPU, the server is on another one. CPU is that process's,
user and system, io_uring's threads included, start-up excluded (imports, and 200 connects to warm
up; 64 over the delay line). On loopback the kernel does the server's half of the handshake within
the client's connect, so that is in there for all. Rounds are interleaved, and begin with another contestant each time;
printed are medians, and medians of the ratios round by round. An answer that is wrong (not all
connected, not all refused, the server saw others) is no time. "Bytes in flight" are those by which
the process grew at its peak (VmHWM), over the connects in flight: Python's and C's objects, the rings,
and what it keeps for each; not the kernel's sockets, nor what was there after the warm-up. Beside the
plain C liburing program, which is aimed at, are C programs that do better: one whose ring has
DEFER_TASKRUN, and two with pyuring's own chains. Files: storm_*.

    python3 tests/bench/connect_storm.py [--quick] [--rounds N] [--only loopback delay] [--loss 0.01]
"""
import argparse
import errno
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import storm_network                                    # noqa: E402
from _report import head, median, ratio_of_medians      # noqa: E402
from storm_network import compiled, settle              # noqa: E402

CLIENTS = Path(__file__).resolve().parent / "storm_clients.py"
US, OURS = 1e6, "pyuring"
ADDRESSES, WARM_UP, WARM_UP_AWAY = 64, 200, 64
PATIENCE = 120                  # seconds for one measurement
DEFER = "-DFLAGS=(IORING_SETUP_SINGLE_ISSUER|IORING_SETUP_DEFER_TASKRUN)"
# title: the source, and how to compile it; the name in storm_clients.py, and the module it needs
IN_C = {
    "C liburing": ("storm_uring.c", "-luring"),
    "C liburing, DEFER_TASKRUN": ("storm_uring.c", "-luring", DEFER),
    "C, pyuring's chains": ("storm_chain.c", "-luring"),
    "C, chains with check (E23)": ("storm_chain.c", "-luring", "-DCHECK"),
    "C loop of connect(2)": ("storm_loop.c",),
}
IN_PYTHON = {
    OURS: ("pyuring", None),
    "pyuring, timeout=5": ("pyuring-timeout", None),
    "socket.connect in a loop": ("socket", None),
    "64 threads": ("threads", None),
    "asyncio sock_connect": ("asyncio", None),
    "uvloop sock_connect": ("uvloop", "uvloop"),
    "liburing (PyPI)": ("liburing", "liburing"),
}
# Those that do one at a time would take 20,000 round trips, or 313.
ONE_AT_A_TIME = {"C loop of connect(2)", "socket.connect in a loop", "64 threads"}


def contestants(directory):
    """{title: command}, and what is missing on this machine, and why."""
    found, missing = {OURS: [sys.executable, str(CLIENTS), "pyuring"]}, []
    for number, (title, (source, *options)) in enumerate(IN_C.items()):
        program, why = compiled(directory, f"client{number}", source, *options)
        if program:
            found[title] = [program]
        else:
            missing.append(f"{title}: {why}")
    for title, (name, needs) in IN_PYTHON.items():
        if needs is None or importlib.util.find_spec(needs):
            found[title] = [sys.executable, str(CLIENTS), name]
        else:
            missing.append(f"{title}: no module {needs}")
    return found, missing


class Case:
    """One table: so many connects of one kind, and what each contestant measured, round by round."""

    def __init__(self, kind, count, concurrency, first_address, round_trip=None, lossy=False):
        self.kind, self.count, self.concurrency = kind, count, concurrency
        self.first_address, self.round_trip, self.lossy = first_address, round_trip, lossy
        self.warm_up = WARM_UP_AWAY if round_trip else WARM_UP
        self.results, self.wrong = {}, {}

    def __str__(self):
        where = "over loopback" if self.round_trip is None else f"{self.round_trip * 1000:g} ms away"
        return f"{self.count:,} {self.kind}, {self.concurrency:,} in flight, {where}"

    def measure(self, title, command, cpu, server):
        """Run one contestant once, and believe it only if what it says can be."""
        port = server.first_port if self.kind == "connects" else server.closed_port
        arguments = (self.count, self.concurrency, self.first_address, ADDRESSES, port,
                     storm_network.PORTS, self.warm_up)
        process = storm_network.start([*command, *map(str, arguments)], cpu, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)
        try:
            said, complaint = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            settle(1)
            server.accepted()           # what it counted is nobody else's
            self.wrong[title] = f"not done after {PATIENCE} s"
            return
        settle(0.05 if self.round_trip is None else 3 * self.round_trip)
        accepted = server.accepted()
        if process.returncode:
            self.wrong[title] = f"exit status {process.returncode}: {complaint.strip()[-200:]}"
            return
        result = json.loads(said)
        expected = 0 if self.kind == "connects" else errno.ECONNREFUSED
        if result["outcomes"] != {str(expected): self.count}:
            self.wrong[title] = "it says " + ", ".join(
                f"{n} {errno.errorcode.get(int(code), code) if int(code) else 'connected'}"
                for code, n in result["outcomes"].items())
        elif not self.lossy and accepted != (self.count + self.warm_up if self.kind == "connects" else 0):
            self.wrong[title] = f"the server saw {accepted} connects"
        else:
            self.results.setdefault(title, []).append(result)

    def values(self, title, what):
        return [result[what] for result in self.results[title]]

    def ratio(self, title, what):
        """Theirs / ours, as a median: how many times as much of it `title` took; above 1, we are better."""
        if title not in self.results or OURS not in self.results:
            return None
        return ratio_of_medians(self.values(title, what), self.values(OURS, what))

    def bytes_each(self, title):
        return median(self.values(title, "kib")) * 1024 / self.concurrency

    def print(self):
        print(f"\n{self}\n{'':<27}{'CPU us':>8}{'wall us':>9}{'wall s':>8}{'bytes in':>10}"
              f"{'theirs / pyuring':>23}\n{'':<27}{'each':>8}{'each':>9}{'':>8}{'flight':>10}"
              f"{'CPU':>13}{'wall':>10}")
        for title in self.results:
            cpu, wall = median(self.values(title, "cpu")), median(self.values(title, "wall"))
            ratios = [self.ratio(title, what) for what in ("cpu", "wall")]
            if None in ratios or title == OURS:
                ratios, lost = ["", ""], []
            else:
                lost = [name for name, ratio in zip(("CPU", "wall"), ratios) if ratio < 1]
                ratios = [f"{ratio:.2f}" for ratio in ratios]
            print(f"{title:<27}{cpu / self.count * US:8.1f}{wall / self.count * US:9.1f}{wall:8.2f}"
                  f"{self.bytes_each(title):10.0f}{ratios[0]:>13}{ratios[1]:>10}"
                  f"{'   lost: ' + ', '.join(lost) if lost else ''}")
        for title, why in self.wrong.items():
            print(f"{title:<27}WRONG: {why}")


# -- what is aimed at -------------------------------------------------------------------------------
AIMS = {
    "connects": {"C liburing": 1.0, "asyncio sock_connect": 3.3, "socket.connect in a loop": 1.15},
    "refusals": {"C liburing": 0.9, "asyncio sock_connect": 4.0, "socket.connect in a loop": 1.15},
    "delayed": {"asyncio sock_connect": 3.0},
}
BYTES_AIM, WALL_AIM = 2048, 1.3


def aims(case):
    """(what, measured, aim, whether it is met)"""
    if OURS not in case.results:
        yield f"{case}: an answer at all", 0, 1, False
        return
    for title, aim in AIMS["delayed" if case.round_trip else case.kind].items():
        ratio = case.ratio(title, "cpu")
        if ratio is not None:
            yield f"{case}: connects per CPU second, of {title}'s", ratio, aim, ratio >= aim
    size = case.bytes_each(OURS)
    yield f"{case}: bytes in flight, at most", size, BYTES_AIM, size < BYTES_AIM
    if case.round_trip and not case.lossy:      # a SYN that was lost is a second
        least = case.count / case.concurrency * case.round_trip
        wall = median(case.values(OURS, "wall")) / least
        yield (f"{case}: wall, of targets / concurrency x round trip, at most", wall, WALL_AIM,
               wall <= WALL_AIM)


# -- main -------------------------------------------------------------------------------------------
def main():
    options = parse()
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    head("What one of thousands of connects costs, microseconds of CPU and of time, and bytes.")
    client_cpu, server_cpu = two_cpus()
    print(f"client on CPU {client_cpu}, server on CPU {server_cpu}"
          + (", the same: wall is of little use" if client_cpu == server_cpu else ""))
    cases = []
    with tempfile.TemporaryDirectory() as directory, storm_network.own_network() as problem:
        if problem:
            print(f"not in a network of its own ({problem}): the machine's loopback, with its settings")
        found, missing = contestants(directory)
        for line in missing:
            print(f"missing: {line}")
        if "loopback" in options.only:
            cases += loopback(options, found, client_cpu, server_cpu)
        if "delay" in options.only:
            if problem:
                print("no delay line without a network of its own")
            else:
                cases += delay(options, directory, found, client_cpu, server_cpu)
    conclude(cases)


def parse():
    parser = argparse.ArgumentParser(description="connects side by side; see the first lines of this file")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases, under a minute")
    parser.add_argument("--rounds", type=int, help="of each case (default 5, with --quick 3)")
    both = "loopback", "delay"
    parser.add_argument("--only", nargs="+", choices=both, default=both)
    parser.add_argument("--count", type=int, nargs="+", help="connects over loopback (5000 50000)")
    parser.add_argument("--concurrency", type=int, nargs="+", help="in flight over loopback (256 4096)")
    both = "connects", "refusals"
    parser.add_argument("--kind", nargs="+", choices=both, default=both, help="over loopback")
    parser.add_argument("--without", nargs="+", default=(), metavar="TITLE", help="contestants")
    parser.add_argument("--delay-ms", type=float, default=50, help="of the delay line, each way")
    parser.add_argument("--loss", type=float, default=0.0, help="share of packets that it loses")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.count = options.count or ([5000] if options.quick else [5000, 50000])
    options.concurrency = options.concurrency or ([256] if options.quick else [256, 4096])
    return options


def two_cpus():
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


def loopback(options, found, client_cpu, server_cpu):
    cases = [Case(kind, count, concurrency, "127.0.0.1") for count in options.count
             for concurrency in options.concurrency for kind in options.kind]
    with storm_network.Server(server_cpu) as server:
        for case in cases:
            rounds(options, case, found, client_cpu, server)
            case.print()
    return cases


def delay(options, directory, found, client_cpu, server_cpu):
    program, why = compiled(directory, "delay_line", "delay_line.c")
    if program is None:
        print(f"no delay line: {why}")
        return []
    case = Case("connects", 5000 if options.quick else 20000, 1024 if options.quick else 4096,
                storm_network.SERVER, 2 * options.delay_ms / 1000, options.loss > 0)
    try:
        line = storm_network.Line(program, server_cpu, options.delay_ms, options.loss)
    except OSError as error:
        print(f"no delay line: {error}")
        return []
    try:
        left_out = [title for title in found if title in ONE_AT_A_TIME]
        print(f"\nleft out over the delay line: {', '.join(left_out)}. One at a time, or 64, wait for "
              f"{case.count:,} round trips, or {-(-case.count // 64):,}: {case.count * case.round_trip:,.0f} s, or "
              f"{case.count / 64 * case.round_trip:,.0f}")
        at_once = {title: found[title] for title in found if title not in ONE_AT_A_TIME}
        rounds(options, case, at_once, client_cpu, line.server)
        case.print()
    finally:
        packets = line.close()
    print("packets over the delay line: {passed:,}, lost on purpose {lost:,}, for want of room {full:,}"
          .format(**packets))
    return [case]


def rounds(options, case, found, client_cpu, server):
    order = [title for title in found if title not in options.without]
    for _ in range(options.rounds):
        for title in order:
            if title not in case.wrong:
                case.measure(title, found[title], client_cpu, server)
        order.append(order.pop(0))
    for title in case.wrong:
        case.results.pop(title, None)


def conclude(cases):
    print("\naims")
    for case in cases:
        for what, measured, aim, met in aims(case):
            print(f"  {'met   ' if met else 'MISSED'}  {measured:8.2f} / {aim:<6g} {what}")
    lost = []
    for case in cases:
        for title in case.results:
            ratios = [case.ratio(title, what) for what in ("cpu", "wall")]
            if title != OURS and None not in ratios and min(ratios) < 1:
                lost.append((*ratios, title, case))
    print(f"\nlost: {len(lost) or 'nothing'}{'; CPU and wall, in shares of' if lost else ''}")
    for cpu, wall, title, case in sorted(lost, key=lambda row: row[0]):
        print(f"  {cpu:.2f}  {wall:.2f}  {title}: {case}")


if __name__ == "__main__":
    main()
