"""batch.py - requests that are filled in once and submitted many times: the way to the most speed.

    batch = pyuring.Batch()
    for i in range(32):
        batch.prep_read(fd, buffers[i], 4096, 4096 * i, user_data=i)
    for round in range(1000):
        for user_data, res, flags in ring.run(batch):       # push, submit, wait, take
            ...
        at = 32 * 4096 * (round + 1)
        batch.offsets[:] = array("Q", range(at, at + 32 * 4096, 4096))

Filling in an SQE from Python costs as much as half a dozen system calls inside the kernel do. A batch
keeps the packed SQEs, and a ring copies all of them into its queue at once; completions come back as
one list of plain tuples. What changes from round to round is the contents of the buffers, and what
can be patched: offsets and file descriptors.

Read prep.py and ring.py first.
"""
from __future__ import annotations

import struct
import sys
from _thread import get_ident
from errno import EINTR

from . import abi, errors, syscalls
from .abi import (
    IORING_CQE_F_MORE, IORING_ENTER_GETEVENTS, IORING_OP_FADVISE, IORING_OP_FALLOCATE,
    IORING_OP_FSYNC, IORING_OP_NOP, IORING_OP_READ, IORING_OP_READV, IORING_OP_READV_FIXED,
    IORING_OP_READ_FIXED, IORING_OP_SYNC_FILE_RANGE, IORING_OP_WRITE, IORING_OP_WRITEV,
    IORING_OP_WRITEV_FIXED, IORING_OP_WRITE_FIXED, IORING_SQ_CQ_OVERFLOW, IORING_SQ_TASKRUN,
    IOSQE_CQE_SKIP_SUCCESS,
)
from .arguments import U32, bad_field
from .prep import Prep

# The opcodes whose `off` is a position in a file. In others it may be an address.
_POSITIONS = frozenset((
    IORING_OP_FADVISE, IORING_OP_FALLOCATE, IORING_OP_FSYNC, IORING_OP_READ, IORING_OP_READ_FIXED,
    IORING_OP_READV, IORING_OP_READV_FIXED, IORING_OP_SYNC_FILE_RANGE, IORING_OP_WRITE,
    IORING_OP_WRITE_FIXED, IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED))


_ONE_COMPLETION = _POSITIONS | {IORING_OP_NOP}

_unpack_cqe, _unpack_cqes = abi.CQE.unpack_from, abi.CQE.iter_unpack
_FLAGS_AT = 12 if sys.byteorder == "little" else 15     # the low byte of a CQE's flags


class Batch(Prep):
    """Requests for Ring.push() and Ring.run(): prep_*() of a Batch adds one, and submits nothing.

    Belongs to no ring, and may be pushed to any. What its requests point to stays where it is as long
    as the batch lives, and a ring holds on to a batch while any of its requests is in flight. While
    they are, their user_data may not be in use for other requests of that ring.

    Not for IOSQE_CQE_SKIP_SUCCESS, nor for SQEs of 128 bytes. A ring that runs one gets messages only from
    who has the Ring itself (prep_msg_ring), not just its fd: these would be counted as answers to it.
    """

    __slots__ = ("_sqes", "_user_data", "_keepers", "_opcodes")

    _again = True           # for prep.py and prep_sockets.py: the kernel meets these SQEs more than once

    def __init__(self) -> None:
        self._sqes = bytearray()
        self._user_data: set[int] = set()
        self._keepers: list = []
        self._opcodes: set[int] = set()

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self._sqes) // 64

    @property
    def offsets(self) -> memoryview:
        """The requests' positions in their files, as a writable memoryview of u64, one for each request.

        ValueError where one of the requests has no position. Take it once: after that no request
        can be added.
        """
        if not self._opcodes <= _POSITIONS:
            raise ValueError("one of these requests has no position in a file: make a batch of reads and writes alone")
        return memoryview(self._sqes).cast("Q")[1::8]

    @property
    def fds(self) -> memoryview:
        """The requests' file descriptors (slots with IOSQE_FIXED_FILE), as a writable memoryview of int32,
        one for each request. As offsets: no request can be added after that."""
        return memoryview(self._sqes).cast("i")[1::16]

    def _sqe(self, opcode, fd, addr=0, len=0, off=0, *, op_flags=0, user_data=0, sqe_flags=0, ioprio=0,
             buf_index=0, personality=0, file_index=0, addr3=0, attr_type_mask=0, keeper=None):
        if sqe_flags & IOSQE_CQE_SKIP_SUCCESS:
            raise ValueError("IOSQE_CQE_SKIP_SUCCESS: a batch counts its completions; leave it out")
        try:
            packed = abi.SQE.pack(opcode, sqe_flags, ioprio, fd, off, addr, len, op_flags, user_data, buf_index,
                                  personality, file_index, addr3, attr_type_mask)
        except struct.error:
            raise bad_field(opcode=opcode, sqe_flags=sqe_flags, ioprio=ioprio, fd=fd, off=off, addr=addr, len=len,
                            op_flags=op_flags, user_data=user_data, buf_index=buf_index, personality=personality,
                            file_index=file_index, addr3=addr3, attr_type_mask=attr_type_mask) from None
        try:
            self._sqes += packed
        except BufferError:
            raise ValueError("this batch is complete, as its offsets or fds were taken: make another one") from None
        self._keepers.append(keeper)
        self._user_data.add(user_data)
        self._opcodes.add(opcode)

    def _sqe128(self, opcode, fd, **fields):
        raise ValueError("a batch has SQEs of 64 bytes: prep this one on the ring itself")


