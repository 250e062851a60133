"""pyuring/cli.py: what people see, and what scripts rely on: lines, exit codes, one line of complaint.

main() runs in this process where only its text and exit code matter, and in a child where streams,
signals or a filter on the process do. Every child runs with -X dev and warnings as errors, so that an
empty stderr says that nothing was left open.
"""
import errno
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

import pyuring
import seccomp
from conftest import WHY_NO_RING
from pyuring import abi, cli, eras, errors, probe, report
from test_capabilities import filters  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parent.parent
PYTHON = (sys.executable, "-X", "dev", "-W", "error")
PYURING = (*PYTHON, "-m", "pyuring")


def environment(**changes):
    """This process's, without what would change the output."""
    kept = {name: value for name, value in os.environ.items()
            if name not in ("NO_COLOR", "TERM", "COLUMNS") and not name.startswith("PYTHON")}
    return {**kept, "PYTHONIOENCODING": "utf-8", **changes}


def run(*command, env=None, **options):
    """A command in a child process -> CompletedProcess, with text."""
    return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, text=True,
                          env=environment(**(env or {})), **options)


@pytest.fixture
def main(capfd):
    """main(argument, ...) runs in this process -> (exit code, stdout, stderr)."""
    def run_main(*arguments):
        code = cli.main(list(arguments))
        return (code, *capfd.readouterr())
    return run_main


@pytest.fixture
def target(listener):
    """The listener, as the command line spells it."""
    return "127.0.0.1:%d" % listener.getsockname()[1]


@pytest.fixture
def refusing(refused):
    """A port where nobody listens, as the command line spells it."""
    return "127.0.0.1:%d" % refused[1]


@pytest.fixture
def mute(silent):
    """A listener that never answers, as the command line spells it."""
    return "127.0.0.1:%d" % silent[1]


def lines_of(stdout):
    """Outcome lines as {target: what}, and the summary."""
    *lines, summary = stdout.splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}, summary


# ---- the tour ---------------------------------------------------------------------------------------

def rows_of(stdout):
    """The two tables of the tour, as lists of the names in their first column."""
    tables = re.findall(r"first .*\n((?:  \S.*\n)+)", stdout)
    return [[re.split(r"  +", line.strip())[0] for line in table.splitlines()] for table in tables]


def test_the_tour_compares_the_three_ways_and_exits_0():
    done = run(*PYURING)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"pyuring {pyuring.__version__} on Linux {os.uname().release}" in done.stdout
    ours = f"pyuring ({probe().strategy})"
    opcode = ["IORING_OP_CONNECT"] if probe().available else []
    assert rows_of(done.stdout) == 2 * [["connect(2)", *opcode, ours]]
    assert "\x1b" not in done.stdout
    if probe().available:
        assert "CQE(user_data=42, res=0, flags=0)" in done.stdout


def test_pyuring_never_differs_from_connect2_in_the_tour(main):
    code, stdout, _ = main()
    ours = [line for line in stdout.splitlines() if line.startswith("  pyuring (")]
    theirs = [line for line in stdout.splitlines() if line.startswith("  connect(2) ")]
    assert [line.split()[2:] for line in ours] == [line.split()[1:] for line in theirs]
    assert not any("*" in line for line in ours)
    assert ours[0].split()[2:] == ["0", "EISCONN"]
    assert ours[1].split()[2:] == ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED", "0"]
    assert code == 0


def test_what_differs_is_marked(capsys):
    answers = iter((["0", "EISCONN"], ["0", "0"], ["0", "EISCONN"]))
    works = probe()._replace(available=True, strategy="emulated")
    cli._compare(None, works, ("first", "second"), lambda address, connect: next(answers))
    assert capsys.readouterr().out == (
        "                      first  second\n"
        "  connect(2)          0      EISCONN\n"
        "  IORING_OP_CONNECT   0      0 *\n"
        "  pyuring (emulated)  0      EISCONN\n")


def test_the_tour_touches_nothing_but_loopback():
    """Goal: it needs no network and no names. Method: an audit hook that sees every attempt."""
    code = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.bind"):
        # "": probe() has the kernel name an AF_UNIX socket
        assert arguments[1] == "" or arguments[1][0] == "127.0.0.1", arguments
        print("seen", event)
    assert event not in ("socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen"), event
