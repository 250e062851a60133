"""driver.py - the I/O half of a ConnectMachine: carries its actions out, feeds back what it saw.

Two drivers, one interface. RingDriver works over a Ring, SyscallDriver with connect(2) and poll(2)
where there is no io_uring. Either keeps any number of connects under way at once:

    driver.start(job)           do the job's first action
    driver.step(wait_nr)        wait for something to happen, do what follows from it; `timeout`:
                                seconds at most
    driver.finished             jobs whose machine is done, for the caller to take

Read machine.py first: it decides, this file acts. Read next: client.py, which makes the jobs.
"""
from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import sys
import time
from errno import (
    EAFNOSUPPORT, EAGAIN, EALREADY, EBADF, ECANCELED, EINPROGRESS, EINTR, EINVAL, ETIME,
)
from heapq import heapify, heappop, heappush
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from socket import AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, SO_ERROR, SO_SNDTIMEO, SOL_SOCKET, TCP_INFO

from . import machine as m
from . import syscalls
from .abi import IORING_FEAT_NATIVE_WORKERS, IOSQE_IO_LINK
from .ring import Ring
from .sockaddr import UNSPEC, SockAddr

IPPROTO_MPTCP = 262         # linux/in.h; socket.IPPROTO_MPTCP is Python 3.10
_TCP_SYN_SENT, _TCP_CLOSE = 2, 7        # include/net/tcp_states.h
_TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h, Linux 4.11
# The start of struct tcp_info (linux/tcp.h): tcpi_state, and tcpi_segs_out (Linux 4.2) 136 bytes on.
_TCP_INFO = struct.Struct("=B135xI")
_KNOWN = (AF_INET, AF_INET6, AF_UNIX)
# A full AF_UNIX backlog is tried again after these seconds, doubling from the first to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
_LONGEST_POLL_MS = 2**31 - 1    # poll(2) takes an int


class Job:
    """One connect: the socket, the packed address, the machine, and the time it has.

    sock      socket.socket that stays open until the job is finished
    address   SockAddr
    start     one of machine.STARTS
    timeout   seconds from now, or None
    waits     the driver may block in connect(2) for this job, because it is the only one
    context   whatever the caller wants to find again
    """

    target = 0                      # user_data of the request that counts
    result = 0                      # its `res`
    owed = 0                        # CQEs still to come for the action under way
    pauses = False                  # a poll would not wait
    joined = False                  # the handshake was under way before a connect(2) that waits
    pause = _FIRST_PAUSE
    _socket_deadline: float | None = -1.0       # SO_SNDTIMEO's: not looked at yet

    def __init__(self, sock: socket.socket, address: SockAddr, start: str,
                 timeout: float | None = None, *, waits: bool = False,
                 context: object = None) -> None:
        self.sock = sock
        self.address = address
        self.start = start
        self.began_closed = start == m.START_FRESH      # no handshake was under way before
        self.machine = m.ConnectMachine()
        self.timeout = timeout
        self.waits = waits
        self.context = context
        self.deadline = None if timeout is None else time.monotonic() + timeout

    @property
    def fd(self) -> int:
        """The socket's; -1 once it is closed, when somebody else may have the number already."""
        return self.sock.fileno()

    def begin(self) -> None:
        """The time that the caller gave runs from now."""
        if self.timeout is not None:
            self.deadline = time.monotonic() + self.timeout

    def limit(self) -> float | None:
        """When waiting ends, in monotonic seconds: by the caller's timeout or by SO_SNDTIMEO."""
        if self._socket_deadline == -1.0:
            self._socket_deadline = None
            # Where it is set not to block, connect(2) would not look at it.
            if self.fd >= 0 and os.get_blocking(self.fd):
                # struct timeval: two 64-bit numbers, or two of 32 where time_t still has so many.
                try:
                    timeval = self.sock.getsockopt(SOL_SOCKET, SO_SNDTIMEO, 16)
                except OSError:         # CPython has none for AF_VSOCK, which ignores it anyway
                    timeval = bytes(16)
                seconds, microseconds = struct.unpack("=qq" if len(timeval) == 16 else "=ii", timeval)
                if seconds or microseconds:
                    self._socket_deadline = time.monotonic() + seconds + microseconds / 1e6
        limits = [end for end in (self.deadline, self._socket_deadline) if end is not None]
        return min(limits, default=None)

    def ran_out(self) -> str:
        """The event for the limit that was reached."""
        return m.EXPIRED if self.limit() == self.deadline else m.SNDTIMEO

    def next_pause(self) -> float:
        """Seconds to sleep before another try: longer each time, and never past the limit."""
        pause, self.pause = self.pause, min(2 * self.pause, _LONGEST_PAUSE)
        limit = self.limit()
        return pause if limit is None else max(0.0, min(pause, limit - time.monotonic()))

    def slept(self) -> str:
        """The event for a pause that is over. One instead of a poll has seen no hang-up, or missed it."""
        limit = self.limit()
        if limit is not None and time.monotonic() >= limit:
            return self.ran_out()
        return m.HANGUP if self.machine.state == m.WAITING else m.READY


