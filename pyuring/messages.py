"""messages.py - `struct msghdr`: what sendmsg(2) and recvmsg(2) are given, and what comes back in it.

A message is more than its bytes: they may lie in several buffers, there is an address, and there may
be control data beside them (file descriptors, credentials, timestamps, the TTL ...), as a row of
`struct cmsghdr`. A msghdr points to all of that; the kernel reads it, and after recvmsg it has written
the sizes and flags into it.

A multishot recvmsg has no msghdr to write to, as it answers many times. There the kernel puts a
header, the address, the control data and the payload one behind the other into each provided buffer:

    struct io_uring_recvmsg_out | name, as long as  | control, as long as | payload, to the end of
    16 bytes                    | msghdr's own      | msghdr's own        | the buffer at most

Leans on abi.py, sockaddr.py and syscalls.py. Read beside it: prep_sockets.py, which fills requests with it.
"""
from __future__ import annotations

import os
import socket
from collections import namedtuple
from struct import Struct, error as struct_error

from . import syscalls
from .abi import RECVMSG_OUT
from .sockaddr import SockAddr, unpack

# struct msghdr (recvmsg(2)), as this machine's C lays it out: msg_name, msg_namelen, msg_iov,
# msg_iovlen, msg_control, msg_controllen, msg_flags. And struct cmsghdr (cmsg(3)): cmsg_len with the
# header in it, cmsg_level, cmsg_type; the data begins at CMSG_LEN(0), the next one is aligned again.
MSGHDR = Struct("@PiPNPNi0P")
CMSGHDR = Struct("@Nii")
_CMSG_DATA, _CMSG_ALIGN = socket.CMSG_LEN(0), socket.CMSG_SPACE(1) - socket.CMSG_SPACE(0)

_ADDRESSES = (tuple, str, bytes, os.PathLike, SockAddr)
_NOTHING = (0, 0, None)         # address, size, keeper


class Msghdr:
    """`struct msghdr`: one message to be sent, or room for one to be received.

             to send                                        to receive
    name     an address, as prep_connect() takes it, or     how many bytes of address there is room
             None where the socket is connected             for (128 hold any), or a writable buffer
    iov      a list of buffers, read one after the other    a list of writable buffers, filled so
    control  a list of (level, type, data), as              how many bytes (socket.CMSG_SPACE()), or
             socket.sendmsg() takes it                      a writable buffer
    flags    what msg_flags says before; the kernel does not read it: MSG_* go to prep_*()

    Nothing is looked at before prep_sendmsg() or prep_recvmsg(), but for control data, which is
    copied. One Msghdr may be sent any number of times, also at the same time; to receive with it
    twice at the same time mixes up the answers. The ring keeps all of it in place until the
    request's last CQE, also if the Msghdr itself is dropped.

    In a Batch each round has the room that the one before left: the sizes it wrote.

    After recvmsg's CQE: address, control, flags, namelen and controllen are what the kernel wrote.
    At most 1024 buffers (IOV_MAX). recvmsg(2), sendmsg(2), cmsg(3).
    """

    __slots__ = ("name", "iov", "_messages", "_packed", "_name_room", "_control_room", "_flags", "_raw")

    def __init__(self, name: object = None, iov: list | tuple = (), control: object = (),
                 flags: int = 0):
        if not isinstance(iov, (list, tuple)):
            raise TypeError(f"iov is {type(iov).__name__}: give a list of buffers, if only of one")
        if not isinstance(flags, int):
            raise TypeError(f"flags {flags!r} is not an int: give MSG_*")
        if not -1 << 31 <= flags < 1 << 31:
            raise ValueError(f"flags {flags} is more than a C int holds: give MSG_*")
        self.name, self.iov, self._flags = name, tuple(iov), flags
        self._name_room = self._control_room = None
        if isinstance(name, int):
            self._name_room = _zeros("name", name)
        elif not (name is None or isinstance(name, _ADDRESSES)):
            self._name_room = name
        self._messages, self._packed = [], b""
        if isinstance(control, (list, tuple)):
            self._messages, self._packed = list(control), pack_control(control)
        else:
            self._control_room = _zeros("control", control) if isinstance(control, int) else control
        self._raw = bytearray(MSGHDR.pack(0, 0, 0, 0, 0, 0, flags))

    # -- for prep_sockets.py: what it points to, as (address, size or count, keeper) ---------------
    def _to_send(self):
        """The address to send to, or None, and where the control data lies."""
        if self._name_room is not None:
            raise TypeError("name is room for an address: to send, give the address itself, or None")
        if self._control_room is not None:
            raise TypeError("control is room for what is received: to send, give a list of (level, "
                            "type, data)")
        return self.name, syscalls.readable(self._packed) if self._packed else _NOTHING

    def _to_receive(self):
        """Where there is room for the address, and for control data."""
        if self.name is not None and self._name_room is None:
            raise TypeError(f"name {self.name!r} is an address to send to: to receive, give how many "
                            "bytes there is room for, or a writable buffer")
        if self._messages:
            raise TypeError("control is what is to be sent: to receive, give how many bytes there is "
                            "room for, or a writable buffer")
        return [_NOTHING if room is None else syscalls.writable(room)
                for room in (self._name_room, self._control_room)]

    def _fill(self, name, iov, control):
        """The structure itself: (address, keeper of all of it)."""
        # Another one for each request: the one before may still be in flight.
        raw = bytearray(MSGHDR.pack(*name[:2], *iov[:2], *control[:2], self._flags))
        address, _, keeper = syscalls.writable(raw)
        self._raw = raw
        return address, (keeper, name[2], iov[2], control[2])

    def _sizes(self):
        """How many bytes of name and of control there is room for."""
        return tuple(0 if room is None else memoryview(room).nbytes
                     for room in (self._name_room, self._control_room))

    # -- what is in it -----------------------------------------------------------------------------
    @property
    def namelen(self) -> int:
        """Bytes of address; more than there was room for, if it was cut short."""
        return MSGHDR.unpack_from(self._raw)[1]

    @property
    def controllen(self) -> int:
        """Bytes of control data."""
        return MSGHDR.unpack_from(self._raw)[5]

    @property
    def flags(self) -> int:
        """MSG_TRUNC, MSG_CTRUNC, MSG_EOR, MSG_ERRQUEUE, MSG_OOB: what the kernel says of the message."""
        return MSGHDR.unpack_from(self._raw)[6]

    @property
    def address(self) -> object:
        """Where the message came from, as socket.recvfrom() says it (a SockAddr for other families),
        None where there is no address; of a message to send, its name."""
        if self._name_room is None:
            return self.name
        raw = bytes(memoryview(self._name_room).cast("B")[:self.namelen])
        return unpack(raw) if raw else None

    @property
    def control(self) -> list:
        """The control data as socket.recvmsg() gives it: [(level, type, data), ...]."""
        if self._control_room is None:
            return self._messages
        return parse_control(memoryview(self._control_room).cast("B")[:self.controllen])


