"""scenarios.py - what can happen to a socket that is being connected, as functions of a Stage.

What holds for every scenario: steps follow each other because the kernel says that the last one is
over, not because some time has passed; whatever connect(2) answers is right. See parity.py for the
stage and for how the answers are compared. A docstring says where a scenario comes from when it is
another project's; E7 and the like are numbers of pyuring/eras.py.
"""
import os
import select
import socket
import struct
import time
from select import POLLIN, POLLOUT
from socket import SHUT_RD, SHUT_RDWR, SHUT_WR, SO_LINGER, SO_SNDTIMEO, SOL_SOCKET

from parity import LIMIT, TCP, UNIX_STREAM, scenario
from pyuring.sockaddr import UNSPEC, SockAddr

STREAM = (*TCP, *UNIX_STREAM)


# -- one connect after the other -----------------------------------------------------------------
@scenario(*STREAM)
def refused_thrice(stage):
    """E7."""
    stage.client()
    stage.connect(stage.bound(), times=3)


@scenario(*STREAM)
def refused_thrice_nonblocking(stage):
    stage.client(blocking=False)
    stage.connect(stage.bound(), times=3)


@scenario(*STREAM)
def refused_then_listening(stage):
    """E7: the second one connects."""
    stage.client()
    server = stage.bound()
    stage.connect(server)
    server.listen()
    stage.connect(server, times=2)


@scenario(*STREAM)
def refused_then_listening_nonblocking(stage):
    stage.client(blocking=False)
    server = stage.bound()
    stage.connect(server)
    server.listen()
    stage.connect(server, times=2)


@scenario(*STREAM)
def connected_thrice(stage):
    """E8."""
    stage.client()
    stage.connect(stage.listener(), times=3)


@scenario(*STREAM)
def connected_thrice_nonblocking(stage):
    stage.client(blocking=False)
    stage.connect(stage.listener(), times=3)


@scenario(*STREAM)
def connected_sends_and_connects(stage):
    stage.client()
    server = stage.listener()
    stage.connect(server)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(server)


@scenario(*STREAM)
def refused_here_connected_there(stage):
    stage.client()
    stage.connect(stage.bound())
    stage.connect(stage.listener())
    stage.connect(stage.listener())


# -- the outcome comes late: the first SYN found a full accept queue --------------------------------
def late(stage, end, times, blocking=True):
    server = stage.silent()
    stage.client(blocking)
    pending = stage.begin(server)
    address = stage.address(server)
    end(server)
    pending.finish()
    if server.fileno() >= 0:
        stage.empty(server)
    stage.connect(address, times=times)


@scenario(*STREAM, slow=True)
def late_refusal(stage):
    """E10."""
    late(stage, socket.socket.close, 2)


@scenario(*TCP, slow=True)
def late_refusal_nonblocking(stage):
    late(stage, socket.socket.close, 2, blocking=False)


@scenario(*STREAM, slow=True)
def late_success(stage):
    late(stage, stage.empty, 2)


@scenario(*TCP, slow=True)
def late_success_nonblocking(stage):
    late(stage, stage.empty, 2, blocking=False)


@scenario(*TCP, slow=True)
def late_refusal_whose_error_is_taken(stage):
    """E10: the next connect must not find the old error again."""
    server = stage.silent()
    stage.client()
    pending = stage.begin(server)
    server.close()
    pending.finish()
    stage.so_error()
    stage.connect(stage.bound(), times=2)


@scenario("tcp4", "tcp6", slow=True)        # MPTCP has no TCP_SYNCNT
def times_out(stage):
    """ETIMEDOUT, after one retransmission of the SYN (3 s)."""
    server = stage.silent()
    stage.client().setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    stage.connect(server)
    server.close()
    stage.connect(stage.bound(), times=2)


# -- somebody else has a hand in it -----------------------------------------------------------------
# What a shutdown or an AF_UNSPEC does to a connect depends on whether a thread sleeps in connect(2)
# (E21, E22). With a timeout nobody does, neither in pyuring nor in socket.connect(): then what
# nonblocking connect(2), poll(2) and SO_ERROR make of it is as good (polled). What the second of two
# threads hears then is a race with what the first one does after its poll; it is not compared.
UNTIMED = ("native", "emulated", "syscall")
def meddle(stage, what, how, blocking=True):
    server = stage.silent()
    stage.client(blocking)
    pending = stage.begin(server)
    stage.call(what, how)
    pending.finish()


@scenario(*TCP, slow=True, polled=True)
def shutdown_while_pending(stage):
    """E9, E21."""
    meddle(stage, "shutdown", lambda: stage.sock.shutdown(SHUT_RDWR))


