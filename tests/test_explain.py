"""`python3 -m pyuring explain`, pyuring/reasons.py and timeline.py: the story, its reasons, its picture."""
# ruff: noqa: F811  (fixtures that are imported)
import errno
import io
import json
import os
import re
import signal
import subprocess

import xml.etree.ElementTree as ElementTree

import pytest

import seccomp
from conftest import WHY_NO_RING
from pyuring import abi, client, decode, explain, machine, reasons, syscalls, timeline, watch
from test_cli import (  # noqa: F401  (fixtures among them)
    PYTHON, PYURING, ROOT, WITH_SIGINT, environment, filters, main, mute, refusing, run, target,
)

STRATEGY = "syscall" if WHY_NO_RING else "emulated"


@pytest.fixture(autouse=True)
def put_back():
    """What the story was overheard through is as it was."""
    before = syscalls.connect, syscalls.enter, explain.driver.select, explain.driver.os, client.make_ring
    yield
    assert (syscalls.connect, syscalls.enter, explain.driver.select, explain.driver.os, client.make_ring) == before
    assert not watch._watches


def told(*addresses, timeout=5, strategy=None):
    """The records of one story."""
    story = explain.Story(lambda record: None)
    if len(addresses) == 1:
        explain.tell_one(addresses[0], story, timeout, strategy)
    else:
        explain.tell_many(list(addresses), story, timeout, strategy)
    return story.records


def of(records, kind):
    return [record for record in records if record["kind"] == kind]


# ---- reasons -----------------------------------------------------------------------------------------
def test_every_row_of_the_table_has_its_reason_and_no_other_pair_has_one():
    assert set(reasons.WHY) == set(machine.NEXT)


@pytest.mark.parametrize("state, event", sorted(machine.NEXT))
def test_a_reason_is_for_the_action_that_the_row_takes_and_is_one_sentence(state, event):
    """A row that is sent elsewhere makes its sentence false: this is where that is noticed."""
    action, sentence = reasons.WHY[state, event]
    assert action == machine.NEXT[state, event][1]
    assert re.fullmatch(r"[A-Z].*[.]", sentence, re.ASCII | re.IGNORECASE)
    assert not re.search(r"[.?!] [A-Z]", sentence), "more than one sentence"
    assert 20 < len(sentence) < 200


def test_the_reasons_name_only_errata_that_machine_py_explains():
    named = {name for _, sentence in reasons.WHY.values() for name in re.findall(r"E\d+", sentence)}
    assert named and named <= set(re.findall(r"^  (E\d+) ", machine.__doc__, re.MULTILINE))


def test_every_action_is_said_in_words():
    assert set(reasons.DOING) == set(machine.ACTIONS)


# ---- the story ---------------------------------------------------------------------------------------
def test_a_connect_is_told_from_start_to_done(listener):
    records = told(listener.getsockname())
    states = of(records, "state")
    assert states[0]["state"] == "IDLE" and states[-1]["next"] == "DONE"
    assert [record["next"] for record in states[:-1]] == [record["state"] for record in states[1:]]
    for record in states:
        row = machine.NEXT[record["state"], record["event"]]
        assert (record["next"], record["action"]) == row[:2]
        assert record["why"] == reasons.WHY[record["state"], record["event"]][1]
    outcome, = of(records, "outcome")
    assert outcome["ok"] and records[-1] is outcome
    assert of(records, "target")[0]["strategy"] == STRATEGY
    assert [record["t"] for record in records if record["kind"] in ("state", "enter", "entered", "outcome")] == sorted(
        record["t"] for record in records if record["kind"] in ("state", "enter", "entered", "outcome"))


def test_the_story_leaves_nothing_connected(listener):
    told(listener.getsockname())
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(1) == b""