class RecvmsgOut(namedtuple("RecvmsgOut", "name control payload flags payloadlen")):
    """One message of a multishot recvmsg. The first three are memoryviews of the provided buffer: use
    them, or copy them, before the buffer goes back to the kernel.

    name        the sender's `struct sockaddr`; `address` is what it says
    control     its control data; `messages` is what it says
    payload     its bytes, as far as there was room
    flags       MSG_TRUNC, MSG_CTRUNC, ...
    payloadlen  len(payload); the length of the whole message where MSG_TRUNC was asked for
    """

    __slots__ = ()
    name: memoryview
    control: memoryview
    payload: memoryview
    flags: int
    payloadlen: int

    @property
    def address(self) -> object:
        """Where the message came from, as socket.recvfrom() says it; None where there is no address."""
        return unpack(bytes(self.name)) if self.name else None

    @property
    def messages(self) -> list[tuple[int, int, bytes]]:
        """The control data as socket.recvmsg() gives it: [(level, type, data), ...]."""
        return parse_control(self.control)


def recvmsg_out(buffer, msghdr: Msghdr) -> RecvmsgOut:
    """Take apart what a multishot recvmsg put into a provided buffer.

    buffer   the buffer, or its first `res` bytes, as the CQE says
    msghdr   the one that prep_recvmsg_multishot() was given: the layout depends on its sizes
    ValueError where the buffer is too small to hold what the msghdr has room for.
    io_uring_recvmsg_out(3), io_uring_recvmsg_validate(3), _name(3), _payload(3), _payload_length(3),
    _cmsg_firsthdr(3).
    """
    view = memoryview(buffer).cast("B")
    name_room, control_room = msghdr._sizes()
    control_at = RECVMSG_OUT.size + name_room
    payload_at = control_at + control_room
    if len(view) < payload_at:
        raise ValueError(f"a buffer of {len(view)} bytes is no answer for this msghdr: header, name and control "
                         f"take {payload_at}")
    namelen, controllen, payloadlen, flags = RECVMSG_OUT.unpack_from(view)
    return RecvmsgOut(view[RECVMSG_OUT.size:][:min(namelen, name_room)],
                      view[control_at:][:min(controllen, control_room)],
                      view[payload_at:][:payloadlen], flags, payloadlen)


# -- control data ----------------------------------------------------------------------------------
def pack_control(messages: list | tuple) -> bytes:
    """A row of `struct cmsghdr` for [(level, type, data), ...]; data is any buffer, and is copied."""
    parts = []
    for message in messages:
        try:
            level, kind, data = message
            data = bytes(memoryview(data))
        except (TypeError, ValueError):
            raise TypeError(f"control message {message!r}: give (level, type, data), data being a "
                            "buffer") from None
        try:
            header = CMSGHDR.pack(socket.CMSG_LEN(len(data)), level, kind)
        except struct_error:
            raise ValueError(f"control message {message!r}: level and type are ints that a C int "
                             "holds") from None
        parts.append(header.ljust(_CMSG_DATA, b"\0") + data + bytes(-len(data) % _CMSG_ALIGN))
    return b"".join(parts)


def parse_control(control) -> list[tuple[int, int, bytes]]:
    """[(level, type, data), ...] out of a row of `struct cmsghdr`, as socket.recvmsg() gives them. What
    was cut short (MSG_CTRUNC) comes as far as it goes."""
    view, at, messages = memoryview(control).cast("B"), 0, []
    while at + CMSGHDR.size <= len(view):
        length, level, kind = CMSGHDR.unpack_from(view, at)
        if length < _CMSG_DATA:
            break
        messages.append((level, kind, bytes(view[at + _CMSG_DATA:at + length])))
        at += length + -length % _CMSG_ALIGN
    return messages


def _zeros(what, size):
    if not 0 <= size < 1 << 31:
        raise ValueError(f"{what} {size} is outside 0..{(1 << 31) - 1}: give how many bytes there is "
                         "room for")
    # What lies behind it is for a Batch: see _check_room() in prep_sockets.py.
    return memoryview(bytearray(max(size, 128)))[:size]