@scenario(*TCP, slow=True, polled=True)
def shutdown_read_while_pending(stage):
    meddle(stage, "shutdown", lambda: stage.sock.shutdown(SHUT_RD))


@scenario(*TCP, slow=True, polled=True)
def shutdown_write_while_pending(stage):
    meddle(stage, "shutdown", lambda: stage.sock.shutdown(SHUT_WR))


@scenario(*UNIX_STREAM, slow=True)
def shutdown_while_pending_unix(stage):
    server = stage.silent()
    stage.client()
    pending = stage.begin(server)
    stage.call("shutdown", lambda: stage.sock.shutdown(SHUT_RDWR))
    server.close()
    pending.finish()


@scenario(*TCP, slow=True, polled=True)
def unspec_while_pending(stage):
    """E9, E22: connect with AF_UNSPEC dissolves what another thread waits for."""
    meddle(stage, "unspec", lambda: stage.connect2(SockAddr(UNSPEC)))


@scenario(*TCP, slow=True, polled="only")
def shutdown_while_pending_nonblocking(stage):
    """E9. Only a poll(2) can wait on such a socket."""
    meddle(stage, "shutdown", lambda: stage.sock.shutdown(SHUT_RDWR), blocking=False)


@scenario(*TCP, slow=True, polled="only")
def unspec_while_pending_nonblocking(stage):
    """E9."""
    meddle(stage, "unspec", lambda: stage.connect2(SockAddr(UNSPEC)), blocking=False)


@scenario(*TCP, slow=True)
def listen_while_pending(stage):
    server = stage.silent()
    stage.client()
    pending = stage.begin(server)
    stage.call("listen", stage.sock.listen)
    server.close()
    pending.finish()


@scenario(*TCP, aftermaths=(), slow=True, polled=True)
def closed_while_pending(stage):
    """E20: closing the fd ends nothing; the thread hears of the refusal."""
    server = stage.silent()
    stage.client()
    pending = stage.begin(server)
    time.sleep(0.5)                         # where /proc can't tell that it waits in the kernel
    with open(os.devnull) as devnull:       # so that nobody else gets the number meanwhile
        os.dup2(devnull.fileno(), stage.sock.fileno())
    server.close()
    pending.finish()


@scenario(*TCP, slow=True, ways=UNTIMED)
def elsewhere_while_pending(stage):
    """A second thread connects the same socket to another address: it joins the first."""
    two_threads(stage, stage.listener(), socket.socket.close)


@scenario(*TCP, slow=True, ways=UNTIMED)
def two_threads_refused(stage):
    """E13, E22: which of the two hears of it first is a race; what the two hear is not."""
    two_threads(stage, None, socket.socket.close)


@scenario(*TCP, slow=True)
def two_threads_connected(stage):
    """E13."""
    two_threads(stage, None, stage.empty)


def two_threads(stage, second, end):
    server = stage.silent()
    stage.client()
    pending = [stage.begin(server), stage.begin(second or server)]
    end(server)
    answers = Recorder(stage)
    for thread in pending:
        thread.finish("one of them")
    answers.in_any_order()


class Recorder:
    """What is written down from here on."""

    def __init__(self, stage):
        self.record, self.start = stage.record, len(stage.record)

    def in_any_order(self):
        """Forget the order."""
        self.record[self.start:] = sorted(self.record[self.start:])


# -- a connect that was begun before, or that ended without anybody taking its error ------------------
def begun(stage, target):
    """Begin a connect without waiting for it, on a socket that blocks afterwards."""
    stage.client(blocking=False)
    stage.connect2(target)
    stage.wait_until_sent(stage.sock)
    stage.sock.setblocking(True)


def refused_in_the_background(stage):
    stage.client(blocking=False)
    stage.connect2(stage.bound())
    poll = select.poll()
    poll.register(stage.sock, POLLIN | POLLOUT)
    poll.poll()
    stage.sock.setblocking(True)


@scenario(*TCP)
def error_not_taken_and_dissolved(stage):
    """E24: on MPTCP the error outlives the AF_UNSPEC, and is nothing that a later success has to do with."""
    refused_in_the_background(stage)
    stage.connect2(SockAddr(UNSPEC))
    stage.connect(stage.listener(), times=2)
    stage.so_error()


@scenario(*TCP)
def error_not_taken_dissolved_and_refused(stage):
    """E24."""
    refused_in_the_background(stage)
    stage.connect2(SockAddr(UNSPEC))
    stage.connect(stage.bound(), times=2)


@scenario(*TCP)
def error_not_taken(stage):
    refused_in_the_background(stage)
    stage.connect(stage.bound(), times=2)