sys.addaudithook(hook)
from pyuring.cli import main
sys.exit(main([]))
"""
    done = run(*PYTHON, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seen socket.connect" in done.stdout and "seen socket.bind" in done.stdout


def test_the_tour_says_what_to_run_next_and_that_runs(main):
    _, stdout, _ = main()
    commands = re.findall(r"(python3 \S+ ?\S* ?\S*)  ", stdout[stdout.index("Next:"):])
    assert "python3 -m pyuring doctor" in commands
    for command in commands:
        assert command.startswith("python3 -m pyuring") or (ROOT / command.split()[1]).exists()


# ---- doctor -----------------------------------------------------------------------------------------

KEYS = {"usable", "cause", "reason", "remedy", "strategy", "kernel", "machine", "python", "pyuring",
        "setup_flags", "features", "opcodes", "opcodes_missing", "io_uring_disabled",
        "io_uring_group", "seccomp", "sandbox", "memlock", "nofile", "open_files", "connect_era",
        "connect_errata"}


def test_doctor_exits_0_where_io_uring_is_usable_and_1_where_not(main):
    code, stdout, stderr = main("doctor")
    assert code == (1 if WHY_NO_RING else 0)
    assert stdout.startswith("io_uring is not usable here (" if WHY_NO_RING
                             else "io_uring is usable here.\n")
    assert stderr == ""
    for word in (os.uname().release, os.uname().machine, probe().strategy, "RLIMIT_NOFILE"):
        assert word in stdout
    assert all(len(line) < 120 for line in stdout.splitlines()
               if not line.startswith(("  seen ", "  remedy ")))    # one line each, to be copied


def test_doctor_json_is_one_object_with_what_probe_found(main):
    code, stdout, _ = main("doctor", "--json")
    report, works = json.loads(stdout), probe()
    assert stdout.count("\n") == 1
    assert set(report) == KEYS
    assert code == (0 if report["usable"] else 1)
    assert [report[key] for key in ("usable", "cause", "reason", "remedy", "strategy", "kernel")] == [
        works.available, works.cause, works.reason, works.remedy, works.strategy, works.release]
    assert set(report["opcodes"]) == works.ops
    assert sum(getattr(abi, f"IORING_FEAT_{name}") for name in report["features"]) & ~works.features == 0
    assert all(works.setup_flags & getattr(abi, f"IORING_SETUP_{name}") for name in report["setup_flags"])


def test_doctor_names_the_opcodes_that_are_missing(main, monkeypatch):
    works = probe()._replace(available=True, strategy="emulated",
                             ops=frozenset(row.name for row in abi.OPCODES) - {"pipe"})
    monkeypatch.setattr(cli, "probe", lambda: works)
    _, stdout, _ = main("doctor")
    assert "not here: pipe\n" in stdout
    assert json.loads(main("doctor", "--json")[1])["opcodes_missing"] == ["pipe"]


# ---- opcodes ----------------------------------------------------------------------------------------

def test_opcodes_shows_the_table_against_the_probe(main):
    code, stdout, stderr = main("opcodes")
    works = probe()
    lines = stdout.splitlines()
    assert (code, stderr) == (0, "")
    for row in abi.OPCODES:
        line = lines[1 + 2 * row.number].split()
        assert line[:3] == [str(row.number), row.name, row.since]
        assert line[3] == ("?" if not works.ops else "yes" if row.name in works.ops else "no")
        assert line[4:] == [helper if helper != "prep_rw" else "prep_recv_zc" for helper in row.helpers]
        assert lines[2 + 2 * row.number].strip() == row.fields
    assert works.release in lines[-1]


def test_opcodes_json_is_one_object(main):
    code, stdout, _ = main("opcodes", "--json")
    report, works = json.loads(stdout), probe()
    assert code == 0 and stdout.count("\n") == 1
    assert [row["name"] for row in report["opcodes"]] == [row.name for row in abi.OPCODES]
    for row in report["opcodes"]:
        assert set(row) == {"number", "name", "since", "fields", "helpers", "supported"}
        assert row["supported"] == (row["name"] in works.ops if works.ops else None)
        assert all(hasattr(pyuring.Ring, helper) for helper in row["helpers"])


@pytest.mark.parametrize("ops, here, last", [
    (frozenset(), "?", "can't be asked which it has: because."),
    (frozenset(("nop", "op70", "op71")), "yes", "has 1 of these 65, and newer ones: op70 op71."),
], ids=["blocked", "newer"])
def test_opcodes_says_what_it_does_not_know(ops, here, last, main, monkeypatch):
    works = probe()._replace(available=bool(ops), reason="" if ops else "because", ops=ops)
    monkeypatch.setattr(cli, "probe", lambda: works)
    code, stdout, _ = main("opcodes")
    assert code == 0 and stdout.splitlines()[1].split()[3] == here
    assert stdout.endswith(last + "\n")


def behaves(monkeypatch, letter, release, connect=None):
    """From now on doctor runs on a kernel that behaves like that era."""
    if connect is None:
        connect = tuple(erratum.id for erratum in eras.ERRATA.values()
                        if letter in erratum.eras and erratum.scope == "request")
    works = probe()._replace(available=True, strategy="emulated", cause="", reason="", release=release,
                             connect=connect, era=letter)
    monkeypatch.setattr(cli, "probe", lambda: works)


def test_doctor_says_which_errata_this_kernel_shows(main):
    works = probe()
    _, stdout, _ = main("doctor")
    report = json.loads(main("doctor", "--json")[1])
    assert report["connect_era"] == works.era
    if works.connect is None:
        assert report["connect_errata"] is None
        return
    assert [erratum["id"] for erratum in report["connect_errata"]] == list(works.connect)
    assert "pyuring.connect() is not affected" in stdout or not works.connect
    words = " ".join(stdout.split())
    for erratum in report["connect_errata"]:
        assert set(erratum) == {"id", "title", "symptom", "advice", "fixed_in", "report"}
        assert f"{erratum['id']} {erratum['symptom']}" in words
        assert eras.ERRATA[erratum["id"]].workaround in words
    if works.era:
        assert f"replay {works.era}" in stdout


def test_doctor_names_the_first_fixed_release_of_the_branch(main, monkeypatch):
    behaves(monkeypatch, "B", "6.1.8")
    _, stdout, _ = main("doctor")
    words = " ".join(stdout.split())
    assert "like era B's" in words and "vendor" not in words
    assert "submit the same request once more, and take that answer. Fixed in 6.1.22." in words
    assert "Fixed in 6.1.63, back in 6.1.147." in words
    assert "No release so far has a fix for E4, E13, E14." in words
    report = json.loads(main("doctor", "--json")[1])
    assert {erratum["id"]: erratum["fixed_in"] for erratum in report["connect_errata"]} == {
        "E4": None, "E7": "6.1.22", "E8": "6.1.63", "E11": "6.1.63", "E13": None, "E14": None,
            "E23": "6.1.63", "E24": "6.1.63"}
    e7, = (erratum for erratum in report["connect_errata"] if erratum["id"] == "E7")
    assert e7["advice"].startswith("Treat ECONNABORTED as not tried")
    assert e7["report"] == "axboe/liburing#828, axboe/liburing#1274"


@pytest.mark.parametrize("letter, release, words", [
    ("A", "5.15.148", "Fixed in 6.14, never in 5.15.y."), ("D", "6.8.12", "Fixed in 6.14, never in 6.8.y."),
    ("E", "5.14.0-570.el9.x86_64", "Fixed in 6.16."), ("E", "no number at all", "Fixed in 6.16."),
    ("B", "6.0.9", "Fixed in 6.3, never in 6.0.y."), ("-", "5.4.0", "Fixed in 5.5, never in 5.4.y.")])
def test_doctor_says_where_else_it_is_fixed(main, monkeypatch, letter, release, words):
    behaves(monkeypatch, letter, release)
    code, stdout, stderr = main("doctor")
    assert (code, stderr) == (0, "")
    assert words in " ".join(stdout.split())


@pytest.mark.parametrize("letter, release, words", [
    ("F", "6.18.44", "Not in 6.7 to 6.15 as they came out; back in 6.16; no later fix in 6.18.y."),
    ("G", "7.3.4", "Not in 6.7 to 6.15 as they came out; back in 6.16; no later fix in 7.3.y."),
    ("C", "6.4.16", "Not in 6.7 to 6.15 as they came out; back in 6.16; no later fix in 6.4.y."),
    ("B", "6.0.9", "Not in 6.7 to 6.15 as they came out; back in 6.16; no later fix in 6.0.y."),
    ("F", "6.12.100", "Not in 6.7 to 6.15 as they came out; back in 6.16; no later fix in 6.12.y."),
    ("F", "5.14.0-570.el9.x86_64", "Not in 6.7 to 6.15 as they came out; back in 6.16.")])
def test_doctor_says_where_it_was_fixed_for_a_while(main, monkeypatch, letter, release, words):
    """E11, E23 and E24 came, went and came back: that no release has a fix would not be true."""
    behaves(monkeypatch, letter, release)
    report = json.loads(main("doctor", "--json")[1])
    advice = {erratum["id"]: erratum["advice"] for erratum in report["connect_errata"]}
    for name in ("E11", "E23", "E24"):
        assert advice[name] == f"{eras.ERRATA[name].workaround} {words}"
    assert advice["E13"].endswith("No release has a fix so far.")
    _, stdout, _ = main("doctor")
    unfixed = stdout[stdout.index("No release so far has a fix for"):].splitlines()[0]
    assert "E13" in unfixed and "E11" not in unfixed and "E23" not in unfixed and "E24" not in unfixed


def test_doctor_does_not_call_the_first_release_that_was_measured_the_first_that_is_fixed(main, monkeypatch):
    """E5: there on 5.10.46, not there on 5.10.218, and nobody ran the releases between."""
    behaves(monkeypatch, "A", "5.10.46", ("E5", "E9", "E17"))
    report = json.loads(main("doctor", "--json")[1])
    found = {erratum["id"]: (erratum["fixed_in"], erratum["advice"]) for erratum in report["connect_errata"]}
    assert found["E5"] == (None, eras.ERRATA["E5"].workaround + " Fixed in 5.10.218 or before.")
    assert found["E17"] == ("5.10.162", eras.ERRATA["E17"].workaround + " Fixed in 5.10.162.")


@pytest.mark.parametrize("code, remedy", [
    (errno.EMFILE, "ulimit -n"), (errno.EADDRNOTAVAIL, "ip link set lo up")])
@pytest.mark.parametrize("what", ["B", "--all"])
def test_replay_without_sockets_says_what_to_do(main, monkeypatch, code, remedy, what):
    def play(*arguments):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(cli.eras, "play", play)
    code_, _, stderr = main("replay", what)
    assert code_ == 1
    assert os.strerror(code) in stderr and remedy in stderr


@pytest.mark.parametrize("release, vendor", [
    ("6.1.0-50-cloud-amd64", True), ("6.1.30", False), ("odd", True)])
def test_doctor_sends_those_with_a_vendors_kernel_to_the_vendor(main, monkeypatch, release, vendor):
    behaves(monkeypatch, "C", release)
    assert (f"{release} is a vendor's" in main("doctor")[1]) == vendor


def test_doctor_where_connect_was_not_examined_or_is_like_no_era(main, monkeypatch):
    behaves(monkeypatch, "", "6.18.44")
    works = cli.probe()._replace(connect=None, reason="IORING_OP_CONNECT was not examined: [Errno 24] no file")
    monkeypatch.setattr(cli, "probe", lambda: works)
    _, stdout, _ = main("doctor")
    assert "was not examined: [Errno 24] no file. It is tried on TCP" in stdout and "None" not in stdout
    assert stdout.count("not examined") == 1
    assert json.loads(main("doctor", "--json")[1])["connect_errata"] is None
    behaves(monkeypatch, "", "9.1", connect=("E10",))
    _, stdout, _ = main("doctor")
    assert "like no era's that pyuring knows" in stdout and "Fixed in 6.16." in stdout
    assert "replay" not in stdout
    behaves(monkeypatch, "", "9.1", connect=())
    _, stdout, _ = main("doctor")
    assert "as connect(2) does." in stdout and "None" not in stdout


def test_doctor_without_proc_admits_what_it_does_not_know(main, monkeypatch, tmp_path):
    monkeypatch.setattr("pyuring.host.PROC", str(tmp_path))
    _, stdout, stderr = main("doctor")
    assert stderr == "" and "None" not in stdout
    assert "unknown" in stdout


# ---- replay -----------------------------------------------------------------------------------------

def tables_of(stdout):
    """{title: {first column: the other cells}} of what replay prints."""
    found = {}
    for title, table in re.findall(r"^(\S.*):\n   +\S.*\n((?:  \S.*\n)+)", stdout, re.M):
        rows = (re.split(r"  +", line.strip()) for line in table.splitlines())
        found[title] = {name: cells for name, *cells in rows}
    return found


def test_replay_6_2_is_refused_111_103_111_beside_connect2_and_pyuring(main):
    code, stdout, stderr = main("replay", "6.2")
    assert (code, stderr) == (0, "")
    assert stdout.startswith("Linux 6.2: era B of IORING_OP_CONNECT: ")
    ours = f"pyuring ({probe().strategy})"
    tables = tables_of(stdout)
    refused = tables["Refused three times on one socket, and then connect(2)"]
    assert list(refused) == ["connect(2)", "era B, acted out", ours]
    assert refused["connect(2)"] == refused[ours] == ["111", "111", "111", "111"]
    assert refused["era B, acted out"] == ["111", "103 *", "111", "103 *"]
    assert tables["Connected, and again"]["era B, acted out"] == ["0", "0 *", "106"]
    assert list(tables) == [scene.title for scene in eras.SCENES]
    for rows in tables.values():        # pyuring is the one that does not differ
        if "pending" not in rows["connect(2)"]:
            assert rows[ours] == rows["connect(2)"]
    words = " ".join(stdout.split())
    assert eras.ERAS["B"].why in words
    assert "103 ECONNABORTED" in words and "axboe/liburing#828" in words
    assert "vendor" not in words and max(map(len, stdout.splitlines())) <= 100


@pytest.mark.parametrize("era, heading, words", [
    ("g", "Era G of IORING_OP_CONNECT: ", "6.12.y from 6.12.117"),
    ("-", "Era - of IORING_OP_CONNECT: ", "mainline until 5.5"),
    ("6.1.0-50-cloud-amd64", "Linux 6.1: era B", "6.1.0-50-cloud-amd64 is a vendor's version."),
    ("9.9", "Linux 9.9: era G", "is assumed")])
def test_replay_takes_letters_and_versions_and_says_what_they_prove(main, monkeypatch, era, heading, words):
    monkeypatch.setattr(eras, "SCENES", eras.SCENES[:1])
    monkeypatch.setattr(eras.play, "__defaults__", (eras.SCENES,))
    code, stdout, stderr = main("replay", era)
    assert (code, stderr) == (0, "")
    assert stdout.startswith(heading) and words in " ".join(stdout.split())
    assert list(tables_of(stdout)) == [eras.SCENES[0].title]


def test_replay_alone_is_the_history_each_era_with_its_reason_commit_and_reports(main):
    code, stdout, stderr = main("replay")
    assert (code, stderr) == (0, "")
    head, *told = stdout.split("\nEra ")
    assert "; pending: it would wait for ever; -: not asked" in " ".join(head.split())
    assert "loopback" in head and [era[0] for era in told] == list(eras.ERAS)
    flat = " ".join(stdout.split())
    for letter, text in zip(eras.ERAS, told):
        era, words = eras.ERAS[letter], " ".join(text.split())
        assert era.what in words and era.why in words and f"Has it: {eras.releases(letter)}." in words
        assert (f"Commit: {era.commit}" in words) == bool(era.commit)
        assert all(report in words for report in era.reports)
        rows = [line for line in text.splitlines() if line.startswith(("  connect(2) ", f"  era {letter} ", "  pyuring"))]
        assert len(rows) == 3 and "*" not in rows[0] + rows[2]
    assert "E7 ECONNABORTED after a refusal [axboe/liburing#828, axboe/liburing#1274]" in flat
    assert "111 103 111 103 *" in told[3] and "replay --all" in told[-1]


def test_every_era_but_the_time_before_has_its_commit():
    assert [letter for letter, era in eras.ERAS.items() if not era.commit] == ["-"]


def test_replay_all_is_one_table_of_all_eras(main):
    code, stdout, stderr = main("replay", "--all")
    assert (code, stderr) == (0, "")
    table, = tables_of(stdout.replace("kernel:\n\n", "kernel:\n")).values()
    assert list(table) == ["connect(2)", *(f"era {letter}" for letter in eras.ERAS),
                           f"pyuring ({probe().strategy})"]
    assert table["era B"][:3] == ["111 103 111 103 *", "111 103 0 *", "0 0 106 *"]
    assert table["era F"][:3] == ["111 111 111 103 *", "111 0 106", "0 106 106"]
    assert max(map(len, stdout.splitlines())) <= 100


def test_ctrl_c_during_a_replay_is_130_without_a_traceback():
    child = subprocess.Popen((*PYTHON, "-u", "-c", WITH_SIGINT, "replay", "6.2"), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
    with child:
        assert child.stdout.readline().startswith("Linux 6.2")
        child.send_signal(signal.SIGINT)        # a second of it is still to come
        _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (130, "")


# ---- connect: what comes of it ----------------------------------------------------------------------

def test_connected_is_ok_and_exit_0(main, target, strategy):
    code, stdout, stderr = main("connect", "--strategy", strategy, target)
    assert (code, stderr) == (0, "")
    assert re.fullmatch(rf"ok            {target}  \d+\.\d ms\n"
                        rf"1 of 1 connected in \d+\.\d{{3}} s \({strategy}\)\n", stdout)


def test_the_strategy_that_was_picked_is_said(main, target):
    assert main("connect", target)[1].endswith(f"({probe().strategy})\n")


def test_refused_is_its_errno_and_exit_1(main, target, refusing, strategy):
    code, stdout, stderr = main("connect", "--strategy", strategy, target, refusing, refusing)
    assert (code, stderr) == (1, "")
    outcomes, summary = lines_of(stdout)
    assert outcomes == {target: "ok", refusing: "ECONNREFUSED"}
    assert summary.startswith("1 of 3 connected, 2 ECONNREFUSED in ")


def test_a_timeout_is_called_one_and_exit_1(main, target, mute, strategy):
    code, stdout, stderr = main("connect", "--strategy", strategy, "--timeout", "0.2", mute, target)
    assert (code, stderr) == (1, "")
    outcomes, summary = lines_of(stdout)
    assert outcomes == {mute: "timeout", target: "ok"}
    assert summary.startswith("1 of 2 connected, 1 timeout in ")


def test_unix_sockets_by_path_and_by_abstract_name(main, tmp_path, monkeypatch, strategy):
    monkeypatch.chdir(tmp_path)
    name = f"pyuring-test-{os.getpid()}-{strategy}"
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as abstract:
        path.bind("listener")
        abstract.bind(b"\0" + name.encode())
        path.listen()
        abstract.listen()
        code, stdout, _ = main("connect", "--strategy", strategy, "unix:listener", f"unix:@{name}",
                               "unix:nothing-here", "unix:@nobody-has-this-name")
    assert code == 1
    assert lines_of(stdout)[0] == {
        "unix:listener": "ok", f"unix:@{name}": "ok", "unix:nothing-here": "ENOENT",
        "unix:@nobody-has-this-name": "ECONNREFUSED"}


def test_an_ipv6_address_in_brackets(main, strategy):
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    with sock:
        target = "[::1]:%d" % sock.getsockname()[1]
        code, stdout, _ = main("connect", "--strategy", strategy, target)
    assert code == 0 and lines_of(stdout)[0] == {target: "ok"}


def test_names_are_resolved_and_one_that_is_not_is_an_outcome(main, listener, monkeypatch):
    resolve, port = socket.getaddrinfo, listener.getsockname()[1]

    def getaddrinfo(host, *rest):
        if host == "nowhere.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        assert host == "somewhere.test"
        return resolve("127.0.0.1", *rest)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    code, stdout, stderr = main("connect", f"somewhere.test:{port}", f"nowhere.test:{port}")
    assert (code, stderr) == (1, "")
    outcomes, summary = lines_of(stdout)
    assert outcomes == {f"somewhere.test:{port}": "ok", f"nowhere.test:{port}": "EAI_NONAME"}
    assert "1 EAI_NONAME" in summary


def test_localhost_resolves(main, target):
    if socket.getaddrinfo("localhost", 1, 0, socket.SOCK_STREAM)[0][0] != socket.AF_INET:
        pytest.skip("localhost is ::1 first here, and the listener is on 127.0.0.1")
    assert main("connect", target.replace("127.0.0.1", "localhost"))[0] == 0


def test_json_is_one_object_a_line_and_nothing_else(main, target, refusing, mute, strategy):
    code, stdout, stderr = main("connect", "--json", "--strategy", strategy, "--timeout", "0.2", target,
                                refusing, mute)
    assert (code, stderr) == (1, "")
    found = {outcome["target"]: outcome for outcome in map(json.loads, stdout.splitlines())}
    assert all(set(outcome) == {"target", "ok", "error", "errno", "message", "elapsed_ms"}
               for outcome in found.values())
    assert {name: (outcome["ok"], outcome["error"], outcome["errno"])
            for name, outcome in found.items()} == {
        target: (True, None, None), refusing: (False, "ECONNREFUSED", errno.ECONNREFUSED),
        mute: (False, "timeout", None)}
    assert found[target]["message"] is None
    assert refusing in found[refusing]["message"] and mute in found[mute]["message"]


@pytest.mark.parametrize("concurrency", ["1", "2", "100000"])
def test_any_concurrency_gives_each_target_its_line(main, target, refusing, strategy, concurrency):
    code, stdout, _ = main("connect", "--concurrency", concurrency, "--strategy", strategy,
                           *[target, refusing] * 10)
    assert code == 1
    *lines, summary = stdout.splitlines()
    assert summary.startswith("10 of 20 connected, 10 ECONNREFUSED in ")
    outcomes = [tuple(line.split()[:2]) for line in lines if line.endswith(" ms")]
    assert sorted(outcomes) == 10 * [("ECONNREFUSED", refusing)] + 10 * [("ok", target)]
    # All others say that there is no room for so many at a time, if so.
    assert all(line.startswith("slowed down: ") for line in lines[20:])


def test_one_at_a_time_comes_in_the_order_given(main, target, refusing):
    _, stdout, _ = main("connect", "--concurrency", "1", refusing, target, refusing)
    assert [line.split()[1] for line in stdout.splitlines()[:-1]] == [refusing, target, refusing]


def test_a_strategy_that_is_not_to_be_had_is_explained_on_one_line(main, target, monkeypatch):
    diagnosis = errors.Diagnosis("sysctl", "the reason", "The remedy")
    monkeypatch.setattr("pyuring.client._refused", (errno.EPERM, diagnosis))
    code, stdout, stderr = main("connect", "--strategy", "emulated", target)
    assert (code, stdout) == (1, "")
    assert stderr == "python3 -m pyuring connect: io_uring_setup: the reason. The remedy\n"


# ---- connect: targets from stdin --------------------------------------------------------------------

def test_a_dash_reads_targets_from_stdin(main, target, refusing, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"# comment\n\n  {target}  \n{refusing}\n"))
    code, stdout, stderr = main("connect", "-")
    assert (code, stderr) == (1, "")
    assert lines_of(stdout)[0] == {target: "ok", refusing: "ECONNREFUSED"}


def test_a_bad_line_of_stdin_is_told_and_the_others_are_connected(main, target, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"nohost\n{target}\n127.0.0.1:99999\n"))
    code, stdout, stderr = main("connect", target, "-")
    assert code == 2
    assert stdout.splitlines()[-1].startswith("2 of 2 connected in ")
    assert stdout.endswith("; 2 bad targets left out\n")
    first, second = stderr.splitlines()
    assert first.startswith("python3 -m pyuring connect: stdin:1: target 'nohost' has no port")
    assert second.startswith("python3 -m pyuring connect: stdin:3: ") and "99999" in second


def test_an_empty_stdin_is_nothing_to_do(main, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, stdout, stderr = main("connect", "-")
    assert (code, stderr) == (0, "") and stdout.startswith("0 of 0 connected in ")


def test_paths_that_are_no_text_go_in_and_out(target):
    done = subprocess.run((*PYURING, "connect", b"unix:/nowhere/\xfe", "-"), capture_output=True,
                          input=b"unix:/nowhere/\xff\nunix:/nowhere/\xc3\xa9\n" + target.encode(), cwd=ROOT,
                          timeout=60, env=environment(PYTHONIOENCODING="ascii"))
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.isascii()
    assert lines_of(done.stdout.decode())[0] == {
        r"unix:/nowhere/\xfe": "ENOENT", r"unix:/nowhere/\xff": "ENOENT",
        r"unix:/nowhere/\xe9": "ENOENT", target: "ok"}


# ---- connect: many ports, files ---------------------------------------------------------------------

def test_many_ports_of_a_host_are_one_target(main, listener, refused):
    ports = sorted([listener.getsockname()[1], refused[1]])
    code, stdout, stderr = main("connect", "127.0.0.1:%d,%d,%d-%d" % (*ports, ports[0], ports[0]))
    assert (code, stderr) == (1, "")
    *lines, summary = stdout.splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(
        f"127.0.0.1:{port}" for port in (*ports, ports[0]))


def test_a_scan_of_all_ports_is_one_command(main, listener):
    code, stdout, stderr = main("connect", "--only", "ok", "127.0.0.1:1-65535")
    assert (code, stderr) == (1, "")
    ok, done = map(int, re.match(r"(\d+) of (\d+) connected", stdout.splitlines()[-1]).groups())
    assert done == 65535
    lines = [line for line in stdout.splitlines() if line.startswith("ok ")]
    assert len(lines) == ok
    assert "127.0.0.1:%d" % listener.getsockname()[1] in [line.split()[1] for line in lines]


def test_targets_from_files_come_after_the_arguments_in_the_order_given(main, tmp_path, target, refusing):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(f"# a comment\n\n  {refusing}\r\n{target}", encoding="utf-8")
    second.write_text(f"{target}\n" * 2, encoding="utf-8")
    code, stdout, stderr = main("connect", "--concurrency", "1", "-f", str(first), target, "--file", str(second))
    assert (code, stderr) == (1, "")
    assert [line.split()[1] for line in stdout.splitlines()[:-1]] == [target, refusing, target, target, target]


def test_a_file_may_be_stdin_or_a_pipe(main, target, refusing, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{target}\n"))
    read, write = os.pipe()
    os.write(write, f"{refusing}\nnohost\n".encode())
    os.close(write)
    try:
        code, stdout, stderr = main("connect", "--file", "-", "--file", f"/dev/fd/{read}")
    finally:
        os.close(read)
    assert code == 2
    assert stderr.startswith(f"python3 -m pyuring connect: /dev/fd/{read}:2: target 'nohost'")
    assert lines_of(stdout)[0] == {target: "ok", refusing: "ECONNREFUSED"}


def test_bad_lines_of_a_file_are_all_told_before_anything_is_connected(main, tmp_path, listener, target):
    path = tmp_path / "targets"
    path.write_text(f"{target}\n# ok\nnohost\n{target}\n127.0.0.1:9-1\n", encoding="utf-8")
    code, stdout, stderr = main("connect", target, "-f", str(path))
    assert (code, stdout) == (2, "")
    third, fifth = stderr.splitlines()
    assert third.startswith(f"python3 -m pyuring connect: {path}:3: target 'nohost' has no port; write ")
    assert fifth.startswith(f"python3 -m pyuring connect: {path}:5: ") and "write 1-9" in fifth
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_bad_line_of_a_long_file_is_told_and_the_others_are_connected(main, tmp_path, target, refusing, monkeypatch):
    monkeypatch.setattr("pyuring.targets._WHOLE_BYTES", 10)
    path = tmp_path / "targets"
    path.write_text(f"{target}\nnohost\n{refusing}\n", encoding="utf-8")
    code, stdout, stderr = main("connect", "-f", str(path))
    assert code == 2 and stderr.startswith(f"python3 -m pyuring connect: {path}:2: target 'nohost'")
    assert lines_of(stdout)[0] == {target: "ok", refusing: "ECONNREFUSED"}
    assert stdout.endswith("; 1 bad target left out\n")


@pytest.mark.parametrize("name, reason", [("nothing-here", "No such file"), (".", "Is a directory")])
def test_a_file_that_can_not_be_read_is_told_in_one_line(main, tmp_path, monkeypatch, target, name, reason):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = main("connect", target, "--file", name)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1 and repr(name) in stderr and reason in stderr


def test_options_may_stand_between_targets(main, target, refusing, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{target}\n"))
    code, stdout, _ = main("connect", refusing, "--concurrency", "1", target, "--timeout", "9", "-")
    assert code == 1
    assert [line.split()[1] for line in stdout.splitlines()[:-1]] == [refusing, target, target]


# ---- connect: what is said --------------------------------------------------------------------------

def test_only_shows_some_and_counts_all(main, target, refusing):
    for only, shown_target in (("ok", target), ("failed", refusing)):
        code, stdout, _ = main("connect", "--only", only, target, refusing, refusing)
        outcomes, summary = lines_of(stdout)
        assert code == 1 and set(outcomes) == {shown_target}
        assert summary.startswith("1 of 3 connected, 2 ECONNREFUSED in ")


@pytest.mark.parametrize("columns", range(1, 12))
def test_the_progress_line_is_no_wider_than_the_terminal(columns, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def fileno(self):
            return 2
    monkeypatch.setattr(report.os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    monkeypatch.setenv("TERM", "xterm")
    screen = report.Screen(None, Terminal())
    screen.progress = lambda: "1 of 2 done"
    screen._draw()
    shown = screen._err.getvalue()
    assert shown.startswith("\r\x1b[K")
    assert len(shown) - len("\r\x1b[K") == min(columns - 1, 11)


def test_quiet_leaves_the_summary_and_the_latency(main, target, refusing):
    code, stdout, _ = main("connect", "-q", target, target, refusing)
    latency, summary = stdout.splitlines()
    assert code == 1
    assert re.fullmatch(r"latency of 2 that connected: median \S+ ms, 90% within \S+ ms, 99% within \S+ ms, "
                        r"slowest \S+ ms, each from when its batch was submitted", latency)
    assert summary.startswith("2 of 3 connected, 1 ECONNREFUSED in ")


def test_many_get_a_histogram_whose_rows_are_all_of_them(main, target):
    code, stdout, _ = main("connect", *[target] * 100)
    assert code == 0
    latency, *rows, summary = stdout.splitlines()[100:]
    assert latency.startswith("latency of 100 that connected: ")
    assert sum(int(re.fullmatch(r" +\S+ - \S+ ms  #* +(\d+)", row)[1]) for row in rows) == 100
    assert 1 <= len(rows) <= 12 and max(map(len, rows)) < 80
    assert summary.startswith("100 of 100 connected in ")


def test_quiet_json_is_one_object_with_the_summary(main, target, refusing, mute):
    code, stdout, stderr = main("connect", "--json", "-q", "--timeout", "0.2", target, refusing, refusing, mute)
    assert (code, stderr, stdout.count("\n")) == (1, "", 1)
    report = json.loads(stdout)
    assert report.pop("elapsed_s") >= 0.2
    latency = report.pop("latency_ms")
    assert latency["median"] == latency["p90"] == latency["p99"] == latency["slowest"] > 0
    assert report == {"done": 4, "ok": 1, "failed": 3, "errors": {"ECONNREFUSED": 2, "timeout": 1}, "mistakes": 0,
                      "interrupted": False, "held_back": {}, "strategy": probe().strategy}


def scarce(monkeypatch, held_back, outcomes=()):
    """From now on connect_many() runs short of something."""
    class Outcomes:
        def __init__(self, addresses, **_):
            self.held_back = held_back
            self._addresses = addresses

        def __iter__(self):
            for address in self._addresses:
                yield pyuring.Outcome(address, None, 0.001, None)

        def close(self):
            pass
    monkeypatch.setattr("pyuring.many.connect_many", Outcomes)


@pytest.mark.parametrize("code, words", [
    (errno.EADDRNOTAVAIL, "no free port, 7 times (EADDRNOTAVAIL); widen the sysctl net.ipv4.ip_local_port_range"),
    (errno.EMFILE, "no free descriptor, 7 times (EMFILE); raise it with ulimit -n"),
    (errno.ENOBUFS, "no memory, 7 times (ENOBUFS)")])
def test_what_ran_short_and_slowed_it_down_is_said(main, monkeypatch, code, words):
    scarce(monkeypatch, {code: 7})
    exit_code, stdout, stderr = main("connect", "127.0.0.1:1")
    assert (exit_code, stderr) == (0, "")
    line, slowed_down, summary = stdout.splitlines()
    assert slowed_down.startswith(f"slowed down: {words}")
    exit_code, stdout, stderr = main("connect", "--json", "127.0.0.1:1")
    assert json.loads(stdout)["ok"] and stderr.count("\n") == 1 and words in stderr
    _, stdout, stderr = main("connect", "--json", "-q", "127.0.0.1:1")
    assert json.loads(stdout)["held_back"] == {errno.errorcode[code]: 7} and stderr == ""


def test_lines_that_nobody_waits_for_come_without_delay(target, mute):
    """A burst of lines, and then nothing for two minutes: all of them are there, through a pipe."""
    child = subprocess.Popen((*PYTHON, "-c", WITH_SIGINT, "connect", mute, *[target] * 30), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
    with child:
        assert [child.stdout.readline().split()[:2] for _ in range(30)] == [["ok", target]] * 30
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


def test_a_pipe_that_is_closed_ends_even_a_wait_of_two_minutes(target, mute):
    """Goal: `| head -1` ends it. Method: the second target's line finds the pipe closed."""
    child = subprocess.Popen((*PYURING, "connect", "--concurrency", "2", mute, target, "-"),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             cwd=ROOT, env=environment())
    with child:
        assert child.stdout.readline().startswith("ok ")
        child.stdout.close()
        child.stdin.write(f"{target}\n" * 3)
        child.stdin.close()
        stderr = child.stderr.read()
        assert (child.wait(30), stderr) == (141, "")


