"""many.py - connect_many(): thousands of connects at a time, and their outcomes as they come.

Three ways to have one connect under way, and all of them may be under way at once:

  chain   where nobody keeps the socket and the kernel has direct descriptors (5.19): four or five
          requests that the kernel does one after the other by itself. No Python object is made,
          no descriptor taken, and hundreds of chains go in with one system call
  job     a socket and a ConnectMachine, over the ring
  job     the same over plain system calls, where there is no io_uring

Some facts about chains
-----------------------
    SOCKET        into slot i of the ring's file table
    CONNECT       the file in slot i
    LINK_TIMEOUT  for the CONNECT, where there is a timeout
    SEND          nothing at all, on kernels where CONNECT may say 0 too early (E23)
    CLOSE         slot i

All but the last are hard-linked: each begins when the one before has ended, well or badly, so CLOSE
always runs. All but the last say nothing if all goes well (IOSQE_CQE_SKIP_SUCCESS, 5.17), so a
connect that succeeds is one completion, and one that is refused two. The completion of CLOSE is the
end of its chain, and frees the slot.

What the opcode gets wrong (machine.py) a chain can't put right, as its socket is gone by then. With
a fresh socket that leaves two things: E10, where ECONNRESET hides another error, and E23, where 0 is
none. Such an address is tried again, by a job.

Read client.py first; read next: eras.py.
"""
from __future__ import annotations

import errno
import itertools
import os
import socket
import sys
import time
from _thread import allocate_lock, get_ident
from collections import deque, namedtuple
from errno import EADDRNOTAVAIL, ECANCELED, ECONNREFUSED, ECONNRESET, ETIMEDOUT
from heapq import heappop, heappush
from socket import AF_INET, AF_INET6, SOCK_STREAM

from . import abi, client, errors, sockaddr, syscalls
from .abi import (
    IORING_ASYNC_CANCEL_ALL, IORING_ASYNC_CANCEL_ANY, IORING_FEAT_CQE_SKIP, IORING_OP_CLOSE,
    IORING_OP_CONNECT, IORING_OP_LINK_TIMEOUT, IORING_OP_SEND, IORING_OP_SOCKET,
    IORING_SQ_CQ_OVERFLOW, IOSQE_CQE_SKIP_SUCCESS, IOSQE_FIXED_FILE, IOSQE_IO_HARDLINK,
)
from .capabilities import probe
from .driver import BELL, Job, RingDriver, SyscallDriver
from .arguments import check_timeout, timespec
from .sockaddr import SockAddr

TYPE_CHECKING = False       # typing is not imported at run time: it would double the import's cost
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Outcome(namedtuple("Outcome", "address error elapsed sock")):
    """What came of one address of connect_many().

    address   as it was given
    error     None, or the OSError that connect() would have raised
    elapsed   seconds from when it was handed to the kernel, with the others of its batch, to when its
              end was seen here: later, if the source or you kept this thread busy meanwhile. More
              tries, and the pauses between them, are part of it, looking up a name is not; of a name
              that does not resolve it is the looking up
    sock      the connected socket, yours to close; None after an error, and without keep=True
    """

    __slots__ = ()
    address: object
    error: OSError | None
    elapsed: float
    sock: socket.socket | None

    @property
    def ok(self) -> bool:
        """True when it connected."""
        return self.error is None


_new = tuple.__new__        # an Outcome of its four values, in half the time


# -- chains -----------------------------------------------------------------------------------------
SOCKET, CONNECT, TIMEOUT, CHECK, CLOSE = range(5)   # a chain's user_data is slot * 8 + one of these
_JOBS_FROM = 1 << 32            # the jobs' user_data begin here
_SQE_SIZE = abi.SQE.size
_QUIET = IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS
_NAME_SIZE = 28                 # room for either
_INET, _INET6 = int(AF_INET), int(AF_INET6)
_NAME_SIZES = {_INET: 16, _INET6: 28}       # struct sockaddr_in, sockaddr_in6
_MOST_SLOTS = 1 << 20       # IORING_MAX_FIXED_FILES (io_uring/rsrc.c)
_CLOSE_PATIENCE = 2.0           # seconds that close() waits for what it cancelled


