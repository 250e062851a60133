"""layout.py - the memory of a ring: which setup flags go together, what to map, where the words lie.

io_uring_setup(2) answers a file descriptor and some offsets. This file asks for a ring, maps its
memory, and finds in it the things that ring.py works with; and it gives all of it back. It knows
nothing of requests and completions. Read ring.py first; read next: ring_fd.py.

Some facts about the memory of a ring
-------------------------------------
There are two pieces of it. One holds the words that both sides share (heads, tails, flags), the
completions, and the array of indices; the other the SQEs. Before Linux 5.4 the first came in two.

              usually                         setup flag that changes it
    SQE       64 bytes                        SQE128: 128 bytes; SQE_MIXED: 64, or 128 in two slots
    CQE       16 bytes                        CQE32: 32 bytes; CQE_MIXED: 16, or 32 in two slots
    indices   one for each SQE                NO_SQARRAY: none
    whose     the kernel's, shown by mmap     NO_MMAP: ours, at addresses that we tell
    named by  a file descriptor               REGISTERED_FD_ONLY: a number that only enter and
                                              register understand, and only in this thread
"""
from __future__ import annotations

import mmap
from errno import EINVAL, EPERM

from . import abi, errors, host, syscalls
from .abi import (
    IORING_FEAT_SINGLE_MMAP, IORING_OFF_CQ_RING, IORING_OFF_SQ_RING, IORING_OFF_SQES,
    IORING_REGISTER_USE_REGISTERED_RING, IORING_SETUP_CLAMP,
    IORING_SETUP_COOP_TASKRUN, IORING_SETUP_CQE32, IORING_SETUP_CQE_MIXED, IORING_SETUP_CQSIZE,
    IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_HYBRID_IOPOLL, IORING_SETUP_IOPOLL,
    IORING_SETUP_NO_MMAP, IORING_SETUP_NO_SQARRAY, IORING_SETUP_REGISTERED_FD_ONLY,
    IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_SQ_AFF, IORING_SETUP_SQ_REWIND, IORING_SETUP_SQE128,
    IORING_SETUP_SQE_MIXED, IORING_SETUP_SQPOLL, IORING_SETUP_TASKRUN_FLAG, IORING_UNREGISTER_RING_FDS,
)

MAX_ENTRIES = 32768         # IORING_MAX_ENTRIES and IORING_MAX_CQ_ENTRIES in io_uring/io_uring.c
MAX_CQ_ENTRIES = 2 * MAX_ENTRIES

# Some facts about who may touch a ring
# -------------------------------------
# Any thread and any process that has the file descriptor may enter it, and none of them hears of the
# others: two that fill SQEs at once fill the same one. So this package gives a ring to one thread.
#
# SINGLE_ISSUER (6.0) lets the kernel say so: it remembers one task (the one that made the ring, or
# with R_DISABLED the one that enabled it), and whoever else submits hears EEXIST. io_uring_setup(2).
#
# DEFER_TASKRUN (6.1, which needs SINGLE_ISSUER) goes further: what is left to do for a completion
# waits until that task enters with GETEVENTS. So the kernel touches both rings only inside our own
# io_uring_enter, no memory barrier is needed anywhere, and no interrupt disturbs Python. The price:
# nothing is completed while we don't ask. reap() asks when the CQ is empty; and epoll on the ring's
# fd never wakes (measured on 6.18), an eventfd does (register_eventfd()).
#
# A fork copies neither ring nor kernel: parent and child have the same shared pages (mmap(2),
# MAP_SHARED). A child that submits is told EEXIST, and has moved the parent's tail by then (measured
# on 6.18). So it lets go of all rings before it runs anything else: _after_fork_in_child() in ring.py.

# The default mode, and what is asked for where the kernel refuses it with EINVAL.
DEFAULT_FLAGS = (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                 IORING_SETUP_SINGLE_ISSUER, 0)

