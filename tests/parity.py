"""parity.py - one scenario, played by connect(2) and by pyuring on the same kernel, and compared.

    python3 tests/parity.py                     every scenario on this kernel, as a table
    python3 tests/parity.py refused late        those whose name contains a word
    python3 tests/parity.py --json FILE         the same for a program (the kernel lab's)

A scenario is a function that gets a Stage: it makes sockets, connects them by the stage's way, and
so leaves a record of what each call answered. It is played once for each thing that one may want
to know of the socket afterwards (AFTERMATHS), since looking at some of them changes the others.
All its records together are a cell: scenario x kind of socket x way.

connect(2) plays each scenario too, more than once, and what it answered is what a cell may be.
Nothing is expected that connect(2) did not say on this very kernel, in this very run.

Read next: scenarios.py, the first scenarios; test_parity.py, which asserts that the cells are equal.
"""
import argparse
import collections
import contextlib
import datetime
import errno
import functools
import itertools
import json
import os
import platform
import random
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from select import POLLIN, POLLOUT
from socket import (
    AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, SO_ERROR, SO_SNDTIMEO, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM,
    SOL_SOCKET, TCP_INFO,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyuring                                                      # noqa: E402
from pyuring import client, errors, sockaddr, syscalls              # noqa: E402
from pyuring.driver import IPPROTO_MPTCP                # noqa: E402
from pyuring.sockaddr import UNSPEC, SockAddr                       # noqa: E402

LIMIT = 20.0            # seconds after which a connect counts as pending; a SYN comes again after
                        # 1, 3, 7 and 15
NATIVE_LIMIT = 8.0      # the same for the bare opcode, which on some kernels often never comes back
GRACE = 0.05            # seconds from "the handshake is under way" to "its thread waits for it"
TCP_CLOSE = 7           # include/net/tcp_states.h
FUTEX = ("202", "98")   # futex(2) on x86-64, and elsewhere
ALL_POLL_BITS = 0xFFFF  # as much as a pollfd can ask for

# -- kinds of socket ----------------------------------------------------------------------------------
Kind = collections.namedtuple("Kind", "family type proto host")
KINDS = {
    "tcp4": Kind(AF_INET, SOCK_STREAM, 0, "127.0.0.1"),
    "tcp6": Kind(AF_INET6, SOCK_STREAM, 0, "::1"),
    "mptcp4": Kind(AF_INET, SOCK_STREAM, IPPROTO_MPTCP, "127.0.0.1"),
    "udp4": Kind(AF_INET, SOCK_DGRAM, 0, "127.0.0.1"),
    "udp6": Kind(AF_INET6, SOCK_DGRAM, 0, "::1"),
    "unix": Kind(AF_UNIX, SOCK_STREAM, 0, None),
    "unixseq": Kind(AF_UNIX, SOCK_SEQPACKET, 0, None),
    "unixdgram": Kind(AF_UNIX, SOCK_DGRAM, 0, None),
}
TCP = ("tcp4", "tcp6", "mptcp4")
UDP = ("udp4", "udp6")
UNIX_STREAM = ("unix", "unixseq")
UNIX = (*UNIX_STREAM, "unixdgram")


@functools.lru_cache(maxsize=None)
def why_no(kind):
    """Why there are no such sockets here, or ""."""
    family, type_, proto, host = KINDS[kind]
    try:
        with socket.socket(family, type_, proto) as sock:
            if host:
                sock.bind((host, 0))
    except OSError as error:
        return f"no {kind} sockets here: {error}"
    return ""


# -- ways to connect ------------------------------------------------------------------------------------
def by_connect2(sock, address):
    """The reference. A socket that does not block is waited for as the man page says, by poll for
    POLLOUT; the outcome is then what a second connect(2) says, which also cleans up. On AF_UNIX there
    is nothing to poll for: EAGAIN is asked again (E16)."""
    fd = sock if isinstance(sock, int) else sock.fileno()
    end = time.monotonic() + LIMIT
    code = -syscalls.connect(fd, address.raw)
    while code == errno.EAGAIN and address.family == AF_UNIX and not os.get_blocking(fd):
        if time.monotonic() > end:
            return "pending"
        time.sleep(0.01)
        code = -syscalls.connect(fd, address.raw)
    if code in (errno.EINPROGRESS, errno.EALREADY) and not os.get_blocking(fd):
        poll = select.poll()
        poll.register(fd, POLLOUT)
        if not poll.poll(LIMIT * 1000):
            return "pending"
        code = -syscalls.connect(fd, address.raw)
        if code == errno.EISCONN:
            code = 0
    return name(code)


def connect2_for(seconds):
    """The nearest that connect(2) has to a time limit: SO_SNDTIMEO, and it says EINPROGRESS."""
    def connect(sock, address):
        before = sock.getsockopt(SOL_SOCKET, SO_SNDTIMEO, 16)
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", 0, int(seconds * 1_000_000)))
        code = -syscalls.connect(sock.fileno(), address.raw)
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, before)
        return "pending" if code in (errno.EINPROGRESS, errno.EALREADY) else name(code)
    return connect


