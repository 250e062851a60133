"""errors.py - what can go wrong, in words: what failed, why, and what to do about it.

The exceptions, and pure functions from (errno, what was seen) to a message. Nothing in here
asks the kernel anything: host.py looks, this file explains.

    the caller's mistake   ValueError or TypeError, before the kernel sees it
    the kernel said no     OSError with the kernel's errno (ConnectionRefusedError and friends)
    no io_uring here       RingUnavailable, an OSError that carries its cause and the remedy

Read host.py (what is seen) first; ring.py raises most of these. Read next: targets.py.
"""
from __future__ import annotations

import errno
import os
import socket
from collections import namedtuple

Diagnosis = namedtuple("Diagnosis", "cause reason remedy")
Diagnosis.__doc__ = """Why io_uring can't be used: `cause` is one of the keys of CAUSES, `reason` says what was
seen, `remedy` what to do about it. All three are plain text."""

#: The causes that explain_setup() tells apart, for code and for `doctor --json`.
CAUSES = {
    "architecture": "pyuring knows no io_uring system call numbers for this machine",
    "sandbox": "a sandbox kernel answers instead of Linux",
    "missing": "the kernel has no io_uring",
    "sysctl": "kernel.io_uring_disabled forbids it",
    "seccomp": "a seccomp filter blocks the system calls",
    "lsm": "a security module (SELinux, AppArmor) forbids it; under a seccomp filter perhaps that",
    "memlock": "RLIMIT_MEMLOCK is too low for a kernel before 5.12",
    "memory": "the kernel is out of memory",
    "nofile": "RLIMIT_NOFILE, or the system-wide limit of open files, is reached",
    "unknown": "the kernel refused for a reason that pyuring has not met before",
}


class RingUnavailable(OSError):
    """No ring could be made. `errno` is io_uring_setup(2)'s; `cause` one of errors.CAUSES;
    `reason` and `remedy` one line each."""

    def __init__(self, code: int, diagnosis: Diagnosis):
        super().__init__(code, f"io_uring_setup: {diagnosis.reason}. {diagnosis.remedy}")
        self.diagnosis = diagnosis
        self.cause: str = diagnosis.cause
        self.reason: str = diagnosis.reason
        self.remedy: str = diagnosis.remedy

    def __reduce__(self):
        # OSError would hand its args, a number and a text, to __init__: not what that takes.
        return type(self), (self.errno, self.diagnosis)


class SubmissionQueueFull(RuntimeError):
    """prep_* found no free SQE: submit() first, ask for more entries, or let the ring submit by
    itself with Ring(submit_when_full=True)."""


if socket.timeout is TimeoutError:                  # Python 3.10 and later: one and the same
    class ConnectTimeout(TimeoutError):
        """The caller's own timeout ran out. The kernel's ETIMEDOUT is a plain TimeoutError."""
else:
    class ConnectTimeout(TimeoutError, socket.timeout):     # type: ignore[no-redef,misc]
        """The caller's own timeout ran out. The kernel's ETIMEDOUT is a plain TimeoutError."""


def name_of(code: int) -> str:
    """ECONNREFUSED for 111; the number itself where this platform has no name for it."""
    return errno.errorcode.get(code, str(code))


def os_error(code: int, doing: str) -> OSError:
    """OSError(code, "doing: the reason"), which Python turns into ConnectionRefusedError etc."""
    return OSError(code, f"{doing}: {os.strerror(code)}")


def timed_out(doing: str, seconds: float, kind: type[TimeoutError] = ConnectTimeout) -> TimeoutError:
    """As from a socket: no errno, which tells it from the kernel's own ETIMEDOUT.

    kind   TimeoutError itself for what is no connect
    """
    return kind(f"{doing}: timed out after {seconds:g} s")


