"""registration.py - one method an io_uring_register operation: what a ring is to know beforehand.

Files, buffers and buffer rings that requests then name by number (those are in resources.py), an
eventfd that tells of completions, limits, credentials, and questions to the kernel. The names and the
order of arguments are liburing's (io_uring_register_files(3) is register_files here), with Python
objects for C's pointers and lengths. Ring inherits all of it; each method is one system call and does
not touch the queues. What needs no ring is a function, at the end.

The numbers, and what arg and nr_args are for each, stand in abi.py. Those about the ring itself
(enable_rings, register_ring_fd, resize_rings, set_iowait) are in ring_fd.py. Read next: resources.py,
then registered.py, the comfortable way to most of this.
"""
from __future__ import annotations

import mmap
import struct
from collections import namedtuple
from errno import EINTR, EMSGSIZE, ETIME
from time import monotonic

from . import abi, errors, syscalls
from .arguments import U32, U64, bad_field, check_timeout, fileno, timespec
from .resources import Resources, Shared, check, pages_at, whole_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SOCK_FILTER = struct.Struct("=HBBI")       # struct sock_filter of linux/filter.h: code, jt, jf, k

Napi = namedtuple("Napi", "busy_poll_to prefer_busy_poll")
Napi.__doc__ = "What register_napi() found and sets: microseconds of busy polling, and whether to prefer it."

Ifq = namedtuple("Ifq", "zcrx_id region head tail rqes rq_area_token")
Ifq.__doc__ = """A queue for zero-copy receive: its ID, the refill queue (a memoryview, and where in it head, tail and
entries lie), and what to or into the offsets that go there."""

QueryOpcode = namedtuple("QueryOpcode", "nr_request_opcodes nr_register_opcodes feature_flags ring_setup_flags "
                                        "enter_flags sqe_flags nr_query_opcodes")
QueryZcrx = namedtuple("QueryZcrx", "register_flags area_flags nr_ctrl_opcodes features rq_hdr_size "
                                    "rq_hdr_alignment")
QueryScq = namedtuple("QueryScq", "hdr_size hdr_alignment")
QueryOpcode.__doc__ = "register_query(): what this kernel knows, as counts and as masks of flags."
QueryZcrx.__doc__ = "register_query(): what it knows of zero-copy receive; sizes are in bytes."
QueryScq.__doc__ = "register_query(): size and alignment of the header in a ring's memory, in bytes."
_QUERIES = {abi.IO_URING_QUERY_OPCODES: (abi.QUERY_OPCODE, QueryOpcode),
            abi.IO_URING_QUERY_ZCRX: (abi.QUERY_ZCRX, QueryZcrx),
            abi.IO_URING_QUERY_SCQ: (abi.QUERY_SCQ, QueryScq)}


