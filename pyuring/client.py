"""client.py - connect() and its relatives: what most users of pyuring call, and nothing else.

Each thread that connects keeps one small ring, made on first use; setting one up costs more than
a connect does. Where io_uring can't be had, plain system calls do the same work.

Read driver.py and machine.py to see how; read next: many.py.
"""
from __future__ import annotations

import errno
import os
import socket
import sys
import time
from _thread import _local as ThreadLocal       # threading.local, without the rest of that module
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SOCK_STREAM

from . import errors, host, machine, sockaddr, syscalls
from .abi import IORING_FEAT_SUBMIT_STABLE
from .driver import IPPROTO_MPTCP, Job, RingDriver, SyscallDriver
from .arguments import check_timeout
from .ring import Ring
from .sockaddr import SockAddr

STRATEGIES = ("emulated", "native", "syscall")


# -- the thread's own driver --------------------------------------------------------------------
_RING_ENTRIES = 8           # one connect has at most two requests in flight
_LASTING = (errno.ENOSYS, errno.EPERM, errno.EACCES)    # no use asking for a ring again

_local = ThreadLocal()
_refused: tuple[int, errors.Diagnosis] | None = None


class _ThreadDriver(RingDriver):
    """A RingDriver whose ring goes when its thread goes."""

    def __del__(self):
        if hasattr(self, "ring"):       # not where Ctrl-C came while it was made
            self.ring.close()


def make_ring(entries):
    """A ring that can connect. RingUnavailable where there is none."""
    global _refused
    if _refused is not None:
        raise errors.RingUnavailable(*_refused)
    try:
        ring = Ring(entries, submit_when_full=True)
        try:
            ring.prep_nop()             # a filter may let setup through and stop enter
            ring.submit_and_wait(1)
            ring.reap()
        except BaseException:
            ring.close()
            raise
    except errors.RingUnavailable as error:
        if error.errno in _LASTING:
            _refused = error.errno, error.diagnosis
        raise
    except OSError as error:        # from the first enter: nothing that io_uring says of itself
        raise errors.RingUnavailable(
            error.errno, errors.explain_setup(error.errno, host.look())) from error
    if not ring.features & IORING_FEAT_SUBMIT_STABLE:       # came with 5.5, as did the opcode
        ring.close()
        raise errors.RingUnavailable(errno.EOPNOTSUPP, errors.Diagnosis(
            "missing", "this kernel's io_uring is older than IORING_OP_CONNECT (5.5)",
            "Boot Linux 5.5 or later"))
    return ring


def _take_driver():
    """This thread's driver, for one connect alone: _run() puts it back. A signal handler that
    connects while it interrupts another connect finds none and makes its own."""
    driver = vars(_local).pop("driver", None)
    if driver is None or driver.ring.closed:        # closed by a fork
        driver = _ThreadDriver(make_ring(_RING_ENTRIES))
    return driver


def check_strategy(strategy):
    """ValueError for what is none."""
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown: give one of {', '.join(STRATEGIES)}, "
                         "or None to have one picked")


# socket.family and socket.type make an enum member each time; these are the numbers behind them.
_STREAM = int(SOCK_STREAM)
_INET, _TCP = (int(AF_INET), int(AF_INET6)), (0, IPPROTO_TCP, IPPROTO_MPTCP)
_family, _type = socket.SocketType.family.__get__, socket.SocketType.type.__get__


def start_event(sock, strategy, fresh=False):
    """How the machine is to begin for this socket."""
    if strategy == "native":
        return machine.START_NATIVE
    if (_family(sock) in _INET and _type(sock) == _STREAM
            and sock.proto in _TCP):
        if strategy == "syscall":
            return machine.START_SYSCALL
        return machine.START_FRESH if fresh else machine.START
    return machine.START_PLAIN


# -- one connect ----------------------------------------------------------------------------------
def connect(sock: socket.socket | int, address: object, timeout: float | None = None, *,
            strategy: str | None = None) -> None:
    """Connect a socket, with the answers of connect(2), and wait for it.

    sock       a socket, or the fd of one (which stays yours)
    address    what socket.connect() takes for the socket's family: (host, port), for AF_INET6 also
               with flowinfo and scope_id; an AF_UNIX path (str, bytes, os.PathLike) or abstract
               name (b"\\0name"); or a SockAddr, which goes to the kernel as it is
    timeout    seconds; None for the socket's own gettimeout(). A socket that is set not to block
               is waited for too
    strategy   "emulated": over io_uring, and what the kernel gets wrong is put right; without a
                           timeout, a handshake that takes its time is waited for in connect(2)
               "native":   one IORING_OP_CONNECT and its result, right or wrong
               "syscall":  connect(2) and poll(2), no io_uring
               None:       emulated where io_uring works, else syscall; probe().strategy tells

    Errors: OSError with connect(2)'s errno and the address in the message; ConnectTimeout (a
    TimeoutError, and a socket.timeout) when the timeout ran out, and the handshake then goes on in
    the kernel, as after a timeout of socket.connect(). ValueError or TypeError for what could not
    be meant. RingUnavailable for an explicit strategy that this machine does not allow.

    Ctrl-C: the request is cancelled in the kernel before KeyboardInterrupt leaves here.
    connect(2), ip(7), unix(7); Linux 5.5 for the strategies over io_uring.
    """
    if timeout is not None:
        check_timeout(timeout)
    if strategy is not None:
        check_strategy(strategy)
    if type(sock) is not socket.socket:
        if isinstance(sock, int):
            return _connect_or_raise(_borrow(sock, address), address, timeout, strategy)
        if not isinstance(sock, socket.socket):
            raise TypeError(f"sock {sock!r} is neither a socket nor a file descriptor")
        if hasattr(sock, "do_handshake"):
            raise TypeError("sock is a TLS socket: connect a plain one and wrap that afterwards")
    if sock.fileno() < 0:
        raise ValueError(f"{sock!r} is closed: open a new one")
    if timeout is None:
        timeout = sock.gettimeout() or None
    _connect_or_raise(sock, address, timeout, strategy)