def test_the_connect_is_there_byte_by_byte_with_its_address(listener, io_uring):
    records = told(listener.getsockname())
    entries = [entry for record in of(records, "enter") for _, entry in record["sqes"]]
    connect, *_ = [entry for entry in entries if entry.name == "CONNECT"]     # more where there is E8
    address, = [field for field in connect.fields if field.name == "addr"]
    assert "127.0.0.1:%d" % listener.getsockname()[1] in address.text and len(address.pointed) == 16
    answers = [entry for record in of(records, "reaped") for _, entry in record["cqes"]]
    assert {entry.user_data for entry in answers} == {entry.user_data for entry in entries}


def test_heads_and_tails_stand_before_and_after_each_enter(listener, io_uring):
    records = told(listener.getsockname())
    enters, entered = of(records, "enter"), of(records, "entered")
    assert len(enters) == len(entered) > 0
    for before, after in zip(enters, entered):
        assert before["sq"][1] - before["sq"][0] == before["to_submit"]
        assert after["sq"][0] - before["sq"][0] == after["result"]


def test_plain_system_calls_are_told_with_strategy_syscall(refused):
    records = told(refused, strategy="syscall")
    calls = of(records, "call")
    assert "connect" in {record["name"] for record in calls}
    assert not of(records, "enter") and not of(records, "ring")
    assert "ECONNREFUSED" in {record["text"] for record in calls}
    assert of(records, "outcome")[0]["error"] == "ECONNREFUSED"


def test_the_bare_opcode_is_told_as_it_is(refused, io_uring):
    records = told(refused, strategy="native")
    assert [record["state"] for record in of(records, "state")] == ["IDLE", "NATIVE"]
    assert of(records, "outcome")[0]["error"] == "ECONNREFUSED"


def test_a_timeout_is_told_with_the_time_that_was_asked_for(silent, io_uring):
    records = told(silent, timeout=0.05)
    entries = [entry for record in of(records, "enter") for _, entry in record["sqes"]]
    limit, = [entry for entry in entries if entry.name == "LINK_TIMEOUT"]
    assert any(re.match(r"0\.0[45]\d* s at 0x", field.text) for field in limit.fields)
    assert of(records, "outcome")[0]["error"] == "timeout"
    assert of(records, "state")[-1]["event"] == "EXPIRED"


def test_an_explicit_strategy_that_is_not_to_be_had_is_told_so(monkeypatch, refused):
    from pyuring import errors
    monkeypatch.setattr(client, "_refused", (errno.EPERM, errors.Diagnosis("seccomp", "seen", "remedy")))
    with pytest.raises(errors.RingUnavailable):
        told(refused, strategy="emulated")
    assert of(told(refused), "ring")[0]["remedy"] == "remedy"


# ---- the command -------------------------------------------------------------------------------------
def test_it_exits_with_0_when_it_connected(main, target):
    code, stdout, stderr = main("explain", target)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"connect to {target}, ") and f"\nconnected to {target} in " in stdout
    assert "\x1b" not in stdout
    if not WHY_NO_RING:
        assert "16 IORING_OP_CONNECT" in stdout and "SQ head 1 tail 2" in stdout


def test_it_exits_with_1_when_it_did_not(main, refusing):
    code, stdout, stderr = main("explain", refusing, "--timeout", "5")
    assert (code, stderr) == (1, "")
    assert f"ECONNREFUSED: connect to {refusing}: Connection refused in " in stdout
    named = set(re.findall(r"\bE\d+\b", stdout.partition("\nHow some kernels'")[0]))
    assert named == set(re.findall(r"^  (E\d+) +\S", stdout, re.MULTILINE))


def test_the_check_of_many_targets_is_told_of_once(main, target, refusing):
    _, stdout, _ = main("explain", target, refusing, target, "--timeout", "5")
    sends = stdout.count(": SEND ")
    assert stdout.count("The SEND of nothing") == (1 if sends else 0)
    assert bool(sends) == ("\n  E23 " in stdout)


