"""The kernel's side of both rings, over plain memory: no io_uring, and nothing left to luck.

FakeKernel stands in for the module `syscalls` in ring.py and layout.py:

    fake = FakeKernel(sq_start=2**32 - 3)
    fake.install(monkeypatch)
    ring = Ring(8)

It keeps the rules of io_uring(7): the SQ is read from head to tail through the index array, a CQE goes to the CQ's
tail, and where the CQ is full it waits in the kernel, IORING_SQ_CQ_OVERFLOW set, until somebody enters with
GETEVENTS. What a real kernel does only now and then (a short submission, a signal in the middle, EBUSY) is written
down beforehand in `script`. A wait that nothing would end is an AssertionError here, and no hang.
"""
import ctypes
import errno
import os
import struct

from pyuring import syscalls
from pyuring.abi import (
    IORING_ENTER_EXT_ARG, IORING_ENTER_GETEVENTS, IORING_FEAT_EXT_ARG, IORING_FEAT_NODROP, IORING_FEAT_SINGLE_MMAP,
    IORING_FEAT_SUBMIT_STABLE, IORING_OFF_CQ_RING, IORING_OFF_SQ_RING, IORING_OFF_SQES, IORING_OP_ASYNC_CANCEL,
    IORING_SETUP_CQSIZE, IORING_SQ_CQ_OVERFLOW,
)

FEATURES = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG
U32 = 0xFFFFFFFF

# Where the words lie, in bytes. With two maps each map starts again at 0, so the CQ's places are its own then; the
# SQ's and the CQ's never coincide, so that a mixed-up map or offset shows.
SQ_HEAD, SQ_TAIL, SQ_MASK, SQ_ENTRIES, SQ_FLAGS, SQ_DROPPED = 0, 64, 256, 264, 276, 272
CQ_HEAD, CQ_TAIL, CQ_MASK, CQ_ENTRIES, CQ_OVERFLOW, CQES = 128, 192, 260, 268, 284, 320

SQE_FIELDS = ("opcode flags ioprio fd off addr len op_flags user_data buf_index personality file_index addr3 "
              "pad2").split()
SQE = struct.Struct("=BBHiQQIIQHHIQQ")
CQE = struct.Struct("=QiI")
WORD = struct.Struct("=I")


class Memory(bytearray):
    """A bytearray that can be closed as a mmap can: not while someone still looks at it."""

    closed = False

    def close(self):
        del self[:]         # BufferError while a memoryview of it is alive
        self.closed = True


