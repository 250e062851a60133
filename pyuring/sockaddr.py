"""Python addresses to and from `struct sockaddr`, the bytes that connect(2) and bind(2) read.

The socket module does this translation in C and keeps the result to itself. An SQE wants the bytes,
so here they are made by hand, to the same shapes (ip(7), ipv6(7), unix(7); sizes in bytes):

    sockaddr_in   16     family u16 | port u16 | address 4 | zeros 8
    sockaddr_in6  28     family u16 | port u16 | flowinfo u32 | address 16 | scope_id u32
    sockaddr_un   2-110  family u16 | a path and its NUL, or NUL and an abstract name, or nothing

Family and scope_id are in this machine's byte order; port, flowinfo and address in the network's.
Leans on nothing else in the package. Read beside it: prep.py, where an SQE is given such bytes.
"""
from __future__ import annotations

import os
import socket
from operator import index
from socket import getaddrinfo, htonl, htons, inet_ntop, inet_pton, ntohl, ntohs
from struct import Struct

_INET, _INET6, _UNIX = int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_UNIX)
_FAMILY, _IN, _IN6 = Struct("=H"), Struct("=HH4s8x"), Struct("=HHI16sI")
assert _IN.size == 16
assert _IN6.size == 28
_SUN_PATH_BYTES = 108

UNSPEC = bytes(16)  # AF_UNSPEC is 0; connect(2) with it dissolves the association

_FORMS = {_INET: "a tuple (host, port)", _INET6: "a tuple (host, port[, flowinfo[, scope_id]])",
          _UNIX: "a path (str, bytes, os.PathLike) or an abstract name such as b'\\0name'"}
_TARGETS = "write host:port, [v6]:port, unix:/path or unix:@name"


class SockAddr:
    """An already packed `struct sockaddr`: any family, any length, for the kernel to judge.

    raw  bytes-like, copied: the buffer may change later. TypeError for anything else
    """

    __slots__ = ("raw",)
    raw: bytes

    def __init__(self, raw: bytes) -> None:
        if type(raw) is not bytes:
            raw = _buffer_bytes(raw, "SockAddr", "the bytes of a struct sockaddr")
        object.__setattr__(self, "raw", raw)

    @property
    def family(self) -> int:
        """The u16 at the front, or AF_UNSPEC (0) where there are not even two bytes."""
        return _FAMILY.unpack_from(self.raw)[0] if len(self.raw) >= 2 else 0

    def __setattr__(self, name: str, value: object = None) -> None:
        raise AttributeError(f"SockAddr is immutable, {name!r} included; make a new SockAddr(raw)")

    __delattr__ = __setattr__

    def __reduce__(self) -> tuple:
        return type(self), (self.raw,)  # copy and pickle would otherwise go through __setattr__

    def __bytes__(self) -> bytes:
        return self.raw

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, SockAddr) else NotImplemented

    def __hash__(self) -> int:
        return hash((SockAddr, self.raw))

    def __repr__(self) -> str:
        address, size = unpack(self.raw), f"{len(self.raw)} bytes"
        if not isinstance(address, SockAddr):
            return f"SockAddr({format_address(address)}, {size})"
        more = "..." if len(self.raw) > 32 else ""
        return f"SockAddr({_family_name(self.family)}, {size}: {self.raw[:32].hex()}{more})"


def pack_inet(host: object, port: object, *, resolve: bool = False) -> bytes:
    """pack(AF_INET, (host, port)), for who knows that it is that."""
    if type(port) is not int or not 0 <= port <= 0xFFFF:  # first: a bad port needs no resolver
        port = _number("port", port, 0xFFFF)
    try:
        packed = inet_pton(_INET, host)
    except (OSError, ValueError, TypeError):
        packed, _ = _look_up(_INET, host, resolve)
    return _IN.pack(_INET, htons(port), packed)


