"""pyuring/eras.py and pyuring/examine.py: the history is told right, acted out right, and recognised.

What each era answered was measured on real kernels; the numbers are written down here once more, by
hand, and what is acted out on this kernel must come to the same. The examination of a kernel is held
against this machine's, and against kernels that are made of the acted-out eras.
"""
import errno
import os
import re
import select
import socket
import subprocess
import sys
import threading
from errno import EALREADY, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN
from functools import partial

import pytest

from pyuring import abi, eras, examine, machine
from pyuring.eras import BACKPORTS, ERAS, ERRATA, PENDING, SCENES
from pyuring.ring import CQE, Ring

# ---- versions ---------------------------------------------------------------------------------------

# The first and the last release of each stretch, from the changelogs of the stable branches.
RELEASES = {
    "-": "0.1 2.6.39 4.19.300 5.1 5.4 5.4.290",
    "0": "5.5-rc1 5.5 5.5.19 5.6 5.6.19",
    "A": "5.7 5.8 5.10 5.10.46 5.10.262 5.15.148 5.19.17 6 6.0 6.0.2",
    "B": "6.0.3 6.0.19 6.1-rc1 6.1-rc8 6.1 6.1.0 6.1.21 6.2 6.2.0 6.2.8 6.3-rc1 6.3-rc3 6.3.0-rc3",
    "C": "6.1.22 6.1.62 6.2.9 6.2.16 6.3-rc4 6.3 6.3.13 6.4 6.4.16 6.5 6.5.11 6.6 6.6.1",
    "D": "6.1.63 6.1.63-rc1 6.1.128 6.5.12 6.5.13 6.6.2 6.6.77 6.7-rc1 6.7 6.8.12 6.9 6.10 6.11.11 6.12 6.12.13 "
         "6.13 6.13.2",
    "E": "6.1.129 6.1.146 6.6.78 6.6.99 6.12.14 6.12.39 6.13.3 6.13.12 6.14-rc1 6.14 6.14.11 6.15 6.15.7 6.16-rc6",
    "F": "6.1.147 6.1.192 6.6.100 6.12.40 6.12.116 6.15.8 6.16-rc7 6.16 6.17 6.18.44 6.19 7.0.13 7.1 7.2.13 7.3 "
         "7.3.1",
    "G": "6.12.117 6.12.200 7.3.2 7.3.4 7.4 8.0",
}


@pytest.mark.parametrize("release, era", [
    (release, era) for era, releases in RELEASES.items() for release in releases.split()])
def test_a_release_has_the_era_of_its_branch(release, era):
    found = eras.resolve(release)
    assert found.era == era
    assert not [note for note in found.notes if "vendor" in note]


@pytest.mark.parametrize("letter", "0AaBbCcDdEeFfGg-")
def test_an_era_may_be_called_by_its_letter_in_either_case(letter):
    assert eras.resolve(letter) == (letter.upper(), None, ())


@pytest.mark.parametrize("text, numbers, vendor", [
    ("6", (6, 0, 0), False), ("v6.2", (6, 2, 0), False), ("6.1.22", (6, 1, 22), False),
    ("6.1.176.1", (6, 1, 176), True), ("6.1.0-50-cloud-amd64", (6, 1, 0), True),
    ("5.10.218-1", (5, 10, 218), True), ("6.18.44+", (6, 18, 44), True),
    ("5.15.0-91-generic", (5, 15, 0), True), ("5.14.0-427.13.1.el9_4.x86_64", (5, 14, 0), True),
    ("6.6.87.2-microsoft-standard-WSL2", (6, 6, 87), True), ("6.12.43+deb13-amd64", (6, 12, 43), True),
    ("6.3-rc4", (6, 3, 0), False), ("6.3.0-rc4-00012-gabcdef", (6, 3, 0), True), ("6.3-rcx", (6, 3, 0), True),
])
def test_any_number_of_parts_is_a_version(text, numbers, vendor):
    version = eras.parse_version(text)
    assert version[:3] == numbers
    assert version.vendor == vendor
    told = [note for note in eras.resolve(text).notes if "vendor" in note]
    assert bool(told) == vendor
    if vendor:
        assert text in told[0] and "`doctor`" in told[0] and "proves nothing" in told[0]