class Bulk:
    """The methods of a Ring for batches."""

    __slots__ = ()

    def push(self, batch: Batch) -> None:
        """Copy the requests of a Batch into the queue, as prep_*() would fill them in one by one.

        SubmissionQueueFull where there is no room for all of them. ValueError where a user_data of
        theirs is in use for another request. The ring keeps the batch until nothing of it is in flight.
        """
        if self._owner != get_ident():
            self._check_owner()
        sqes = batch._sqes
        if self._sqe_shift != 6 or self._big_cqes:
            raise ValueError("batches are for rings with SQEs of 64 and CQEs of 16 bytes")
        if self.sq_entries - ((self._sqe_tail - self._sq[self._sq_head]) & U32) < len(sqes) >> 6:
            raise errors.SubmissionQueueFull(f"{len(batch)} requests, and {self.sq_space_left} of {self.sq_entries} "
                                             "SQEs are free: submit() first, or ask for more entries")
        if self._inflight and not self._inflight.keys().isdisjoint(batch._user_data):
            raise in_use(*self._inflight.keys() & batch._user_data)
        # lifetime   The batch keeps what its requests point to, and we keep the batch: until another
        #            one comes while nothing of this one is in flight.
        if not self._bulk:
            self._batches, self._bulk_user_data = [batch], batch._user_data
        elif batch not in self._batches:
            self._batches.append(batch)
            self._bulk_user_data = self._bulk_user_data | batch._user_data
        self._bulk += len(sqes) >> 6
        self._push(sqes)

    def run(self, batch: Batch, wait_nr: int | None = None) -> list[tuple[int, int, int]]:
        """push(), submit, wait for `wait_nr` completions (None: for as many as there are requests), and
        reap_raw().

        As long as a ring does nothing else but run one batch of reads and writes again and again, that
        takes half the time of the four. Errors are those of push() and submit(). io_uring_enter(2).
        """
        if batch is self._ran and wait_nr is None:
            taken = self._run_again(self)
            if taken is not None:
                return taken
        self.push(batch)
        self._enter(len(batch) if wait_nr is None else wait_nr, None)
        # With DEFER_TASKRUN no fence is needed, and these opcodes have one completion each.
        self._ran = None
        if self._defer and not self._rewinds and batch._opcodes <= _ONE_COMPLETION:
            self._ran, self._run_again = batch, self._shorter(batch)
        return self.reap_raw()

    def _shorter(self, batch):
        """run(batch) for the common case, in one piece: nothing is in the queues, so what goes in now, comes
        out. A function of the ring (which must not hold on to itself) that answers the completions; None if
        it is not that case, and nothing was done.

        What else it needs of the ring and the batch is looked up here, once; resizing and close() forget it.
        """
        sq, cq, ring_sqes, cqes, sqes = self._sq, self._cq, self._sqes, self._cqes, batch._sqes
        sq_head, sq_tail, cq_head, cq_tail = self._sq_head, self._sq_tail, self._cq_head, self._cq_tail
        sq_mask, cq_mask, cqes_at, room = self._sq_mask, self._cq_mask, self._cqes_at, len(self._sqes)
        fd, flags, expected = self._enter_fd, IORING_ENTER_GETEVENTS | self._enter_flags, self._expected
        size = len(sqes)
        count = size >> 6

        def run_again(ring):
            tail = ring._sqe_tail
            first = (tail & sq_mask) << 6
            if ring._bulk or ring._inflight or ring._owner != get_ident() or sq[sq_head] != tail \
                    or first + size > room or len(sqes) != size:
                return None
            ring_sqes[first:first + size] = sqes
            ring._bulk = count
            ring._sqe_tail = sq[sq_tail] = (tail + count) & U32
            if syscalls.enter(fd, count, count, flags) != count:
                ring._enter(count if sq[sq_head] == ring._sqe_tail else 0, None)
            head = cq[cq_head]
            first = head & cq_mask
            if (cq[cq_tail] - head) & U32 != count or first + count > cq_mask or expected:
                return ring.reap_raw()      # the rest of this class sees to it
            first = cqes_at + (first << 4)
            taken = [_unpack_cqe(cqes, first)] if count == 1 else \
                list(_unpack_cqes(cqes[first:first + (count << 4)]))
            cq[cq_head] = (head + count) & U32
            ring._bulk = 0
            return taken
        return run_again

    def reap_raw(self) -> list[tuple[int, int, int]]:
        """As reap(), and quicker: all CQEs that are ready, as a list of plain (user_data, res, flags)."""
        if self._owner != get_ident():
            self._check_owner()
        if self._big_cqes:
            raise ValueError("reap_raw() is for rings with CQEs of 16 bytes: use reap()")
        taken, ask = [], self._asks
        while True:
            raw = self._take_bytes()
            if raw:
                cqes = list(_unpack_cqes(raw))
                if self._inflight or self._silent or self._expected:
                    self._account(cqes)
                else:
                    # Last CQEs are those without MORE, a bit in the flags' low byte.
                    flags = raw[_FLAGS_AT::16]
                    last = len(cqes)
                    if flags.count(0) != last:
                        last -= sum(byte & IORING_CQE_F_MORE for byte in flags) // IORING_CQE_F_MORE
                    self._bulk -= last
                taken = taken + cqes if taken else cqes
            if not (ask and not taken
                    or self._sq[self._sq_flags] & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)):
                return taken
            ask = False
            result = syscalls.enter(self._enter_fd, 0, 0, IORING_ENTER_GETEVENTS | self._enter_flags)
            if result < 0 and result != -EINTR and not taken:
                raise self._enter_failed(-result)

    def _push(self, sqes):
        """Copy packed SQEs into the queue, which has room for them. What they point to, and that they
        are answered before close(), is the caller's to see to."""
        first, size = (self._sqe_tail & self._sq_mask) * 64, len(sqes)
        end = first + size
        if end <= len(self._sqes):
            self._sqes[first:end] = sqes
        else:                               # round the corner
            split = len(self._sqes) - first
            self._sqes[first:], self._sqes[:size - split] = sqes[:split], sqes[split:]
        self._sqe_tail = (self._sqe_tail + size // 64) & U32

    def _take_bytes(self):
        """All CQEs that are ready, as bytes."""
        cq, at, mask = self._cq, self._cqes_at, self._cq_mask
        head = cq[self._cq_head]
        count = (cq[self._cq_tail] - head) & U32
        if not self._defer:
            syscalls.fence()                # as in _take()
        first, size = head & mask, mask + 1
        raw = bytes(self._cqes[at + first * 16:at + min(first + count, size) * 16])
        if first + count > size:
            raw += bytes(self._cqes[at:at + (first + count - size) * 16])
        if not self._defer:
            syscalls.fence()
        cq[self._cq_head] = (head + count) & U32
        return raw

    def _take_raw(self):
        """All CQEs that are ready as (user_data, res, flags), for the caller to _account() for."""
        return list(_unpack_cqes(self._take_bytes()))


def in_use(*user_data: int) -> ValueError:
    """The exception for a user_data that stands for two things."""
    return ValueError(f"user_data {user_data[0]} is in use both in a batch and for a single request: only by it is "
                      "known whose a completion is, so give one of them another")