class FakeKernel:
    """features      IORING_FEAT_* of the rings
    refuse           IORING_SETUP_* bits that setup answers with -EINVAL
    setup_errno      what setup fails with, 0 for not at all
    sq_start         where the SQ's head and tail start, cq_start likewise: 2**32 - 1 wraps at once
    answer           called with each SQE consumed (a dict); the CQEs it returns are posted. By default a cancel
                     finds nothing, and all others say nothing until complete()

    script           what the next calls of enter do, first come first served:
                       int          that result; of n >= 0, n SQEs are consumed
                       an exception all is consumed, then it is raised, as by a signal handler
                       callable     called with (to_submit, min_complete, flags), answers any of these, or None
                                    for what enter does without a script
    setups, enters, registers   the arguments seen so far; submitted, all SQEs; timeouts, in ns, of waits
    """

    address_of = staticmethod(syscalls.address_of)
    readable = staticmethod(syscalls.readable)
    writable = staticmethod(syscalls.writable)
    pin = staticmethod(syscalls.pin)
    offset = staticmethod(syscalls.offset)

    def __init__(self, *, features=FEATURES, refuse=0, setup_errno=0, sq_start=0, cq_start=0):
        self.features, self.refuse, self.setup_errno = features, refuse, setup_errno
        self.sq_start, self.cq_start = sq_start, cq_start
        self.script, self.overflow = [], []
        self.setups, self.enters, self.registers, self.submitted, self.timeouts = [], [], [], [], []
        self.fences = 0
        self.answer = self.no_answer
        self.maps = {}
        self.fd = -1

    def install(self, monkeypatch):
        """Be the kernel for the rings of this test."""
        monkeypatch.setattr("pyuring.ring.syscalls", self)
        monkeypatch.setattr("pyuring.layout.syscalls", self)
        monkeypatch.setattr("pyuring.batch.syscalls", self)

    # -- what ring.py calls ----------------------------------------------------------------------------------
    def setup(self, entries, params, fds=None):
        _, cq_entries, flags = struct.unpack_from("=3I", params)
        self.setups.append(flags)
        if self.setup_errno:
            return -self.setup_errno
        if flags & self.refuse:
            return -errno.EINVAL
        sq = 1 << (entries - 1).bit_length()
        cq = 1 << (cq_entries - 1).bit_length() if flags & IORING_SETUP_CQSIZE else 2 * sq
        self.sq_entries, self.cq_entries = sq, cq
        single = self.features & IORING_FEAT_SINGLE_MMAP
        self.array = CQES + CQE.size * cq if single else 512
        self.sq = Memory(self.array + 4 * sq)
        self.cq = self.sq if single else Memory(CQES + CQE.size * cq)
        self.sqes = Memory(b"\xEE" * (SQE.size * sq))       # a field that prep_* forgets shows
        for memory, words in ((self.sq, ((SQ_HEAD, self.sq_start), (SQ_TAIL, self.sq_start), (SQ_MASK, sq - 1),
                                         (SQ_ENTRIES, sq))),
                              (self.cq, ((CQ_HEAD, self.cq_start), (CQ_TAIL, self.cq_start), (CQ_MASK, cq - 1),
                                         (CQ_ENTRIES, cq)))):
            for at, value in words:
                WORD.pack_into(memory, at, value)
        for i in range(sq):
            WORD.pack_into(self.sq, self.array + 4 * i, 0xDEAD)     # it is the ring that fills this
        struct.pack_into("=3I", params, 0, sq, cq, flags)
        struct.pack_into("=I", params, 20, self.features)
        struct.pack_into("=7I", params, 40, SQ_HEAD, SQ_TAIL, SQ_MASK, SQ_ENTRIES, SQ_FLAGS, SQ_DROPPED, self.array)
        struct.pack_into("=6I", params, 80, CQ_HEAD, CQ_TAIL, CQ_MASK, CQ_ENTRIES, CQ_OVERFLOW, CQES)
        self.fd, self._wake = os.pipe()     # readable as soon as something completes, for epoll(7)
        os.set_blocking(self._wake, False)
        return self.fd

    def map_ring(self, fd, size, offset):
        assert fd == self.fd
        single = self.features & IORING_FEAT_SINGLE_MMAP
        memory = {IORING_OFF_SQ_RING: self.sq, IORING_OFF_CQ_RING: None if single else self.cq,
                  IORING_OFF_SQES: self.sqes}[offset]
        assert memory is not None, "with SINGLE_MMAP there is no second map of the rings"
        assert offset not in self.maps, f"mapped twice: {offset:#x}"
        assert size == len(memory), f"the map at {offset:#x} has {len(memory)} bytes, not {size}"
        self.maps[offset] = memory
        return memory

    def enter(self, fd, to_submit, min_complete, flags, arg=None, size=0):
        assert fd == self.fd, "enter on a ring that is closed"
        self.enters.append((to_submit, min_complete, flags))
        timeout = self._timeout(arg, size) if flags & IORING_ENTER_EXT_ARG else None
        step = self.script.pop(0) if self.script else None
        if callable(step):
            step = step(to_submit, min_complete, flags)
        if isinstance(step, BaseException):
            self.consume(to_submit)
            raise step
        if step is not None:
            if step > 0:
                assert step <= to_submit, "the script consumes more than was submitted"
                self.consume(step)
            return step
        consumed = len(self.consume(to_submit))
        if flags & IORING_ENTER_GETEVENTS:
            self.flush()
            if consumed == to_submit and self.cq_ready < min_complete:
                assert timeout is not None, "this wait would never end"
                # As the kernel: what was consumed comes first, and unread CQEs hide how the wait ended.
                return consumed or (0 if self.cq_ready else -errno.ETIME)
        return consumed

    def register(self, fd, opcode, arg=None, nr_args=0):
        self.registers.append((opcode, nr_args))
        return -errno.EINVAL

    def close(self, fd):
        assert fd == self.fd
        for memory in self.maps.values():
            assert memory.closed, "the fd is closed before the maps"
        os.close(self.fd)
        os.close(self._wake)
        self.fd = -1

    def fence(self):
        self.fences += 1

    # -- what tests call -------------------------------------------------------------------------------------
    def word(self, memory, at):
        return WORD.unpack_from(memory, at)[0]

    @property
    def sq_ready(self):
        """How many SQEs lie between head and tail, as the kernel sees it."""
        return (self.word(self.sq, SQ_TAIL) - self.word(self.sq, SQ_HEAD)) & U32

    @property
    def cq_ready(self):
        return (self.word(self.cq, CQ_TAIL) - self.word(self.cq, CQ_HEAD)) & U32

    def raw_sqe(self, counter):
        """The 64 bytes of the SQE for a value of the SQ counter."""
        index = self.word(self.sq, self.array + 4 * (counter & (self.sq_entries - 1)))
        return bytes(self.sqes[index * SQE.size:][:SQE.size])

    def consume(self, count=None):
        """Take `count` SQEs off the SQ (all that the tail covers by default) -> a dict for each."""
        head, ready = self.word(self.sq, SQ_HEAD), self.sq_ready
        assert ready <= self.sq_entries, f"{ready} SQEs in a ring of {self.sq_entries}"
        taken = [dict(zip(SQE_FIELDS, SQE.unpack(self.raw_sqe(head + i))))
                 for i in range(ready if count is None else min(count, ready))]
        WORD.pack_into(self.sq, SQ_HEAD, (head + len(taken)) & U32)
        self.submitted += taken
        for sqe in taken:
            self.complete(*self.answer(sqe))
        return taken

    def complete(self, *cqes):
        """Post CQEs, each (user_data, res, flags) or a shorter tuple; into the overflow when the CQ is full."""
        for cqe in cqes:
            cqe = (tuple(cqe) + (0, 0))[:3]
            if self.overflow or self.cq_ready == self.cq_entries:
                self.overflow.append(cqe)
                self._flag(IORING_SQ_CQ_OVERFLOW)
            else:
                self._post(cqe)

    def flush(self):
        """Move CQEs from the overflow into the CQ, as far as there is room."""
        while self.overflow and self.cq_ready < self.cq_entries:
            self._post(self.overflow.pop(0))
        self._flag(IORING_SQ_CQ_OVERFLOW if self.overflow else 0)

    @staticmethod
    def no_answer(sqe):
        return [(sqe["user_data"], -errno.ENOENT)] if sqe["opcode"] == IORING_OP_ASYNC_CANCEL else []

    @staticmethod
    def at_once(sqe):
        """For `answer`: every request succeeds at once (and a cancel finds nothing)."""
        return FakeKernel.no_answer(sqe) or [(sqe["user_data"], 0)]

    # -- inside ----------------------------------------------------------------------------------------------
    def _post(self, cqe):
        tail = self.word(self.cq, CQ_TAIL)
        CQE.pack_into(self.cq, CQES + (tail & (self.cq_entries - 1)) * CQE.size, *cqe)
        WORD.pack_into(self.cq, CQ_TAIL, (tail + 1) & U32)
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:             # full, and so readable
            pass

    def _flag(self, flags):
        WORD.pack_into(self.sq, SQ_FLAGS, flags)

    def _timeout(self, arg, size):
        assert size == 24, "struct io_uring_getevents_arg has 24 bytes"
        raw = ctypes.string_at(ctypes.addressof(arg._obj), 24)
        sigmask, _, _, timespec = struct.unpack("=QIIQ", raw)
        assert not sigmask
        seconds, nanoseconds = struct.unpack("=qq", ctypes.string_at(timespec, 16))
        assert 0 <= nanoseconds < 10**9
        self.timeouts.append(seconds * 10**9 + nanoseconds)
        return self.timeouts[-1]
