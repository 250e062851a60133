"""ring.py - a Ring: two queues in memory that is shared with the kernel, and how to work them.

Read abi.py (skim it) and syscalls.py first. prep.py fills requests in; this file hands them over
and takes the answers back. Read next: layout.py; what DEFER_TASKRUN and SINGLE_ISSUER are stands
there ("who may touch a ring"). On a first reading skip what only few rings have: _bulk (batch.py),
_silent and _chain_keepers (IOSQE_CQE_SKIP_SUCCESS), _expected (messages between rings),
_big_cqes, _sqpoll, _rewinds and _disabled (setup flags).

Some facts about io_uring
-------------------------
A request is a submission queue entry (SQE, 64 bytes), an answer a completion queue entry (CQE, 16
bytes). Each queue is a ring: an array whose size is a power of two, and two counters, head and
tail, which only ever grow and wrap at 2**32. What lies between them is in the queue:

                 head            tail                count = (tail - head) & U32
                  v               v                  index = counter & mask
    +----+----+----+----+----+----+----+----+
    |    |    |SQE |SQE |SQE |SQE |    |    |        The producer moves the tail, the consumer
    +----+----+----+----+----+----+----+----+        the head; neither writes the other's word.

For the SQ we produce and the kernel consumes; for the CQ the other way round. So four words of
memory are all that the two sides say to each other, besides one system call: io_uring_enter
makes the kernel look at the SQ tail, and can wait until the CQ holds enough.

Between the SQ and the SQEs stands an array of indices, so that SQEs could be submitted in another
order than they lie in. Like liburing, we let slot i mean SQE i for ever and forget about it.

Completions come in any order. `user_data`, 64 bits that travel from SQE to CQE untouched, is the
only thing that says which request a CQE answers.

Some facts about Python
-----------------------
KeyboardInterrupt can land between any two bytecodes, so also between a system call and the
assignment of its result. What was consumed is therefore always read again from the kernel's head
word, never counted from results. And an SQE is recorded in `_inflight` before the tail moves over
it: an interrupt in between costs a late release, never a use of freed memory.

Struct.pack_into() clears its target before it writes, which another CPU can see (6 to 41 % of
reads, measured). SQEs are private until the tail is published, so that is fine for them; heads
and tails are stored through memoryview.cast("I"), one aligned 32-bit store.
"""
from __future__ import annotations

import os
import struct
import time
from _thread import TIMEOUT_MAX, get_ident
from _weakref import ref
from collections import deque, namedtuple
from errno import (
    EACCES, EAGAIN, EBADFD, EBADR, EBUSY, EEXIST, EINTR, EINVAL, EMFILE, ENFILE, ENOENT, ENOSYS,
    EPERM, ETIME,
)

from . import abi, errors, host, syscalls
from .abi import (
    IORING_CQE_F_32, IORING_CQE_F_MORE, IORING_CQE_F_SKIP, IORING_ENTER_EXT_ARG,
    IORING_ENTER_EXT_ARG_REG, IORING_ENTER_GETEVENTS, IORING_ENTER_REGISTERED_RING,
    IORING_ENTER_SQ_WAIT, IORING_ENTER_SQ_WAKEUP, IORING_FEAT_EXT_ARG, IORING_FEAT_MIN_TIMEOUT,
    IORING_OP_NOP, IORING_REGISTER_USE_REGISTERED_RING, IORING_SETUP_ATTACH_WQ,
    IORING_SETUP_CQE32, IORING_SETUP_CQE_MIXED, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_IOPOLL,
    IORING_SETUP_NO_MMAP, IORING_SETUP_R_DISABLED, IORING_SETUP_SINGLE_ISSUER,
    IORING_SETUP_SQ_REWIND, IORING_SETUP_SQE128, IORING_SETUP_SQE_MIXED, IORING_SETUP_SQPOLL,
    IORING_SQ_CQ_OVERFLOW, IORING_SQ_NEED_WAKEUP, IORING_SQ_TASKRUN, IOSQE_CQE_SKIP_SUCCESS,
    IOSQE_IO_HARDLINK, IOSQE_IO_LINK,
)
from .arguments import U32, U64, bad_field, check_timeout, fileno, timespec
from .batch import Batch, Bulk, in_use
from .layout import MAX_CQ_ENTRIES, MAX_ENTRIES, Layout, check_entries, check_flags
from .prep import Prep
from .registration import Registration
from .ring_fd import RingFd


class CQE(namedtuple("CQE", "user_data res flags")):
    """One completion: `user_data` as it was given, `res` (the result, or -errno), and `flags`
    (IORING_CQE_F_*)."""

    __slots__ = ()
    user_data: int
    res: int
    flags: int


class BigCQE(CQE):
    """A CQE of 32 bytes, in a ring with IORING_SETUP_CQE32 or CQE_MIXED: still a tuple of three.

    big_cqe   the other 16 bytes: two u64, whose meaning is the request's
    """

    big_cqe: tuple[int, int]


# Names bound once: these run for every request. tuple.__new__ is what CQE._make() calls.
_pack_sqe, _unpack_cqe, _new = abi.SQE.pack_into, abi.CQE.unpack_from, tuple.__new__

_LINKS = IOSQE_IO_LINK | IOSQE_IO_HARDLINK
_CLOSE_PATIENCE = 2.0       # seconds that close() waits for requests that it cancelled

_rings: dict[int, ref[Ring]] = {}       # by id: the open rings of this process, for a fork
_orphans: list = []         # memory that the kernel may still write to after its ring was closed