@pytest.mark.parametrize("arguments", [(), ("nohost",), ("127.0.0.1:1", "--timeout", "-1"), ("--no-such-option",),
                                       ("127.0.0.1:1", "--strategy", "best")])
def test_bad_usage_is_told_and_exits_with_2(main, arguments):
    code, stdout, stderr = main("explain", *arguments)
    assert (code, stdout) == (2, "") and stderr.count("\n") == 1


def test_a_name_that_nobody_knows_exits_with_1(main, monkeypatch):
    import socket

    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    code, stdout, _ = main("explain", "nosuch.invalid:1")
    assert code == 1 and "EAI_NONAME: Name or service not known" in stdout and "getaddrinfo(3)" in stdout


def test_json_is_one_object_a_line(main, target):
    code, stdout, stderr = main("explain", target, "--json")
    records = [json.loads(line) for line in stdout.splitlines()]
    assert (code, stderr) == (0, "")
    assert records[0]["kind"] == "target" and records[-1]["kind"] == "outcome" and records[-1]["ok"]
    assert all(isinstance(record["t_ms"], float) for record in records)
    if not WHY_NO_RING:
        enter = of(records, "enter")[0]
        assert enter["sqes"][0]["name"] == "CONNECT" and len(bytes.fromhex(enter["sqes"][0]["raw"])) == 64


def test_several_targets_are_a_trace_with_an_outcome_each(main, target, refusing):
    code, stdout, stderr = main("explain", target, refusing, "--timeout", "5")
    assert (code, stderr) == (1, "")
    assert f"connected to {target} in " in stdout and "ECONNREFUSED" in stdout
    assert stdout.endswith("1 of 2 connected\n")


def test_it_is_in_the_help():
    done = run(*PYURING, "explain", "--help")
    assert done.returncode == 0 and "--svg FILE" in done.stdout


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("no_color", ["", "1"])
def test_there_is_colour_only_on_a_terminal_and_not_with_no_color(monkeypatch, refused, no_color):
    monkeypatch.setenv("NO_COLOR", no_color)
    for out, coloured in ((Terminal(), not no_color), (io.StringIO(), False)):
        story = explain.Story(explain._Printer(out, fields=True))
        explain.tell_one(refused, story, 5)
        assert ("\x1b[31m" in out.getvalue()) == coloured
        assert out.getvalue().count("\x1b[0m") * 2 == out.getvalue().count("\x1b[")


def test_where_io_uring_is_blocked_it_tells_why_and_the_story_of_the_system_calls(filters, target, mute):
    for arguments, code in (([target], 0), ([mute, "--timeout", "0.05"], 1), ([target, target], 0)):
        done = run(PYURING[0], seccomp.__file__, "EPERM", *PYURING, "explain", *arguments)
        assert (done.returncode, done.stderr) == (code, "")
        assert "EPERM" in done.stdout and "So this is the story of the plain system calls." in done.stdout
        assert "connect(2) fd " in done.stdout and "io_uring_enter(2)" not in done.stdout
    done = run(PYURING[0], seccomp.__file__, "EPERM", *PYURING, "explain", target, "--strategy", "native")
    assert done.returncode == 1 and done.stderr.startswith("explain: io_uring_setup: EPERM")


