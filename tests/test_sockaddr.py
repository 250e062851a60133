"""pyuring/sockaddr.py: exact bytes, round trips, the socket module as oracle, and what is refused.

The oracle tests hand our bytes to the C library's bind(2) and connect(2) and ask the kernel what it
understood. Loopback only, and no name but localhost.
"""
import copy
import ctypes
import os
import pathlib
import pickle
import random
import socket
import subprocess
import sys

import pytest

from pyuring import sockaddr
from pyuring.sockaddr import UNSPEC, SockAddr, format_address, pack, split_target, unpack

INET, INET6, UNIX, NETLINK = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK
LIBC = ctypes.CDLL(None, use_errno=True)


def u16(value):
    return value.to_bytes(2, sys.byteorder)


def u32(value):
    return value.to_bytes(4, sys.byteorder)


V6_ONE = bytes(15) + b"\1"
V4_ZERO, V6_ZERO = bytes(4), bytes(16)


# ---- exact bytes ------------------------------------------------------------------------------------

@pytest.mark.parametrize("address, port, packed", [
    (("127.0.0.1", 80), b"\0\x50", b"\x7f\0\0\1"),
    (("1.2.3.4", 65535), b"\xff\xff", b"\1\2\3\4"),
    (("", 0), b"\0\0", V4_ZERO),
    ((b"", 1), b"\0\1", V4_ZERO),
    (("<broadcast>", 0x1234), b"\x12\x34", b"\xff" * 4),
    ((b"<broadcast>", 0), b"\0\0", b"\xff" * 4),
    ((b"127.0.0.1", 0), b"\0\0", b"\x7f\0\0\1"),
    ((bytearray(b"127.0.0.1"), 0), b"\0\0", b"\x7f\0\0\1"),
    (("127.1", 0), b"\0\0", b"\x7f\0\0\1"),
    (("127.0.0.1", True), b"\0\1", b"\x7f\0\0\1"),
])
def test_inet_is_family_port_address_and_eight_zeros(address, port, packed):
    assert pack(INET, address) == u16(2) + port + packed + bytes(8)


@pytest.mark.parametrize("address, port, flowinfo, packed, scope_id", [
    (("::1", 80), b"\0\x50", bytes(4), V6_ONE, 0),
    (("::1", 80, 0x12345), b"\0\x50", b"\0\1\x23\x45", V6_ONE, 0),
    (("::1", 80, 0xFFFFF, 7), b"\0\x50", b"\0\x0f\xff\xff", V6_ONE, 7),
    (("fe80::1", 0, 0, 0xFFFFFFFF), b"\0\0", bytes(4), b"\xfe\x80" + bytes(13) + b"\1", 0xFFFFFFFF),
    (("", 65535), b"\xff\xff", bytes(4), V6_ZERO, 0),
    ((b"::1", 1, 0, 2), b"\0\1", bytes(4), V6_ONE, 2),
    ((bytearray(b"::1"), 1), b"\0\1", bytes(4), V6_ONE, 0),
    (("::ffff:127.0.0.1", 0), b"\0\0", bytes(4), bytes(10) + b"\xff\xff\x7f\0\0\1", 0),
])
def test_inet6_is_family_port_flowinfo_address_and_scope_id(address, port, flowinfo, packed, scope_id):
    assert pack(INET6, address) == u16(10) + port + flowinfo + packed + u32(scope_id)


@pytest.mark.parametrize("address, rest", [
    ("/tmp/x", b"/tmp/x\0"),
    (b"/tmp/x", b"/tmp/x\0"),
    (bytearray(b"x"), b"x\0"),
    (memoryview(b"x"), b"x\0"),
    (pathlib.Path("/tmp/x"), b"/tmp/x\0"),
    ("/\udcff", b"/\xff\0"),
    ("@x", b"@x\0"),
    ("x" * 107, b"x" * 107 + b"\0"),
    ("\0name", b"\0name"),
    (b"\0a\0b\0", b"\0a\0b\0"),
    (memoryview(b"\0name"), b"\0name"),
    (b"\0", b"\0"),
    (b"\0" + b"x" * 107, b"\0" + b"x" * 107),
    ("", b""),
    (b"", b""),
])
def test_unix_path_gains_a_nul_and_an_abstract_name_does_not(address, rest):
    assert pack(UNIX, address) == u16(1) + rest


def test_unspec_is_sixteen_zeros():
    assert UNSPEC == bytes(16)