# What the kernel answers with a bare EINVAL (io_uring_sanitise_params() and io_uring_create() in
# io_uring/io_uring.c, 6.18; SQ_REWIND: io_uring_setup(2) of liburing 2.15).
# (flag, at least one of these has to be there as well)
_NEEDS = (
    (IORING_SETUP_SQ_AFF, (IORING_SETUP_SQPOLL,)),
    (IORING_SETUP_HYBRID_IOPOLL, (IORING_SETUP_IOPOLL,)),
    (IORING_SETUP_TASKRUN_FLAG, (IORING_SETUP_COOP_TASKRUN, IORING_SETUP_DEFER_TASKRUN)),
    (IORING_SETUP_DEFER_TASKRUN, (IORING_SETUP_SINGLE_ISSUER,)),
    (IORING_SETUP_REGISTERED_FD_ONLY, (IORING_SETUP_NO_MMAP,)),
    (IORING_SETUP_SQ_REWIND, (IORING_SETUP_NO_SQARRAY,)),
)
_EXCLUDES = (
    (IORING_SETUP_SQPOLL, IORING_SETUP_COOP_TASKRUN),
    (IORING_SETUP_SQPOLL, IORING_SETUP_TASKRUN_FLAG),
    (IORING_SETUP_SQPOLL, IORING_SETUP_DEFER_TASKRUN),
    (IORING_SETUP_SQPOLL, IORING_SETUP_SQ_REWIND),
    (IORING_SETUP_SQE128, IORING_SETUP_SQE_MIXED),
    (IORING_SETUP_CQE32, IORING_SETUP_CQE_MIXED),
)
NAMES = {value: name for name, value in vars(abi).items() if name.startswith("IORING_SETUP_")}
_KNOWN = sum(NAMES)

_RINGS_HEADER = 320         # struct io_rings, at most (64 to 320 bytes; 5.1 to 7.3)
_PAGE = mmap.PAGESIZE


def check_entries(name: str, value: int, limit: int, flags: int | None) -> None:
    """How many entries a queue may have; more only with IORING_SETUP_CLAMP."""
    if not isinstance(value, int):
        raise TypeError(f"{name} {value!r} is not an int: give a number from 1 to {limit}")
    if value < 1 or (value > limit and not (flags or 0) & IORING_SETUP_CLAMP):
        raise ValueError(f"{name} {value} is outside 1..{limit}, the kernel's limit")


def check_flags(flags: int) -> None:
    """Setup flags that the kernel would refuse in each other's company are a ValueError here."""
    if not isinstance(flags, int):
        raise TypeError(f"flags {flags!r} is not an int: give IORING_SETUP_*, or None")
    if flags & ~_KNOWN:
        raise ValueError(f"setup flags {flags & ~_KNOWN:#x} are none of IORING_SETUP_*: they would change "
                         "the ring in ways that this class can't know")
    for flag, others in _NEEDS:
        if flags & flag and not any(flags & other for other in others):
            raise ValueError(f"{NAMES[flag]} needs {' or '.join(NAMES[other] for other in others)}: "
                             "add it, or leave both out")
    for flag, other in _EXCLUDES:
        if flags & flag and flags & other:
            raise ValueError(f"{NAMES[flag]} and {NAMES[other]} exclude each other: leave one out")


def memory_size(entries: int, cq_entries: int | None = None, flags: int = 0) -> tuple[int, int]:
    """Bytes that IORING_SETUP_NO_MMAP needs for such a ring: (for the rings, for the SQEs).

    Both are multiples of the page size. io_uring_memory_size_params(3).
    """
    sq = 1 << (min(entries, MAX_ENTRIES) - 1).bit_length()
    cq = 2 * sq if cq_entries is None else 1 << (min(cq_entries, MAX_CQ_ENTRIES) - 1).bit_length()
    rings = _RINGS_HEADER + cq * (32 if flags & IORING_SETUP_CQE32 else 16)
    if not flags & IORING_SETUP_NO_SQARRAY:
        rings += 4 * sq
    return _whole_pages(rings), _whole_pages(sq * (128 if flags & IORING_SETUP_SQE128 else 64))


