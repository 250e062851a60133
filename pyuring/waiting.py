"""waiting.py - the memory behind futex(2), waitid(2) and epoll_wait(2): what is read, what is filled in.

These three wait for something that is no file's I/O: a word in memory, a child, another poller. Their
structs are older than io_uring and come from other headers (linux/futex.h, bits of <signal.h>,
linux/eventpoll.h), so they stand here and not in abi.py.

Siginfo and EpollEvents are plain bytearrays that know what the kernel puts into them: hand one to
prep_waitid() or prep_epoll_wait(), and look into it after the CQE. FutexWaitv is one word of the many
that prep_futex_waitv() waits for.

Leans on syscalls.py (addresses). Read beside it: prep.py, which puts all this into SQEs.
"""
from __future__ import annotations

import os
from collections import namedtuple
from struct import Struct

from . import syscalls
from .abi import FUTEX2_NUMA, FUTEX2_SIZE_MASK, FUTEX2_SIZE_U32, FUTEX_WAITV_MAX

# struct epoll_event: events, data. Packed on x86-64 alone, so that 32-bit programs there have the same
# one (linux/eventpoll.h, EPOLL_PACKED); elsewhere as the compiler aligns a u64. A 32-bit program that
# sees the kernel's name for the machine has 12 bytes either way.
EPOLL_EVENT = Struct("=IQ" if os.uname().machine == "x86_64" else "@IQ")
# data is a union, and an fd its first four bytes. The other four are not always zero: CPython leaves
# them as they were on its stack (pyepoll_internal_ctl() in Modules/selectmodule.c).
_DATA_AT = EPOLL_EVENT.size - 8
_FD = Struct("=i")

# struct futex_waitv: val, uaddr (address), flags.
FUTEX_WAITV = Struct("=QQI4x")

# siginfo_t as for SIGCHLD: si_signo, si_errno, si_code, then a union that holds pointers and is aligned
# as those are: si_pid, si_uid, si_status. 128 bytes in all; the kernel wants to be able to write to all
# of them and fills in these six (io_waitid_copy_si() in io_uring/waitid.c).
_POINTER = Struct("P").size
SIGINFO = Struct("=iii" + ("4x" if _POINTER == 8 else "") + "iIi")
SIGINFO_SIZE = 128


class FutexWaitv(namedtuple("FutexWaitv", "val futex flags", defaults=(FUTEX2_SIZE_U32,))):
    """One word for prep_futex_waitv(): waits while it has a value.

    val     the value that it is to have, from 0
    futex   a writable buffer that starts with the word, as for prep_futex_wait()
    flags   FUTEX2_*
    """

    __slots__ = ()
    val: int
    futex: object
    flags: int


class Siginfo(bytearray):
    """Room for what waitid(2) says about a child: Siginfo(), then these, as from os.waitid():

    si_pid      which child; 0 where there was none to report (WNOHANG)
    si_uid      its real user ID
    si_signo    always SIGCHLD; 0 where there was no child
    si_status   the exit status, or the number of the signal
    si_code     which of them, and what happened: os.CLD_EXITED, CLD_KILLED, CLD_DUMPED, CLD_TRAPPED,
                CLD_STOPPED, CLD_CONTINUED
    """

    def __init__(self):
        super().__init__(SIGINFO_SIZE)

    @property
    def si_signo(self) -> int:
        """SIGCHLD, or 0."""
        return SIGINFO.unpack_from(self)[0]

    @property
    def si_code(self) -> int:
        """os.CLD_*."""
        return SIGINFO.unpack_from(self)[2]

    @property
    def si_pid(self) -> int:
        """The child's process ID, or 0."""
        return SIGINFO.unpack_from(self)[3]

    @property
    def si_uid(self) -> int:
        """The child's real user ID."""
        return SIGINFO.unpack_from(self)[4]

    @property
    def si_status(self) -> int:
        """The exit status, or a signal's number."""
        return SIGINFO.unpack_from(self)[5]

    def __repr__(self):
        return (f"Siginfo(si_pid={self.si_pid}, si_uid={self.si_uid}, si_signo={self.si_signo}, "
                f"si_status={self.si_status}, si_code={self.si_code})")

    __str__ = __repr__


