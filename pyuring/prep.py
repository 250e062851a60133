"""prep.py - one method an opcode: which argument goes into which field of the SQE.

The names and the order of arguments are liburing's (io_uring_prep_connect(3) is prep_connect
here), with Python objects for C's pointers and lengths. Ring inherits all of it. Each method fills
the next free SQE and submits nothing. The fields of an SQE stand in abi.SQE; read next: ring.py.

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

This file knows which field means what; _sqe(), _buffer() and the others that turn objects into
numbers are Ring's.
"""
from __future__ import annotations

import sys
from _thread import TIMEOUT_MAX
from collections import namedtuple
from socket import SOCK_CLOEXEC

from .abi import (
    IORING_ASYNC_CANCEL_FD, IORING_OP_ACCEPT, IORING_OP_ASYNC_CANCEL, IORING_OP_CLOSE,
    IORING_OP_CONNECT, IORING_OP_LINK_TIMEOUT, IORING_OP_NOP, IORING_OP_OPENAT,
    IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_READ, IORING_OP_RECV, IORING_OP_SEND,
    IORING_OP_SHUTDOWN, IORING_OP_SOCKET, IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE,
    IORING_OP_WRITE, IORING_POLL_ADD_MULTI, IORING_TIMEOUT_UPDATE,
)

TYPE_CHECKING = False       # typing itself is not imported at run time: it costs more than we do
if TYPE_CHECKING:
    from collections.abc import Callable

U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF


class Timespec(namedtuple("Timespec", "tv_sec tv_nsec")):
    """`struct __kernel_timespec`: whole seconds from 0, and nanoseconds below 10**9."""

    __slots__ = ()
    tv_sec: int
    tv_nsec: int


