"""storm_network.py - where connect_storm.py takes place: a network of its own, a server, a delay line.

    with own_network() as problem:          # None, or why it is the machine's own loopback
        with Server(cpu) as server: ...
        line = Line(program, cpu, delay_ms, loss)       # whose .server is at the other end

A network namespace keeps what thousands of connects leave behind away from the machine, and lets
settings be made that go with it: network_namespaces(7), ip-sysctl.rst, netdevice(7), tuntap.rst.

    python3 storm_network.py serve ...      # is how Server starts its process
"""
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PORTS = 4                       # that the server listens on, at all its addresses
BACKLOG = 65535
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454ca, 0x0001, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS = 0x8916, 0x891c, 0x8914
SIOCSIFMTU, SIOCSIFTXQLEN = 0x8922, 0x8943
IFF_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)

SETTINGS = {
    # A queue that overflows drops SYNs, and a dropped SYN is a second of waiting (RFC 6298).
    "core/somaxconn": BACKLOG, "ipv4/tcp_max_syn_backlog": BACKLOG, "ipv4/tcp_syncookies": 0,
    # The ports below are the server's, open and closed: a connect from a closed port to itself
    # would succeed.
    "ipv4/ip_local_port_range": "10000 65535",
    # TIME_WAIT would be what one contestant leaves to the next.
    "ipv4/tcp_max_tw_buckets": 0, "ipv4/tcp_tw_reuse": 1,
}


def new_network():
    """Enter a new network namespace, with loopback up and the settings made."""
    if _libc.unshare(CLONE_NEWNET) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    interface_up(b"lo")
    for name, value in SETTINGS.items():
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys/net", name).write_text(str(value))


def enter(namespace):
    if _libc.setns(namespace.fileno(), CLONE_NEWNET) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


@contextlib.contextmanager
def own_network():
    with open("/proc/thread-self/ns/net") as here:
        try:
            new_network()
        except OSError as error:
            enter_back, problem = False, str(error)
        else:
            enter_back, problem = True, None
        try:
            yield problem
        finally:
            if enter_back:
                enter(here)


def interface_ioctl(request, name, value):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, request, struct.pack("16s24s", name, value))


def interface_up(name):
    interface_ioctl(SIOCSIFFLAGS, name, struct.pack("=h", IFF_UP))


def interface_address(name, address, mask):
    for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, mask)):
        interface_ioctl(request, name, struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(value)))


# -- the server -------------------------------------------------------------------------------------
class Server:
    """A process that accepts and closes, pinned to a CPU.

    first_port, closed_port     the first of PORTS that are open, and of as many that are closed
    accepted()                  how many since the last call
    hold                        True: accept only when asked how many there were
    """

    def __init__(self, cpu, hold=False):
        self._process = start([sys.executable, __file__, "serve", str(int(hold))], cpu,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first_port, self.closed_port = json.loads(self._process.stdout.readline())

    def accepted(self):
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def start(command, cpu, **how):
    """A process on one CPU: affinity is inherited, and costs the child nothing."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        return subprocess.Popen(command, **how)
    finally:
        os.sched_setaffinity(0, mine)


def serve(hold):
    listeners = bind_in_a_row(range(9000, 10000, 10))
    for sock in listeners:
        sock.listen(BACKLOG)
        sock.setblocking(False)
    closed = bind_in_a_row(range(7000, 8000, 10))
    print([socks[0].getsockname()[1] for socks in (listeners, closed)], flush=True)
    for sock in closed:
        sock.close()
    by_fd = {sock.fileno(): sock for sock in listeners}
    poller, accepted = select.epoll(), 0
    poller.register(0, select.EPOLLIN)
    for fd in () if hold else by_fd:
        poller.register(fd, select.EPOLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        for fd in by_fd if 0 in ready else ready:
            accepted += accept_all(by_fd[fd])
        if 0 in ready:
            if not os.read(0, 2):
                return
            print(accepted, flush=True)
            accepted = 0


def accept_all(listener):
    accepted, accept, close = 0, listener._accept, os.close     # no object for each
    try:
        while True:
            close(accept()[0])
            accepted += 1
    except BlockingIOError:
        return accepted


def bind_in_a_row(firsts):
    for first in firsts:
        socks = [socket.socket() for _ in range(PORTS)]
        try:
            for i, sock in enumerate(socks):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("0.0.0.0", first + i))
            return socks
        except OSError as error:
            problem = error
            for sock in socks:
                sock.close()
    raise problem


# -- the delay line ---------------------------------------------------------------------------------
# The server's network has all of 10.77.128.0/17 as its own addresses.
CLIENT, GATEWAY, SERVER = "10.77.0.1", "10.77.0.2", "10.77.128.1"
WHOLE, HALF = "255.255.0.0", "255.255.128.0"
MTU = 200                       # what delay_line.c has room for


def tun(address, mask):
    """A new TUN device in this network namespace -> its file."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"storm", IFF_TUN | IFF_NO_PI))
    interface_address(b"storm", address, mask)
    interface_ioctl(SIOCSIFMTU, b"storm", struct.pack("=i", MTU))
    interface_ioctl(SIOCSIFTXQLEN, b"storm", struct.pack("=i", 100000))
    interface_up(b"storm")
    return fd


class Line:
    """Two networks and the cable between them: who makes it is in the client's."""

    def __init__(self, program, cpu, delay_ms, loss):
        near = tun(CLIENT, WHOLE)
        with open("/proc/thread-self/ns/net") as here:
            new_network()
            try:
                far = tun(GATEWAY, HALF)
                interface_address(b"lo:1", SERVER, HALF)
                self.server = Server(cpu, hold=True)
            finally:
                enter(here)
        self._process = start([program, str(near), str(far), str(delay_ms), str(int(loss * 1e6))], cpu,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(near, far))
        os.close(near)
        os.close(far)

    def close(self):
        """What became of the packets."""
        self.server.__exit__()
        said, _ = self._process.communicate()
        return json.loads(said)


# -- programs ---------------------------------------------------------------------------------------
def compiled(directory, name, source, *options):
    """The program's path, or None, and why."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler"
    program = Path(directory, name)
    result = subprocess.run([compiler, "-O2", "-o", program, HERE / source, *options],
                            capture_output=True, text=True)
    if result.returncode:
        return None, f"{source} does not compile: {result.stderr.strip().splitlines()[0]}"
    return str(program), None


def settle(seconds=0.05):
    """For the last packets to arrive."""
    time.sleep(seconds)


if __name__ == "__main__" and sys.argv[1:2] == ["serve"]:
    serve(bool(int(sys.argv[2])))
