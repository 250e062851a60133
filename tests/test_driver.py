"""The two drivers: against a scripted ring, against kernels that are acted out, and for real.

Three kinds of test. A ScriptedRing says which requests are to come and which CQEs they get: for the
order of CQEs and for what can't be provoked. An EraRing acts out IORING_OP_CONNECT of a kernel era,
right or wrong, on real sockets: the outcome must be connect(2)'s on each. And the real kernel.
"""
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import threading
import time
from errno import (
    EAGAIN, EALREADY, ECANCELED, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINTR,
    EISCONN, ENOENT, EPIPE, ETIME,
)
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP

import pytest

from pyuring import driver as driver_module
from pyuring import machine as m
from pyuring import sockaddr, syscalls
from pyuring.abi import IORING_FEAT_NATIVE_WORKERS, IOSQE_IO_LINK
from pyuring.driver import Job, RingDriver, SyscallDriver
from pyuring.ring import CQE, Ring
from pyuring.sockaddr import SockAddr

AF_INET, AF_UNIX = socket.AF_INET, socket.AF_UNIX
PATIENCE = 20.0         # seconds: a bound against hangs, not a claim


@pytest.fixture
def sock():
    with socket.socket() as sock:
        yield sock


@pytest.fixture(params=["ring", "syscall"])
def real_driver(request):
    """A driver over the real kernel."""
    if request.param == "syscall":
        yield SyscallDriver()
        return
    request.getfixturevalue("io_uring")
    with Ring(64, submit_when_full=True) as ring:
        yield RingDriver(ring)


def packed(address, family=AF_INET):
    return address if isinstance(address, SockAddr) else SockAddr(sockaddr.pack(family, address))


def start_of(driver, fresh=True):
    if isinstance(driver, SyscallDriver):
        return m.START_SYSCALL
    return m.START_FRESH if fresh else m.START


def finish(driver, *jobs):
    """Start the jobs, and step until all are done -> the jobs in the order in which they ended."""
    for job in jobs:
        driver.start(job)
    ended, deadline = [], time.monotonic() + PATIENCE
    while len(ended) < len(jobs):
        if not driver.finished:
            driver.step()
        ended += driver.finished
        driver.finished.clear()
        assert time.monotonic() < deadline
    return ended


def outcome(job):
    assert job.machine.state == m.DONE
    return "timed out" if job.machine.timed_out else job.machine.error


def connect2(sock, address):
    """connect(2) -> 0 or its errno."""
    return -syscalls.connect(sock.fileno(), packed(address).raw)