def test_it_runs_in_a_thread_that_gets_no_signals(main, target, refusing):
    found = []
    thread = threading.Thread(target=lambda: found.append(main("connect", target, refusing)))
    thread.start()
    thread.join(60)
    (code, stdout, stderr), = found
    assert (code, stderr) == (1, "")
    assert lines_of(stdout)[0] == {target: "ok", refusing: "ECONNREFUSED"}


def test_the_timer_and_its_handler_are_put_back(main, target):
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    main("connect", target)
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == before


# ---- bad usage --------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, words", [
    (["connect", "127.0.0.1:99999"], ["99999", "0..65535"]),
    (["connect", "127.0.0.1:-1"], ["'-1'"]),
    (["connect", "127.0.0.1:http"], ["'http'"]),
    (["connect", "nohost"], ["'nohost'", "no port"]),
    (["connect", "host:"], ["'host:'", "no port"]),
    (["connect", ":80"], ["':80'", "no host"]),
    (["connect", "::1:80"], ["'::1:80'", "brackets"]),
    (["connect", "[::1]"], ["'[::1]'", "no port"]),
    (["connect", "[::1"], ["'[::1'"]),
    (["connect", "a..b:80"], ["'a..b'"]),
    (["connect", "x" * 64 + ".test:80"], ["x" * 64]),
    (["connect", "\udcff:80"], [r"'\udcff:80'"]),
    (["connect", "unix:"], ["'unix:'"]),
    (["connect", "unix:@"], ["'unix:@'"]),
    (["connect", "unix:/" + "x" * 107], ["108 bytes"]),
    (["connect", ""], ["''"]),
    (["connect", "two\nlines"], [r"two\nlines"]),
    (["connect", "--timeout", "nan", "127.0.0.1:1"], ["--timeout", "'nan'"]),
    (["connect", "--timeout", "inf", "127.0.0.1:1"], ["--timeout", "'inf'"]),
    (["connect", "--timeout", "-1", "127.0.0.1:1"], ["--timeout", "'-1'"]),
    (["connect", "--timeout", "abc", "127.0.0.1:1"], ["--timeout", "'abc'"]),
    (["connect", "--timeout", "", "127.0.0.1:1"], ["--timeout", "''"]),
    (["connect", "--timeout", "1e99", "127.0.0.1:1"], ["--timeout", "'1e99'"]),
    (["connect", "127.0.0.1:1", "--timeout"], ["--timeout"]),
    (["connect", "--concurrency", "0", "127.0.0.1:1"], ["--concurrency", "'0'"]),
    (["connect", "--concurrency", "x", "127.0.0.1:1"], ["--concurrency", "'x'"]),
    (["connect", "--concurrency", "-3", "127.0.0.1:1"], ["--concurrency", "'-3'"]),
    (["connect", "--concurrency", "1.5", "127.0.0.1:1"], ["--concurrency", "'1.5'"]),
    (["connect", "--concurrency", "\u0663", "127.0.0.1:1"], ["--concurrency"]),
    (["connect", "--strategy", "foo", "127.0.0.1:1"], ["--strategy", "'foo'", "emulated"]),
    (["connect", "127.0.0.1:1-"], ["'1-'", "8000-8100"]),
    (["connect", "127.0.0.1:1,,2"], ["''", "8000-8100"]),
    (["connect", "127.0.0.1:2-1"], ["'2-1'", "write 1-2"]),
    (["connect", "127.0.0.1:1-65536"], ["'1-65536'", "0..65535"]),
    (["connect", "::1:1-2"], ["brackets"]),
    (["connect", "a..b:1,2"], ["'a..b'"]),
    (["connect", "--only", "foo", "127.0.0.1:1"], ["--only", "'foo'"]),
    (["connect", "--file", "a\0b"], [r"'a\x00b'"]),
    (["connect", "--file"], ["--file"]),
    (["connect"], ["TARGET"]),
    (["connect", "--json"], ["TARGET"]),
    (["connect", "--nonsense", "127.0.0.1:1"], ["--nonsense"]),
    (["replay", "B", "--all"], ["ERA", "--all"]),
    (["replay", "foo"], ["'foo'", "6.2"]),
    (["replay", ""], ["''", "6.2"]),
    (["replay", "6.x"], ["'6.x'", "6.2"]),
    (["replay", "\u0666"], [r"'\u0666'"]),
    (["replay", "6.2", "6.3"], ["6.3"]),
    (["unknown"], ["'unknown'", "doctor", "replay"]),
    (["127.0.0.1:80"], ["'127.0.0.1:80'", "connect"]),
    (["doctor", "me"], ["me"]),
    (["opcodes", "read"], ["read"]),
    (["--nonsense"], ["--nonsense"]),
])
def test_bad_usage_is_one_line_that_names_the_value_and_exit_2(main, arguments, words):
    code, stdout, stderr = main(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.endswith("\n") and stderr.count("\n") == 1
    assert stderr.startswith("python3 -m pyuring")
    for word in words:
        assert word in stderr


def test_nothing_is_connected_when_one_target_is_bad(main, listener, target):
    assert main("connect", target, "nohost")[0] == 2
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_bad_usage_in_a_child_is_one_line_too():
    done = run(*PYURING, "connect", "nohost")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "'nohost'" in done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["--help"], ["doctor", "connect", "tour"]), (["connect", "--help"], ["--concurrency", "unix:/path"]),
    (["doctor", "--help"], ["--json"]), (["replay", "--help"], ["6.2", "--all"]),
    (["opcodes", "--help"], ["--json"]), (["--version"], [pyuring.__version__]),
])
def test_help_and_version_exit_0(main, arguments, words):
    code, stdout, stderr = main(*arguments)
    assert (code, stderr) == (0, "")
    assert all(word in stdout for word in words)