class _Chains(RingDriver):
    """A RingDriver that has chains under way as well as jobs.

    begin()   start one
    busy      how many are under way
    ended     for the caller to take: (task, position, res) where `position` is None after success,
              else whose request failed first, and `res` its negative errno
    """

    def __init__(self, ring, slots, timeout, check):
        super().__init__(ring)
        self._serial = _JOBS_FROM
        self.slots = slots
        self.busy = 0
        self.ended: list = []
        self._timespec = None if timeout is None else abi.TIMESPEC.pack(*timespec(timeout))
        self._check = check
        self._prepared: list[bytes] = []        # SQEs that are not in the ring yet
        self._most = ring.sq_entries // 5       # chains that have room in it
        self._free: list[int] = []              # slots that were used before
        self._unused = iter(range(slots))
        self._tasks: list = [None] * slots
        self._failures: list = [None] * slots   # (position, res) of the first that failed
        self._sqes: dict[int, list] = {_INET: [None] * slots, _INET6: [None] * slots}
        self._names = bytearray(slots * _NAME_SIZE)
        self._names_at, _, self._names_pin = syscalls.writable(self._names)

    def begin(self, task):
        """Start a chain for this task -> whether all that were begun went to the kernel, as the ring
        was full. There are at most `slots` of them."""
        family, raw, _ = task[2]
        slot = self._free.pop() if self._free else next(self._unused)
        at = slot * _NAME_SIZE
        self._names[at:at + len(raw)] = raw
        # Packed once: what differs from connect to connect is the name alone.
        sqes = self._sqes[family][slot]
        if sqes is None:
            sqes = self._sqes[family][slot] = self._pack(slot, family, len(raw))
        self._tasks[slot] = task
        self.busy += 1
        self._prepared.append(sqes)
        if len(self._prepared) < self._most:
            return False
        self._hand_over()
        self.ring.submit()
        return True

    def _hand_over(self):
        """What begin() has prepared, into the ring."""
        sqes, ring = b"".join(self._prepared), self.ring
        self._prepared.clear()
        if ring.sq_space_left * _SQE_SIZE < len(sqes):
            ring.submit()
        ring._push(sqes)

    def step(self, wait_nr=1, timeout=None):
        """As RingDriver's."""
        if self._prepared:
            self._hand_over()
        super().step(wait_nr, timeout)

    def _pack(self, slot, family, size):
        def sqe(position, opcode, flags, fd, *, off=0, addr=0, len=0, op_flags=0, file_index=0):
            return abi.SQE.pack(opcode, flags, 0, fd, off, addr, len, op_flags, slot << 3 | position,
                                0, 0, file_index, 0, 0)
        in_slot = _QUIET | IOSQE_FIXED_FILE
        rows = [sqe(SOCKET, IORING_OP_SOCKET, _QUIET, family, off=SOCK_STREAM, file_index=slot + 1),
                sqe(CONNECT, IORING_OP_CONNECT, in_slot, slot, off=size,
                    addr=self._names_at + slot * _NAME_SIZE)]
        if self._timespec is not None:
            rows.append(sqe(TIMEOUT, IORING_OP_LINK_TIMEOUT, _QUIET, -1,
                            addr=syscalls.address_of(self._timespec), len=1))
        if self._check:
            rows.append(sqe(CHECK, IORING_OP_SEND, in_slot, slot,
                            op_flags=socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))
        rows.append(sqe(CLOSE, IORING_OP_CLOSE, 0, 0, file_index=slot + 1))
        return b"".join(rows)

    def _completions(self):
        ring = self.ring
        taken = ring._take_raw()
        while ring._sq[ring._sq_flags] & IORING_SQ_CQ_OVERFLOW:
            ring.submit_and_get_events()
            taken += ring._take_raw()
        failures, tasks, of_jobs = self._failures, self._tasks, []
        for cqe in taken:
            user_data, res, _ = cqe
            if user_data >= _JOBS_FROM or user_data == BELL:
                of_jobs.append(cqe)
                continue
            slot, position = user_data >> 3, user_data & 7
            if position == CLOSE:
                failed = failures[slot]
                if failed is None:
                    self.ended.append((tasks[slot], None, 0))
                else:
                    self.ended.append((tasks[slot], *failed))
                    failures[slot] = None
                tasks[slot] = None
                self._free.append(slot)
                self.busy -= 1
            elif position != TIMEOUT and failures[slot] is None:
                failures[slot] = position, res
        if of_jobs:
            ring._account(of_jobs)
        return of_jobs

    def close(self):
        """Cancel the chains that are under way, and wait until their sockets are closed."""
        ring, deadline = self.ring, time.monotonic() + _CLOSE_PATIENCE
        ring._drop_unsubmitted()
        self._prepared.clear()
        while self.busy and time.monotonic() < deadline:
            self._serial = marker = self._serial + 1
            ring.prep_cancel(0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL, user_data=marker)
            found = []
            while not found and time.monotonic() < deadline:
                ring.submit_and_wait(1, max(0.0, deadline - time.monotonic()))
                found = [res for user_data, res, _ in self._completions() if user_data == marker]
            if found == [-errno.EALREADY]:
                time.sleep(0.001)           # a worker thread is still at it
            before = self.busy
            ring.submit_and_wait(1, 0.0)    # what follows a cancelled CONNECT in its chain
            self._completions()
            if found and found[0] <= 0 and self.busy == before:
                break                       # the others were never submitted


