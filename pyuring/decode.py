"""decode.py - an SQE or a CQE, field by field: the raw bytes, and what they mean for this opcode.

Which field means what for which opcode stands in abi.OPCODES, in the column `fields`; this file reads it
there, spells numbers and flags out by the names of abi.py, and follows pointers to what they point to
(a sockaddr, a timespec, a path, ...). Nothing here is needed to work a ring: watch.py prints with it.

    decode.sqe(raw).lines()         a table, one line a field
    decode.sqe(raw).brief()         the same in one line
    decode.cqe(raw, opcode)         the answer; by the opcode of its request `res` means more

Skim the opcode table at the end of abi.py first; read next: watch.py.
"""
from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
from collections import namedtuple

from . import abi, sockaddr, syscalls
from .messages import MSGHDR

# (name, offset, struct format), as in abi.SQE.
_FIELDS = (("opcode", 0, "B"), ("flags", 1, "B"), ("ioprio", 2, "H"), ("fd", 4, "i"), ("off", 8, "Q"),
           ("addr", 16, "Q"), ("len", 24, "I"), ("op_flags", 28, "I"), ("user_data", 32, "Q"),
           ("buf_index", 40, "H"), ("personality", 42, "H"), ("file_index", 44, "I"), ("addr3", 48, "Q"),
           ("pad2", 56, "Q"))
_UNREAD = "this opcode does not read it"
_ALWAYS = ("opcode", "flags", "user_data")
_ONLY_IF_ANY = ("flags", "ioprio", "buf_index", "personality", "file_index", "op_flags", "pad2")  # in one line
# Names in the table's `fields` that are another view of a field.
_VIEWS = {"slot": "file_index", "buf_group": "buf_index", "addr_len": "file_index", "cmd_op": "off"}

# What the header calls op_flags, a union, for these opcodes.
_UNION = {name: member for member, names in (
    ("rw_flags", "readv writev read_fixed write_fixed read write readv_fixed writev_fixed"),
    ("fsync_flags", "fsync"), ("poll32_events", "poll_add poll_remove"), ("nop_flags", "nop nop128"),
    ("sync_range_flags", "sync_file_range"), ("msg_flags", "sendmsg recvmsg send recv send_zc sendmsg_zc"),
    ("timeout_flags", "timeout timeout_remove link_timeout"), ("accept_flags", "accept"),
    ("cancel_flags", "async_cancel"), ("open_flags", "openat"), ("statx_flags", "statx"),
    ("fadvise_advice", "fadvise madvise"), ("splice_flags", "splice tee"), ("rename_flags", "renameat"),
    ("unlink_flags", "unlinkat"), ("hardlink_flags", "linkat"), ("msg_ring_flags", "msg_ring"),
    ("xattr_flags", "fsetxattr setxattr"), ("uring_cmd_flags", "uring_cmd uring_cmd128"),
    ("install_fd_flags", "fixed_fd_install"), ("pipe_flags", "pipe")) for name in names.split()}

# -- names of numbers ----------------------------------------------------------------------------------
_SHUT = {0: "SHUT_RD", 1: "SHUT_WR", 2: "SHUT_RDWR"}
_IDTYPES = {0: "P_ALL", 1: "P_PID", 2: "P_PGID", 3: "P_PIDFD"}              # waitid(2)
_WAITS = ((1, "WNOHANG"), (2, "WSTOPPED"), (4, "WEXITED"), (8, "WCONTINUED"), (1 << 24, "WNOWAIT"))
_RENAMES = ((1, "RENAME_NOREPLACE"), (2, "RENAME_EXCHANGE"), (4, "RENAME_WHITEOUT"))    # renameat2(2)
_ATS = ((0x100, "AT_SYMLINK_NOFOLLOW"), (0x200, "AT_REMOVEDIR"), (0x400, "AT_SYMLINK_FOLLOW"),
        (0x800, "AT_NO_AUTOMOUNT"), (0x1000, "AT_EMPTY_PATH"), (0x2000, "AT_STATX_FORCE_SYNC"),
        (0x4000, "AT_STATX_DONT_SYNC"))                                     # linux/fcntl.h