class _Borrowed(socket.socket):
    """A socket object around somebody else's fd: it never closes that."""

    def __del__(self):
        self.detach()


def _borrow(fd, address):
    if not -1 << 31 <= fd < 1 << 31:
        raise ValueError(f"fd {fd} is no file descriptor: give a number from 0")
    try:
        blocking = os.get_blocking(fd)
        sock = _Borrowed(fileno=fd)
        os.set_blocking(fd, blocking)   # socket.setdefaulttimeout() may just have changed it
    except OSError as error:
        code = error.errno
        if code == errno.ENOTSOCK:      # and connect(2) may have something else against it
            raw = sockaddr.pack(sockaddr.guess_family(address), address)
            code = -syscalls.connect(fd, raw) or code
        raise errors.os_error(code, f"connect to {sockaddr.format_address(address)} on fd "
                              f"{fd}") from None
    return sock


def _connect_or_raise(sock, address, timeout, strategy, fresh=False):
    raw = SockAddr(sockaddr.pack(_family(sock), address))
    sys.audit("socket.connect", sock, address)
    job = _run(sock, raw, timeout, strategy, fresh)
    if job.machine.error or job.machine.timed_out:
        raise error_of(job, address, timeout)


def _run(sock, raw, timeout, strategy, fresh):
    """Connect, and come back with the job when its machine is done."""
    if strategy != "syscall":
        try:
            driver = _take_driver()
            job = Job(sock, raw, start_event(sock, strategy, fresh), timeout, waits=True)
            try:
                driver.start(job)
                while not driver.finished:
                    driver.step(job.owed)
                driver.finished.clear()
                _local.driver = driver
                return job
            except BaseException:
                # What is in flight is known to the ring: closing it cancels and waits.
                driver.ring.close()
                raise
        except errors.RingUnavailable:
            if strategy is not None:
                raise
    driver = SyscallDriver()
    job = Job(sock, raw, start_event(sock, "syscall"), timeout, waits=True)
    driver.start(job)
    while not driver.finished:
        driver.step()
    return job


def error_of(job, address, timeout):
    """The exception for a finished job, None after success."""
    if job.machine.timed_out:
        return errors.timed_out(f"connect to {sockaddr.format_address(address)}", timeout)
    if job.machine.error:
        return errors.os_error(job.machine.error, f"connect to {sockaddr.format_address(address)}")
    return None


def create_connection(address: tuple[str, int], timeout: float | None = None,
                      source_address: tuple[str, int] | None = None, *, all_errors: bool = False,
                      happy_eyeballs_delay: float | None = 0.25,
                      strategy: str | None = None) -> socket.socket:
    """A new TCP socket, connected to (host, port): socket.create_connection() over pyuring.

    address          (host, port); the host may be a name, and the port a service's ("http"), or None
                     for 0. All that it resolves to is tried, the families by turns, and the first to
                     connect wins (RFC 8305, Happy Eyeballs)
    timeout          seconds for each try, and then the socket's own; None for
                     socket.getdefaulttimeout()
    source_address   (host, port) to bind to
    all_errors       True: where all tries fail, an ExceptionGroup of their errors (Python 3.11;
                     before, the last one). False: the last one
    happy_eyeballs_delay   seconds after which the next try begins, while those before it are still
                     under way; after a failure it begins at once. 0 begins all of them together,
                     None one only when the one before has failed
    strategy         as for connect()

    Errors: as connect(); socket.gaierror where the name does not resolve.
    """
    check_timeout(timeout)
    try:
        check_timeout(happy_eyeballs_delay)
    except (TypeError, ValueError) as error:
        raise type(error)(f"happy_eyeballs_delay {happy_eyeballs_delay!r} is not a finite number of seconds "
                          "from 0, or None") from None
    check_strategy(strategy)
    name, port = _pair("address", address)
    if port is not None and not isinstance(port, (str, bytes)):
        sockaddr.check_port(port)
    if source_address is not None:
        source_address = _pair("source_address", source_address)
        sockaddr.check_port(source_address[1])
    try:
        found = socket.getaddrinfo(name, port, 0, SOCK_STREAM)
    except OSError as error:
        raise for_what(error, f"connect to {sockaddr.format_address(address)}") from None
    sock, failures = _race(_interleave(found), timeout, source_address, happy_eyeballs_delay, strategy)
    if sock is not None:
        return sock
    if not failures:
        raise OSError(f"connect to {sockaddr.format_address(address)}: the name has no address")
    if all_errors and sys.version_info >= (3, 11):
        raise ExceptionGroup(f"connect to {sockaddr.format_address(address)}: all tries failed",
                             failures)
    try:
        raise failures[-1]
    finally:
        failures.clear()        # breaks the cycle error -> traceback -> frame -> failures