# -- names ------------------------------------------------------------------------------------------
_RESOLVERS = 16             # threads that may wait for the resolver at the same time


class _Names:
    """Looks names up in threads of its own, and rings a bell: a pipe that becomes readable.

    ask()      an address with a name in it
    answers()  (address, when it was asked, what _locate() returns of others, error) since the last call
    waiting    how many were asked for and not yet taken
    """

    def __init__(self):
        self.bell, self._rope = os.pipe()
        os.set_blocking(self.bell, False)
        os.set_blocking(self._rope, False)
        self.waiting = 0
        self._threads = 0
        self._asked: deque = deque()
        self._answered: deque = deque()
        self._lock = allocate_lock()        # for _threads, and the rope's end

    def ask(self, address):
        """Have it looked up."""
        from _thread import start_new_thread
        self.waiting += 1
        self._asked.append((address, time.monotonic()))
        with self._lock:
            start = self._threads < min(_RESOLVERS, self.waiting)
            self._threads += start
        if start:
            try:
                start_new_thread(self._work, ())
            except RuntimeError:            # no thread can be had
                with self._lock:
                    self._threads -= 1
                    alone = not self._threads
                if alone:
                    self._look_up(*self._asked.pop())

    def _work(self):
        while True:
            with self._lock:
                if self._rope < 0 or not self._asked:
                    self._threads -= 1
                    return
                task = self._asked.popleft()
            self._look_up(*task)

    def _look_up(self, address, asked):
        try:
            found, error = None, None
            host, port = address[:2]
            if isinstance(host, bytearray):
                host = bytes(host)          # which is what getaddrinfo() takes
            for family, _, _, _, target in reversed(socket.getaddrinfo(host, port, 0, SOCK_STREAM)):
                found = int(family), sockaddr.pack(family, target), found
        except UnicodeError as why:         # no name that could be asked for, so there is none
            error = socket.gaierror(socket.EAI_NONAME, f"the name has no IDNA form: {why}")
        except BaseException as why:        # whatever it is: run() waits for an answer
            error = why
        self._answered.append((address, asked, found, error))
        with self._lock:
            if self._rope >= 0:
                try:
                    os.write(self._rope, b"!")
                except BlockingIOError:     # it rings anyhow
                    pass

    def answers(self):
        """Take what has been answered."""
        try:
            os.read(self.bell, 4096)
        except BlockingIOError:
            pass
        while self._answered:
            self.waiting -= 1
            yield self._answered.popleft()

    def close(self, forked):
        """Whoever still waits for the resolver finds nobody to tell. A forked child has no such threads,
        and one of them may have held the lock."""
        if forked:
            self._lock = allocate_lock()
        with self._lock:
            rope, self._rope = self._rope, -1
        os.close(rope)
        os.close(self.bell)