_RANGES = ((1, "SYNC_FILE_RANGE_WAIT_BEFORE"), (2, "SYNC_FILE_RANGE_WRITE"), (4, "SYNC_FILE_RANGE_WAIT_AFTER"))
_XATTRS = ((1, "XATTR_CREATE"), (2, "XATTR_REPLACE"))                       # setxattr(2)
_RWFS = ((1, "RWF_HIPRI"), (2, "RWF_DSYNC"), (4, "RWF_SYNC"), (8, "RWF_NOWAIT"), (16, "RWF_APPEND"),
         (32, "RWF_NOAPPEND"), (64, "RWF_ATOMIC"), (128, "RWF_DONTCACHE"))  # linux/fs.h
_SPLICES = ((1, "SPLICE_F_MOVE"), (2, "SPLICE_F_NONBLOCK"), (4, "SPLICE_F_MORE"), (8, "SPLICE_F_GIFT"),
            (abi.SPLICE_F_FD_IN_FIXED, "SPLICE_F_FD_IN_FIXED"))
_AT_FDCWD = -100


def _single(names, prefix):
    """(bit, name) of what begins with a prefix, without masks of several bits."""
    found = {}
    for name, value in names.items():
        if name.startswith(prefix) and isinstance(value, int) and value > 0 and not value & (value - 1):
            found.setdefault(int(value), name)
    return tuple(found.items())


def _of_abi(*prefixes, without=()):
    """The flags of abi.py that begin with one of the prefixes."""
    return tuple(pair for prefix in prefixes for pair in _single(vars(abi), prefix)
                 if not pair[1].startswith(without) and not pair[1].endswith("_SHIFT"))


_known_flags: dict = {}


def _flags_of(meaning):
    """(bit, name), ... for flags that the table describes as `meaning`; None where it names no flags."""
    if meaning not in _known_flags:
        _known_flags[meaning] = _find_flags(meaning)
    return _known_flags[meaning]


def _find_flags(meaning):
    if "MSG_*" in meaning and "IORING" not in meaning:
        return _single(vars(socket), "MSG_")
    if "SOCK_*" in meaning:
        return tuple(pair for pair in _single(vars(socket), "SOCK_") if pair[0] > 15)
    if meaning == "events":
        return _single(vars(select), "POLL") + tuple(
            pair for pair in _single(vars(select), "EPOLL") if pair[0] > 0x2000)
    for word, flags in (("RWF_*", _RWFS), ("AT_", _ATS), ("RENAME_*", _RENAMES), ("W* options", _WAITS),
                        ("SYNC_FILE_RANGE_*", _RANGES), ("XATTR_*", _XATTRS), ("SPLICE_F_*", _SPLICES)):
        if meaning.startswith(word):
            return flags
    if meaning == "O_*":
        return _single(vars(os), "O_")
    if meaning == "FUTEX2_*":
        return (2, "FUTEX2_SIZE_U32"), *_of_abi("FUTEX2_", without=("FUTEX2_SIZE",))
    if "IORING_" in meaning:
        prefixes = [word.rstrip("*") for word in meaning.split() if word.startswith("IORING_")]
        if "IORING_TIMEOUT_" in prefixes:
            prefixes.append("IORING_LINK_TIMEOUT_")
        return _of_abi(*prefixes)
    return None


def _numbers_of(meaning):
    """{value: name} for an enumeration that the table describes as `meaning`; None for other meanings."""
    if meaning == "IORING_MSG_*":
        return {abi.IORING_MSG_DATA: "IORING_MSG_DATA", abi.IORING_MSG_SEND_FD: "IORING_MSG_SEND_FD"}
    if meaning == "SHUT_*":
        return _SHUT
    if meaning == "P_*":
        return _IDTYPES
    if meaning == "domain":
        return {int(value): name for name, value in vars(socket).items() if name.startswith("AF_")}
    if meaning == "EPOLL_CTL_*":
        return dict(_numbers(vars(abi), "EPOLL_CTL_"))
    if meaning == "POSIX_FADV_*":
        return dict(_numbers(vars(os), "POSIX_FADV_"))
    if meaning == "MADV_*":
        import mmap
        return dict(_numbers(vars(mmap), "MADV_"))
    return None


def _numbers(names, prefix):
    return [(value, name) for name, value in names.items() if name.startswith(prefix)]