def pack(family: int, address: object, *, resolve: bool = True) -> bytes:
    """The `struct sockaddr` for an address as socket.connect takes it for that family.

    AF_INET   (host, port): 16 bytes
    AF_INET6  (host, port[, flowinfo 0..0xfffff[, scope_id u32]]): 28 bytes
    AF_UNIX   path as str, bytes-like or os.PathLike, at most 107 bytes; a NUL is added. An abstract
              name starts with NUL, at most 108 bytes with it; none is added. An empty path is the
              family alone (bind picks a name, connect says EINVAL)
    SockAddr  its raw bytes, whatever the family
    host      str, bytes or bytearray; '' is the any address, '<broadcast>' 255.255.255.255
    resolve   True: a name goes to getaddrinfo(3), which may block. False: ValueError instead
    errors    TypeError: wrong shape. ValueError: wrong value. socket.gaierror: the resolver's no

    Unlike socket.connect, the zone of 'fe80::1%eth0' survives: it is the scope_id where that is 0
    or absent. (CPython looks the zone up and then stores its own 0 over it.)

    ip(7), ipv6(7), unix(7).
    """
    if isinstance(address, SockAddr):
        return address.raw
    if family == _INET and isinstance(address, tuple) and len(address) == 2:
        return pack_inet(*address, resolve=resolve)
    if family == _INET6 and isinstance(address, tuple) and 2 <= len(address) <= 4:
        host, port, flowinfo, scope_id = address + (0, 0)[len(address) - 2:]
        port, flowinfo = _number("port", port, 0xFFFF), _number("flowinfo", flowinfo, 0xFFFFF)
        scope_id, zone = _number("scope_id", scope_id, 0xFFFFFFFF), 0
        try:
            packed = inet_pton(_INET6, host)
        except (OSError, ValueError, TypeError):
            packed, zone = _look_up(_INET6, host, resolve)
        return _IN6.pack(_INET6, htons(port), htonl(flowinfo), packed, scope_id or zone)
    if family == _UNIX:
        return _FAMILY.pack(_UNIX) + _sun_path(address)
    if family in (_INET, _INET6):
        raise TypeError(f"{_family_name(family)} address {_show(address)} has the wrong shape; "
                        f"give {_FORMS[family]}")
    raise ValueError(f"{_family_name(family)} address {_show(address)}: pyuring packs AF_INET, AF_INET6 and "
                     "AF_UNIX; give any other family as SockAddr(raw bytes of its struct sockaddr)")


def guess_family(address: object) -> int:
    """The family that an address looks like, for those who have no socket to ask.

    AF_UNIX for a str, bytes or path; AF_INET6 for a tuple whose host has a colon or that is longer
    than two; AF_INET for other tuples; a SockAddr's own
    """
    if isinstance(address, SockAddr):
        return address.family
    if isinstance(address, tuple):
        colon = ":" if address and isinstance(address[0], str) else b":"
        try:
            return _INET6 if len(address) > 2 or colon in address[0] else _INET
        except (TypeError, IndexError):
            return _INET  # pack() has the message for it
    return _UNIX


def unpack(raw: bytes | SockAddr) -> tuple | str | bytes | SockAddr:
    """The address in a `struct sockaddr`, in the form that socket.getpeername() gives.

    AF_INET   (host, port)
    AF_INET6  (host, port, flowinfo, scope_id)
    AF_UNIX   str for a path ('' when unnamed), bytes for an abstract name
    others    SockAddr(raw), as for an AF_INET or AF_INET6 cut short; bytes beyond the end are ignored
    """
    raw = raw.raw if isinstance(raw, SockAddr) else _buffer_bytes(raw, "unpack", "bytes or a SockAddr")
    family = _FAMILY.unpack_from(raw)[0] if len(raw) >= 2 else 0
    if family == _INET and len(raw) >= _IN.size:
        _, port, packed = _IN.unpack_from(raw)
        return inet_ntop(_INET, packed), ntohs(port)
    if family == _INET6 and len(raw) >= _IN6.size:
        _, port, flowinfo, packed, scope_id = _IN6.unpack_from(raw)
        return inet_ntop(_INET6, packed), ntohs(port), ntohl(flowinfo), scope_id
    if family == _UNIX:  # a path ends at its NUL or at the end: unix(7), a full sun_path may have none
        return raw[2:] if raw[2:3] == b"\0" else os.fsdecode(raw[2:].partition(b"\0")[0])
    return SockAddr(raw)