def by_poll(sock, address):
    """What is left to a program that wants a time limit: poll for POLLOUT, then SO_ERROR, as connect(2)'s
    man page says. Where that has nothing to tell, connect(2) once more; unless the handshake is gone, as
    TCP_INFO tells, for that would begin another: it is ECONNABORTED then, connect(2)'s own word."""
    fd = sock.fileno()
    before = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        code = -syscalls.connect(fd, address.raw)
        if code in (errno.EINPROGRESS, errno.EALREADY):
            poll = select.poll()
            poll.register(fd, POLLOUT)
            if not poll.poll(LIMIT * 1000):
                return "pending"
            code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
            if not code and Stage.tcp_state(sock) == TCP_CLOSE:
                code = errno.ECONNABORTED
            elif not code:
                code = -syscalls.connect(fd, address.raw)
                if code == errno.EISCONN:
                    code = 0
    except OSError as error:            # somebody has closed it
        code = error.errno
    finally:
        os.set_blocking(fd, before)
    return name(code)


def by_pyuring(strategy, timeout=None):
    """A way that is pyuring.connect() by this strategy."""
    def connect(sock, address):
        try:
            pyuring.connect(sock, address, timeout, strategy=strategy)
        except errors.ConnectTimeout:
            return "pending"
        except OSError as error:
            return name(error.errno)
        return "0"
    connect.strategy = strategy
    return connect


WAYS = {
    "native": by_pyuring("native", NATIVE_LIMIT),
    "emulated": by_pyuring("emulated"),
    "emulated+timeout": by_pyuring("emulated", 60),
    "syscall": by_pyuring("syscall"),
    "syscall+timeout": by_pyuring("syscall", 60),
}
REFERENCES = {"connect(2)": by_connect2, "poll(2)": by_poll}
OVER_THE_RING = ("native", "emulated", "emulated+timeout")


@functools.lru_cache(maxsize=None)
def why_no_ring():
    """Why the ways over io_uring can't be played here, or ""."""
    try:
        client.make_ring(8).close()
    except errors.RingUnavailable as error:
        return str(error)
    return ""


def name(code):
    return "0" if code == 0 else errors.name_of(code)


# -- the stage ----------------------------------------------------------------------------------------------
PORTS = itertools.cycle(random.sample(range(10_000, 32_000), 22_000))     # no ephemeral ones, ip(7)


class Skip(Exception):
    """Raised by a scenario that can't be played here; says why."""