def spelled(value: int, flags: tuple) -> str:
    """`value` by the names of its bits, (bit, name) in `flags`; what has no name stays a number."""
    names = [name for bit, name in flags if value & bit == bit]
    left = value
    for bit, _ in flags:
        left &= ~bit
    if left or not names:
        names.append(f"{left:#x}" if left else "0")
    return " | ".join(names)


_SQE_FLAGS = _of_abi("IOSQE_")
_CQE_FLAGS = _of_abi("IORING_CQE_F_", without=("IORING_CQE_F_TSTAMP",))
_ENTER_FLAGS = _of_abi("IORING_ENTER_")


def enter_flags(flags: int) -> str:
    """The flags of io_uring_enter(2) by their names."""
    return spelled(flags, _ENTER_FLAGS)


def errno_text(res: int) -> str:
    """A negative result in words: '-ECONNREFUSED (Connection refused)'."""
    return f"-{errno.errorcode.get(-res, -res)} ({os.strerror(-res)})"


# -- entries -------------------------------------------------------------------------------------------
class Field(namedtuple("Field", "name at raw value text meaning pointed", defaults=(b"",))):
    """One field.

    name, at   its name, and its offset in bytes
    raw        its bytes; `value` the number in them, `text` that spelled out
    meaning    what the opcode reads it as; "" where the name says it
    pointed    the bytes that it points to, as far as they were looked at; b"" where it is no pointer
    """

    __slots__ = ()


def _counts(field):
    """Whether a field has something to say in one line, where there is little room."""
    if field.name == "opcode" or field.name == "fd" and field.value == -1:
        return False
    return field.value or not (field.name in _ONLY_IF_ANY or field.name in _UNION.values()
                               or "sockaddr" in field.meaning or field.meaning == "result to inject")


class Entry(namedtuple("Entry", "kind name user_data raw fields zero")):
    """A decoded SQE or CQE.

    kind     "SQE" or "CQE"
    name     of an SQE: its opcode, "CONNECT"; of a CQE: that of its request, or ""
    raw      all of its bytes
    fields   the Fields that count: those that the opcode reads, and others that are not 0
    zero     names of the rest, all 0
    """

    __slots__ = ()

    def brief(self) -> str:
        """In one line."""
        words = [self.name] if self.name else []
        for field in self.fields:
            if _counts(field):
                words.append(f"{field.name}={field.text.replace(' | ', '|')}")
        return " ".join(words)

    def lines(self) -> list[str]:
        """A table: offset, bytes, name, value in words, and what the field means here."""
        lines = []
        for field in self.fields:
            rows = [field.raw[at:at + 8].hex(" ") for at in range(0, len(field.raw), 8)]
            meaning = f"   ({field.meaning})" if field.meaning else ""
            lines.append(f"{field.at:>3}  {rows[0]:<23}  {field.name:<13} {field.text}{meaning}")
            lines += [f"{'':>3}  {row}" for row in rows[1:]]
            for at in range(0, len(field.pointed), 8):
                row = field.pointed[at:at + 8].hex(" ")
                lines.append(f"{'':>3}  {row:<23}    points to" if not at else f"{'':>3}  {row}")
        if self.zero:
            lines.append(f"{'':>3}  {'all 0':<23}  {' '.join(self.zero)}")
        return lines

    def as_dict(self) -> dict:
        """For json: numbers, bytes in hex, and the words beside them."""
        return {"name": self.name, "raw": self.raw.hex(), "fields": [
            {"name": field.name, "at": field.at, "raw": field.raw.hex(), "value": field.value,
             "text": field.text, "meaning": field.meaning, "pointed": field.pointed.hex()}
            for field in self.fields]}


_known_meanings: dict = {}


def meanings(opcode: int) -> dict[str, str]:
    """What this opcode reads from which field: {field: what the table says of it, or ""}.

    {} for an opcode that abi.OPCODES does not have.
    """
    if opcode in _known_meanings:
        return _known_meanings[opcode]
    found: dict[str, str] = {}
    if 0 <= opcode < len(abi.OPCODES):
        import re
        text = abi.OPCODES[opcode].fields
        same = re.match(r"as (\w+), ", text)            # "as readv, with ..."
        if same:
            found.update(meanings([row.name for row in abi.OPCODES].index(same.group(1))))
        names = "|".join([name for name, _, _ in _FIELDS] + list(_VIEWS))
        for match in re.finditer(rf"\b({names})\b(?:=((?:\([^)]*\)|[^,;(])*))?", text):
            name, meaning = match.group(1), (match.group(2) or "").partition("(")[0].strip()
            if name in _VIEWS:
                name, meaning = _VIEWS[name], meaning or name
            if not found.get(name):
                found[name] = meaning
    _known_meanings[opcode] = found
    return found