class Ring(Prep, Registration, RingFd, Bulk):
    """An io_uring: prep_*() fills requests in, submit() hands them over, reap() takes answers.

        with pyuring.Ring(64) as ring:
            ring.prep_read(fd, buffer, user_data=1)     # a file descriptor and a bytearray
            ring.submit_and_wait(1)
            for cqe in ring.reap():
                print(cqe.user_data, cqe.res)           # 1, and the bytes read or -errno

    Its methods, by what they are for (all of one: help(pyuring.Ring.submit)):
        fill in     prep_*(): one for each of liburing's helpers; what their arguments may be is at
                    the head of prep.py. sq_ready, sq_space_left
        hand over   submit(), submit_and_wait(), submit_and_get_events(), get_events(), sqring_wait(),
                    submit_and_wait_reg()
        take        reap(), peek_cqe(), wait_cqe(), cq_ready
        in bulk     push(), run(), reap_raw(): see Batch
        tell        register_*(), unregister_*(): files, buffers and more, for requests to name by
                    number; setup_buf_ring(), free_buf_ring(), buf_ring_head(), clone_buffers(),
                    clone_buffers_offset()
        itself      enable_rings(), resize_rings(), set_iowait(), close_ring_fd(), fileno(), close()

    entries            SQEs, 1 to 32768; the kernel rounds up to a power of two
    cq_entries         CQEs, up to 65536; None for twice the SQEs (Linux 5.5)
    flags              IORING_SETUP_*, exactly these; None for SINGLE_ISSUER | DEFER_TASKRUN, or
                       what this kernel has of it. What each changes: io_uring_setup_flags(7)
    submit_when_full   when no SQE is free, prep_*() submits by itself instead of raising
                       SubmissionQueueFull (never in the middle of a chain of linked requests)
    sq_thread_idle     for SQPOLL: milliseconds without work after which the kernel's thread sleeps;
                       0 for a second
    sq_thread_cpu      for SQ_AFF: the CPU of that thread
    wq_fd              another Ring (or its fd), whose worker threads this one shares (ATTACH_WQ)
    memory             for NO_MMAP: two writable buffers, for the rings and for the SQEs, each of
                       layout.memory_size() bytes from a page's start, as mmap.mmap(-1, n) is. None:
                       the ring makes them. Before Linux 6.10 they must not be scattered, which
                       only one page, or a huge page, can promise

    A ring belongs to the thread that made it (SINGLE_ISSUER) and to the process that made it: it
    does not cross a fork. Use it in `with`, or close() it; what is in flight then is cancelled.
    Whatever memory a request points to stays in place until its last CQE.

    Raises RingUnavailable, an OSError that says why there is no io_uring here and what to do;
    ValueError for flags that exclude each other. Linux 5.1; io_uring(7), io_uring_setup(2).
    """

    __slots__ = {
        "fd": "The ring's file descriptor; -1 after close(), and where the kernel knows it by a number only.",
        "features": "IORING_FEAT_*: what this kernel says that it has. io_uring_setup(2).",
        "flags": "IORING_SETUP_*: how the ring was made. io_uring_setup(2).",
        "sq_entries": "How many SQEs the queue holds, a power of two.",
        "cq_entries": "How many CQEs the queue holds, a power of two.",
        "submit_when_full": "Whether prep_*() submits by itself when no SQE is free. May be set.",
        **dict.fromkeys((
            "__weakref__", "_layout", "_owner", "_gone", "_enter_fd", "_enter_flags", "_disabled", "_sq",
            "_sq_head", "_sq_tail", "_sq_flags", "_sq_mask", "_sqes", "_sqe_shift", "_sqe_tail",
            "_last_sqe_flags", "_cq", "_cq_head", "_cq_tail", "_cq_mask", "_cqes", "_cqes_at",
            "_big_cqes", "_defer", "_asks", "_sqpoll", "_rewinds", "_inflight", "_keepers",
            "_chain_keepers", "_silent", "_unanswered", "_expected", "_registered", "_bulk", "_batches",
            "_bulk_user_data", "_ran", "_run_again", "_wait_timespec", "_ext_arg", "_ext_arg_pin")),
    }

    def __init__(self, entries: int = 128, *, cq_entries: int | None = None,
                 flags: int | None = None, submit_when_full: bool = False, sq_thread_idle: int = 0,
                 sq_thread_cpu: int = 0, wq_fd: Ring | int | None = None,
                 memory: tuple | None = None):
        self.fd = self._enter_fd = -1
        self._enter_flags = 0
        self.features = self.flags = self.sq_entries = self.cq_entries = 0
        self._layout: Layout | None = None
        self._owner, self._gone = None, "was never set up"
        self._inflight: dict[int, int] = {}     # user_data -> requests that still owe a last CQE
        self._keepers: dict[int, list] = {}     # user_data -> what the kernel may touch for them
        # IOSQE_CQE_SKIP_SUCCESS: keepers of the chain being filled in, all user_data that such
        # requests had, and keepers that no CQE will ever release.
        self._chain_keepers: list = []
        self._silent: set[int] = set()
        self._unanswered: list = []
        self._expected: deque[tuple[int, int]] = deque()    # messages on their way: see _expect()
        self._registered: dict = {}             # keepers of what resources.py registered
        # Batches: CQEs that are still to come for them, themselves, and all user_data in them.
        self._bulk = 0
        self._batches: list[Batch] = []
        self._bulk_user_data: set[int] = set()
        self._ran: Batch | None = None          # which run() runs again and again, by _run_again()
        self._run_again = None
        if flags is not None:
            check_flags(flags)
        check_entries("entries", entries, MAX_ENTRIES, flags)
        if cq_entries is not None:
            check_entries("cq_entries", cq_entries, MAX_CQ_ENTRIES, flags)
            if cq_entries < entries:
                raise ValueError(f"cq_entries {cq_entries} is below entries {entries}: the CQ must "
                                 "hold at least as many")
        for given, name, flag in ((wq_fd, "wq_fd", IORING_SETUP_ATTACH_WQ),
                                  (memory, "memory", IORING_SETUP_NO_MMAP)):
            if given is not None and not (flags or 0) & flag:
                raise ValueError(f"{name} is for rings with another setup flag: give IORING_SETUP_"
                                 f"{'ATTACH_WQ' if name == 'wq_fd' else 'NO_MMAP'} in flags, too")
        self.submit_when_full = submit_when_full
        self._adopt(Layout(entries, cq_entries, flags, sq_thread_idle=sq_thread_idle,
                           sq_thread_cpu=sq_thread_cpu, wq_fd=0 if wq_fd is None else fileno(wq_fd),
                           memory=memory))
        self._owner, self._gone = get_ident(), ""
        _rings[id(self)] = ref(self)

    def _adopt(self, layout):
        """Work with the memory of this layout from now on."""
        self._layout = layout
        self._ran = None
        self.flags, self.features = layout.flags, layout.features
        self.sq_entries, self.cq_entries = layout.sq_entries, layout.cq_entries
        self._sq, self._sq_head, self._sq_tail = layout.sq, layout.sq_head, layout.sq_tail
        self._sq_flags, self._sq_mask = layout.sq_flags, layout.sq_entries - 1
        self._cq, self._cq_head, self._cq_tail = layout.cq, layout.cq_head, layout.cq_tail
        self._cq_mask, self._cqes, self._cqes_at = layout.cq_entries - 1, layout.cqes, layout.cqes_at
        self._sqes, self._sqe_shift = layout.sqes, layout.sqe_size.bit_length() - 1
        if self._enter_fd < 0:          # not where only the sizes are new
            self._enter_fd = layout.fd
            self._enter_flags = IORING_ENTER_REGISTERED_RING if layout.registered else 0
            self.fd = -1 if layout.registered else layout.fd

        self._sqe_tail = self._sq[self._sq_tail]    # ours, ahead of the one the kernel sees
        self._last_sqe_flags = 0
        self._big_cqes = self.flags & (IORING_SETUP_CQE32 | IORING_SETUP_CQE_MIXED)
        self._defer = bool(self.flags & IORING_SETUP_DEFER_TASKRUN)
        # Completions that nobody finds unless the kernel is asked: io_uring_enter(2).
        self._asks = bool(self.flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_IOPOLL))
        self._sqpoll = bool(self.flags & IORING_SETUP_SQPOLL)
        self._rewinds = bool(self.flags & IORING_SETUP_SQ_REWIND)
        self._disabled = bool(self.flags & IORING_SETUP_R_DISABLED)

        # A wait's time limit: enter() is given struct io_uring_getevents_arg, which points to a
        # timespec. Both are filled anew for each wait.
        self._wait_timespec = bytearray(abi.TIMESPEC.size)
        self._ext_arg = bytearray(abi.GETEVENTS_ARG.size)
        address, _, keeper = syscalls.writable(self._wait_timespec)
        abi.GETEVENTS_ARG.pack_into(self._ext_arg, 0, 0, 0, 0, address)
        self._ext_arg_pin = syscalls.pin(self._ext_arg), keeper

    # -- the submission queue --------------------------------------------------------------------
    def _sqe(self, opcode, fd, addr=0, len=0, off=0, *, op_flags=0, user_data=0, sqe_flags=0,
             ioprio=0, buf_index=0, personality=0, file_index=0, addr3=0, attr_type_mask=0,
             keeper=None, slots=1):
        """Fill the next free SQE. Every prep_*() ends here."""
        if self._owner != get_ident():
            self._check_owner()
        tail = self._sqe_tail
        if (tail - self._sq[self._sq_head]) & U32 == self.sq_entries:
            self._make_room()
        try:
            _pack_sqe(self._sqes, (tail & self._sq_mask) << self._sqe_shift, opcode, sqe_flags, ioprio, fd, off,
                      addr, len, op_flags, user_data, buf_index, personality, file_index, addr3,
                      attr_type_mask)
        except struct.error:
            raise bad_field(opcode=opcode, sqe_flags=sqe_flags, ioprio=ioprio, fd=fd, off=off,
                             addr=addr, len=len, op_flags=op_flags, user_data=user_data,
                             buf_index=buf_index, personality=personality,
                             file_index=file_index, addr3=addr3, attr_type_mask=attr_type_mask) from None
        # lifetime   From the next submit until this request's last CQE the kernel may read or
        #            write what the SQE points to. Known only by user_data, which the caller may
        #            use twice: so requests are counted, and all keepers go with the last one.
        if self._bulk and user_data in self._bulk_user_data:
            raise in_use(user_data)
        if self._chain_keepers and self._sq[self._sq_tail] == tail:
            self._end_in_silence()      # submit() came in between, which ends a chain
        if sqe_flags & IOSQE_CQE_SKIP_SUCCESS:
            # No CQE will tell, if all goes well; the next request in the chain will. Where there
            # is none, nothing does before close().
            self._silent.add(user_data)
            if keeper is not None:
                self._chain_keepers.append(keeper)
            if not sqe_flags & _LINKS:
                self._end_in_silence()
        else:
            if keeper is not None:
                self._keepers.setdefault(user_data, []).append(keeper)
            if self._chain_keepers:
                self._keepers.setdefault(user_data, []).extend(self._chain_keepers)
                self._chain_keepers = []
            self._inflight[user_data] = self._inflight.get(user_data, 0) + 1
        self._last_sqe_flags = sqe_flags
        self._sqe_tail = (tail + slots) & U32

    def _sqe128(self, opcode, fd, *, cmd=b"", **fields):
        """Fill an SQE of 128 bytes: `cmd` is the command of IORING_OP_URING_CMD128, up to 80 of them."""
        mixed = self.flags & IORING_SETUP_SQE_MIXED
        if not mixed and not self.flags & IORING_SETUP_SQE128:
            raise ValueError("this request has 128 bytes: give the ring IORING_SETUP_SQE128 or "
                             "IORING_SETUP_SQE_MIXED")
        if len(cmd) > 80:
            raise ValueError(f"a command of {len(cmd)} bytes: 80 is what an SQE has room for")
        if self._owner != get_ident():
            self._check_owner()
        if mixed:
            self._two_slots()
        cmd = bytes(cmd).ljust(80, b"\0")
        second = ((self._sqe_tail & self._sq_mask) << self._sqe_shift) + 64
        if mixed or self.sq_space_left:     # where there is no room, _sqe() says so
            self._sqes[second:second + 64] = cmd[16:]
        addr3, attr_type_mask = struct.unpack_from("=QQ", cmd)
        self._sqe(opcode, fd, addr3=addr3, attr_type_mask=attr_type_mask, slots=2 if mixed else 1,
                  **fields)

    def _two_slots(self):
        # In a ring of both sizes the large ones take two slots, and the two have to be neighbours:
        # at the end of the array one is filled up (io_init_req() in io_uring/io_uring.c, 6.19), by
        # a request of which nobody hears. In a chain that breaks one would.
        if not ~self._sqe_tail & self._sq_mask:
            if self._last_sqe_flags & _LINKS:
                raise errors.SubmissionQueueFull(
                    "this SQE of 128 bytes would lie half at the array's end and half at its start: submit() "
                    "before such a chain begins, or prep_nop() first")
            if not self.sq_space_left:
                self._make_room()
            _pack_sqe(self._sqes, self._sq_mask * 64, IORING_OP_NOP, IOSQE_CQE_SKIP_SUCCESS, 0, -1,
                      *[0] * 10)
            self._sqe_tail = (self._sqe_tail + 1) & U32
        if self.sq_space_left < 2:
            self._make_room(2)

    def _end_in_silence(self):
        self._unanswered += self._chain_keepers
        self._chain_keepers = []

    def _make_room(self, slots=1):
        chain = self._last_sqe_flags & _LINKS
        if self.submit_when_full and not chain:
            self.submit()
            while self._sqpoll and self.sq_space_left < slots:
                self.sqring_wait()
            if self.sq_space_left >= slots:
                return
        raise errors.SubmissionQueueFull(
            f"all {self.sq_entries} SQEs are taken: " +
            ("a chain of linked requests must be submitted whole, so ask for more entries" if chain
             else "submit() first, or ask for more entries"))

    @property
    def sq_ready(self) -> int:
        """How many SQEs are filled and not yet consumed by the kernel."""
        if self._gone:
            raise self._unusable()
        return (self._sqe_tail - self._sq[self._sq_head]) & U32

    @property
    def sq_space_left(self) -> int:
        """How many SQEs are free."""
        return self.sq_entries - self.sq_ready

    def submit(self) -> int:
        """Hand all filled SQEs to the kernel, and do not wait -> how many it consumed.

        Fewer than sq_ready were ready: the kernel stops after a request that it refuses outright
        (its CQE says -EINVAL or so; IORING_SETUP_SUBMIT_ALL goes on), the rest stays ready. With
        SQPOLL its thread takes them soon, and the answer is how many were handed over.
        OSError EBUSY: more completions are waiting than the CQ holds, reap() first. EAGAIN: the
        kernel has no memory for more requests. io_uring_enter(2), io_uring_submit(3).
        """
        return self._enter(0, None)

    def submit_and_get_events(self) -> int:
        """submit(), and let the kernel work on completions in the same call, without waiting for any.

        Under DEFER_TASKRUN it only does so when asked. io_uring_submit_and_get_events(3).
        """
        return self._enter(0, None, get_events=IORING_ENTER_GETEVENTS)

    def get_events(self) -> None:
        """Let the kernel work on completions; submit nothing, wait for none. io_uring_get_events(3)."""
        self._enter(0, None, submit=False, get_events=IORING_ENTER_GETEVENTS)

    def submit_and_wait(self, wait_nr: int = 1, timeout: float | None = None, *,
                        min_wait: float | None = None) -> int:
        """submit(), then wait until `wait_nr` completions are ready -> how many SQEs were consumed.

        wait_nr    0 to cq_entries
        timeout    seconds; None waits for ever. When it runs out this returns all the same: ask
                   cq_ready, or just reap()
        min_wait   seconds after which one completion is enough (IORING_FEAT_MIN_TIMEOUT, Linux 6.12)
        After a short submission (see submit()) it does not wait. io_uring_submit_and_wait(3),
        io_uring_submit_and_wait_min_timeout(3).
        """
        if not isinstance(wait_nr, int):
            raise TypeError(f"wait_nr {wait_nr!r} is not an int")
        if not 0 <= wait_nr <= self.cq_entries:
            raise ValueError(f"wait_nr {wait_nr} is outside 0..{self.cq_entries}: the CQ holds no "
                             "more")
        if min_wait is not None:
            check_timeout(min_wait)
            if not self.features & IORING_FEAT_MIN_TIMEOUT:
                raise errors.os_error(EINVAL, "submit_and_wait with min_wait (Linux 6.12, "
                                      "IORING_FEAT_MIN_TIMEOUT)")
            return self._enter(wait_nr, TIMEOUT_MAX if timeout is None else check_timeout(timeout),
                               min_wait_us=min(round(min_wait * 1e6), U32))
        return self._enter(wait_nr, check_timeout(timeout))

    def submit_and_wait_reg(self, wait_nr: int, reg_index: int) -> int:
        """submit_and_wait(), with the time limit that number `reg_index` of the registered waits holds
        (register_wait_reg()) -> how many SQEs were consumed. Linux 6.13. io_uring_submit_and_wait_reg(3).
        """
        if self._owner != get_ident():
            self._check_owner()
        first, tail = self._sq[self._sq_head], self._publish()
        flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | IORING_ENTER_EXT_ARG_REG
        result = syscalls.enter(self._enter_fd, (tail - first) & U32, wait_nr, flags | self._enter_flags,
                                syscalls.offset(reg_index * abi.REG_WAIT.size), abi.REG_WAIT.size)
        if result < 0 and result not in (-EINTR, -ETIME):
            raise self._enter_failed(-result)
        return (self._sq[self._sq_head] - first) & U32

    def sqring_wait(self) -> None:
        """With SQPOLL: wait until the kernel's thread has made room in the SQ. Linux 5.10.

        io_uring_sqring_wait(3).
        """
        if self._sqpoll:
            self._wake_poller()
            result = syscalls.enter(self._enter_fd, 0, 0, IORING_ENTER_SQ_WAIT | self._enter_flags)
            if result < 0 and result != -EINTR:
                raise self._enter_failed(-result)

    def _publish(self):
        # ownership   [head, tail) is the kernel's from here on: the SQEs were filled before.
        tail = self._sq[self._sq_tail] = self._sqe_tail
        return tail

    def _wake_poller(self):
        # ordering   SQPOLL. The kernel's thread says that it goes to sleep, and then looks at the tail
        #            once more; we store the tail, and then look whether it said so. If either could
        #            do the second thing first, both might miss the other: hence the fence
        #            (io_uring_sqpoll(7); the thread has its own, in io_sq_thread()).
        syscalls.fence()
        if self._sq[self._sq_flags] & IORING_SQ_NEED_WAKEUP:
            result = syscalls.enter(self._enter_fd, 0, 0, IORING_ENTER_SQ_WAKEUP | self._enter_flags)
            if result < 0 and result != -EINTR:
                raise self._enter_failed(-result)

    def _enter(self, wait_nr, timeout, submit=True, get_events=0, min_wait_us=0):
        """Submit, then wait until `wait_nr` CQEs are there or `timeout` seconds have gone."""
        if self._owner != get_ident():
            self._check_owner()
        if submit and (self._sqpoll or self._rewinds):
            submitted, complete = self._submit_otherwise()
            if complete and (wait_nr or get_events):
                self._enter(wait_nr, timeout, False, get_events, min_wait_us)
            return submitted
        sq, head_at, more = self._sq, self._sq_head, self._enter_flags
        first = tail = sq[head_at]
        if submit:
            tail = sq[self._sq_tail] = self._sqe_tail       # as _publish()
        if not wait_nr:
            result = syscalls.enter(self._enter_fd, (tail - first) & U32, 0, get_events | more)
            if result < 0 and result != -EINTR:
                raise self._enter_failed(-result)
            return (sq[head_at] - first) & U32
        deadline = None if timeout is None else time.monotonic() + timeout
        cq, cq_head, cq_tail = self._cq, self._cq_head, self._cq_tail
        while True:
            to_submit = (tail - sq[head_at]) & U32 if submit else 0
            waiting = wait_nr > (cq[cq_tail] - cq[cq_head]) & U32
            if not to_submit and not waiting:
                break
            if deadline is None or not waiting:
                result = syscalls.enter(self._enter_fd, to_submit, wait_nr,
                                        IORING_ENTER_GETEVENTS | more if waiting else more)
            else:
                result = self._enter_until(deadline, to_submit, wait_nr, min_wait_us)
            # The kernel answers with the number consumed, if there is one, and keeps to itself how
            # the wait ended. An interrupted wait is -EINTR, or 0 when a CQE came in the meantime:
            # either way, look at the words again (PEP 475: a handler that raised is gone by now).
            if result < 0:
                if result == -ETIME:
                    break
                if result != -EINTR:
                    raise self._enter_failed(-result)
            elif result < to_submit:
                break
            if min_wait_us and not to_submit and cq[cq_tail] != cq[cq_head]:
                break
            if deadline is not None and not to_submit and time.monotonic() >= deadline:
                break
        return (sq[head_at] - first) & U32

    def _submit_otherwise(self):
        """SQPOLL and SQ_REWIND: (how many SQEs were submitted, whether that was all)."""
        if self._sqpoll:
            handed = (self._sqe_tail - self._sq[self._sq_tail]) & U32
            # ordering   The kernel's thread may read the SQEs as soon as it sees the tail.
            syscalls.fence()
            self._publish()
            if self._sq[self._sq_head] != self._sqe_tail:
                self._wake_poller()
            return handed, True
        # SQ_REWIND: the kernel begins at SQE 0 each time, and knows neither head nor tail. Nothing
        # but its answer tells how many it took; if Ctrl-C loses that, it counts as all of them.
        count, self._sqe_tail = self._sqe_tail, 0
        result = syscalls.enter(self._enter_fd, count, 0, self._enter_flags)
        left = count - max(result, 0)
        if left:
            size = 1 << self._sqe_shift
            self._sqes[:left * size] = bytes(self._sqes[(count - left) * size:count * size])
            self._sqe_tail = left
        if result < 0 and result != -EINTR:
            raise self._enter_failed(-result)
        return count - left, not left

    def _enter_until(self, deadline, to_submit, wait_nr, min_wait_us=0):
        left = min(max(0.0, deadline - time.monotonic()), TIMEOUT_MAX)      # could round to more
        if self.features & IORING_FEAT_EXT_ARG:
            abi.TIMESPEC.pack_into(self._wait_timespec, 0, *timespec(left))
            struct.pack_into("=I", self._ext_arg, 12, min_wait_us)
            return syscalls.enter(self._enter_fd, to_submit, wait_nr,
                                  IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG | self._enter_flags,
                                  self._ext_arg_pin[0], len(self._ext_arg))
        # Before 5.11 enter has no time limit of its own.
        if to_submit:
            return syscalls.enter(self._enter_fd, to_submit, 0, self._enter_flags)
        return self._wait_by_epoll(wait_nr, deadline)

    def _wait_by_epoll(self, wait_nr, deadline):
        # A ring's fd is readable while its CQ holds something. Edge-triggered epoll(7) also tells
        # of every further completion, which poll(2) would not. liburing puts a timeout request of
        # its own into the SQ here, and has to take one value of user_data from its users for it.
        import select
        try:
            epoll = select.epoll()
        except OSError as error:
            if error.errno not in (EMFILE, ENFILE):
                raise
            epoll = None                    # no descriptor to be had for it: look now and then
        try:
            if epoll:
                epoll.register(self.fd, select.EPOLLIN | select.EPOLLET)
            while self.cq_ready < wait_nr:
                left = deadline - time.monotonic()
                if left <= 0:
                    return -ETIME
                if epoll:
                    epoll.poll(min(left, 3600))         # it counts milliseconds in a C int
                else:
                    time.sleep(min(left, 0.001))
                # Fetch what overflowed.
                syscalls.enter(self._enter_fd, 0, 0, IORING_ENTER_GETEVENTS | self._enter_flags)
        finally:
            if epoll:
                epoll.close()
        return 0

    def _enter_failed(self, code):
        if code == EEXIST:
            return ValueError("this Ring belongs to another thread: make one per thread")
        if code in (EPERM, ENOSYS):         # a seccomp filter that came after the ring
            return errors.RingUnavailable(code, errors.explain_setup(code, host.look()))
        advice = {
            EBUSY: "more completions wait than the CQ holds: reap() first",
            EAGAIN: "the kernel has no memory for more requests: reap() first, or try again",
            EBADFD: "this ring was made with IORING_SETUP_R_DISABLED: enable_rings() first",
            EBADR: "completions were lost, as the kernel had no memory to keep them",
        }.get(code)
        return errors.os_error(code, "io_uring_enter" + (f" ({advice})" if advice else ""))

    # -- the completion queue --------------------------------------------------------------------
    # Some facts about a CQ that is full
    # ----------------------------------
    # The kernel never writes over a CQE that has not been taken. What finds no room it keeps in a list of
    # its own (IORING_FEAT_NODROP, Linux 5.5; before, it was dropped and counted), sets SQ_CQ_OVERFLOW, and
    # moves it into the CQ when somebody enters with GETEVENTS. So nothing is lost and nothing shows: of 12
    # NOPs in a CQ of 4, cq_ready says 4, and reap() gives 12 (measured on 6.18). Older kernels refuse to
    # submit meanwhile (EBUSY); without memory for the list, completions are lost (EBADR): io_uring_enter(2).

    @property
    def cq_ready(self) -> int:
        """How many CQEs can be taken without asking the kernel; with CQE_MIXED, of 16 bytes."""
        if self._gone:
            raise self._unusable()
        return (self._cq[self._cq_tail] - self._cq[self._cq_head]) & U32

    def reap(self, max: int | None = None) -> list[CQE]:
        """Copy out the CQEs that are ready, `max` of them at most, oldest first; [] if none is.

        Like io_uring_peek_batch_cqe(3), but copies: 16 bytes each, and no cqe_seen() to forget.
        When the CQ looks empty, or has overflowed, the kernel is asked once more: under
        DEFER_TASKRUN it only works on completions when it is asked to.
        """
        if self._owner != get_ident():
            self._check_owner()
        if max is not None and not isinstance(max, int):
            raise TypeError(f"max {max!r} is not an int: give how many CQEs to take, or None for all")
        if max is not None and max < 0:
            raise ValueError(f"max {max} is negative: give how many CQEs to take, or None for all")
        cqes = self._take(max)
        ask = self._asks and not cqes
        while ask or self._sq[self._sq_flags] & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN):
            if max is not None and len(cqes) >= max:
                break
            ask = False
            result = syscalls.enter(self._enter_fd, 0, 0, IORING_ENTER_GETEVENTS | self._enter_flags)
            if result < 0 and result != -EINTR and not cqes:
                raise self._enter_failed(-result)
            more = self._take(None if max is None else max - len(cqes))
            if not more:
                break
            cqes += more
        return cqes

    def _take(self, max):
        cq, cqes, mask, at = self._cq, self._cqes, self._cq_mask, self._cqes_at
        head = cq[self._cq_head]
        count = (cq[self._cq_tail] - head) & U32
        if max is not None and count > max and not self._big_cqes:
            count = max
        if not self._defer:
            # ordering   Another CPU may have posted these (in io-wq, the kernel's worker threads, or an
            #            interrupt): what the tail covers must not be read before the tail itself.
            #            With DEFER_TASKRUN it was us.
            syscalls.fence()
        if self._big_cqes:
            taken, count = self._copy_big(head, count, max)
        else:
            taken = [_new(CQE, _unpack_cqe(cqes, at + (counter & mask) * 16))
                     for counter in range(head, head + count)]
        # ownership   The slots are the kernel's again from this store on: copied first.
        if not self._defer:
            syscalls.fence()
        cq[self._cq_head] = (head + count) & U32
        self._account(taken)
        return taken

    def _copy_big(self, head, count, max):
        """As above in a ring with CQEs of 32 bytes -> the CQEs, and how many slots they were in."""
        cqes, at, size = self._cqes, self._cqes_at, self._layout.cqe_size
        taken, used = [], 0
        while used < count and (max is None or len(taken) < max):
            place = at + ((head + used) & self._cq_mask) * size
            cqe = _unpack_cqe(cqes, place)
            used += 1
            if size == 32 or cqe[2] & IORING_CQE_F_32:
                cqe = _new(BigCQE, cqe)
                cqe.big_cqe = struct.unpack_from("=QQ", cqes, place + 16)
                used += size == 16          # CQE_MIXED: in two slots of 16 bytes
                taken.append(cqe)
            elif not cqe[2] & IORING_CQE_F_SKIP:        # which only fills up the array's end
                taken.append(_new(CQE, cqe))
        return taken, used

    def _expect(self, user_data, count=1):
        """A message (IORING_OP_MSG_RING) with this user_data is on its way to this ring; with -1, is
        not after all. For any thread: one append, and the owner reads it in _account().

        Such a CQE answers no request of ours. Where one in flight has the same user_data, it would
        otherwise be taken for that one's last, and memory be let go that the kernel may write to.
        """
        self._expected.append((user_data, count))

    def _count_expected(self):
        # After the CQEs have been copied out: who sent one of them had called _expect() before.
        inflight, expected = self._inflight, self._expected
        while expected:
            user_data, count = expected.popleft()
            if self._bulk and user_data in self._bulk_user_data:
                self._bulk += count     # as _account() takes its CQE for one of the batch's
                continue
            left = inflight.get(user_data, 0) + count
            if left > 0:
                inflight[user_data] = left
            else:
                self._keepers.pop(user_data, None)
                inflight.pop(user_data, None)

    def _account(self, taken):
        """Let go of what the requests that these CQEs answer had pinned."""
        if self._expected:
            self._count_expected()
        inflight, silent = self._inflight, self._silent
        if self._bulk:
            batches, singles = self._bulk_user_data, []
            for cqe in taken:
                if cqe[0] not in batches:
                    singles.append(cqe)
                elif not cqe[2] & IORING_CQE_F_MORE:
                    self._bulk -= 1
            taken = singles
        # A CQE whose user_data a request without CQE has too may tell of that one's failure.
        for user_data, _, flags in (taken if not silent else
                                    [cqe for cqe in taken if cqe[0] not in silent]):
            # A request's last CQE is the one without MORE (multishot and zero-copy set it).
            if not flags & IORING_CQE_F_MORE:
                left = inflight.get(user_data, 1) - 1
                if left:
                    inflight[user_data] = left
                else:
                    self._keepers.pop(user_data, None)
                    inflight.pop(user_data, None)

    def peek_cqe(self) -> CQE | None:
        """The oldest CQE, taken off the queue; None when there is none. Does not wait.

        In C it would stay in the queue until io_uring_cqe_seen(3); here it is yours.
        """
        cqes = self.reap(1)
        return cqes[0] if cqes else None

    def wait_cqe(self, timeout: float | None = None) -> CQE:
        """The oldest CQE, taken off the queue; waits for it. Submits nothing.

        timeout   seconds; None waits for ever. TimeoutError when it runs out.
        io_uring_wait_cqe(3), io_uring_wait_cqe_timeout(3).
        """
        check_timeout(timeout)
        cqe = self.peek_cqe()
        if cqe is None:
            self._enter(1, timeout, submit=False)
            cqe = self.peek_cqe()
        if cqe is None:
            assert timeout is not None
            raise errors.timed_out("wait_cqe", timeout, TimeoutError)
        return cqe

    def _register(self, opcode, arg=None, nr_args=0):
        if self._owner != get_ident():
            self._check_owner()
        if self.fd < 0:         # only a number is left of it
            opcode |= IORING_REGISTER_USE_REGISTERED_RING
            return syscalls.register(self._enter_fd, opcode, arg, nr_args)
        return syscalls.register(self.fd, opcode, arg, nr_args)

    # -- the end ---------------------------------------------------------------------------------
    @property
    def closed(self) -> bool:
        """True after close(), and in a forked child."""
        return self._layout is None

    def close(self) -> None:
        """Cancel what is in flight, wait for it, give everything back. May be called twice.

        Closing the fd alone would leave the kernel to cancel in its own time, while it may still
        write to buffers that Python has freed.
        """
        if self.closed:
            return
        mine = self._owner == get_ident() or not (
            self.flags & IORING_SETUP_SINGLE_ISSUER or self._enter_flags & IORING_ENTER_REGISTERED_RING)
        try:
            if mine and self._owed():
                self._cancel_in_flight()
        except (ValueError, OSError):
            # EEXIST: the owner is gone, and this thread has got the same number since. Or the kernel takes
            # nothing any more: EOWNERDEAD, EBADFD (SQPOLL and R_DISABLED on 5.10.46).
            pass
        finally:
            # What could not be cancelled in time (or not by this thread) stays pinned for good.
            if self._bulk:
                _orphans.extend(self._batches)
            _orphans.extend(self._keepers.values())
            _orphans.extend(self._chain_keepers + self._unanswered)
            if self._owed():
                _orphans.extend(self._registered_memory())
            self._release("is closed: make a new one")

    def _owed(self):
        """The user_data of all that may be in flight, and perhaps of more."""
        self._count_expected()
        bulk = self._bulk_user_data if self._bulk else ()
        return {*self._inflight, *self._silent, *self._keepers, *bulk}

    def _cancel_in_flight(self):
        self._drop_unsubmitted()
        if self.flags & IORING_SETUP_IOPOLL and not self._disabled:
            return self._wait_for_iopoll()
        marker = U64
        owed = self._owed()
        while marker in owed:
            marker -= 1
        deadline = time.monotonic() + _CLOSE_PATIENCE
        # By user_data, which every kernel can: also right for user_data used twice, and for a CQE
        # that an interrupted reap() lost. A request that waits for its turn in a chain can't be
        # found (-ENOENT) and may begin while we cancel others. So round after round, until one
        # finds nothing at all.
        found = not self._disabled      # then nothing was ever handed over
        while found:
            found = False
            for user_data in self._owed():
                if not (user_data in self._inflight or user_data in self._silent
                        or user_data in self._keepers or self._bulk):
                    continue            # its last CQE came in the meantime
                answer = self._cancel_and_wait(user_data, marker, deadline)
                if answer is None or answer == -EACCES:     # too late; or forbidden by a restriction
                    return
                if answer != -ENOENT:
                    found = True
                    if answer != 0:
                        time.sleep(0.001)       # -EALREADY: a worker thread is still at it
        self._bulk = 0
        for owed in self._inflight, self._silent, self._keepers, self._chain_keepers, self._unanswered:
            owed.clear()

    def _wait_for_iopoll(self):
        # There is nothing to cancel with here (only reads and writes are polled for), and a disk does
        # answer.
        deadline = time.monotonic() + _CLOSE_PATIENCE
        tags = self._live_tags()
        while time.monotonic() < deadline:
            self.reap()
            if not self._bulk and self._inflight == tags:       # no requests: buffers that are registered
                if not self._silent:
                    self._inflight.clear()
                    self._keepers.clear()
                return

    def _drop_unsubmitted(self):
        # The tail goes back to the head: what was not submitted is never sent. Not behind the back
        # of SQPOLL's thread, though, which may be reading what was published.
        end = self._sq[self._sq_tail if self._sqpoll else self._sq_head]
        self._sqe_tail = self._sq[self._sq_tail] = end

    def _cancel_and_wait(self, user_data, marker, deadline):
        """The kernel's answer to a cancel; None when it did not come in time."""
        self.reap()         # else EBUSY, where an older kernel has more CQEs than the CQ holds
        self.prep_cancel(user_data, user_data=marker)
        self.submit()
        while time.monotonic() < deadline:
            self._enter(1, max(0.0, deadline - time.monotonic()))
            for cqe in self.reap():
                if cqe.user_data == marker:
                    return cqe.res
        return None

    def _release(self, why):
        self._gone = why
        self._owner = None
        _rings.pop(id(self), None)
        self._inflight.clear()
        self._keepers.clear()
        self._forget_registered()
        self._batches, self._bulk, self._ran, self._run_again = [], 0, None, None
        self._expected.clear()
        self._chain_keepers, self._silent, self._unanswered = [], set(), []
        self.fd = self._enter_fd = -1
        self._sq = self._cq = self._sqes = self._cqes = None
        if self._layout is not None:
            self._layout.close()
            self._layout = None         # not before: close() may be called again after Ctrl-C

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def __del__(self):
        if getattr(self, "_layout", None) is not None:
            try:
                import warnings
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            except ImportError:         # the interpreter is ending
                pass
            finally:                    # with -W error, too
                self.close()

    def __repr__(self):
        if self.closed:
            return "<pyuring.Ring closed>"
        return (f"<pyuring.Ring fd={self.fd} sq_entries={self.sq_entries} "
                f"cq_entries={self.cq_entries} flags={self.flags:#x}>")

    def fileno(self) -> int:
        """The ring's fd, for poll(2) and epoll(7); see register_eventfd() about DEFER_TASKRUN."""
        if self.fd < 0 and not self._gone:
            raise ValueError("this ring has no file descriptor (REGISTERED_FD_ONLY, close_ring_fd())")
        return self.fd

    def _check_owner(self):
        if self._gone:
            raise self._unusable()
        if self.flags & IORING_SETUP_SINGLE_ISSUER:
            raise ValueError("this Ring belongs to another thread (SINGLE_ISSUER): make one per "
                             "thread, or Ring(flags=0) and a lock")
        if self._enter_flags & IORING_ENTER_REGISTERED_RING:
            raise ValueError("this Ring is known to the kernel by a number of another thread's "
                             "(register_ring_fd()): make one per thread")

    def _unusable(self):
        return ValueError(f"this Ring {self._gone}")


def _after_fork_in_child():
    # The child has the parent's maps: had it submitted only once, the shared tail would have moved
    # under the parent, although SINGLE_ISSUER then says EEXIST (measured on 6.18). So it lets go of
    # everything. Not MADV_DONTFORK: when Python later unmaps that hole in the child, it unmaps
    # whatever moved in since.
    for ring in [reference() for reference in _rings.values()]:
        if ring is not None and not ring._gone:
            ring._release("belongs to the parent process: make a new one after fork()")


os.register_at_fork(after_in_child=_after_fork_in_child)