class Stage(contextlib.ExitStack):
    """What one play of a scenario has: sockets of one kind, one way to connect them, a record.

    sock     the last socket that client() made, whose aftermath is looked at
    later    an address where connecting is refused at once, for the aftermath
    """

    def __init__(self, kind, way):
        super().__init__()
        self.kind = kind
        self.way = way
        self.family, self.type, self.proto, self.host = KINDS[kind]
        self.record = []
        self.sock = None
        self.servers = []

    # -- who is on it
    def client(self, blocking=True):
        """A new socket to connect."""
        self.sock = self.make()
        self.sock.setblocking(blocking)
        return self.sock

    def make(self):
        """A socket of this kind, closed at the end."""
        return self.enter_context(socket.socket(self.family, self.type, self.proto))

    def name(self):
        """Where a server of this kind can bind: a port that nobody had lately, or a path.

        The kernel's choice would do, but for the next play that gets the port of a server that was
        closed, while somebody still tries to connect to that.
        """
        if self.host:
            return self.host, next(PORTS)
        if not hasattr(self, "folder"):
            self.folder = self.enter_context(tempfile.TemporaryDirectory(prefix="pyuring-"))
        return os.path.join(self.folder, f"s{len(os.listdir(self.folder))}")

    def bound(self):
        """A socket that is bound and does not listen: connecting there is refused."""
        sock = self.make()
        while True:
            try:
                sock.bind(self.name())
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        self.servers.append(sock)
        return sock

    def listener(self, backlog=16):
        """A socket that listens."""
        sock = self.bound()
        sock.listen(backlog)
        return sock

    def silent(self):
        """A listener whose accept queue is full: connecting there stays pending. Once it is emptied
        or closed, the next retransmission of the SYN (after 1 s, or 3) tells the other side."""
        sock = self.listener(0)
        self.make().connect(sock.getsockname())
        poll = select.poll()
        poll.register(sock, POLLIN)
        assert poll.poll(LIMIT * 1000)      # the handshake's last packet has arrived
        return sock

    def accept(self, listener):
        """What accept(2) gives, closed at the end. TimeoutError where nobody has connected."""
        poll = select.poll()
        poll.register(listener, POLLIN)
        if not poll.poll(LIMIT * 1000):
            raise TimeoutError(errno.ETIMEDOUT, "nobody connects")
        return self.enter_context(listener.accept()[0])

    def empty(self, listener):
        """Accept all that waits in a listener's queue."""
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.enter_context(listener.accept()[0])

    # -- what happens
    def note(self, what, value):
        """Write something down that connect(2) and pyuring should have in common."""
        self.record.append(f"{what} {value}")

    def call(self, what, function, *arguments):
        """Write down what a call answers: its errno, or 0."""
        try:
            function(*arguments)
        except OSError as error:
            self.note(what, name(error.errno))
        else:
            self.note(what, "0")

    def address(self, target):
        """Where to connect: a server's own address, a tuple or path, or a SockAddr, as a SockAddr."""
        if isinstance(target, socket.socket):
            target = target.getsockname()
        if not isinstance(target, SockAddr):
            target = SockAddr(sockaddr.pack(self.family, target))
        return target

    def connect(self, target, sock=None, times=1):
        """Connect by the way that this play is about, and write down what it said."""
        address = self.address(target)
        for _ in range(times):
            self.note("connect", self.way(self.sock if sock is None else sock, address))

    def connect2(self, target, sock=None):
        """Connect by connect(2) itself, whatever the way, and write down what it said."""
        sock = self.sock if sock is None else sock
        self.note("connect(2)", name(-syscalls.connect(sock.fileno(), self.address(target).raw)))

    def connect_for(self, seconds, target):
        """Connect by the way that this play is about, for no more than so many seconds (less than one)."""
        strategy = getattr(self.way, "strategy", None)
        way = by_pyuring(strategy, seconds) if strategy else connect2_for(seconds)
        self.note("connect", way(self.sock, self.address(target)))

    def begin(self, target, sock=None):
        """Connect in another thread, and come back when that is under way and waits."""
        return _Pending(self, self.sock if sock is None else sock, self.address(target))

    def wait_until_sent(self, sock):
        """Wait for TCP's SYN to be out, or more; AF_UNIX has nothing to wait for."""
        end = time.monotonic() + LIMIT
        while self.host and time.monotonic() < end and self.tcp_state(sock) == TCP_CLOSE:
            time.sleep(0.001)

    @staticmethod
    def tcp_state(sock):
        """tcpi_state, a number of include/net/tcp_states.h."""
        return sock.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0]

    def so_error(self):
        """Write down SO_ERROR, which takes the error."""
        self.note("SO_ERROR", name(self.sock.getsockopt(SOL_SOCKET, SO_ERROR)))

    def poll(self):
        """Write down all that poll(2) says of the socket."""
        self.note("poll", hex(poll_mask(self.sock)))