@pytest.mark.parametrize("family", [INET, INET6, UNIX, NETLINK, 0, 12345])
@pytest.mark.parametrize("raw", [b"", b"\1", UNSPEC, b"\xff" * 200])
def test_sockaddr_is_packed_untouched_whatever_the_family(family, raw):
    assert pack(family, SockAddr(raw)) == raw


def test_family_may_be_a_plain_int():
    assert pack(int(INET), ("127.0.0.1", 80)) == pack(INET, ("127.0.0.1", 80))


# ---- hosts that are not plain numbers -----------------------------------------------------------------

def test_a_name_is_resolved_in_the_family_asked_for():
    assert unpack(pack(INET, ("localhost", 80))) == ("127.0.0.1", 80)
    assert pack(INET, (b"localhost", 80)) == pack(INET, ("localhost", 80))


def test_numeric_hosts_never_reach_the_resolver(monkeypatch):
    def resolver(*args):
        raise AssertionError(f"getaddrinfo{args}")
    monkeypatch.setattr(sockaddr, "getaddrinfo", resolver)
    for family, host in [(INET, "127.0.0.1"), (INET, ""), (INET, "<broadcast>"), (INET6, "::1"), (INET6, "")]:
        pack(family, (host, 80))
    for family, host in [(INET, "::1"), (INET, b"::1"), (INET, "fe80::1%lo"), (INET6, "127.0.0.1"),
                         (INET6, b"127.0.0.1"), (INET6, "<broadcast>"), (INET, "a\0b")]:
        with pytest.raises(ValueError):
            pack(family, (host, 80))
    with pytest.raises(ValueError, match="70000"):  # a bad port is found before the name is asked for
        pack(INET, ("localhost", 70000))


def test_an_ascii_name_reaches_the_resolver_as_bytes_so_that_no_idna_codec_loads(monkeypatch):
    seen = []

    def resolver(*args):
        seen.append(args)
        return [(INET, socket.SOCK_DGRAM, 17, "", (host, 0)) for host in ("192.0.2.1", "192.0.2.2")]
    monkeypatch.setattr(sockaddr, "getaddrinfo", resolver)
    assert unpack(pack(INET, ("a.example", 80))) == ("192.0.2.1", 80)  # the first answer
    pack(INET, ("b\xfccher.example", 80))
    assert [args[0] for args in seen] == [b"a.example", b"xn--bcher-kva.example"]
    assert all(args[2] == INET for args in seen)


def test_the_resolvers_no_keeps_its_number_and_names_the_host(monkeypatch):
    def resolver(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr(sockaddr, "getaddrinfo", resolver)
    with pytest.raises(socket.gaierror) as caught:
        pack(INET, ("nowhere.example", 80))
    assert caught.value.errno == socket.EAI_NONAME
    assert "'nowhere.example'" in str(caught.value) and "numeric address" in str(caught.value)
    with pytest.raises(ValueError, match="'nowhere.example'.*resolve is False"):
        pack(INET, ("nowhere.example", 80), resolve=False)


def test_resolve_false_takes_numbers_and_refuses_names():
    assert pack(INET, ("127.0.0.1", 80), resolve=False) == pack(INET, ("127.0.0.1", 80))
    assert pack(INET, (b"127.0.0.1", 80), resolve=False) == pack(INET, ("127.0.0.1", 80))
    with pytest.raises(ValueError, match="'localhost'.*resolve is False.*getaddrinfo"):
        pack(INET, ("localhost", 80), resolve=False)


def test_a_zone_becomes_the_scope_id_and_an_explicit_scope_id_wins():
    lo = socket.if_nametoindex("lo")
    for resolve in (True, False):
        assert unpack(pack(INET6, ("fe80::1%lo", 80), resolve=resolve)) == ("fe80::1", 80, 0, lo)
        assert unpack(pack(INET6, (b"fe80::1%lo", 80, 3, 0), resolve=resolve)) == ("fe80::1", 80, 3, lo)
        assert unpack(pack(INET6, ("fe80::1%lo", 80, 0, 77), resolve=resolve)) == ("fe80::1", 80, 0, 77)


# ---- back again -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("raw, address", [
    (u16(2) + b"\0\x50\x7f\0\0\1" + bytes(8), ("127.0.0.1", 80)),
    (u16(2) + b"\0\x50\x7f\0\0\1" + bytes(120), ("127.0.0.1", 80)),
    (u16(10) + b"\0\x50" + b"\0\1\x23\x45" + V6_ONE + u32(7), ("::1", 80, 0x12345, 7)),
    (u16(1), ""),
    (u16(1) + b"/tmp/x\0", "/tmp/x"),
    (u16(1) + b"/tmp/x\0\0garbage", "/tmp/x"),
    (u16(1) + b"x" * 108, "x" * 108),
    (u16(1) + b"/\xff\0", os.fsdecode(b"/\xff")),
    (u16(1) + b"\0name", b"\0name"),
    (u16(1) + b"\0", b"\0"),
    (u16(1) + b"\0a\0\0", b"\0a\0\0"),
])
def test_unpack_gives_what_getpeername_would(raw, address):
    for form in (raw, bytearray(raw), memoryview(raw), SockAddr(raw)):
        assert unpack(form) == address


