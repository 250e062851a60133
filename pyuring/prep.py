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
time, polling, cancelling. These files know which field means what; arguments.py turns objects into
numbers, and _sqe() is Ring's.
"""
from __future__ import annotations

from . import syscalls
from .abi import (
    IORING_ASYNC_CANCEL_FD, IORING_OP_ASYNC_CANCEL, IORING_OP_LINK_TIMEOUT, IORING_OP_NOP,
    IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_PROVIDE_BUFFERS, IORING_OP_REMOVE_BUFFERS,
    IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE, IORING_POLL_ADD_MULTI, IORING_TIMEOUT_UPDATE,
)
from .arguments import fileno, poll32, timespec_at
from .prep_files import FilePrep
from .prep_sockets import SocketPrep


class Prep(FilePrep, SocketPrep):
    """The prep_* methods of a Ring. See the head of prep.py for what their arguments may be."""

    __slots__ = ()

    _registered: dict                   # what Ring supplies: room for keepers

    def prep_nop(self, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """Do nothing, and say so. CQE res: 0. Linux 5.1. io_uring_prep_nop(3)."""
        self._sqe(IORING_OP_NOP, -1, user_data=user_data, sqe_flags=sqe_flags)

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
    def prep_timeout(self, ts, count: int = 0, flags: int = 0, *, user_data: int = 0,
                     sqe_flags: int = 0) -> None:
        """Complete after `ts`, or after `count` other completions, whichever is first.

        flags   IORING_TIMEOUT_ABS, _BOOTTIME, _REALTIME, _ETIME_SUCCESS, _MULTISHOT (then count
                is how often)
        CQE res: -ETIME when the time was up (no failure, but the kernel's way to say so), 0 when
        count was reached, -ECANCELED. Linux 5.4. io_uring_prep_timeout(3).
        """
        address, keeper = timespec_at(ts)
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

        flags   IORING_TIMEOUT_ABS, _BOOTTIME, _REALTIME; IORING_LINK_TIMEOUT_UPDATE for a linked
                one (Linux 5.15)
        CQE res: 0, -ENOENT or -EALREADY. Linux 5.11. io_uring_prep_timeout_update(3).
        """
        address, keeper = timespec_at(ts)
        self._sqe(IORING_OP_TIMEOUT_REMOVE, -1, target, off=address,
                  op_flags=flags | IORING_TIMEOUT_UPDATE, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_link_timeout(self, ts, flags: int = 0, *, user_data: int = 0,
                          sqe_flags: int = 0) -> None:
        """A time limit for the request just before, which must carry IOSQE_IO_LINK (or HARDLINK).

        flags   as for prep_timeout
        CQE res: -ETIME when it fired (that request then answers -ECANCELED, or -EINTR from a
        worker thread), -ECANCELED when the request was done in time; -ENOENT or -EALREADY when it
        fired too late. Its CQE may come before the other's. Linux 5.5.
        io_uring_prep_link_timeout(3).
        """
        address, keeper = timespec_at(ts)
        self._sqe(IORING_OP_LINK_TIMEOUT, -1, address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    # -- cancelling ------------------------------------------------------------------------------
    def prep_cancel64(self, target: int, flags: int = 0, *, user_data: int = 0,
                      sqe_flags: int = 0) -> None:
        """Cancel the request whose user_data is `target`.

        flags   IORING_ASYNC_CANCEL_ALL: every one that matches (Linux 5.19); _ANY: any request
                (5.19); _FD, _OP, ...: see prep_cancel_fd and io_uring_prep_cancel(3)
        CQE res: 0, or with _ALL and _ANY how many; -ENOENT none found; -EALREADY found, and too
        far along to be stopped at once. The request answers for itself: -ECANCELED, -EINTR, or
        its own result. Cancelled is not finished: what it uses stays in use until that CQE.
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
        -ENOENT where there is no such group, -EINVAL where it is a buffer ring.

        Linux 5.7. io_uring_prep_remove_buffers(3).
        """
        self._sqe(IORING_OP_REMOVE_BUFFERS, nr, user_data=user_data, sqe_flags=sqe_flags,
                  buf_index=bgid)
