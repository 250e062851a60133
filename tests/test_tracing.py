"""pyuring/tracing.py and watch.py: every enter, SQE and CQE of a ring is told, and nothing stays behind."""
import ast
import errno
import io
import os
import socket
import threading
from pathlib import Path

import pytest

import pyuring
from pyuring import abi, syscalls, watch
from pyuring.ring import Ring

REAL_ENTER = syscalls.enter
PACKAGE = Path(pyuring.__file__).parent

pytestmark = pytest.mark.usefixtures("io_uring")


@pytest.fixture(autouse=True)
def undone():
    """Whatever a test does, in the end nothing is traced."""
    yield
    assert not watch._watches and syscalls.enter is REAL_ENTER


class Told(watch.Watch):
    """A Watch that keeps what it is told."""

    def __init__(self, ring):
        self.told = []
        super().__init__(ring, lambda kind, fields: self.told.append((kind, fields)))

    def of(self, kind):
        return [fields for which, fields in self.told if which == kind]


def kinds(told):
    return [kind for kind, _ in told.told]


def test_a_nop_is_printed_from_enter_to_reap():
    file = io.StringIO()
    with Ring(4) as ring, pyuring.trace(ring, file):
        ring.prep_nop(user_data=7)
        ring.submit_and_wait(1)
        assert ring.reap() == [(7, 0, 0)]
    enter, sqe, result, reaped, cqe = file.getvalue().splitlines()[:5]
    assert enter.startswith("enter(fd ") and enter.endswith(
        "to_submit 1, min_complete 1, GETEVENTS)   SQ head 0 tail 1   CQ head 0 tail 0")
    assert sqe == "  SQE 0: NOP user_data=7"
    assert result.startswith("  = 1 in ") and result.endswith("   SQ head 1 tail 1   CQ head 0 tail 1")
    assert reaped == "reaped: CQ head 0 -> 1"
    assert cqe == "  CQE 0: NOP user_data=7 res=0"


def test_with_fields_the_bytes_stand_beside_the_names():
    file = io.StringIO()
    with Ring(4) as ring, pyuring.trace(ring, file, fields=True):
        ring.prep_connect(999, ("127.0.0.1", 80), user_data=7)
        ring.submit_and_wait(1)
        ring.reap()
    text = file.getvalue()
    assert "16 IORING_OP_CONNECT" in text and "AF_INET 127.0.0.1:80 at 0x" in text
    assert "points to" in text and "-EBADF" in text and "CQE 0: answers CONNECT" in text


def test_it_is_stderr_where_no_file_is_given(capsys):
    with Ring(4) as ring, pyuring.trace(ring):
        ring.prep_nop()
        ring.submit()
        ring.reap()
    assert capsys.readouterr().err.startswith("enter(")


def test_afterwards_the_ring_is_as_it_was_and_goes_on():
    with Ring(4) as ring:
        with pyuring.trace(ring, io.StringIO()) as traced:
            assert isinstance(ring, Ring) and syscalls.enter is not REAL_ENTER
        assert type(ring) is Ring and syscalls.enter is REAL_ENTER
        traced.close()              # twice is no harm
        ring.prep_nop()
        assert ring.submit_and_wait(1) == 1 and len(ring.reap()) == 1


def test_closing_the_ring_ends_its_trace():
    ring = Ring(4)
    pyuring.trace(ring, io.StringIO())
    ring.close()
    assert type(ring) is Ring and syscalls.enter is REAL_ENTER


def test_other_rings_are_not_told_of():
    with Ring(4) as ring, Ring(4) as other, Told(ring) as told:
        other.prep_nop()
        other.submit_and_wait(1)
        other.reap()
        assert type(other) is Ring and not told.told


def test_two_rings_are_told_apart():
    with Ring(4) as one, Ring(4) as two, Told(one) as first, Told(two) as second:
        for ring, user_data in ((one, 1), (two, 2)):
            ring.prep_nop(user_data=user_data)
            ring.submit_and_wait(1)
            ring.reap()
        for told, user_data in ((first, 1), (second, 2)):
            assert [entry.user_data for fields in told.of("enter") for _, entry in fields["sqes"]] == [user_data]
            assert [entry.user_data for fields in told.of("reaped") for _, entry in fields["cqes"]] == [user_data]
        first.close()
        two.prep_nop(user_data=3)
        two.submit_and_wait(1)
        assert second.of("enter")[-1]["sqes"][0][1].user_data == 3


def test_a_ring_is_traced_once_and_only_while_it_is_open():
    with Ring(4) as ring, pyuring.trace(ring, io.StringIO()):
        with pytest.raises(ValueError, match="traced already"):
            pyuring.trace(ring)
    with pytest.raises(ValueError, match="is closed"):
        pyuring.trace(ring)


def test_a_subclass_with_attributes_of_its_own_is_traced_as_well():
    class Mine(Ring):
        def __init__(self):
            super().__init__(4)
            self.mine = 5

    with Mine() as ring:
        with Told(ring) as told:
            ring.prep_nop()
            ring.submit()
            assert ring.mine == 5 and isinstance(ring, Mine)
        assert type(ring) is Mine and kinds(told)[:2] == ["enter", "entered"]