@pytest.mark.parametrize("raw", [
    b"", b"\2", UNSPEC, u16(16) + bytes(10), u16(2), u16(2) + bytes(13), u16(10) + bytes(25), b"\xff" * 40])
def test_unpack_keeps_what_it_does_not_know_as_sockaddr(raw):
    assert unpack(raw) == SockAddr(raw)


def test_random_addresses_survive_the_round_trip():
    seed = random.randrange(2 ** 32)
    rng = random.Random(seed)
    for _ in range(2000):
        v4 = (socket.inet_ntop(INET, bytes(rng.choices(range(256), k=4))), rng.randrange(65536))
        v6 = (socket.inet_ntop(INET6, bytes(rng.choices((0, 0, 0, rng.randrange(256)), k=16))),
              rng.randrange(65536), rng.randrange(0x100000), rng.randrange(2 ** 32))
        path = os.fsdecode(bytes(rng.choices(range(1, 256), k=rng.randrange(108))))
        abstract = b"\0" + bytes(rng.choices(range(256), k=rng.randrange(108)))
        for family, address in [(INET, v4), (INET6, v6), (UNIX, path), (UNIX, abstract)]:
            raw = pack(family, address)
            assert unpack(raw) == address, f"seed {seed}"
            assert pack(family, unpack(raw)) == raw, f"seed {seed}: {address!r}"
            line = format_address(address)
            assert line.isprintable() and line, f"seed {seed}: {address!r}"
        for target in (format_address(v4), format_address(v6[:2])):
            _, back = split_target(target)
            assert pack(INET6 if "[" in target else INET, back) == pack(
                INET6 if "[" in target else INET, v6[:2] if "[" in target else v4), f"seed {seed}: {target!r}"


def test_random_bytes_unpack_or_stay_sockaddr_but_never_raise():
    seed = random.randrange(2 ** 32)
    rng = random.Random(seed)
    for _ in range(2000):
        raw = u16(rng.choice((0, 1, 2, 10, 16, 65535))) + bytes(rng.choices((0, 47, 255), k=rng.randrange(140)))
        raw = raw[:rng.choice((len(raw), rng.randrange(140)))]
        for line in (format_address(unpack(raw)), repr(SockAddr(raw)), format_address(SockAddr(raw))):
            assert line.isprintable() and line, f"seed {seed}: {raw!r}"


# ---- the oracle: one socket is named by our bytes, one by the socket module, the kernel compares --------------

def call(function, sock, raw):
    """bind(2) or connect(2) with these very bytes; returns 0 or the errno."""
    ctypes.set_errno(0)
    rc = getattr(LIBC, function)(sock.fileno(), ctypes.create_string_buffer(raw, len(raw)), len(raw))
    return ctypes.get_errno() if rc else 0


def oracle(function, sock, address):
    try:
        getattr(sock, function)(address)
    except OSError as error:
        return error.errno
    return 0


def needs_ipv6():
    try:
        with socket.socket(INET6) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no ::1 on this machine: {error}")


def free_port(family, host):
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize("family, host", [
    (INET, "127.0.0.1"), (INET, "127.1.2.3"), (INET, ""), (INET, "localhost"), (INET, b"127.0.0.1"),
    (INET, "<broadcast>"), (INET, "192.0.2.1"), (INET6, "::1"), (INET6, ""), (INET6, b"::1"),
    (INET6, "2001:db8::1")])
def test_bind_sees_the_address_that_the_socket_module_would_give(family, host):
    if family == INET6:
        needs_ipv6()
    for _ in range(20):  # somebody may take the port between two binds
        port = free_port(family, host if host in ("127.0.0.1", "::1") else "")
        with socket.socket(family, socket.SOCK_DGRAM) as theirs:
            expected = oracle("bind", theirs, (host, port)), theirs.getsockname()
        with socket.socket(family, socket.SOCK_DGRAM) as ours:
            seen = call("bind", ours, pack(family, (host, port))), ours.getsockname()
        if seen == expected:
            break
    assert seen == expected


