"""A harness for one question: does the memory of a request stay where it is until the kernel is done with it?

A Request says how to make its arguments, how to put it into a ring, and what makes it complete. A Flight is one that
is under way: its arguments are dropped, or tried to be resized, freed memory is overwritten, and what the SQE points
to must still be there. PATHS are the ways such a flight can end: answered, cancelled, without a CQE, with the ring.

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("name", REQUESTS)
    def test_memory_stays(name, path, mode, io_uring, hostile):
        fly(REQUESTS[name], path, mode)

test_lifetime.py does so for prep.py; tests of other requests bring a table of their own.
"""
import array
import contextlib
import ctypes
import gc
import mmap
import os
import weakref
from collections import namedtuple

import pytest
from onkernel import LONG, needs

from pyuring import abi
from pyuring.ring import Ring, _orphans

SKIP, LINK, MORE = abi.IOSQE_CQE_SKIP_SUCCESS, abi.IOSQE_IO_LINK, abi.IORING_CQE_F_MORE
UD, NEXT, CANCEL, TIDY = 7, 8, 9, 10        # user_data: the request, the one behind it, its cancel, what finish() needs

# opcode    IORING_OP_*, for the probe
# args      args(world) -> {name: object}: what the caller may drop or resize. Objects that can be watched: Weak,
#           array, mmap, or any class of Python's
# prep      prep(ring, world, args, user_data=, sqe_flags=) puts it into the ring
# pointers  {field of the SQE: bytes that it points to}
# finish    finish(ring, world, sqe) makes it complete; None for what completes by itself, at once
# effect    effect(world, args), after the CQE: did it do its work?
# paths     which PATHS make sense for it
Request = namedtuple("Request", "opcode args prep pointers finish effect paths")


def request(opcode, prep, pointers, *, args=lambda world: {}, finish=None, effect=lambda world, args: None, paths=None):
    return Request(opcode, args, prep, pointers, finish, effect,
                   paths or (PATHS if finish else ("answered", "never submitted", "silent in a chain", "silent alone")))


class World(contextlib.ExitStack):
    """What requests are about: pipes, sockets, children; all closed at the end."""

    def pipe(self):
        fds = os.pipe()
        for fd in fds:
            self.callback(close, fd)
        return fds


def close(fd):
    """os.close() that may come a second time."""
    try:
        os.close(fd)
    except OSError:
        pass


class Weak(bytearray):
    """A bytearray whose end can be seen."""


class Token:
    """Lives as long as the ring keeps what it was given."""


class SpyRing(Ring):
    """Notes what it is asked to put into an SQE, and sees when it lets go of the memory."""

    def _sqe(self, opcode, fd, addr=0, len=0, off=0, *, keeper=None, **fields):
        token = Token()
        super()._sqe(opcode, fd, addr, len, off, keeper=None if keeper is None else (keeper, token), **fields)
        self.seen = {"opcode": opcode, "addr": addr, "off": off, **fields}
        self.token = weakref.ref(token)


def churn(size):
    """Uses memory that has been freed for something else, of this size and around it."""
    gc.collect()
    return [kind(b"\xa5" * (size + more)) for more in (0, 1, 8) for kind in (bytes, bytearray) for _ in range(100)]


@pytest.fixture
def hostile():
    """Garbage is collected after every allocation."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*thresholds)


class Flight:
    """A request under way.

    mode   "dropped": nobody but the ring has the arguments; "resized": we have them, and try to change their size
    """

    def __init__(self, ring, what, mode, world, sqe_flags=0):
        self.ring, self.what, self.world, self.mode = ring, what, world, mode
        args = what.args(world)
        what.prep(ring, world, args, user_data=UD, sqe_flags=sqe_flags)
        self.sqe, self.token = ring.seen, ring.token
        assert self.sqe["opcode"] == what.opcode
        self.before = self.pointed_to()
        self.watch = {name: weakref.ref(arg) for name, arg in args.items()}
        self.args = args if mode == "resized" else None
        del args
        self.junk = [churn(size) for size in what.pointers.values()]

    def pointed_to(self):
        for field in self.what.pointers:
            assert self.sqe[field], f"{field} is no address"
        return {field: ctypes.string_at(self.sqe[field], size) for field, size in self.what.pointers.items()}

    def held(self, done=False):
        """The memory is where it was, and says what it said (unless the kernel has filled it in)."""
        self.junk += [churn(size) for size in self.what.pointers.values()]
        assert self.token() is not None, "the ring has let go of it"
        for name, arg in self.watch.items():
            assert arg() is not None, f"{name} is gone"
        if not done:
            assert self.pointed_to() == self.before
        if self.mode == "resized":
            for name, arg in self.args.items():
                for resize in resizes(arg):
                    with pytest.raises(BufferError):
                        resize()
                        pytest.fail(f"{name} could be resized: {resize}")

    def released(self):
        """Nobody keeps anything of it any more."""
        gc.collect()
        assert self.token() is None, "the ring still keeps it"
        for arg in (self.args or {}).values():
            for resize in resizes(arg):
                resize()
        for name, arg in self.watch.items():
            assert self.args or arg() is None, f"{name} is still there"

    def finish(self):
        if self.what.finish:
            self.what.finish(self.ring, self.world, self.sqe)
        self.ring.submit()

    def land(self, *last, effect=False):
        """Takes CQEs one by one until the last one with such a user_data; until then, the memory is held."""
        while True:
            self.ring.submit_and_wait(1, timeout=LONG)
            self.held(done=True)
            args = {name: arg() for name, arg in self.watch.items()}    # nobody else may have them in a moment
            cqes = self.ring.reap(1)
            assert cqes, f"no CQE for {LONG} s"
            if cqes[0].user_data in last and not cqes[0].flags & MORE:
                if effect:
                    self.what.effect(self.world, args)
                return cqes[0]


def resizes(arg):
    """Ways to change an object's size, which may all be done one after the other."""
    if isinstance(arg, (bytearray, array.array)):
        return [lambda: arg.append(0), arg.pop, lambda: arg.extend(arg), lambda: arg.__delitem__(slice(None))]
    return [arg.close] if isinstance(arg, mmap.mmap) else []