# ---- Ctrl-C, closed pipes, closed streams, full disks -----------------------------------------------

# A test run in the background of a shell has SIGINT ignored, and so would its children.
WITH_SIGINT = ("import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
               "runpy.run_module('pyuring', run_name='__main__', alter_sys=True)")


def test_ctrl_c_during_a_connect_is_130_without_a_traceback(target, mute, strategy):
    """The line of the target that answers says that the other one is under way."""
    child = subprocess.Popen(
        (*PYTHON, "-c", WITH_SIGINT, "connect", "--strategy", strategy, mute, target),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment())
    with child:
        assert child.stdout.readline().startswith("ok ")
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)      # left alone, it would wait two minutes
    assert (child.returncode, stderr) == (130, "")
    assert re.fullmatch(rf"1 of 1 connected in \S+ s \({strategy}\); interrupted, 1 under way\n", stdout)


def test_ctrl_c_while_waiting_for_stdin_is_130_too(target):
    child = subprocess.Popen(
        (*PYTHON, "-c", WITH_SIGINT, "connect", "--concurrency", "1", target, "-"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment())
    with child:
        assert child.stdout.readline().startswith("ok ")
        child.send_signal(signal.SIGINT)
        child.wait(30)
        assert (child.returncode, child.stderr.read()) == (130, "")
        assert child.stdout.read().endswith("; interrupted, 0 under way\n")


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["lines", "quiet"])
def test_ctrl_c_with_json_leaves_json(target, mute, quiet):
    child = subprocess.Popen(
        (*PYTHON, "-u", "-c", WITH_SIGINT, "connect", "--json", *quiet, "--concurrency", "2", "--file",
         "/dev/stdin", mute, target),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment())
    with child:
        if quiet:               # its complaint says that it is under way
            child.stdin.write("nohost\n")
            child.stdin.flush()
            assert "stdin:1: target 'nohost'" in child.stderr.readline()
        else:
            assert json.loads(child.stdout.readline())["target"] == target
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (130, "")
    if quiet:
        report = json.loads(stdout)
        assert report["interrupted"] and report["mistakes"] == 1 and report["done"] <= 1
    else:
        assert stdout == ""


