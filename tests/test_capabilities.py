"""pyuring/capabilities.py: probe() says what a Ring would find, and where there is none, exactly why.

Three ways to have no io_uring: made up (setup(2) patched, and a /proc of our own), real (a seccomp
filter, a file limit, in a child process), and real for the whole machine (the sysctl, only when
PYURING_TEST_SYSCTL=1 allows it). In each of them connect() must go on connecting.
"""
import errno
import functools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import seccomp
from conftest import WHY_NO_RING
from pyuring import abi, capabilities, client, eras, errors, examine, host, many, probe, syscalls
from pyuring.ring import Ring

ROOT = Path(__file__).resolve().parent.parent
SANDBOX = host.look().sandbox
SYSCTL = Path("/proc/sys/kernel/io_uring_disabled")


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    """probe() and connect() start from nothing, and forget what they learned from made-up kernels."""
    monkeypatch.setattr(capabilities, "_known", None)
    monkeypatch.setattr(client, "_refused", None)


# ---- where it works ---------------------------------------------------------------------------------

def test_available_means_that_a_ring_can_be_made():
    works = probe()
    assert works.available == (not WHY_NO_RING)
    assert (works.cause == "") == works.available
    assert works.release == os.uname().release
    assert works.strategy in ("emulated", "syscall")


def test_it_says_what_a_ring_says(io_uring):
    works = probe()
    with Ring(1) as ring:
        assert works.features == ring.features
        assert len(works.ops) in (0, len(ring.register_probe()))    # 0: before 5.6
    assert works.strategy == ("emulated" if works.features & abi.IORING_FEAT_SUBMIT_STABLE
                              else "syscall")


def test_opcodes_have_liburings_names(io_uring):
    ops = probe().ops
    if not ops:
        pytest.skip("this kernel can't be asked for its opcodes (Linux 5.6)")
    assert {"nop", "readv", "connect", "link_timeout", "poll_add"} <= ops
    known = {row.name for row in abi.OPCODES}
    assert all(name in known or name.startswith("op") for name in ops)


def test_it_is_remembered():
    assert probe() is probe()


@pytest.mark.parametrize("flags", [
    (abi.IORING_SETUP_CLAMP,), (abi.IORING_SETUP_SUBMIT_ALL,), (abi.IORING_SETUP_COOP_TASKRUN,),
    (abi.IORING_SETUP_COOP_TASKRUN, abi.IORING_SETUP_TASKRUN_FLAG),
    (abi.IORING_SETUP_SINGLE_ISSUER,),
    (abi.IORING_SETUP_SINGLE_ISSUER, abi.IORING_SETUP_DEFER_TASKRUN),
    (abi.IORING_SETUP_CQSIZE,),
])
def test_setup_flags_are_those_that_make_a_ring(io_uring, flags):
    wanted = sum(flags)
    try:
        Ring(1, flags=wanted, cq_entries=8 if abi.IORING_SETUP_CQSIZE in flags else None).close()
        works = True
    except OSError as error:
        assert error.errno == errno.EINVAL
        works = False
    assert (probe().setup_flags & wanted == wanted) == works


def test_setup_flags_leave_out_what_the_kernel_calls_invalid(io_uring, monkeypatch):
    """Goal: EINVAL alone makes a flag unknown. Method: a setup(2) that knows two flags and refuses
    a third for want of something else."""
    def setup(entries, params):
        flags = abi.PARAMS.unpack(params)[2]
        if flags in (abi.IORING_SETUP_CLAMP, abi.IORING_SETUP_CQSIZE):
            return os.open(os.devnull, os.O_RDONLY)
        return -errno.ENXIO if flags == abi.IORING_SETUP_ATTACH_WQ else -errno.EINVAL
    monkeypatch.setattr(syscalls, "setup", setup)
    assert capabilities._setup_flags() == (
        abi.IORING_SETUP_CLAMP | abi.IORING_SETUP_CQSIZE | abi.IORING_SETUP_ATTACH_WQ)


def test_it_leaves_no_descriptor_behind():
    before = sorted(os.listdir("/proc/self/fd"))
    probe()
    assert sorted(os.listdir("/proc/self/fd")) == before


class FakeRing:
    """A Ring of another kernel."""
    features, opcodes, failure = 0, frozenset({0, 16, 255}), None

    def __init__(self, entries):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def prep_nop(self):
        pass

    def submit_and_wait(self, wait_nr):
        pass

    def reap(self):
        return []

    def register_probe(self):
        if self.failure:
            raise OSError(self.failure, "")
        return self.opcodes