def test_release_candidates_are_told_apart_and_shown_so():
    assert eras.parse_version("6.3-rc4").rc == 4
    assert eras.name_of(eras.parse_version("6.3.0-rc4")) == "6.3-rc4"
    assert eras.name_of(eras.parse_version("6.2.0")) == "6.2"
    assert eras.name_of(eras.parse_version("6.1.22-5-x")) == "6.1.22"


@pytest.mark.parametrize("text", [
    "foo", "", "6.x", "6.", ".6", "6..2", "-1", "6,2", "6.2 ", " 6.2", "6.2rc1", "H", "AB", "six", "\u0666.2",
    "6.\u00b2", "6.2\n", "1e3", "6/2", "9" * 5000, "v", "--", "\0"])
def test_what_is_neither_is_a_valueerror_that_names_it(text):
    with pytest.raises(ValueError) as caught:
        eras.resolve(text)
    message = str(caught.value)
    assert ascii(text) in message and message.isprintable()
    assert "6.2" in message and ", G)" in message


@pytest.mark.parametrize("text", ["7.4", "7.4.1", "8", "100.0"])
def test_beyond_the_table_is_the_newest_era_and_said_to_be_an_assumption(text):
    found = eras.resolve(text)
    assert found.era == eras.MAINLINE[-1][1]
    assert "assumed" in found.notes[0] and "7.3" in found.notes[0]
    assert not eras.resolve("7.3.99").notes


def test_the_tables_only_go_forwards():
    """A branch never gets an older form, and no backport merely repeats what the branch has."""
    order = "".join(ERAS)
    firsts, letters = zip(*eras.MAINLINE)
    assert list(firsts) == sorted(firsts) and "".join(letters) == order
    for branch in BACKPORTS:
        patches, letters = zip(*eras.history(branch))
        assert list(patches) == sorted(set(patches))
        assert [order.index(letter) for letter in letters] == sorted({order.index(x) for x in letters})


def test_every_branch_has_one_before_it():
    assert eras.before("6.16") == "6.15" and eras.before("6.0") == "5.19" and eras.before("7.0") == "6.19"
    assert set(BACKPORTS) <= set(eras.BRANCHES) and eras.BRANCHES[-1] == eras._NEWEST
    assert list(eras.BRANCHES) == sorted(set(eras.BRANCHES))


# ---- the errata as data -----------------------------------------------------------------------------