@pytest.mark.parametrize("arguments", [(), ("connect", "many"), ("connect", "--json", "many"),
                                       ("doctor",), ("doctor", "--json"), ("replay", "6.2"), ("opcodes",), ("--help",)],
                         ids=lambda arguments: " ".join(arguments) or "tour")
def test_a_pipe_that_nobody_reads_any_more_ends_it_quietly(target, arguments):
    arguments = [part for name in arguments for part in ([target] * 200 if name == "many" else [name])]
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as stdout:
        done = subprocess.run((*PYURING, *arguments), stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT,
                              timeout=60, env=environment())
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_that_leaves_after_one_line_ends_it_quietly(target):
    child = subprocess.Popen((*PYURING, "connect", *[target] * 2000), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, cwd=ROOT, env=environment())
    with child:
        assert child.stdout.readline().startswith(b"ok ")
        child.stdout.close()
        stderr = child.stderr.read()
        assert child.wait(60) == 141
    assert stderr == b""


def test_a_full_disk_is_told_in_one_line(target):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run((*PYURING, "connect", target), stdout=full, stderr=subprocess.PIPE, cwd=ROOT,
                              timeout=60, env=environment(), text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and os.strerror(errno.ENOSPC) in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments, code", [
    ((), 0), (("doctor",), 1 if WHY_NO_RING else 0), (("connect", "TARGET"), 0), (("replay", "F"), 0),
    (("nonsense",), 2),
    (("connect", "nohost"), 2)], ids=lambda value: " ".join(value) or "tour"
    if isinstance(value, tuple) else "")