# -- the ways a flight can end -------------------------------------------------------------------------------

def answered(fly):
    flight = fly()
    flight.held()
    flight.ring.submit()
    if flight.what.finish:
        flight.held()
    flight.finish()
    flight.land(UD, effect=True)
    flight.released()


def cancelled(fly):
    """Cancelled is not finished: the memory is held until the request's own CQE, whichever comes first."""
    flight = fly()
    flight.ring.submit()
    flight.held()
    flight.ring.prep_cancel(UD, user_data=CANCEL)
    flight.land(UD)
    flight.released()


def silent_in_a_chain(fly):
    """IOSQE_CQE_SKIP_SUCCESS: the next of the chain answers for it."""
    flight = fly(SKIP | LINK)
    flight.ring.prep_nop(user_data=NEXT)
    flight.held()
    flight.ring.submit()
    flight.finish()
    flight.land(NEXT, effect=True)
    flight.released()


def silent_and_cancelled(fly):
    """One that skips its CQE and fails has one after all, and those behind it in the chain then have none
    (io_uring_enter(2), IOSQE_CQE_SKIP_SUCCESS)."""
    flight = fly(SKIP | LINK)
    flight.ring.prep_nop(user_data=NEXT)
    flight.ring.submit()
    flight.held()
    flight.ring.prep_cancel(UD, user_data=CANCEL)
    flight.land(UD, NEXT)                   # a cancelled futex wait is no failure, on 6.18
    flight.ring.close()
    flight.released()


def silent_alone(fly):
    """IOSQE_CQE_SKIP_SUCCESS and nobody behind it: the memory is held until the ring is closed."""
    flight = fly(SKIP)
    flight.ring.submit()
    flight.finish()
    flight.ring.prep_nop(user_data=NEXT)
    flight.land(NEXT)
    flight.held(done=True)
    flight.ring.close()
    flight.released()


def closed(fly):
    """close() cancels: nothing is written any more after it."""
    flight = fly()
    flight.ring.submit()
    flight.held()
    flight.ring.close()
    args = {name: bytes(arg) for name, arg in (flight.args or {}).items() if isinstance(arg, (bytearray, mmap.mmap))}
    if flight.what.finish:
        with SpyRing(4) as other:           # there is nobody left who could be told
            flight.what.finish(other, flight.world, flight.sqe)
            other.submit()
    for name, content in args.items():
        assert bytes(flight.args[name]) == content, f"{name} was written to"
    flight.released()


def never_submitted(fly):
    flight = fly()
    flight.held()
    flight.ring.close()
    flight.released()


def with_a_message(fly):
    """Another ring's message bears the same user_data: its CQE is not the request's."""
    flight = fly()
    needs(flight.ring, abi.IORING_OP_MSG_RING)
    flight.ring.submit()
    with Ring(4) as sender:
        for i in range(3):
            sender.prep_msg_ring(flight.ring, i, UD)
        sender.submit_and_wait(3, LONG)
        sender.reap()
    for _ in range(3):
        flight.land(UD)
        flight.held()
    flight.finish()
    flight.land(UD, effect=True)
    flight.released()


def twice(fly):
    """Two requests with one user_data: nobody can tell their CQEs apart, so both are held until both are done."""
    first = fly()
    second = Flight(first.ring, first.what, first.mode, first.world)
    first.ring.submit()
    first.held()
    second.held()
    first.ring.prep_cancel(UD, user_data=CANCEL)
    first.land(UD)
    first.held(done=True)
    second.held(done=True)
    second.ring.prep_cancel(UD, user_data=CANCEL)
    second.land(UD)
    first.released()
    second.released()


PATHS = {
    "answered": answered, "cancelled": cancelled, "silent in a chain": silent_in_a_chain,
    "silent and cancelled": silent_and_cancelled, "silent alone": silent_alone, "closed": closed,
    "never submitted": never_submitted, "with a message": with_a_message, "twice": twice,
}
MODES = ("dropped", "resized")


def fly(what, path, mode, *, flags=None, entries=16):
    """One request, on a ring of its own, along one path."""
    if path not in what.paths:
        pytest.skip(f"a request of this kind can't be {path}")
    with World() as world, SpyRing(entries, flags=flags) as ring:
        needs(ring, what.opcode)
        if path.startswith("silent") and not ring.features & abi.IORING_FEAT_CQE_SKIP:
            pytest.skip(f"Linux {os.uname().release} has no IORING_FEAT_CQE_SKIP: it came with 5.17")
        PATHS[path](lambda sqe_flags=0: Flight(ring, what, mode, world, sqe_flags))
    assert not _orphans