@pytest.fixture
def unexamined(monkeypatch):
    """A FakeRing has no connect to be examined."""
    def observe(ring):
        raise OSError(errno.ENETUNREACH, "not here")
    monkeypatch.setattr(examine, "observe", observe)


def test_an_opcode_that_is_newer_than_the_table_goes_by_its_number(monkeypatch, unexamined):
    monkeypatch.setattr(capabilities, "Ring", FakeRing)
    assert probe().ops == {"nop", "connect", "op255"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM, errno.ENOSYS])
def test_a_kernel_that_cant_be_asked_for_opcodes_has_unknown_ones(monkeypatch, unexamined, code):
    monkeypatch.setattr(capabilities, "Ring", type("Old", (FakeRing,), {"failure": code}))
    works = probe()
    assert works.available and works.ops == frozenset()


def test_a_ring_older_than_the_connect_opcode_works_but_is_not_picked(monkeypatch, unexamined):
    monkeypatch.setattr(capabilities, "Ring", FakeRing)
    works = probe()
    assert works.available and works.strategy == "syscall" and works.cause == ""
    assert "5.5" in works.reason


# ---- how connect behaves ----------------------------------------------------------------------------

def test_connect_is_which_errata_are_met_in_order_and_era_the_form_that_has_them(io_uring):
    works = probe()
    assert works.connect is not None, "loopback could not be examined"
    assert list(works.connect) == [name for name in eras.ERRATA if name in works.connect]
    assert all(eras.ERRATA[name].scope == "request" for name in works.connect)
    assert works.era in ("", *eras.ERAS)
    if works.era:
        assert works.connect and all(works.era in eras.ERRATA[name].eras for name in works.connect)