def test_it_works_with_closed_streams(target, closed, arguments, code):
    arguments = [target if name == "TARGET" else name for name in arguments]
    done = run("sh", "-c", f'exec "$0" "$@" {closed}', *PYURING, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code == 2:
        assert done.stdout == ""        # a complaint does not end up among the results
    else:
        assert done.stderr == ""


def test_a_closed_stdin_is_told(target):
    done = run("sh", "-c", 'exec "$0" "$@" <&-', *PYURING, "connect", target, "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "python3 -m pyuring connect: target '-' reads stdin, which is closed\n"


def test_no_file_descriptor_left_is_told_in_one_line():
    code = ("import os, resource, runpy, sys, pyuring.cli; fd = os.dup(0); os.close(fd)\n"
            "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (fd, hard))\n"
            "sys.exit(pyuring.cli.main([]))")
    done = run(*PYTHON, "-c", code)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and os.strerror(errno.EMFILE) in done.stderr


# ---- terminals --------------------------------------------------------------------------------------

def on_a_terminal(*command, env=None, stdout_too=False):
    """A child whose stderr is a terminal -> (exit code, stdout or None, what the terminal was sent)."""
    ours, theirs = pty.openpty()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=theirs, cwd=ROOT,
                                 stdout=theirs if stdout_too else subprocess.PIPE,
                                 env=environment(TERM="xterm", **(env or {})))
        os.close(theirs)
        theirs = -1
        sent = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:             # EIO: nobody has the other side open any more
                data = b""
            if not data:
                break
            sent += data
        with child:
            stdout = None if stdout_too else child.stdout.read().decode()
            return child.wait(60), stdout, sent.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def shown(sent):
    """What is left on the terminal, of text with \\r and clear-to-end-of-line."""
    lines = []
    for line in sent.split("\n"):
        text = ""
        for part in line.split("\r"):
            erase = part.startswith("\x1b[K")
            part = part[3:] if erase else part
            text = part if erase else part + text[len(part):]
        lines.append(text)
    return "\n".join(lines)


class Terminal:
    """A child whose stderr is a terminal, `columns` wide; stdout is a pipe, or the same terminal."""

    def __init__(self, *arguments, columns=0, stdout_too=False, stdin=subprocess.DEVNULL, **changes):
        self._ours, theirs = pty.openpty()
        if columns:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.child = subprocess.Popen(
            (*PYTHON, "-c", WITH_SIGINT, *arguments), stdin=stdin, stderr=theirs,
            stdout=theirs if stdout_too else subprocess.PIPE, cwd=ROOT,
            env=environment(**{"TERM": "xterm", **changes}))
        os.close(theirs)
        self.sent = ""

    def until(self, pattern):
        """Read on, until this has been sent -> the match."""
        while not re.search(pattern, self.sent):
            assert self._read(), f"{pattern!r} is not in {self.sent!r}"
        return re.search(pattern, self.sent)

    def _read(self):
        try:
            data = os.read(self._ours, 65536)
        except OSError:             # EIO: nobody has the other side open any more
            data = b""
        self.sent += data.decode().replace("\r\n", "\n")
        return data

    def interrupt(self):
        """Ctrl-C -> (exit code, stdout)."""
        self.child.send_signal(signal.SIGINT)
        return self.end()

    def end(self):
        """Wait for it -> (exit code, stdout or None)."""
        while self._read():
            pass
        with self.child:
            stdout = self.child.stdout.read().decode() if self.child.stdout else None
            return self.child.wait(60), stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._ours)
        if self.child.poll() is None:
            self.child.kill()
        with self.child:
            pass


