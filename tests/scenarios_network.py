"""scenarios_network.py - networks that can't be reached, and what a wire may bring: ICMP errors, resets.

They play in namespaces of their own (networks.py, to be read first), or send packets by hand over
loopback (raw(7)), which takes root. E23 and the like are numbers of pyuring/eras.py.
"""
import select
import socket
import struct
import threading
from socket import (
    AF_INET, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IP_TTL, IPV6_UNICAST_HOPS,
    SO_REUSEADDR, SOCK_RAW, SOL_SOCKET, TCP_SYNCNT, inet_pton,
)

from networks import ALONE, ELSEWHERE, NO_WAY, network, no_way
from parity import LIMIT, TCP, Skip, connect_again, listen, look, scenario
from scenarios import patience
from scenarios_other import INET, TCP_PLAIN, any_server, port_of, troupe, wait_for



@scenario(*INET, aftermaths=(look, listen))
def loopback_is_down(stage):
    stage.enter_context(network("down"))
    stage.client()
    stage.connect((stage.host, 9), times=2)
    stage.so_error()
    stage.connect((ELSEWHERE[stage.family], 9))


@scenario(*INET)
def no_route(stage):
    stage.enter_context(network("up"))
    stage.client()
    stage.connect((ELSEWHERE[stage.family], 9), times=2)
    stage.connect(any_server(stage))


@scenario(*TCP)
def no_route_after_refusal(stage):
    stage.enter_context(network("up"))
    stage.client()
    stage.connect(stage.bound())
    stage.connect((ELSEWHERE[stage.family], 9))
    stage.connect(stage.bound())


def through(stage, route):
    stage.enter_context(network("up"))
    stage.client()
    stage.connect((no_way(stage.family, NO_WAY[route]), 9), times=2)
    stage.so_error()
    stage.connect(any_server(stage))


@scenario(*INET)
def route_blackhole(stage):
    through(stage, "blackhole")


@scenario(*INET)
def route_prohibit(stage):
    through(stage, "prohibit")


@scenario(*INET)
def route_unreachable(stage):
    through(stage, "unreachable")


@scenario(*INET)
def route_throw(stage):
    through(stage, "throw")


@scenario(*TCP)
def route_unreachable_nonblocking(stage):
    stage.enter_context(network("up"))
    stage.client(blocking=False)
    stage.connect((no_way(stage.family, NO_WAY["unreachable"]), 9), times=2)
    stage.connect(stage.listener())


@scenario("unix", "unixdgram")
def abstract_name_of_another_network(stage):
    """Abstract names belong to a network namespace."""
    server = stage.make()
    server.bind("")
    if stage.kind == "unix":
        server.listen()
    with network("up"):
        stage.client()
    stage.connect(server, times=2)


@scenario(*TCP_PLAIN, slow=True)
def nobody_on_the_line(stage):
    """EHOSTUNREACH, when no neighbour has answered."""
    stage.enter_context(network("alone"))
    stage.client()
    stage.connect((ALONE[stage.family], 9), times=2)
    stage.connect(stage.bound())


@scenario("mptcp4", slow=True)
def nobody_on_the_line_mptcp(stage):
    stage.enter_context(network("alone"))
    stage.client()
    stage.connect((ALONE[stage.family], 9))
    stage.connect(stage.bound())


# Whether the first error finds the socket held by connect is a race on one CPU, and SO_ERROR tells.
LESS_SO_ERROR = (listen, connect_again)


def one_hop(stage):
    """A client that gets no further than the router, which says so.

    Its ICMP error comes back while connect still holds the socket. TCP then only makes a note of it, and
    the one that the retransmission (1 s) brings counts. But it is in the socket's error queue at once: a
    POLLERR, and no error (E23).
    """
    stage.enter_context(network("router"))
    stage.client()
    if stage.family == AF_INET:
        stage.sock.setsockopt(IPPROTO_IP, IP_TTL, 1)
    else:
        stage.sock.setsockopt(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 1)
    stage.sock.setsockopt(IPPROTO_TCP, TCP_SYNCNT, 1)       # should the router ever be silent


@scenario(*TCP_PLAIN, slow=True, aftermaths=LESS_SO_ERROR)
def router(stage):
    """EHOSTUNREACH."""
    one_hop(stage)
    stage.connect((ELSEWHERE[stage.family], 9))
    stage.connect(stage.bound(), times=2)


