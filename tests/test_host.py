"""pyuring/host.py: what /proc and uname(2) say becomes one value, and nothing missing is an error."""
import os
import resource
import subprocess
import sys

import pytest

from pyuring import abi, host

EVERYTHING = (1 << 41) - 1          # CapEff of root


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """write(name, text) into a made-up /proc, which is empty at first."""
    monkeypatch.setattr(host, "PROC", str(tmp_path))

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return write


@pytest.fixture
def uname(monkeypatch):
    """uname(release, version, machine) sets what os.uname() answers."""
    def pretend(release, version="#1 SMP", machine="x86_64"):
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(
            ("Linux", "here", release, version, machine)))
    return pretend


def test_without_proc_nothing_is_known_and_nothing_raises(proc):
    seen = host.look()
    assert seen.release == os.uname().release and seen.machine == os.uname().machine
    assert seen._replace(release="", machine="", version=None, setup_number=None, sandbox="",
                         memlock=None, nofile=None) == host.Host(
        release="", machine="", version=None, setup_number=None, io_uring_disabled=None,
        io_uring_group=None, seccomp=None, filtered=False, sys_admin=False, sandbox="",
        memlock=None, nofile=None, open_files=None, in_group=False)


def test_a_proc_full_of_nonsense_is_as_good_as_none(proc):
    for name in ("sys/kernel/io_uring_disabled", "sys/kernel/io_uring_group", "self/uid_map"):
        proc(name, "\xff nonsense")
    proc("self/status", "Seccomp\nSeccomp:\nCapEff:\t\n::::\n")
    seen = host.look()
    assert (seen.io_uring_disabled, seen.io_uring_group, seen.seccomp) == (None, None, None)
    assert not seen.sys_admin and not seen.filtered and not seen.in_group


def test_this_machine_is_seen_as_it_is():
    seen = host.look()
    assert seen.release == os.uname().release
    assert seen.setup_number == abi.SYSCALLS.get(os.uname().machine, (None,))[0]
    assert seen.seccomp in (0, 1, 2, None)
    assert seen.nofile in (None, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert seen.open_files is None or seen.open_files >= 3


@pytest.mark.parametrize("release, version", [
    ("6.18.44-fc-v769", (6, 18)), ("5.4.0", (5, 4)), ("5.10.16.3-microsoft-standard-WSL2", (5, 10)),
    ("6.1", (6, 1)), ("6.1-rc3", (6, 1)), ("10.20.30", (10, 20)), ("4.4.0-19041-Microsoft", (4, 4)),
    ("6", None), ("", None), ("next-20240101", None), ("6.x", None), ("six.1", None), (".1", None),
])
def test_the_version_is_two_numbers_or_none(uname, release, version):
    uname(release)
    assert host.look().version == version


@pytest.mark.parametrize("machine, number", [
    ("x86_64", 425), ("aarch64", 425), ("riscv64", 425), ("alpha", 535), ("vax", None), ("", None),
])
def test_the_system_call_number_is_the_machines_or_none(uname, machine, number):
    uname("6.1.0", machine=machine)
    assert host.look().setup_number == number


@pytest.mark.parametrize("release, version, sandbox", [
    ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor"),
    ("4.19.0-gvisor", "#1 SMP Sun Jan 10 15:06:54 PST 2016", "gVisor"),
    ("4.19.0-gvisor", "#1 SMP", "gVisor"),
    ("4.4.0", "#1 SMP Sun Jan 10 14:00:00 UTC 2016", ""),
    ("4.4.0-19041-Microsoft", "#488-Microsoft Mon Sep 01 13:43:00 PST 2020", "WSL 1"),
    ("5.15.90.1-microsoft-standard-WSL2", "#1 SMP Fri Jan 27 02:56:13 UTC 2023", ""),
    ("6.8.0-31-generic", "#31-Ubuntu SMP", ""),
])
def test_a_kernel_that_is_not_linux_is_named(uname, release, version, sandbox):
    uname(release, version)
    assert host.look().sandbox == sandbox


@pytest.mark.parametrize("text, value", [("0\n", 0), ("1\n", 1), ("2\n", 2), ("", None)])
def test_the_sysctl_is_its_number(proc, text, value):
    proc("sys/kernel/io_uring_disabled", text)
    assert host.look().io_uring_disabled == value


@pytest.mark.parametrize("line, seccomp, filtered", [
    ("Seccomp:\t0", 0, False), ("Seccomp:\t1", 1, False), ("Seccomp:\t2", 2, True),
    ("Seccomp_filters:\t3", None, False),
])
def test_the_seccomp_mode_is_read_from_status(proc, line, seccomp, filtered):
    proc("self/status", f"Name:\tpython3\n{line}\nUid:\t0\t0\t0\t0\n")
    seen = host.look()
    assert (seen.seccomp, seen.filtered) == (seccomp, filtered)


@pytest.mark.parametrize("effective, uid_map, sys_admin", [
    (EVERYTHING, "         0          0 4294967295\n", True),
    (1 << 21, "0 0 4294967295\n", True),
    (EVERYTHING & ~(1 << 21), "0 0 4294967295\n", False),
    (0, "0 0 4294967295\n", False),
    (EVERYTHING, None, True),               # no user namespaces in this kernel
    (EVERYTHING, "         0       1000          1\n", False),
    (EVERYTHING, "0 1000 1\n1 100000 65536\n", False),
])
def test_cap_sys_admin_counts_in_the_first_user_namespace_only(proc, effective, uid_map, sys_admin):
    """The sysctl asks capable(), so root in a rootless container is nobody special."""
    proc("self/status", f"CapEff:\t{effective:016x}\n")
    if uid_map is not None:
        proc("self/uid_map", uid_map)
    assert host.look().sys_admin is sys_admin


@pytest.mark.parametrize("groups, group, in_group", [
    ([10, 976], 976, True), ([10], 976, False), ([], -1, False), ([], None, False),
])
def test_membership_of_the_sysctls_group_is_seen(proc, monkeypatch, groups, group, in_group):
    if group is not None:
        proc("sys/kernel/io_uring_group", f"{group}\n")
    monkeypatch.setattr(os, "getgroups", lambda: groups)
    monkeypatch.setattr(os, "getegid", lambda: 5)
    assert host.look().in_group is in_group


def test_the_effective_group_counts_too(proc, monkeypatch):
    proc("sys/kernel/io_uring_group", "5\n")
    monkeypatch.setattr(os, "getgroups", lambda: [])
    monkeypatch.setattr(os, "getegid", lambda: 5)
    assert host.look().in_group


def test_limits_are_the_soft_ones_and_infinity_is_none(monkeypatch):
    limits = {resource.RLIMIT_MEMLOCK: (resource.RLIM_INFINITY, 1),
              resource.RLIMIT_NOFILE: (1024, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    seen = host.look()
    assert (seen.memlock, seen.nofile) == (None, 1024)


def test_open_files_are_counted(proc, tmp_path):
    for number in range(5):
        proc(f"self/fd/{number}", "")
    assert host.look().open_files == 5


def test_it_can_still_look_when_no_file_can_be_opened():
    """Goal: EMFILE is explained, not turned into an ImportError. Method: a fresh process at its limit."""
    code = ("import os, resource; from pyuring import host; fd = os.dup(0); os.close(fd)\n"
            "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (fd, hard))\n"
            "seen = host.look(); print(seen.open_files, seen.nofile == fd)")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True,
                          timeout=60, cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    assert (done.stdout, done.stderr) == ("None True\n", "")
