"""Memory that an SQE points to stays where it is until the request's last CQE: all requests of pyuring/prep.py.

Read lifetimes.py first, which has the harness; here is the table, and what proves that the harness would notice.
"""
import array
import ctypes
import mmap
import os
import select
import socket
import struct
import threading

import pytest
from fakekernel import FakeKernel
from lifetimes import (  # noqa: F401
    LONG, MODES, MORE, PATHS, TIDY, UD, Flight, SpyRing, Weak, World, close, fly, hostile, request,
)
from onkernel import known, needs
from prepbytes import fake  # noqa: F401

from pyuring import abi
from pyuring.errors import SubmissionQueueFull
from pyuring.ring import CQE, Ring
from pyuring.waiting import EPOLL_EVENT, EpollEvents, FutexWaitv, Siginfo

ALL = abi.FUTEX_BITSET_MATCH_ANY


def wake(address):
    """Wakes the futex there, whoever owns the memory."""
    with Ring(4) as ring:
        ring._sqe(abi.IORING_OP_FUTEX_WAKE, abi.FUTEX2_SIZE_U32, address, 0, 1, addr3=ALL)
        ring.submit_and_wait(1, LONG)
        ring.reap()


def wake_first(ring, world, sqe):
    wake(struct.unpack("=QQ", ctypes.string_at(sqe["addr"], 16))[1])


def remove(ring, world, sqe):
    ring.prep_timeout_remove(UD, user_data=TIDY)


def update_a_timeout(ring, world, args, **keywords):
    ring.prep_timeout(LONG, user_data=TIDY)
    ring.prep_timeout_update(LONG + 0.5, TIDY, **keywords)


def answer_the_read(ring, world, sqe):
    os.write(world.writer, b"x")


def before_a_read(ring, world, args, **keywords):
    reader, world.writer = world.pipe()
    ring.prep_read(reader, bytearray(1), user_data=TIDY, sqe_flags=abi.IOSQE_IO_LINK)
    ring.prep_link_timeout(LONG, **keywords)


def wait_for_a_child(ring, world, args, **keywords):
    reader, writer = world.pipe()
    world.writer, world.child = writer, os.fork()
    if not world.child:
        os.close(writer)
        os.read(reader, 1)
        os._exit(7)
    world.callback(reap_child, world.child)
    world.callback(close, writer)       # called first
    ring.prep_waitid(os.P_PID, world.child, args["infop"], os.WEXITED, **keywords)


def reap_child(pid):
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def let_the_child_go(ring, world, sqe):
    close(world.writer)


def the_child_is_told_of(world, args):
    assert (args["infop"].si_pid, args["infop"].si_status) == (world.child, 7)


def wait_by_epoll(ring, world, args, **keywords):
    epoll = world.enter_context(select.epoll())
    world.left, world.right = map(world.enter_context, socket.socketpair())
    epoll.register(world.left, select.EPOLLIN)
    ring.prep_epoll_wait(epoll, args["events"], **keywords)


def the_socket_is_told_of(world, args):
    assert args["events"].fds(1) == [(world.left.fileno(), select.EPOLLIN)]


def add_to_epoll(ring, world, args, **keywords):
    epoll = world.enter_context(select.epoll())
    ring.prep_epoll_ctl(epoll, world.pipe()[0], abi.EPOLL_CTL_ADD, select.EPOLLIN, 2**64 - 2, **keywords)


def futex(make):
    return request(
        abi.IORING_OP_FUTEX_WAIT, args=lambda world: {"futex": make()},
        prep=lambda ring, world, args, **keywords: ring.prep_futex_wait(args["futex"], 0, **keywords),
        pointers={"addr": 8}, finish=lambda ring, world, sqe: wake(sqe["addr"]))