def format_address(address: object) -> str:
    """One printable line for messages: 127.0.0.1:80, [::1]:80, unix:/path, unix:@name. Never raises."""
    try:
        if isinstance(address, SockAddr):
            address = unpack(address)  # itself again when the family is unknown: repr, below
        if isinstance(address, tuple) and 2 <= len(address) <= 4:
            host = address[0] if isinstance(address[0], str) else address[0].decode("utf-8", "backslashreplace")
            zone = f"%{address[3]}" if address[3:] not in ((), (0,)) and "%" not in host else ""
            return _one_line(f"[{host}{zone}]:{address[1]}" if ":" in host else f"{host}:{address[1]}")
        if isinstance(address, (str, bytes, bytearray, memoryview, os.PathLike)):
            path = bytes(address) if isinstance(address, (bytearray, memoryview)) else os.fsencode(address)
            path = b"@" + path[1:] if path[:1] == b"\0" else b"./" + path if path[:1] == b"@" else path
            return _one_line("unix:" + (path.decode("utf-8", "backslashreplace") or "(unnamed)"))
    except Exception:  # a message about an error must not become the error
        pass
    return _show(address)


def check_port(port: object) -> int:
    """`port` as an int, if it is one of 0..65535; TypeError or ValueError if not."""
    return _number("port", port, 0xFFFF)


def split_target(target: str) -> tuple[int | None, tuple[str, int] | str | bytes]:
    """One target of the command line as (family, address); None where the host decides the family.

    host:port    (None, (host, port)), and so is [v6]:port
    unix:/path   (AF_UNIX, "/path")
    unix:@name   (AF_UNIX, b"\\0name"), abstract
    errors       ValueError, with what to write instead
    """
    shown = f"target {_show(target)}"
    if not isinstance(target, str):
        raise TypeError(f"{shown} is not a str; {_TARGETS}")
    if "\0" in target:
        raise ValueError(f"{shown} has a NUL byte in it; leave it out (an abstract name is unix:@name)")
    if target.startswith("unix:"):
        path = target[5:]
        if path in ("", "@"):
            raise ValueError(f"{shown} names no unix socket; write unix:/path or unix:@name")
        return socket.AF_UNIX, b"\0" + os.fsencode(path[1:]) if path[0] == "@" else path
    host, _, port = target.rpartition(":")
    if _is_numeric(_INET6, host) or _is_numeric(_INET6, target):
        right = f"[{host}]:{port or 80}" if _is_numeric(_INET6, host) else f"[{target}]:80"
        raise ValueError(f"{shown}: an IPv6 address goes in brackets, before a port; write {_one_line(right)}")
    if not port or port.endswith("]") or ":" not in target:
        raise ValueError(f"{shown} has no port; {_TARGETS}")
    if host in ("", "[]"):
        raise ValueError(f"{shown} has no host; {_TARGETS} (this machine is 127.0.0.1 or [::1])")
    if host[0] == "[":
        if host[-1] != "]" or not _is_numeric(_INET6, host[1:-1]):
            raise ValueError(f"{shown}: brackets are for an IPv6 address and close before the port; {_TARGETS}")
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{shown} has too many colons; {_TARGETS}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF):
        raise ValueError(f"{shown}: port {_show(port)} is not a number in 0..65535; write digits, such as 80")
    return None, (host, int(port))