def test_a_terminal_gets_a_progress_line_that_is_cleared(target, refusing, mute, strategy):
    """It shows what was done before it began to wait: the line is written while nothing happens."""
    with Terminal("connect", "--strategy", strategy, target, refusing, target, mute) as terminal:
        match = terminal.until(r"\r\x1b\[K(3 of 4 done, 2 ok, .*/s, .* left, 1 ECONNREFUSED)\r")
        assert re.fullmatch(r"3 of 4 done, 2 ok, \d+(\.\d)?/s, \d+(:\d\d)? s? ?left, 1 ECONNREFUSED", match[1])
        code, stdout = terminal.interrupt()
        assert terminal.sent.endswith("\r\x1b[K") and shown(terminal.sent) == ""
    assert code == 130
    assert "\x1b" not in stdout and "\r" not in stdout
    outcomes, summary = lines_of(stdout)
    assert outcomes == {target: "ok", refusing: "ECONNREFUSED"}
    assert summary.startswith("2 of 3 connected, 1 ECONNREFUSED in ")
    assert summary.endswith("; interrupted, 1 under way")


@pytest.mark.parametrize("columns", [20, 40])
def test_the_progress_line_fits_the_terminal(refusing, mute, columns):
    with Terminal("connect", "-q", *[refusing] * 10, mute, columns=columns) as terminal:
        line = terminal.until(r"\r\x1b\[K(1\d of 11 done, .*?)\r")[1]
        assert len(line) == columns - 1 and line.endswith("...")
        terminal.interrupt()