@scenario(*TCP_PLAIN, slow=True, aftermaths=LESS_SO_ERROR)
def router_and_one_who_has_connected(stage):
    """In a process that knows what its kernel's opcode does after success (E8)."""
    stage.way(stage.make(), stage.address(stage.listener()))
    one_hop(stage)
    stage.connect((ELSEWHERE[stage.family], 9))
    stage.connect(stage.bound(), times=2)


@scenario(*TCP_PLAIN, slow=True, aftermaths=LESS_SO_ERROR, rounds=10)
def router_and_so_sndtimeo(stage):
    one_hop(stage)
    patience(stage)
    stage.begin((ELSEWHERE[stage.family], 9)).finish()


one_at_a_time = threading.Lock()


def reusing(sock):
    """The last play's connections may still be in TIME_WAIT."""
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    return sock


@scenario(*INET, aftermaths=(look, listen))
def no_free_port(stage):
    """EADDRNOTAVAIL for TCP, EAGAIN for UDP."""
    stage.enter_context(one_at_a_time)
    stage.enter_context(network("few ports"))
    kind = troupe(stage, stage.kind)
    if stage.kind in TCP:
        server = reusing(stage.make())
        server.bind((stage.host, 50000))
        server.listen()
    taken = []
    for port in 40000, 40001:
        taken.append(reusing(kind.make()))
        taken[-1].bind(("", port))
    stage.client()
    stage.connect((stage.host, 50000), times=2)
    taken[0].close()
    stage.connect((stage.host, 50000))


# -- what a wire may bring: ICMP errors and resets, made by hand ---------------------------------------
def checksum(data):
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


class Wire:
    """Sees the SYN of a stage's socket, and answers it."""

    def __init__(self, stage, server):
        self.stage = stage
        self.here = inet_pton(stage.family, stage.host)
        self.port = port_of(server)
        self.tcp = self.raw(IPPROTO_TCP)
        self.tcp.settimeout(LIMIT)

    def raw(self, proto):
        try:
            return self.stage.enter_context(socket.socket(self.stage.family, SOCK_RAW, proto))
        except PermissionError as error:
            raise Skip(f"no raw sockets: {error}, root may") from None

    def syn(self):
        """The SYN's ports and sequence number, 8 bytes as in its header."""
        ports = struct.pack("!HH", port_of(self.stage.sock), self.port)
        while True:
            packet = self.tcp.recv(65536)
            segment = packet[(packet[0] & 15) * 4:] if self.stage.family == AF_INET else packet
            if segment[:4] == ports and segment[13] & 0x12 == 2:
                return segment[:8]

    def icmp(self, type_, code):
        if self.stage.family == AF_INET:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, IPPROTO_TCP, 0)
        else:
            header = struct.pack("!IHBB", 6 << 28, 20, IPPROTO_TCP, 64)
        # For ICMPv6 the kernel fills the checksum in.
        quote = struct.pack("!I", 0) + header + 2 * self.here + self.syn()
        start = struct.pack("!BB", type_, code)
        proto = IPPROTO_ICMP if self.stage.family == AF_INET else IPPROTO_ICMPV6
        self.raw(proto).sendto(start + checksum(start + quote) + quote, (self.stage.host, 0))

    def reset(self):
        mine, port, number = struct.unpack("!HHI", self.syn())
        start = struct.pack("!HHIIBBH", port, mine, 0, (number + 1) & 0xFFFF_FFFF, 5 << 4, 0x14, 0)
        pseudo = 2 * self.here + struct.pack("!II", 20, IPPROTO_TCP)
        self.tcp.sendto(start + checksum(pseudo + start) + bytes(2), (self.stage.host, 0))


def hears(stage, what, blocking=True):
    """A pending connect hears something from the wire; afterwards its port is closed."""
    stage.enter_context(network("up"))
    server = stage.silent()
    wire = Wire(stage, server)
    stage.client(blocking)
    pending = stage.begin(server)
    what(wire)
    address = stage.address(server)
    pending.finish()
    server.close()
    stage.sock.setblocking(True)
    stage.connect(address, times=2)


def icmp(v4, v6):
    return lambda wire: wire.icmp(*(v4 if wire.stage.family == AF_INET else v6))


