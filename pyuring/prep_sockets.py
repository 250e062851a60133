"""prep_sockets.py - requests on sockets: which argument goes into which field of the SQE.

What the arguments may be, and the keywords that all prep_* take, stand at the head of prep.py; what
the fields are called, at the SQE in abi.py. The structure that sendmsg and recvmsg take is in
messages.py. Read next: registration.py, or one of those when you need it.

Provided buffers: a request with IOSQE_BUFFER_SELECT and `buf_group` takes a buffer of that group when
its turn comes; CQE flags say which (flags >> IORING_CQE_BUFFER_SHIFT, under IORING_CQE_F_BUFFER).
Multishot: one request, a CQE each time, all but the last with IORING_CQE_F_MORE.
Direct descriptors: a *_direct method puts the new socket into a slot of the registered files. Its
file_index is the slot itself; the keyword `file_index` of the others, as in the SQE, the slot plus one.
"""
from __future__ import annotations

import sys
from _thread import get_ident
from errno import EINVAL
from socket import SOCK_CLOEXEC

from . import errors, syscalls
from .abi import (
    IORING_ACCEPT_MULTISHOT, IORING_FEAT_RECVSEND_BUNDLE, IORING_FILE_INDEX_ALLOC, IORING_OP_ACCEPT,
    IORING_OP_BIND, IORING_OP_CONNECT, IORING_OP_LISTEN, IORING_OP_RECV, IORING_OP_RECV_ZC,
    IORING_OP_RECVMSG, IORING_OP_SEND, IORING_OP_SEND_ZC, IORING_OP_SENDMSG, IORING_OP_SENDMSG_ZC,
    IORING_OP_SHUTDOWN, IORING_OP_SOCKET, IORING_OP_URING_CMD, IORING_OP_URING_CMD128,
    IORING_RECV_MULTISHOT, IORING_RECVSEND_BUNDLE, IORING_RECVSEND_FIXED_BUF,
    IORING_SEND_VECTORIZED, IORING_SETUP_SQE128, IORING_SETUP_SQE_MIXED, IOSQE_BUFFER_SELECT,
    IOSQE_CQE_SKIP_SUCCESS, IOSQE_IO_HARDLINK, IOSQE_IO_LINK, SOCKET_URING_OP_GETSOCKNAME,
    SOCKET_URING_OP_GETSOCKOPT, SOCKET_URING_OP_SETSOCKOPT, SOCKET_URING_OP_SIOCINQ,
    SOCKET_URING_OP_SIOCOUTQ, SOCKET_URING_OP_TX_TIMESTAMP, SQE,
)
from .arguments import U32, fileno, iovecs, slot_field, sockaddr_at, some
from .messages import Msghdr

TYPE_CHECKING = False       # typing itself is not imported at run time: it costs more than we do
if TYPE_CHECKING:
    from collections.abc import Callable

_BIG = sys.byteorder == "big"
_SOCKADDR_STORAGE = 128     # bytes of struct sockaddr_storage, the longest address there is

# Commands without an option; _GETSOCKOPT and _SETSOCKOPT have one, _GETSOCKNAME other fields.
_NO_OPTION = (SOCKET_URING_OP_SIOCINQ, SOCKET_URING_OP_SIOCOUTQ, SOCKET_URING_OP_TX_TIMESTAMP)