class _Driver:
    """What the two have in common: the actions that never wait, as plain system calls."""

    _METHODS = {
        m.ATTEMPT: "_attempt", m.CALL: "_call", m.CONNECT: "_connect", m.WAIT: "_wait",
        m.SLEEP: "_sleep", m.LOOK: "_look", m.CHECK: "_check", m.INSPECT: "_inspect",
        m.FETCH: "_fetch", m.SCRUB: "_scrub",
    }

    #: An fd that ends a step() when it is readable, for whom other threads are to wake; or None.
    bell: int | None = None

    def __init__(self) -> None:
        self.finished: list[Job] = []

    def start(self, job: Job) -> None:
        """Begin a job: do its first action, and all that follow without a wait."""
        self._go_on(job, job.start)

    def _go_on(self, job, event, code=0):
        """Feed an event, do the action that it leads to, and so on until one has to be waited for."""
        while event is not None:
            action = job.machine.feed(event, code)
            if action == m.FINISH:
                self.finished.append(job)
                return
            event, code = getattr(self, self._METHODS[action])(job)

    @staticmethod
    def _answer(job, code, waited=None):
        """An errno as an event.

        EAGAIN is worth another try where it tells of a full AF_UNIX backlog, for which connect did
        not wait. Elsewhere it says that there is no free port (ip(7)), and that stands.
        """
        event = m.EVENT_OF.get(code, m.ERROR)
        if event == m.AGAIN:
            if waited is None:
                waited = job.fd >= 0 and os.get_blocking(job.fd)
            if waited or job.sock.family != AF_UNIX:
                event = m.ERROR
        return event, code

    def _call(self, job):
        return self._answer(job, -syscalls.connect(job.fd, job.address.raw))

    def _scrub(self, job):
        return self._answer(job, -syscalls.connect(job.fd, UNSPEC))

    def _block(self, job, raw):
        """Wait in connect(2), as only the driver of a single job may."""
        job.limit()             # SO_SNDTIMEO, in case a signal ends this before it does
        # After EINTR nothing tells any more whether this call began the handshake.
        if job.machine.state == m.CALLING:
            job.joined = _tcp_info(job.sock)[0] == _TCP_SYN_SENT
        code = -syscalls.connect(job.fd, raw)
        # With one of these it has waited for SO_SNDTIMEO; with EINTR only for a part of it, and
        # another such call would wait for all of it again.
        if code in (EINPROGRESS, EALREADY, EAGAIN):
            return m.SNDTIMEO, code
        job.waits = code != EINTR
        if code == EINTR and job.joined:
            return m.ALREADY, EALREADY
        return self._answer(job, code, False)

    def _join(self, job):
        """Wait in connect(2) for the handshake that is under way, and begin none.

        While there is one the kernel looks at no address (__inet_stream_connect). So this is given
        one of the wrong family, with the port of the right one for security modules to look at:
        should somebody have disconnected the socket since (E9), that begins no other handshake.
        """
        family = AF_INET6 if job.sock.family == AF_INET else AF_INET
        wrong = family.to_bytes(2, sys.byteorder) + job.address.raw[2:4] + bytes(24)
        event, code = self._block(job, wrong)
        if code in (EAFNOSUPPORT, EINVAL):      # EINVAL: a security module minds; poll will tell
            job.waits = False
            return m.HANGUP, 0
        return event, code

    def _connect2(self, job):
        """connect(2), which waits only where this job is the only one."""
        if job.fd < 0:                      # closed by another thread
            return m.ERROR, EBADF
        if not os.get_blocking(job.fd):
            code = -syscalls.connect(job.fd, job.address.raw)
        elif job.waits and job.deadline is None:
            return self._block(job, job.address.raw)        # the real thing
        else:
            try:
                try:
                    os.set_blocking(job.fd, False)      # as settimeout() does, only not for long
                    code = -syscalls.connect(job.fd, job.address.raw)
                finally:
                    os.set_blocking(job.fd, True)
            except BaseException:       # a Ctrl-C can land inside that `finally`, too
                os.set_blocking(job.fd, True)
                raise
        return self._answer(job, code, False)

    def _fetch(self, job):
        return self._answer(job, job.sock.getsockopt(SOL_SOCKET, SO_ERROR))

    def _look(self, job):
        # After a handshake that failed, and which no connect has cleaned up after, poll(2) shows
        # both directions shut. So it does for a socket that was shut down before it ever connected,
        # but that one has sent nothing.
        state, segs_out = _tcp_info(job.sock)
        job.began_closed = state == _TCP_CLOSE
        if job.sock.proto == IPPROTO_MPTCP and _poll_now(job.fd, 0) & POLLERR:
            return m.STALE, 0
        dirty = job.began_closed and segs_out and _may_be_dirty(job)
        return (m.DIRTY if dirty else m.CLEAN), 0

    def _check(self, job):
        # A socket of our own making is closed after a failure: nobody will see how it was left.
        if job.start == m.START_FRESH or not _may_be_dirty(job):
            return m.CLEAN, 0
        # Only a handshake leaves a socket so. What began none (ENETUNREACH, said at once) has changed
        # nothing, and disconnecting would undo a shutdown(2) from before. State 0: nothing is known.
        state, segs_out = _tcp_info(job.sock)
        return (m.DIRTY if not state or state == _TCP_CLOSE and segs_out else m.CLEAN), 0

    def _inspect(self, job):
        # Disconnecting sets the counters back (tcp_disconnect() in net/ipv4/tcp.c); a handshake
        # that failed has sent at least its SYN.
        state, segs_out = _tcp_info(job.sock)
        gone = state == _TCP_CLOSE and not segs_out
        return (m.DISCONNECTED if gone else m.INTACT), 0