def test_the_errata_are_e1_to_e24_in_order_and_complete():
    assert list(ERRATA) == [f"E{number}" for number in range(1, 25)]
    for erratum in ERRATA.values():
        assert ERRATA[erratum.id] is erratum
        assert erratum.title and erratum.workaround.endswith(".") and erratum.evidence
        assert not erratum.symptom.endswith(".")
        assert set(erratum.eras) <= set(ERAS) and erratum.scope in ("request", "around")
        assert erratum.affected and all(len(row) == 3 for row in erratum.affected)
        assert isinstance(erratum.reports, tuple)
        assert max(map(len, (erratum.symptom, erratum.workaround))) <= 97     # a line each, in doctor
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+(#\d+| discussion \d+)", report) for report in erratum.reports)
        # Without a fix it is there to this day, in mainline.
        last = [fixed for branch, _, fixed in erratum.affected if branch == "mainline"][-1]
        assert bool(erratum.fix) == bool(last)


def never(major, *minors):
    """Rows of branches that have it from their first release to their last."""
    return [(f"{major}.{minor}.y", f"{major}.{minor}", None) for minor in minors]


# As the commits' backports were announced: (branch, first bad, first fixed). Branches that ended without
# a fix that mainline got are there, too.
AFFECTED = {
    "E1": [("mainline", "0.0", "5.5"), *never(5, 1, 2, 3, 4)],
    "E2": [("mainline", "5.5", "5.7"), *never(5, 5, 6)],
    "E3": [("mainline", "5.5", "5.9")],         # "at the latest", says its text
    "E6": [("mainline", "5.5", "6.1"), *never(5, *range(5, 20)), ("6.0.y", "6.0", "6.0.3")],
    "E7": [("mainline", "6.1", "6.3-rc4"), ("6.0.y", "6.0.3", None), ("6.1.y", "6.1", "6.1.22"),
           ("6.2.y", "6.2", "6.2.9")],
    "E8": [("mainline", "6.1", "6.7"), ("6.0.y", "6.0.3", None), ("6.1.y", "6.1", "6.1.63"), *never(6, 2, 3, 4),
           ("6.5.y", "6.5", "6.5.12"), ("6.6.y", "6.6", "6.6.2")],
    "E9": [("mainline", "5.7", "6.1"), ("mainline", "6.7", "6.14"), *never(5, *range(7, 20)),
           ("6.0.y", "6.0", "6.0.3"), ("6.1.y", "6.1.63", "6.1.129"), ("6.5.y", "6.5.12", None),
           ("6.6.y", "6.6.2", "6.6.78"), *never(6, *range(7, 12)),
           ("6.12.y", "6.12", "6.12.14"), ("6.13.y", "6.13", "6.13.3")],
    "E10": [("mainline", "6.14", "6.16-rc7"), ("6.1.y", "6.1.129", "6.1.147"), ("6.6.y", "6.6.78", "6.6.100"),
            ("6.12.y", "6.12.14", "6.12.40"), ("6.13.y", "6.13.3", None), *never(6, 14), ("6.15.y", "6.15", "6.15.8")],
    "E11": [("mainline", "6.1", "6.7"), ("mainline", "6.16-rc7", None), ("6.0.y", "6.0.3", None),
            ("6.1.y", "6.1", "6.1.63"), ("6.1.y", "6.1.147", None), *never(6, 2, 3, 4),
            ("6.5.y", "6.5", "6.5.12"), ("6.6.y", "6.6", "6.6.2"), ("6.6.y", "6.6.100", None),
            ("6.12.y", "6.12.40", None), ("6.15.y", "6.15.8", None), ("7.3.y", "7.3", None)],
    "E19": [("mainline", "5.5", "5.19"), ("5.10.y", "5.10", None)],
}


@pytest.mark.parametrize("name", AFFECTED)
def test_an_erratum_says_where_it_is_by_branch(name):
    assert ERRATA[name].affected == AFFECTED[name]


@pytest.mark.parametrize("name, branch, era, expected", [
    ("E7", (6, 1), "B", ("6.1.22", None)), ("E7", (6, 2), "B", ("6.2.9", None)), ("E7", (6, 0), "B", (None, None)),
    ("E8", (6, 1), "B", ("6.1.63", None)), ("E8", (6, 2), "C", (None, None)), ("E8", (6, 6), "C", ("6.6.2", None)),
    ("E9", (5, 10), "A", (None, None)), ("E9", (6, 1), "D", ("6.1.129", None)), ("E9", (6, 5), "D", (None, None)),
    ("E10", (6, 12), "E", ("6.12.40", None)), ("E10", (6, 14), "E", (None, None)),
    ("E11", (6, 1), "B", ("6.1.63", "6.1.147")), ("E11", (6, 1), "C", ("6.1.63", "6.1.147")),
    ("E11", (6, 1), "F", (None, None)), ("E11", (6, 18), "F", (None, None)),
    ("E16", (6, 12), "D", ("6.12.117", None)), ("E16", (7, 3), "F", ("7.3.2", None)),
    ("E5", (5, 10), "A", ("5.10.218", None)), ("E17", (5, 10), "A", ("5.10.162", None)), ("E19", (5, 10), "A", (None, None)),
    ("E10", (5, 14), "E", (None, None)),        # a vendor's: era E never was in kernel.org's 5.14.y
    ("E10", (6, 12), "", (None, None)),
])
def test_the_first_fixed_release_is_looked_for_in_the_kernels_own_branch(name, branch, era, expected):
    assert eras.fixed_in(ERRATA[name], branch, era) == expected


def test_what_was_only_measured_is_told_apart_from_what_a_changelog_says():
    """A row's first or last release that is a measurement's is listed in `measured`, and in `evidence`."""
    assert {erratum.id: erratum.measured for erratum in ERRATA.values() if erratum.measured} == {
        "E5": ("5.10.218",), "E21": ("5.10.218",)}
    for erratum in ERRATA.values():
        ends = {release for row in erratum.ranges for release in row[1:]}
        assert set(erratum.measured) <= ends and all(release in erratum.evidence for release in erratum.measured)


def test_fixed_means_fixed():
    """Goal: whatever is called the first fixed release has an era without the erratum, and the one
    before has it. Method: every erratum in every branch that the table knows."""
    tried = 0
    for erratum in ERRATA.values():
        for branch in BACKPORTS:
            for patch, era in eras.history(branch):
                if era not in erratum.eras or erratum.ranges:
                    continue
                fixed, again = eras.fixed_in(erratum, branch, era)
                if fixed:
                    version = eras.parse_version(fixed)
                    assert version.patch > patch
                    assert eras.era_of(version) not in erratum.eras
                    assert eras.era_of(version._replace(patch=version.patch - 1)) in erratum.eras
                    tried += 1
                if again:
                    assert eras.era_of(eras.parse_version(again)) in erratum.eras
    assert tried > 20


def test_releases_in_words():
    assert eras.releases("B") == ("mainline from 6.1 until 6.3-rc4; 6.0.y from 6.0.3; 6.1.y from 6.1 until 6.1.22; "
                                  "6.2.y from 6.2 until 6.2.9")
    assert eras.releases("-") == "mainline until 5.5; 5.1.y to 5.4.y for good"
    assert eras.releases("A") == "mainline from 5.7 until 6.1; 5.7.y to 5.19.y for good; 6.0.y from 6.0 until 6.0.3"
    assert eras.releases("C") == (
        "mainline from 6.3-rc4 until 6.7; 6.1.y from 6.1.22 until 6.1.63; 6.2.y from 6.2.9; 6.3.y and 6.4.y for good; "
        "6.5.y from 6.5 until 6.5.12; 6.6.y from 6.6 until 6.6.2")
    assert "; 6.14.y for good; " in eras.releases("E")


def test_a_row_without_a_fix_and_the_history_of_its_branch_agree():
    """Goal: where mainline has a fix, every branch that has it to its last release is told. Method: all."""
    for erratum in ERRATA.values():
        runs = [row for row in erratum.affected if row[0] == "mainline"]
        if erratum.ranges or runs[-1][2] is None:
            continue
        told = {branch for branch, _, fixed in erratum.affected if fixed is None}
        assert told == {"{}.{}.y".format(*branch) for branch in eras.BRANCHES
                        if eras.history(branch)[-1][1] in erratum.eras}


@pytest.mark.parametrize("letter", ERAS)
def test_each_era_has_its_reason_in_a_paragraph(letter):
    era = ERAS[letter]
    assert era.letter == letter and era.what and not era.what.endswith(".")
    assert len(era.why) > 100 and "\n" not in era.why and era.why.endswith(".")
    assert eras.releases(letter)


def test_what_the_machine_says_of_the_errata_it_names_is_what_is_said_here():
    """machine.py's head lists the errata that its table is for, in its own words."""
    named = set(re.findall(r"^  (E\d+) ", machine.__doc__, re.M))
    assert named and named <= set(ERRATA)
    assert {erratum.id for erratum in ERRATA.values() if set("BCDEF") & set(erratum.eras)
            and erratum.scope == "request"} - {"E4"} <= named


# ---- acted out --------------------------------------------------------------------------------------

REFUSED, ABORTED, RESET, ISCONN, ALREADY = ECONNREFUSED, ECONNABORTED, ECONNRESET, EISCONN, EALREADY

# What was measured: for connect(2), and where an era gave something else.
MEASURED = {
    "_refused": ((REFUSED,) * 4, {
        "B": (REFUSED, ABORTED, REFUSED, ABORTED), "CFG": (REFUSED, REFUSED, REFUSED, ABORTED),
        "-": (EINVAL, EINVAL, EINVAL, REFUSED)}),
    "_listen_after_refusal": ((REFUSED, 0), {"BCFG": (REFUSED, EINVAL), "-": (EINVAL, 0)}),
    "_refused_then_accepted": ((REFUSED, 0, ISCONN), {
        "B": (REFUSED, ABORTED, 0), "C": (REFUSED, 0, 0), "-": (EINVAL,) * 3}),
    "_connected": ((0, ISCONN, ISCONN), {"BC": (0, 0, ISCONN), "-": (EINVAL,) * 3}),
    "_error_taken": ((REFUSED, ABORTED, REFUSED), {"CDEFG": (REFUSED,) * 3, "-": (REFUSED, EINVAL, EINVAL)}),
    "_late_refusal": ((REFUSED,) * 3, {
        "B": (REFUSED, ABORTED, REFUSED), "E": (RESET, REFUSED, REFUSED), "-": (EINVAL,) * 3}),
    "_late_success": ((0, ISCONN, ISCONN), {"BC": (0, 0, ISCONN), "-": (EINVAL,) * 3}),
    "_shut_down": ((RESET, 0), {"AD": (PENDING, None), "E": (RESET, RESET), "-": (EINVAL, 0)}),
    "_under_way": ((REFUSED,), {"0ABCDEFG": (ALREADY,), "-": (EINVAL,)}),
}


@pytest.fixture(scope="module")
def played():
    """All scenes, in all eras and with connect(2), once for the module: it takes a second."""
    return eras.play({"connect(2)": eras.by_connect2,
                      **{letter: partial(eras.act, letter) for letter in ERAS}})


def skip_with_e21(played):
    scene, = (scene for scene in SCENES if scene.play.__name__ == "_shut_down")
    if played[scene, "connect(2)"] == (PENDING, None):
        pytest.skip("this kernel's shutdown(2) can't end a connect(2) in another thread (E21)")


def test_every_scene_has_been_measured():
    assert [scene.play.__name__ for scene in SCENES] == list(MEASURED)


@pytest.mark.parametrize("letter", ERAS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.play.__name__)
def test_an_era_acted_out_gives_what_was_measured(played, scene, letter):
    if letter == "0" and scene.play.__name__ == "_shut_down":
        skip_with_e21(played)           # its worker blocks in this kernel's connect(2)
    usual, others = MEASURED[scene.play.__name__]
    expected = next((answers for letters, answers in others.items() if letter in letters), usual)
    assert played[scene, letter] == expected
    assert len(expected) == len(scene.columns)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.play.__name__)