@pytest.mark.parametrize("family, address", [
    (INET, ("127.0.0.1",)), (INET, ("localhost",)), (INET, ("",)),
    (INET6, ("::1",)), (INET6, ("::1", 0x12345)), (INET6, ("::1", 0, 1)), (INET6, ("::1", 0, 2 ** 32 - 1)),
    (INET6, ("",))])
def test_connect_reaches_the_peer_that_the_socket_module_reaches(family, address):
    if family == INET6:
        needs_ipv6()
    with socket.socket(family) as listener:
        listener.bind(("::1" if family == INET6 else "127.0.0.1", 0))
        listener.listen()
        address = address[:1] + listener.getsockname()[1:2] + address[1:]
        with socket.socket(family) as theirs, socket.socket(family) as ours:
            assert call("connect", ours, pack(family, address)) == oracle("connect", theirs, address) == 0
            peer = ours.getpeername()
            assert peer == theirs.getpeername()
            assert unpack(pack(family, peer)) == peer


def test_udp_flowinfo_is_stored_in_the_byte_order_that_the_kernel_reads():
    needs_ipv6()
    ipv6_flowinfo_send = 33  # linux/in6.h: without it the kernel drops flowinfo
    peers = []
    for connect in (lambda s, a: call("connect", s, pack(INET6, a)), lambda s, a: oracle("connect", s, a)):
        with socket.socket(INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, ipv6_flowinfo_send, 1)
            peers.append((connect(sock, ("::1", 9, 0x12345)), sock.getpeername()))
    assert peers[0] == peers[1] == (0, ("::1", 9, 0x12345, 0))


@pytest.mark.parametrize("shape", [str, os.fsencode, pathlib.Path, lambda p: bytearray(os.fsencode(p))])
def test_unix_path_binds_and_connects_as_the_socket_module_does(tmp_path, monkeypatch, shape):
    monkeypatch.chdir(tmp_path)
    for name in ("s", "\udcff name", "x" * 107):
        plain = os.fsencode(name)  # socket.bind takes no PathLike
        with socket.socket(UNIX) as listener, socket.socket(UNIX) as theirs, socket.socket(UNIX) as ours:
            assert call("bind", listener, pack(UNIX, shape(name))) == 0
            assert os.listdir(b".") == [plain]
            listener.listen()
            assert call("connect", ours, pack(UNIX, shape(name))) == oracle("connect", theirs, plain) == 0
            assert ours.getpeername() == theirs.getpeername() == unpack(pack(UNIX, shape(name)))
        os.unlink(plain)


@pytest.mark.parametrize("tail", [b"", b"\0in\0side\0", b"\xff@"])
def test_unix_abstract_name_binds_and_connects_as_the_socket_module_does(tail):
    name = b"\0pyuring-test-%d" % os.getpid() + tail
    with socket.socket(UNIX) as listener, socket.socket(UNIX) as theirs, socket.socket(UNIX) as ours:
        listener.bind(name)
        listener.listen()
        assert call("connect", ours, pack(UNIX, name)) == oracle("connect", theirs, name) == 0
        assert ours.getpeername() == theirs.getpeername() == unpack(pack(UNIX, name)) == name


def test_empty_unix_path_autobinds_and_does_not_connect_as_in_the_socket_module():
    for empty in ("", b""):
        with socket.socket(UNIX) as theirs, socket.socket(UNIX) as ours:
            assert call("connect", ours, pack(UNIX, empty)) == oracle("connect", theirs, empty) != 0
            assert call("bind", ours, pack(UNIX, empty)) == 0
            name = ours.getsockname()
            assert type(name) is bytes and len(name) == 6  # unix(7): NUL and five characters


def test_the_socket_module_and_the_kernel_draw_the_line_where_pack_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("x" * 107, "x" * 108, b"\0pyuring" + b"x" * 100, b"\0pyuring" + b"x" * 101):
        with socket.socket(UNIX) as sock:
            try:
                sock.bind(address)
                accepted = True
            except OSError:
                accepted = False
        try:
            pack(UNIX, address)
            assert accepted, address
        except ValueError:
            assert not accepted, address