# ---- nothing is missed -------------------------------------------------------------------------------
def test_no_module_has_another_name_for_enter():
    """All go through the attribute of syscalls, which a trace replaces."""
    calls = 0
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "syscalls":
                assert "enter" not in [alias.name for alias in node.names], path
            if isinstance(node, ast.Attribute) and node.attr == "enter" and ast.unparse(node.value) == "syscalls":
                calls += 1
                assert path.name in ("ring.py", "batch.py", "watch.py"), path
    assert calls > 10


def test_every_method_that_moves_the_head_of_the_cq_is_watched():
    """Who adds one has to decide here how a trace learns of it."""
    found = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Assign) \
                            and ast.unparse(inner.targets[0]) in ("cq[self._cq_head]", "cq[cq_head]"):
                        found.add(node.name)
    assert found == {"_take", "_take_bytes", "_shorter", "run_again"}       # the last is in the one before it


def _reads(batch):
    for i in range(3):
        batch.prep_nop(user_data=i)


def test_batches_are_told_of_each_time_they_run():
    batch = pyuring.Batch()
    _reads(batch)
    with Ring(8) as ring:
        for _ in range(3):
            ring.run(batch)         # the short way is open now
        with Told(ring) as told:
            for _ in range(4):
                assert [cqe[0] for cqe in ring.run(batch)] == [0, 1, 2]
            assert [len(fields["sqes"]) for fields in told.of("enter") if fields["to_submit"]] == [3] * 4
            assert [len(fields["cqes"]) for fields in told.of("reaped")] == [3] * 4
        assert [cqe[0] for cqe in ring.run(batch)] == [0, 1, 2]


@pytest.mark.parametrize("work", [
    lambda ring: ring.submit(),
    lambda ring: ring.submit_and_get_events(),
    lambda ring: ring.submit_and_wait(1),
    lambda ring: ring.submit_and_wait(1, 5),
    lambda ring: (ring.submit(), ring.get_events()),
    lambda ring: (ring.submit(), ring.wait_cqe()),
    lambda ring: (ring.submit(), ring.wait_cqe(5)),
    lambda ring: (ring.submit(), ring.peek_cqe()),
    lambda ring: (ring.submit(), ring.reap_raw()),
])
def test_whichever_way_a_request_goes_it_is_told_once_and_so_is_its_answer(work):
    with Ring(4) as ring, Told(ring) as told:
        ring.prep_nop(user_data=9)
        work(ring)
        ring.reap()
        sqes = [entry for fields in told.of("enter") for _, entry in fields["sqes"]]
        cqes = [entry for fields in told.of("reaped") for _, entry in fields["cqes"]]
        assert [(entry.name, entry.user_data) for entry in sqes] == [("NOP", 9)]
        assert [(entry.name, entry.user_data) for entry in cqes] == [("NOP", 9)]
        assert kinds(told).count("enter") == kinds(told).count("entered") >= 1


def test_a_wait_shows_its_time_limit_and_that_it_ran_out():
    with Ring(4) as ring, Told(ring) as told:
        if not ring.features & abi.IORING_FEAT_EXT_ARG:
            pytest.skip("a time limit of enter's own is Linux 5.11 (IORING_FEAT_EXT_ARG)")
        ring.submit_and_wait(1, 0.001)
        assert 0 < told.of("enter")[0]["timeout"] <= 0.001
        assert told.of("entered")[0]["result"] == -errno.ETIME
        text = "\n".join(line for kind, fields in told.told for line in watch.lines_of(kind, fields))
        assert "EXT_ARG, timeout " in text and "= -ETIME" in text


def test_head_and_tail_wrap_and_the_entries_are_found():
    with Ring(2) as ring, Told(ring) as told:
        for user_data in range(7):
            ring.prep_nop(user_data=user_data)
            ring.submit_and_wait(1)
            ring.reap()
        assert [number for fields in told.of("enter") for number, _ in fields["sqes"]] == list(range(7))
        assert [entry.user_data for fields in told.of("reaped") for _, entry in fields["cqes"]] == list(range(7))


def test_a_registered_ring_fd_is_recognised_in_its_own_thread_alone():
    with Ring(4) as ring, Told(ring) as told:
        try:
            ring.register_ring_fd()
        except OSError as error:
            pytest.skip(f"register_ring_fd (Linux 5.18): {error}")
        assert told.of("register")[0]["opcode"] == abi.IORING_REGISTER_RING_FDS
        ring.prep_nop()
        ring.submit()
        assert told.of("enter")[-1]["fd"] == ring._enter_fd != ring.fd
        assert told.is_for(ring._enter_fd, abi.IORING_ENTER_REGISTERED_RING)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(
            told.is_for(ring._enter_fd, abi.IORING_ENTER_REGISTERED_RING)))
        thread.start()
        thread.join()
        assert elsewhere == [False]