def undisturbed(function, *arguments):
    """Call it in a thread that never had a ring. When a ring is closed, the kernel interrupts the
    thread that used it once more, some time later, and a connect(2) with SO_SNDTIMEO says EINTR."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function(*arguments)))
    thread.start()
    thread.join()
    return answers[0]


def poll_mask(sock, timeout_ms=0):
    poll = select.poll()
    poll.register(sock, POLLIN | POLLOUT | POLLRDHUP)
    return sum(mask for _, mask in poll.poll(timeout_ms))


def cells(sock):
    """All that a failed or successful connect may have left on a socket."""
    try:
        peer = sock.getpeername()
    except OSError as error:
        peer = error.errno
    host, port = sock.getsockname()
    return (poll_mask(sock), peer, host, port == 0, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            os.get_blocking(sock.fileno()))


# -- a scripted ring -------------------------------------------------------------------------------
class ScriptedRing:
    """Takes requests in the order of its script, and posts the CQEs that stand beside each.

    script  [(request, [(request that answers, res), ...]), ...]; CQEs name the latest such request
    """

    sq_space_left = 64
    features = 0xFFFF_FFFF

    def __init__(self, *script):
        self.script = list(script)
        self.prepared, self.latest, self.cqes = [], {}, []
        self.limits = []

    def _prep(self, name, user_data, linked=False):
        assert not self.prepared or self.prepared[-1][2] is False or name == "link_timeout"
        self.prepared.append((name, user_data, linked))

    def prep_connect(self, fd, address, *, user_data, sqe_flags=0):
        self._prep("connect", user_data, sqe_flags == IOSQE_IO_LINK)

    def prep_poll_add(self, fd, mask, *, user_data, sqe_flags=0):
        assert mask == POLLOUT
        self._prep("poll", user_data, sqe_flags == IOSQE_IO_LINK)

    def prep_link_timeout(self, seconds, *, user_data):
        assert self.prepared[-1][2]
        self.limits.append(seconds)
        self._prep("link_timeout", user_data)

    def prep_timeout(self, seconds, *, user_data):
        self.limits.append(seconds)
        self._prep("timeout", user_data)

    def prep_cancel(self, target, *, user_data):
        assert target == self.latest["connect"]
        self._prep("cancel", user_data)

    def submit_and_get_events(self):
        for name, user_data, _ in self.prepared:
            expected, cqes = self.script.pop(0)
            assert name == expected
            self.latest[name] = user_data
            self.cqes += [(self.latest[answers], res) for answers, res in cqes]
        self.prepared.clear()

    def submit_and_wait(self, wait_nr, timeout=None):
        self.submit_and_get_events()
        assert len(self.cqes) >= wait_nr, "it would wait for ever"

    def reap(self):
        cqes, self.cqes = self.cqes, []
        return [CQE(user_data, res, 0) for user_data, res in cqes]


CANCELLED = [("connect", []), ("cancel", [("connect", -ECANCELED), ("cancel", 0)])]
EXPIRES = [("poll", []), ("link_timeout", [("link_timeout", -ETIME), ("poll", -ECANCELED)])]

#: name: (requests and their CQEs, timeout, outcome). A fresh TCP socket each, that never connects.
SCRIPTS = {
    "answered at once": ([("connect", [("connect", -ECONNREFUSED)])], None, ECONNREFUSED),
    "cancelled, the connect's CQE first": (
        [*CANCELLED, ("poll", [("poll", POLLOUT)]), ("connect", [("connect", -ECONNREFUSED)])],
        None, ECONNREFUSED),
    "cancelled, the cancel's CQE first": (
        [("connect", []), ("cancel", [("cancel", 0), ("connect", -ECANCELED)]),
         ("poll", [("poll", POLLOUT)]), ("connect", [("connect", 0)])], None, 0),
    "answered between the submission and the cancel, the connect's CQE first": (
        [("connect", []), ("cancel", [("connect", -ECONNREFUSED), ("cancel", -ENOENT)])],
        None, ECONNREFUSED),
    "answered between the submission and the cancel, the cancel's CQE first": (
        [("connect", []), ("cancel", [("cancel", -ENOENT), ("connect", -ECONNREFUSED)])],
        None, ECONNREFUSED),
    "E2: cancelled in a worker thread, which says EINTR and EALREADY": (
        [("connect", []), ("cancel", [("cancel", -EALREADY), ("connect", -EINTR)]),
         ("poll", [("poll", POLLOUT)]), ("connect", [("connect", 0)])], None, 0),
    "timed out, the timeout's CQE first": ([*CANCELLED, *EXPIRES], 0.0, "timed out"),
    "timed out, the poll's CQE first": (
        [*CANCELLED, ("poll", []), ("link_timeout", [("poll", -ECANCELED), ("link_timeout", -ETIME)])],
        0.0, "timed out"),
    "ready in time, the timeout's CQE first": (
        [*CANCELLED, ("poll", []), ("link_timeout", [("link_timeout", -ECANCELED), ("poll", POLLOUT)]),
         ("connect", [("connect", 0)])], 30.0, 0),
    "ready in time, the timeout's CQE last": (
        [*CANCELLED, ("poll", []), ("link_timeout", [("poll", POLLOUT), ("link_timeout", -ECANCELED)]),
         ("connect", [("connect", 0)])], 30.0, 0),
    "ready and too late at once": (
        [*CANCELLED, ("poll", []), ("link_timeout", [("link_timeout", -ENOENT), ("poll", POLLOUT)]),
         ("connect", [("connect", 0)])], 0.0, 0),
    "E13: under way before": (
        [("connect", [("connect", -EALREADY)]), ("poll", [("poll", POLLOUT)]),
         ("connect", [("connect", 0)])], None, 0),
    "E13: under way before, and another thread took the outcome": (
        [("connect", [("connect", -EALREADY)]), ("poll", [("poll", POLLOUT)]),
         ("connect", [("connect", -EISCONN)])], None, 0),
    "poll woke up too early, twice": (
        [*CANCELLED, ("poll", [("poll", POLLOUT)]), *CANCELLED, ("poll", [("poll", POLLOUT)]),
         *CANCELLED, ("poll", [("poll", POLLOUT)]), ("connect", [("connect", 0)])], None, 0),
    "poll itself failed": (
        [*CANCELLED, ("poll", [("poll", -errno.ENOMEM)]), ("connect", [("connect", -ECONNREFUSED)])],
        None, ECONNREFUSED),
    # That the socket never connected is what DISCONNECTED looks like.
    "E9: hung up, and nothing is under way any more": (
        [*CANCELLED, ("poll", [("poll", POLLOUT | POLLHUP)])], None, ECONNABORTED),
    "E10: ECONNRESET, and SO_ERROR holds nothing": (
        [("connect", [("connect", -ECONNRESET)])], None, ECONNRESET),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_outcome_of_scripted_cqes(name, sock):
    script, timeout, expected = SCRIPTS[name]
    ring = ScriptedRing(*script)
    driver = RingDriver(ring)
    driver._tried = lambda job: (m.SETTLED, 0)      # the socket is not connected, whatever the script says
    job = Job(sock, packed(("127.0.0.1", 1)), m.START_FRESH, timeout)
    finish(driver, job)
    assert outcome(job) == expected
    assert not ring.script
    assert not driver._requests
    assert not job.owed


@pytest.mark.parametrize("script, timeout, expected", [
    ([("connect", [("connect", -EINTR)]), ("connect", [("connect", 0)])], None, 0),
    ([("connect", []), ("link_timeout", [("link_timeout", -ETIME), ("connect", -ECANCELED)])], 0.0,
     "timed out"),
    ([("connect", []), ("link_timeout", [("connect", -EINTR), ("link_timeout", -ENOENT)])], 0.0,
     "timed out"),
    ([("connect", []), ("link_timeout", [("link_timeout", -EALREADY), ("connect", -EINTR)])], 0.0,
     "timed out"),
    # Seen on 6.1.176: the time was up while the request moved to a worker thread, and nobody found it.
    ([("connect", []), ("link_timeout", [("link_timeout", -ENOENT)]), ("timeout", [("timeout", -ETIME)]),
      ("cancel", [("cancel", -ENOENT)]), ("timeout", [("timeout", -ETIME)]),
      ("cancel", [("cancel", -EALREADY), ("connect", -EINTR)])], 0.0, "timed out"),
    ([("connect", []), ("link_timeout", [("link_timeout", -ENOENT)]),
      ("timeout", [("connect", 0), ("timeout", -ETIME)])], 0.0, 0),
    ([("connect", []), ("link_timeout", [("link_timeout", -ECANCELED), ("connect", 0)])], 30.0, 0),
    ([("connect", [("connect", -EAGAIN)]), ("timeout", [("timeout", -ETIME)]),
      ("connect", [("connect", -EAGAIN)]), ("timeout", [("timeout", -ETIME)]),
      ("connect", [("connect", 0)])], None, 0),
], ids=["signal in a worker", "timed out", "timed out in a worker", "timed out on 5.6",
        "timed out on the way to a worker", "answered all the same", "in time",
        "full backlog"])
def test_outcome_of_scripted_cqes_where_it_is_not_tcp(script, timeout, expected):
    with socket.socket(AF_UNIX) as sock:
        sock.setblocking(False)
        ring = ScriptedRing(*script)
        driver = RingDriver(ring)
        job = Job(sock, packed("/nowhere", AF_UNIX), m.START_PLAIN, timeout)
        finish(driver, job)
    assert outcome(job) == expected
    assert not ring.script
    assert not driver._requests


def test_pauses_of_a_full_backlog_grow_to_a_limit():
    tries = 12
    script = [("connect", [("connect", -EAGAIN)]), ("timeout", [("timeout", -ETIME)])] * tries
    ring = ScriptedRing(*script, ("connect", [("connect", 0)]))
    with socket.socket(AF_UNIX) as sock:
        sock.setblocking(False)
        finish(RingDriver(ring), Job(sock, packed("/nowhere", AF_UNIX), m.START_PLAIN))
    assert ring.limits == sorted(ring.limits)
    assert len(ring.limits) == tries
    assert 0 < ring.limits[0] < 0.01
    assert ring.limits[-1] <= 0.1


def test_no_user_data_is_used_twice(sock):
    seen = set()

    class Ring_(ScriptedRing):
        def _prep(self, name, user_data, linked=False):
            assert user_data not in seen
            seen.add(user_data)
            super()._prep(name, user_data, linked)

    script, timeout, _ = SCRIPTS["poll woke up too early, twice"]
    driver = RingDriver(Ring_(*script, *script))
    driver._tried = lambda job: (m.SETTLED, 0)
    for _ in range(2):
        finish(driver, Job(sock, packed(("127.0.0.1", 1)), m.START_FRESH, timeout))
    assert len(seen) == 20


# -- kernels acted out -----------------------------------------------------------------------------
def so_error(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class EraRing:
    """A ring whose IORING_OP_CONNECT behaves as in one era of Linux (ERRATA), by plain system calls.

    "0"   5.5, 5.6: a worker thread's connect(2). Cancelled: EINTR, and the cancel says EALREADY
    "A"   poll, then connect again
    "B"   poll, then SO_ERROR: no clean-up, after success neither
    "C"   B, and one more try after ECONNABORTED
    "D"   poll, then connect again
    "E"   D, but what ends with POLLERR is ECONNRESET, untouched
    "F"   D, but what ends with POLLERR is SO_ERROR, no clean-up
    """

    sq_space_left = 64

    def __init__(self, era, sockets):
        self.era, self.sockets = era, {sock.fileno(): sock for sock in sockets}
        self.queue, self.cqes, self.connects, self.polls = [], [], {}, {}
        self.limit = {}

    def prep_connect(self, fd, address, *, user_data, sqe_flags=0):
        self.queue.append(lambda: self._connect(self.sockets[fd], address, user_data))

    def prep_cancel(self, target, *, user_data):
        self.queue.append(lambda: self._cancel(target, user_data))

    def prep_poll_add(self, fd, mask, *, user_data, sqe_flags=0):
        self.queue.append(lambda: self.polls.setdefault(user_data, (self.sockets[fd], mask)))
        self.last_poll = user_data

    def prep_link_timeout(self, seconds, *, user_data):
        self.limit[self.last_poll] = seconds, user_data

    def submit_and_get_events(self):
        queue, self.queue = self.queue, []
        for request in queue:
            request()

    def submit_and_wait(self, wait_nr, timeout=None):
        self.submit_and_get_events()
        for user_data, (sock, mask) in list(self.polls.items()):
            seconds, timeout_user_data = self.limit.pop(user_data, (PATIENCE, None))
            poll = select.poll()
            poll.register(sock, mask)
            ready = poll.poll(seconds * 1000)
            self.cqes.append((user_data, ready[0][1] if ready else -ECANCELED))
            if timeout_user_data is not None:
                self.cqes.insert(0, (timeout_user_data, -ECANCELED if ready else -ETIME))
            del self.polls[user_data]
        assert len(self.cqes) >= wait_nr, "it would wait for ever"

    def reap(self):
        cqes, self.cqes = self.cqes, []
        return [CQE(user_data, res, 0) for user_data, res in cqes]

    def _cancel(self, target, user_data):
        if target not in self.connects:
            self.cqes.append((user_data, -ENOENT))
            return
        del self.connects[target]
        self.cqes += ([(user_data, -EALREADY), (target, -EINTR)] if self.era == "0"
                      else [(user_data, 0), (target, -ECANCELED)])

    def _connect(self, sock, address, user_data):
        code = self._nonblocking(sock, address)
        if code == EINPROGRESS:
            if not poll_mask(sock) & (POLLOUT | POLLERR | POLLHUP):
                self.connects[user_data] = address      # until it is cancelled
                return
            code = self._woken(sock, address)
        elif code == ECONNABORTED and self.era in "CDEF":
            code = self._nonblocking(sock, address)
            if code == EINPROGRESS:
                code = self._woken(sock, address)
        self.cqes.append((user_data, -code))

    def _woken(self, sock, address):
        failed = poll_mask(sock, 1000) & POLLERR
        if self.era in "BC" or self.era == "F" and failed:
            return so_error(sock)
        if self.era == "E" and failed:
            return ECONNRESET
        return self._nonblocking(sock, address)

    @staticmethod
    def _nonblocking(sock, address):
        blocking = os.get_blocking(sock.fileno())
        os.set_blocking(sock.fileno(), False)
        try:
            return connect2(sock, address)
        finally:
            os.set_blocking(sock.fileno(), blocking)


ERAS = list("0ABCDEF")


def _on_era(era, sock, address, timeout=None, fresh=False):
    driver = RingDriver(EraRing(era, [sock]))
    job = Job(sock, packed(address), start_of(driver, fresh), timeout)
    finish(driver, job)
    return outcome(job)


def _refused(connect, sock, listener, refused):
    yield from (connect(sock, refused) for _ in range(3))


def _refused_then_listening(connect, sock, listener, refused):
    yield connect(sock, refused)
    yield from (connect(sock, listener.getsockname()) for _ in range(3))


def _connected(connect, sock, listener, refused):
    yield from (connect(sock, listener.getsockname()) for _ in range(3))


def _failed_and_error_read(connect, sock, listener, refused):
    sock.setblocking(False)
    connect2(sock, refused)
    poll_mask(sock, 1000)
    yield so_error(sock)
    sock.setblocking(True)
    yield from (connect(sock, refused) for _ in range(3))       # E12


def _failed_before(connect, sock, listener, refused):
    sock.setblocking(False)
    connect2(sock, refused)
    poll_mask(sock, 1000)
    sock.setblocking(True)
    yield from (connect(sock, refused) for _ in range(2))       # ended, nobody has looked yet


def _connected_before(connect, sock, listener, refused):
    sock.setblocking(False)
    connect2(sock, listener.getsockname())
    poll_mask(sock, 1000)
    sock.setblocking(True)
    yield from (connect(sock, listener.getsockname()) for _ in range(2))


@pytest.mark.parametrize("scenario", [_refused, _refused_then_listening, _connected,
                                      _failed_and_error_read, _failed_before, _connected_before])
@pytest.mark.parametrize("era, settles", [(era, False) for era in ERAS]
                         + [(era, True) for era in ERAS if era not in "BC"])
def test_every_era_ends_as_connect_2_does(era, settles, scenario, listener, refused, monkeypatch):
    # The same steps on two sockets: connect(2) on one, a RingDriver over the acted kernel on the
    # other. Afterwards both sockets are asked all that can be asked, and connect(2) once more.
    # (Eras B and C are never found to settle: see below.)
    monkeypatch.setattr(RingDriver, "_settles", settles)
    seen = []
    for connect in (connect2, lambda sock, address: _on_era(era, sock, address)):
        with socket.socket() as sock:
            codes = list(scenario(connect, sock, listener, refused))
            seen.append((codes, cells(sock), connect2(sock, refused), cells(sock)))
    assert seen[0] == seen[1]
    with socket.socket() as sock:           # and once more on a socket that is set not to block
        sock.setblocking(False)

        def connect(sock, address):
            sock.setblocking(False)
            return _on_era(era, sock, address)

        assert list(scenario(connect, sock, listener, refused)) == seen[0][0]
        assert not os.get_blocking(sock.fileno())


@pytest.mark.parametrize("era", ERAS)
def test_no_era_that_leaves_success_unsettled_is_taken_for_one_that_settles(era, listener):
    for _ in range(3):
        with socket.socket() as sock:
            assert _on_era(era, sock, listener.getsockname(), fresh=True) == 0
            assert connect2(sock, listener.getsockname()) == EISCONN
    assert RingDriver._settles == (era not in "BC")


@pytest.mark.parametrize("era", ERAS)
def test_a_handshake_that_was_complete_before_proves_nothing(era, listener):
    # The opcode takes its outcome at once, in every era, and so leaves the socket as it should.
    with socket.socket() as sock:
        sock.setblocking(False)
        assert connect2(sock, listener.getsockname()) == EINPROGRESS
        assert select.select([], [sock], [], PATIENCE)[1]
        sock.setblocking(True)
        assert _on_era(era, sock, listener.getsockname()) == 0
    assert not RingDriver._settles


@pytest.mark.parametrize("era", ERAS)
def test_every_era_times_out_and_finds_the_handshake_under_way_again(era, sock, silent):
    assert _on_era(era, sock, silent, 0.02) == "timed out"
    assert _on_era(era, sock, silent, 0.02) == "timed out"
    sock.setblocking(False)
    assert connect2(sock, silent) == EALREADY


def test_the_acted_eras_do_get_it_wrong_when_nobody_looks_after_them(listener, refused):
    # Without this the tests above would prove nothing: native results, errata E7, E8, E10, E11.
    def native(era, address):
        with socket.socket() as sock:
            codes = []
            for _ in range(3):
                driver = RingDriver(EraRing(era, [sock]))
                job = Job(sock, packed(address), m.START_NATIVE)
                finish(driver, job)
                codes.append(outcome(job))
            return codes

    assert native("B", refused) == [ECONNREFUSED, ECONNABORTED, ECONNREFUSED]
    assert native("C", listener.getsockname()) == [0, 0, EISCONN]
    assert native("E", refused)[0] == ECONNRESET
    with socket.socket() as sock:
        driver = RingDriver(EraRing("F", [sock]))
        finish(driver, Job(sock, packed(refused), m.START_NATIVE))
        assert connect2(sock, refused) == ECONNABORTED


def test_a_fast_open_socket_proves_nothing_about_settling(listener):
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, driver_module._TCP_FASTOPEN_CONNECT, 1)
        except OSError as error:
            pytest.skip(f"TCP_FASTOPEN_CONNECT: {error}")
        assert _on_era("D", sock, listener.getsockname(), fresh=True) == 0
    assert not RingDriver._settles


# -- the real kernel -------------------------------------------------------------------------------
def test_many_jobs_of_all_kinds_at_once(real_driver, listener, refused, silent, tmp_path):
    with contextlib.ExitStack() as stack:
        def job(address, timeout=None, family=AF_INET, start=None):
            sock = stack.enter_context(socket.socket(family))
            if isinstance(real_driver, SyscallDriver):
                sock.setblocking(False)
            return Job(sock, packed(address, family), start or start_of(real_driver), timeout)

        path = str(tmp_path / "full")
        full = stack.enter_context(socket.socket(AF_UNIX))
        full.bind(path)
        full.listen(0)
        filler = stack.enter_context(socket.socket(AF_UNIX))
        filler.connect(path)

        expected = {}
        for _ in range(10):
            expected[job(listener.getsockname())] = 0
            expected[job(listener.getsockname(), 30)] = 0
            expected[job(refused)] = ECONNREFUSED
            expected[job(refused, 30)] = ECONNREFUSED
            expected[job(silent, 0.05)] = "timed out"
            expected[job(silent, 0.0)] = "timed out"
            expected[job(path, 0.05, AF_UNIX, m.START_PLAIN)] = "timed out"
            expected[job("/nowhere", None, AF_UNIX, m.START_PLAIN)] = ENOENT
        ended = finish(real_driver, *expected)
        assert len(ended) == len(set(ended)) == len(expected)
        assert {job: outcome(job) for job in ended} == expected


def test_a_request_and_its_limit_fit_any_ring(io_uring, silent):
    # More jobs than SQEs, and an odd number before: a chain must not be torn at the end of the SQ.
    # (The CQ has room: before 5.19, about, the kernel takes nothing more while it overflows.)
    with contextlib.ExitStack() as stack, Ring(8, cq_entries=256, submit_when_full=True) as ring:
        driver = RingDriver(ring)
        jobs = [Job(stack.enter_context(socket.socket()), packed(silent), m.START_FRESH, timeout)
                for timeout in (None, *[0.02] * 30)]
        for job in jobs:
            driver.start(job)
        while len(driver.finished) < 30:
            driver.step()
        assert [outcome(job) for job in driver.finished] == ["timed out"] * 30
        assert jobs[0].machine.state == m.WAITING


def test_an_address_that_the_opcode_refuses_outright_stops_none_behind_it(real_driver, listener):
    # A ring ends its submission at a request that is refused at preparation.
    with contextlib.ExitStack() as stack:
        jobs = [Job(stack.enter_context(socket.socket()), address, start_of(real_driver), 30)
                for address in [SockAddr(bytes(200)), packed(listener.getsockname())] * 5]
        finish(real_driver, *jobs)
        assert [outcome(job) for job in jobs] == [errno.EINVAL, 0] * 5


def test_an_attempt_is_not_left_waiting_in_the_kernel(io_uring, silent, sock):
    # What waits is a poll: the connect was cancelled, or shutdown() would start it again (E9).
    with Ring(8) as ring:
        driver = RingDriver(ring)
        job = Job(sock, packed(silent), m.START_FRESH)
        driver.start(job)
        driver.step()
        driver.step(2)
        assert job.machine.state == m.WAITING
        assert job.owed == 1
        driver.ring.submit()
        sock.shutdown(socket.SHUT_RDWR)
        while not driver.finished:
            driver.step()
        assert outcome(job) == ECONNRESET


@pytest.mark.parametrize("timeout, waits, blocking, calls", [
    (None, True, True, [True]), (5, True, True, []), (None, False, True, []), (None, True, False, [])])
def test_only_a_connect_that_is_alone_and_has_no_timeout_waits_in_connect_2(
        io_uring, silent, sock, monkeypatch, timeout, waits, blocking, calls):
    sock.setblocking(blocking)
    blocked = _answering(monkeypatch, EPIPE)
    with Ring(8) as ring:
        driver = RingDriver(ring)
        job = Job(sock, packed(silent), m.START, timeout, waits=waits)
        driver.start(job)
        driver.step(job.owed)
        if not driver.finished:
            driver.step(job.owed)
        assert blocked == calls
        assert outcome(job) == EPIPE if calls else job.machine.state == m.WAITING


@pytest.mark.parametrize("settles", [False, True])
def test_a_zero_is_believed_only_where_the_handshake_is_over(silent, listener, refused, monkeypatch, settles):
    """E23: the opcode says 0 where an ICMP error lies in the socket's error queue."""
    monkeypatch.setattr(RingDriver, "_settles", settles)

    def tried(address, raw=None):
        with socket.socket() as sock:
            sock.setblocking(False)
            connect2(sock, address)
            if address != silent:
                poll_mask(sock, 1000)
            return RingDriver._tried(Job(sock, raw or packed(address), m.START))[0]

    assert tried(silent) == m.PENDING
    assert tried(refused) == m.PENDING                      # a failure that is still to be heard of
    assert tried(listener.getsockname()) == (m.SETTLED if settles else m.CONNECTED)
    assert tried(refused, SockAddr(sockaddr.UNSPEC)) == m.SETTLED


