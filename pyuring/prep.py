"""prep.py - one method an opcode: which argument goes into which field of the SQE.

The names and the order of arguments are liburing's (io_uring_prep_connect(3) is prep_connect
here), with Python objects for C's pointers and lengths. Ring inherits all of it. Each method fills
the next free SQE and submits nothing. The fields of an SQE stand in abi.py; read next: prep_files.py.

Every prep_* takes these keywords:
    user_data    u64 that comes back in the CQE, untouched. All of its values are yours
    sqe_flags    IOSQE_*: links, fixed files, buffer selection, ...
and where the opcode has them `ioprio`, `personality` (io_uring_register(2)), `buf_group` (with
IOSQE_BUFFER_SELECT) and `file_index` (direct descriptors: a slot of the registered file table
plus one, or IORING_FILE_INDEX_ALLOC).

What the arguments may be:
    fd           an int, or anything with fileno(); with IOSQE_FIXED_FILE a slot number
    buffers      anything that exports one, writable where the kernel writes; the ring keeps it in
                 place until the request's last CQE
    address      what socket.connect() takes, with a numeric host; or a SockAddr
    ts           seconds (int or float), or a Timespec
    target       the user_data of another request (C calls this argument user_data, too)

Requests on files and paths are in prep_files.py, those on sockets in prep_sockets.py, all others here:
time, polling, cancelling, messages between rings, and the waits that are no I/O (futexes, children,
epoll). These files know which field means what; arguments.py and waiting.py turn objects into
numbers, and _sqe() is Ring's.
"""
from __future__ import annotations