class _Pending:
    """A connect in a thread of its own."""

    def __init__(self, stage, sock, address):
        self.stage, self.sock = stage, sock
        self.answer = None
        self.thread = threading.Thread(target=self._run, args=(address,))
        self.thread.start()
        stage.wait_until_sent(sock)
        stage.callback(self._rescue)
        wait_until_asleep(self.thread)

    def _run(self, address):
        try:
            self.answer = self.stage.way(self.sock, address)
        except BaseException as error:
            self.answer = repr(error)

    def finish(self, what="connect"):
        """Write down how it ended; or that it did not."""
        self.thread.join(LIMIT)
        self.stage.note(what, "pending" if self.thread.is_alive() else self.answer)

    def _rescue(self):
        # A signal gets it out of connect(2), and a disconnect out of a poll; a full AF_UNIX backlog
        # goes with its listener.
        end = time.monotonic() + 3 * LIMIT
        for server in self.stage.servers:
            server.close()
        while self.thread.is_alive():
            assert time.monotonic() < end, f"a {self.stage.kind} connect can't be stopped: {self.stage.record}"
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(self.thread.ident, signal.SIGUSR1)
            if self.sock.fileno() >= 0:
                syscalls.connect(self.sock.fileno(), UNSPEC)
            self.thread.join(0.01)


def wait_until_asleep(thread):
    """Wait until a thread is asleep in the kernel, and not because another has the interpreter; or is dead."""
    # One that waits for the interpreter looks again after each switch interval.
    pause = max(GRACE / 3, sys.getswitchinterval())
    # On AF_UNIX pyuring may do no more than pause and try again, and never sleep for long (E16).
    end = time.monotonic() + (LIMIT if os.path.exists("/proc/self/syscall") else 3)
    before, seen = None, 0
    while seen < 3 and thread.is_alive() and time.monotonic() < end:
        time.sleep(pause)
        now = _asleep(thread.native_id)
        seen = seen + 1 if now == before is not None else 0
        before = now


def _asleep(tid):
    """None: it is not asleep. Else what stays the same while it is, and waits for nothing of Python's."""
    task = Path(f"/proc/self/task/{tid}")
    try:
        if (task / "stat").read_text().rpartition(")")[2].split()[0] != "S":
            return None
        try:
            call = (task / "syscall").read_text().split()[0]
            return None if call in FUTEX else call
        except OSError:         # this kernel has no such file: how often it has gone to sleep
            return re.search(r"^voluntary_ctxt_switches:.*", (task / "status").read_text(), re.M)[0]
    except OSError:
        return None


def poll_mask(sock):
    poll = select.poll()
    poll.register(sock, ALL_POLL_BITS)
    return sum(mask for _, mask in poll.poll(0))


# -- what one may want to know of the socket afterwards -----------------------------------------------
def look(stage):
    """What changes nothing, and SO_ERROR last."""
    sock = stage.sock
    stage.poll()
    for what, get in (("getsockname", sock.getsockname), ("getpeername", sock.getpeername)):
        try:
            stage.note(what, in_general(get()))
        except OSError as error:
            stage.note(what, name(error.errno))
    stage.so_error()
    stage.note("blocking", os.get_blocking(sock.fileno()))


def in_general(address):
    """An address without what differs from socket to socket."""
    if isinstance(address, tuple):
        return f"{address[0]}:{'port' if address[1] else 0}"
    return "a path" if address else "none"


def listen(stage):
    """Can it still become a listener?"""
    stage.call("listen", stage.sock.listen)


