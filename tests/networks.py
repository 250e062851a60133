"""networks.py - network namespaces for the parity suite: loopback that is down, a card without a cable, a
router that says no. Nothing in them leaves this machine, and no setting stays.

They need root, and raise parity.Skip with the reason where they can't be had. What is done here by
hand is network_namespaces(7), netlink(7), rtnetlink(7); numbers that Python does not name carry theirs.
Read next: scenarios_network.py.
"""
import contextlib
import ctypes
import functools
import os
import socket
import struct
import threading
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, SOCK_STREAM, inet_pton

from parity import Skip, name

libc = ctypes.CDLL(None, use_errno=True)
CLONE_FS, CLONE_NEWNET = 0x200, 0x40000000
try:
    ICMP_BURST = int(Path("/proc/sys/net/ipv4/icmp_msgs_burst").read_text())
except (OSError, ValueError):
    ICMP_BURST = 0

# For documentation (RFC 5737, RFC 3849): in a new namespace there is no way to them.
ELSEWHERE = {AF_INET: "192.0.2.1", AF_INET6: "2001:db8::1"}
# Routes to these exist, and say no; the number is their rtm_type, and also a part of the address.
NO_WAY = {"blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}
# The neighbour of a network card.
ALONE = {AF_INET: "198.51.100.2", AF_INET6: "2001:db8:99::2"}


def check(result, doing):
    """What a libc function returned, as an exception where it is -1."""
    if result < 0:
        code = ctypes.get_errno()
        raise Skip(f"{doing}: {name(code)}" + (", root may" if os.geteuid() else ""))


def network(which):
    """Be in one of the networks below, with this thread and those that it starts."""
    with making:
        return inside(made(which))


making = threading.Lock()


@contextlib.contextmanager
def inside(there):
    with net_of(threading.get_native_id()) as here, net_of(there) as target:
        check(libc.setns(target.fileno(), CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            check(libc.setns(here.fileno(), CLONE_NEWNET), "setns")


def net_of(tid):
    """A thread's network namespace, as an open file."""
    return open(f"/proc/self/task/{tid}/ns/net")


@functools.lru_cache(maxsize=None)
def made(which):
    """A network of NETWORKS, made when it is first asked for -> the number of a thread in there."""
    try:
        return namespace(NETWORKS[which])
    except (OSError, Skip) as error:
        raise Skip(f"no network namespace ({which}): {error}") from None


def namespace(set_up):
    """A new network namespace, after set_up() was called in there -> the number of a thread that keeps it.

    A file would keep it too, but then there is one more than before, and test_parity.py counts them.
    """
    def keep():
        try:
            check(libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            set_up()
            answer.append(threading.get_native_id())
        except Exception as error:
            answer.append(error)
        ready.set()
        threading.Event().wait(None if isinstance(answer[0], int) else 0)
    answer, ready = [], threading.Event()
    threading.Thread(target=keep, daemon=True).start()
    ready.wait()
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def rtnetlink(what, flags, body, **attributes):
    """Ask the kernel to change something about the network."""
    request = struct.pack("=HHII", what, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body + packed(attributes)
    with socket.socket(AF_NETLINK, SOCK_RAW, 0) as sock:
        sock.send(struct.pack("=I", len(request) + 4) + request)
        code = -struct.unpack_from("=i", sock.recv(65536), 16)[0]
    if code:
        raise OSError(code, os.strerror(code))


def packed(attributes):
    """{"_<type>": bytes} as struct rtattr, each padded to a multiple of four."""
    return b"".join(struct.pack("=HH", len(value) + 4, int(key[1:])) + value + bytes(-len(value) % 4)
                    for key, value in attributes.items())


NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL_CREATE = 1, 4, 0x600
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTN_UNICAST = 16, 20, 24, 1
IFF_UP, IFF_NOARP = 1, 0x80


def link_up(index):
    rtnetlink(RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, index, IFF_UP, IFF_UP | IFF_NOARP))


def loopback_up():
    link_up(1)
    for family, length in (AF_INET, 32), (AF_INET6, 128):
        for route_type in NO_WAY.values():
            add_route(family, length, route_type, _1=inet_pton(family, no_way(family, route_type)))


def no_way(family, route_type):
    return f"203.0.113.{route_type}" if family == AF_INET else f"2001:db8:{route_type}::1"


def few_ports():
    loopback_up()
    set_sysctl("ipv4/ip_local_port_range", "40000 40001")


def fast_open_for_servers():
    loopback_up()
    set_sysctl("ipv4/tcp_fastopen", "3")


def add_card(*kinds_and_data):
    """An interface, of the first kind that this kernel has."""
    for kind, data in kinds_and_data:
        try:
            rtnetlink(RTM_NEWLINK, NLM_F_EXCL_CREATE, bytes(16), _3=b"card\0",
                      _18=packed({"_1": kind, "_2": data}))
            return
        except OSError as error:
            problem = error
    raise problem


def card_up(last):
    """Switch it on, at ALONE's networks; `last` is the last digit of its addresses."""
    if Path("/proc/sys/net/ipv6/conf/card").exists():
        set_sysctl("ipv6/conf/card/accept_dad", "0")
    index = socket.if_nametoindex("card")
    for family, length in (AF_INET, 24), (AF_INET6, 64):
        own = inet_pton(family, ALONE[family][:-1] + last)
        with no_ipv6(family):
            rtnetlink(RTM_NEWADDR, NLM_F_EXCL_CREATE, struct.pack("=BBBBI", family, length, 2, 0, index),
                      _1=own, _2=own)
    link_up(index)


@contextlib.contextmanager
def no_ipv6(family):
    """Where there is none, it can't be set up."""
    try:
        yield
    except OSError:
        if family != AF_INET6:
            raise


def add_route(family, length, route_type, **attributes):
    with no_ipv6(family):
        rtnetlink(RTM_NEWROUTE, NLM_F_EXCL_CREATE, struct.pack(
            "=BBBBBBBBI", family, length, 0, 0, 254, 4, 0, route_type, 0), **attributes)


def card_without_a_cable(patient=False):
    """An interface that sends into the void; after 3 s, or 0.2, it says that there is no neighbour."""
    loopback_up()
    add_card((b"dummy", b""), (b"veth", b""))
    for directory in () if patient else Path("/proc/sys/net").glob("ipv?/neigh/card"):
        (directory / "mcast_solicit").write_text("1")
        (directory / "retrans_time_ms").write_text("200")
    card_up("1")


def behind_a_router():
    """A wire to a router, which would send everything back to where it came from."""
    link_up(1)
    router = namespace(lambda: link_up(1))
    with net_of(router) as net:
        peer = bytes(16) + packed({"_3": b"card\0", "_28": struct.pack("=I", net.fileno())})
        add_card((b"veth", packed({"_1": peer})))
    with inside(router):
        card_up("2")
        card = struct.pack("=I", socket.if_nametoindex("card"))
        for family in ALONE:
            add_route(family, 0, RTN_UNICAST, _4=card)
        for setting, value in (("ipv4/ip_forward", "1"), ("ipv4/icmp_ratelimit", "0"),
                               ("ipv6/conf/all/forwarding", "1"), ("ipv6/icmp/ratelimit", "0")):
            with contextlib.suppress(FileNotFoundError):
                set_sysctl(setting, value)
        unlimited_icmp()
    card_up("1")
    for family, address in ALONE.items():
        add_route(family, 0, RTN_UNICAST, _5=inet_pton(family, address))
        with socket.socket(family, SOCK_STREAM) as sock:        # who lives there is known from now on
            sock.connect_ex((address, 9))


def unlimited_icmp():
    """Each play is to get its own error, and 50 in a row are the default (icmp(7))."""
    try:
        for setting in ("ipv4/icmp_msgs_per_sec", "ipv4/icmp_msgs_burst"):
            set_sysctl(setting, "1000000")
    except FileNotFoundError:           # before 6.13, about, all namespaces share one limit
        if ICMP_BURST < 1000:
            raise Skip("ICMP errors are rationed for the whole machine: net.ipv4.icmp_msgs_burst is "
                       f"{ICMP_BURST}, and net.ipv4.icmp_msgs_per_sec counts, too") from None


def set_sysctl(setting, value):
    Path("/proc/sys/net", setting).write_text(value)


NETWORKS = {"down": lambda: None, "up": loopback_up, "few ports": few_ports,
            "fast open": fast_open_for_servers, "router": behind_a_router,
            "alone": card_without_a_cable, "alone and patient": lambda: card_without_a_cable(patient=True)}