def _whole_pages(size):
    return -(-size // _PAGE) * _PAGE


class Layout:
    """A ring as io_uring_setup(2) made it: its number, its sizes, and views of its memory.

    fd           the file descriptor, or with `registered` the index that stands for it
    flags, features, sq_entries, cq_entries   what io_uring_setup(2) made of what was asked for
    sq, cq       the shared words, as memoryviews of uint32; sq_head, sq_tail, sq_flags, cq_head and
                 cq_tail are indices into them
    sqes, cqes   the entries, as memoryviews of bytes; cqes_at is where the first CQE lies, sqe_size
                 and cqe_size say how many bytes one has
    """

    __slots__ = (
        "fd", "registered", "flags", "features", "sq_entries", "cq_entries", "sq", "sq_head",
        "sq_tail", "sq_flags", "sqes", "sqe_size", "cq", "cq_head", "cq_tail", "cqes", "cqes_at",
        "cqe_size", "_maps", "_views", "_memory",
    )

    def __init__(self, entries: int, cq_entries: int | None, flags: int | None, *,
                 sq_thread_cpu: int = 0, sq_thread_idle: int = 0, wq_fd: int = 0, memory=None):
        self.fd = -1
        self.registered = False
        self._maps: list = []
        self._views: list = []
        self._memory: list = []         # keepers of memory that is ours
        made: list = []
        try:
            self._set_up(made, entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, wq_fd, memory)
        except BaseException:
            if made and self.fd < 0:    # Ctrl-C came before it was kept
                self.fd = made[-1]
            self.close()
            raise

    def _set_up(self, made, entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, wq_fd, memory):
        params = bytearray(abi.PARAMS.size)
        for attempt in DEFAULT_FLAGS if flags is None else (flags,):
            if cq_entries is not None:
                attempt |= IORING_SETUP_CQSIZE
            fields = [0] * 28
            fields[1:5] = cq_entries or 0, attempt, sq_thread_cpu, sq_thread_idle
            fields[6] = wq_fd
            if attempt & IORING_SETUP_NO_MMAP:
                fields[27], fields[18] = self._own_memory(memory, entries, cq_entries, attempt)
            abi.PARAMS.pack_into(params, 0, *fields)
            self.registered = bool(attempt & IORING_SETUP_REGISTERED_FD_ONLY)
            self.fd = result = syscalls.setup(entries, params, made)
            if result != -EINVAL:
                break
        if result < 0:
            raise _refused(-result, flags, cq_entries, entries, attempt)
        try:
            self._map(abi.PARAMS.unpack(params))
        except OSError as error:        # each map takes a file descriptor of its own, and memory
            raise errors.RingUnavailable(
                error.errno, errors.explain_setup(error.errno, host.look())) from error

    def _own_memory(self, memory, entries, cq_entries, flags):
        sizes = memory_size(entries, cq_entries, flags)
        if memory is None:
            memory = [mmap.mmap(-1, size) for size in sizes]
            self._maps += memory
        addresses = []
        for what, buffer, size in zip(("rings", "SQEs"), memory, sizes):
            address, given, keeper = syscalls.writable(buffer)
            if given < size or address % _PAGE:
                raise ValueError(f"memory for the {what}: {given} bytes at {address:#x}; give {size} at a page's "
                                 f"start, as mmap.mmap(-1, {size}) has")
            addresses.append(address)
            self._memory.append((buffer, keeper))
        return addresses

    def _map(self, params):
        self.sq_entries, self.cq_entries, self.flags = params[:3]
        self.features = params[5]
        sq_head, sq_tail, sq_mask, _, sq_flags, _, sq_array = params[10:17]
        cq_head, cq_tail, cq_mask, _, _, cqes = params[19:25]
        indices = not self.flags & IORING_SETUP_NO_SQARRAY
        self.sqe_size = 128 if self.flags & IORING_SETUP_SQE128 else 64
        self.cqe_size = 32 if self.flags & IORING_SETUP_CQE32 else 16

        # One map holds both rings since 5.4 (FEAT_SINGLE_MMAP); before, each has its own. The
        # SQEs always do.
        single = self.features & IORING_FEAT_SINGLE_MMAP
        if self._memory:
            (sq_map, _), (sqes_map, _) = self._memory
            cq_map = sq_map
        else:
            sq_size = sq_array + 4 * self.sq_entries if indices else 0
            cq_size = cqes + self.cqe_size * self.cq_entries
            sq_map = self._mmap(max(sq_size, cq_size) if single else sq_size, IORING_OFF_SQ_RING)
            cq_map = sq_map if single else self._mmap(cq_size, IORING_OFF_CQ_RING)
            sqes_map = self._mmap(self.sqe_size * self.sq_entries, IORING_OFF_SQES)
        self.sqes = self._view(sqes_map)
        self.cqes = self._view(cq_map)
        self.cqes_at = cqes

        # The shared words. The kernel's offsets are in bytes, an index into these in words.
        self.sq = self._view(sq_map, "I")
        self.cq = self.sq if single or self._memory else self._view(cq_map, "I")
        self.sq_head, self.sq_tail, self.sq_flags = sq_head // 4, sq_tail // 4, sq_flags // 4
        self.cq_head, self.cq_tail = cq_head // 4, cq_tail // 4
        assert self.sq[sq_mask // 4] == self.sq_entries - 1
        assert self.cq[cq_mask // 4] == self.cq_entries - 1

        if indices:
            # Slot i always means SQE i, so submit() publishes a tail and nothing else.
            for i in range(self.sq_entries):
                self.sq[sq_array // 4 + i] = i

    def resized(self, params: bytearray) -> Layout:
        """The same ring with other sizes: what IORING_REGISTER_RESIZE_RINGS answered. This one's maps
        are closed, and its file descriptor goes over."""
        new = Layout.__new__(Layout)
        new.fd, new.registered = self.fd, self.registered
        new._maps, new._views, new._memory = [], [], []
        fields = list(abi.PARAMS.unpack(params))
        fields[2], fields[5] = self.flags, self.features
        self.fd = -1
        self.close()
        try:
            new._map(fields)
        except BaseException:
            new.close()
            raise
        return new

    def _mmap(self, size, offset):
        mapping = syscalls.map_ring(self.fd, size, offset)
        self._maps.append(mapping)
        return mapping

    def _view(self, mapping, format="B"):
        view = memoryview(mapping).cast("B").cast(format)
        self._views.append(view)
        return view

    def __del__(self):
        if getattr(self, "fd", -1) >= 0:        # Ctrl-C came before a Ring had it
            self.close()

    def close(self) -> None:
        """Give the memory and the fd back. May be called again, if Ctrl-C ended it."""
        # Views, then maps, then the fd: a map with views can't be closed, and dups the fd.
        for view in self._views:
            view.release()
        memory, self._memory = self._memory, []
        memory.clear()
        for mapping in self._maps:
            try:
                mapping.close()
            except BufferError:     # Ctrl-C in _view(): its traceback has a view, and will drop both
                pass
        self._views, self._maps = [], []
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if self.registered:
                update = bytearray(abi.RSRC_UPDATE.pack(fd, 0, 0))
                syscalls.register(fd, IORING_UNREGISTER_RING_FDS | IORING_REGISTER_USE_REGISTERED_RING,
                                  syscalls.pin(update), 1)
            else:
                syscalls.close(fd)


def _refused(code, flags, cq_entries, entries, attempt):
    """The exception for what io_uring_setup(2) answered."""
    if code == EINVAL and (flags is not None or cq_entries is not None):
        return errors.os_error(EINVAL, f"io_uring_setup: entries {entries}, flags {attempt:#x} "
                               "(this kernel does not know one of them, or not together)")
    seen = host.look()
    if code == EPERM and attempt & IORING_SETUP_SQPOLL and (seen.version or (0,)) < (5, 13):
        return errors.os_error(EPERM, "io_uring_setup with IORING_SETUP_SQPOLL (which needs CAP_SYS_ADMIN before "
                               "Linux 5.11, and CAP_SYS_NICE before 5.13: io_uring_setup(2))")
    return errors.RingUnavailable(code, errors.explain_setup(code, seen))