def sqe(raw: bytes, follow: bool = True) -> Entry:
    """Decode an SQE of 64 or 128 bytes.

    follow   read what it points to, out of this process's memory. True only while that memory is there, as
             it is before the SQE is submitted; a pointer that leads nowhere is told and does no harm
    io_uring_enter(2).
    """
    raw = bytes(raw)
    if len(raw) not in (64, 128):
        raise ValueError(f"{len(raw)} bytes are no SQE: it has 64, or 128")
    values = dict(zip((name for name, _, _ in _FIELDS), abi.SQE.unpack_from(raw)))
    opcode = values["opcode"]
    known = 0 <= opcode < len(abi.OPCODES)
    name = abi.OPCODES[opcode].name if known else f"op{opcode}"
    reads = meanings(opcode)
    fields, zero = [], []
    command = name.startswith("uring_cmd")
    for field, at, format in _FIELDS:
        value = values[field]
        if command and field in ("addr3", "pad2"):
            continue
        unread = field not in reads or reads[field] == "buf_group" and not values["flags"] & abi.IOSQE_BUFFER_SELECT
        if value == 0 and unread and field not in _ALWAYS:
            zero.append(field)
            continue
        meaning = reads.get(field, "")
        pointed = None
        if follow and field in ("addr", "off", "addr3"):
            pointed = _pointed(field, value, meaning, name, values)
        text, pointed = pointed or (_text(field, value, meaning, name, values), b"")
        if known and field not in reads and field not in _ALWAYS + ("ioprio", "personality"):
            meaning = _UNREAD
        shown = _UNION.get(name, field) if field == "op_flags" else field
        if meaning == "1":
            meaning = "always 1"
        if field == "buf_index" and (meaning == "buf_group" or values["flags"] & abi.IOSQE_BUFFER_SELECT):
            shown, meaning = "buf_group", ""
        size = struct.calcsize("=" + format)
        fields.append(Field(shown, at, raw[at:at + size], value, text, meaning, pointed))
    if command or len(raw) == 128 and any(raw[64:]):
        at = 48 if command else 64
        data = raw[at:] if len(raw) == 128 else raw[at:64]
        fields.append(Field("cmd" if command else "second half", at, data, int.from_bytes(data, sys.byteorder),
                            f"{len(data)} bytes for the file" if command else f"{len(data)} bytes", ""))
    return Entry("SQE", name.upper(), values["user_data"], raw, tuple(fields), tuple(zero))


def _text(field, value, meaning, name, values):
    """One number in words."""
    if field == "opcode":
        return f"{value} IORING_OP_{name.upper()}" if value < len(abi.OPCODES) else f"{value}, not in the table"
    if field == "flags":
        return spelled(value, _SQE_FLAGS)
    if field == "user_data":
        return _number(value)
    if field == "off" and meaning == "cmd_op":
        return f"cmd_op {value & 0xffffffff:#x}"
    if field == "file_index":
        return _file_index(value, meaning, name)
    if field == "op_flags" and meaning.endswith("events") or meaning.startswith("events"):
        if sys.byteorder == "big":                  # the two halves are swapped: io_uring_enter(2)
            value = value >> 16 | (value & 0xffff) << 16
        return spelled(value, _flags_of("events"))
    if field == "fd":
        return _fd(value, meaning, values["flags"])
    names = _numbers_of(meaning)
    if names is not None:
        return f"{names[value]} ({value})" if value in names else _number(value)
    if meaning == "type":
        kinds = {int(kind): label for label, kind in vars(socket).items()
                 if label.startswith("SOCK_") and int(kind) < 16}
        flags = value & ~15
        return kinds.get(value & 15, str(value & 15)) + (f" | {spelled(flags, _flags_of('SOCK_*'))}"
                                                          if flags else "")
    flags = _flags_of(meaning)
    if flags is not None:
        if meaning == "O_*" and name != "pipe":
            access = ("O_RDONLY", "O_WRONLY", "O_RDWR", "3")[value & 3]
            return access + (f" | {spelled(value & ~3, flags)}" if value & ~3 else "")
        return spelled(value, flags)
    if "mode" == meaning:
        return f"{value:#o}"
    if field == "off" and value == 0xffffffffffffffff:
        return "-1, the file's own position" if meaning == "position" else "-1"
    return _number(value)