# -- connect_many -----------------------------------------------------------------------------------
_SLOW = 0.001       # seconds that a source takes for an address. After that it is not known to be
                    # fast again, and nothing waits for its next address to be handed over together
_TRUST = 16         # addresses in no time, for which one more may wait to be handed over together
_MOMENT = 0.01              # seconds, until there may be a descriptor or memory again
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)      # connect(2) itself may say these
# Where no port is free, one will be: TIME_WAIT is over after 60 s (TCP_TIMEWAIT_LEN in net/tcp.h), on
# loopback after 1 s as good as (tcp_tw_reuse in ip-sysctl.rst).
_PORT_PAUSES = 0.05, 0.1, 0.2, 0.4, 0.8, 1.0
# A connect that ends in one of these has had a port (ECANCELED: in a chain whose time was over).
_WITH_PORT = (0, ECANCELED, ECONNREFUSED, ECONNRESET, ETIMEDOUT)
_PORT_PATIENCE = 65.0       # seconds without any port, after which there is none


_REFUSED = os.strerror(ECONNREFUSED)
_BATCH = 128                # connects that are worth a system call of their own, however fast they come


def connect_many(addresses: Iterable[object], *, timeout: float | None = None,
                 concurrency: int = 256, keep: bool = False,
                 strategy: str | None = None) -> Outcomes:
    """Connect to each address, up to `concurrency` of them at a time -> Outcomes as they come.

    addresses    any iterable, taken from only as fast as connects finish: (host, port), AF_UNIX
                 paths and names, SockAddr. Names are looked up in threads, meanwhile the others go
                 on; what one resolves to is tried in the resolver's order, one after the other
    concurrency  over 1,048,576, and over what RLIMIT_NOFILE allows, it is that
    timeout      seconds for each try; None for no limit. The resolver has its own limits
    keep         True: outcomes carry the connected socket, yours to close. False: closed at once,
                 and where the kernel has direct descriptors (5.19), never a Python object
    strategy     as for connect()

    Each address gives exactly one Outcome; one that could not be meant (port 99999) raises ValueError
    or TypeError instead, and ends the iteration. Where descriptors, ports or memory run short, it
    goes on with fewer at a time and tries again what could not be had: see Outcomes.held_back. No
    descriptor or memory is an outcome when nothing is under way that could give one back, no port
    (EADDRNOTAVAIL) when none was to be had for 65 seconds. Where it says that no local address goes
    with that destination, it is the outcome at once.
    Closing the iterator, and Ctrl-C, cancel what is under way. It is for one thread, the first to take
    from it, and does not cross a fork: elsewhere it raises ValueError, and may be dropped.

    An AF_UNIX connect to a full backlog waits in a worker thread of the kernel, one for each
    (unix_stream_connect() can't wait otherwise): with many of these a small `concurrency` is better.
    """
    check_timeout(timeout)
    client.check_strategy(strategy)
    if _is_one_address(addresses):
        raise TypeError(f"addresses {addresses!r} is one address: give a list of them")
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"concurrency {concurrency!r} is not a number from 1")
    return Outcomes(iter(addresses), timeout, concurrency, keep, strategy)


