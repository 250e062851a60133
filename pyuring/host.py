"""host.py - what this machine says about itself, as far as io_uring depends on it.

Read from /proc and uname(2), never from a version string alone: distributions backport, and a
container sees the host's kernel through filters. Only called when something was refused, or by
probe() and `doctor`; a ring that works never looks here.

Read next: explain_setup() in errors.py, which turns an errno and one of these into advice.
"""
from __future__ import annotations

import os
import resource         # not later: once no file can be opened, nothing can be imported either
from collections import namedtuple

from . import abi

PROC = "/proc"

Host = namedtuple("Host", "release machine version setup_number io_uring_disabled io_uring_group "
                          "seccomp filtered sys_admin sandbox memlock nofile open_files in_group",
                  defaults=(False,))
Host.__doc__ = """What look() saw.

release            text, as in uname -r; machine as in uname -m
version            (major, minor), or None where the release does not start like that
setup_number       io_uring_setup's number here, None where it is not known
io_uring_disabled  the sysctl (Linux 6.6), None where the kernel does not have it
io_uring_group     the sysctl: a group id, or -1 for none; None as above
seccomp            0 none, 1 strict, 2 filter, None unknown. 2 alone proves nothing: most
                   container filters let io_uring through or not, as the runtime pleased
filtered           seccomp is 2
sys_admin          this process has CAP_SYS_ADMIN where the sysctl asks for it: in the first user
                   namespace, so root in a rootless container has not
sandbox            the name of a kernel that is not Linux, else ""
memlock, nofile    the soft limits in bytes and in files, None for no limit
open_files         how many files are open now, None where /proc does not tell
in_group           this process is a member of io_uring_group
"""

_CAP_SYS_ADMIN = 21     # capabilities(7), linux/capability.h


def look() -> Host:
    """The Host that this process runs on, now."""
    uname = os.uname()
    status = _status()
    seccomp = _number(status.get("Seccomp"))
    memlock, nofile = _limits()
    group = _number(_read("sys/kernel/io_uring_group"))
    return Host(
        release=uname.release, machine=uname.machine, version=_version(uname.release),
        setup_number=abi.SYSCALLS.get(uname.machine, (None,))[0],
        io_uring_disabled=_number(_read("sys/kernel/io_uring_disabled")),
        io_uring_group=group,
        seccomp=seccomp, filtered=seccomp == 2,
        sys_admin=_sys_admin(status),
        sandbox=_sandbox(uname), memlock=memlock, nofile=nofile, open_files=_open_files(),
        in_group=group is not None and group in (os.getegid(), *os.getgroups()))


def _read(name: str) -> str | None:
    try:
        with open(os.path.join(PROC, name), "rb") as file:
            return file.read().decode("ascii", "replace")
    except OSError:
        return None


def _number(text: str | None, base: int = 10) -> int | None:
    try:
        return int(text, base) if text is not None else None
    except ValueError:
        return None


def _status() -> dict[str, str]:
    lines = (_read("self/status") or "").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _sys_admin(status: dict[str, str]) -> bool:
    # io_uring asks capable(), which looks at the first user namespace only: the one whose uid_map
    # maps every number to itself (user_namespaces(7)).
    uid_map = (_read("self/uid_map") or "0 0 4294967295").split()
    capabilities = _number(status.get("CapEff"), 16) or 0
    return bool(capabilities >> _CAP_SYS_ADMIN & 1) and uid_map == ["0", "0", "4294967295"]


def _version(release: str) -> tuple[int, int] | None:
    major, _, rest = release.partition(".")
    minor = ""
    for character in rest:
        if not character.isdigit():
            break
        minor += character
    return (int(major), int(minor)) if major.isdigit() and minor else None


def _sandbox(uname) -> str:
    # gVisor says Linux 4.4.0, in later releases 4.19.0-gvisor, and always the one build date that
    # no Linux has (its pkg/sentry/syscalls/linux/linux64.go). WSL 1 translates system calls and
    # ends its release in -Microsoft (WSL 2 is a Linux: -microsoft-standard).
    if "Sun Jan 10 15:06:54 PST 2016" in uname.version or uname.release.endswith("-gvisor"):
        return "gVisor"
    if uname.release.endswith("-Microsoft"):
        return "WSL 1"
    return ""


def _limits() -> tuple[int | None, int | None]:
    soft = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_MEMLOCK,
                                                      resource.RLIMIT_NOFILE))
    memlock, nofile = (None if value == resource.RLIM_INFINITY else value for value in soft)
    return memlock, nofile


def _open_files() -> int | None:
    try:
        return len(os.listdir(os.path.join(PROC, "self/fd")))
    except OSError:         # no /proc; or, with EMFILE, not even one fd left to look with
        return None
