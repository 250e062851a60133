"""pyuring/errors.py: the exceptions keep what they carry, and every refusal has its one explanation.

Pure functions: the hosts in here are made up, the kernel is not asked.
"""
import copy
import errno
import itertools
import os
import pickle
import socket

import pytest

from pyuring import errors
from pyuring.host import Host

LINUX = Host(
    release="6.8.0-31-generic", machine="x86_64", version=(6, 8), setup_number=425,
    io_uring_disabled=0, io_uring_group=-1, seccomp=0, filtered=False, sys_admin=False, sandbox="",
    memlock=65536, nofile=1024, open_files=7)
FILTERED = {"seccomp": 2, "filtered": True}
NO_SYSCTL = {"io_uring_disabled": None, "io_uring_group": None}


def explain(code, **changes):
    return errors.explain_setup(code, LINUX._replace(**changes))


# ---- the diagnosis ----------------------------------------------------------------------------------

@pytest.mark.parametrize("code, changes, cause, reason, remedy", [
    (errno.ENOSYS, {"setup_number": None, "machine": "vax"}, "architecture", "vax", "abi.SYSCALLS"),
    (errno.ENOSYS, {"sandbox": "gVisor", "release": "4.4.0", "version": (4, 4), **NO_SYSCTL},
     "sandbox", "gVisor", "runc"),
    (errno.EPERM, {"sandbox": "WSL 1"}, "sandbox", "WSL 1", "another runtime"),
    (errno.EPERM, {"io_uring_disabled": 2}, "sysctl", "off for every process",
     "sysctl -w kernel.io_uring_disabled=0"),
    (errno.EPERM, {"io_uring_disabled": 2, "sys_admin": True}, "sysctl", "is 2", "=0"),
    (errno.EPERM, {"io_uring_disabled": 2, **FILTERED}, "sysctl", "is 2", "=0"),
    (errno.EPERM, {"io_uring_disabled": 1, "io_uring_group": 976}, "sysctl", "(976)", "Join"),
    (errno.EPERM, {"io_uring_disabled": 1, **FILTERED}, "sysctl", "is 1", "Join"),
    # those whom sysctl 1 lets through were stopped by something else
    (errno.EPERM, {"io_uring_disabled": 1, "sys_admin": True}, "seccomp", "although", "425-427"),
    (errno.EPERM, {"io_uring_disabled": 1, "in_group": True, **FILTERED}, "seccomp", "is 1",
     "425-427"),
    (errno.EPERM, {}, "seccomp", "the likely cause", "security-opt"),
    (errno.EPERM, FILTERED, "seccomp", "Seccomp: 2", "security-opt"),
    (errno.EPERM, NO_SYSCTL, "seccomp", "EPERM on Linux 6.8.0-31-generic", "425-427"),
    (errno.ENOSYS, {}, "seccomp", "ENOSYS although kernel.io_uring_disabled is 0", "425-427"),
    (errno.ENOSYS, FILTERED, "seccomp", "Seccomp: 2", "425-427"),
    (errno.ENOSYS, {**NO_SYSCTL, **FILTERED}, "seccomp", "ENOSYS on Linux 6.8", "425-427"),
    (errno.ENOSYS, NO_SYSCTL, "missing", "CONFIG_IO_URING", "CONFIG_IO_URING=y"),
    (errno.ENOSYS, {"release": "4.19.0", "version": (4, 19), **NO_SYSCTL}, "missing",
     "4.19.0 is older than io_uring (5.1)", "Boot Linux"),
    # a filter is on most containers; a kernel that never had io_uring is the better explanation
    (errno.ENOSYS, {"release": "4.19.0", "version": (4, 19), **NO_SYSCTL, **FILTERED}, "missing",
     "older", "Boot Linux"),
    (errno.ENOSYS, {"release": "odd", "version": None, **NO_SYSCTL}, "missing", "odd", "Boot Linux"),
    (errno.EACCES, {}, "lsm", "security module", "audit log"),
    (errno.EACCES, FILTERED, "lsm", "security module", "audit log"),
    (errno.EACCES, FILTERED, "lsm", "or the filter on this process (Seccomp: 2", "425-427"),
    (errno.ENOMEM, {"release": "5.11.22", "version": (5, 11)}, "memlock", "64 KiB", "ulimit -l"),
    (errno.ENOMEM, {"version": (5, 4), "memlock": None}, "memlock", "unlimited", "LimitMEMLOCK"),
    (errno.ENOMEM, {"version": None}, "memlock", "RLIMIT_MEMLOCK", "ulimit -l"),
    (errno.ENOMEM, {"version": (5, 12)}, "memory", "do not count", "memory.max"),
    (errno.ENOMEM, {}, "memory", "6.8.0-31-generic", "memory.max"),
    (errno.EMFILE, {}, "nofile", "RLIMIT_NOFILE is 1024, and 7 files are open", "ulimit -n"),
    (errno.EMFILE, {"open_files": None}, "nofile", "and as many files are open", "LimitNOFILE"),
    (errno.ENFILE, {}, "nofile", "system-wide", "fs.file-max"),
    (errno.EIO, {}, "unknown", "EIO (Input/output error) on Linux 6.8", "report it"),
    (errno.EINVAL, {}, "unknown", "EINVAL", "strace"),
    (4095, {}, "unknown", "4095", "report it"),
])
def test_each_refusal_has_its_cause_its_reason_and_its_remedy(code, changes, cause, reason, remedy):
    diagnosis = explain(code, **changes)
    assert diagnosis.cause == cause
    assert reason in diagnosis.reason
    assert remedy in diagnosis.remedy