def _number(value):
    return str(value) if value < 1 << 20 else f"{value:#x}"


def _fd(value, meaning, flags):
    if meaning in ("directory", "old directory") and value == _AT_FDCWD:
        return "AT_FDCWD (-100)"
    names = _numbers_of(meaning) or {}
    if value in names:
        return f"{names[value]} ({value})"
    if meaning == "FUTEX2_*":
        return spelled(value, _flags_of(meaning))
    if flags & abi.IOSQE_FIXED_FILE:
        return f"{value}, a slot of the registered files"
    return str(value)


def _file_index(value, meaning, name):
    if meaning == "addr_len":
        return str(value & 0xffff)
    if meaning.startswith("slot") or meaning == "":
        if value == abi.IORING_FILE_INDEX_ALLOC:
            return "IORING_FILE_INDEX_ALLOC, the kernel chooses the slot"
        return f"{value}: slot {value - 1}" if value else "0, a normal fd"
    if name == "waitid":
        return spelled(value, _WAITS)
    return str(value if value < 1 << 31 else value - (1 << 32))


# -- what pointers lead to -----------------------------------------------------------------------------
_PATHS = ("path", "old path", "new path", "path of the link", "target", "name")
_SENT = ("write", "send", "send_zc")                # opcodes whose buffer is full when they are submitted
_ADDRESSES = ("buffer", "memory", "siginfo", "statx", "value", "epoll_event", "epoll_event[]", "futex", "open_how",
              "int32[]", "int32[2] to fill", "futex_waitv[]", "address of its length")
_LONGEST_PATH, _MOST_BYTES, _MOST_IOVECS = 4096, 32, 4
_IOVEC = struct.Struct("@PN")


def _pointed(field, address, meaning, name, values):
    """What this pointer leads to: (in words, the bytes); None where the field is no pointer to follow."""
    if not address:
        return None
    found, raw = None, b""
    if meaning == "sockaddr" and name != "accept":      # accept's is the kernel's to write
        size = values["off"] if field == "addr" else values["file_index"] & 0xffff
        raw = syscalls.peek(address, min(size, 128))
        found = raw and _address(raw)
    elif meaning == "timespec":
        if values["op_flags"] & abi.IORING_TIMEOUT_IMMEDIATE_ARG:
            return f"{address} ns, no pointer (IORING_TIMEOUT_IMMEDIATE_ARG)", b""
        raw = syscalls.peek(address, abi.TIMESPEC.size)
        found = raw and len(raw) == abi.TIMESPEC.size and timespec_text(raw)
    elif meaning in _PATHS:
        raw = syscalls.peek(address, _LONGEST_PATH)
        if raw:
            raw = raw.partition(b"\0")[0]
            found = ascii(os.fsdecode(raw))
            raw = raw[:_MOST_BYTES]
    elif meaning == "iovec[]":
        found, raw = _iovecs(address, values["len"])
    elif meaning == "msghdr":
        found, raw = _msghdr(address)
    elif meaning == "buffer" and name in _SENT:
        raw = syscalls.peek(address, min(values["len"], _MOST_BYTES)) if values["len"] else b""
        found = raw is not None and repr(raw) + "..." * (values["len"] > len(raw))
    elif meaning in _ADDRESSES:
        return f"at {address:#x}", b""
    else:
        return None
    return (f"{found} at {address:#x}", raw) if found else (f"at {address:#x}, where nothing can be read", b"")


def _address(raw):
    family = int.from_bytes(raw[:2], sys.byteorder) if len(raw) >= 2 else 0
    names = _numbers_of("domain")
    return f"{names.get(family, family)} {sockaddr.format_address(sockaddr.SockAddr(raw))}"


def timespec_text(raw: bytes) -> str:
    """A struct __kernel_timespec in seconds."""
    seconds, nanoseconds = abi.TIMESPEC.unpack(raw)
    return f"{seconds}.{nanoseconds:09}".rstrip("0").rstrip(".") + " s"