def test_ctrl_c_exits_with_130_and_says_nothing(mute):
    child = subprocess.Popen(
        (*PYTHON, "-c", WITH_SIGINT, "explain", mute, "--timeout", "60"), cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stdout:           # it waits, or is about to: whichever, Ctrl-C ends it
        if "-> WAITING" in line:
            break
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (130, "")


def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly(target):
    for arguments in ([target], [target, "--json"], [target, target]):
        read, write = os.pipe()
        os.close(read)
        with open(write, "wb") as stdout:
            done = subprocess.run((*PYURING, "explain", *arguments), stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT,
                                  timeout=60, env=environment())
        assert (done.returncode, done.stderr) == (141, b"")


# ---- the picture -------------------------------------------------------------------------------------
SVG = "{http://www.w3.org/2000/svg}"


def parsed(text):
    """(root, {class: how many rects}) of an SVG."""
    root = ElementTree.fromstring(text)
    assert root.tag == SVG + "svg"
    rects = {}
    for rect in root.iter(SVG + "rect"):
        rects[rect.get("class")] = rects.get(rect.get("class"), 0) + 1
    return root, rects


def words(root):
    return ["".join(element.itertext()) for element in root.iter(SVG + "text")]


def test_svg_writes_a_timeline_of_one_connect(main, refusing, tmp_path):
    path = tmp_path / "one.svg"
    code, _, stderr = main("explain", refusing, "--timeout", "5", "--svg", str(path))
    assert (code, stderr) == (1, "")
    root, rects = parsed(path.read_text(encoding="utf-8"))
    shown = words(root)
    assert any(text.startswith("connect(2)") for text in shown) or "states" in shown[0] or rects["state"] > 1
    assert rects["error"] >= 2              # one in the legend
    assert any(text.endswith((" us", " ms", " s")) for text in shown)


def test_the_last_state_has_its_name_and_a_request_begins_with_its_enter(refused, io_uring):
    story = told(refused, timeout=5)
    states, enters, *others = timeline.lanes_of(story)[0]
    assert (states.label, enters.label) == ("states", "io_uring_enter(2)")
    assert states.bars[-1][3] in words(parsed(timeline.draw(story, "one"))[0])
    assert {bar[0] for lane in others for bar in lane.bars if lane.label.startswith("CONNECT ")} <= {
        bar[0] for bar in enters.bars}


def test_svg_of_several_targets_has_a_lane_for_each_request(main, target, refusing, mute, tmp_path):
    path = tmp_path / "many.svg"
    code, _, stderr = main("explain", target, refusing, mute, "--timeout", "0.1", "--svg", str(path))
    assert (code, stderr) == (1, "")
    root, rects = parsed(path.read_text(encoding="utf-8"))
    shown = " ".join(words(root))
    for where in (target, refusing, mute):
        assert where in shown
    assert {"ok", "error", "timeout"} <= set(rects)


def test_a_file_that_cannot_be_written_is_told(main, target):
    code, _, stderr = main("explain", target, "--svg", "/nonexistent/x.svg")
    assert code == 1 and "No such file or directory" in stderr


def test_the_picture_is_for_light_pages_and_for_dark_ones():
    text = timeline.draw([], "nothing")
    parsed(text)
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for name in timeline.COLOURS:
        assert f".{name}{{fill:" in light and f".{name}{{fill:" in dark
    assert ".page{fill:#ffffff}" in light and ".page{fill:#12161f}" in dark


def test_whatever_a_target_is_called_the_xml_is_valid():
    record = {"kind": "outcome", "t": 0.5, "elapsed": 0.4, "ok": False, "error": "ENOENT",
              "target": 'unix:<&"\'\x00\x1b\udcff\uffff>', "message": "<no>"}
    root, _ = parsed(timeline.draw([record], "<title> & more"))
    assert "<title> & more" in words(root)


def _sqe(number, opcode, user_data, flags=0):
    raw = abi.SQE.pack(opcode, flags, 0, -1, 0, 0, 0, 0, user_data, 0, 0, 0, 0, 0)
    return number, decode.sqe(raw)


def _cqe(number, opcode, user_data, res, flags=0):
    return number, decode.cqe(abi.CQE.pack(user_data, res, flags), opcode)


LINKED, SKIP = abi.IOSQE_IO_HARDLINK, abi.IOSQE_CQE_SKIP_SUCCESS


def colours(records):
    """{label: colours of its bars} of the requests."""
    lanes, _ = timeline.lanes_of(records)
    return {lane.label.split()[-1]: [bar[2] for bar in lane.bars] for lane in lanes}


def chain_of(*cqes):
    return [{"kind": "enter", "t": 0.0, "sqes": [
        _sqe(0, abi.IORING_OP_SOCKET, 1, LINKED | SKIP), _sqe(1, abi.IORING_OP_CONNECT, 2, LINKED | SKIP),
        _sqe(2, abi.IORING_OP_LINK_TIMEOUT, 3, LINKED | SKIP), _sqe(3, abi.IORING_OP_CLOSE, 4)]},
        {"kind": "reaped", "t": 1.0, "cqes": list(cqes)}]


def test_a_chain_that_says_nothing_ends_with_its_last_request():
    assert colours(chain_of(_cqe(0, abi.IORING_OP_CLOSE, 4, 0))) == {
        "#1": ["quiet"], "#2": ["quiet"], "#3": ["quiet"], "#4": ["ok"]}
    assert colours(chain_of(_cqe(0, abi.IORING_OP_CONNECT, 2, -errno.ECONNREFUSED), _cqe(1, abi.IORING_OP_CLOSE, 4, 0))
                   ) == {"#1": ["quiet"], "#2": ["error"], "#3": ["quiet"], "#4": ["ok"]}


def test_a_silent_time_limit_that_ran_out_is_a_timeout():
    assert colours(chain_of(_cqe(0, abi.IORING_OP_CONNECT, 2, -errno.ECANCELED), _cqe(1, abi.IORING_OP_CLOSE, 4, 0))
                   ) == {"#1": ["quiet"], "#2": ["cancelled"], "#3": ["timeout"], "#4": ["ok"]}


def test_a_request_without_an_answer_is_open_to_the_end():
    records = chain_of()
    assert set(map(tuple, colours(records).values())) == {("open",)}


def test_a_multishot_request_has_a_bar_for_each_answer():
    records = [{"kind": "enter", "t": 0.0, "sqes": [_sqe(0, abi.IORING_OP_POLL_ADD, 7)]},
               {"kind": "reaped", "t": 1.0, "cqes": [_cqe(0, abi.IORING_OP_POLL_ADD, 7, 1, abi.IORING_CQE_F_MORE)]},
               {"kind": "reaped", "t": 2.0, "cqes": [_cqe(1, abi.IORING_OP_POLL_ADD, 7, -errno.ETIME)]}]
    assert colours(records) == {"#7": ["ok", "timeout"]}


def test_user_data_that_is_used_again_begins_a_new_lane():
    once = [{"kind": "enter", "t": 0.0, "sqes": [_sqe(0, abi.IORING_OP_NOP, 7)]},
            {"kind": "reaped", "t": 1.0, "cqes": [_cqe(0, abi.IORING_OP_NOP, 7, 0)]}]
    lanes, _ = timeline.lanes_of(once + [dict(record, t=record["t"] + 2) for record in once])
    assert [[bar[:2] for bar in lane.bars] for lane in lanes] == [[(0.0, 1.0)], [(2.0, 3.0)]]


def test_more_lanes_than_can_be_looked_at_are_counted():
    records = [{"kind": "enter", "t": 0.0, "sqes": [_sqe(i, abi.IORING_OP_NOP, i) for i in range(450)]}]
    root, _ = parsed(timeline.draw(records, "many"))
    assert "and 50 more lanes, not drawn" in words(root)


@pytest.mark.parametrize("end", [2e-6, 3e-4, 0.2, 0.9, 7, 131, 1e5])
def test_the_axis_has_a_few_round_ticks(end):
    ticks = timeline._ticks(end)
    assert 3 <= len(ticks) <= 10 and ticks[0][0] == 0 and ticks[-1][0] <= end


def test_flags_are_those_of_the_abi():
    assert timeline.IOSQE_CHAINS == abi.IOSQE_IO_LINK | abi.IOSQE_IO_HARDLINK
    assert (timeline.IOSQE_SKIPS, timeline.IORING_CQE_F_MORE) == (abi.IOSQE_CQE_SKIP_SUCCESS, abi.IORING_CQE_F_MORE)