REQUESTS = {
    "timeout": request(
        abi.IORING_OP_TIMEOUT,
        prep=lambda ring, world, args, **keywords: ring.prep_timeout(LONG + 0.5, **keywords),
        pointers={"addr": 16}, finish=remove,       # which is a failure, of which there always is a CQE
        paths=[path for path in PATHS if path not in ("silent in a chain", "silent alone")]),
    "multishot timeout": request(
        abi.IORING_OP_TIMEOUT,
        prep=lambda ring, world, args, **keywords:
            ring.prep_timeout(LONG + 0.5, 3, abi.IORING_TIMEOUT_MULTISHOT, **keywords),
        pointers={"addr": 16}, finish=remove, paths=("answered", "cancelled", "closed", "never submitted")),
    "timeout_update": request(
        abi.IORING_OP_TIMEOUT_REMOVE,
        prep=update_a_timeout, pointers={"off": 16}),
    "link_timeout": request(
        abi.IORING_OP_LINK_TIMEOUT, prep=before_a_read, pointers={"addr": 16}, finish=answer_the_read,
        paths=("answered", "closed", "never submitted")),
    "futex_wait, bytearray": futex(lambda: Weak(8)),
    "futex_wait, array": futex(lambda: array.array("I", [0, 0])),
    "futex_wait, mmap": futex(lambda: mmap.mmap(-1, mmap.PAGESIZE)),
    "futex_wake": request(
        abi.IORING_OP_FUTEX_WAKE, args=lambda world: {"futex": Weak(8)},
        prep=lambda ring, world, args, **keywords: ring.prep_futex_wake(args["futex"], 1, **keywords),
        pointers={"addr": 8}),
    "futex_waitv": request(
        abi.IORING_OP_FUTEX_WAITV, args=lambda world: {"one": Weak(4), "two": array.array("I", [0])},
        prep=lambda ring, world, args, **keywords:
            ring.prep_futex_waitv([FutexWaitv(0, args["one"]), FutexWaitv(0, args["two"])], **keywords),
        pointers={"addr": 48}, finish=wake_first),
    "waitid": request(
        abi.IORING_OP_WAITID, args=lambda world: {"infop": Siginfo()}, prep=wait_for_a_child, pointers={"off": 128},
        finish=let_the_child_go, effect=the_child_is_told_of),
    "epoll_ctl": request(
        abi.IORING_OP_EPOLL_CTL, prep=add_to_epoll, pointers={"addr": EPOLL_EVENT.size}),
    "epoll_wait": request(
        abi.IORING_OP_EPOLL_WAIT, args=lambda world: {"events": EpollEvents(2)}, prep=wait_by_epoll,
        pointers={"addr": 2 * EPOLL_EVENT.size}, finish=lambda ring, world, sqe: world.right.send(b"x"),
        effect=the_socket_is_told_of),
}
FLIGHTS = [(name, path) for name, what in REQUESTS.items() for path in PATHS if path in what.paths]