def _woken(job, mask):
    # After a POLLERR that was none (E23) every further poll would come back at once.
    job.pauses = bool(mask & POLLERR)
    # A shutdown can wake the poll of an MPTCP socket before there is a POLLHUP to see (6.18).
    hangup = mask & (POLLERR | POLLHUP) or job.sock.proto == IPPROTO_MPTCP
    return m.HANGUP if hangup else m.READY


def _may_be_dirty(job):
    # MPTCP's poll does not show it (measured on 6.12 and later). There the remedy does no harm.
    return job.sock.proto == IPPROTO_MPTCP or _half_ended(job.fd)


def _half_ended(fd):
    # POLLERR says nothing: it may be an error that nobody took, or the error queue (E23).
    mask = _poll_now(fd, POLLRDHUP)
    return mask & POLLHUP and mask & POLLRDHUP


def _poll_now(fd, events):
    """What poll(2) says at this moment; POLLERR and POLLHUP always count."""
    poll = select.poll()
    poll.register(fd, events)
    return sum(mask for _, mask in poll.poll(0))


def _tcp_info(sock):
    """(state, segments sent) of a TCP socket; (0, 0) where the socket has no TCP_INFO."""
    try:
        info = sock.getsockopt(IPPROTO_TCP, TCP_INFO, _TCP_INFO.size)
    except OSError:
        return 0, 0
    if len(info) < _TCP_INFO.size:
        # Before Linux 4.2, and in sandboxes: the counter is not there.
        return (info[0], 1) if info else (0, 0)
    return _TCP_INFO.unpack(info)