class SocketPrep:
    """The prep_* methods for sockets."""

    __slots__ = ()

    # What Ring supplies: fill the next free SQE, one of 64 or of 128 bytes.
    _sqe: Callable[..., None]
    _sqe128: Callable[..., None]

    # And what a Batch does not know, as it belongs to no ring: IORING_SETUP_*, IORING_FEAT_*. The
    # kernel meets its SQEs again and again, with what the time before has left in memory.
    flags: int = 0
    features: int = 0
    _again = False

    # -- sockets, from the first call to the last --------------------------------------------------
    def prep_socket(self, domain: int, type: int, protocol: int = 0, flags: int = 0, *,
                    user_data: int = 0, sqe_flags: int = 0, file_index: int = 0) -> None:
        """socket(2). CQE res: the new fd, or -errno. `flags` must be 0 so far.

        `type` as given: add SOCK_CLOEXEC, which Python's own sockets always have (PEP 446), unless
        children are to inherit it. With a file_index it must not be there.
        Linux 5.19. io_uring_prep_socket(3).
        """
        _no_cloexec(type, file_index)
        self._sqe(IORING_OP_SOCKET, domain, off=type, len=protocol, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, file_index=file_index)

    def prep_socket_direct(self, domain: int, type: int, protocol: int = 0,
                           file_index: int = IORING_FILE_INDEX_ALLOC, flags: int = 0, *,
                           user_data: int = 0, sqe_flags: int = 0) -> None:
        """socket(2) into a slot of the registered files; what was there is closed.

        file_index   the slot, or IORING_FILE_INDEX_ALLOC for any free one
        CQE res: 0, with _ALLOC the slot, or -errno: -ENXIO no files are registered, -EINVAL there are
        fewer slots, -ENFILE none is free (or there are none at all). Linux 5.19.
        io_uring_prep_socket_direct(3).
        """
        self.prep_socket(domain, type, protocol, flags, user_data=user_data, sqe_flags=sqe_flags,
                         file_index=slot_field(file_index))

    def prep_socket_direct_alloc(self, domain: int, type: int, protocol: int = 0, flags: int = 0, *,
                                 user_data: int = 0, sqe_flags: int = 0) -> None:
        """socket(2) into a free slot of the registered files. CQE res: the slot, or -errno.

        Linux 5.19. io_uring_prep_socket_direct_alloc(3).
        """
        self.prep_socket(domain, type, protocol, flags, user_data=user_data, sqe_flags=sqe_flags,
                         file_index=IORING_FILE_INDEX_ALLOC)

    def prep_bind(self, fd, address, *, user_data: int = 0, sqe_flags: int = 0,
                  personality: int = 0) -> None:
        """bind(2). CQE res: 0 or -errno.

        address   as for prep_connect
        Linux 6.11. io_uring_prep_bind(3), bind(2).
        """
        address, size, keeper = sockaddr_at(fd, address)
        self._sqe(IORING_OP_BIND, fileno(fd), address, off=size, user_data=user_data,
                  sqe_flags=sqe_flags, personality=personality, keeper=keeper)

    def prep_listen(self, fd, backlog: int = 128, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """listen(2). CQE res: 0 or -errno. Linux 6.11. io_uring_prep_listen(3), listen(2)."""
        self._sqe(IORING_OP_LISTEN, fileno(fd), len=backlog, user_data=user_data,
                  sqe_flags=sqe_flags)

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

    def prep_shutdown(self, fd, how: int, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """shutdown(2) with SHUT_RD, SHUT_WR or SHUT_RDWR. CQE res: 0 or -errno.

        Linux 5.11. io_uring_prep_shutdown(3).
        """
        self._sqe(IORING_OP_SHUTDOWN, fileno(fd), len=how, user_data=user_data,
                  sqe_flags=sqe_flags)

    # -- accept ------------------------------------------------------------------------------------
    def prep_accept(self, fd, addr=None, addrlen=None, flags: int = SOCK_CLOEXEC, *,
                    user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0, personality: int = 0,
                    file_index: int = 0) -> None:
        """accept4(2) on a listening socket. CQE res: the new fd, or -errno.

        addr      writable buffer for the peer's sockaddr (128 bytes hold any), or None
        addrlen   writable buffer of 4 bytes, a native int: its size in, the address's out. With
                  None and an addr the ring makes one of its own
        flags     SOCK_CLOEXEC, SOCK_NONBLOCK; with a file_index not SOCK_CLOEXEC
        ioprio    IORING_ACCEPT_*
        CQE flags: IORING_CQE_F_SOCK_NONEMPTY when more connections wait.
        Linux 5.5. io_uring_prep_accept(3), accept(2). Decode addr with pyuring.sockaddr.unpack().
        """
        _no_cloexec(flags, file_index)
        again = self._again or isinstance(ioprio, int) and ioprio & IORING_ACCEPT_MULTISHOT
        address, length, keeper = _name_at(addr, addrlen, again)
        self._sqe(IORING_OP_ACCEPT, fileno(fd), address, off=length, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, personality=personality,
                  file_index=file_index, keeper=keeper)

    def prep_accept_direct(self, fd, addr=None, addrlen=None, flags: int = 0,
                           file_index: int = IORING_FILE_INDEX_ALLOC, *, user_data: int = 0,
                           sqe_flags: int = 0, ioprio: int = 0, personality: int = 0) -> None:
        """accept4(2) into a slot of the registered files; what was there is closed.

        addr, addrlen, ioprio   as for prep_accept
        flags                   SOCK_NONBLOCK or 0
        file_index              the slot, or IORING_FILE_INDEX_ALLOC (Linux 5.19) for any free one
        CQE res: 0, with _ALLOC the slot, or -errno, as from prep_socket_direct. Linux 5.15; before, the
        slot is ignored and res is a new fd.
        io_uring_prep_accept_direct(3).
        """
        self.prep_accept(fd, addr, addrlen, flags, user_data=user_data, sqe_flags=sqe_flags,
                         ioprio=ioprio, personality=personality, file_index=slot_field(file_index))

    def prep_multishot_accept(self, fd, addr=None, addrlen=None, flags: int = SOCK_CLOEXEC, *,
                              user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                              personality: int = 0) -> None:
        """accept4(2) again and again: a CQE for each connection, whose res is the new fd.

        addr   at least 128 bytes, or None. All connections share it: the address in there is that
               of the latest one; socket.getpeername() has that of each
        It goes on until it fails, is cancelled, or the CQ is full: that CQE comes without
        IORING_CQE_F_MORE. Linux 5.19. io_uring_prep_multishot_accept(3).
        """
        self.prep_accept(fd, addr, addrlen, flags, user_data=user_data, sqe_flags=sqe_flags,
                         ioprio=ioprio | IORING_ACCEPT_MULTISHOT, personality=personality)

    def prep_multishot_accept_direct(self, fd, addr=None, addrlen=None, flags: int = 0, *,
                                     user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                                     personality: int = 0) -> None:
        """As prep_multishot_accept, into free slots of the registered files: CQE res is the slot.

        It ends with -ENFILE when no slot is free. Linux 5.19.
        io_uring_prep_multishot_accept_direct(3).
        """
        self.prep_accept(fd, addr, addrlen, flags, user_data=user_data, sqe_flags=sqe_flags,
                         ioprio=ioprio | IORING_ACCEPT_MULTISHOT, personality=personality,
                         file_index=IORING_FILE_INDEX_ALLOC)

    # -- send --------------------------------------------------------------------------------------
    def prep_send(self, sockfd, buf, len: int | None = None, flags: int = 0, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                  buf_group: int = 0) -> None:
        """send(2). CQE res: bytes sent, perhaps fewer than asked, or -errno.

        buf      a buffer, or a list of buffers (IORING_SEND_VECTORIZED, Linux 6.17), which are sent
                 one after the other; None for a provided one (IOSQE_BUFFER_SELECT, Linux 6.10).
                 OSError EINVAL for a list where the kernel is clearly too old, -EINVAL elsewhere
        len      bytes of buf to send; None for all of it
        flags    MSG_*. In a chain of linked requests a short send breaks it only with MSG_WAITALL
        ioprio   IORING_RECVSEND_*
        Linux 5.6. io_uring_prep_send(3).
        """
        address, size, ioprio, keeper = _data(self, buf, len, sqe_flags, ioprio)
        self._sqe(IORING_OP_SEND, fileno(sockfd), address, size, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_group,
                  keeper=keeper)

    def prep_sendto(self, sockfd, buf, len: int | None = None, flags: int = 0, address=None, *,
                    user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                    buf_group: int = 0) -> None:
        """sendto(2): as prep_send, to an address.

        address   as for prep_connect; None as for prep_send
        CQE res: bytes sent, or -errno.
        Linux 6.1; before, the address is ignored: -EDESTADDRREQ from a socket that is not connected.
        io_uring_prep_sendto(3).
        """
        self._send(IORING_OP_SEND, sockfd, buf, len, flags, ioprio, address, buf_group, user_data,
                   sqe_flags)

    def prep_send_set_addr(self, dest_addr: object) -> None:
        """Give the SQE that was filled last an address to send to. It must be a prep_send() or a
        prep_send_zc(), and not submitted yet; ValueError if it is anything else.

        dest_addr   as prep_connect() takes it for a number: its shape tells the family
        prep_sendto() does both at once, and so does `address` of prep_send_zc(). It has no CQE of its own.
        Linux 6.0 for SEND_ZC, 6.1 for SEND. io_uring_prep_send_set_addr(3).
        """
        address, size, keeper = sockaddr_at(-1, dest_addr)
        addr_len = _addr_len(size)
        if self._again:
            raise ValueError("not in a Batch: use prep_sendto(), or the address of prep_send_zc()")
        # The one method that looks into the queue of ring.py, where _sqe() leaves things.
        if self._owner != get_ident():
            self._check_owner()
        if self.flags & IORING_SETUP_SQE_MIXED:
            raise ValueError("with IORING_SETUP_SQE_MIXED nobody knows where the last SQE begins: use "
                             "prep_sendto(), or the address of prep_send_zc()")
        if not self.sq_ready or self._sqpoll and self._sq[self._sq_tail] == self._sqe_tail:
            raise ValueError("no SQE waits to be submitted: fill one first")
        at = ((self._sqe_tail - 1) & self._sq_mask) << self._sqe_shift
        fields = list(SQE.unpack_from(self._sqes, at))
        opcode, sqe_flags, user_data = fields[0], fields[1], fields[8]
        if opcode not in (IORING_OP_SEND, IORING_OP_SEND_ZC):
            raise ValueError(f"the SQE filled last has opcode {opcode}: call this right after prep_send() "
                             "or prep_send_zc()")
        if not sqe_flags & IOSQE_CQE_SKIP_SUCCESS:
            if user_data not in self._inflight:
                raise ValueError("the SQE filled last is a Batch's: its address is given with the batch")
            self._keepers.setdefault(user_data, []).append(keeper)
        elif sqe_flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK):
            self._chain_keepers.append(keeper)
        else:
            self._unanswered.append(keeper)
        fields[4], fields[11] = address, addr_len       # off and file_index
        SQE.pack_into(self._sqes, at, *fields)

    def prep_send_bundle(self, sockfd, len: int = 0, flags: int = 0, *, user_data: int = 0,
                         sqe_flags: int = 0, ioprio: int = 0, buf_group: int = 0) -> None:
        """send(2) from as many provided buffers as there are, in their order.

        len         0; others are no limit (on 6.18 the first buffer is cut short, the rest is not)
        buf_group   the group, which must be a ring of buffers. IOSQE_BUFFER_SELECT is set for you
        CQE res: bytes sent; flags name the first buffer, the others follow it in the ring. There may
        be several CQEs (IORING_CQE_F_MORE); -ENOBUFS when no buffer is left. Linux 6.10.
        io_uring_prep_send_bundle(3).
        """
        self._sqe(IORING_OP_SEND, fileno(sockfd), 0, len, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags | IOSQE_BUFFER_SELECT, ioprio=ioprio | IORING_RECVSEND_BUNDLE,
                  buf_index=buf_group)

    # Some facts about memory that the kernel keeps
    # ---------------------------------------------
    # Most requests are done with their memory when their CQE comes, and some before: a path or a
    # sockaddr is copied while it is submitted (IORING_FEAT_SUBMIT_STABLE, Linux 5.5). Three kinds are not.
    #
    #   - Multishot: each CQE but the last has IORING_CQE_F_MORE. Up to the one without it the request
    #     is alive, and so is what it points to (a Msghdr, say). It may end at any time, by itself: a CQE
    #     without MORE means, ask again. io_uring_multishot(7).
    #   - Zero-copy send: the first CQE says how much was sent, and has MORE; the network still reads
    #     from the buffer, until the other side has acknowledged it. Only the second CQE
    #     (IORING_CQE_F_NOTIF, the same user_data) gives it back. io_uring_enter(2), IORING_OP_SEND_ZC.
    #   - Whatever is being cancelled: the cancel's own CQE ends nothing, whatever it says. The request's
    #     last CQE does. io_uring_cancelation(7).
    #
    # All three have one rule, and ring.py knows no other: memory is let go of at the CQE without MORE.

    def prep_send_zc(self, sockfd, buf, len: int | None = None, flags: int = 0, zc_flags: int = 0, *,
                     address=None, user_data: int = 0, sqe_flags: int = 0) -> None:
        """send(2), the network reading from your buffer itself.

        buf, len, flags   as for prep_send, but no provided buffer
        zc_flags          IORING_RECVSEND_POLL_FIRST, IORING_SEND_ZC_REPORT_USAGE
        address           to send to, as for prep_connect; None for the socket's peer
        Two CQEs: the first says what was sent, as for prep_send, and has IORING_CQE_F_MORE if there
        is a second one; that has IORING_CQE_F_NOTIF, and the buffer is yours again. Its res is 0, or
        with _REPORT_USAGE IORING_NOTIF_USAGE_ZC_COPIED (as a negative number) where the data was
        copied after all, as on the way to a socket of this machine. -EOPNOTSUPP on sockets that
        can't, such as AF_UNIX's; -EINVAL with IOSQE_CQE_SKIP_SUCCESS; -ENOMEM beyond RLIMIT_MEMLOCK.
        Linux 6.0. io_uring_prep_send_zc(3), io_uring_enter(2).
        """
        self._send(IORING_OP_SEND_ZC, sockfd, buf, len, flags, zc_flags, address, 0, user_data,
                   sqe_flags)

    def prep_send_zc_fixed(self, sockfd, buf, len: int | None = None, flags: int = 0,
                           zc_flags: int = 0, buf_index: int = 0, *, address=None,
                           user_data: int = 0, sqe_flags: int = 0) -> None:
        """As prep_send_zc, from inside a registered buffer, whose pages need no pinning any more.

        buf         that buffer, or a part of it (a memoryview's slice); -EFAULT for anything else. Of a
                    list, -EINVAL so far (6.18): prep_sendmsg_zc_fixed() takes one
        buf_index   its number
        Two CQEs, as there. Linux 6.0. io_uring_prep_send_zc_fixed(3).
        """
        self._send(IORING_OP_SEND_ZC, sockfd, buf, len, flags, zc_flags | IORING_RECVSEND_FIXED_BUF,
                   address, buf_index, user_data, sqe_flags)

    def _send(self, opcode, sockfd, buf, len, flags, ioprio, address, buf_index, user_data, sqe_flags):
        data, size, ioprio, keeper = _data(self, buf, len, sqe_flags, ioprio)
        dest = dest_size = 0
        if address is not None:
            dest, dest_size, second = sockaddr_at(sockfd, address)
            keeper = keeper, second
        self._sqe(opcode, fileno(sockfd), data, size, dest, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_index,
                  file_index=_addr_len(dest_size), keeper=keeper)

    def prep_sendmsg(self, fd, msg: Msghdr, flags: int = 0, *, user_data: int = 0,
                     sqe_flags: int = 0, ioprio: int = 0) -> None:
        """sendmsg(2): several buffers, an address, control data. CQE res: bytes sent, or -errno.

        msg      a Msghdr (messages.py) with what is to be sent
        flags    MSG_*
        ioprio   IORING_RECVSEND_POLL_FIRST
        File descriptors in its control data are looked up when it is sent: until then they stay
        open. Old kernels answer control data with -EINVAL (5.10.46 does; 6.1 takes it).
        Linux 5.3. io_uring_prep_sendmsg(3), sendmsg(2).
        """
        address, keeper = _message_to_send(fd, msg)
        self._sqe(IORING_OP_SENDMSG, fileno(fd), address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio, keeper=keeper)

    def prep_sendmsg_zc(self, fd, msg: Msghdr, flags: int = 0, *, user_data: int = 0,
                        sqe_flags: int = 0, ioprio: int = 0) -> None:
        """As prep_sendmsg, the network reading from your buffers: two CQEs, as from prep_send_zc.

        ioprio   IORING_RECVSEND_POLL_FIRST, IORING_SEND_ZC_REPORT_USAGE
        Linux 6.1. io_uring_prep_sendmsg_zc(3).
        """
        address, keeper = _message_to_send(fd, msg)
        self._sqe(IORING_OP_SENDMSG_ZC, fileno(fd), address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio, keeper=keeper)

    def prep_sendmsg_zc_fixed(self, fd, msg: Msghdr, flags: int = 0, buf_index: int = 0, *,
                              user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0) -> None:
        """As prep_sendmsg_zc, all buffers of msg being parts of one registered buffer: two CQEs.

        buf_index   its number
        Linux 6.15 (-EINVAL before). io_uring_prep_sendmsg_zc_fixed(3).
        """
        address, keeper = _message_to_send(fd, msg)
        self._sqe(IORING_OP_SENDMSG_ZC, fileno(fd), address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio | IORING_RECVSEND_FIXED_BUF,
                  buf_index=buf_index, keeper=keeper)

    # -- receive -----------------------------------------------------------------------------------
    def prep_recv(self, sockfd, buf, len: int | None = None, flags: int = 0, *,
                  user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                  buf_group: int = 0) -> None:
        """recv(2). CQE res: bytes received, 0 at the end of a stream, or -errno.

        len      bytes of buf that may be filled; None for all of it
        flags    MSG_*
        ioprio   IORING_RECVSEND_*
        CQE flags: IORING_CQE_F_SOCK_NONEMPTY when there is more to receive (Linux 5.19).
        Linux 5.6. io_uring_prep_recv(3).
        """
        address, size, keeper = some(buf, len, True, sqe_flags)
        self._sqe(IORING_OP_RECV, fileno(sockfd), address, size, op_flags=flags,
                  user_data=user_data, sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_group,
                  keeper=keeper)

    def prep_recv_multishot(self, sockfd, buf: None = None, len: int = 0, flags: int = 0, *,
                            user_data: int = 0, sqe_flags: int = 0, ioprio: int = 0,
                            buf_group: int = 0, optlen: int = 0) -> None:
        """recv(2) again and again, each time into a provided buffer: a CQE each time.

        buf         None, as the buffers are those of buf_group. IOSQE_BUFFER_SELECT is set for you
        len         bytes to receive each time; 0 for what the buffer holds (others: Linux 6.17)
        flags       MSG_*, without MSG_WAITALL
        ioprio      IORING_RECVSEND_POLL_FIRST; IORING_RECVSEND_BUNDLE for several buffers a time
        optlen      bytes after which it ends; 0 for no such limit (others: Linux 6.17)
        It goes on until the stream ends (res 0), it fails (-ENOBUFS: no buffer is left), or is
        cancelled: that CQE comes without IORING_CQE_F_MORE. Linux 6.0.
        io_uring_prep_recv_multishot(3).
        """
        if buf is not None:
            raise TypeError(f"buf is {type(buf).__name__}: a multishot recv takes provided buffers, "
                            "so give None and a buf_group")
        self._sqe(IORING_OP_RECV, fileno(sockfd), 0, len, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags | IOSQE_BUFFER_SELECT, ioprio=ioprio | IORING_RECV_MULTISHOT,
                  buf_index=buf_group, file_index=optlen)

    def prep_recvmsg(self, fd, msg: Msghdr, flags: int = 0, *, user_data: int = 0,
                     sqe_flags: int = 0, ioprio: int = 0, buf_group: int = 0) -> None:
        """recvmsg(2): into several buffers, with the sender's address and control data. CQE res:
        bytes received, 0 at the end of a stream, or -errno.

        msg      a Msghdr (messages.py) with room for it; read it after the CQE
        flags    MSG_*: add MSG_CMSG_CLOEXEC, as Python does (PEP 446), for file descriptors that
                 children are not to inherit
        ioprio   IORING_RECVSEND_POLL_FIRST
        With IOSQE_BUFFER_SELECT the data goes into a provided buffer; iov may have one buffer then,
        which is not written to, but whose size limits it. Control data: as for prep_sendmsg.
        Linux 5.3. io_uring_prep_recvmsg(3), recvmsg(2).
        """
        address, keeper = _message_to_receive(msg, self._again)
        self._sqe(IORING_OP_RECVMSG, fileno(fd), address, 1, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio, buf_index=buf_group, keeper=keeper)

    def prep_recvmsg_multishot(self, fd, msg: Msghdr, flags: int = 0, *, user_data: int = 0,
                               sqe_flags: int = 0, ioprio: int = 0, buf_group: int = 0) -> None:
        """recvmsg(2) again and again, each time into a provided buffer: a CQE each time, whose res is
        how much of the buffer is used.

        msg         a Msghdr whose sizes of name and control say how the buffers are laid out:
                    messages.recvmsg_out() takes them apart. Nothing is written into it
        flags       MSG_*, without MSG_WAITALL
        buf_group   whose buffers they are. IOSQE_BUFFER_SELECT is set for you
        It goes on as prep_recv_multishot does; a buffer too small for header, name and control ends it
        with -EFAULT. Linux 6.0. io_uring_prep_recvmsg_multishot(3).
        """
        self.prep_recvmsg(fd, msg, flags, user_data=user_data, buf_group=buf_group,
                          sqe_flags=sqe_flags | IOSQE_BUFFER_SELECT,
                          ioprio=ioprio | IORING_RECV_MULTISHOT)

    def prep_recv_zc(self, sockfd, len: int = 0, flags: int = 0, *, zcrx_ifq_idx: int = 0,
                     user_data: int = 0, sqe_flags: int = 0,
                     ioprio: int = IORING_RECV_MULTISHOT) -> None:
        """recv(2) into memory that the network card fills, without a copy: a CQE each time, which
        says where in that memory the data lies.

        len            bytes after which it ends; 0 for no limit
        zcrx_ifq_idx   the receive queue, as IORING_REGISTER_ZCRX_IFQ answered it
        Such a queue needs a card that splits headers from data, and a ring with IORING_SETUP_CQE32
        (or CQE_MIXED); -EINVAL without. Linux 6.15. liburing has no method for it; zcrx in the
        kernel's Documentation/networking/iou-zcrx.rst.
        """
        self._sqe(IORING_OP_RECV_ZC, fileno(sockfd), 0, len, op_flags=flags, user_data=user_data,
                  sqe_flags=sqe_flags, ioprio=ioprio, file_index=zcrx_ifq_idx)

    # -- commands ----------------------------------------------------------------------------------
    def prep_uring_cmd(self, cmd_op: int, fd, *, cmd: bytes = b"", addr: int = 0, len: int = 0,
                       flags: int = 0, buf_index: int = 0, file_index: int = 0,
                       user_data: int = 0, sqe_flags: int = 0, keeper: object = None) -> None:
        """A command that the file itself understands, as ioctl(2) has them: of a block device, NVMe,
        ublk, fuse, a socket.

        cmd_op      the command
        cmd         bytes for it, 16 at most; 80 in a ring with IORING_SETUP_SQE128
        addr, len, file_index   other fields of the SQE that some commands read
        flags       IORING_URING_CMD_FIXED, with a registered buffer buf_index
        keeper      whatever must stay alive until the last CQE, such as what syscalls.writable()
                    answers for memory that `cmd` or `addr` point to: addresses in there are your own
                    affair
        CQE res: the command's. -EOPNOTSUPP where the file has no commands, or not this one.
        Linux 5.19. io_uring_prep_uring_cmd(3).
        """
        wide = self.flags & IORING_SETUP_SQE128
        cmd, op = _command(cmd, 80 if wide else 16), _pair(cmd_op, 0, "cmd_op")
        if wide:            # also for a short one: what follows it in the SQE is to be zero
            fill, words = self._sqe128, {"cmd": cmd}
        else:
            fill, words = self._sqe, {"addr3": int.from_bytes(cmd[:8], sys.byteorder),
                                      "attr_type_mask": int.from_bytes(cmd[8:], sys.byteorder)}
        fill(IORING_OP_URING_CMD, fileno(fd), addr=addr, len=len, off=op, op_flags=flags,
             buf_index=buf_index, file_index=file_index, user_data=user_data, sqe_flags=sqe_flags,
             keeper=keeper, **words)

    def prep_uring_cmd128(self, cmd_op: int, fd, *, cmd: bytes = b"", addr: int = 0, len: int = 0,
                          flags: int = 0, buf_index: int = 0, file_index: int = 0,
                          user_data: int = 0, sqe_flags: int = 0, keeper: object = None) -> None:
        """As prep_uring_cmd, in an SQE of 128 bytes: `cmd` has up to 80.

        For a ring with IORING_SETUP_SQE_MIXED, or IORING_SETUP_SQE128. CQE res: the command's.
        Linux 6.19. io_uring_prep_uring_cmd128(3).
        """
        cmd, op = _command(cmd, 80), _pair(cmd_op, 0, "cmd_op")
        self._sqe128(IORING_OP_URING_CMD128, fileno(fd), addr=addr, len=len, off=op, op_flags=flags,
                     buf_index=buf_index, file_index=file_index, user_data=user_data,
                     sqe_flags=sqe_flags, keeper=keeper, cmd=cmd)

    def prep_cmd_sock(self, cmd_op: int, fd, level: int = 0, optname: int = 0, optval: object = None,
                      optlen: int | None = None, *, user_data: int = 0, sqe_flags: int = 0) -> None:
        """A command for a socket: ask how much waits in it, get or set an option, take timestamps.

        cmd_op   SOCKET_URING_OP_...            CQE res, or -errno
                 SIOCINQ                        bytes that can be received
                 SIOCOUTQ                       bytes that are not sent yet
                 GETSOCKOPT                     bytes written to optval. SOL_SOCKET only; Linux 6.7
                 SETSOCKOPT                     0. Linux 6.7
                 TX_TIMESTAMP                   the packet's key; Linux 6.17, see below
        level    SOL_SOCKET, IPPROTO_TCP, ...
        optname  SO_*, TCP_*, ...
        optval   to get an option, a writable buffer; to set it, an int or a buffer
        optlen   bytes of optval; None for all of it
        TX_TIMESTAMP is multishot, and needs a ring with IORING_SETUP_CQE32 (or CQE_MIXED), as the
        time, two 64-bit numbers of seconds and nanoseconds, is the CQE's second half. Which of
        SCM_TSTAMP_* it is: flags >> IORING_TIMESTAMP_TYPE_SHIFT. Ask for the timestamps with
        SO_TIMESTAMPING, SOF_TIMESTAMPING_OPT_TSONLY among its flags.
        -EOPNOTSUPP for SIOCINQ and SIOCOUTQ of AF_UNIX, and before Linux 6.7 for most others.
        io_uring_prep_cmd_sock(3).
        """
        if cmd_op == SOCKET_URING_OP_GETSOCKNAME:
            raise ValueError("cmd_op SOCKET_URING_OP_GETSOCKNAME has other fields: use "
                             "prep_cmd_getsockname()")
        if cmd_op == SOCKET_URING_OP_SETSOCKOPT and isinstance(optval, int):
            if not -1 << 31 <= optval < 1 << 31:
                raise ValueError(f"optval {optval} is more than a C int holds: give bytes")
            optval = optval.to_bytes(4, sys.byteorder, signed=True)
        value, size, keeper = 0, optlen or 0, None
        if optval is not None and cmd_op not in _NO_OPTION:
            value, size, keeper = some(optval, optlen, cmd_op != SOCKET_URING_OP_SETSOCKOPT)
        elif cmd_op == SOCKET_URING_OP_GETSOCKOPT:
            raise TypeError("optval None: to get an option, give a writable buffer")
        self._sqe(IORING_OP_URING_CMD, fileno(fd), _pair(level, optname, "level", "optname"),
                  off=_pair(cmd_op, 0, "cmd_op"), addr3=value, file_index=size, user_data=user_data,
                  sqe_flags=sqe_flags, keeper=keeper)

    def prep_cmd_getsockname(self, fd, addr, addrlen=None, peer: int = 0, *, user_data: int = 0,
                             sqe_flags: int = 0) -> None:
        """getsockname(2), or getpeername(2) where peer is 1. CQE res: 0 or -errno.

        addr, addrlen   as for prep_accept
        -EOPNOTSUPP before Linux 6.19, on what is no socket, and on AF_UNIX's.
        io_uring_prep_cmd_getsockname(3).
        """
        address, length, keeper = _name_at(addr, addrlen, self._again)
        self._sqe(IORING_OP_URING_CMD, fileno(fd), address,
                  off=_pair(SOCKET_URING_OP_GETSOCKNAME, 0, "cmd_op"), addr3=length,
                  file_index=peer, user_data=user_data, sqe_flags=sqe_flags, keeper=keeper)


# -- objects to numbers ----------------------------------------------------------------------------
def _no_cloexec(flags, file_index):
    # The kernel says -EINVAL (io_accept_prep() and io_socket_prep() in io_uring/net.c).
    if file_index and isinstance(flags, int) and flags & SOCK_CLOEXEC:
        raise ValueError(f"SOCK_CLOEXEC and file_index {file_index}: no child inherits a slot, so "
                         "leave SOCK_CLOEXEC out (flags=0)")


def _name_at(addr, addrlen, again):
    """Room for an address and for its length: (address, address of the length, keeper).

    again   the kernel will write there more than once
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
        if again:
            _check_room("addr", room)
    return address, length, (keeper, second) if address or length else None


def _check_room(name, size):
    # The kernel puts the true size of an address where it found the room for it, also when there was
    # less, and next time takes that for the room: it would write beyond (move_addr_to_user() in
    # net/socket.c; seen on 6.18).
    if size < _SOCKADDR_STORAGE:
        raise ValueError(f"{name} has {size} bytes: where it is written to again and again (multishot, or "
                         f"in a Batch), it needs {_SOCKADDR_STORAGE}")


def _data(ring, buf, size, sqe_flags, ioprio):
    """What to send, one buffer or a list of them: (address, size or count, ioprio, keeper)."""
    if isinstance(buf, (list, tuple)):
        if not ring.features & IORING_FEAT_RECVSEND_BUNDLE:
            # A kernel before 6.10 is before 6.17, too; 5.10 does not look at ioprio, takes the array
            # of iovecs for what is to be sent, and the other end gets our addresses (seen there).
            raise errors.os_error(EINVAL, "a list of buffers (Linux 6.17, IORING_SEND_VECTORIZED, and not "
                                  "in a Batch; prep_sendmsg() takes one everywhere)")
        if size is not None:
            raise ValueError(f"len {size} goes with one buffer: of a list, all is sent")
        address, count, keeper = iovecs(buf, False)
        return address, count, ioprio | IORING_SEND_VECTORIZED, keeper
    if isinstance(ioprio, int) and ioprio & IORING_SEND_VECTORIZED:
        # The kernel would take its bytes for addresses.
        raise TypeError(f"IORING_SEND_VECTORIZED and {type(buf).__name__}: give a list of buffers")
    address, size, keeper = some(buf, size, False, sqe_flags)
    return address, size, ioprio, keeper


def _message_to_send(fd, msg):
    _check_message(msg)
    address, control = msg._to_send()
    name = (0, 0, None) if address is None else sockaddr_at(fd, address)
    return msg._fill(name, iovecs(msg.iov, False), control)


def _message_to_receive(msg, again):
    _check_message(msg)
    name, control = msg._to_receive()
    if again and name[0] and not isinstance(msg.name, int):     # which has room enough
        _check_room("name", name[1])
    return msg._fill(name, iovecs(msg.iov, True), control)


def _check_message(msg):
    if not isinstance(msg, Msghdr):
        raise TypeError(f"a Msghdr is needed (pyuring.messages), not {type(msg).__name__}")


def _addr_len(size):
    """addr_len, 16 bits at the place of file_index, as the number that file_index would be."""
    if size > 0xFFFF:
        raise ValueError(f"an address of {size} bytes: addr_len holds 65535")
    return size << 16 if _BIG else size


def _pair(first, second, *names):
    """Two 32-bit fields that lie side by side, as the 64-bit one that the SQE has there."""
    for value, name in zip((first, second), names):
        if not isinstance(value, int):
            raise TypeError(f"{name} {value!r} is not an int: give a number")
        if not 0 <= value <= U32:
            raise ValueError(f"{name} {value} is outside 0..{U32}, what the SQE's field holds: give "
                             "a number in there")
    return first << 32 | second if _BIG else second << 32 | first


def _command(cmd, room):
    """The bytes of a command, filled up with zeros."""
    _, size, _ = syscalls.readable(cmd)
    if size > room:
        raise ValueError(f"cmd has {size} bytes, and this SQE room for {room}: a ring with "
                         "IORING_SETUP_SQE128 has 80, and so has prep_uring_cmd128()")
    return bytes(memoryview(cmd).cast("B")).ljust(room, b"\0")