def _pair(what, value):
    """(host, port), in whatever it came."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        host, port = value
    except (TypeError, ValueError):
        raise TypeError(f"{what} {value!r} is not a pair: give (host, port)") from None
    return host, port


def for_what(error, doing):
    """An OSError, with what it stood in the way of."""
    if isinstance(error, socket.gaierror):
        return socket.gaierror(error.errno, f"{doing}: {error.strerror}")
    return errors.os_error(error.errno, doing)


def _interleave(found):
    """getaddrinfo()'s answers with the families by turns, in the order in which they first come
    (RFC 8305, section 4)."""
    by_family: dict[int, list] = {}
    for answer in found:
        by_family.setdefault(answer[0], []).append(answer)
    longest = max(map(len, by_family.values()), default=0)
    return [answers[turn] for turn in range(longest) for answers in by_family.values()
            if turn < len(answers)]


def _race(found, timeout, source_address, delay, strategy):
    """Begin a connect to each, and begin the next when `delay` is over or one has failed -> the first
    socket to connect, or None; and the errors of those that failed, in the order of the addresses.
    All others are cancelled and closed."""
    if len(found) < 2:
        delay = None
    failures: dict[int, OSError] = {}
    socks: dict[int, socket.socket] = {}        # those under way
    winner, begun, due = None, 0, 0.0
    driver = _race_driver(strategy)
    try:
        while winner is None and (begun < len(found) or socks):
            if begun < len(found) and (not socks or delay is not None and time.monotonic() >= due):
                job = _begin(found[begun], begun, timeout, source_address, strategy, driver, socks, failures)
                begun += 1
                due = time.monotonic() + (delay or 0.0) if job else 0.0
                continue
            waits_for_next = begun < len(found) and delay is not None
            driver.step(1, max(0.0, due - time.monotonic()) if waits_for_next else None)
            while driver.finished:
                job = driver.finished.pop(0)
                number, target = job.context
                error = error_of(job, target, job.timeout)
                if winner is None and error is None:
                    winner = socks.pop(number)
                else:
                    socks.pop(number).close()
                    if error is not None:
                        failures[number] = error
                    due = 0.0
        if winner is not None:
            winner.settimeout(socket.getdefaulttimeout() if timeout is None else timeout)
        if isinstance(driver, RingDriver) and not socks:
            _local.driver, driver = driver, None        # for this thread's next connect
        return winner, [failures[number] for number in sorted(failures)]
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    finally:
        try:
            if isinstance(driver, RingDriver):
                driver.ring.close()                     # cancels what is under way, and waits for it
        finally:
            for sock in socks.values():
                sock.close()


def _race_driver(strategy):
    if strategy != "syscall":
        try:
            return _take_driver()
        except errors.RingUnavailable:
            if strategy is not None:
                raise
    return SyscallDriver()


def _begin(answer, number, timeout, source_address, strategy, driver, socks, failures):
    """Begin one try of a race -> its job, None if it failed at once."""
    family, type_, proto, _, target = answer
    doing = f"connect to {sockaddr.format_address(target)}"
    try:
        sock = socks[number] = socket.socket(family, type_, proto)
        if source_address is not None:
            doing += f" from {sockaddr.format_address(source_address)}"
            sock.bind(source_address)
        doing = ""                                          # from here on, errors say it themselves
        limit = (sock.gettimeout() or None) if timeout is None else timeout
        over_the_ring = isinstance(driver, RingDriver)
        sock.settimeout(None if over_the_ring else 0.0)     # until it has connected
        raw = SockAddr(sockaddr.pack(_family(sock), target))
        sys.audit("socket.connect", sock, target)
        start = start_event(sock, strategy if over_the_ring else "syscall", fresh=True)
        job = Job(sock, raw, start, limit, context=(number, target))
        driver.start(job)
        return job
    except OSError as error:
        if number in socks:
            socks.pop(number).close()
        # Not the traceback, which would keep the driver alive.
        failures[number] = for_what(error, doing) if doing else error.with_traceback(None)
        return None