class Registration(Resources):
    """The register_* methods of a Ring."""

    __slots__ = ()

    # -- questions -------------------------------------------------------------------------------------
    def register_probe(self) -> frozenset[int]:
        """The opcodes (IORING_OP_*) that this kernel supports. Linux 5.6; OSError EINVAL before.

        io_uring_register_probe(3).
        """
        data = bytearray(abi.PROBE.size + 256 * abi.PROBE_OP.size)
        self._registering("register_probe", abi.IORING_REGISTER_PROBE, syscalls.pin(data), 256)
        _, count, _ = abi.PROBE.unpack_from(data)
        rows = abi.PROBE_OP.iter_unpack(memoryview(data)[abi.PROBE.size:][:count * 8])
        return frozenset(op for op, _, flags, _ in rows if flags & abi.IO_URING_OP_SUPPORTED)

    # -- eventfd ---------------------------------------------------------------------------------------
    def register_eventfd(self, fd) -> None:
        """Signal an eventfd(2) with each completion, until unregister_eventfd() or close().

        Under DEFER_TASKRUN polling the ring's own fd never wakes; this does. Drain the eventfd
        first, then reap().
        OSError: EBUSY where there is one already; EINVAL for what is no eventfd. Linux 5.2.
        io_uring_register_eventfd(3).
        """
        self._registering("register_eventfd", abi.IORING_REGISTER_EVENTFD, _one_fd(fd), 1)

    def register_eventfd_async(self, fd) -> None:
        """As register_eventfd(), only for completions that a worker thread brought about: what ended while
        it was submitted, or when polling found it ready, is not told (io_eventfd_signal() in
        io_uring/eventfd.c). OSErrors likewise. Linux 5.6. io_uring_register_eventfd_async(3).
        """
        self._registering("register_eventfd_async", abi.IORING_REGISTER_EVENTFD_ASYNC, _one_fd(fd), 1)

    def unregister_eventfd(self) -> None:
        """Undo register_eventfd(). OSError ENXIO when there was none. Linux 5.2.

        io_uring_unregister_eventfd(3).
        """
        self._registering("unregister_eventfd", abi.IORING_UNREGISTER_EVENTFD)

    # -- credentials and restrictions ------------------------------------------------------------------
    def register_personality(self) -> int:
        """Remember who this process is now (user, groups, capabilities) -> an ID, for `personality` in
        requests that are to be made as that one.

        Kept until unregister_personality() or close(). OSError EBUSY beyond 65535 of them (measured on
        6.18). Linux 5.6. io_uring_register_personality(3).
        """
        return self._registering("register_personality", abi.IORING_REGISTER_PERSONALITY)

    def unregister_personality(self, id: int) -> None:
        """Forget a personality; requests in flight keep it. OSError EINVAL for one that is not there.

        Linux 5.6. io_uring_unregister_personality(3).
        """
        check("id", id, 0, U32)
        self._registering("unregister_personality", abi.IORING_UNREGISTER_PERSONALITY, None, id)

    def register_restrictions(self, res: Iterable[tuple[int, int]]) -> None:
        """Allow only this, from enable_rings() on and for good: everything else is refused with EACCES.

        res   pairs of (IORING_RESTRICTION_*, what it is about):
                  REGISTER_OP          an IORING_REGISTER_* that may be used
                  SQE_OP               an IORING_OP_* that may be used
                  SQE_FLAGS_ALLOWED    all the IOSQE_* that requests may carry
                  SQE_FLAGS_REQUIRED   those that every request must carry
        Once, on a ring with IORING_SETUP_R_DISABLED that is not enabled yet (OSError EBADFD, EBUSY).
        close() can then cancel nothing unless IORING_OP_ASYNC_CANCEL is allowed.
        Linux 5.10. io_uring_register_restrictions(3).
        """
        data = bytearray()
        for pair in res:
            try:
                opcode, value = pair
                data += abi.RESTRICTION.pack(opcode, value)
            except (TypeError, ValueError, struct.error):
                raise ValueError(f"restriction {pair!r} is no pair of an IORING_RESTRICTION_* and a number "
                                 "below 256") from None
        if not data:
            raise ValueError("no restrictions: give at least one; what none of them allows is forbidden")
        self._registering("register_restrictions", abi.IORING_REGISTER_RESTRICTIONS, syscalls.pin(data),
                          len(data) // abi.RESTRICTION.size)

    # -- worker threads --------------------------------------------------------------------------------
    def register_iowq_aff(self, cpus: Iterable[int]) -> None:
        """Let the worker threads that this thread's rings make from now on run on these CPUs only.

        CPUs that there are not count for nothing, without an error (measured on 6.18).
        OSError EINVAL before Linux 5.14. io_uring_register_iowq_aff(3).
        """
        cpus = list(cpus)
        for cpu in cpus:
            check("cpu", cpu, 0, (1 << 16) - 1)
        if not cpus:
            raise ValueError("no CPUs: give at least one, as os.sched_getaffinity(0) does")
        bits = 8 * struct.calcsize("L")             # a cpu_set_t is made of unsigned longs
        words = [0] * (max(cpus) // bits + 1)
        for cpu in cpus:
            words[cpu // bits] |= 1 << cpu % bits
        data = bytearray(struct.pack(f"{len(words)}L", *words))
        self._registering("register_iowq_aff", abi.IORING_REGISTER_IOWQ_AFF, syscalls.pin(data), len(data))

    def unregister_iowq_aff(self) -> None:
        """Undo register_iowq_aff(), if there was one. OSError EINVAL before Linux 5.14.

        io_uring_unregister_iowq_aff(3).
        """
        self._registering("unregister_iowq_aff", abi.IORING_UNREGISTER_IOWQ_AFF)

    def register_iowq_max_workers(self, bound: int = 0, unbound: int = 0) -> tuple[int, int]:
        """Limit the worker threads of this thread's rings -> (bound, unbound) as they were.

        bound     those for regular files and block devices; 0 leaves it as it is
        unbound   those for everything else, likewise
        For each NUMA node. OSError EINVAL before Linux 5.15. io_uring_register_iowq_max_workers(3).
        """
        check("bound", bound, 0, (1 << 31) - 1)
        check("unbound", unbound, 0, (1 << 31) - 1)
        data = bytearray(struct.pack("=II", bound, unbound))
        self._registering("register_iowq_max_workers", abi.IORING_REGISTER_IOWQ_MAX_WORKERS,
                          syscalls.pin(data), 2)
        return struct.unpack("=II", data)

    # -- cancelling, waiting ---------------------------------------------------------------------------
    def register_sync_cancel(self, target: int = 0, fd=-1, flags: int = 0, timeout: float | None = None,
                             opcode: int = 0) -> int:
        """Cancel requests, and wait until they are done: prep_cancel() in one call. Each of them still
        answers for itself with a CQE. -> how many, with IORING_ASYNC_CANCEL_ALL or _ANY; else 0.

        target, fd, opcode   which: the user_data, or with _FD the fd (with _FD_FIXED a slot), with _OP
                             (Linux 6.6) the opcode
        flags                IORING_ASYNC_CANCEL_*, as for prep_cancel()
        timeout              seconds; None waits for ever. TimeoutError when it runs out
        OSError ENOENT where nothing matches. Linux 6.0. io_uring_register_sync_cancel(3).
        """
        check_timeout(timeout)
        check("target", target, 0, U64)
        check("flags", flags, 0, U32)
        check("opcode", opcode, 0, 0xFF)
        number = fileno(fd)
        check("fd", number, -1, (1 << 31) - 1)
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = (-1, -1) if deadline is None else timespec(max(0.0, deadline - monotonic()))
            data = bytearray(abi.SYNC_CANCEL_REG.pack(target, number, flags, *left, opcode))
            result = self._register(abi.IORING_REGISTER_SYNC_CANCEL, syscalls.pin(data), 1)
            if result == -ETIME:
                raise errors.timed_out("register_sync_cancel", timeout or 0.0, TimeoutError)
            if result >= 0:
                return result
            if result != -EINTR:        # else a signal, whose handler has run by now (PEP 475)
                raise errors.os_error(-result, "register_sync_cancel")

    def register_clock(self, clockid: int) -> None:
        """Which clock waits for completions go by: time.CLOCK_MONOTONIC, or time.CLOCK_BOOTTIME, which
        goes on while the machine sleeps.

        OSError EINVAL for any other. Linux 6.12. io_uring_register_clock(3).
        """
        check("clockid", clockid, 0, U32)
        data = bytearray(abi.CLOCK_REGISTER.pack(clockid))
        self._registering("register_clock", abi.IORING_REGISTER_CLOCK, syscalls.pin(data))

    # -- network cards ---------------------------------------------------------------------------------
    def register_napi(self, busy_poll_to: int, prefer_busy_poll: bool = False) -> Napi:
        """Ask the network card instead of waiting for its interrupt -> the Napi that was.

        busy_poll_to       microseconds, at most, before a wait
        prefer_busy_poll   hold interrupts back meanwhile
        OSError EINVAL on a ring with IOPOLL; EOPNOTSUPP where the kernel can't (CONFIG_NET_RX_BUSY_POLL).
        Linux 6.9. io_uring_register_napi(3).
        """
        check("busy_poll_to", busy_poll_to, 0, U32)
        data = bytearray(abi.NAPI.pack(busy_poll_to, bool(prefer_busy_poll)))
        self._registering("register_napi", abi.IORING_REGISTER_NAPI, syscalls.pin(data), 1)
        return _napi(data)

    def unregister_napi(self) -> Napi:
        """Undo register_napi() -> the Napi that was. OSError EINVAL before Linux 6.9. io_uring_unregister_napi(3)."""
        data = bytearray(abi.NAPI.size)
        self._registering("unregister_napi", abi.IORING_UNREGISTER_NAPI, syscalls.pin(data), 1)
        return _napi(data)

    def register_ifq(self, if_idx: int, if_rxq: int, rq_entries: int, area, *, flags: int = 0,
                     rx_buf_len: int = 0) -> Ifq:
        """Let a queue of a network card write what it receives into memory of ours, for RECV_ZC.

        if_idx, if_rxq   the interface (socket.if_nametoindex()), and its queue
        rq_entries       how many buffers can be on their way back to the card
        area             writable buffer at the start of a page, a multiple of the page size. The ring
                         keeps it, for there is no way to unregister
        flags            ZCRX_REG_* (newest kernels)
        OSError: EPERM without CAP_NET_ADMIN; EINVAL on a ring without DEFER_TASKRUN and CQE32 or
        CQE_MIXED; ENODEV; EOPNOTSUPP where the card can't. Linux 6.15. io_uring_register_ifq(3).
        """
        for name, value in (("if_idx", if_idx), ("if_rxq", if_rxq), ("flags", flags), ("rx_buf_len", rx_buf_len)):
            check(name, value, 0, U32)
        check("rq_entries", rq_entries, 1, 1 << 20)
        address, length, area_keeper = syscalls.writable(area)
        size = mmap.PAGESIZE + whole_pages(abi.ZCRX_RQE.size << (rq_entries - 1).bit_length())
        queue = Shared(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        queue.keepers.append(area_keeper)
        region_at, _, region_keeper = syscalls.writable(bytearray(abi.REGION_DESC.pack(
            pages_at(queue.view, size), size, abi.IORING_MEM_REGION_TYPE_USER, 0, 0)))
        area_reg = bytearray(abi.ZCRX_AREA_REG.pack(address, length, 0, 0, 0))
        area_at, _, area_reg_keeper = syscalls.writable(area_reg)
        data = bytearray(abi.ZCRX_IFQ_REG.pack(if_idx, if_rxq, rq_entries, flags, area_at, region_at, 0, 0, 0, 0,
                                               rx_buf_len))
        self._pinning([queue], [], "register_ifq", abi.IORING_REGISTER_ZCRX_IFQ, syscalls.pin(data), 1)
        del region_keeper, area_reg_keeper
        head, tail, rqes, zcrx_id = abi.ZCRX_IFQ_REG.unpack(data)[6:10]
        self._registered["ifq", zcrx_id] = queue
        self._settle()
        return Ifq(zcrx_id, queue.view, head, tail, rqes, abi.ZCRX_AREA_REG.unpack(area_reg)[2])

    def register_zcrx_ctrl(self, zcrx_id: int, op: int) -> int:
        """ZCRX_CTRL_FLUSH_RQ: take back what is in the refill queue. ZCRX_CTRL_EXPORT: -> a file
        descriptor by which other rings can share the queue.

        OSError ENXIO for a zcrx_id that is not there. Linux 6.19. io_uring_register_zcrx_ctrl(3).
        """
        check("zcrx_id", zcrx_id, 0, U32)
        check("op", op, 0, U32)
        data = bytearray(abi.ZCRX_CTRL.pack(zcrx_id, op, 0))
        self._registering("register_zcrx_ctrl", abi.IORING_REGISTER_ZCRX_CTRL, syscalls.pin(data))
        return abi.ZCRX_CTRL.unpack(data)[2]

    # -- filters ---------------------------------------------------------------------------------------
    def register_bpf_filter(self, opcode: int, filter: Iterable[tuple[int, int, int, int]], flags: int = 0,
                            pdu_size: int = 0) -> None:
        """Run a classic BPF program on each request of this opcode, in this ring: where it returns 0, the
        CQE is -EACCES. Several are asked one after the other.

        filter     instructions (code, jt, jf, k) of linux/filter.h, on struct io_uring_bpf_ctx: user_data
                   at 0, opcode at 8, sqe_flags at 9, and from 16 on what the opcode is about
        flags      IO_URING_BPF_FILTER_DENY_REST: opcodes without a filter are denied; _SZ_STRICT
        pdu_size   bytes from 16 on that the filter knows: 12 for SOCKET, 24 for OPENAT, else 0. OSError
                   EMSGSIZE names the kernel's own
        OSError EACCES without CAP_SYS_ADMIN or no_new_privs. Linux 7.0. io_uring_register_bpf_filter(3).
        """
        data, keeper = _bpf(opcode, filter, flags, pdu_size)
        _filtered("register_bpf_filter", self._register(abi.IORING_REGISTER_BPF_FILTER, syscalls.pin(data), 1), data)
        del keeper


# -- what needs no ring ------------------------------------------------------------------------------------
def register_query(query_op: int = abi.IO_URING_QUERY_OPCODES) -> QueryOpcode | QueryZcrx | QueryScq:
    """Ask the kernel what it knows, without a ring: IO_URING_QUERY_OPCODES for a QueryOpcode (counts of
    opcodes, masks of flags), _ZCRX for a QueryZcrx, _SCQ for a QueryScq.

    Fields younger than this kernel are 0. OSError EINVAL before Linux 6.18, EOPNOTSUPP for a question
    that is younger than this kernel. io_uring_register_query(3).
    """
    if query_op not in _QUERIES:
        raise ValueError(f"query_op {query_op!r} is none of IO_URING_QUERY_*")
    layout, result = _QUERIES[query_op]
    answer = bytearray(layout.size)
    address, size, keeper = syscalls.writable(answer)
    header = bytearray(abi.QUERY_HDR.pack(0, address, query_op, size, 0))
    code = syscalls.register(-1, abi.IORING_REGISTER_QUERY, syscalls.pin(header), 0)
    code = code or abi.QUERY_HDR.unpack(header)[4]
    del keeper
    if code < 0:
        raise errors.os_error(-code, "register_query")
    return result._make(layout.unpack(answer))


def register_sync_msg(fd, len: int, data: int, flags: int = 0, *, cqe_flags: int | None = None) -> None:
    """Post a CQE to a ring, from a thread that has none: prep_msg_ring() without a ring to prepare it in.

    fd          a Ring, or its file descriptor: of any thread or process
    len, data   become `res` and `user_data` of the CQE there
    cqe_flags   become its flags
    OSError: EBADFD for what is no ring, or one that is disabled. Linux 6.13. io_uring_register_sync_msg(3).
    """
    if cqe_flags is not None:
        flags |= abi.IORING_MSG_RING_FLAGS_PASS
    fields = {"fd": fileno(fd), "off": data, "len": len, "op_flags": flags, "file_index": cqe_flags or 0}
    try:
        sqe = bytearray(abi.SQE.pack(abi.IORING_OP_MSG_RING, 0, 0, fields["fd"], data, abi.IORING_MSG_DATA,
                                     len & U32 if -1 << 31 <= len < 0 else len, flags, 0, 0, 0, cqe_flags or 0, 0, 0))
    except (struct.error, TypeError):
        raise bad_field(**fields) from None
    # As prep.py's _message(): a Ring is told before, lest it take this CQE for a request's.
    expect = getattr(fd, "_expect", None)
    if (cqe_flags or 0) & abi.IORING_CQE_F_MORE:
        expect = None
    if expect is not None:
        expect(data)
    code = syscalls.register(-1, abi.IORING_REGISTER_SEND_MSG_RING, syscalls.pin(sqe), 1)
    if code < 0:
        if expect is not None:
            expect(data, -1)
        raise errors.os_error(-code, "register_sync_msg")


def register_bpf_filter_task(opcode: int, filter: Iterable[tuple[int, int, int, int]], flags: int = 0,
                             pdu_size: int = 0) -> None:
    """As Ring.register_bpf_filter(), for all rings that this thread makes from now on, and those of its
    children. There is no way back. Linux 7.0. io_uring_register_bpf_filter_task(3).
    """
    data, keeper = _bpf(opcode, filter, flags, pdu_size)
    _filtered("register_bpf_filter_task",
              syscalls.register(-1, abi.IORING_REGISTER_BPF_FILTER, syscalls.pin(data), 1), data)
    del keeper


# -- Python objects as the kernel wants them ---------------------------------------------------------------
def _one_fd(fd):
    word = bytearray(4)
    try:
        struct.pack_into("=i", word, 0, fileno(fd))
    except struct.error:
        raise bad_field(fd=fileno(fd)) from None
    return syscalls.pin(word)


def _napi(data):
    busy_poll_to, prefer_busy_poll = abi.NAPI.unpack(data)
    return Napi(busy_poll_to, bool(prefer_busy_poll))


def _bpf(opcode, filter, flags, pdu_size):
    program = bytearray()
    for instruction in filter:
        try:
            program += _SOCK_FILTER.pack(*instruction)
        except (struct.error, TypeError):
            raise ValueError(f"BPF instruction {instruction!r} is not (code, jt, jf, k)") from None
    for name, value, high in (("opcode", opcode, U32), ("flags", flags, U32), ("pdu_size", pdu_size, 0xFF)):
        check(name, value, 0, high)
    address, _, keeper = syscalls.writable(program)
    return bytearray(abi.BPF.pack(abi.IO_URING_BPF_CMD_FILTER, 0, opcode, flags,
                                  len(program) // _SOCK_FILTER.size, pdu_size, address)), keeper


def _filtered(name, code, data):
    if code == -EMSGSIZE:
        name += f" (this kernel's pdu_size is {abi.BPF.unpack(data)[5]})"
    if code < 0:
        raise errors.os_error(-code, name)