from . import syscalls
from .abi import (
    EPOLL_CTL_DEL, FUTEX2_SIZE_U32, FUTEX_BITSET_MATCH_ANY, IORING_ASYNC_CANCEL_FD,
    IORING_CQE_F_MORE, IORING_FILE_INDEX_ALLOC, IORING_MSG_DATA, IORING_MSG_RING_CQE_SKIP,
    IORING_MSG_RING_FLAGS_PASS, IORING_MSG_SEND_FD, IORING_NOP_INJECT_RESULT,
    IORING_OP_ASYNC_CANCEL, IORING_OP_EPOLL_CTL, IORING_OP_EPOLL_WAIT, IORING_OP_FUTEX_WAIT,
    IORING_OP_FUTEX_WAITV, IORING_OP_FUTEX_WAKE, IORING_OP_LINK_TIMEOUT, IORING_OP_MSG_RING,
    IORING_OP_NOP, IORING_OP_NOP128, IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,
    IORING_OP_PROVIDE_BUFFERS, IORING_OP_REMOVE_BUFFERS, IORING_OP_TIMEOUT,
    IORING_OP_TIMEOUT_REMOVE, IORING_OP_WAITID, IORING_POLL_ADD_MULTI, IORING_TIMEOUT_IMMEDIATE_ARG,
    IORING_TIMEOUT_UPDATE,
)
from .arguments import U32, U64, bad_field, fileno, poll32, slot_field, timespec, timespec_at
from .prep_files import FilePrep
from .prep_sockets import SocketPrep
from .waiting import (
    check_futex_val, epoll_event_at, epoll_events_at, futex_at, siginfo_at, waitv_at,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .waiting import FutexWaitv

_INT_MAX = 0x7FFF_FFFF


class Prep(FilePrep, SocketPrep):
    """The prep_* methods of a Ring. See the head of prep.py for what their arguments may be."""

    __slots__ = ()

    # What Ring supplies: as _sqe(), with 128 bytes; and room for keepers.
    _sqe128: Callable[..., None]
    _registered: dict
    _again: bool                        # prep_sockets.py

    # -- nothing ---------------------------------------------------------------------------------
    def prep_nop(self, *, nop_flags: int = 0, result: int | None = None, fd=-1, buf_index: int = 0,
                 big_cqe: tuple[int, int] = (0, 0), user_data: int = 0, sqe_flags: int = 0) -> None:
        """Do nothing, and say so. CQE res: 0. Linux 5.1. io_uring_prep_nop(3).

        What a test of code around a ring may want beside. Before Linux 6.10 it is ignored, or -EINVAL
        (later stable releases, measured on 6.1.176):
        nop_flags   IORING_NOP_*: INJECT_RESULT (6.10); FILE, FIXED_FILE, FIXED_BUFFER (6.13) look up
                    fd or buf_index first; TW (6.16) completes as a request does that had to wait;
                    CQE32 (6.18). -EINVAL for those that a kernel from 6.10 on does not know
        result      becomes res, and below 0 is a failure that breaks a chain: sets INJECT_RESULT
        big_cqe     for IORING_NOP_CQE32: the second half of the CQE
        """
        if not nop_flags and result is None:        # the one that is timed: nothing else is looked at
            self._sqe(IORING_OP_NOP, -1, user_data=user_data, sqe_flags=sqe_flags)
            return
        self._nop(self._sqe, IORING_OP_NOP, nop_flags, result, fd, buf_index, big_cqe, user_data,
                  sqe_flags)

    def prep_nop128(self, *, nop_flags: int = 0, result: int | None = None, fd=-1, buf_index: int = 0,
                    big_cqe: tuple[int, int] = (0, 0), user_data: int = 0,
                    sqe_flags: int = 0) -> None:
        """prep_nop() in an SQE of 128 bytes: for a ring with IORING_SETUP_SQE128 or _SQE_MIXED.

        CQE res as for prep_nop. Linux 6.19. io_uring_prep_nop128(3).
        """
        self._nop(self._sqe128, IORING_OP_NOP128, nop_flags, result, fd, buf_index, big_cqe,
                  user_data, sqe_flags)

    @staticmethod
    def _nop(sqe, opcode, nop_flags, result, fd, buf_index, big_cqe, user_data, sqe_flags):
        if result is not None:
            nop_flags, result = nop_flags | IORING_NOP_INJECT_RESULT, _int32("result", result)
        sqe(opcode, fileno(fd), big_cqe[1], result or 0, big_cqe[0], op_flags=nop_flags,
            buf_index=buf_index, user_data=user_data, sqe_flags=sqe_flags)

    # -- poll ------------------------------------------------------------------------------------
    def prep_poll_add(self, fd, poll_mask: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """poll(2) for one fd, once. CQE res: the events that are ready (select.POLL*), or -errno.

        Linux 5.1. io_uring_prep_poll_add(3).
        """
        self._sqe(IORING_OP_POLL_ADD, fileno(fd), op_flags=poll32(poll_mask),
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_poll_multishot(self, fd, poll_mask: int, *, user_data: int = 0,
                            sqe_flags: int = 0) -> None:
        """As prep_poll_add, again and again: a CQE each time, with IORING_CQE_F_MORE until the
        last.

        Linux 5.13. io_uring_prep_poll_multishot(3).
        """
        self._sqe(IORING_OP_POLL_ADD, fileno(fd), 0, IORING_POLL_ADD_MULTI,
                  op_flags=poll32(poll_mask), user_data=user_data, sqe_flags=sqe_flags)

    def prep_poll_remove(self, target: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """End the poll request whose user_data is `target`. CQE res: 0, -ENOENT or -EALREADY; the
        poll itself answers -ECANCELED.

        Linux 5.1. io_uring_prep_poll_remove(3).
        """
        self._sqe(IORING_OP_POLL_REMOVE, -1, target, user_data=user_data, sqe_flags=sqe_flags)

    def prep_poll_update(self, old_user_data: int, new_user_data: int, poll_mask: int, flags: int,
                         *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """Change a poll request's mask, its user_data, or both.

        flags   IORING_POLL_UPDATE_EVENTS, IORING_POLL_UPDATE_USER_DATA, IORING_POLL_ADD_MULTI
        CQE res: 0, -ENOENT or -EALREADY. Linux 5.13. io_uring_prep_poll_update(3).
        """
        self._sqe(IORING_OP_POLL_REMOVE, -1, old_user_data, flags, new_user_data,
                  op_flags=poll32(poll_mask), user_data=user_data, sqe_flags=sqe_flags)

    # -- time ------------------------------------------------------------------------------------
    # Some facts about chains and clocks
    # ----------------------------------
    # IOSQE_IO_LINK on a request lets the next one begin when it has ended well; else all that follow are
    # -ECANCELED. What is "well" surprises: a read or write that is short breaks the chain, although its
    # res is what read(2) would say (a short receive does so only with MSG_WAITALL), and so does a timeout
    # that has run out, as -ETIME is below 0 (unless it has IORING_TIMEOUT_ETIME_SUCCESS). After
    # IOSQE_IO_HARDLINK the next one begins in any case. A chain ends with the first request that has
    # neither, and with submit(): links do not reach over it. (io_uring_enter(2), IOSQE_IO_LINK; each of
    # these also measured on 6.18.)
    #
    # A LINK_TIMEOUT is the odd member: it does not wait for its turn. Its clock starts when the request
    # before it begins, not when the chain was submitted. But it stands in the chain: if more is to follow,
    # it needs IOSQE_IO_LINK as well, or the chain ends with it and what comes next begins at once. With no
    # linked request before it, it is -EINVAL. (All measured on 6.18.) Each of the two ends the other, so
    # there are two CQEs, in any order:
    #     in time   the request's own res, and -ECANCELED for the timeout
    #     too late  -ECANCELED for the request, and -ETIME for the timeout
    #     both      the request's own res, and -ENOENT or -EALREADY: the clock ran out as it ended
    # -ECANCELED says that the kernel stopped, not that nothing was done: after a connect the SYN is out.
    def prep_timeout(self, ts, count: int = 0, flags: int = 0, *, user_data: int = 0,
                     sqe_flags: int = 0) -> None:
        """Complete after `ts`, or after `count` other completions, whichever is first.

        flags   IORING_TIMEOUT_ABS, _BOOTTIME and _REALTIME (Linux 5.15), _ETIME_SUCCESS (5.16: a
                chain goes on after it); _MULTISHOT (6.4): a CQE each `ts`, with IORING_CQE_F_MORE
                until the last, `count` times or for ever; _IMMEDIATE_ARG (7.1): the time travels
                in the SQE and not in memory beside it
        CQE res: -ETIME when the time was up: it has done what it was for, but that is below 0 and so
        breaks a chain (but for _ETIME_SUCCESS); 0 when count was reached; -ECANCELED.
        Linux 5.4. io_uring_prep_timeout(3).
        """
        address, keeper = _time_at(ts, flags)
        self._sqe(IORING_OP_TIMEOUT, -1, address, 1, count, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_timeout_remove(self, target: int, flags: int = 0, *, user_data: int = 0,
                            sqe_flags: int = 0) -> None:
        """End the timeout whose user_data is `target`. CQE res: 0, -ENOENT or -EALREADY; the
        timeout itself answers -ECANCELED.

        Linux 5.5. io_uring_prep_timeout_remove(3).
        """
        self._sqe(IORING_OP_TIMEOUT_REMOVE, -1, target, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags)

    def prep_timeout_update(self, ts, target: int, flags: int = 0, *, user_data: int = 0,
                            sqe_flags: int = 0) -> None:
        """Give the timeout whose user_data is `target` a new time.

        flags   IORING_TIMEOUT_ABS; IORING_LINK_TIMEOUT_UPDATE for a linked one (Linux 5.15);
                IORING_TIMEOUT_IMMEDIATE_ARG (7.1). The clock stays what it was
        CQE res: 0, -ENOENT or -EALREADY. Linux 5.11. io_uring_prep_timeout_update(3).
        """
        address, keeper = _time_at(ts, flags)
        self._sqe(IORING_OP_TIMEOUT_REMOVE, -1, target, off=address,
                  op_flags=flags | IORING_TIMEOUT_UPDATE, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_link_timeout(self, ts, flags: int = 0, *, user_data: int = 0,
                          sqe_flags: int = 0) -> None:
        """A time limit for the request just before, which must carry IOSQE_IO_LINK (or HARDLINK).

        flags       as for prep_timeout
        sqe_flags   IOSQE_IO_LINK if the chain is to go on behind it; else it ends here, and what
                    follows begins at once (measured on 6.18)
        CQE res: -ETIME when it fired (that request then answers -ECANCELED, or -EINTR from a
        worker thread), or 1 where that was a futex's or waitid's (measured on 6.18); -ECANCELED when
        the request was done in time; -ENOENT or -EALREADY when it fired too late; -EINVAL where no
        linked request is before it. Its CQE may come before the other's. Linux 5.5. io_uring_prep_link_timeout(3).
        """
        address, keeper = _time_at(ts, flags)
        self._sqe(IORING_OP_LINK_TIMEOUT, -1, address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    # -- cancelling ------------------------------------------------------------------------------
    def prep_cancel64(self, target: int, flags: int = 0, *, user_data: int = 0,
                      sqe_flags: int = 0) -> None:
        """Cancel the request whose user_data is `target`.

        flags   IORING_ASYNC_CANCEL_ALL: every one that matches (Linux 5.19); _ANY: any request
                (5.19); _FD, _OP, ...: see prep_cancel_fd and io_uring_prep_cancel(3)
        CQE res: 0, or with _ALL and _ANY how many (for futexes and waitid always: 1, measured on
        6.18); -ENOENT none found; -EALREADY found, and too far along to be stopped at once. The
        request answers for itself: -ECANCELED, -EINTR, or its own result. Cancelled is not finished:
        what it uses stays in use until that CQE.
        Linux 5.5. io_uring_prep_cancel(3), io_uring_cancelation(7).
        """
        self._sqe(IORING_OP_ASYNC_CANCEL, -1, target, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags)

    # In C prep_cancel takes a pointer and prep_cancel64 a number; Python has one kind of integer.
    prep_cancel = prep_cancel64

    def prep_cancel_fd(self, fd, flags: int = 0, *, user_data: int = 0,
                       sqe_flags: int = 0) -> None:
        """Cancel a request on this fd; all of them with IORING_ASYNC_CANCEL_ALL.

        Linux 5.19 (-EINVAL before). CQE res as for prep_cancel. io_uring_prep_cancel_fd(3).
        """
        self._sqe(IORING_OP_ASYNC_CANCEL, fileno(fd), op_flags=flags | IORING_ASYNC_CANCEL_FD,
                  user_data=user_data, sqe_flags=sqe_flags)

    # -- provided buffers ------------------------------------------------------------------------
    def prep_provide_buffers(self, buf, len: int, nr: int, bgid: int, bid: int = 0, *,
                             user_data: int = 0, sqe_flags: int = 0) -> None:
        """Give `nr` buffers to a group, from which requests with IOSQE_BUFFER_SELECT then take one:
        the way it was before buffer rings, which are better (registered.BufferRing).

        buf    writable buffer of nr * len bytes: all of them, one behind the other. Neither CQEs nor
               prep_remove_buffers() tell which are out of use, so the ring keeps it until it is closed
        len    bytes of each, nr 1 to 65535
        bgid   the group; bid is the number of the first, the others follow
        CQE res: 0, -EINVAL where the group is a buffer ring, -ENOMEM, -E2BIG; before Linux 5.19
        perhaps more than 0. Linux 5.7. io_uring_prep_provide_buffers(3).
        """
        if self._again:
            raise ValueError("not in a Batch: a ring keeps these buffers until it is closed, so prep this one on "
                             "the ring itself")
        address, size, keeper = syscalls.writable(buf)
        if not isinstance(len, int) or not isinstance(nr, int):
            raise TypeError(f"len {len!r} and nr {nr!r} are two ints: bytes of each buffer, and how many")
        if len < 1 or nr < 1 or len * nr > size:
            raise ValueError(f"{nr} buffers of {len} bytes are outside the buffer of {size} bytes")
        # lifetime   The kernel remembers the address long after the CQE. The same memory is given again
        #            and again, buffer by buffer: once in `kept` is enough.
        kept = self._registered.setdefault(("provided", bgid), {})
        new = kept.setdefault((address, size), keeper) is keeper
        try:
            self._sqe(IORING_OP_PROVIDE_BUFFERS, nr, address, len, bid, user_data=user_data,
                      sqe_flags=sqe_flags, buf_index=bgid)
        except Exception:
            if new:
                del kept[address, size]
            raise

    def prep_remove_buffers(self, nr: int, bgid: int, *, user_data: int = 0,
                            sqe_flags: int = 0) -> None:
        """Take up to `nr` buffers out of a group of prep_provide_buffers(). CQE res: how many were,
        -ENOENT where there is no such group (or 0 for one below 64, seen on 6.1), -EINVAL where it is a
        buffer ring.

        Linux 5.7. io_uring_prep_remove_buffers(3).
        """
        self._sqe(IORING_OP_REMOVE_BUFFERS, nr, user_data=user_data, sqe_flags=sqe_flags,
                  buf_index=bgid)

    # -- messages between rings ------------------------------------------------------------------
    # A message's CQE bears a user_data that the sender chose. Should a request in flight in the other
    # ring have the same, its CQE and the message's can't be told apart: so the receiving Ring is told
    # beforehand (_expect()), and keeps that request's memory until both have come; should the message
    # fail, until it is closed. A message to a number (an fd) arrives unannounced. Rings are never in
    # slots: the kernel refuses to register one (-EBADF, measured on 6.18).

    def prep_msg_ring(self, fd, len: int, data: int, flags: int = 0, *, user_data: int = 0,
                      sqe_flags: int = 0) -> None:
        """Post a CQE to another ring, or to this one: CQE(user_data=data, res=len, flags=0) there.

        fd       the other Ring, or its fd, which may be another process's
        len      -2**31 to 2**31 - 1, or the same unsigned
        data     u64. Where fd is a Ring it may be that of a request in flight there; else it must not
        flags    must be 0, see prep_msg_ring_cqe_flags
        CQE res here: 0; -EBADFD where fd is no ring, or a disabled one; -EOVERFLOW where the CQ there
        is full and no memory left. Under DEFER_TASKRUN the other ring shows it once its owner enters.
        Linux 5.18. io_uring_prep_msg_ring(3).
        """
        self._message(fd, data, True, IORING_MSG_DATA, len=_int32("len", len), op_flags=flags,
                      user_data=user_data, sqe_flags=sqe_flags)

    def prep_msg_ring_cqe_flags(self, fd, len: int, data: int, flags: int, cqe_flags: int, *,
                                user_data: int = 0, sqe_flags: int = 0) -> None:
        """prep_msg_ring() with the flags of the CQE there: CQE(data, len, cqe_flags).

        cqe_flags   what it is to look like, IORING_CQE_F_MORE for instance: then it is not the last
                    with its user_data
        Linux 6.3. io_uring_prep_msg_ring_cqe_flags(3).
        """
        if not isinstance(cqe_flags, int):
            raise TypeError(f"cqe_flags {cqe_flags!r} is not an int: give IORING_CQE_F_*")
        self._message(fd, data, not cqe_flags & IORING_CQE_F_MORE, IORING_MSG_DATA,
                      len=_int32("len", len), op_flags=flags | IORING_MSG_RING_FLAGS_PASS,
                      file_index=cqe_flags, user_data=user_data, sqe_flags=sqe_flags)

    def prep_msg_ring_fd(self, fd, source_fd: int, target_fd: int, data: int, flags: int = 0, *,
                         user_data: int = 0, sqe_flags: int = 0) -> None:
        """Give a direct descriptor to another ring: it is in both then. CQE(data, res, 0) there.

        fd          the other Ring, or its fd; not this one
        source_fd   slot of this ring's file table
        target_fd   slot of the other's; IORING_FILE_INDEX_ALLOC for a free one
        flags       IORING_MSG_RING_CQE_SKIP: no CQE there
        CQE res, here and there: the slot if it was to be a free one, else 0. Here also -errno: -EBADF
        no such slot here, -ENXIO no file table there, -ENFILE no slot free there, -EBADFD no ring.
        Linux 6.0. io_uring_prep_msg_ring_fd(3).
        """
        self._message(fd, data, not flags & IORING_MSG_RING_CQE_SKIP, IORING_MSG_SEND_FD,
                      addr3=_slot("source_fd", source_fd), file_index=slot_field(target_fd, "target_fd"),
                      op_flags=flags, user_data=user_data, sqe_flags=sqe_flags)

    def prep_msg_ring_fd_alloc(self, fd, source_fd: int, data: int, flags: int = 0, *,
                               user_data: int = 0, sqe_flags: int = 0) -> None:
        """prep_msg_ring_fd() into a free slot, which is then the res of both CQEs.

        Linux 6.0. io_uring_prep_msg_ring_fd_alloc(3).
        """
        self.prep_msg_ring_fd(fd, source_fd, IORING_FILE_INDEX_ALLOC, data, flags,
                              user_data=user_data, sqe_flags=sqe_flags)

    def _message(self, fd, data, expected, command, **fields):
        if not isinstance(data, int) or not 0 <= data <= U64:
            raise bad_field(data=data)
        number = fileno(fd)
        expect = getattr(fd, "_expect", None) if expected else None
        if expect is not None and self._again:
            raise ValueError("a Batch is pushed again and again, and its messages come unannounced: give the "
                             "ring's fd, and a user_data that no request there has")
        # ordering   Told first: once the SQE is there, an interrupt may leave nothing but a submit().
        #            Told in vain costs the receiver a late release, never memory in use.
        if expect is not None:
            expect(data)
        try:
            self._sqe(IORING_OP_MSG_RING, number, command, off=data, **fields)
        except Exception:
            if expect is not None:
                expect(data, -1)
            raise

    # -- futexes ---------------------------------------------------------------------------------
    def prep_futex_wait(self, futex, val: int, mask: int = FUTEX_BITSET_MATCH_ANY,
                        futex_flags: int = FUTEX2_SIZE_U32, flags: int = 0, *, user_data: int = 0,
                        sqe_flags: int = 0) -> None:
        """Wait until another thread or process wakes this futex, if it still has the value `val`.

        futex         a writable buffer that starts with the word, aligned to its size: bytearray,
                      array("I"), mmap (shared between processes), or a memoryview's slice of one. It
                      stays where it is until the last CQE
        val           0 to 2**32 - 1: what the word is to be; is it something else, then -EAGAIN
        mask          woken by who has one of these bits as well; not 0
        futex_flags   FUTEX2_*: the size, which must be U32 so far, and FUTEX2_PRIVATE if the waker
                      says so too
        flags         must be 0
        CQE res: 0 woken; -EAGAIN; -ECANCELED, which is no failure for a chain: what is linked to it
        runs (measured on 6.18). There is no time limit: link prep_link_timeout() to it.
        Linux 6.7. io_uring_prep_futex_wait(3), futex(2).
        """
        address, keeper = futex_at(futex, futex_flags)
        check_futex_val("val", val, futex_flags)
        check_futex_val("mask", mask, futex_flags, 1)
        self._sqe(IORING_OP_FUTEX_WAIT, futex_flags, address, 0, val, op_flags=flags, addr3=mask,
                  user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)

    def prep_futex_wake(self, futex, val: int, mask: int = FUTEX_BITSET_MATCH_ANY,
                        futex_flags: int = FUTEX2_SIZE_U32, flags: int = 0, *, user_data: int = 0,
                        sqe_flags: int = 0) -> None:
        """Wake who waits for this futex, by io_uring or by futex(2). Write the word first.

        val     how many at most, up to 2**31 - 1
        futex, mask, futex_flags, flags   as for prep_futex_wait
        CQE res: how many were woken. Linux 6.7. io_uring_prep_futex_wake(3), futex(2).
        """
        address, keeper = futex_at(futex, futex_flags)
        check_futex_val("mask", mask, futex_flags, 1)
        # The kernel keeps it in a C int (futex_wake() in kernel/futex/waitwake.c): more would be
        # less than 0 there, and wake a single one.
        if not isinstance(val, int):
            raise TypeError(f"futex val {val!r} is not an int: give how many to wake")
        if not 0 <= val <= _INT_MAX:
            raise ValueError(f"futex val {val} is outside 0..{_INT_MAX}: give how many to wake")
        self._sqe(IORING_OP_FUTEX_WAKE, futex_flags, address, 0, val, op_flags=flags, addr3=mask,
                  user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)

    def prep_futex_waitv(self, futexes: Iterable[FutexWaitv], flags: int = 0, *, user_data: int = 0,
                         sqe_flags: int = 0) -> None:
        """Wait until one of up to 128 futexes is woken, all of which still have their value.

        futexes   FutexWaitv(val, futex, flags=FUTEX2_SIZE_U32)
        flags     must be 0
        CQE res: the index of one that was woken; -EAGAIN where one had another value; -ECANCELED.
        Linux 6.7. io_uring_prep_futex_waitv(3), futex(2).
        """
        address, count, keeper = waitv_at(futexes)
        self._sqe(IORING_OP_FUTEX_WAITV, 0, address, count, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    # -- children --------------------------------------------------------------------------------
    def prep_waitid(self, idtype: int, id: int, infop: bytearray | None, options: int,
                    flags: int = 0, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """waitid(2): wait until a child exits, stops or goes on. CQE res: 0 or -errno.

        idtype, id   os.P_PID and its process ID, os.P_PGID, os.P_PIDFD, os.P_ALL (id is ignored)
        infop        a Siginfo(), to be looked into after the CQE; or None
        options      os.WEXITED, WSTOPPED, WCONTINUED, at least one; WNOHANG: res 0 with si_pid 0
                     where there is none yet; WNOWAIT: leaves it for another wait
        flags        must be 0
        -ECHILD: no such child, or someone else has waited for it: a Popen object that has not been
        asked yet does not know of it. Linux 6.7. io_uring_prep_waitid(3).
        """
        address, keeper = siginfo_at(infop)
        self._sqe(IORING_OP_WAITID, fileno(id), 0, idtype, address, op_flags=flags, file_index=options,
                  user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)

    # -- epoll -----------------------------------------------------------------------------------
    def prep_epoll_ctl(self, epfd, fd, op: int, events: int = 0, data: int | None = None, *,
                       user_data: int = 0, sqe_flags: int = 0) -> None:
        """epoll_ctl(2): change what an epoll instance watches. CQE res: 0 or -errno.

        epfd     a select.epoll, or its fd
        op       EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
        events   select.EPOLL*, for ADD and MOD
        data     u64 that its events will bear; None for the fd, as select.epoll has it
        Linux 5.6. io_uring_prep_epoll_ctl(3).
        """
        number = fileno(fd)
        address, keeper = 0, None
        if op != EPOLL_CTL_DEL:
            address, keeper = epoll_event_at(number, events, data)
        self._sqe(IORING_OP_EPOLL_CTL, fileno(epfd), address, op, number & U32, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_epoll_wait(self, fd, events: bytearray, maxevents: int | None = None, flags: int = 0, *,
                        user_data: int = 0, sqe_flags: int = 0) -> None:
        """epoll_wait(2), until there is an event. CQE res: how many, or -errno.

        fd          a select.epoll, or its fd
        events      EpollEvents(maxevents), to be looked into after the CQE; or any writable buffer
        maxevents   how many at most; None for what there is room for
        flags       must be 0
        Linux 6.15. io_uring_prep_epoll_wait(3).
        """
        address, count, keeper = epoll_events_at(events, maxevents)
        self._sqe(IORING_OP_EPOLL_WAIT, fileno(fd), address, count, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)


# -- numbers -----------------------------------------------------------------------------------------
def _time_at(ts, flags):
    """A time as an SQE's address field wants it: (address, or nanoseconds; keeper)."""
    if not (isinstance(flags, int) and flags & IORING_TIMEOUT_IMMEDIATE_ARG):
        return timespec_at(ts)
    seconds, nanoseconds = timespec(ts)
    nanoseconds += seconds * 10**9
    if nanoseconds >= 1 << 63:          # ktime_t is signed
        raise ValueError(f"{ts!r} seconds do not fit into 63 bits of nanoseconds: leave "
                         "IORING_TIMEOUT_IMMEDIATE_ARG out")
    return nanoseconds, None


def _int32(name, value):
    """What a CQE is to say as res, a signed number, as the unsigned field of an SQE has it."""
    if not isinstance(value, int):
        raise TypeError(f"{name} {value!r} is not an int: give what the CQE is to say as res")
    if not -1 << 31 <= value <= U32:
        raise ValueError(f"{name} {value} is outside {-1 << 31}..{U32}, what 32 bits hold")
    return value & U32


def _slot(name, slot):
    if not isinstance(slot, int):
        raise TypeError(f"{name} {slot!r} is not an int: give a slot of the registered files")
    if not 0 <= slot < IORING_FILE_INDEX_ALLOC - 1:
        raise ValueError(f"{name} {slot} is outside 0..{IORING_FILE_INDEX_ALLOC - 2}: give a slot of "
                         "the registered files")
    return slot