@scenario(*TCP)
def error_taken_by_so_error(stage):
    """E12."""
    refused_in_the_background(stage)
    stage.so_error()
    stage.connect(stage.bound(), times=3)


@scenario(*TCP)
def error_taken_by_so_error_then_listener(stage):
    """E12."""
    refused_in_the_background(stage)
    stage.so_error()
    stage.connect(stage.listener(), times=3)


@scenario(*TCP)
def error_taken_by_so_error_nonblocking(stage):
    """E12."""
    refused_in_the_background(stage)
    stage.so_error()
    stage.sock.setblocking(False)
    stage.connect(stage.bound(), times=3)


@scenario(*TCP)
def error_taken_by_recv(stage):
    """E12."""
    refused_in_the_background(stage)
    stage.call("recv", stage.sock.recv, 1)
    stage.connect(stage.bound(), times=2)


@scenario(*TCP)
def error_taken_by_send(stage):
    """E12."""
    refused_in_the_background(stage)
    stage.call("send", stage.sock.send, b"x")
    stage.connect(stage.bound(), times=2)


@scenario(*TCP)
def connected_in_the_background(stage):
    server = stage.listener()
    begun(stage, server)
    stage.connect(server, times=2)


def joined(stage, end, times):
    """E13."""
    server = stage.silent()
    begun(stage, server)
    pending = stage.begin(server)
    address = stage.address(server)
    end(server)
    pending.finish()
    stage.connect(address, times=times)


@scenario(*TCP, slow=True)
def pending_before_late_refusal(stage):
    joined(stage, socket.socket.close, 2)


@scenario(*TCP, slow=True)
def pending_before_late_success(stage):
    joined(stage, stage.empty, 2)


@scenario(*TCP, slow=True, polled=True)
def pending_before_shutdown(stage):
    joined(stage, lambda server: stage.call("shutdown", stage.sock.shutdown, SHUT_RDWR), 0)


@scenario(*TCP, slow=True, polled=True)
def pending_before_unspec(stage):
    joined(stage, lambda server: stage.connect2(SockAddr(UNSPEC)), 0)


@scenario(*TCP, slow=True)
def pending_before_elsewhere(stage):
    """The address is not looked at while a connect is under way."""
    server = stage.silent()
    begun(stage, server)
    pending = stage.begin(stage.bound())
    stage.empty(server)
    pending.finish()


# -- SO_SNDTIMEO ---------------------------------------------------------------------------------------
def patience(stage, seconds=0, microseconds=150_000):
    stage.sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, struct.pack("ll", seconds, microseconds))


@scenario(*STREAM, slow=True)
def so_sndtimeo(stage):
    """E14."""
    server = stage.silent()
    stage.client()
    patience(stage)
    stage.connect(server, times=2)


@scenario(*TCP, slow=True)
def time_limit_then_late_success(stage):
    """Whoever gives up leaves the handshake as it is; it can be waited for once more."""
    time_limit(stage, stage.empty)


@scenario(*TCP, slow=True)
def time_limit_then_late_refusal(stage):
    time_limit(stage, socket.socket.close)


def time_limit(stage, end):
    server = stage.silent()
    stage.client()
    stage.connect_for(0.15, server)
    address = stage.address(server)
    end(server)
    stage.connect(address, times=2)


@scenario(*TCP, slow=True)
def so_sndtimeo_of_one_begun_before(stage):
    """E13, E14."""
    server = stage.silent()
    begun(stage, server)
    patience(stage)
    stage.connect(server, times=2)


@scenario(*TCP, slow=True)
def so_sndtimeo_then_refused(stage):
    server = stage.silent()
    stage.client()
    patience(stage)
    stage.connect(server)
    server.close()
    patience(stage, 4)
    stage.connect(stage.bound(), times=2)


@scenario(*STREAM)
def so_sndtimeo_that_is_not_needed(stage):
    stage.client()
    patience(stage)
    stage.connect(stage.bound(), times=2)
    stage.connect(stage.listener(), times=2)


# -- closed by the peer ---------------------------------------------------------------------------------
@scenario(*STREAM)
def peer_closes_after_success(stage):
    server = stage.listener()
    stage.client()
    stage.connect(server)
    stage.accept(server).close()
    stage.call("recv", stage.sock.recv, 1)
    stage.connect(server, times=2)


@scenario(*TCP)
def peer_resets_after_success(stage):
    server = stage.listener()
    stage.client()
    stage.connect(server)
    peer = stage.accept(server)
    peer.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    heard = select.poll()
    heard.register(stage.sock, POLLIN)
    heard.poll(LIMIT * 1000)
    stage.connect(server)
    stage.so_error()
    stage.connect(server, times=2)
