"""examine.py - which errata this kernel's IORING_OP_CONNECT shows, found by trying it.

No version is read here. Some twenty requests on sockets of our own, on loopback, show how the
kernel treats a refused, a repeated, an interrupted and a pending connect. What that makes of the
kernel is told by eras.recognise(); read eras.py first. probe() (capabilities.py) is the caller.

Some facts about "still pending"
--------------------------------
Four of the questions are whether a request goes on waiting. To give it time would be slow, and
wrong on a machine that is slower still; so each is asked so that an order of events answers it:

  - A connect that must not wait answers while it is submitted: the kernel has called the socket's
    own connect, without blocking, by the time io_uring_enter returns.
  - What shutdown(2) does to a waiting request is queued for this thread before shutdown(2)
    returns. Without DEFER_TASKRUN it is then done on the way out of that same system call; with
    it, inside our next io_uring_enter(GETEVENTS).
  - Of two waits with the same time limit the one that began first is over first.

Only a worker thread (io-wq) answers in a time of its own: that concerns Linux 5.5, 5.6 and one
detail of early 5.10, and there we wait.
"""
from __future__ import annotations

import os
import select
import socket
from errno import (
    EAGAIN, EALREADY, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINPROGRESS, EINTR, EINVAL, ETIME,
)
from socket import AF_INET, AF_UNIX, SO_ERROR, SO_SNDTIMEO, SOL_SOCKET
from struct import pack

from . import errors, syscalls
from .abi import IORING_FEAT_FAST_POLL, IORING_FEAT_NATIVE_WORKERS, IORING_SETUP_DEFER_TASKRUN
from .sockaddr import SockAddr
from .sockaddr import pack as pack_address

#: What observe() can tell by trying; the other errata follow from the era.
OBSERVABLE = frozenset("E1 E2 E4 E5 E7 E8 E9 E10 E11 E12 E13 E14 E16 E17 E19".split())

_PATIENCE = 1.0             # seconds for what is certain to come on a loopback that works
_WORKER_PATIENCE = 0.005    # for a worker thread that may have an answer (E5)


def observe(ring) -> frozenset[str]:
    """The ids of OBSERVABLE that this kernel shows, tried over `ring`.

    ring   a Ring with four free SQEs at least and nothing in flight. Close it afterwards: that
           cancels the requests which are still pending
    Takes two ticks of the kernel's clock (8 ms at 250 a second) and less than 2 ms beyond.
    OSError: loopback or sockets can't be had, or do not behave as TCP does; ETIME: no answer.
    """
    sockets: list[socket.socket] = []
    try:
        return frozenset(_Examination(ring, sockets).run())
    finally:
        for sock in sockets:
            sock.close()