@pytest.mark.parametrize("target, state, error", [
    ("silent", m.WAITING, ECONNRESET),      # it goes on: so does the wait, with what is to be said kept
    ("refused", m.WAITING, ECONNRESET),     # a failure that is still to be heard of
    ("listener", m.DONE, 0)])
def test_a_zero_of_a_later_attempt_is_believed_only_where_the_handshake_is_over(request, target, state, error):
    """E23: an ICMP error may come while the machine is RETRYING, as well as before."""
    address = request.getfixturevalue(target)
    if target == "listener":
        address = address.getsockname()
    driver = RingDriver(ScriptedRing())
    with socket.socket() as sock:
        sock.setblocking(False)
        connect2(sock, address)
        if target != "silent":
            assert poll_mask(sock, 1000)
        job = Job(sock, packed(address), m.START)
        job.machine.state, job.machine.error, job.result = m.RETRYING, ECONNRESET, 0
        event, code = driver._heard(job)
        job.machine.feed(event, code)
    assert (job.machine.state, job.machine.error) == (state, error)


class _Socket:
    """A TCP socket whose connect(2) says EISCONN, as after success on a kernel without E8."""

    family = AF_INET

    def __init__(self, fd, proto=0, fast_open=0):
        self.fd, self.proto, self.fast_open = fd, proto, fast_open

    def fileno(self):
        return self.fd

    def gettimeout(self):
        return None

    def getsockopt(self, level, name, size=0):
        if name == driver_module._TCP_FASTOPEN_CONNECT:
            return self.fast_open
        return bytes(size) if size else 0