@pytest.mark.parametrize("family, host", [(INET, "::1"), (INET6, "127.0.0.1"), (INET6, "<broadcast>")])
def test_the_socket_module_refuses_the_other_familys_numbers_too(family, host):
    try:
        sock = socket.socket(family)
    except OSError as error:
        pytest.skip(f"no {family.name} sockets on this machine: {error}")
    with sock, pytest.raises(OSError):
        sock.connect((host, 9))
    with pytest.raises(ValueError):
        pack(family, (host, 9))


def test_unspec_dissolves_an_association():
    with socket.socket(INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        assert call("connect", sock, UNSPEC) == 0
        with pytest.raises(OSError):
            sock.getpeername()


def test_a_wrong_length_gets_to_the_kernel_which_judges_it():
    with socket.socket(INET) as sock:
        assert call("connect", sock, pack(INET, SockAddr(u16(2) + bytes(4)))) == 22  # EINVAL


# ---- SockAddr -----------------------------------------------------------------------------------------------

def test_sockaddr_copies_its_buffer():
    buffer = bytearray(b"\1\0abc\0")
    address = SockAddr(buffer)
    buffer[2:5] = b"xyz"
    assert address.raw == bytes(address) == b"\1\0abc\0"
    assert type(address.raw) is bytes


def test_sockaddr_takes_anything_with_a_buffer():
    assert SockAddr((ctypes.c_char * 3)(b"a", b"b", b"c")).raw == b"abc"
    assert SockAddr(memoryview(b"abcdef")[::2]).raw == b"ace"


@pytest.mark.parametrize("raw, family", [(b"", 0), (b"\7", 0), (u16(1), 1), (u16(16) + b"x", 16), (b"\xff\xff", 65535)])
def test_sockaddr_family_is_the_native_u16_at_the_front(raw, family):
    assert SockAddr(raw).family == family


def test_sockaddr_is_immutable():
    address = SockAddr(b"abc")
    for change in (lambda: setattr(address, "raw", b""), lambda: delattr(address, "raw"),
                   lambda: setattr(address, "other", 1), lambda: setattr(address, "family", 1)):
        with pytest.raises(AttributeError, match="immutable"):
            change()
    assert address.raw == b"abc"
    assert not hasattr(address, "__dict__")


def test_sockaddr_equality_hash_copy_and_pickle_go_by_the_bytes():
    address = SockAddr(b"abc")
    assert address == SockAddr(bytearray(b"abc")) and hash(address) == hash(SockAddr(b"abc"))
    assert address != SockAddr(b"abd") and address != b"abc"
    for twin in [copy.copy(address), copy.deepcopy(address)] + [
            pickle.loads(pickle.dumps(address, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]:
        assert twin == address and type(twin) is SockAddr


@pytest.mark.parametrize("raw, text", [
    (pack(INET, ("127.0.0.1", 80)), "SockAddr(127.0.0.1:80, 16 bytes)"),
    (pack(INET6, ("::1", 80)), "SockAddr([::1]:80, 28 bytes)"),
    (pack(UNIX, "/tmp/x"), "SockAddr(unix:/tmp/x, 9 bytes)"),
    (pack(UNIX, b"\0x"), "SockAddr(unix:@x, 4 bytes)"),
    (u16(16) + b"\0\1", f"SockAddr(AF_NETLINK, 4 bytes: {u16(16).hex()}0001)"),
    (u16(2), f"SockAddr(AF_INET, 2 bytes: {u16(2).hex()})"),
    (b"\xff" * 3, "SockAddr(family 65535, 3 bytes: ffffff)"),
    (b"", "SockAddr(AF_UNSPEC, 0 bytes: )"),
    (b"\0" * 40, "SockAddr(AF_UNSPEC, 40 bytes: " + "00" * 32 + "...)"),
])
def test_sockaddr_repr_shows_the_address_or_else_the_bytes(raw, text):
    assert repr(SockAddr(raw)) == text


# ---- addresses in messages, targets on the command line ---------------------------------------------------------

class Hostile:
    def __repr__(self):
        raise RuntimeError("no repr either")


class HostilePath:
    def __fspath__(self):
        raise RuntimeError("no path")

    def __repr__(self):
        return "two\nlines"


@pytest.mark.parametrize("address, text", [
    (("127.0.0.1", 80), "127.0.0.1:80"),
    ((b"127.0.0.1", 80), "127.0.0.1:80"),
    (("localhost", 80), "localhost:80"),
    (("::1", 80), "[::1]:80"),
    (("::1", 80, 5, 0), "[::1]:80"),
    (("fe80::1", 80, 0, 2), "[fe80::1%2]:80"),
    (("fe80::1%lo", 80, 0, 1), "[fe80::1%lo]:80"),
    ("/run/x", "unix:/run/x"),
    (b"/run/x", "unix:/run/x"),
    (pathlib.Path("/run/x"), "unix:/run/x"),
    (memoryview(b"/run/x"), "unix:/run/x"),
    (b"\0name", "unix:@name"),
    ("\0name", "unix:@name"),
    ("@name", "unix:./@name"),
    ("", "unix:(unnamed)"),
    (b"\0a\0\xff\n", r"unix:@a\x00\xff\n"),
    ("/caf\xe9/\udcff\n\u2028", r"unix:/café/\xff\n\u2028"),
    (("a\nb\udcff", 80), r"a\nb\udcff:80"),
    ((b"a\xff", 80), r"a\xff:80"),
    (("h", "8\n0"), r"h:8\n0"),
    (SockAddr(pack(INET, ("127.0.0.1", 80))), "127.0.0.1:80"),
    (SockAddr(b"\xff\xff\1"), "SockAddr(family 65535, 3 bytes: ffff01)"),
    (None, "None"),
    ((), "()"),
    ((1, 2), "(1, 2)"),
    (("h",), "('h',)"),
    ("/\ud800", r"'/\ud800'"),
    (Hostile(), "<Hostile>"),
    ((Hostile(), 80), "<tuple>"),
    (HostilePath(), r"two\nlines"),
])
def test_format_address_is_one_printable_line_whatever_it_is_given(address, text):
    assert format_address(address) == text
    assert text.isprintable()


@pytest.mark.parametrize("target, family, address", [
    ("127.0.0.1:80", None, ("127.0.0.1", 80)),
    ("localhost:0", None, ("localhost", 0)),
    ("example.org:65535", None, ("example.org", 65535)),
    ("h:00080", None, ("h", 80)),
    ("[::1]:80", None, ("::1", 80)),
    ("[fe80::1%lo]:80", None, ("fe80::1%lo", 80)),
    ("[::ffff:127.0.0.1]:80", None, ("::ffff:127.0.0.1", 80)),
    ("unix:/run/x", UNIX, "/run/x"),
    ("unix:x", UNIX, "x"),
    ("unix:./@x", UNIX, "./@x"),
    ("unix:/a:80", UNIX, "/a:80"),
    ("unix:@name", UNIX, b"\0name"),
    ("unix:@@", UNIX, b"\0@"),
    ("unix:@\udcff", UNIX, b"\0\xff"),
])
def test_split_target_gives_a_family_and_an_address_that_pack_takes(target, family, address):
    assert split_target(target) == (family, address)
    if family is not None:
        assert unpack(pack(family, address)) == address


@pytest.mark.parametrize("target, fragments", [
    ("127.0.0.1", ["'127.0.0.1'", "no port", "host:port"]),
    ("localhost:", ["'localhost:'", "no port"]),
    ("", ["''", "no port"]),
    (":", ["':'", "no port"]),
    ("[::1]", ["'[::1]'", "no port"]),
    ("[::1]:", ["'[::1]:'", "no port"]),
    ("[", ["'['", "no port"]),
    (":80", ["':80'", "no host"]),
    ("[]:80", ["'[]:80'", "no host"]),
    ("h:http", ["'h:http'", "port 'http'", "0..65535"]),
    ("h:-1", ["port '-1'", "0..65535"]),
    ("h: 80", ["port ' 80'", "0..65535"]),
    ("h:8_0", ["port '8_0'", "0..65535"]),
    ("h:\u0668", ["port '\u0668'", "0..65535"]),
    ("h:70000", ["'h:70000'", "port '70000'", "0..65535"]),
    ("h:" + "9" * 5000, ["port '999", "0..65535"]),
    ("[::1]:99999", ["port '99999'", "0..65535"]),
    ("::1:80", ["'::1:80'", "write [::1]:80"]),
    ("::1", ["'::1'", "write [::1]:80"]),
    ("::", ["'::'", "write [::]:80"]),
    ("::1:", ["'::1:'", "write [::1]:80"]),
    ("2001:db8::1:443", ["write [2001:db8::1]:443"]),
    ("1:2:3:4:5:6:7:8:80", ["write [1:2:3:4:5:6:7:8]:80"]),
    ("1:2:3:4:5:6:7:8", ["write [1:2:3:4:5:6:7:8]:80"]),
    ("fe80::1%lo:80", ["write [fe80::1%lo]:80"]),
    ("a:b:80", ["'a:b:80'", "too many colons", "host:port"]),
    ("http://h:80", ["'http://h:80'", "too many colons"]),
    ("[localhost]:80", ["'[localhost]:80'", "brackets are for an IPv6 address"]),
    ("[127.0.0.1]:80", ["'[127.0.0.1]:80'", "brackets are for an IPv6 address"]),
    ("[::1:80", ["'[::1:80'", "brackets"]),
    ("[::1]x:80", ["'[::1]x:80'", "brackets"]),
    ("unix:", ["'unix:'", "unix:/path"]),
    ("unix:@", ["'unix:@'", "unix:@name"]),
    ("unix:/a\0b", [r"'unix:/a\x00b'", "NUL"]),
    ("h\0:80", [r"'h\x00:80'", "NUL"]),
])
def test_split_target_refuses_with_one_line_that_names_the_target_and_the_remedy(target, fragments):
    with pytest.raises(ValueError) as caught:
        split_target(target)
    message = str(caught.value)
    assert message.isprintable()
    assert "write" in message or "leave it out" in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("target", [None, 80, b"h:80", ("h", 80)])
def test_split_target_takes_only_str(target):
    with pytest.raises(TypeError) as caught:
        split_target(target)
    assert repr(target) in str(caught.value)


def test_split_target_never_fails_with_anything_but_a_one_line_value_error():
    seed = random.randrange(2 ** 32)
    rng = random.Random(seed)
    parts = ["unix:", "@", "/", "[", "]", ":", "::", "1", "80", "h", "%lo", "\0", "\n", "\udcff"]
    for _ in range(5000):
        target = "".join(rng.choices(parts, k=rng.randrange(8)))
        try:
            family, address = split_target(target)
        except ValueError as error:
            assert str(error).isprintable(), f"seed {seed}: {target!r}"
        else:
            assert family in (None, UNIX) and address, f"seed {seed}: {target!r}"


# ---- what pack, unpack and SockAddr refuse ------------------------------------------------------------------------

BAD = [
    (INET, ("127.0.0.1", 70000), ValueError, "port 70000 is outside 0..65535"),
    (INET, ("127.0.0.1", -1), ValueError, "port -1 is outside"),
    (INET, ("127.0.0.1", 2 ** 80), ValueError, f"port {2 ** 80} is outside"),
    (INET, ("127.0.0.1", "80"), TypeError, "port '80' is not an integer"),
    (INET, ("127.0.0.1", 80.0), TypeError, "port 80.0 is not an integer"),
    (INET, ("127.0.0.1", None), TypeError, "port None is not an integer"),
    (INET, "127.0.0.1:80", TypeError, "AF_INET address '127.0.0.1:80'"),
    (INET, b"127.0.0.1", TypeError, "AF_INET address b'127.0.0.1'"),
    (INET, ["127.0.0.1", 80], TypeError, "AF_INET address ['127.0.0.1', 80]"),
    (INET, ("127.0.0.1",), TypeError, "AF_INET address ('127.0.0.1',)"),
    (INET, ("::1", 80, 0, 0), TypeError, "AF_INET address ('::1', 80, 0, 0)"),
    (INET, None, TypeError, "AF_INET address None"),
    (INET, (None, 80), TypeError, "host None is not"),
    (INET, (2130706433, 80), TypeError, "host 2130706433 is not"),
    (INET, (memoryview(b"127.0.0.1"), 80), TypeError, "host <memory"),
    (INET, ("a\0b", 80), ValueError, r"host 'a\x00b' has a NUL"),
    (INET, (b"a\0b", 80), ValueError, r"host b'a\x00b' has a NUL"),
    (INET, ("::1", 80), ValueError, "host '::1' is an IPv6 address"),
    (INET, (b"::1", 80), ValueError, "host b'::1' is an IPv6 address"),
    (INET, ("fe80::1%lo", 80), ValueError, "host 'fe80::1%lo' is an IPv6 address"),
    (INET, ("\xfc" * 70, 80), ValueError, "host '\xfc"),
    (INET, ("\ud800", 80), ValueError, r"host '\ud800' has no IDNA form"),
    (INET6, ("127.0.0.1", 80), ValueError, "'::ffff:127.0.0.1'"),
    (INET6, (b"127.0.0.1", 80), ValueError, "host b'127.0.0.1' is an IPv4 address"),
    (INET6, ("<broadcast>", 80), ValueError, "host '<broadcast>'"),
    (INET6, ("::1", 65536), ValueError, "port 65536 is outside 0..65535"),
    (INET6, ("::1", 80, 0x100000), ValueError, "flowinfo 1048576 is outside 0..1048575"),
    (INET6, ("::1", 80, -1), ValueError, "flowinfo -1 is outside"),
    (INET6, ("::1", 80, 1.0), TypeError, "flowinfo 1.0 is not an integer"),
    (INET6, ("::1", 80, 0, 2 ** 32), ValueError, "scope_id 4294967296 is outside 0..4294967295"),
    (INET6, ("::1", 80, 0, -1), ValueError, "scope_id -1 is outside"),
    (INET6, ("::1", 80, 0, "lo"), TypeError, "scope_id 'lo' is not an integer"),
    (INET6, "::1", TypeError, "AF_INET6 address '::1'"),
    (INET6, ("::1",), TypeError, "AF_INET6 address ('::1',)"),
    (INET6, ("::1", 80, 0, 0, 0), TypeError, "AF_INET6 address ('::1', 80, 0, 0, 0)"),
    (UNIX, ("/tmp/x",), TypeError, "AF_UNIX address ('/tmp/x',) is tuple"),
    (UNIX, ("127.0.0.1", 80), TypeError, "AF_UNIX address ('127.0.0.1', 80) is tuple"),
    (UNIX, None, TypeError, "AF_UNIX address None"),
    (UNIX, 5, TypeError, "AF_UNIX address 5 is int"),
    (UNIX, "x" * 108, ValueError, "is 108 bytes, the limit is 107"),
    (UNIX, "\xe9" * 54, ValueError, "is 108 bytes, the limit is 107"),
    (UNIX, b"\0" + b"x" * 108, ValueError, "is 109 bytes, the limit is 108"),
    (UNIX, "/" + "x" * 5000, ValueError, "is 5001 bytes"),
    (UNIX, "/a\0b", ValueError, r"'/a\x00b' is a path with a NUL byte"),
    (UNIX, b"/a\0", ValueError, r"b'/a\x00' is a path with a NUL byte"),
    (UNIX, "/\ud800", ValueError, r"'/\ud800' does not encode"),
    (NETLINK, (0, 0), ValueError, "AF_NETLINK address (0, 0)"),
    (0, ("127.0.0.1", 80), ValueError, "AF_UNSPEC address ('127.0.0.1', 80)"),
    (12345, "x", ValueError, "family 12345 address 'x'"),
    ("inet", "x", ValueError, "family 'inet' address 'x'"),
    (None, "x", ValueError, "family None address 'x'"),
]


@pytest.mark.parametrize("family, address, error, fragment", BAD)
def test_pack_refuses_with_one_line_that_names_the_value_and_what_to_do(family, address, error, fragment):
    with pytest.raises(error) as caught:
        pack(family, address)
    message = str(caught.value)
    assert fragment in message
    assert message.isprintable() and len(message) < 500
    assert "; " in message  # what is wrong; what to do


def test_pack_points_to_sockaddr_for_the_families_it_does_not_know():
    with pytest.raises(ValueError, match=r"AF_INET, AF_INET6 and AF_UNIX; .*SockAddr\(raw"):
        pack(NETLINK, (0, 0))


@pytest.mark.parametrize("maker", [SockAddr, unpack])
@pytest.mark.parametrize("value", ["127.0.0.1", 16, None, ("127.0.0.1", 80), [1, 2]])
def test_only_buffers_are_taken_for_raw_bytes(maker, value):
    with pytest.raises(TypeError) as caught:
        maker(value)
    assert repr(value) in str(caught.value) and "bytes" in str(caught.value)


# ---- import ----------------------------------------------------------------------------------------------------------

def test_importing_the_module_loads_nothing_heavy():
    """Method: run the file by path in a fresh interpreter, so that the package's own imports do not count."""
    code = ("import sys, importlib.util as u; before = set(sys.modules)\n"
            "spec = u.spec_from_file_location('alone', sys.argv[1]); m = u.module_from_spec(spec)\n"
            "spec.loader.exec_module(m); m.pack(2, ('localhost', 80)); print(*set(sys.modules) - before)")
    out = subprocess.run([sys.executable, "-I", "-S", "-c", code, sockaddr.__file__],
                         stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    allowed = "import socket, os, struct, operator, sys; print(*sys.modules)"
    base = subprocess.run([sys.executable, "-I", "-S", "-c", allowed],
                          stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    heavy = {"typing", "re", "dataclasses", "ipaddress", "ctypes", "encodings.idna", "asyncio", "unicodedata"}
    assert not heavy & (set(out) - set(base))