class _Examination:
    def __init__(self, ring, sockets):
        self.ring = ring
        self.sockets = sockets
        self.serial = 0
        self.answers: dict[int, int] = {}       # user_data -> res
        self.fast_poll = bool(ring.features & IORING_FEAT_FAST_POLL)
        self.seen: set[str] = set()
        self.listener = self.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.address = SockAddr(pack_address(int(AF_INET), self.listener.getsockname()))

    def run(self):
        """Try everything -> the ids that were seen."""
        if not self.ring.features & IORING_FEAT_NATIVE_WORKERS:
            self.seen.add("E17")        # workers have a directory of their own: nothing to try
        self.refused()                  # nobody listens yet
        if "E1" in self.seen:
            return {"E1"}
        self.error_taken()
        self.connected()                # which fills the accept queue: from here on it is full
        self.under_way()
        self.cut_off(*self.not_blocking())
        self.cancelling()
        self.unix_backlog()
        return self.seen

    # -- the questions, in the order of run() ----------------------------------------------------
    def refused(self):
        sock = self.socket()
        first = self.answer(self.request(sock))
        if first == -EINVAL:
            self.seen.add("E1")
            return
        # ECONNRESET: only where the refusal came late, as on a busy machine it can.
        self.expect(first in (-ECONNREFUSED, -ECONNRESET), "a connect where nobody listens", first)
        if first == -ECONNRESET:
            self.seen.add("E10")
        sock.setblocking(False)
        if syscalls.connect(sock.fileno(), self.address.raw) == -ECONNABORTED:
            self.seen.add("E11")

        sock = self.socket()
        self.answer(self.request(sock))
        if self.answer(self.request(sock)) == -ECONNABORTED:
            self.seen.add("E7")

    def error_taken(self):
        sock = self.socket()
        self.begin(sock)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        poll.poll(_PATIENCE * 1000)
        taken = sock.getsockopt(SOL_SOCKET, SO_ERROR)
        self.expect(taken == ECONNREFUSED, "SO_ERROR after a refusal", -taken)
        if self.answer(self.request(sock)) != -ECONNABORTED:
            self.seen.add("E12")

    def connected(self):
        self.listener.listen(1)
        sock = self.socket()
        first = self.answer(self.request(sock))
        self.expect(first == 0, "a connect to a listener", first)
        if self.answer(self.request(sock)) == 0:
            self.seen.add("E8")
        # Room for one more than 0, and that one has come: the next SYN is dropped, as nobody
        # accepts. (Not listen(0) at once: then it would depend on how the kernel counts.)
        self.listener.listen(0)

    def under_way(self):
        sock = self.socket()
        self.begin(sock)
        if self.answer_now(self.request(sock)) == -EALREADY:
            self.seen.add("E13")

    def not_blocking(self):
        """-> the request that is left pending, its socket."""
        sock = self.socket()
        sock.setblocking(False)
        request = self.request(sock)
        if not self.fast_poll:                          # from a worker thread, so later
            if self.answer(request) == -EALREADY:
                self.seen.add("E2")
        elif self.answer_now(request) is None:
            self.seen.add("E4")
        return request, sock

    def cut_off(self, other_request, other):
        if not self.fast_poll:
            return          # Linux 5.5, 5.6: a worker thread is in connect(2), with its answers
        limited, yardstick = self.socket(), self.socket()
        for sock in (limited, yardstick):
            # struct timeval, of 64-bit numbers or, where time_t still is so short, 32-bit ones. A
            # microsecond: the kernel rounds up to its clock's tick.
            size = len(sock.getsockopt(SOL_SOCKET, SO_SNDTIMEO, 16))
            sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, pack("=qq" if size == 16 else "=ii", 0, 1))
        request = self.request(limited)
        if self.answer_now(request) is None:
            waited = -EINTR
            while waited == -EINTR:
                waited = syscalls.connect(yardstick.fileno(), self.address.raw)
            self.expect(waited in (-EINPROGRESS, -EALREADY), "connect(2) with SO_SNDTIMEO", waited)
            if self.answer_now(request) is None:
                self.seen.add("E14")

        self.shut_down(limited)
        result = self.answer_now(request)
        if result is None:
            self.seen.add("E9")
        elif result == -ECONNRESET and limited.getsockopt(SOL_SOCKET, SO_ERROR):
            self.seen.add("E10")        # it answered without having looked at the error

        if result is None and "E12" not in self.seen:
            # The oldest form with poll. In early 5.10 it polls once, and its second wait is a
            # worker's, who does not wait where the socket does not block.
            self.shut_down(other)
            if self.answer(other_request, _WORKER_PATIENCE) in (-EALREADY, -EINPROGRESS):
                self.seen.add("E5")

    def cancelling(self):
        # By fd: where the kernel knows the flag, it looks for such a request, and there is none.
        self.serial += 1
        self.ring.prep_cancel_fd(self.listener, user_data=self.serial)
        if self.answer(self.serial) == -EINVAL:
            self.seen.add("E19")

    def unix_backlog(self):
        if not self.ring.flags & IORING_SETUP_DEFER_TASKRUN:
            self.seen.add("E16")        # older than 6.1, where all have it; or it can't be told
            return
        listener, filler, sock = self.socket(AF_UNIX), self.socket(AF_UNIX), self.socket(AF_UNIX)
        listener.bind("")               # the kernel picks an abstract name: unix(7), autobind
        listener.listen(0)
        address = SockAddr(pack_address(int(AF_UNIX), listener.getsockname()))
        filler.setblocking(False)
        sock.setblocking(False)
        syscalls.connect(filler.fileno(), address.raw)
        full = syscalls.connect(sock.fileno(), address.raw)
        self.expect(full == -EAGAIN, "a connect to a full AF_UNIX backlog", full)
        # A poll round is task work, which under DEFER_TASKRUN waits until we ask for events. What
        # is answered before that was answered at the first try.
        request = self.request(sock, address)
        self.ring.submit()
        if not self.ring.cq_ready:
            self.seen.add("E16")
        self.answer(request)

    # -- the means -------------------------------------------------------------------------------
    def socket(self, family=AF_INET):
        """A blocking stream socket, whatever socket.setdefaulttimeout() says; closed in the end."""
        sock = socket.socket(family)
        self.sockets.append(sock)
        sock.setblocking(True)
        return sock

    def begin(self, sock):
        """connect(2) without waiting; the socket blocks again afterwards."""
        sock.setblocking(False)
        result = syscalls.connect(sock.fileno(), self.address.raw)
        self.expect(result == -EINPROGRESS, "connect(2) that does not wait", result)
        sock.setblocking(True)

    def request(self, sock, address=None):
        """Prepare one IORING_OP_CONNECT -> its user_data."""
        self.serial += 1
        self.ring.prep_connect(sock, address or self.address, user_data=self.serial)
        return self.serial

    def shut_down(self, sock):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def answer_now(self, request):
        """Its result, None when it has none by now: see the head of this file."""
        self.ring.submit_and_get_events()
        self.answers.update((cqe.user_data, cqe.res) for cqe in self.ring.reap())
        return self.answers.get(request)

    def answer(self, request, patience=_PATIENCE):
        """Its result, waited for. OSError ETIME when it does not come; with less patience None."""
        result = self.answer_now(request)
        while result is None:
            self.ring.submit_and_wait(1, patience)
            cqes = self.ring.reap()
            if not cqes:
                if patience < _PATIENCE:
                    return None
                raise errors.os_error(ETIME, "examining the kernel's connect")
            self.answers.update((cqe.user_data, cqe.res) for cqe in cqes)
            result = self.answers.get(request)
        return result

    @staticmethod
    def expect(holds, what, result):
        """OSError where this machine answers what no erratum explains."""
        if not holds:
            raise OSError(-result or EINVAL, f"examining the kernel's connect: {what} gave "
                          f"{errors.name_of(-result)} ({os.strerror(-result)})")