@pytest.mark.parametrize("state, began_closed, segs_out, proto, fast_open, answer, settles", [
    (m.CONFIRMING, True, 2, 0, 0, EISCONN, True),
    (m.CONFIRMING, False, 2, 0, 0, EISCONN, False),         # under way before
    (m.CONFIRMING, True, 0, 0, 0, EISCONN, False),          # no packet went: TCP_REPAIR
    (m.CONFIRMING, True, 2, driver_module.IPPROTO_MPTCP, 0, EISCONN, False),
    (m.CONFIRMING, True, 2, 0, 1, EISCONN, False),          # fast open
    (m.CONFIRMING, True, 2, 0, 0, 0, False),                # E8: this call finished it
    (m.CONFIRMING, True, 2, 0, 0, ECONNRESET, False),
    (m.CALLING, True, 2, 0, 0, EISCONN, False),             # not after a success of the opcode's
])
def test_what_proves_that_success_is_settled(sock, monkeypatch, state, began_closed, segs_out, proto, fast_open,
                                             answer, settles):
    """_settles spares all later connects their CONFIRMING: one thing amiss, and it proves nothing."""
    established = 1                                         # include/net/tcp_states.h
    monkeypatch.setattr(driver_module, "_tcp_info", lambda sock: (established, segs_out))
    monkeypatch.setattr(syscalls, "connect", lambda fd, raw: -answer)
    job = Job(_Socket(sock.fileno(), proto, fast_open), packed(("127.0.0.1", 1)), m.START)
    job.machine.state, job.began_closed = state, began_closed
    RingDriver(ScriptedRing())._call(job)
    assert RingDriver._settles == settles