BELL = 0           # user_data of the poll for the bell; the jobs' requests begin at 1
_LATER = None, 0            # what a method answers when the event comes from step()


class RingDriver(_Driver):
    """Connects over a Ring that it has for itself.

    Every request has a fresh number for its user_data, and an entry in a table that says whose it
    is. A job goes on when all CQEs of its action have come: the kernel may post the timeout's or
    the cancellation's first, but only the request itself names the outcome.
    """

    _settles = False        # seen once in this process: after success connect(2) says EISCONN

    def __init__(self, ring: Ring) -> None:
        super().__init__()
        self.ring = ring
        self._requests: dict[int, Job] = {}     # user_data -> whose it is
        self._serial = 0
        self._attempts: dict[int, Job] = {}     # of these, the attempts that are not yet submitted
        self._bell_is_watched = False

    def step(self, wait_nr: int = 1, timeout: float | None = None) -> None:
        """Submit what was prepared, wait for CQEs, and go on with the jobs that are answered."""
        if self.bell is not None and not self._bell_is_watched:
            self.ring.prep_poll_add(self.bell, POLLIN, user_data=BELL)
            self._bell_is_watched = True
        if self._attempts:
            # An attempt must not wait. The kernel tries each connect as it takes it in; what has
            # not been answered by the end of the submission would wait, and is taken back.
            attempts, self._attempts = self._attempts, {}
            self.ring.submit_and_get_events()
            self._reap()
            for target, job in attempts.items():
                # Not job.target: a job that was answered may be waiting for something else by now.
                if target in self._requests:
                    self.ring.prep_cancel(target, user_data=self._request(job))
                    if job.machine.state == m.TRYING:
                        job.begin()     # before, it may have waited for others to be prepared
        else:
            # With 0 all the same for one, but for no time: the kernel then goes on with a chain.
            self.ring.submit_and_wait(wait_nr or 1, timeout if wait_nr else 0.0)
            self._reap()

    def _completions(self):
        """The CQEs of the jobs' requests that are ready."""
        return self.ring.reap()

    def _reap(self):
        requests, missed = self._requests, []
        for user_data, res, _ in self._completions():
            if user_data == BELL:
                self._bell_is_watched = False
                continue
            job = requests.pop(user_data)
            if user_data == job.target:
                job.result = res
            elif res and res != -ECANCELED:
                missed.append((job, job.target, res))
            job.owed -= 1
            if not job.owed:
                self._go_on(job, *self._heard(job))
        for job, target, res in missed:
            # A time limit or a cancel has answered, and what it was for has not. It may be on its
            # way between poll and a worker thread just now, where nobody finds it (-ENOENT), and
            # then wait for ever: seen with AF_UNIX on 6.1.176. So once more, a moment later.
            if target in requests:
                if res == -ETIME:
                    self.ring.prep_cancel(target, user_data=self._request(job))
                else:
                    self.ring.prep_timeout(_FIRST_PAUSE, user_data=self._request(job))

    def _call(self, job):
        if job.machine.state == m.CONFIRMING and _tcp_info(job.sock)[0] == _TCP_SYN_SENT:
            return m.PENDING, 0         # fast open: the SYN goes with the first send; don't wait
        event, code = super()._call(job)
        if event == m.ISCONN and job.machine.state == m.CONFIRMING and not RingDriver._settles:
            # The opcode had completed the handshake, as it should (no E8), so no later success
            # needs confirming. That proves nothing where the opcode found it complete: if it was
            # under way before, with fast open, and where no packet went (TCP_REPAIR).
            if (job.began_closed and job.sock.proto != IPPROTO_MPTCP and _tcp_info(job.sock)[1]
                    and not job.sock.getsockopt(IPPROTO_TCP, _TCP_FASTOPEN_CONNECT)):
                RingDriver._settles = True
        return event, code

    def _heard(self, job):
        """The event that a finished request means, and its errno."""
        res, state = job.result, job.machine.state
        if not res and state == m.TRYING:
            return self._tried(job)
        if res == -EALREADY and state == m.TRYING and job.began_closed:
            # Era A, with a POLLERR that is none (E23): it tried once more, and met its own handshake.
            return m.PENDING, EINPROGRESS
        if not res and state == m.RETRYING and self._tried(job)[0] == m.PENDING:
            return m.PENDING, 0
        if state == m.WAITING:
            if res == -ETIME:           # of the pause that was made instead of a poll
                return job.slept(), 0
            if res == -ECANCELED:
                return job.ran_out(), 0
            # Where poll itself failed, the next attempt will say why.
            return _woken(job, res if res > 0 else 0), 0
        if state == m.BACKING_OFF:
            return job.slept(), 0
        if state in (m.CONNECTING, m.NATIVE) and job.deadline is not None and res in (
                -ECANCELED, -EINTR):        # EINTR: it was waiting in a worker thread
            if time.monotonic() >= job.deadline:
                return m.EXPIRED, 0
            if state == m.CONNECTING:
                # Seen on 5.10.46, for a request that was refused outright at the head of its chain.
                return self._connect2(job)
        return self._answer(job, -res)

    @staticmethod
    def _tried(job):
        """The event that a first attempt's 0 means."""
        poll = select.poll()
        poll.register(job.fd, POLLOUT)
        if poll.poll(0) == [(job.fd, POLLOUT)]:
            return (m.SETTLED if RingDriver._settles else m.CONNECTED), 0
        if not job.address.family:              # AF_UNSPEC: it has been disconnected, as asked
            return m.SETTLED, 0
        # E23: an ICMP error may end up in the socket's error queue only, with or without IP_RECVERR
        # (tcp_v4_err() in net/ipv4/tcp_ipv4.c, read in 6.1.176). That is a POLLERR, and SO_ERROR is
        # 0; so the opcode says 0, whatever has become of the handshake, and settles nothing.
        over = _tcp_info(job.sock)[0] not in (_TCP_SYN_SENT, _TCP_CLOSE)
        return (m.CONNECTED if over else m.PENDING), 0

    def _request(self, job):
        """A fresh user_data, written down before there is a request that bears it."""
        self._serial = serial = self._serial + 1
        self._requests[serial] = job
        job.owed += 1
        return serial

    def _attempt(self, job):
        # connect(2) without blocking, and without touching O_NONBLOCK, which others who use the
        # socket would notice: step() cancels it when the kernel does not answer at once. Then it
        # says ECANCELED (EINTR from era 0's worker: E2, measured on 5.6.4), while the handshake
        # goes on.
        if job.sock.family not in _KNOWN or job.machine.state == m.CALLING:
            return self._connect2(job)
        job.target = self._request(job)
        self.ring.prep_connect(job.fd, job.address, user_data=job.target)
        if job.sock.proto == IPPROTO_MPTCP:
            # Here the kernel begins again by itself when another thread shuts the socket down
            # between its first try and our step() (1 % of such shutdowns on 6.18). Cancelled in
            # the same submission it can't; for TCP, where it does not, that would cost 1.5 us.
            self.ring.prep_cancel(job.target, user_data=self._request(job))
        else:
            self._attempts[job.target] = job
        return _LATER

    def _connect(self, job):
        if job.machine.state != m.NATIVE:       # the opcode's own answer is asked for, right or wrong
            if job.sock.family == AF_UNIX and job.address.raw[2:3] not in (b"", b"\0"):
                if not self.ring.features & IORING_FEAT_NATIVE_WORKERS:
                    return self._connect2(job)      # E17: a worker has another directory than we
            if job.sock.family not in _KNOWN:
                return self._connect2(job)          # what the opcode makes of it nobody has measured
        if job.deadline is not None:
            self._room_for_two()
        job.target = self._request(job)
        self.ring.prep_connect(job.fd, job.address, user_data=job.target,
                               sqe_flags=IOSQE_IO_LINK if job.deadline is not None else 0)
        return self._no_longer_than(job, job.deadline)

    def _wait(self, job):
        if job.waits and job.deadline is None and os.get_blocking(job.fd):
            return self._join(job)
        if job.pauses:
            return self._sleep(job)
        limit = job.limit()
        if limit is not None:
            self._room_for_two()
        job.target = self._request(job)
        self.ring.prep_poll_add(job.fd, POLLOUT, user_data=job.target,
                                sqe_flags=IOSQE_IO_LINK if limit is not None else 0)
        return self._no_longer_than(job, limit)

    def _room_for_two(self):
        # A request and its time limit are a chain, which has to be submitted in one piece.
        if self.ring.sq_space_left < 2:
            self.ring.submit()

    def _no_longer_than(self, job, limit):
        if limit is not None:
            self.ring.prep_link_timeout(max(0.0, limit - time.monotonic()),
                                        user_data=self._request(job))
        return _LATER

    def _sleep(self, job):
        job.target = self._request(job)
        self.ring.prep_timeout(job.next_pause(), user_data=job.target)
        return _LATER


