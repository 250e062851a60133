"""What tests on the real kernel share: rings in both ways to run them, and waiting for CQEs without sleeping.

A test that needs an opcode opens with needs(ring, op); one that needs a younger flag asks known() about the CQE. Both
skip with what the kernel said.
"""
import errno
import gc
import os
import sys

import pytest

from pyuring import abi
from pyuring.ring import Ring

LONG = 20               # seconds that nothing here takes: what is waited for has come, or never will
MODES = {"default": None, "flags=0": 0}
RELEASE = os.uname().release


@pytest.fixture(params=MODES)
def ring(request, io_uring):
    with Ring(8, flags=MODES[request.param]) as ring:
        yield ring


@pytest.fixture(params=MODES)
def other(request, io_uring):
    """Another ring of the same thread."""
    with Ring(8, flags=MODES[request.param]) as ring:
        yield ring


def needs(ring, *opcodes):
    try:
        there = ring.register_probe()
    except OSError as error:        # Linux 5.6
        pytest.skip(f"Linux {RELEASE} has no register_probe: {error}")
    missing = sorted(set(opcodes) - there)
    if missing:
        rows = [abi.OPCODES[op] for op in missing]
        pytest.skip(f"Linux {RELEASE} has no " + ", ".join(f"{row.name} ({row.since})" for row in rows))


def known(res, what, since):
    """Skips where this kernel answers that it does not know a flag."""
    if res == -errno.EINVAL:
        pytest.skip(f"Linux {RELEASE} answers {what} with EINVAL: it came with {since}")
    return res


def collect(ring, count):
    """Submits, and gives the next `count` CQEs."""
    got = []
    while len(got) < count:
        ring.submit_and_wait(1, timeout=LONG)
        new = ring.reap(count - len(got))
        assert new, f"no CQE for {LONG} s, after {got}"
        got += new
    return got


def results(ring, count):
    """{user_data: res} of the next `count` CQEs."""
    return {cqe.user_data: cqe.res for cqe in collect(ring, count)}


def one(ring):
    return collect(ring, 1)[0]


def nothing(ring):
    """Submits, and asserts that there is no CQE: what the kernel has to say at once, it has said."""
    ring.submit_and_get_events()
    assert ring.reap() == []


def interrupted_at(n, function, *modules):
    """Calls function() with a KeyboardInterrupt before the n-th bytecode that runs in these modules. Were there
    so many? (In a weak reference's callback it goes no further than that.)"""
    count, files = 0, [module.__file__ for module in modules]

    def tracer(frame, event, arg):
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == n:
                raise KeyboardInterrupt
        return tracer
    previous = sys.gettrace()
    sys._getframe().f_trace_opcodes = True      # Python 3.12 wants to know it before settrace()
    gc.disable()                                # else another test's ring may be collected in here
    try:
        sys.settrace(tracer)
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(previous)
        gc.enable()
    return count >= n