class EpollEvents(bytearray):
    """Room for `maxevents` events of prep_epoll_wait(); fds(cqe.res) or data(cqe.res) then gives them."""

    def __init__(self, maxevents: int = 64):
        if not isinstance(maxevents, int):
            raise TypeError(f"maxevents {maxevents!r} is not an int: give how many events there is "
                            "room for")
        if maxevents < 1:
            raise ValueError(f"maxevents {maxevents} is less than 1: epoll_wait(2) wants room for one")
        super().__init__(maxevents * EPOLL_EVENT.size)

    def fds(self, count: int) -> list[tuple[int, int]]:
        """The first `count` events as (fd, EPOLL*), what select.epoll.poll() gives: for fds that were
        added by select.epoll.register(), or by prep_epoll_ctl() without data."""
        return [(_FD.unpack_from(self, at + _DATA_AT)[0], EPOLL_EVENT.unpack_from(self, at)[0])
                for at in range(0, count * EPOLL_EVENT.size, EPOLL_EVENT.size)]

    def data(self, count: int) -> list[tuple[int, int]]:
        """The first `count` events as (data, EPOLL*), with the 64 bits that prep_epoll_ctl() was given."""
        return [(data, events) for events, data in
                EPOLL_EVENT.iter_unpack(memoryview(self)[:count * EPOLL_EVENT.size])]

    def __repr__(self):
        return f"<pyuring.EpollEvents room for {len(self) // EPOLL_EVENT.size}>"

    __str__ = __repr__


# -- for prep.py -------------------------------------------------------------------------------------
def futex_at(futex, flags: int) -> tuple[int, object]:
    """The futex word that a buffer starts with: (address, keeper)."""
    if not isinstance(flags, int):
        raise TypeError(f"futex flags {flags!r} are not an int: give FUTEX2_*")
    address, size, keeper = syscalls.writable(futex)
    word = 1 << (flags & FUTEX2_SIZE_MASK)
    if flags & FUTEX2_NUMA:
        word *= 2                   # the node's number follows, and is aligned together with it
    if size < word:
        raise ValueError(f"a buffer of {size} bytes is too short for a futex: it takes {word}")
    if address % word:
        raise ValueError(f"the futex at {address:#x} is not aligned to its {word} bytes: take one "
                         "whose offset in its buffer is a multiple of that")
    return address, keeper


def check_futex_val(name: str, val: int, flags: int, lowest: int = 0) -> None:
    """TypeError, ValueError for a number that does not fit into the futex word."""
    if not isinstance(val, int):
        raise TypeError(f"futex {name} {val!r} is not an int: give a number")
    highest = (1 << (8 << (flags & FUTEX2_SIZE_MASK))) - 1
    if not lowest <= val <= highest:
        raise ValueError(f"futex {name} {val} is outside {lowest}..{highest}: give what the word can "
                         "hold, unsigned")


def waitv_at(futexes) -> tuple[int, int, object]:
    """FutexWaitvs as struct futex_waitv[]: (address, how many, keeper)."""
    keepers, rows = [], []
    for val, futex, flags in map(_waitv, futexes):
        address, keeper = futex_at(futex, flags)
        check_futex_val("val", val, flags)
        rows.append(FUTEX_WAITV.pack(val, address, flags))
        keepers.append(keeper)
    if not 1 <= len(rows) <= FUTEX_WAITV_MAX:
        raise ValueError(f"{len(rows)} futexes are outside 1..{FUTEX_WAITV_MAX}, what one request "
                         "waits for")
    raw = b"".join(rows)
    return syscalls.address_of(raw), len(rows), (raw, keepers)


def _waitv(row):
    if isinstance(row, FutexWaitv):
        return row
    raise TypeError(f"a FutexWaitv is needed, not {type(row).__name__}")


def siginfo_at(infop) -> tuple[int, object]:
    """A Siginfo, or any other buffer of its size, or None: (address, keeper)."""
    if infop is None:
        return 0, None
    address, size, keeper = syscalls.writable(infop)
    if size < SIGINFO_SIZE:
        raise ValueError(f"a buffer of {size} bytes is too short for a siginfo_t: it takes "
                         f"{SIGINFO_SIZE}, as a Siginfo() has")
    return address, keeper


def epoll_event_at(fd: int, events: int, data: int | None) -> tuple[int, object]:
    """One struct epoll_event, whose data is `data`, or the fd: (address, keeper)."""
    raw = bytearray(EPOLL_EVENT.size)
    number = 0 if data is None else data
    for name, value, bits in (("events", events, 32), ("data", number, 64)):
        if not isinstance(value, int):
            raise TypeError(f"epoll {name} {value!r} is not an int: give a number")
        if not 0 <= value < 1 << bits:
            raise ValueError(f"epoll {name} {value} is outside 0..{(1 << bits) - 1}")
    EPOLL_EVENT.pack_into(raw, 0, events, number)
    if data is None:
        _FD.pack_into(raw, _DATA_AT, fd)
    address, _, keeper = syscalls.writable(raw)
    return address, keeper


def epoll_events_at(events, maxevents: int | None) -> tuple[int, int, object]:
    """Room for events: (address, how many, keeper)."""
    address, size, keeper = syscalls.writable(events)
    room = size // EPOLL_EVENT.size
    if maxevents is None:
        maxevents = room
    if not isinstance(maxevents, int):
        raise TypeError(f"maxevents {maxevents!r} is not an int: give how many, or None for what the "
                        "buffer has room for")
    if not 1 <= maxevents <= room:
        raise ValueError(f"maxevents {maxevents} is outside 1..{room}, what the buffer has room for")
    return address, maxevents, keeper