def test_stdin_gives_no_total_and_no_time_left_until_it_has_ended(target):
    with Terminal("connect", "-q", "--concurrency", "1", "-", stdin=subprocess.PIPE) as terminal:
        terminal.child.stdin.write(f"{target}\n".encode())
        terminal.child.stdin.flush()
        assert re.fullmatch(r"1 done, 1 ok, \S+/s", terminal.until(r"\r\x1b\[K(1 done, .*?)\r")[1])
        terminal.child.stdin.close()
        code, stdout = terminal.end()
    assert code == 0 and stdout.splitlines()[-1].startswith("1 of 1 connected in ")


def test_a_bad_line_does_not_mix_with_the_progress_line(target):
    with Terminal("connect", "-q", "-", stdin=subprocess.PIPE) as terminal:
        terminal.until(r"0 done, 0 ok")
        terminal.child.stdin.write(b"nohost\n")
        terminal.child.stdin.close()
        code, _ = terminal.end()
        complaint, rest = shown(terminal.sent).split("\n")
    assert code == 2 and rest == ""
    assert complaint.startswith("python3 -m pyuring connect: stdin:1: target 'nohost' has no port")


def test_a_terminal_that_can_do_nothing_gets_no_progress_line(mute):
    with Terminal("connect", "--timeout", "0.5", mute, TERM="dumb") as terminal:
        code, stdout = terminal.end()
        assert (code, terminal.sent) == (1, "")


def test_with_json_the_summary_goes_to_a_terminal_only(target):
    with Terminal("connect", "--json", target) as terminal:
        code, stdout = terminal.end()
        assert code == 0 and shown(terminal.sent).startswith("1 of 1 connected in ")
    assert json.loads(stdout)["target"] == target


def test_on_one_terminal_the_progress_line_never_mixes_with_the_lines(target):
    code, _, sent = on_a_terminal(*PYURING, "connect", *[target] * 5, stdout_too=True)
    assert code == 0
    outcomes, summary = lines_of(shown(sent).rstrip("\n"))
    assert outcomes == {target: "ok"} and summary.startswith("5 of 5 connected in ")
    assert "done" not in shown(sent)


def test_no_terminal_gets_neither_colour_nor_progress(target, refusing):
    done = run(*PYURING, "connect", target, refusing)
    assert done.stderr == "" and "\x1b" not in done.stdout and "\r" not in done.stdout


@pytest.mark.parametrize("value, coloured", [(None, True), ("", True), ("1", False), ("0", False)])
def test_no_color_is_respected_when_it_is_not_empty(monkeypatch, value, coloured):
    class Terminal(io.StringIO):
        def isatty(self):
            return True
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert cli._colour(Terminal()) == coloured
    assert not cli._colour(io.StringIO()) and not cli._colour(None)


def test_no_color_leaves_no_escape_code_in_the_tour():
    code, _, sent = on_a_terminal(*PYURING, env={"NO_COLOR": "1"}, stdout_too=True)
    assert code == 0 and "\x1b" not in sent
    assert "connect(2)" in sent


# ---- other people's processes -----------------------------------------------------------------------

@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_without_io_uring_all_of_it_still_works_and_says_why(filters, target, refusing, name):  # noqa: F811
    blocked = (sys.executable, seccomp.__file__, name, *PYURING)
    tour = run(*blocked)
    assert (tour.returncode, tour.stderr) == (0, "")
    assert f"io_uring does not work here: {name} " in tour.stdout and "425-427" in tour.stdout
    assert rows_of(tour.stdout) == 2 * [["connect(2)", "pyuring (syscall)"]]
    assert "*" not in tour.stdout.partition("What differs")[0]

    doctor = run(*blocked, "doctor")
    assert (doctor.returncode, doctor.stderr) == (1, "")
    assert "io_uring is not usable here (seccomp)." in doctor.stdout
    assert "Seccomp: 2" in doctor.stdout and "425-427" in doctor.stdout
    assert "syscall: connect(2) and poll(2)" in doctor.stdout

    report = run(*blocked, "doctor", "--json")
    assert report.returncode == 1
    assert json.loads(report.stdout)["cause"] == "seccomp"

    replay = run(*blocked, "replay", "6.2")
    assert (replay.returncode, replay.stderr) == (0, "")
    refused = tables_of(replay.stdout)["Refused three times on one socket, and then connect(2)"]
    assert refused["era B, acted out"] == ["111", "103 *", "111", "103 *"]
    assert refused["pyuring (syscall)"] == ["111"] * 4

    connect = run(*blocked, "connect", target, refusing)
    assert (connect.returncode, connect.stderr) == (1, "")
    outcomes, summary = lines_of(connect.stdout)
    assert outcomes == {target: "ok", refusing: "ECONNREFUSED"} and summary.endswith("(syscall)")

    explicit = run(*blocked, "connect", "--strategy", "emulated", target)
    assert (explicit.returncode, explicit.stdout) == (1, "")
    assert explicit.stderr.count("\n") == 1 and "425-427" in explicit.stderr


AS_NOBODY = """
import ctypes, os, struct, sys
from pyuring import cli
libc, read_anything = ctypes.CDLL(None), 1 << 2         # CAP_DAC_READ_SEARCH, capabilities(7)
libc.prctl(8, 1, 0, 0, 0)                               # PR_SET_KEEPCAPS
try:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
except OSError as error:
    sys.exit(f"cannot become nobody: {error}")
libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", read_anything, read_anything, *[0] * 4))
os.chdir("/")
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments, code", [
    ([], 0), (["doctor"], None), (["connect", "TARGET"], 0)], ids=["tour", "doctor", "connect"])
def test_nobody_can_run_it(target, arguments, code):
    """It keeps one privilege, to read files: Python itself may lie where nobody can read."""
    if os.geteuid():
        pytest.skip("not root, so every other test shows it")
    done = run(*PYTHON, "-c", AS_NOBODY, *[target if name == "TARGET" else name for name in arguments])
    if "cannot become nobody" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stderr == ""
    if code is None:        # by the sysctl nobody may be refused where root is not
        code = 0 if done.stdout.startswith("io_uring is usable here.") else 1
    assert done.returncode == code
    assert "None" not in done.stdout


def test_python_m_and_the_installed_script_are_the_same_program():
    """pyproject's script is pyuring.cli:main, whose answer it hands to sys.exit."""
    done = run(*PYTHON, "-c", "import sys; from pyuring.cli import main; sys.exit(main())", "connect",
               "nohost")
    assert done.returncode == 2 and done.stderr == run(*PYURING, "connect", "nohost").stderr