def timespec(ts) -> Timespec:
    """Seconds (int, float) or a Timespec as a checked Timespec, rounded up to the nanosecond."""
    if isinstance(ts, Timespec):
        if not (isinstance(ts.tv_sec, int) and 0 <= ts.tv_sec < 1 << 63
                and isinstance(ts.tv_nsec, int) and 0 <= ts.tv_nsec < 10**9):
            raise ValueError(f"{ts} is no time: tv_sec is an int from 0, tv_nsec 0..999999999")
        return ts
    seconds = check_timeout(ts)
    if seconds is None:
        raise TypeError("a time in seconds is needed here, not None")
    whole = int(seconds)
    nanoseconds = -int((whole - seconds) * 1e9 // 1)        # rounded up, away from zero
    return Timespec(whole + 1, 0) if nanoseconds >= 10**9 else Timespec(whole, nanoseconds)


def check_timeout(timeout):
    """`timeout` itself, if it is None (wait for ever) or a number of seconds that can be waited."""
    if timeout is None:
        return None
    try:
        if 0 <= timeout <= TIMEOUT_MAX:
            return timeout
    except TypeError:
        raise TypeError(f"timeout {timeout!r} is not a number: give seconds, or None to wait for "
                        "ever") from None
    raise ValueError(f"timeout {timeout!r} is outside 0..{TIMEOUT_MAX:.0f}: give seconds, or "
                     "None to wait for ever")


def fileno(fd) -> int:
    """The number of an int or of anything with fileno(); ValueError for what is closed."""
    if type(fd) is int or isinstance(fd, int):
        return fd
    try:
        number = fd.fileno()
    except AttributeError:
        raise TypeError(f"a file descriptor is needed (an int, or an object with fileno()), not "
                        f"{type(fd).__name__}") from None
    if number < 0:
        raise ValueError(f"{fd!r} is closed: open a new one")
    return number


def _poll32(poll_mask: int) -> int:
    # poll32_events replaced a 16-bit field and keeps its place in the word: on a big-endian
    # machine the halves are swapped (io_uring.h, "word-reversed for BE").
    if sys.byteorder == "big":
        return (poll_mask << 16 | poll_mask >> 16) & U32
    return poll_mask


class Prep:
    """The prep_* methods of a Ring. See the head of prep.py for what their arguments may be."""

    __slots__ = ()

    # What Ring supplies: the next free SQE, and numbers for Python objects.
    _sqe: Callable[..., None]
    _some: Callable[..., tuple[int, int, object]]           # buffer, length: address, size, keeper
    _buffer: Callable[..., tuple[int, int, object]]         # address, size, keeper
    _sockaddr: Callable[..., tuple[int, int, object]]       # address, size, keeper
    _path: Callable[..., tuple[int, object]]                # address, keeper
    _timespec: Callable[..., tuple[int, object]]            # address, keeper

    def prep_nop(self, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """Do nothing, and say so. CQE res: 0. Linux 5.1. io_uring_prep_nop(3)."""
        self._sqe(IORING_OP_NOP, -1, user_data=user_data, sqe_flags=sqe_flags)

    # -- sockets ---------------------------------------------------------------------------------
    def prep_socket(self, domain: int, type: int, protocol: int = 0, flags: int = 0, *,
                    user_data: int = 0, sqe_flags: int = 0, file_index: int = 0) -> None:
        """socket(2). CQE res: the new fd, or -errno. `flags` must be 0 so far.

        `type` as given: add SOCK_CLOEXEC, which Python's own sockets always have (PEP 446), unless
        children are to inherit it.
        Linux 5.19. io_uring_prep_socket(3).
        """
        self._sqe(IORING_OP_SOCKET, domain, off=type, len=protocol, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, file_index=file_index)

    def prep_connect(self, fd, address, *, user_data: int = 0, sqe_flags: int = 0,
                     personality: int = 0) -> None:
        """connect(2), as IORING_OP_CONNECT does it: pyuring.connect() is the one that answers like
        the system call on every kernel.

        address   for the family of the socket `fd`. With an int for fd the family is guessed from
                  the shape: a str, bytes or path is AF_UNIX; (host, port) AF_INET, or AF_INET6
                  where the host has a colon
        CQE res: 0 or -errno; -ECANCELED after a link timeout or a cancel.
        Linux 5.5. io_uring_prep_connect(3), connect(2).
        """
        address, size, keeper = self._sockaddr(fd, address)
        self._sqe(IORING_OP_CONNECT, fileno(fd), address, off=size, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, keeper=keeper)

    def prep_accept(self, fd, addr=None, addrlen=None, flags: int = SOCK_CLOEXEC, *,
                    user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                    file_index: int = 0) -> None:
        """accept4(2) on a listening socket. CQE res: the new fd, or -errno.

        addr      writable buffer for the peer's sockaddr (128 bytes hold any), or None
        addrlen   writable buffer of 4 bytes, a native int: its size in, the address's out. With
                  None and an addr the ring makes one of its own
        ioprio    IORING_ACCEPT_*
        Linux 5.5. io_uring_prep_accept(3), accept(2). Decode addr with pyuring.sockaddr.unpack().
        """
        address, room, keeper = self._buffer(addr, True) if addr is not None else (0, 0, None)
        if addr is not None and addrlen is None:
            addrlen = bytearray(room.to_bytes(4, sys.byteorder))
        length, size, second = self._buffer(addrlen, True) if addrlen is not None else (0, 4, None)
        if size < 4:
            raise ValueError(f"addrlen has {size} bytes: a socklen_t needs 4")
        if address and length:      # the kernel would write that far
            limit = int.from_bytes(bytes(memoryview(addrlen).cast("B")[:4]), sys.byteorder)
            if limit > room:
                raise ValueError(f"addrlen says {limit}, and addr has {room} bytes")
        self._sqe(IORING_OP_ACCEPT, fileno(fd), address, off=length, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, personality=personality,
                  file_index=file_index, keeper=(keeper, second) if address or length else None)

    def prep_shutdown(self, fd, how: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """shutdown(2) with SHUT_RD, SHUT_WR or SHUT_RDWR. CQE res: 0 or -errno.

        Linux 5.11. io_uring_prep_shutdown(3).
        """
        self._sqe(IORING_OP_SHUTDOWN, fileno(fd), len=how, user_data=user_data,
                  sqe_flags=sqe_flags)

    def prep_send(self, sockfd, buf, len: int | None = None, flags: int = 0, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0) -> None:
        """send(2). CQE res: bytes sent, perhaps fewer than asked, or -errno.

        len      bytes of buf to send; None for all of it
        flags    MSG_*
        ioprio   IORING_RECVSEND_*
        Linux 5.6. io_uring_prep_send(3).
        """
        address, size, keeper = self._some(buf, len, False, sqe_flags)
        self._sqe(IORING_OP_SEND, fileno(sockfd), address, size, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, keeper=keeper)

    def prep_recv(self, sockfd, buf, len: int | None = None, flags: int = 0, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                  buf_group: int = 0) -> None:
        """recv(2). CQE res: bytes received, 0 at the end of a stream, or -errno.

        len      bytes of buf that may be filled; None for all of it
        flags    MSG_*
        ioprio   IORING_RECVSEND_*
        Linux 5.6. io_uring_prep_recv(3).
        """
        address, size, keeper = self._some(buf, len, True, sqe_flags)
        self._sqe(IORING_OP_RECV, fileno(sockfd), address, size, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_group,
                  keeper=keeper)

    # -- files -----------------------------------------------------------------------------------
    def prep_openat(self, dfd, path, flags: int, mode: int = 0o777, *, user_data: int = 0,
                    sqe_flags: int = 0, personality: int = 0, file_index: int = 0) -> None:
        """openat(2). CQE res: the new fd, or -errno.

        dfd     a directory's fd, or AT_FDCWD (-100)
        path    str, bytes or os.PathLike, without NUL
        flags   O_*, as given: add O_CLOEXEC, which os.open() always has (PEP 446), unless children
                are to inherit it
        Linux 5.6. io_uring_prep_openat(3).
        """
        address, keeper = self._path(path)
        self._sqe(IORING_OP_OPENAT, fileno(dfd), address, mode, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, personality=personality,
                  file_index=file_index, keeper=keeper)

    def prep_close(self, fd: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """close(2). CQE res: 0 or -errno. A Python object that owns the fd does not learn of it:
        give what socket.detach() or os.dup() answers. Requests on that fd are not ended by this.

        Linux 5.6. io_uring_prep_close(3).
        """
        self._sqe(IORING_OP_CLOSE, fileno(fd), user_data=user_data, sqe_flags=sqe_flags)

    def prep_read(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                  rw_flags: int = 0, buf_group: int = 0) -> None:
        """pread(2), or read(2) where offset is -1. CQE res: bytes read, 0 at the end, or -errno.

        nbytes     bytes of buf that may be filled; None for all of it
        offset     bytes from the start of the file; -1 for the file's own position, and for what
                   has none (pipes, sockets)
        rw_flags   RWF_*, as for preadv2(2)
        Linux 5.6. io_uring_prep_read(3).
        """
        address, size, keeper = self._some(buf, nbytes, True, sqe_flags)
        self._sqe(IORING_OP_READ, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, buf_index=buf_group, keeper=keeper)

    def prep_write(self, fd, buf, nbytes: int | None = None, offset: int = -1, *,
                   user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                   rw_flags: int = 0) -> None:
        """pwrite(2), or write(2) where offset is -1. CQE res: bytes written, or -errno.

        nbytes, offset, rw_flags   as for prep_read
        Linux 5.6. io_uring_prep_write(3).
        """
        address, size, keeper = self._some(buf, nbytes, False, sqe_flags)
        self._sqe(IORING_OP_WRITE, fileno(fd), address, size, U64 if offset == -1 else offset,
                  op_flags=rw_flags, user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio,
                  personality=personality, keeper=keeper)

    # -- poll ------------------------------------------------------------------------------------
    def prep_poll_add(self, fd, poll_mask: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """poll(2) for one fd, once. CQE res: the events that are ready (select.POLL*), or -errno.

        Linux 5.1. io_uring_prep_poll_add(3).
        """
        self._sqe(IORING_OP_POLL_ADD, fileno(fd), op_flags=_poll32(poll_mask),
                  user_data=user_data, sqe_flags=sqe_flags)

    def prep_poll_multishot(self, fd, poll_mask: int, *, user_data: int = 0,
                            sqe_flags: int = 0) -> None:
        """As prep_poll_add, again and again: a CQE each time, with IORING_CQE_F_MORE until the
        last.

        Linux 5.13. io_uring_prep_poll_multishot(3).
        """
        self._sqe(IORING_OP_POLL_ADD, fileno(fd), 0, IORING_POLL_ADD_MULTI,
                  op_flags=_poll32(poll_mask), user_data=user_data, sqe_flags=sqe_flags)

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
                  op_flags=_poll32(poll_mask), user_data=user_data, sqe_flags=sqe_flags)

    # -- time ------------------------------------------------------------------------------------
    def prep_timeout(self, ts, count: int = 0, flags: int = 0, *, user_data: int = 0,
                     sqe_flags: int = 0) -> None:
        """Complete after `ts`, or after `count` other completions, whichever is first.

        flags   IORING_TIMEOUT_ABS, _BOOTTIME, _REALTIME, _ETIME_SUCCESS, _MULTISHOT (then count
                is how often)
        CQE res: -ETIME when the time was up (no failure, but the kernel's way to say so), 0 when
        count was reached, -ECANCELED. Linux 5.4. io_uring_prep_timeout(3).
        """
        address, keeper = self._timespec(ts)
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
        address, keeper = self._timespec(ts)
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
        address, keeper = self._timespec(ts)
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
