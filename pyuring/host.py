"""host.py - what this machine says about itself, as far as io_uring depends on it.

Read from /proc and uname(2), never from a version string alone: distributions backport, and a
container sees the host's kernel through filters. Only called when something was refused, or by
probe() and `doctor`; a ring that works never looks here.

Read next: errors.explain_setup(), which turns an errno and one of these into advice.
"""
from __future__ import annotations

import os
from collections import namedtuple

from . import abi

PROC = "/proc"

#: release            text, as in uname -r; machine as in uname -m
#: version            (major, minor), or None where the release does not start like that
#: setup_number       io_uring_setup's number here, None where it is not known
#: io_uring_disabled  the sysctl (Linux 6.6), None where the kernel does not have it
#: io_uring_group     the sysctl: a group id, or -1 for none; None as above
#: seccomp            0 none, 1 strict, 2 filter, None unknown. 2 alone proves nothing: most
#:                    container filters let io_uring through or not, as the runtime pleased
#: filtered           seccomp is 2
#: sys_admin          this process has CAP_SYS_ADMIN
#: sandbox            the name of a kernel that is not Linux, else ""
#: memlock, nofile    the soft limits in bytes and in files, None for no limit
#: open_files         how many files are open now, None where /proc does not tell
Host = namedtuple("Host", "release machine version setup_number io_uring_disabled io_uring_group "
                          "seccomp filtered sys_admin sandbox memlock nofile open_files")

_CAP_SYS_ADMIN = 21     # capabilities(7), linux/capability.h


def look() -> Host:
    """The Host that this process runs on, now."""
    uname = os.uname()
    status = _status()
    seccomp = _number(status.get("Seccomp"))
    memlock, nofile = _limits()
    return Host(
        release=uname.release, machine=uname.machine, version=_version(uname.release),
        setup_number=abi.SYSCALLS.get(uname.machine, (None,))[0],
        io_uring_disabled=_number(_read("sys/kernel/io_uring_disabled")),
        io_uring_group=_number(_read("sys/kernel/io_uring_group")),
        seccomp=seccomp, filtered=seccomp == 2,
        sys_admin=bool(int(status.get("CapEff", "0"), 16) >> _CAP_SYS_ADMIN & 1),
        sandbox=_sandbox(uname), memlock=memlock, nofile=nofile, open_files=_open_files())


def _read(name: str) -> str | None:
    try:
        with open(os.path.join(PROC, name), encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _status() -> dict[str, str]:
    lines = (_read("self/status") or "").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(release: str) -> tuple[int, int] | None:
    major, _, rest = release.partition(".")
    minor = ""
    for character in rest:
        if not character.isdigit():
            break
        minor += character
    return (int(major), int(minor)) if major.isdigit() and minor else None


def _sandbox(uname) -> str:
    # gVisor's kernel says Linux 4.4.0 with one fixed build date, and its /proc/version carries
    # the same (gvisor.dev, pkg/sentry/kernel/version.go and the FAQ). WSL 1 translates system
    # calls and ends its release in -Microsoft (WSL 2 is a Linux: -microsoft-standard).
    if uname.release.startswith("4.4.0") and "Sun Jan 10 15:06:54 PST 2016" in uname.version:
        return "gVisor"
    if uname.release.endswith("-Microsoft"):
        return "WSL 1"
    return ""


def _limits() -> tuple[int | None, int | None]:
    import resource
    soft = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_MEMLOCK,
                                                      resource.RLIMIT_NOFILE))
    memlock, nofile = (None if value == resource.RLIM_INFINITY else value for value in soft)
    return memlock, nofile


def _open_files() -> int | None:
    try:
        return len(os.listdir(os.path.join(PROC, "self/fd")))
    except OSError:         # no /proc; or, with EMFILE, not even one fd left to look with
        return None