@pytest.mark.parametrize("kind", ["ring", "syscall"])
def test_a_poll_that_would_come_back_at_once_for_ever_is_a_pause(io_uring, kind, silent, sock, monkeypatch):
    """E23: POLLERR, and the handshake goes on. Each round asked connect(2) again, without end."""
    monkeypatch.setattr(RingDriver, "_wait", _woken_by_pollerr(RingDriver._wait))
    monkeypatch.setattr(SyscallDriver, "_wait", _woken_by_pollerr(SyscallDriver._wait))
    attempts = []
    for cls in RingDriver, SyscallDriver:
        real = cls._attempt
        monkeypatch.setattr(cls, "_attempt", lambda self, job, real=real: attempts.append(1) or real(self, job))
    with Ring(8) as ring:
        driver = RingDriver(ring) if kind == "ring" else SyscallDriver()
        job = Job(sock, packed(silent), start_of(driver), 0.2)
        finish(driver, job)
    assert outcome(job) == "timed out"
    assert 3 < len(attempts) < 20       # after 1, 2, 4, ... 50 ms


@pytest.mark.parametrize("before, expected", [(False, EINPROGRESS), (True, EALREADY)])
def test_ealready_of_its_own_handshake_is_einprogress(silent, sock, before, expected):
    """Era A, after a POLLERR that is none (E23): the request is tried once more, and meets itself."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 20_000))
    job = Job(sock, packed(silent), m.START)
    driver = RingDriver(ScriptedRing())
    if before:
        sock.setblocking(False)
        connect2(sock, silent)
        sock.setblocking(True)
    driver._look(job)
    job.machine.state, job.result = m.TRYING, -EALREADY
    event, code = driver._heard(job)
    job.machine.feed(event, code)
    assert (job.machine.state, job.machine.error) == (m.WAITING, expected)


@pytest.mark.parametrize("kind", ["ring", "syscall"])
def test_a_shutdown_during_a_pause_is_no_success_and_no_new_connect(io_uring, kind, silent, sock, monkeypatch):
    """E9 and E23 together."""
    monkeypatch.setattr(RingDriver, "_wait", _woken_by_pollerr(RingDriver._wait))
    monkeypatch.setattr(SyscallDriver, "_wait", _woken_by_pollerr(SyscallDriver._wait))
    with Ring(8) as ring:
        driver = RingDriver(ring) if kind == "ring" else SyscallDriver()
        job = Job(sock, packed(silent), start_of(driver), 30)
        driver.start(job)
        while not (job.pauses and job.machine.state == m.WAITING):
            driver.step()
        if kind == "ring":
            ring.submit()
        sock.shutdown(socket.SHUT_RDWR)
        while not driver.finished:
            driver.step()
    assert outcome(job) == ECONNRESET


@pytest.mark.parametrize("kind", ["ring", "syscall"])
def test_a_socket_closed_meanwhile_is_not_taken_for_the_next_one_with_its_number(io_uring, kind, silent, listener):
    with Ring(8) as ring, contextlib.ExitStack() as stack:
        driver = RingDriver(ring) if kind == "ring" else SyscallDriver()
        sock = stack.enter_context(socket.socket())
        job = Job(sock, packed(silent), start_of(driver), 0.2)
        driver.start(job)
        while job.machine.state != m.WAITING:
            driver.step()
        number = sock.fileno()
        sock.close()
        other = stack.enter_context(socket.socket())
        assert other.fileno() == number
        while not driver.finished:
            driver.step()
        assert outcome(job) in ("timed out", errno.EBADF)
        with pytest.raises(OSError):
            other.getpeername()


@pytest.mark.parametrize("kind", ["ring", "syscall"])
def test_a_family_that_nobody_has_measured_goes_to_connect_2(io_uring, kind, monkeypatch):
    if not hasattr(socket, "AF_VSOCK"):
        pytest.skip("this Python has no AF_VSOCK")
    try:
        sock = socket.socket(socket.AF_VSOCK)
    except OSError as error:
        pytest.skip(f"no AF_VSOCK here: {error}")
    _answering(monkeypatch, ECONNREFUSED)
    with sock, Ring(8) as ring:
        driver = RingDriver(ring) if kind == "ring" else SyscallDriver()
        job = Job(sock, SockAddr(bytes(16)), m.START_PLAIN, waits=True)
        finish(driver, job)
    assert outcome(job) == ECONNREFUSED


def _woken_by_pollerr(wait):
    def woken(self, job):
        if not job.pauses:
            return driver_module._woken(job, POLLERR), 0
        return wait(self, job)
    return woken


def test_a_fresh_socket_is_not_scrubbed_one_of_the_callers_is_where_it_was_left_dirty(io_uring, refused,
                                                                                  monkeypatch):
    real, scrubbed = RingDriver._scrub, []
    monkeypatch.setattr(RingDriver, "_scrub", lambda self, job: scrubbed.append(job) or real(self, job))
    monkeypatch.setattr(driver_module, "_half_ended", lambda fd: True)      # E11, on any kernel
    asked = []

    def tcp_info(sock):         # before: nothing sent; afterwards: closed, and a segment sent
        asked.append(sock)
        return driver_module._TCP_CLOSE, asked.count(sock) - 1
    monkeypatch.setattr(driver_module, "_tcp_info", tcp_info)
    with Ring(8) as ring, socket.socket() as ours, socket.socket() as theirs:
        driver = RingDriver(ring)
        fresh, old = Job(ours, packed(refused), m.START_FRESH), Job(theirs, packed(refused), m.START)
        finish(driver, fresh, old)
        assert (outcome(fresh), outcome(old)) == (ECONNREFUSED, ECONNREFUSED)
        assert scrubbed == [old]


@pytest.mark.parametrize("proto", [0, driver_module.IPPROTO_MPTCP], ids=["tcp", "mptcp"])
def test_a_socket_disconnected_before_it_waits_is_not_connected_again(io_uring, silent, monkeypatch, proto):
    """E9: between the attempt and the wait another thread has shut it down."""
    real = RingDriver._wait
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
    except OSError as error:
        pytest.skip(f"no such sockets here: {error}")

    def wait(self, job):
        sock.shutdown(socket.SHUT_RDWR)
        return real(self, job)

    monkeypatch.setattr(RingDriver, "_wait", wait)
    with sock, Ring(8) as ring:
        driver = RingDriver(ring)
        job = Job(sock, packed(silent), m.START, waits=True)
        driver.start(job)
        while not driver.finished:
            driver.step(job.owed)
        assert outcome(job) in (ECONNRESET, ECONNABORTED)       # the latter is MPTCP's, as connect(2)'s


def test_a_driver_dropped_with_jobs_under_way_leaves_nothing(real_driver, silent):
    # The fixture closes the ring, which cancels; nothing_left_behind looks.
    with contextlib.ExitStack() as stack:
        jobs = [Job(stack.enter_context(socket.socket()), packed(silent), start_of(real_driver), 30)
                for _ in range(5)]
        for job in jobs:
            driver = real_driver
            driver.start(job)
        if isinstance(driver, RingDriver):
            driver.step()
            driver.step(0)
            driver.ring.close()


@pytest.mark.parametrize("waits", [True, False], ids=["alone", "among others"])
def test_so_sndtimeo_ends_it_as_it_ends_connect_2(real_driver, silent, waits):
    # E14. Three on one socket: EINPROGRESS, then EALREADY twice.
    def three(connect):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 30_000))
            return [connect(sock, silent) for _ in range(3)], os.get_blocking(sock.fileno())

    def through_driver(sock, address):
        job = Job(sock, packed(address), start_of(real_driver, fresh=False), waits=waits)
        finish(real_driver, job)
        return outcome(job)

    expected = ([EINPROGRESS, EALREADY, EALREADY], True)
    assert undisturbed(three, connect2) == expected
    assert three(through_driver) == expected


@pytest.mark.parametrize("waits", [True, False], ids=["alone", "among others"])
def test_so_sndtimeo_of_a_full_unix_backlog_is_eagain(real_driver, tmp_path, waits):
    path = str(tmp_path / "full")
    with socket.socket(AF_UNIX) as full, socket.socket(AF_UNIX) as filler, \
            socket.socket(AF_UNIX) as sock:
        full.bind(path)
        full.listen(0)
        filler.connect(path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 30_000))
        assert undisturbed(connect2, sock, packed(path, AF_UNIX)) == EAGAIN
        job = Job(sock, packed(path, AF_UNIX), m.START_PLAIN, waits=waits)
        finish(real_driver, job)
        assert outcome(job) == EAGAIN


@pytest.mark.parametrize("start", [m.START_NATIVE, m.START_PLAIN])
def test_where_workers_have_another_directory_native_is_the_opcode_all_the_same(
        io_uring, tmp_path, start):
    # E17. A connect(2) that may not wait would say EAGAIN, and native has no second try.
    path = str(tmp_path / "full")
    with socket.socket(AF_UNIX) as full, socket.socket(AF_UNIX) as filler, \
            socket.socket(AF_UNIX) as sock, Ring(8) as ring:
        ring.features &= ~IORING_FEAT_NATIVE_WORKERS
        full.bind(path)
        full.listen(0)
        filler.connect(path)
        job = Job(sock, packed(path, AF_UNIX), start, 0.03)
        finish(RingDriver(ring), job)
        assert outcome(job) == "timed out"


def test_so_sndtimeo_means_nothing_to_a_socket_that_does_not_block(real_driver, silent, sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 1000))
    sock.setblocking(False)
    job = Job(sock, packed(silent), start_of(real_driver), 0.1)
    finish(real_driver, job)
    assert outcome(job) == "timed out"


@pytest.mark.parametrize("timeout, sndtimeo_us, expected", [
    (30, 20_000, EINPROGRESS), (0.02, 30_000_000, "timed out")], ids=["SO_SNDTIMEO", "timeout"])
def test_the_shorter_of_timeout_and_so_sndtimeo_counts(real_driver, silent, sock, timeout,
                                                       sndtimeo_us, expected):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO,
                    struct.pack("@ll", *divmod(sndtimeo_us, 1_000_000)))
    job = Job(sock, packed(silent), start_of(real_driver), timeout)
    finish(real_driver, job)
    assert outcome(job) == expected


def test_step_0_does_not_wait(real_driver, silent, sock):
    job = Job(sock, packed(silent), start_of(real_driver))
    if isinstance(real_driver, SyscallDriver):
        sock.setblocking(False)
    real_driver.start(job)
    for _ in range(5):
        real_driver.step(0)
    assert not real_driver.finished
    assert job.machine.state == m.WAITING


def test_time_spent_before_the_submission_does_not_count(io_uring, sock, silent, monkeypatch):
    # connect_many() prepares many before it submits, and may resolve names in between.
    with Ring(8) as ring:
        driver = RingDriver(ring)
        job = Job(sock, packed(silent), m.START_FRESH, 5)
        driver.start(job)
        before = job.deadline
        later = time.monotonic() + 100
        monkeypatch.setattr(driver_module.time, "monotonic", lambda: later)
        driver.step()
        assert job.deadline == later + 5 > before


# -- connect(2) and poll(2), scripted --------------------------------------------------------------
def _answering(monkeypatch, *codes):
    """connect(2) answers with these, one after the other; tells whether the fd would have blocked."""
    codes, blocked = list(codes), []

    def connect(fd, raw):
        blocked.append(os.get_blocking(fd))
        code = codes.pop(0)
        if isinstance(code, BaseException):
            raise code
        return -code

    monkeypatch.setattr(driver_module.syscalls, "connect", connect)
    return blocked


@pytest.mark.parametrize("blocking, waits, timeout, blocks", [
    (True, True, None, True), (True, True, 5, False), (True, False, None, False),
    (False, True, None, False), (False, True, 5, False)])
def test_connect_2_blocks_only_where_nothing_else_waits(sock, monkeypatch, blocking, waits, timeout,
                                                        blocks):
    sock.setblocking(blocking)
    blocked = _answering(monkeypatch, ECONNREFUSED)
    job = Job(sock, packed(("127.0.0.1", 1)), m.START_SYSCALL, timeout, waits=waits)
    finish(SyscallDriver(), job)
    assert blocked == [blocks]
    assert outcome(job) == ECONNREFUSED
    assert os.get_blocking(sock.fileno()) == blocking


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("timeout", [None, 5])
def test_an_exception_inside_connect_2_leaves_the_mode_alone(sock, monkeypatch, timeout, error):
    _answering(monkeypatch, error)
    with pytest.raises(type(error)):
        SyscallDriver().start(Job(sock, packed(("127.0.0.1", 1)), m.START_SYSCALL, timeout, waits=True))
    assert os.get_blocking(sock.fileno())


@pytest.mark.parametrize("codes, expected", [
    ([0], 0), ([EISCONN], EISCONN), ([ECONNRESET], ECONNRESET), ([errno.EACCES], errno.EACCES),
    ([EINPROGRESS], EINPROGRESS), ([EALREADY], EALREADY), ([EAGAIN], EAGAIN),
    # The socket never connected, so poll(2) calls it HUP; POLLOUT alone can't be had here.
    ([EINTR], ECONNABORTED),
])
def test_what_a_blocking_connect_2_says_is_the_outcome(sock, monkeypatch, codes, expected):
    _answering(monkeypatch, *codes)
    job = Job(sock, packed(("127.0.0.1", 1)), m.START_SYSCALL, waits=True)
    finish(SyscallDriver(), job)
    assert outcome(job) == expected


def test_a_signal_in_the_middle_of_a_blocking_connect_2_does_not_end_it(listener, sock, monkeypatch):
    # EINTR, while the handshake goes on; poll waits for it, and the next one takes the outcome without
    # blocking: it would wait for all of SO_SNDTIMEO again.
    real = syscalls.connect
    calls = []

    def connect(fd, raw):
        calls.append(os.get_blocking(fd))
        code = real(fd, raw)
        return -EINTR if len(calls) == 1 else code

    monkeypatch.setattr(driver_module.syscalls, "connect", connect)
    job = Job(sock, packed(listener.getsockname()), m.START_SYSCALL, waits=True)
    finish(SyscallDriver(), job)
    assert outcome(job) == 0
    assert calls == [True, False]
    assert sock.getblocking() and os.get_blocking(sock.fileno())


@pytest.fixture
def ticking():
    """A signal every 50 ms, whose handler returns."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind, expected", [("tcp", EINPROGRESS), ("unix", EAGAIN)])