def test_connect2_gives_what_was_measured_on_this_kernel_too(played, scene):
    if scene.play.__name__ == "_shut_down":
        skip_with_e21(played)
    assert played[scene, "connect(2)"] == MEASURED[scene.play.__name__][0]


def test_no_two_eras_behave_alike_but_f_and_g(played):
    skip_with_e21(played)
    rows = {letter: tuple(played[scene, letter] for scene in SCENES) for letter in ERAS}
    assert rows.pop("G") == rows["F"]
    assert len(set(rows.values())) == len(rows)


def test_acting_leaves_the_socket_blocking(listener, refused):
    for letter in ERAS:
        with socket.socket() as sock:
            eras.act(letter, sock, refused)
            assert sock.getblocking() and os.get_blocking(sock.fileno())


def test_what_goes_wrong_in_a_thread_is_told_and_nothing_is_left_running(monkeypatch):
    def fail(sock, address):
        raise OSError(errno.ENOBUFS, "no room")
    threads = threading.active_count()
    with pytest.raises(OSError) as caught:
        eras.play({"one": fail})
    assert caught.value.errno == errno.ENOBUFS
    assert threading.active_count() == threads


def test_no_threads_to_be_had_is_an_oserror(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start new thread"):
        eras.play({"connect(2)": eras.by_connect2})


# ---- recognised -------------------------------------------------------------------------------------

def shows(letter):
    """What observe() would see of an era."""
    return frozenset(erratum.id for erratum in ERRATA.values()
                     if letter in erratum.eras and erratum.id in examine.OBSERVABLE)


@pytest.mark.parametrize("letter", ERAS)
def test_an_era_is_recognised_by_what_it_shows(letter):
    era, met = eras.recognise(shows(letter), examine.OBSERVABLE)
    assert era == letter
    assert list(met) == [erratum.id for erratum in ERRATA.values()
                         if letter in erratum.eras and erratum.scope == "request"]


def test_what_was_looked_for_and_not_seen_is_not_met():
    era, met = eras.recognise(shows("A") - {"E5", "E17", "E19"}, examine.OBSERVABLE)
    assert era == "A" and "E5" not in met and "E17" not in met
    assert "E6" in met          # which follows from the era: there is no Bluetooth to try it on


def test_today_is_era_f_and_its_errata():
    assert eras.recognise(frozenset("E4 E11 E12 E13 E14 E16".split()), examine.OBSERVABLE) == (
        "F", ("E4", "E11", "E12", "E13", "E14", "E23", "E24"))


@pytest.mark.parametrize("observed", ["", "E4 E12 E13 E14", "E7", "E7 E9 E16", "E4 E8 E16"])
def test_a_kernel_like_no_era_shows_what_was_seen_and_no_more(observed):
    era, met = eras.recognise(frozenset(observed.split()), examine.OBSERVABLE)
    assert era == "" and set(met) == set(observed.split()) - {"E16"}


def test_telling_errata_are_observable_and_tell_all_eras_apart():
    assert eras.TELLING <= examine.OBSERVABLE <= set(ERRATA)
    assert len({shows(letter) & eras.TELLING for letter in ERAS}) == len(ERAS)


# ---- examined: this kernel --------------------------------------------------------------------------

def examined():
    with Ring(8) as ring:
        return examine.observe(ring)


def test_this_kernel_is_examined_to_the_same_end_each_time(io_uring):
    first = examined()
    assert first <= examine.OBSERVABLE
    assert [examined() for _ in range(5)] == [first] * 5
    assert "E13" in first or first == {"E1"}        # which every kernel with the opcode has so far


def test_what_was_seen_is_what_a_program_sees(io_uring, refused, listener):
    """Goal: E7, E8 and E11 as observe() has them are what the opcode gives. Method: without observe()."""
    def connect(sock, address):
        with Ring(2) as ring:
            ring.prep_connect(sock, address)
            ring.submit_and_wait(1, 5)
            return -ring.reap()[0].res
    seen = examined()
    if seen == {"E1"}:
        pytest.skip("this kernel has no IORING_OP_CONNECT")
    with socket.socket() as sock:
        answers = [connect(sock, refused) for _ in range(2)]
        assert (answers[1] == ECONNABORTED) == ("E7" in seen)
    with socket.socket() as sock:
        connect(sock, refused)
        assert (sock.connect_ex(refused) == ECONNABORTED) == ("E11" in seen)
    with socket.socket() as sock:
        answers = [connect(sock, listener.getsockname()) for _ in range(2)]
        assert answers == [0, 0 if "E8" in seen else EISCONN]


def test_the_examination_does_not_mind_a_default_timeout(io_uring):
    plain = examined()
    socket.setdefaulttimeout(0)
    try:
        assert examined() == plain
    finally:
        socket.setdefaulttimeout(None)


def test_the_examination_touches_nothing_but_loopback_and_a_nameless_unix_socket(io_uring):
    code = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.bind"):
        assert arguments[1] == "" or arguments[1][0] == "127.0.0.1", arguments
    assert event not in ("socket.getaddrinfo", "subprocess.Popen"), event
sys.addaudithook(hook)
import pyuring
print(pyuring.probe().era)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60,
                          cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    assert (done.returncode, done.stderr) == (0, "")


# ---- examined: kernels made of the acted-out eras ----------------------------------------------------

class EraRing:
    """A ring whose connects are those of an era, over plain system calls: no io_uring at all.

    A request that waits is looked at again when events are asked for, as under DEFER_TASKRUN.
    """

    def __init__(self, letter, defer=True):
        self.letter = letter
        self.features = (abi.IORING_FEAT_SUBMIT_STABLE if letter != "-" else 0) | (
            abi.IORING_FEAT_FAST_POLL if letter not in "-0" else 0) | (
            abi.IORING_FEAT_NATIVE_WORKERS if letter not in "-0A" else 0)
        self.flags = abi.IORING_SETUP_DEFER_TASKRUN if defer and letter not in "-0A" else 0
        self.prepared, self.waiting, self.cqes = [], [], []

    def prep_connect(self, sock, address, user_data):
        request = eras._Request(sock, address)
        request.user_data, request.blocking = user_data, sock.getblocking()
        if not request.blocking:
            request.connect_in_worker = request.connect     # with the flags of the file
        self.prepared.append(request)

    def prep_cancel_fd(self, sock, user_data):
        self.cqes.append(CQE(user_data, -EINVAL if self.letter in "-0A" else -errno.ENOENT, 0))

    def issue(self, request, first):
        request.sock.setblocking(False)
        try:
            error = eras._FORMS[self.letter](request)
        finally:
            request.sock.setblocking(request.blocking)
        if request.sock.family == socket.AF_UNIX and error == eras.POLL and (self.letter == "G" or not first):
            error = errno.EAGAIN
        if error == eras.POLL:
            self.waiting.append(request)
        else:
            self.cqes.append(CQE(request.user_data, -error, 0))

    def submit(self):
        prepared, self.prepared = self.prepared, []
        for request in prepared:
            self.issue(request, True)
            if request in self.waiting and request.poll() and request.sock.family == socket.AF_INET:
                self.waiting.remove(request)
                self.issue(request, False)          # ready as the poll was armed

    def submit_and_get_events(self):
        self.submit()
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            mask = request.poll()
            if mask or request.sock.family == socket.AF_UNIX:
                request.failed = bool(mask & select.POLLERR)
                self.issue(request, False)
            else:
                self.waiting.append(request)

    def submit_and_wait(self, wait_nr, timeout=None):
        self.submit_and_get_events()

    @property
    def cq_ready(self):
        return len(self.cqes)

    def reap(self):
        cqes, self.cqes = self.cqes, []
        return cqes


@pytest.mark.parametrize("letter", ERAS)
def test_a_kernel_of_each_era_is_recognised(letter):
    seen = examine.observe(EraRing(letter))
    assert seen == shows(letter) - {"E5"}           # which takes a worker that polls no more
    assert eras.recognise(seen, examine.OBSERVABLE)[0] == letter


@pytest.mark.parametrize("letter", "0ABCDEF")
def test_without_defer_taskrun_all_but_g_are_recognised(letter):
    assert eras.recognise(examine.observe(EraRing(letter, defer=False)), examine.OBSERVABLE)[0] == letter


def test_a_future_kernel_that_is_right_in_all_is_like_no_era():
    class Right(EraRing):
        def issue(self, request, first):
            request.sock.setblocking(False)
            error = request.connect()
            request.sock.setblocking(request.blocking)
            if error in (errno.EINPROGRESS, EALREADY) and request.blocking and not self.over(request):
                self.waiting.append(request)
            else:
                if request in self.waiting:
                    self.waiting.remove(request)
                self.cqes.append(CQE(request.user_data, -error, 0))

        @staticmethod
        def over(request):
            return request.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) != bytes(16)

    seen = examine.observe(Right("G"))
    assert seen & {"E1", "E2", "E4", "E7", "E8", "E10", "E11", "E12", "E13", "E14", "E16"} == frozenset()
    assert eras.recognise(seen - {"E9"}, examine.OBSERVABLE) == ("", ())


def test_a_loopback_that_never_answers_is_an_oserror(monkeypatch):
    class Silent(EraRing):
        def submit_and_get_events(self):
            self.prepared = []
    monkeypatch.setattr(examine, "_PATIENCE", 0.01)
    with pytest.raises(OSError) as caught:
        examine.observe(Silent("F"))
    assert caught.value.errno == errno.ETIME


@pytest.mark.parametrize("code", [errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES])
def test_a_loopback_that_answers_otherwise_is_that_error(code):
    class Odd(EraRing):
        def issue(self, request, first):
            self.cqes.append(CQE(request.user_data, -code, 0))
    with pytest.raises(OSError) as caught:
        examine.observe(Odd("F"))
    assert caught.value.errno == code