def explain_setup(code: int, host) -> Diagnosis:
    """Why io_uring_setup(2) gave errno `code` on `host` (a host.Host), and the remedy.

    The order matters: the sandbox and the sysctl are known for certain, a filter is inferred
    from what else would explain the errno, so it comes last.

    io_uring_setup(2) for ENOMEM, EMFILE, EPERM; Documentation/admin-guide/sysctl/kernel.rst for
    io_uring_disabled (Linux 6.6) and io_uring_group.
    """
    name = name_of(code)
    if code == errno.ENOSYS and host.setup_number is None:
        return Diagnosis(
            "architecture", f"no io_uring system call numbers are known for {host.machine}",
            "Add them to abi.SYSCALLS from this machine's <asm/unistd.h>")
    if host.sandbox and code in (errno.ENOSYS, errno.EPERM):
        return Diagnosis(
            "sandbox", f"{name} from {host.sandbox}, which runs programs on a kernel of its own",
            "Run under another runtime (for a container: runc), or leave it: connect() uses plain "
            "system calls here")
    if code == errno.EPERM and host.io_uring_disabled == 2:
        return Diagnosis(
            "sysctl", "EPERM, and kernel.io_uring_disabled is 2: off for every process",
            "As root on the host: sysctl -w kernel.io_uring_disabled=0")
    if (code == errno.EPERM and host.io_uring_disabled == 1
            and not host.sys_admin and not host.in_group):
        return Diagnosis(
            "sysctl", "EPERM, and kernel.io_uring_disabled is 1: only for CAP_SYS_ADMIN and "
            f"members of group kernel.io_uring_group ({host.io_uring_group})",
            "Join that group, or as root on the host: sysctl -w kernel.io_uring_disabled=0")
    old = host.version is not None and host.version < (5, 1) and host.io_uring_disabled is None
    if code == errno.EPERM or code == errno.ENOSYS and (host.io_uring_disabled is not None
                                                        or host.filtered and not old):
        # A kernel with the sysctl was built with io_uring, so ENOSYS is not its own answer. And
        # EPERM is never the kernel's answer where the sysctl allows it.
        if host.io_uring_disabled is not None:
            although = f"although kernel.io_uring_disabled is {host.io_uring_disabled}"
        else:
            although = f"on Linux {host.release}"
        seen = (f"and a filter is on this process (Seccomp: {host.seccomp} in /proc/self/status)"
                if host.filtered else "and the likely cause is a seccomp filter")
        return Diagnosis(
            "seccomp", f"{name} {although}, {seen}",
            "Allow io_uring_setup, io_uring_enter and io_uring_register (425-427) in the "
            "container's seccomp profile; for Docker: --security-opt seccomp=PROFILE.json")
    if code == errno.ENOSYS:
        return Diagnosis(
            "missing", f"ENOSYS: Linux {host.release} " + ("is older than io_uring (5.1)" if old
                                                           else "was built without CONFIG_IO_URING"),
            "Boot Linux 5.6 or later, built with CONFIG_IO_URING=y (6.1 or later is best)")
    if code == errno.EACCES:
        # A filter may answer any errno (seccomp(2), SECCOMP_RET_ERRNO), so it can't be ruled out.
        either = ((f", or the filter on this process (Seccomp: {host.seccomp} in /proc/self/status) does",
                   "; if there is none, allow io_uring_setup, io_uring_enter and io_uring_register (425-427) in "
                   "the container's seccomp profile") if host.filtered else ("", ""))
        return Diagnosis(
            "lsm", "EACCES: a security module forbids it" + either[0],
            "Look for 'avc: denied { ... io_uring }' in the audit log and allow it there" + either[1])
    if code == errno.ENOMEM:
        if host.version is None or host.version < (5, 12):
            return Diagnosis(
                "memlock", f"ENOMEM with RLIMIT_MEMLOCK at {_bytes(host.memlock)}: before Linux "
                f"5.12 rings count as locked memory (this is {host.release})",
                "Raise it (ulimit -l 8192, systemd LimitMEMLOCK=8M), or ask for fewer entries")
        return Diagnosis(
            "memory", f"ENOMEM on Linux {host.release}, where rings do not count as locked memory",
            "Free memory, raise this cgroup's memory.max, or ask for fewer entries")
    if code in (errno.EMFILE, errno.ENFILE):
        if code == errno.EMFILE:
            count = "as many" if host.open_files is None else host.open_files
            return Diagnosis(
                "nofile", f"EMFILE: RLIMIT_NOFILE is {host.nofile}, and {count} files are open",
                "Close some, or raise it (ulimit -n 65536, systemd LimitNOFILE=65536)")
        return Diagnosis("nofile", "ENFILE: the system-wide limit of open files is reached",
                         "As root on the host: raise the sysctl fs.file-max")
    return Diagnosis("unknown", f"{name} ({os.strerror(code)}) on Linux {host.release}",
                     "Please report it together with the output of `strace -e io_uring_setup`")


def _bytes(limit) -> str:
    return "unlimited" if limit is None else f"{limit // 1024} KiB"
