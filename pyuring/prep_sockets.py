"""prep_sockets.py - requests on sockets: which argument goes into which field of the SQE.

What the arguments may be, and the keywords that all prep_* take, stand at the head of prep.py; what
the fields are called, at the SQE in abi.py. Read next: ring.py.
"""
from __future__ import annotations

import sys
from socket import SOCK_CLOEXEC

from . import syscalls
from .abi import (
    IORING_OP_ACCEPT, IORING_OP_CONNECT, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_SHUTDOWN,
    IORING_OP_SOCKET,
)
from .arguments import fileno, sockaddr_at, some

TYPE_CHECKING = False       # typing itself is not imported at run time: it costs more than we do
if TYPE_CHECKING:
    from collections.abc import Callable


class SocketPrep:
    """The prep_* methods for sockets."""

    __slots__ = ()

    _sqe: Callable[..., None]           # what Ring supplies: fills the next free SQE

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
        address, size, keeper = sockaddr_at(fd, address)
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
        address, room, keeper = syscalls.writable(addr) if addr is not None else (0, 0, None)
        if addr is not None and addrlen is None:
            addrlen = bytearray(room.to_bytes(4, sys.byteorder))
        length, size, second = syscalls.writable(addrlen) if addrlen is not None else (0, 4, None)
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
        address, size, keeper = some(buf, len, False, sqe_flags)
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
        address, size, keeper = some(buf, len, True, sqe_flags)
        self._sqe(IORING_OP_RECV, fileno(sockfd), address, size, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_group,
                  keeper=keeper)