def connect_again(stage):
    """connect(2) to somewhere else, where it is refused: twice, for the first may be special."""
    stage.sock.setblocking(True)
    # One that is still pending would otherwise be waited for without end.
    stage.sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", 2, 0))
    target = stage.bound()
    for _ in range(2):
        stage.connect2(target)


AFTERMATHS = (look, listen, connect_again)


# -- scenarios ----------------------------------------------------------------------------------------------
class Scenario(collections.namedtuple("Scenario", "name play kinds aftermaths slow rounds ways polled")):
    """A function of a Stage, and for which kinds of socket.

    aftermaths   what to look at afterwards; () where there is no socket to look at
    slow         it waits, for a retransmission mostly: it is played beside others
    rounds       how often to ask connect(2); more where it is known not to answer the same twice
    ways         by which ways
    polled       a way with a time limit may also answer as poll(2) and SO_ERROR do; "only": all must
    """

    def references(self, way):
        if self.polled == "only":
            return ["poll(2)"]
        return list(REFERENCES) if self.polled and "timeout" in way else ["connect(2)"]


SCENARIOS = {}


def scenario(*kinds, aftermaths=AFTERMATHS, slow=False, rounds=2, ways=tuple(WAYS), polled=False):
    """Make a scenario of a function, and keep it in SCENARIOS."""
    def keep(function):
        assert function.__name__ not in SCENARIOS, function.__name__
        SCENARIOS[function.__name__] = Scenario(
            function.__name__, function, kinds, aftermaths, slow, rounds, ways, polled)
        return function
    return keep


def play(scene, kind, way, aftermath):
    """Play a scenario once -> its record, a str; or the exception that ended it."""
    try:
        with Stage(kind, way) as stage:
            scene.play(stage)
            if aftermath is None:
                return ", ".join(stage.record)
            aftermath(stage)
            return f"{aftermath.__name__}: " + ", ".join(stage.record)
    except Exception as error:
        return error


class Matrix:
    """The cells, played when they are asked for, and once.

    want()   what connect(2) says, a set of records for each aftermath; asked more often where that
             differs from one round to another, or from what a way has got: a race that it can lose one
             time in fifty is a race
    got()    what a way says, one record for each
    Skip from both where the scenario can't be played here.
    """

    def __init__(self):
        self._records = {}

    def want(self, scene, kind, way, got=None):
        if why_no(kind):
            raise Skip(why_no(kind))
        wanted = []
        for index, aftermath in enumerate(scene.aftermaths or (None,)):
            wanted.append(self._said(scene, kind, way, aftermath, got and got[index]))
        return wanted

    def _said(self, scene, kind, way, aftermath, got):
        records, references = set(), []
        for reference in scene.references(way):
            says = functools.partial(self._play, scene, kind, reference, aftermath)
            said = set(map(says, range(scene.rounds)))
            if len(said) > 1:               # It does not even agree with itself.
                said.update(map(says, range(scene.rounds, scene.rounds + 6)))
            records |= said
            references.append(says)
        first, step = scene.rounds + 6, 16 if scene.slow else 1
        while got and got not in records and first < 64:        # Or it does not seem to.
            with ThreadPoolExecutor(step) as pool:
                for says in references:
                    records.update(pool.map(says, range(first, first + step)))
            first += step
        return records

    def got(self, scene, kind, way):
        why = why_no(kind) or way in OVER_THE_RING and why_no_ring()
        if why:
            raise Skip(why)
        return [self._play(scene, kind, way, aftermath) for aftermath in scene.aftermaths or (None,)]

    def _play(self, *key):
        if key not in self._records:
            scene, kind, way, aftermath, *_ = key
            self._records[key] = play(scene, kind, WAYS.get(way) or REFERENCES[way], aftermath)
        record = self._records[key]
        if isinstance(record, Exception):
            if isinstance(record, Skip) or key[2] in REFERENCES:
                raise record
            return f"ended by {record!r}"
        return record

    def play_all(self, cells):
        """Play these (scenario, kind, way): the slow ones many at the same time, the others in turn.

        In threads of their own, each of which keeps its ring: one that has closed a ring lately may
        find connect(2) interrupted by no signal at all where there is an SO_SNDTIMEO. That says EINTR
        then, while the kernel clears up (seen on 6.18).
        """
        slow, quick = {}, {}
        for scene, kind, way in cells:
            keys = slow if scene.slow else quick
            if not why_no(kind):
                for aftermath in scene.aftermaths or (None,):
                    if way not in OVER_THE_RING or not why_no_ring():
                        keys[scene, kind, way, aftermath] = None
                    keys.update(dict.fromkeys((scene, kind, reference, aftermath, n) for n in range(scene.rounds)
                                              for reference in scene.references(way)))

        def one(key):
            with contextlib.suppress(Exception):        # told to whoever asks for the cell
                self._play(*key)
        # Each thread that waits for the interpreter wakes up this often to ask for it, and by default
        # that is much of what a slow kernel then does (5.10.46, user-mode Linux).
        before = sys.getswitchinterval()
        sys.setswitchinterval(0.05)
        try:
            for threads, keys in ((96, slow), (1, quick)):
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(one, keys))
        finally:
            sys.setswitchinterval(before)