def _look_up(family: int, host: object, resolve: bool) -> tuple[bytes, int]:
    """What a plain inet_pton would not take: (packed address, zone as a scope_id or 0)."""
    if not isinstance(host, (str, bytes, bytearray)):
        raise TypeError(f"host {_show(host)} is not a str, bytes or bytearray; give a name or a numeric address")
    what, text = f"host {_show(host)}", host if isinstance(host, str) else host.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{what} has a NUL byte in it; give a name or a numeric address")
    if text == "":
        return bytes(4 if family == _INET else 16), 0
    if text == "<broadcast>":
        if family == _INET:
            return b"\xff" * 4, 0
        raise ValueError(f"{what}: IPv6 has no broadcast; use a multicast address such as 'ff02::1'")
    if family == _INET and _is_numeric(_INET6, text):
        raise ValueError(f"{what} is an IPv6 address, the family is AF_INET; use an AF_INET6 socket")
    if family == _INET6 and _is_numeric(_INET, text):  # socket.connect refuses too: EAI_ADDRFAMILY
        raise ValueError(f"{what} is an IPv4 address, the family is AF_INET6; use AF_INET or '::ffff:{text}'")
    try:  # bytes and ASCII go as they are, as in CPython: the idna codec costs an import
        name = bytes(host) if text is not host else host.encode("ascii" if host.isascii() else "idna")
    except UnicodeError as error:
        raise ValueError(f"{what} has no IDNA form; check it, or give the xn-- name itself") from error
    try:
        flags = 0 if resolve else socket.AI_NUMERICHOST  # still takes a zone, which needs no resolver
        found = getaddrinfo(name, None, family, socket.SOCK_DGRAM, 0, flags)[0][4]
    except socket.gaierror as error:
        if not resolve:
            raise ValueError(f"{what} is not a numeric {_family_name(family)} address and resolve is False; "
                             "resolve it first, with socket.getaddrinfo") from error
        raise socket.gaierror(error.errno, f"{what}: {error.strerror} ({_family_name(family)}); "
                              "check the name or give a numeric address") from error
    return inet_pton(family, found[0]), found[3] if family == _INET6 else 0


def _sun_path(address: object) -> bytes:
    """sun_path as it goes over: a path plus NUL, an abstract name as it is, or nothing."""
    try:
        named = isinstance(address, (str, os.PathLike))
        path = os.fsencode(address) if named else _buffer_bytes(address, "AF_UNIX address", _FORMS[_UNIX])
    except UnicodeError:
        why = "does not encode as a file name; give it as bytes"
    else:
        if path[:1] in (b"", b"\0"):
            if len(path) <= _SUN_PATH_BYTES:
                return path
            why = f"is {len(path)} bytes, the limit is 108 with the leading NUL; use a shorter name"
        elif b"\0" in path:
            why = "is a path with a NUL byte in it; leave it out (an abstract name starts with NUL)"
        elif len(path) < _SUN_PATH_BYTES:
            return path + b"\0"
        else:
            why = (f"is {len(path)} bytes, the limit is 107; use a shorter path: a relative one after chdir, "
                   "or /proc/self/fd/N/name with fd N on the directory")
    raise ValueError(f"AF_UNIX address {_show(address)} {why}")


def _number(what: str, value: object, most: int) -> int:
    try:
        number = index(value)  # as CPython: neither 80.0 nor "80"; True is 1
    except TypeError:
        raise TypeError(f"{what} {_show(value)} is not an integer; give one in 0..{most}") from None
    if 0 <= number <= most:
        return number
    raise ValueError(f"{what} {_show(value)} is outside 0..{most}; give one inside")


def _is_numeric(family: int, text: str) -> bool:
    try:
        return bool(inet_pton(family, text.partition("%")[0]))
    except (OSError, ValueError):
        return False


def _buffer_bytes(value: object, who: str, form: str) -> bytes:
    try:
        return bytes(memoryview(value))  # memoryview first: bytes(5) would be five zeros
    except TypeError:
        raise TypeError(f"{who} {_show(value)} is {type(value).__name__}; give {form}") from None


def _family_name(family: object) -> str:
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"family {_show(family)}"


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _show(value: object) -> str:
    """repr as messages carry it: one printable line, 200 characters at most."""
    try:
        text = _one_line(repr(value))
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 200 else text[:197] + "..."