class SyscallDriver(_Driver):
    """Connects with connect(2) and poll(2): for kernels and containers without io_uring."""

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._waiting: dict[int, tuple[int, Job]] = {}      # fd -> its number, job
        # Heaps, the soonest first: with thousands under way nobody looks at all of them. Whoever no
        # longer waits is found out at the top, or when these have become the most.
        self._limits: list[tuple[float, int, int]] = []         # when its time is up, its number, fd
        self._sleeping: list[tuple[float, int, Job]] = []       # when it wakes, its number, job
        self._numbers = itertools.count()

    def step(self, wait_nr: int = 1, timeout: float | None = None) -> None:
        """Wait until a socket is ready or a time is up, and go on with what that concerns.

        wait_nr   0: do not wait
        timeout   seconds at most
        """
        now, limits, sleeping = time.monotonic(), self._limits, self._sleeping
        if len(limits) > 2 * len(self._waiting) + 64:
            limits[:] = [entry for entry in limits if self._waits(*entry)]
            heapify(limits)
        while limits and not self._waits(*limits[0]):
            heappop(limits)
        ends = [heap[0][0] for heap in (limits, sleeping) if heap]
        if timeout is not None:
            ends.append(now + timeout)
        # Rounded up to the millisecond that poll(2) counts in: waking early would spin.
        wait_ms = -int((now - min(ends)) * 1000 // 1) if ends else _LONGEST_POLL_MS
        wait_ms = max(0, min(wait_ms, _LONGEST_POLL_MS)) if wait_nr else 0
        if self.bell is not None:
            self._poll.register(self.bell, POLLIN)
        for fd, mask in self._poll.poll(wait_ms):
            if fd == self.bell:
                continue
            job = self._no_longer_waits(fd)
            self._go_on(job, _woken(job, mask))
        now = time.monotonic()
        while limits and limits[0][0] <= now:
            entry = heappop(limits)
            if self._waits(*entry):
                job = self._no_longer_waits(entry[2])
                self._go_on(job, job.ran_out())
        awake = []
        while sleeping and sleeping[0][0] <= now:
            awake.append(heappop(sleeping)[2])
        for job in awake:
            self._go_on(job, job.slept())

    def _waits(self, _, number, fd):
        return fd in self._waiting and self._waiting[fd][0] == number

    def _no_longer_waits(self, fd):
        self._poll.unregister(fd)
        return self._waiting.pop(fd)[1]

    def _wait(self, job):
        if job.pauses:
            return self._sleep(job)
        number, limit = next(self._numbers), job.limit()
        self._waiting[job.fd] = number, job
        if limit is not None:
            heappush(self._limits, (limit, number, job.fd))
        self._poll.register(job.fd, POLLOUT)
        return _LATER

    def _sleep(self, job):
        heappush(self._sleeping, (time.monotonic() + job.next_pause(), next(self._numbers), job))
        return _LATER

    _attempt = _connect = _Driver._connect2

    def _check(self, job):
        return m.CLEAN, 0       # every outcome was connect(2)'s own, which has cleaned up