@contextlib.contextmanager
def signals_interrupt():
    """A SIGUSR1 ends a connect(2) with EINTR and does nothing else; for the main thread."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


# -- the command line ------------------------------------------------------------------------------------
def cells(words=()):
    """All (scenario, kind, way) whose scenario contains one of the words."""
    return [(scene, kind, way) for scene in SCENARIOS.values() for kind in scene.kinds
            for way in scene.ways if not words or any(word in scene.name for word in words)]


def main():
    parser = argparse.ArgumentParser(description="Compare pyuring with connect(2) on this kernel.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="scenarios whose name contains it")
    parser.add_argument("--json", metavar="FILE", help="write one JSON object there")
    parser.add_argument("-v", "--verbose", action="store_true", help="all cells, not only what differs")
    arguments = parser.parse_args()
    matrix = Matrix()
    rows, counts = [], {way: [0, 0, 0] for way in WAYS}
    with signals_interrupt():
        chosen = cells(arguments.words)
        matrix.play_all(chosen)
        for scene, kind, way in chosen:
            row = {"scenario": scene.name, "socket": kind, "way": way, "got": [], "want": [],
                   "differs": None, "why": ""}
            try:
                got = matrix.got(scene, kind, way)
                want = matrix.want(scene, kind, way, None if way == "native" else got)
                row.update(got=got, want=list(map(sorted, want)),
                           differs=any(record not in records for record, records in zip(got, want)))
            except Skip as skip:
                row["why"] = str(skip)
            rows.append(row)
            counts[way][2 if row["differs"] is None else row["differs"]] += 1
            if row["differs"] or arguments.verbose:
                show(row)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({
            "release": platform.release(), "python": platform.python_version(),
            "date": datetime.date.today().isoformat(), "cells": rows}))
    print(f"\n{'Linux ' + platform.release():<24}  same  differ  skipped")
    for way, (same, differ, skipped) in counts.items():
        print(f"{way:<24}  {same:4}  {differ:6}  {skipped:7}")
    return 1 if sum(counts[way][1] for way in WAYS if way != "native") else 0


def show(row):
    """Print a cell: all of its records, and beside those that differ what connect(2) said."""
    print(f"{row['scenario']}, {row['socket']}, {row['way']}"
          + (f": skipped, {row['why']}" if row["why"] else ""))
    for got, want in zip(row["got"], row["want"]):
        print(f"    {got}")
        if got not in want:
            print(*(f"      connect(2): {record}" for record in want), sep="\n")


if __name__ == "__main__":
    sys.modules["parity"] = sys.modules["__main__"]     # the scenarios import it by this name
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import scenarios, scenarios_elsewhere, scenarios_network, scenarios_other       # noqa: E401,F401
    sys.exit(main())