@scenario(*TCP, slow=True)
def icmp_no_route(stage):
    """ENETUNREACH."""
    hears(stage, icmp((3, 0), (1, 0)))


@scenario(*TCP, slow=True)
def icmp_no_route_nonblocking(stage):
    hears(stage, icmp((3, 0), (1, 0)), blocking=False)


@scenario(*TCP, slow=True)
def icmp_host_unreachable(stage):
    """EHOSTUNREACH."""
    hears(stage, icmp((3, 1), (1, 3)))


@scenario(*TCP, slow=True)
def icmp_protocol_unreachable(stage):
    """ENOPROTOOPT, and for IPv6 EPROTO: an unknown next header."""
    hears(stage, icmp((3, 2), (4, 1)))


@scenario(*TCP, slow=True)
def icmp_port_unreachable(stage):
    """ECONNREFUSED."""
    hears(stage, icmp((3, 3), (1, 4)))


@scenario(*TCP, slow=True)
def icmp_prohibited(stage):
    """EHOSTUNREACH, and for IPv6 EACCES."""
    hears(stage, icmp((3, 13), (1, 1)))


@scenario(*TCP, slow=True)
def icmp_source_route_failed(stage):
    """EOPNOTSUPP, and for IPv6 EACCES: a reject route."""
    hears(stage, icmp((3, 5), (1, 6)))


@scenario(*TCP, slow=True)
def icmp_isolated(stage):
    """ENONET."""
    hears(stage, icmp((3, 8), (1, 5)))


@scenario(*TCP, slow=True)
def icmp_host_unknown(stage):
    """EHOSTDOWN."""
    hears(stage, icmp((3, 7), (1, 2)))


@scenario(*TCP, slow=True)
def icmp_time_exceeded(stage):
    hears(stage, icmp((11, 0), (3, 0)))


@scenario(*TCP, slow=True)
def icmp_parameter_problem(stage):
    """EPROTO."""
    hears(stage, icmp((12, 0), (4, 0)))


@scenario(*TCP, slow=True)
def reset_from_the_wire(stage):
    """ECONNREFUSED, while the listener is still there."""
    hears(stage, Wire.reset)


@scenario(*TCP, slow=True)
def reset_from_the_wire_nonblocking(stage):
    hears(stage, Wire.reset, blocking=False)


def after_icmp(stage):
    """A socket whose last connect ended by ICMP, with that still in its error queue."""
    stage.way(stage.make(), stage.address(stage.listener()))        # see above, E8
    stage.enter_context(network("up"))
    server = stage.silent()
    wire = Wire(stage, server)
    stage.client()
    pending = stage.begin(server)
    wire.icmp(*((3, 1) if stage.family == AF_INET else (1, 3)))
    pending.finish()


@scenario(*TCP, slow=True)
def icmp_before_late_success(stage):
    """E23."""
    after_icmp(stage)
    server = stage.silent()
    pending = stage.begin(server)
    stage.empty(server)
    pending.finish()


@scenario(*TCP, slow=True)
def icmp_before_late_refusal(stage):
    """E23."""
    after_icmp(stage)
    server = stage.silent()
    pending = stage.begin(server)
    server.close()
    pending.finish()


@scenario(*TCP, slow=True)
def icmp_before_so_sndtimeo(stage):
    """E23."""
    after_icmp(stage)
    patience(stage)
    stage.begin(stage.silent()).finish()


@scenario(*TCP, slow=True)
def icmp_before_success(stage):
    """E23."""
    after_icmp(stage)
    stage.connect(stage.listener(), times=2)


def hears_alone(stage, what):
    """The same for a connect that nobody waits for; then come two who do."""
    stage.enter_context(network("up"))
    server = stage.silent()
    wire = Wire(stage, server)
    stage.client(blocking=False)
    stage.connect2(server)
    stage.sock.setblocking(True)
    what(wire)
    wait_for(stage.sock, select.POLLERR)
    address = stage.address(server)
    server.close()
    return address


@scenario(*TCP, slow=True)
def icmp_nobody_waits(stage):
    address = hears_alone(stage, icmp((3, 5), (1, 1)))
    stage.connect(address, times=2)


@scenario(*TCP, slow=True)
def icmp_nobody_waits_error_taken(stage):
    """E12."""
    address = hears_alone(stage, icmp((3, 5), (1, 1)))
    stage.so_error()
    stage.connect(address, times=2)