@pytest.mark.parametrize("flags", [None, 0], ids=["default", "flags=0"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name, path", FLIGHTS, ids=[f"{name}: {path}" for name, path in FLIGHTS])
def test_memory_stays_until_the_last_cqe(name, path, mode, flags, io_uring, hostile):
    fly(REQUESTS[name], path, mode, flags=flags)


@pytest.mark.parametrize("flags", [None, 0], ids=["default", "flags=0"])
def test_memory_of_a_multishot_request_stays_as_long_as_more_is_to_come(flags, io_uring, hostile):
    what = request(
        abi.IORING_OP_TIMEOUT, prep=lambda ring, world, args, **keywords:
            ring.prep_timeout(0.001, 5, abi.IORING_TIMEOUT_MULTISHOT, **keywords), pointers={"addr": 16})
    with World() as world, SpyRing(4, flags=flags) as ring:
        flight = Flight(ring, what, "dropped", world)
        for more in (MORE, MORE, MORE, MORE, 0):
            flight.held()
            ring.submit_and_wait(1, LONG)
            flight.held()
            cqe = ring.reap(1)[0]
            known(cqe.res, "IORING_TIMEOUT_MULTISHOT", "6.4")
            assert cqe.flags == more
        flight.released()


# ------------------------------------------------------------------------------------- would the harness notice?

class Forgetful(SpyRing):
    """Keeps something, but not the memory."""

    def _sqe(self, *arguments, keeper=None, **fields):
        super()._sqe(*arguments, keeper=None if keeper is None else (), **fields)


class Hoarder(SpyRing):
    """Never lets go."""

    def _account(self, taken):
        self.kept = dict(self._keepers)
        super()._account(taken)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_ring_that_keeps_no_memory_is_found_out(name, mode, monkeypatch, hostile):
    """With a kernel that does not touch the memory it is shown: else this would be a crash now and then."""
    junk = []
    for _ in range(20):
        FakeKernel().install(monkeypatch)
        with World() as world, Forgetful(8) as ring:
            flight = Flight(ring, REQUESTS[name], mode, world)
            assert flight.token() is not None
            try:
                for _ in range(20):     # until its turn has come among all that is free of that size
                    flight.held()
            except (AssertionError, pytest.fail.Exception):
                return
            junk.append(flight.junk)    # the next one lies elsewhere
    pytest.fail("nothing has written over it")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_ring_that_keeps_memory_for_ever_is_found_out(name, mode, fake, hostile):
    with World() as world, Hoarder(8) as ring:
        flight = Flight(ring, REQUESTS[name], mode, world)
        ring.submit()
        fake.complete((UD, 0))
        assert ring.reap() == [CQE(UD, 0, 0)]
        with pytest.raises((AssertionError, BufferError)):
            flight.released()
        ring.kept = None


# ------------------------------------------------------- messages, which answer no request of the ring they are in

@pytest.fixture
def rings(io_uring):
    with Ring(4) as sender, Ring(8) as receiver:
        needs(sender, abi.IORING_OP_MSG_RING)
        yield sender, receiver


def receive(receiver, buffer):
    """A read in flight with user_data UD -> what it waits for."""
    reader, writer = os.pipe()
    receiver.prep_read(reader, buffer, user_data=UD)
    receiver.submit()
    return reader, writer


def take(ring, count):
    got = []
    while len(got) < count:
        ring.submit_and_wait(1, LONG)
        new = ring.reap()
        assert new, f"no CQE for {LONG} s, after {got}"
        got += new
    return got


@pytest.mark.parametrize("first", ["message", "request"])
def test_a_message_and_a_request_in_either_order(first, rings, hostile):
    sender, receiver = rings
    buffer = bytearray(4)
    reader, writer = receive(receiver, buffer)
    steps = {"message": lambda: (sender.prep_msg_ring(receiver, 4, UD), take(sender, 1)),
             "request": lambda: os.write(writer, b"data")}
    if first == "request":              # known beforehand, as it may be there at any moment
        sender.prep_msg_ring(receiver, 4, UD)
        steps["message"] = lambda: take(sender, 1)
    for i, step in enumerate(sorted(steps, key=lambda step: step != first)):
        steps[step]()
        assert take(receiver, 1) == [CQE(UD, 4, 0)]
        if not i:
            with pytest.raises(BufferError):
                buffer.append(0)
    buffer.append(0)
    os.close(reader)
    os.close(writer)


def test_messages_from_other_threads_let_no_memory_go(rings, hostile):
    _, receiver = rings
    buffer = bytearray(4)
    reader, writer = receive(receiver, buffer)

    def send():
        with Ring(4) as mine:
            for i in range(100):
                mine.prep_msg_ring(receiver, i, UD)
                take(mine, 1)
    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    got = 0
    while got < 400:
        got += len(take(receiver, 1))
        with pytest.raises(BufferError):
            buffer.append(0)
    for thread in threads:
        thread.join(LONG)
    os.write(writer, b"data")
    assert take(receiver, 1) == [CQE(UD, 4, 0)]
    buffer.append(0)
    assert not receiver._inflight
    os.close(reader)
    os.close(writer)


def test_a_message_that_says_more_is_to_come_is_not_the_last(rings, hostile):
    sender, receiver = rings
    buffer = bytearray(4)
    reader, writer = receive(receiver, buffer)
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb", 0) as pipe:
        sender.prep_msg_ring_cqe_flags(receiver, 1, UD, 0, MORE)
        known(take(sender, 1)[0].res, "IORING_MSG_RING_FLAGS_PASS", "6.3")
        assert take(receiver, 1) == [CQE(UD, 1, MORE)]
        with pytest.raises(BufferError):
            buffer.append(0)
        pipe.write(b"data")
        assert take(receiver, 1) == [CQE(UD, 4, 0)]
        buffer.append(0)


def test_a_message_that_found_no_sqe_is_not_waited_for(rings, hostile):
    sender, receiver = rings
    for _ in range(4):
        sender.prep_nop()
    with pytest.raises(SubmissionQueueFull):
        sender.prep_msg_ring(receiver, 1, UD)
    with pytest.raises(ValueError, match="user_data -1"):
        sender.submit()
        sender.prep_msg_ring(receiver, 1, UD, user_data=-1)
    buffer = bytearray(4)
    reader, writer = receive(receiver, buffer)
    os.write(writer, b"data")
    assert take(receiver, 1) == [CQE(UD, 4, 0)]
    buffer.append(0)
    os.close(reader)
    os.close(writer)


def test_close_does_not_wait_for_a_message_that_never_comes(rings, hostile):
    sender, receiver = rings
    buffer = bytearray(4)
    reader, writer = receive(receiver, buffer)
    sender.prep_msg_ring(receiver, 1, UD)           # and is not submitted
    receiver.close()
    buffer.append(0)
    os.close(reader)
    os.close(writer)
    sender.submit()
    assert take(sender, 1)[0].res < 0