def test_signals_do_not_make_so_sndtimeo_longer(kind, expected, silent, ticking):
    # Each EINTR used to start another full SO_SNDTIMEO: with signals that keep coming, for ever.
    with contextlib.ExitStack() as stack:
        if kind == "tcp":
            address, sock = silent, stack.enter_context(socket.socket())
        else:
            full, first, sock = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3))
            full.bind("")
            full.listen(0)
            address = full.getsockname()
            first.connect(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 300_000))
        start = m.START_SYSCALL if kind == "tcp" else m.START_PLAIN
        job = Job(sock, SockAddr(sockaddr.pack(sock.family, address)), start, waits=True)
        began = time.monotonic()
        finish(SyscallDriver(), job)
        assert outcome(job) == expected
        assert 0.25 < time.monotonic() - began < 5


@pytest.mark.parametrize("blocking", [True, False])
def test_no_free_port_is_an_error_and_not_a_full_backlog(real_driver, blocking, monkeypatch):
    # connect(2) of UDP says EAGAIN when it finds no ephemeral port (ip(7)): there is nothing to wait for.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(blocking)
        job = Job(sock, packed(("127.0.0.1", 9)), m.START_PLAIN, 5)
        assert real_driver._answer(job, EAGAIN, False) == (m.ERROR, EAGAIN)
        if isinstance(real_driver, SyscallDriver):
            monkeypatch.setattr(driver_module.syscalls, "connect", lambda *_: -EAGAIN)
            finish(real_driver, job)
            assert outcome(job) == EAGAIN