def _ring_with(flags, entries=8):
    try:
        return Ring(entries, flags=flags)
    except OSError as error:
        pytest.skip(f"setup flags {flags:#x}: {error}")


def test_what_the_kernels_thread_takes_is_told_when_it_is_published():
    with _ring_with(abi.IORING_SETUP_SQPOLL) as ring, Told(ring) as told:
        ring.prep_nop(user_data=5)
        ring.submit_and_wait(1)
        ring.reap()
        published, = told.of("published")
        assert [entry.user_data for _, entry in published["sqes"]] == [5]
        assert watch.lines_of("published", published)[1] == "  SQE 0: NOP user_data=5"
        assert [entry.name for fields in told.of("reaped") for _, entry in fields["cqes"]] == ["NOP"]


def test_cqes_of_32_bytes_have_their_second_half():
    with _ring_with(abi.IORING_SETUP_CQE32) as ring, Told(ring) as told:
        ring.prep_nop(user_data=5)
        ring.submit_and_wait(1)
        cqe, = ring.reap()
        (_, entry), = told.of("reaped")[0]["cqes"]
        assert len(entry.raw) == 32 and cqe.big_cqe == (0, 0)


def test_sqes_of_128_bytes_are_shown_whole():
    with _ring_with(abi.IORING_SETUP_SQE128) as ring, Told(ring) as told:
        ring.prep_nop(user_data=5)
        ring.prep_nop(user_data=6)
        ring.submit_and_wait(2)
        ring.reap()
        sqes = told.of("enter")[0]["sqes"]
        assert [(number, len(entry.raw), entry.user_data) for number, entry in sqes] == [(0, 128, 5), (1, 128, 6)]


def test_sqes_of_both_sizes_are_told_apart():
    with _ring_with(abi.IORING_SETUP_SQE_MIXED) as ring, Told(ring) as told:
        ring.prep_nop(user_data=1)
        ring.prep_nop128(user_data=2)
        ring.prep_nop(user_data=3)
        ring.submit_and_wait(3)
        ring.reap()
        sqes = told.of("enter")[0]["sqes"]
        assert [(number, len(entry.raw), entry.user_data) for number, entry in sqes] == [
            (0, 64, 1), (1, 128, 2), (3, 64, 3)]


def test_a_ring_that_rewinds_begins_at_sqe_0_each_time():
    flags = abi.IORING_SETUP_SQ_REWIND | abi.IORING_SETUP_NO_SQARRAY
    with _ring_with(flags) as ring, Told(ring) as told:
        for user_data in (1, 2):
            ring.prep_nop(user_data=user_data)
            ring.submit_and_wait(1)
            ring.reap()
        assert [entry.user_data for fields in told.of("enter") for _, entry in fields["sqes"]] == [1, 2]


# ---- around it ---------------------------------------------------------------------------------------
def test_an_answer_to_a_request_from_before_the_trace_has_no_name():
    with Ring(4) as ring:
        ring.prep_nop(user_data=3)
        ring.submit()
        with Told(ring) as told:
            ring.reap()
            (_, entry), = told.of("reaped")[0]["cqes"]
            assert entry.name == "" and entry.user_data == 3


def test_a_connect_over_a_traced_ring_works(listener):
    from pyuring.driver import Job, RingDriver
    from pyuring.sockaddr import SockAddr, pack
    with Ring(8) as ring, Told(ring) as told, socket.socket() as sock:
        driver = RingDriver(ring)
        driver.start(Job(sock, SockAddr(pack(socket.AF_INET, listener.getsockname())), "START"))
        while not driver.finished:
            driver.step()
        assert sock.getpeername() == listener.getsockname()
        assert "CONNECT" in [entry.name for fields in told.of("enter") for _, entry in fields["sqes"]]


def test_a_file_that_cannot_be_written_ends_the_call_and_not_the_ring():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Ring(4) as ring:
        with pyuring.trace(ring, Full()):
            ring.prep_nop(user_data=5)
            with pytest.raises(OSError, match="No space left"):
                ring.submit()
        assert ring.submit_and_wait(1) == 1 and ring.reap() == [(5, 0, 0)]


def test_a_child_process_is_rid_of_it():
    with Ring(4) as ring, Told(ring):
        child = os.fork()
        if not child:
            os._exit(0 if not watch._watches and syscalls.enter is REAL_ENTER and ring.closed else 1)
        assert os.waitpid(child, 0)[1] == 0
        ring.prep_nop()
        assert ring.submit_and_wait(1) == 1


def test_importing_pyuring_imports_nothing_that_only_a_trace_needs():
    import subprocess
    import sys
    code = "import sys, pyuring; print([m for m in sys.modules if m in ('pyuring.watch', 'pyuring.decode')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          cwd=PACKAGE.parent)
    assert done.stdout == "[]\n", done.stderr


def test_spans_of_time_have_their_unit():
    assert [watch.in_words(seconds) for seconds in (0.0000041, 0.0123, 0.5, 0.99949, 0.9996, 1.5, 75)] == [
        "4 us", "12.3 ms", "500 ms", "999 ms", "0.9996 s", "1.5 s", "75 s"]