def _every_diagnosis():
    kinds = [{}, FILTERED, {"seccomp": None}]
    sysctls = [NO_SYSCTL, {}, {"io_uring_disabled": 1}, {"io_uring_disabled": 2}]
    versions = [{}, {"version": (5, 4)}, {"version": (4, 4)}, {"version": None}]
    others = [{}, {"sys_admin": True}, {"in_group": True}, {"sandbox": "gVisor"},
              {"setup_number": None}, {"memlock": None, "nofile": None, "open_files": None}]
    for code in [*errno.errorcode, 4095]:
        for parts in itertools.product(kinds, sysctls, versions, others):
            changes = {key: value for part in parts for key, value in part.items()}
            yield code, changes, explain(code, **changes)


def test_every_cause_can_be_reached_and_no_other():
    assert {diagnosis.cause for _, _, diagnosis in _every_diagnosis()} == set(errors.CAUSES)


def test_every_reason_and_remedy_is_one_line_without_a_full_stop():
    """They are put together as "reason. remedy." and "(reason)": a stop of their own would double."""
    for code, changes, diagnosis in _every_diagnosis():
        for text in (diagnosis.reason, diagnosis.remedy):
            assert text and text == text.strip(), (code, changes)
            assert text.isprintable() and not text.endswith("."), (code, changes, text)
            assert "None" not in text or diagnosis.cause == "nofile", (code, text)


def test_every_reason_names_the_errno_or_the_machine():
    for code, changes, diagnosis in _every_diagnosis():
        name = errors.name_of(code)
        assert name in diagnosis.reason or diagnosis.cause == "architecture", (changes, diagnosis)


def test_every_cause_is_described_in_one_line():
    assert all(text.isprintable() and text for text in errors.CAUSES.values())


# ---- RingUnavailable --------------------------------------------------------------------------------

def _unavailable():
    return errors.RingUnavailable(errno.EPERM, explain(errno.EPERM, io_uring_disabled=2))


def test_ring_unavailable_carries_errno_cause_reason_and_remedy():
    error = _unavailable()
    assert isinstance(error, OSError)
    assert error.errno == errno.EPERM
    assert error.cause == "sysctl"
    assert error.strerror == f"io_uring_setup: {error.reason}. {error.remedy}"
    assert str(error) == f"[Errno {errno.EPERM}] {error.strerror}"
    assert error.diagnosis == (error.cause, error.reason, error.remedy)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy,
                                   lambda error: pickle.loads(pickle.dumps(error))],
                         ids=["copy", "deepcopy", "pickle"])
def test_ring_unavailable_survives_the_way_back_from_a_worker_process(again):
    error, other = _unavailable(), again(_unavailable())
    assert type(other) is errors.RingUnavailable
    assert (str(other), other.errno, other.diagnosis) == (str(error), error.errno, error.diagnosis)


def test_no_filter_is_blamed_where_there_is_none():
    assert explain(errno.EACCES).reason == "EACCES: a security module forbids it"
    assert "seccomp" not in explain(errno.EACCES).remedy


# ---- the others -------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [TimeoutError, socket.timeout, OSError, errors.ConnectTimeout])
def test_the_callers_timeout_is_caught_by_every_name_it_has(kind):
    with pytest.raises(kind) as caught:
        raise errors.timed_out("connect to 127.0.0.1:80", 0.25)
    assert str(caught.value) == "connect to 127.0.0.1:80: timed out after 0.25 s"


def test_the_callers_timeout_has_no_errno_and_the_kernels_has():
    assert errors.timed_out("connect", 1).errno is None
    kernels = errors.os_error(errno.ETIMEDOUT, "connect")
    assert type(kernels) is TimeoutError and kernels.errno == errno.ETIMEDOUT
    assert not isinstance(kernels, errors.ConnectTimeout)


def test_a_timeout_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.timed_out("connect", 1)))
    assert type(error) is errors.ConnectTimeout and str(error) == "connect: timed out after 1 s"


@pytest.mark.parametrize("code, kind", [
    (errno.ECONNREFUSED, ConnectionRefusedError), (errno.ECONNRESET, ConnectionResetError),
    (errno.ECONNABORTED, ConnectionAbortedError), (errno.ENOENT, FileNotFoundError),
    (errno.EACCES, PermissionError), (errno.EPERM, PermissionError), (errno.EINTR, InterruptedError),
    (errno.EINPROGRESS, BlockingIOError), (errno.EALREADY, BlockingIOError),
    (errno.ETIMEDOUT, TimeoutError), (errno.EPIPE, BrokenPipeError),
    (errno.ENETUNREACH, OSError), (errno.EISCONN, OSError), (errno.ECANCELED, OSError),
])
def test_an_errno_becomes_pythons_own_subclass(code, kind):
    error = errors.os_error(code, "connect to [::1]:80")
    assert type(error) is kind
    assert error.errno == code
    assert error.strerror == f"connect to [::1]:80: {os.strerror(code)}"


def test_a_full_queue_is_no_os_error():
    assert issubclass(errors.SubmissionQueueFull, RuntimeError)
    assert not issubclass(errors.SubmissionQueueFull, OSError)


@pytest.mark.parametrize("code, name", [(111, "ECONNREFUSED"), (errno.EPERM, "EPERM"),
                                        (4095, "4095"), (0, "0")])
def test_name_of_is_the_headers_spelling_or_the_number(code, name):
    if code == 111 and errno.ECONNREFUSED != 111:
        pytest.skip("errno values differ on this machine")
    assert errors.name_of(code) == name