def test_a_timeout_beyond_what_poll_2_can_count_is_waited_for_in_pieces(sock, silent, monkeypatch):
    asked = []

    class Poll:
        def register(self, fd, mask):
            pass

        unregister = register

        def poll(self, timeout_ms):
            asked.append(timeout_ms)
            struct.pack("i", timeout_ms)
            return []

    driver = SyscallDriver()
    driver._poll = Poll()
    driver.start(Job(sock, packed(silent), m.START_SYSCALL, 1e9))
    driver.step()
    assert asked == [2**31 - 1]
    assert not driver.finished


def test_sleeping_jobs_wake_in_time_and_one_by_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(driver_module.time, "monotonic", lambda: now[0])
    driver, polls = SyscallDriver(), []

    class Poll:
        def poll(self, timeout_ms):
            polls.append(timeout_ms)
            now[0] += timeout_ms / 1000
            return []

    driver._poll = Poll()
    blocked = _answering(monkeypatch, *[EAGAIN] * 4, 0)
    with socket.socket(AF_UNIX) as sock:
        job = Job(sock, packed("/nowhere", AF_UNIX), m.START_PLAIN, 10)
        finish(driver, job)
    assert outcome(job) == 0
    assert polls == sorted(polls)
    assert min(polls) >= 1      # 0 would spin
    assert blocked == [False] * 5