def _iovecs(address, count):
    shown = min(count, _MOST_IOVECS)
    raw = syscalls.peek(address, _IOVEC.size * shown) if shown else b""
    if raw is None or len(raw) < _IOVEC.size * shown:
        return None, b""
    rows = [f"{size} bytes at {base:#x}" for base, size in _IOVEC.iter_unpack(raw)]
    return f"[{', '.join(rows)}{', ...' if count > shown else ''}]", raw


def _msghdr(address):
    raw = syscalls.peek(address, MSGHDR.size)
    if raw is None or len(raw) < MSGHDR.size:
        return None, b""
    name_at, name_size, iov, count, control, control_size, _ = MSGHDR.unpack(raw)
    parts = []
    if name_at and name_size:
        name = syscalls.peek(name_at, min(name_size, 128))
        parts.append(f"a name of {name_size} bytes" if not name or not any(name) else _address(name))
    parts.append(f"iov {_iovecs(iov, count)[0] if iov else '[]'}")
    if control and control_size:
        parts.append(f"{control_size} bytes of control data")
    return "; ".join(parts), raw


# -- the answer ----------------------------------------------------------------------------------------
_COUNTS = frozenset((   # opcodes whose res is a number of bytes
    "readv writev read_fixed write_fixed sendmsg recvmsg read write send recv splice tee send_zc sendmsg_zc "
    "read_multishot recv_zc readv_fixed writev_fixed fgetxattr getxattr").split())
_MAKES_FD = frozenset("accept openat openat2 socket fixed_fd_install".split())
_EXPECTED = {           # results below 0 that are no failure: (opcode, errno)
    ("timeout", errno.ETIME): "the time is over, as asked",
    ("link_timeout", errno.ETIME): "the time is over, and the request before it is cancelled",
    ("link_timeout", errno.ECANCELED): "the request before it ended in time",
    ("async_cancel", errno.ENOENT): "found nothing to cancel",
    ("async_cancel", errno.EALREADY): "found it under way, and asked it to stop",
}


def cqe(raw: bytes, opcode: int | None = None) -> Entry:
    """Decode a CQE of 16 or 32 bytes.

    opcode   of the request that it answers, if that is known: a CQE does not say
    io_uring_enter(2).
    """
    raw = bytes(raw)
    if len(raw) not in (16, 32):
        raise ValueError(f"{len(raw)} bytes are no CQE: it has 16, or 32")
    user_data, res, flags = abi.CQE.unpack_from(raw)
    name = ""
    if opcode is not None:
        name = abi.OPCODES[opcode].name if 0 <= opcode < len(abi.OPCODES) else f"op{opcode}"
    # The upper half of the flags is the buffer's ID; TX_TIMESTAMP puts something else there.
    text = spelled(flags & 0xffff, _CQE_FLAGS)
    if flags & abi.IORING_CQE_F_BUFFER:
        text += f", buffer ID {flags >> abi.IORING_CQE_BUFFER_SHIFT}"
    elif flags >> 16:
        text += f", {flags >> 16:#x} << 16"
    fields = [Field("user_data", 0, raw[:8], user_data, _number(user_data), ""),
              Field("res", 8, raw[8:12], res, _res(res, name, flags), ""),
              Field("flags", 12, raw[12:16], flags, text, "")]
    if len(raw) == 32:
        for at, half in zip((16, 24), struct.unpack_from("=QQ", raw, 16)):
            fields.append(Field(f"big_cqe[{(at - 16) // 8}]", at, raw[at:at + 8], half, _number(half), ""))
    return Entry("CQE", name.upper(), user_data, raw, tuple(fields), ())


def _res(res, name, flags):
    if flags & abi.IORING_CQE_F_NOTIF:
        copied = res & abi.IORING_NOTIF_USAGE_ZC_COPIED
        return f"{res}, the buffer is free{' (it was copied after all)' if copied else ''}"
    if res < 0:
        meant = _EXPECTED.get((name, -res))
        return errno_text(res) + (f", {meant}" if meant else "")
    if name == "poll_add":
        return f"{res}: {spelled(res, _flags_of('events'))}"
    if name in _COUNTS:
        return f"{res} byte{'s' * (res != 1)}"
    if name in _MAKES_FD:
        return f"{res}, a file descriptor" if res else "0, in its slot"
    return str(res)