class Outcomes:
    """The iterator that connect_many() makes.

    held_back   {errno: how many times connects had to wait, as there was no port (EADDRNOTAVAIL),
                no descriptor (EMFILE, ENFILE) or no memory (ENOMEM, ENOBUFS)}
    """

    def __init__(self, addresses, timeout, concurrency, keep, strategy):
        self.held_back: dict[int, int] = {}
        self._many = _Many(addresses, timeout, concurrency, keep, strategy, self.held_back)
        self._generator = self._many.run()

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        self._many.check_owner()
        return next(self._generator)

    def close(self) -> None:
        """Cancel what is under way, and close all sockets, those of outcomes that nobody took too."""
        self._many.check_owner()
        self._generator.close()


_forks = 0                  # how many lie between this process and the first


def _count_fork():
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class _Many:
    """One connect_many() under way. What it knows of a connect is a task: (address, its batch or None,
    what _locate() returned, how often no port was free). A batch is a list of one number: when it
    went to the kernel."""

    def __init__(self, addresses, timeout, concurrency, keep, strategy, held_back):
        self._addresses = addresses
        self._timeout = timeout
        self._limit = concurrency
        self._keep = keep
        self._strategy = strategy
        self._held_back = held_back
        self._held: list = []               # a heap of (not before, its number, task, lack of room?)
        self._cramped = 0                   # of these, how many lack room
        self._roomless: list = []           # (task, errno), just now
        self._last_end = 0.0                # when a connect ended
        self._numbers = itertools.count()
        self._jobs: set[Job] = set()        # whose context is the task
        self._names: _Names | None = None
        self._more = True
        self._chains: _Chains | None = None
        self._doubts_reset = False          # E10: a chain's ECONNRESET may be another error
        self._dry_since: float | None = None        # when there was no port, and has been none since
        self._ready: deque[Outcome] = deque()
        self._quick = 0                     # addresses since the source last took its time
        self._batch: list[float] = [0.0]    # of what is begun next
        self._begun = 0                     # connects in it
        self._owner: int | None = None      # the thread that has begun this
        self._forks = _forks

    def check_owner(self):
        """ValueError in another process or thread than the one that has begun this."""
        if self._owner is not None:
            if self._forks != _forks:
                raise ValueError("this connect_many() belongs to the parent process: begin another one "
                                 "after fork()")
            if self._owner != get_ident():
                raise ValueError("this connect_many() belongs to another thread: take from it and close "
                                 "it there")

    def run(self):
        """The generator behind Outcomes."""
        self._owner, self._forks, ring = get_ident(), _forks, None
        self._driver = SyscallDriver()
        try:
            if self._strategy != "syscall":
                try:
                    ring = client.make_ring(max(8, min(4 * self._limit, 4096)))
                    self._driver = self._over(ring)
                except errors.RingUnavailable:
                    if self._strategy is not None:
                        raise
                    self._strategy = "syscall"
            while self._more or self._held or self._under_way():
                self._fill()
                if not self._ready:
                    self._wait()
                while self._ready:
                    yield self._ready.popleft()
        finally:
            self._close(ring)

    def _over(self, ring):
        """The driver for this ring: with chains, where the kernel can and nobody keeps the sockets."""
        if self._keep or not ring.features & IORING_FEAT_CQE_SKIP:
            return RingDriver(ring)
        slots = min(self._limit, _MOST_SLOTS)
        while slots:
            try:
                ring.register_files_sparse(slots)
                break
            except OSError as error:        # EMFILE: RLIMIT_NOFILE is a limit for them too
                if error.errno not in _NO_ROOM:
                    return RingDriver(ring)                 # before 5.19
                self._held_back[error.errno] = 1
                slots //= 2
        if not slots:
            return RingDriver(ring)
        met = () if self._strategy == "native" else probe().connect
        self._doubts_reset = met is None or "E10" in met
        self._limit = slots
        self._chains = _Chains(ring, slots, self._timeout, met is None or "E23" in met)
        return self._chains

    def _close(self, ring):
        # Also where it is dropped: in a forked child, whose ring is gone and who has copies of the
        # descriptors only; and in another thread, which may close a ring and not cancel over it.
        forked = self._forks != _forks
        try:
            if self._chains is not None and not forked and self._owner == get_ident():
                self._chains.close()
        finally:
            try:
                if ring is not None and not forked:
                    ring.close()
            finally:
                for job in self._jobs:
                    job.sock.close()
                for outcome in self._ready:         # made, and nobody has come for it
                    if outcome.sock is not None:
                        outcome.sock.close()
                if self._names is not None:
                    self._names.close(forked)

    def _under_way(self):
        return (len(self._jobs) + (self._chains.busy if self._chains else 0)
                + (self._names.waiting if self._names else 0))

    # -- beginning -------------------------------------------------------------------------------
    def _fill(self):
        """Begin as many as may be under way, unless an outcome is there first."""
        driver, addresses, limit, monotonic = self._driver, self._addresses, self._limit, time.monotonic
        asked = monotonic()
        while self._held and self._held[0][0] <= asked:
            _, _, task, cramped = heappop(self._held)
            self._cramped -= cramped
            if task[2] is None:
                self._ask(task[0])
            else:
                self._start(*task)
        # What is held back counts, so that memory stays bounded. Where it is for a port, another
        # destination may have one; lack of room concerns all.
        chains, jobs, held = self._chains, self._jobs, self._held
        while self._more and not self._cramped and not self._ready and not driver.finished \
                and (chains.busy if chains else 0) + len(jobs) + len(held) < limit \
                and (not self._names or self._under_way() + len(held) < limit):
            try:
                address = next(addresses)
            except StopIteration:
                self._more = False
                break
            taken = monotonic()
            self._quick = self._quick + 1 if taken - asked < _SLOW else 0
            asked = taken
            found = _locate(address)
            if found is not None:
                self._start(address, None, found, 0)
            else:
                self._ask(address)
            # The next address may be long in coming. So what is there goes to the kernel first, unless
            # so many came fast that a few can wait for each other.
            if self._begun >= _BATCH or self._begun > self._quick // _TRUST:
                self._sweep()
                asked = monotonic()

    def _ask(self, address):
        if self._names is None:
            try:
                self._names = _Names()
            except OSError as error:
                self._no_room([((address, None, None, 0), error.errno)])
                return
            self._driver.bell = self._names.bell
        self._names.ask(address)

    def _start(self, address, batch, found, tries, chain=True):
        family, raw, _ = found
        chains = self._chains
        self._begun += 1
        if batch is None:
            batch = self._batch
        task = address, batch, found, tries
        if chains and chain and len(raw) == _NAME_SIZES.get(family):
            sys.audit("socket.connect", None, address)
            if chains.begin(task):
                self._handed_over()
            return
        try:
            sock = socket.socket(family, SOCK_STREAM)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._no_room([(task, error.errno)])
            else:
                self._ready.append(Outcome(address, _error(error.errno, address), self._elapsed(batch), None))
            return
        try:
            sock.settimeout(0.0 if self._strategy == "syscall" else None)
            sys.audit("socket.connect", sock, address)
            job = Job(sock, SockAddr(raw), client.start_event(sock, self._strategy, True),
                      self._timeout, context=task)
            self._jobs.add(job)
        except BaseException:
            sock.close()
            raise
        if self._strategy == "syscall":         # this connects already
            self._batch[0], self._batch = time.monotonic(), [0.0]
        self._driver.start(job)

    def _handed_over(self):
        """The time of what was begun since the last call runs from now."""
        self._batch[0] = time.monotonic()
        self._batch, self._begun = [0.0], 0

    @staticmethod
    def _elapsed(batch):
        return time.monotonic() - batch[0] if batch and batch[0] else 0.0

    def _no_room(self, tasks):
        """There was no descriptor or no memory for these. When something else ends there may be."""
        worth_waiting = self._under_way() or self._ready
        for task, code in tasks:
            if worth_waiting:
                self._crowd_out(task, code)
            else:
                self._ready.append(Outcome(task[0], _error(code, task[0]), self._elapsed(task[1]), None))

    def _crowd_out(self, task, code):
        self._hold(task, code, _MOMENT, True)
        self._cramped += 1

    def _hold(self, task, code, pause, cramped=False):
        self._held_back[code] = self._held_back.get(code, 0) + 1
        self._put_off(task, time.monotonic() + pause, cramped)

    def _put_off(self, task, until, cramped=False):
        heappush(self._held, (until, next(self._numbers), task, cramped))

    # -- ending ----------------------------------------------------------------------------------
    def _wait(self):
        """Until something has ended, or what was held back may be tried again."""
        pause = self._held[0][0] - time.monotonic() if self._held else None
        if self._chains and self._chains.busy > _BATCH:
            self._sweep()
            if self._ready:
                return
        if self._under_way():
            self._step(1, None if pause is None else max(0.0, pause))
        elif pause is not None:
            time.sleep(max(0.0, pause))

    def _sweep(self):
        """All that can end without waiting. The kernel goes on with as many requests as it is asked to
        wait for, and with 20 otherwise (IO_LOCAL_TW_DEFAULT_MAX in io_uring/io_uring.c), which would be
        a system call for every eight chains."""
        chains, wait_nr = self._chains, 0
        if chains:                          # one that is refused or late has two to four completions
            wait_nr = min(chains.ring.cq_entries, 4 * chains.busy)
        self._step(wait_nr, 0.0)

    def _step(self, wait_nr, timeout=None):
        driver, chains = self._driver, self._chains
        if driver.finished or chains and chains.ended:
            wait_nr, timeout = 0, 0.0       # these are enough
        if wait_nr or self._begun or not driver.finished:
            self._handed_over()
            driver.step(wait_nr, timeout)
        now = time.monotonic()
        finished, driver.finished = driver.finished, []
        if finished or chains and chains.ended:
            self._last_end = now
        for job in finished:
            self._jobs.remove(job)
            if not job.machine.error and not job.machine.timed_out:
                self._ready.append(self._outcome(job, now))
                continue
            job.sock.close()
            if job.machine.error in _NO_MEMORY:
                self._roomless.append((job.context, job.machine.error))
            elif not self._again(job.context, job.machine.error):
                self._ready.append(Outcome(job.context[0], client.error_of(job, job.context[0], self._timeout),
                                           now - job.context[1][0], None))
        if chains and chains.ended:
            ended, chains.ended = chains.ended, []
            for task, position, res in ended:
                if position is None:
                    self._dry_since = None
                    self._ready.append(_new(Outcome, (task[0], None, now - task[1][0], None)))
                else:
                    self._failed(task, position, -res, now)
        if self._names:
            for address, asked, found, error in self._names.answers():
                if error is None:
                    self._start(address, None, found, 0)
                elif not isinstance(error, OSError):
                    raise error
                elif error.errno in _NO_ROOM or error.errno == socket.EAI_MEMORY:
                    task, code = (address, None, None, 0), max(error.errno, 0) or errno.ENOMEM
                    if asked <= self._last_end:     # what ended meanwhile may have made room
                        self._crowd_out(task, code)
                    else:
                        self._roomless.append((task, code))
                else:
                    self._ready.append(Outcome(address, _for_what(error, address), now - asked, None))
        if self._roomless:
            roomless, self._roomless = self._roomless, []
            self._no_room(roomless)

    def _failed(self, task, position, code, now):
        """A chain did not connect."""
        address, batch, found, _ = task
        if code == ECONNREFUSED and position == CONNECT and not found[2]:       # the most frequent by far
            self._dry_since = None
            return self._ready.append(_new(Outcome, (address, _refused(address), now - batch[0], None)))
        if position == CHECK or code == ECONNRESET and position == CONNECT and self._doubts_reset:
            return self._start(*task, chain=False)      # E23, E10
        if code in (_NO_ROOM if position == SOCKET else _NO_MEMORY):
            return self._roomless.append((task, code))
        if position == CONNECT and self._again(task, code):
            return None
        if code == ECANCELED and self._timeout is not None:
            error = errors.timed_out(f"connect to {sockaddr.format_address(address)}", self._timeout)
        else:
            error = _error(code, address)
        return self._ready.append(_new(Outcome, (address, error, now - batch[0], None)))

    def _again(self, task, code):
        """Whether this error is not the outcome: no free port now, or a name's next address."""
        address, batch, found, tries = task
        if code == EADDRNOTAVAIL:
            if self._may_get_port(found):
                pause = _PORT_PAUSES[min(tries, len(_PORT_PAUSES) - 1)]
                self._hold((address, batch, found, tries + 1), code, pause)
                return True
        elif found[0] in _NAME_SIZES and code in _WITH_PORT:
            self._dry_since = None
        if found[2]:
            self._put_off((address, batch, found[2], 0), 0.0)
        return bool(found[2])

    def _may_get_port(self, found):
        """Whether it is a port that was not available, and one may be in a while."""
        if found[0] not in _NAME_SIZES or not _has_local_address(*found[:2]):
            return False
        now = time.monotonic()
        if self._dry_since is None:
            self._dry_since = now
        return now - self._dry_since < _PORT_PATIENCE

    def _outcome(self, job, now):
        (address, batch, (family, _, _), _), sock = job.context, job.sock
        if family in _NAME_SIZES:
            self._dry_since = None
        if self._keep:
            sock.settimeout(socket.getdefaulttimeout())
        else:
            sock.close()
            sock = None
        return Outcome(address, None, now - batch[0], sock)