# -- jobs ------------------------------------------------------------------------------------------
def test_limit_is_the_earlier_one_and_tells_which(sock, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(driver_module.time, "monotonic", lambda: now[0])

    def job(timeout, sndtimeo, blocking=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", sndtimeo, 0))
        sock.setblocking(blocking)
        job = Job(sock, packed(("127.0.0.1", 1)), m.START, timeout)
        return job.limit(), job.ran_out()

    assert job(None, 0) == (None, m.EXPIRED)
    assert job(5, 0) == (105, m.EXPIRED)
    assert job(None, 3) == (103, m.SNDTIMEO)
    assert job(5, 3) == (103, m.SNDTIMEO)
    assert job(2, 3) == (102, m.EXPIRED)
    assert job(3, 3) == (103, m.EXPIRED)
    assert job(None, 3, blocking=False) == (None, m.EXPIRED)


def test_so_sndtimeo_counts_from_where_waiting_begins_and_is_read_once(sock, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(driver_module.time, "monotonic", lambda: now[0])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 3, 500_000))
    job = Job(sock, packed(("127.0.0.1", 1)), m.START)
    now[0] = 110.0
    assert job.limit() == 113.5
    now[0] = 120.0
    assert job.limit() == 113.5


def test_a_pause_never_passes_the_limit(sock, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(driver_module.time, "monotonic", lambda: now[0])
    job = Job(sock, packed(("127.0.0.1", 1)), m.START_PLAIN, 0.01)
    pauses = []
    while job.slept() == m.READY:
        pauses.append(job.next_pause())
        now[0] += pauses[-1]
        assert len(pauses) < 100
    assert job.slept() == m.EXPIRED
    assert now[0] == pytest.approx(100.01)
    assert job.next_pause() == 0.0


# -- what a socket tells ---------------------------------------------------------------------------
class FakeTcp:
    def __init__(self, info):
        self.info = info

    def getsockopt(self, level, option, size):
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        if isinstance(self.info, OSError):
            raise self.info
        return self.info[:size]


INFO = bytes([7]) + bytes(135) + struct.pack("=I", 0x01020304) + bytes(100)


@pytest.mark.parametrize("info, expected", [
    (INFO, (7, 0x01020304)), (INFO[:192], (7, 0x01020304)), (INFO[:140], (7, 0x01020304)),
    (INFO[:139], (7, 1)), (INFO[:104], (7, 1)), (INFO[:1], (7, 1)), (b"", (0, 0)),
    (OSError(errno.EOPNOTSUPP, ""), (0, 0)), (OSError(errno.ENOPROTOOPT, ""), (0, 0)),
], ids=["more than asked for", "whole", "just enough", "a byte short", "Linux 3", "one byte", "nothing",
        "unix", "udp"])
def test_tcp_info_of_any_length(info, expected):
    assert driver_module._tcp_info(FakeTcp(info)) == expected


def test_tcp_info_of_real_sockets(listener, refused):
    with socket.socket() as sock:
        assert driver_module._tcp_info(sock) == (driver_module._TCP_CLOSE, 0)
        sock.connect(listener.getsockname())
        state, segs_out = driver_module._tcp_info(sock)
        assert state == 1
        assert segs_out >= 2        # SYN, ACK
    with socket.socket() as sock:
        assert connect2(sock, refused) == ECONNREFUSED
        assert driver_module._tcp_info(sock) == (driver_module._TCP_CLOSE, 0)
    with socket.socket(AF_UNIX) as sock:
        assert driver_module._tcp_info(sock) == (0, 0)
    with socket.socket(AF_INET, socket.SOCK_DGRAM) as sock:
        assert driver_module._tcp_info(sock) == (0, 0)


def test_half_ended_is_a_failure_that_nobody_has_cleaned_up_after(listener, refused):
    half_ended = driver_module._half_ended
    with socket.socket() as sock:
        assert not half_ended(sock.fileno())
        sock.setblocking(False)
        connect2(sock, refused)
        poll_mask(sock, 1000)
        so_error(sock)
        assert half_ended(sock.fileno())
        assert connect2(sock, refused) == ECONNABORTED
        assert not half_ended(sock.fileno())        # cleaned up
    with socket.socket() as sock:
        sock.connect(listener.getsockname())
        assert not half_ended(sock.fileno())


def test_a_socket_that_was_shut_down_before_it_ever_connected_is_clean(refused, sock):
    with pytest.raises(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    assert driver_module._half_ended(sock.fileno())
    job = Job(sock, packed(refused), m.START)
    assert RingDriver(None)._look(job) == (m.CLEAN, 0)


def test_what_no_longer_waits_is_not_kept(listener):
    # A limit that is far away, and many that have connected long before.
    driver = SyscallDriver()
    for _ in range(50):
        socks = [socket.socket() for _ in range(20)]
        for each in socks:
            each.setblocking(False)
            driver.start(Job(each, SockAddr(sockaddr.pack(AF_INET, listener.getsockname())),
                             m.START_SYSCALL, 3600))
        while len(driver.finished) < 20:
            driver.step()
        driver.finished.clear()
        for each in socks:
            each.close()
            with contextlib.suppress(BlockingIOError):
                listener.setblocking(False)
                while True:
                    listener.accept()[0].close()
    driver.step(0)
    assert len(driver._limits) <= 64
    assert not driver._waiting