def test_the_strategy_can_be_had_without_an_examination(monkeypatch):
    def observe(ring):
        raise AssertionError("connect was examined")
    monkeypatch.setattr(examine, "observe", observe)
    assert capabilities.picked() == ("syscall" if WHY_NO_RING else "emulated")
    assert capabilities._known is None
    monkeypatch.undo()
    assert capabilities.picked() == probe().strategy


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT,
                                  errno.EPROTONOSUPPORT, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ETIME,
                                  errno.EINVAL, errno.ECONNREFUSED, errno.EAGAIN, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_where_connect_cant_be_examined_the_rest_is_known(io_uring, monkeypatch, code):
    """And what may pass (lo is still down, the machine was busy, ...) is not remembered."""
    with monkeypatch.context() as patch:
        def no_socket(*arguments, **keywords):
            raise OSError(code, os.strerror(code))
        patch.setattr(socket, "socket", no_socket)
        found = probe()
    assert found.available and found.strategy == "emulated"
    assert (found.connect, found.era) == (None, "")
    lasting = code in (errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
    again = probe()
    assert (again is found) == lasting
    assert (again.connect is None) == lasting


def test_a_machine_without_loopback_is_known_but_for_its_errata(io_uring):
    """Goal: probe() neither fails nor hangs in a network namespace whose lo is down. Method: unshare(1)."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is not installed here")
    code = "import pyuring; found = pyuring.probe(); print(found.available, found.connect, repr(found.era), found.reason)"
    done = subprocess.run(["unshare", "--user", "--net", sys.executable, "-W", "error", "-c", code],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)
    if "unshare" in done.stderr:
        pytest.skip(f"no network namespace to be had here: {done.stderr.strip()}")
    assert done.stdout.startswith("True None '' IORING_OP_CONNECT was not examined: [Errno ")
    assert not done.stderr


# ---- where it does not: a made-up kernel ------------------------------------------------------------

ROOTS, NOBODYS = f"{(1 << 41) - 1:016x}", f"{0:016x}"
GVISOR = ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "x86_64")
NEWER_GVISOR = ("4.19.0-gvisor", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "x86_64")
WSL1 = ("4.4.0-19041-Microsoft", "#488-Microsoft Mon Sep 01 13:43:00 PST 2020", "x86_64")


def linux(release, machine="x86_64"):
    return release, "#1 SMP", machine


# errno, uname, sysctl, group, Seccomp:, CapEff: -> cause, in the reason, in the remedy
MACHINES = {
    "sysctl 2": (
        errno.EPERM, linux("6.8.0"), 2, -1, 0, NOBODYS, "sysctl", "off for every process", "=0"),
    "sysctl 2, root": (errno.EPERM, linux("6.8.0"), 2, -1, 0, ROOTS, "sysctl", "is 2", "=0"),
    "sysctl 2 and a filter": (
        errno.EPERM, linux("6.8.0"), 2, -1, 2, ROOTS, "sysctl", "is 2", "=0"),
    "sysctl 1": (errno.EPERM, linux("6.8.0"), 1, 976, 0, NOBODYS, "sysctl", "(976)", "Join"),
    "sysctl 1, root, so a filter": (
        errno.EPERM, linux("6.8.0"), 1, -1, 2, ROOTS, "seccomp", "is 1", "425-427"),
    "a filter, EPERM": (
        errno.EPERM, linux("6.8.0"), 0, -1, 2, ROOTS, "seccomp", "is 0, and a filter", "425-427"),
    "a filter, EPERM, no sysctl": (
        errno.EPERM, linux("5.15.0"), None, None, 2, ROOTS, "seccomp", "Linux 5.15.0", "425-427"),
    "a filter, ENOSYS": (
        errno.ENOSYS, linux("6.8.0"), 0, -1, 2, ROOTS, "seccomp", "is 0, and a filter", "425-427"),
    "a filter, ENOSYS, no sysctl": (
        errno.ENOSYS, linux("5.15.0"), None, None, 2, ROOTS, "seccomp", "Seccomp: 2", "425-427"),
    "a filter that /proc does not show": (
        errno.EPERM, linux("6.8.0"), 0, -1, 0, ROOTS, "seccomp", "likely cause", "425-427"),
    "too old": (
        errno.ENOSYS, linux("4.19.0"), None, None, 0, ROOTS, "missing", "older", "Boot"),
    "too old, in a container": (
        errno.ENOSYS, linux("4.19.0"), None, None, 2, ROOTS, "missing", "older", "Boot"),
    "not built in": (errno.ENOSYS, linux("5.10.0"), None, None, 0, ROOTS, "missing",
                     "without CONFIG_IO_URING", "CONFIG_IO_URING=y"),
    "another machine": (errno.ENOSYS, linux("6.8.0", "vax"), 0, -1, 0, ROOTS, "architecture",
                        "vax", "SYSCALLS"),
    "gVisor": (errno.ENOSYS, GVISOR, None, None, 0, ROOTS, "sandbox", "gVisor", "runc"),
    "a newer gVisor": (errno.ENOSYS, NEWER_GVISOR, None, None, 0, ROOTS, "sandbox", "gVisor", "runc"),
    "WSL 1": (errno.ENOSYS, WSL1, None, None, 0, ROOTS, "sandbox", "WSL 1", "another runtime"),
    "SELinux": (errno.EACCES, linux("6.8.0"), 0, -1, 0, ROOTS, "lsm", "security module", "audit"),
    "locked memory": (errno.ENOMEM, linux("5.4.0"), None, None, 0, NOBODYS, "memlock",
                      "RLIMIT_MEMLOCK at 64 KiB", "ulimit -l"),
    "memory": (errno.ENOMEM, linux("6.8.0"), 0, -1, 0, NOBODYS, "memory", "6.8.0", "memory.max"),
    "files": (errno.EMFILE, linux("6.8.0"), 0, -1, 0, NOBODYS, "nofile",
              "RLIMIT_NOFILE is 1024, and 3 files", "ulimit -n"),
    "all files": (errno.ENFILE, linux("6.8.0"), 0, -1, 0, NOBODYS, "nofile", "system-wide",
                  "fs.file-max"),
    "something new": (errno.EIO, linux("6.8.0"), 0, -1, 0, NOBODYS, "unknown", "EIO", "report"),
}
TRANSIENT = ("memlock", "memory", "nofile", "unknown")


@pytest.fixture(params=MACHINES)
def machine(request, monkeypatch, tmp_path):
    """One row of MACHINES, made true -> (errno, cause, in the reason, in the remedy)."""
    code, uname, sysctl, group, filters, caps, cause, reason, remedy = MACHINES[request.param]
    (tmp_path / "sys/kernel").mkdir(parents=True)
    for name, value in ("disabled", sysctl), ("group", group):
        if value is not None:
            (tmp_path / f"sys/kernel/io_uring_{name}").write_text(f"{value}\n")
    (tmp_path / "self/fd").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"self/fd/{number}").touch()
    (tmp_path / "self/status").write_text(f"Name:\tpython3\nCapEff:\t{caps}\nSeccomp:\t{filters}\n")
    limits = {resource.RLIMIT_MEMLOCK: (65536, 65536), resource.RLIMIT_NOFILE: (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(host, "PROC", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", *uname)))
    monkeypatch.setattr(syscalls, "setup", lambda entries, params, fds=None: -code)
    return code, cause, reason, remedy


def test_probe_says_what_blocks_it_and_what_to_do(machine):
    code, cause, reason, remedy = machine
    found = probe()
    assert not found.available and found.strategy == "syscall"
    assert found.cause == cause
    assert reason in found.reason and remedy in found.remedy
    assert found.reason.isprintable() and found.remedy.isprintable()
    assert (found.features, found.ops, found.setup_flags) == (0, frozenset(), 0)
    assert (found.connect, found.era) == (None, "")


def test_connect_goes_on_without_it(machine, listener):
    with socket.socket() as sock:
        client.connect(sock, listener.getsockname(), 5)
        assert sock.getpeername() == listener.getsockname()
    with client.create_connection(listener.getsockname(), 5) as sock:
        assert sock.getpeername() == listener.getsockname()
    outcome, = many.connect_many([listener.getsockname()], timeout=5)
    assert outcome.ok


@pytest.mark.parametrize("explicit", ["emulated", "native"])
def test_a_strategy_that_was_asked_for_says_why_not(machine, listener, explicit):
    code, cause, reason, remedy = machine
    for _ in range(2):              # the second time from what was remembered, if it was
        with socket.socket() as sock, pytest.raises(errors.RingUnavailable) as caught:
            client.connect(sock, listener.getsockname(), 5, strategy=explicit)
        assert (caught.value.errno, caught.value.cause) == (code, cause)
        assert reason in str(caught.value) and remedy in str(caught.value)
    with pytest.raises(errors.RingUnavailable) as caught:
        list(many.connect_many([listener.getsockname()], strategy=explicit))
    assert caught.value.cause == cause


def test_what_may_pass_is_asked_again_and_what_lasts_is_not(machine, monkeypatch):
    _, cause, _, _ = machine
    first, again = probe(), []
    monkeypatch.setattr(syscalls, "setup", lambda *arguments: again.append(1) or -errno.EIO)
    assert (probe() is first) == (cause not in TRANSIENT)
    assert bool(again) == (cause in TRANSIENT)


def test_connect_uses_the_ring_again_once_files_can_be_opened_again(io_uring, monkeypatch, listener):
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "setup", lambda entries, params, fds=None: -errno.EMFILE)
        with socket.socket() as sock, pytest.raises(errors.RingUnavailable):
            client.connect(sock, listener.getsockname(), 5, strategy="emulated")
    with socket.socket() as sock:
        client.connect(sock, listener.getsockname(), 5, strategy="emulated")


# ---- probe() never raises ---------------------------------------------------------------------------

@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EACCES, errno.ENOMEM, errno.EINVAL,
                                  errno.EFAULT])
@pytest.mark.parametrize("where", ["setup", "enter", "map_ring", "register"])
def test_whatever_fails_probe_answers(io_uring, monkeypatch, where, code):
    def fail(*arguments):
        if where == "map_ring":
            raise OSError(code, os.strerror(code))
        return -code
    monkeypatch.setattr(syscalls, where, fail)
    found = probe()
    if where == "register" and code in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
        assert found.available and found.ops == frozenset()
    else:
        assert not found.available and found.strategy == "syscall"
        assert found.cause in errors.CAUSES
        assert found.reason.isprintable() and found.remedy.isprintable()
    monkeypatch.undo()


# ---- where it does not: this kernel, made to refuse -------------------------------------------------

ASK = """
import json, socket, sys
import pyuring
found = pyuring.probe()
port = int(sys.argv[-1])
with socket.socket() as sock:
    pyuring.connect(sock, ("127.0.0.1", port), 5)
    peer = sock.getpeername()[1]
try:
    with socket.socket() as sock:
        pyuring.connect(sock, ("127.0.0.1", port), 5, strategy="emulated")
    emulated = ""
except pyuring.RingUnavailable as error:
    emulated = error.cause
print(json.dumps([found.available, found.strategy, found.cause, found.reason, found.remedy,
                  peer == port, emulated]))
"""


@functools.lru_cache(maxsize=None)
def why_no_filter():
    """Why a seccomp filter can't be tried here, or ''."""
    done = subprocess.run([sys.executable, seccomp.__file__, "EPERM", sys.executable, "-c", ""],
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        return "no seccomp filter can be set here: " + done.stderr.strip().rpartition("\n")[2]
    return f"{SANDBOX} answers instead of Linux" if SANDBOX else ""


@pytest.fixture
def filters():
    """Skips, with the reason, where a process can't put a filter on itself."""
    if why_no_filter():
        pytest.skip(why_no_filter())


def ask(listener, before=""):
    """Run `before`, then ASK, in a child process -> what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + ASK, str(listener.getsockname()[1])],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    assert not done.stderr
    assert done.returncode == 0
    return json.loads(done.stdout)


def blocking(code, number=None):
    only = f"seccomp.FIRST = seccomp.LAST = {number};" if number else ""
    return f"import seccomp; {only} seccomp.block({code})\n"


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_a_seccomp_filter_is_called_one(filters, listener, name):
    available, strategy, cause, reason, remedy, connected, emulated = ask(
        listener, blocking(getattr(errno, name)))
    assert (available, strategy, cause, connected, emulated) == (
        False, "syscall", "seccomp", True, "seccomp")
    assert name in reason and "Seccomp: 2" in reason
    assert "425-427" in remedy


def test_a_seccomp_filter_that_says_enomem_is_taken_at_its_word(filters, listener):
    available, strategy, cause, reason, _, connected, emulated = ask(listener, blocking(errno.ENOMEM))
    assert (available, strategy, connected) == (False, "syscall", True)
    assert cause == emulated and cause in ("memory", "memlock")
    assert "ENOMEM" in reason


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_a_filter_that_stops_only_enter_is_found_out(io_uring, filters, listener, name):
    _, enter, _ = abi.SYSCALLS[os.uname().machine]
    available, strategy, cause, reason, _, connected, emulated = ask(
        listener, blocking(getattr(errno, name), enter))
    assert (available, strategy, cause, connected, emulated) == (
        False, "syscall", "seccomp", True, "seccomp")
    assert name in reason


def test_a_filter_that_stops_only_register_costs_only_the_list_of_opcodes(io_uring, filters, listener):
    *_, register = abi.SYSCALLS[os.uname().machine]
    available, strategy, cause, _, _, connected, emulated = ask(
        listener, blocking(errno.EPERM, register))
    assert (available, strategy, cause, connected, emulated) == (True, "emulated", "", True, "")


def test_the_last_file_descriptor_is_not_the_end(io_uring, listener):
    """Goal: at RLIMIT_NOFILE probe() says so, connect() still connects, and both recover.

    Method: in a child whose limit is just what it has open.
    """
    code = """
import os, resource, socket, sys
import pyuring
address = ("127.0.0.1", int(sys.argv[1]))
one, two = socket.socket(), socket.socket()
free = os.dup(0); os.close(free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
found = pyuring.probe()
print(found.available, found.cause, found.reason)
pyuring.connect(one, address, 5)
print(one.getpeername() == address)
try:
    pyuring.connect(two, address, 5, strategy="emulated")
except pyuring.RingUnavailable as error:
    print(error.cause, error.errno == 24)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
pyuring.connect(two, address, 5, strategy="emulated")
print(pyuring.probe().available)
one.close(), two.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(listener.getsockname()[1])],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert not done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("False nofile EMFILE: RLIMIT_NOFILE is ")
    assert rest == ["True", "nofile True", "True"]


# ---- the real sysctl --------------------------------------------------------------------------------

@pytest.fixture
def sysctl():
    """sysctl(value) sets kernel.io_uring_disabled for the whole machine, which is why it is asked for."""
    if os.environ.get("PYURING_TEST_SYSCTL") != "1":
        pytest.skip("sets kernel.io_uring_disabled for the whole machine: PYURING_TEST_SYSCTL=1")
    if os.geteuid():
        pytest.skip("only root can set kernel.io_uring_disabled")
    if not SYSCTL.exists():
        pytest.skip("kernel.io_uring_disabled does not exist (Linux 6.6)")
    old = SYSCTL.read_text()
    try:
        yield lambda value: SYSCTL.write_text(f"{value}\n")
    finally:
        SYSCTL.write_text(old)


# Imported first: Python itself may lie where nobody can read.
NOBODY = "import json, os, socket, pyuring; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"


@pytest.mark.parametrize("value, before, words", [
    (2, "", "off for every process"), (2, NOBODY, "off for every process"),
    (1, NOBODY, "only for CAP_SYS_ADMIN"),
])
def test_the_sysctl_is_called_by_its_name(io_uring, sysctl, listener, value, before, words):
    sysctl(value)
    available, strategy, cause, reason, remedy, connected, emulated = ask(listener, before)
    assert (available, strategy, cause, connected, emulated) == (
        False, "syscall", "sysctl", True, "sysctl")
    assert f"is {value}: {words}" in reason
    assert "sysctl -w kernel.io_uring_disabled=0" in remedy


def test_sysctl_1_lets_root_through(io_uring, sysctl, listener):
    sysctl(1)
    assert ask(listener)[:3] == [True, "emulated", ""]