def _error(code, address):
    return errors.os_error(code, f"connect to {sockaddr.format_address(address)}")


def _refused(address):
    """_error(ECONNREFUSED, address), quickly for what is most frequent: (host, port), printable."""
    if type(address) is tuple and len(address) == 2:
        host, port = address
        if type(host) is str and type(port) is int and host.isprintable() and ":" not in host:
            return ConnectionRefusedError(ECONNREFUSED, f"connect to {host}:{port}: {_REFUSED}")
    return _error(ECONNREFUSED, address)


def _for_what(error, address):
    return client.for_what(error, f"connect to {sockaddr.format_address(address)}")


def _has_local_address(family, raw):
    """Whether a socket can be connected to this address at all, but for a port.

    For a socket without a port EADDRNOTAVAIL is either: no local address goes with that destination,
    or no port is free. A UDP socket has other ports, and where none of these is free that is EAGAIN
    (inet_dgram_connect() in net/ipv4/af_inet.c). Its connect(2) sends nothing.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            return syscalls.connect(sock.fileno(), raw) != -EADDRNOTAVAIL
    except OSError:             # no descriptor is left: ask again the next time
        return True


def _is_one_address(addresses):
    """Whether somebody forgot to make a list of it."""
    return isinstance(addresses, (str, bytes, bytearray, os.PathLike, SockAddr)) or (
        isinstance(addresses, tuple) and 2 <= len(addresses) <= 4 and isinstance(addresses[1], int))


def _locate(address):
    """(family, packed sockaddr, what to try after it), or None where a name has to be looked up."""
    if type(address) is tuple and len(address) == 2 and type(address[0]) is str and ":" not in address[0]:
        try:                    # what is most frequent by far
            return _INET, sockaddr.pack_inet(*address), None
        except ValueError:
            return _check_name(*address[:2])
    family = sockaddr.guess_family(address)
    if family in (_INET, _INET6) and not isinstance(address, SockAddr):
        try:
            return family, sockaddr.pack(family, address, resolve=False), None
        except ValueError:
            return _check_name(*address[:2])
    return family, sockaddr.pack(family, address), None


def _check_name(host, port):
    """A name, which only the resolver can tell more of -> None. ValueError for what is none."""
    sockaddr.check_port(port)
    if ("\0" if isinstance(host, str) else b"\0") in host:      # getaddrinfo() looks up what is before it
        raise ValueError(f"host {host!r} has a NUL byte in it; give a name or a numeric address")
