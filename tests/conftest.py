"""What every test gets: nothing left behind, and the reason where io_uring can't be had."""
import gc
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyuring import client, errors                                  # noqa: E402
from pyuring.driver import RingDriver                               # noqa: E402
from pyuring.ring import Ring, _orphans                             # noqa: E402


def pytest_collection_finish():
    # Many tests collect garbage, or all the time. Without this each collection would walk through all of
    # the tests, which there are thousands of: 30 ms.
    gc.collect()
    gc.freeze()


def _why_no_ring():
    try:
        Ring(1).close()
    except errors.RingUnavailable as error:
        return str(error)
    return ""


WHY_NO_RING = _why_no_ring()


@pytest.fixture
def io_uring():
    """Skips, with the kernel's reason, where there is no io_uring."""
    if WHY_NO_RING:
        pytest.skip(WHY_NO_RING)


@pytest.fixture(params=["emulated", "native", "syscall"])
def strategy(request):
    """Each of the three strategies; those over io_uring skip where there is none."""
    if WHY_NO_RING and request.param != "syscall":
        pytest.skip(WHY_NO_RING)
    return request.param


@pytest.fixture(params=["emulated", "syscall"])
def honest(request):
    """The two strategies that promise connect(2)'s answers."""
    if WHY_NO_RING and request.param != "syscall":
        pytest.skip(WHY_NO_RING)
    return request.param


def _left_open():
    """What this process holds: its fds by what they point to, its ring maps, its threads."""
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:         # the one that listed them
            pass
    with open("/proc/self/maps") as maps:
        ring_maps = sum("io_uring" in line for line in maps)
    return fds, ring_maps, threading.active_count()


def _drop_thread_ring():
    """Threads keep a ring for their next connect; between tests this one lets go of it."""
    vars(client._local).clear()


def _more(after, before):
    """What there is after and was not before."""
    new = [f"fd {fd}: {what}" for fd, what in after[0].items() if before[0].get(fd) != what]
    if after[1] > before[1]:
        new.append(f"{after[1] - before[1]} maps of rings")
    if after[2] > before[2]:
        new.append(f"{after[2] - before[2]} threads")
    return new


@pytest.fixture(autouse=True)
def unsettled(monkeypatch):
    """What one test learns about this kernel is not for the next: neither that io_uring was refused,
    nor how it leaves a connected socket."""
    monkeypatch.setattr(RingDriver, "_settles", False)
    monkeypatch.setattr(client, "_refused", None)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No fd, no map of a ring, no thread and no orphaned memory survives a test."""
    _drop_thread_ring()
    before = _left_open()
    yield
    _drop_thread_ring()
    if _more(_left_open(), before):
        gc.collect()            # what only a cycle still holds is not left behind
    assert not _more(_left_open(), before)
    assert not _orphans


@pytest.fixture
def listener():
    """A TCP listener on 127.0.0.1 with room for 128; listener.getsockname() is its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        yield sock


@pytest.fixture
def refused():
    """The address of a TCP port of 127.0.0.1 that is bound and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@pytest.fixture
def silent():
    """The address of a TCP listener whose accept queue is full: a connect to it stays pending."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()
        for filler in fillers:
            filler.close()
