"""eras.py - the history of IORING_OP_CONNECT: its errata as data, and each of its eras acted out.

Between Linux 5.5 and 7.3 the kernel's io_connect() (io_uring/net.c) had eight forms, here called
eras: 0, then A to G; "-" is the time before. In this file, in this order:

    MAINLINE, BACKPORTS   which release has which form; resolve() looks a version up
    ERAS                  what each form does, and why it came
    ERRATA                each way in which some form differs from connect(2), with its sources
    _issue_0 ... _issue_f the forms themselves, a few lines each, over plain system calls
    SCENES                what to play them with: refused, connected, late, shut down, ...

Nothing here needs io_uring, and nothing asks which kernel this is: an era can be acted out on any
kernel, because the connect(2) below io_connect() has kept its logic all the while
(__inet_stream_connect() in net/ipv4/af_inet.c: read in 5.6, 5.10, 6.1 and 7.3).

Versions explain, they don't decide: distributions backport. What this very kernel does is found by
trying, in examine.py (to be read next), and recognise() says which era behaves like that.

Sources: a commit is one of Linux, "owner/name#1" an issue on GitHub. "Measured on 6.1.176 with the
old form" means that release with io_connect(), and a line of its poll, put back to what it was.
"""
from __future__ import annotations

import socket
import time
from collections import namedtuple
from contextlib import ExitStack, contextmanager
from errno import EAGAIN, EBADFD, ECONNABORTED, ECONNRESET, EINPROGRESS, EINTR, EINVAL, EISCONN
from select import POLLERR, POLLOUT, poll
from socket import IPPROTO_TCP, SO_ERROR, SO_REUSEADDR, SOL_SOCKET, TCP_INFO

from . import syscalls
from .sockaddr import pack

# -- which release has which era ------------------------------------------------------------------
#: (major, minor, rc) from which on mainline has an era. Read in the sources or the changelogs of the
#: releases, but for these, which are from memory: that 5.7 was the first of A, the rc numbers
#: other than 5.5's and 6.14's, and that 7.4 has G.
MAINLINE = (
    ((0, 0, 0), "-"), ((5, 5, 1), "0"), ((5, 7, 1), "A"), ((6, 1, 1), "B"), ((6, 3, 4), "C"),
    ((6, 7, 1), "D"), ((6, 14, 1), "E"), ((6, 16, 7), "F"), ((7, 4, 1), "G"))

#: The stable branches that got another form than they were born with: from which patch level on.
#: Sources: the stable review mails and Debian's changelogs, which quote each release's own.
BACKPORTS = {
    (6, 0): ((3, "B"),),
    (6, 1): ((22, "C"), (63, "D"), (129, "E"), (147, "F")),
    (6, 2): ((9, "C"),),
    (6, 5): ((12, "D"),),
    (6, 6): ((2, "D"), (78, "E"), (100, "F")),
    (6, 12): ((14, "E"), (40, "F"), (117, "G")),
    (6, 13): ((3, "E"),),
    (6, 15): ((8, "F"),),
    (7, 3): ((2, "G"),),
}
_NEWEST = (7, 3)            # beyond this branch the table only continues what it knows
#: All branches that were released with io_uring in them: 5.1 to 5.19, 6.0 to 6.19, 7.0 and on.
BRANCHES = (*((5, minor) for minor in range(1, 20)), *((6, minor) for minor in range(20)),
            *((7, minor) for minor in range(_NEWEST[1] + 1)))
_RELEASED = 1 << 16         # instead of an rc: after all of them

Version = namedtuple("Version", "major minor patch rc vendor")
Version.__doc__ = """A kernel's version, in parts.

major, minor, patch  numbers; 6.2 is 6.2.0
rc                   6.3-rc4: 4; a release: None
vendor               True where something follows the numbers that kernel.org's releases have
"""

Resolved = namedtuple("Resolved", "era version notes")
Resolved.__doc__ = """What an era's letter or a version stands for.

era      one letter of ERAS
version  the Version that was asked for, None for an era's letter
notes    lines to tell with it: a vendor's kernel, a version beyond the table
"""


def parse_version(text: str) -> Version:
    """A kernel release as people and uname -r write it -> Version. ValueError where it is none.

    "6.2", "6", "v6.3-rc4", "6.1.176.1", "6.1.0-50-cloud-amd64", "5.14.0-427.el9", "6.18.44+"
    """
    rest = text[1:] if text[:1] in ("v", "V") else text
    end = 0
    while end < len(rest) and rest[end] in "0123456789.":
        end += 1
    numbers, suffix = rest[:end].split("."), rest[end:]
    if not all(part and len(part) < 9 for part in numbers) or suffix[:1] not in ("", "-", "+", "~", "_"):
        raise ValueError(f"{text!a} is no kernel version: give one such as 6.2 or 5.15.148")
    major, minor, patch = (*map(int, numbers), 0, 0)[:3]
    rc = None
    if suffix.startswith("-rc"):
        number, _, behind = suffix[3:].partition("-")
        if number.isdigit() and number.isascii() and len(number) < 5:
            suffix = behind
            rc = int(number) if not patch else None     # 6.1.63-rc1 has what 6.1.63 has
    return Version(major, minor, patch, rc, bool(suffix) or len(numbers) > 3)


def era_of(version: Version) -> str:
    """The era of kernel.org's release of that version."""
    rc = _RELEASED if version.rc is None else version.rc
    era = [era for first, era in MAINLINE if first <= (version.major, version.minor, rc)][-1]
    if version.rc is None:
        for first, later in BACKPORTS.get((version.major, version.minor), ()):
            if version.patch >= first:
                era = later
    return era


def resolve(text: str) -> Resolved:
    """An era's letter, or a version of any number of parts -> Resolved.

    ValueError names the text and what to give instead.
    """
    if text.upper() in ERAS:
        return Resolved(text.upper(), None, ())
    try:
        version = parse_version(text)
    except ValueError:
        raise ValueError(f"{text!a} is neither an era ({', '.join(ERAS)}) nor a kernel version: "
                         "give one such as B, 6.2 or 5.15.148") from None
    era, notes = era_of(version), []
    if version.vendor:
        notes.append(
            f"{text} is a vendor's version. Vendors backport, so it proves nothing about that kernel: "
            f"`doctor`, run on it, does. Shown is what kernel.org's {name_of(version)} does.")
    if version[:2] > _NEWEST:
        notes.append(f"This table ends with {_NEWEST[0]}.{_NEWEST[1]}: that later kernels are still of "
                     f"era {era}, the newest that it knows, is assumed.")
    return Resolved(era, version, tuple(notes))


def name_of(version: Version) -> str:
    """6.3-rc4, 6.2, 6.1.22: as kernel.org writes it."""
    patch = f".{version.patch}" if version.patch else ""
    return f"{version.major}.{version.minor}" + (patch if version.rc is None else f"-rc{version.rc}")


def spans(letters: str) -> list[tuple[str, str, str | None]]:
    """Where any of these eras holds: [(branch, first release, first release without, or None)].

    First mainline, whose releases without rc begin each branch; then the stable branches ("6.1.y")
    that changed later, or did not when mainline did. None: to the end of the branch, or until today.
    """
    found = _runs(letters, [(_mainline_name(first), era) for first, era in MAINLINE], "mainline")
    kept = _left_behind(letters)
    for branch in BRANCHES:
        if branch in BACKPORTS or branch in kept:
            name = "{}.{}".format(*branch)
            found += _runs(letters, [(_patched(name, patch), era) for patch, era in history(branch)], name + ".y")
    return found


def _left_behind(letters):
    """The branches that were born with one of these, kept it, and saw mainline lose it."""
    lost = [first[:2] for first, era in MAINLINE if era not in letters]
    return {branch for branch in BRANCHES if branch not in BACKPORTS
            and era_of(Version(*branch, 0, None, False)) in letters and any(branch < later for later in lost)}


def releases(letters: str) -> str:
    """spans() in words, one line: "mainline from 6.1 until 6.3-rc4; 6.0.y from 6.0.3; ..."."""
    words, kept = [], _left_behind(letters)
    whole = {"{}.{}.y".format(*branch): branch for branch in kept}
    row = []                                # the last words are for these, side by side in BRANCHES
    for branch, first, fixed in spans(letters):
        if branch not in whole:
            row = []
            words.append(branch + (f" from {first}" if first != "0.0" else "") + (f" until {fixed}" if fixed else ""))
            continue
        if row:
            words.pop()
        row.append(branch)
        between = " and " if len(row) == 2 else " to "
        words.append((row[0] if len(row) == 1 else row[0] + between + row[-1]) + " for good")
    return "; ".join(words)


def _runs(letters, history, branch):
    runs, first = [], None
    for release, era in history:
        if era in letters and first is None:
            first = release
        elif era not in letters and first is not None:
            runs.append((branch, first, release))
            first = None
    return runs + ([(branch, first, None)] if first is not None else [])


def history(branch: tuple[int, int]) -> list[tuple[int, str]]:
    """[(patch level, era from there on)] of kernel.org's stable branch (major, minor)."""
    return [(0, era_of(Version(*branch, 0, None, False))), *BACKPORTS.get(branch, ())]


def _patched(branch, patch):
    return f"{branch}.{patch}" if patch else branch


def _mainline_name(first):
    major, minor, rc = first
    # The first rc of a version that has the change: in releases, that version.
    return f"{major}.{minor}" if rc <= 1 else f"{major}.{minor}-rc{rc}"


def before(release: str) -> str:
    """The branch that came before: 6.15 for 6.16, 6.19 for 7.0."""
    major, minor = map(int, release.split("."))
    return "{}.{}".format(*BRANCHES[BRANCHES.index((major, minor)) - 1])


def fixed_in(erratum: Erratum, branch: tuple[int, int], era: str) -> tuple[str | None, str | None]:
    """In this stable branch: (the first release that no longer has it, one that has it again).

    branch   (major, minor)
    era      what a kernel of that branch behaves like; it says where in the branch to begin, as
             the patch level of a vendor's kernel is not kernel.org's
    None: there is no such release, or that era never was in that branch.
    """
    name = f"{branch[0]}.{branch[1]}"
    if erratum.ranges:
        return next((fixed for of, _, fixed in erratum.ranges if of == name + ".y"), None), None
    later, fixed = False, None
    for patch, other in history(branch):
        if later and fixed is None and other not in erratum.eras:
            fixed = _patched(name, patch)
        elif fixed is not None and other in erratum.eras:
            return fixed, _patched(name, patch)
        later = later or other == era
    return fixed, None


# -- the eras -------------------------------------------------------------------------------------
Era = namedtuple("Era", "letter what why commit reports", defaults=("", ()))
Era.__doc__ = """One form of io_connect().

letter   as in `replay`
what     how a pending connect is brought to its end, in a few words
why      a paragraph: what was changed to get here, what was meant by it, what came of it
commit   the commit of mainline that began it, or its title
reports  what had been reported before, and led to it: as in an Erratum
"""

# G's commit is known by its title alone, from Debian's changelog.
ERAS = {era.letter: era for era in (
    Era("-", "there is no such opcode",
        "IORING_OP_CONNECT came with Linux 5.5. Earlier kernels answer every such request with EINVAL, "
        "as they do any opcode that they do not know."),
    Era("0", "a worker thread calls connect(2)",
        "The first form tried without blocking, and when that was not enough handed the request to a "
        "worker thread, which called connect again with the flags of the file. On a blocking socket that "
        "is connect(2) itself, with all its answers. On an O_NONBLOCK socket the second call finds the "
        "handshake of the first one under way, and says EALREADY at once.",
        "f8e85cf255ad", ("axboe/liburing#23",)),
    Era("A", "poll, then connect again",
        "5.7 taught io_uring to poll instead of keeping a thread: when the socket is ready, connect is "
        "called once more and takes the outcome, through connect(2)'s own last step and with its "
        "clean-up. But a socket that somebody shut down meanwhile is ready, too, and a second connect on "
        "that begins a new handshake. And Bluetooth's RFCOMM answers a second connect with EBADFD, "
        "although it is connected.",
        "d7718a9d25a6"),
    Era("B", "poll, then only read the socket's error",
        "For Bluetooth's sake (commit 3fb1bd688172) 6.1 no longer called connect a second time: after the "
        "poll it read the socket's pending error and made that the result. Only that the second call was "
        "also what cleaned up. After a failure the socket stayed half-way, with its error gone, so that "
        "the next connect had nothing to report but ECONNABORTED; after success it was not marked as "
        "connected, so that another connect said 0 instead of EISCONN.",
        "3fb1bd688172", ("axboe/liburing#671",)),
    Era("C", "as B, and try again after ECONNABORTED",
        "The ECONNABORTED was reported (axboe/liburing#828) and papered over in 6.3 (commit 74e2e17ee1f8): "
        "a request that meets it tries once more. That hides it from those who only use io_uring. The "
        "socket is still left half-way, connect(2) and listen(2) on it still stumble, and where connect(2) "
        "would rightly say ECONNABORTED the request now says something else.",
        "74e2e17ee1f8", ("axboe/liburing#828",)),
    Era("D", "poll, then connect again, with exceptions",
        "The missing EISCONN was reported (axboe/liburing#980), and 6.7 went back to the second connect "
        "(commit f8f9ab2d9811), with a patch for Bluetooth behind it: EBADFD and EISCONN on a request that "
        "had polled are replaced by the socket's error. Clean-up and EISCONN were right again, and with "
        "them came back what era A did to a socket that was shut down while it was pending: it connects "
        "again, and waits.",
        "f8f9ab2d9811", ("axboe/liburing#980",)),
    Era("E", "as D, but an error in the poll is ECONNRESET",
        "So that a shutdown ends the request (axboe/liburing discussion 1335), 6.14 made a wakeup with "
        "POLLERR final (commit 8c8492ca64e7): no second connect, the result is ECONNRESET. For a shutdown "
        "that is the right word. But a refusal over a real network, a timeout, an unreachable host wake the "
        "poll with POLLERR as well, and all of them were now called ECONNRESET; the true error stayed in "
        "the socket and was reported by the next connect.",
        "8c8492ca64e7", ("axboe/liburing discussion 1335",)),
    Era("F", "as D, but an error in the poll is read from the socket",
        "Before it calls connect again, the request now looks whether the socket has an error, and if so "
        "reads that and is done (commit c7cafd5b81cc, 6.16). The result is right at last. But it is read "
        "past connect(2)'s last step, as in era B, and so the clean-up is missing again after every failure "
        "that was waited for: io_uring's own retry hides that, a connect(2) or listen(2) on the same socket "
        "meets it. So it is up to 7.3.",
        "c7cafd5b81cc"),
    Era("G", "as F, and EAGAIN on an O_NONBLOCK socket is final",
        "A full AF_UNIX backlog has nothing to poll for; on an O_NONBLOCK socket the request used to go "
        "round through poll up to 128 times and then through a worker before it said EAGAIN. In 7.3.2 and "
        "6.12.117 it says so at once. For TCP nothing changed: all that is said of era F holds.",
        "\"io_uring/net: don't retry a non-blocking connect() that fails with -EAGAIN\""),
)}

# -- the errata -----------------------------------------------------------------------------------
_Fields = namedtuple("_Fields", "id title symptom workaround eras fix reports evidence ranges scope measured",
                     defaults=((), "request", ()))


class Erratum(_Fields):
    """One way in which the opcode differs from connect(2), or surprises those who expect that.

    id, title    "E7", and a few words
    symptom      what a program that submits IORING_OP_CONNECT itself sees
    workaround   what it should do about it, without another kernel
    eras         the letters of the eras that have it
    fix          what ended it; "" for nothing so far
    reports      where it was reported: "owner/name#number" on GitHub, or words
    evidence     how it is known
    ranges       () where the eras say it all; else (branch, first release, first fixed one or
                 None), as spans() gives them
    scope        "request": in the result of a plain request, or in what it leaves behind;
                 "around": in cancelling it, in other flags, in other calls
    measured     the releases in `ranges` that are only the first which were run on that side of the
                 change: it came in one of those, or in an earlier one that was not run
    """

    __slots__ = ()

    @property
    def affected(self) -> list[tuple[str, str, str | None]]:
        """(branch, first bad release, first fixed one or None), mainline first; see spans()."""
        return list(self.ranges) or spans(self.eras)


_MEASURED = ("measured on 5.6.4, 5.10.46, 5.10.218, 5.10.262, 6.1.176 as it is and with the old forms, "
             "6.12.107, 6.12.117, 6.16.3, 6.18.44, 7.0.13, 7.3.4")

ERRATA = {erratum.id: erratum for erratum in (
    Erratum(
        "E1", "no such opcode", "every connect answers EINVAL",
        "Use connect(2).",
        "-", "5.5. (That a blocking socket said EINPROGRESS was before the release: 87f80d623c6c.)",
        ("axboe/liburing#26",), "read in the pull request for 5.5"),
    Erratum(
        "E2", "a worker's answers on an O_NONBLOCK socket",
        "an O_NONBLOCK socket answers EALREADY at once, neither EINPROGRESS nor the outcome",
        "Fall back to connect(2) on O_NONBLOCK sockets; EINTR after a cancel of yours means cancelled.",
        "0", "5.7, by polling", (), "measured on 5.6.4"),
    Erratum(
        "E3", "not on SQPOLL rings", "EINVAL on a ring with IORING_SETUP_SQPOLL",
        "Submit connects on a ring without SQPOLL.",
        "0", "5.9 at the latest, from memory; 5.7 and 5.8 may have it too", (),
        "read in 5.6.4, and no more in 5.10.262; not run",
        (("mainline", "5.5", "5.9"),)),
    Erratum(
        "E4", "O_NONBLOCK is waited for",
        "an O_NONBLOCK socket is waited for: the request stays pending, and never says EINPROGRESS",
        "For an answer at once fall back to connect(2), which can't block there, then poll.",
        "ABCDEFG", "", ("axboe/liburing#364", "axboe/liburing#841"), _MEASURED),
    Erratum(
        "E5", "EALREADY from a worker",
        "on an O_NONBLOCK socket EALREADY or EINPROGRESS, when its poll was woken in vain (shutdown)",
        "Treat both as pending: poll for POLLOUT, then fall back to connect(2).",
        "A", "more rounds of poll (APOLL_MAX_RETRY): 6.3, and stable branches before that",
        ("axboe/liburing#841", "romange/helio#63"),
        "measured on 5.10.46, and no more on 5.10.218; the releases between were not run, nor was 6.3, "
        "where APOLL_MAX_RETRY is new",
        (("mainline", "5.7", "6.3"), ("5.10.y", "5.10", "5.10.218")), measured=("5.10.218",)),
    Erratum(
        "E6", "EBADFD on Bluetooth",
        "RFCOMM: EBADFD, although the socket is connected",
        "On EBADFD from an AF_BLUETOOTH socket poll for POLLOUT; SO_ERROR is the result.",
        "0A", "3fb1bd688172 (6.1, 6.0.3)", ("axboe/liburing#671",),
        "read in the report and the commit; not run"),
    Erratum(
        "E7", "ECONNABORTED after a refusal",
        "refused, and again: every second request says ECONNABORTED, even where somebody listens",
        "Treat ECONNABORTED as not tried: submit the same request once more, and take that answer.",
        "B", "74e2e17ee1f8 (6.3, 6.1.22, 6.2.9)", ("axboe/liburing#828", "axboe/liburing#1274"),
        "measured on 6.1.176 with the old form; 6.1.20 read"),
    Erratum(
        "E8", "0 instead of EISCONN",
        "connected, and again: 0 once more instead of EISCONN, from connect(2) as well",
        "After 0 submit the same request once more: 0 and EISCONN then both mean connected.",
        "BC", "f8f9ab2d9811 (6.7, 6.1.63, 6.5.12, 6.6.2)", ("axboe/liburing#980",),
        "measured on 6.1.176 with the old forms"),
    Erratum(
        "E9", "shut down, it connects again",
        "shutdown(2) does not end a pending request: it connects again, and goes on waiting",
        "Cancel the request before you shut its socket down, and report ECONNRESET yourself.",
        "AD", "8c8492ca64e7 (6.14, 6.1.129, 6.6.78, 6.12.14, 6.13.3)",
        ("axboe/liburing discussion 1335", "scylladb/seastar#2302"),
        "measured on 5.10.46, 5.10.218, 5.10.262 and 6.1.176 with the old forms; that the second report is "
        "the same is our reading of it"),
    Erratum(
        "E10", "ECONNRESET for every error",
        "a failure that was waited for is ECONNRESET; the next request says what it really was",
        "On ECONNRESET read SO_ERROR: not 0, it is the true error. Then disconnect with AF_UNSPEC.",
        "E", "c7cafd5b81cc (6.16, 6.1.147, 6.6.100, 6.12.40, 6.15.8)", (),
        "measured on 6.1.176 with the old form; 6.1.141, 6.13.7 and 6.14 read"),
    Erratum(
        "E11", "not cleaned up after a failure",
        "after a failed request connect(2) says ECONNABORTED once, and listen(2) EINVAL",
        "Treat that ECONNABORTED as not tried; or disconnect after a failure: connect(2), AF_UNSPEC.",
        "BCFG", "", (), _MEASURED),
    Erratum(
        "E12", "ECONNABORTED swallowed",
        "no ECONNABORTED where SO_ERROR took an earlier error: the request tries again by itself",
        "If you need it, fall back to connect(2) on POLLHUP and POLLRDHUP without POLLERR.",
        "CDEFG", "", (), _MEASURED + "; that connect(2) must say so is a test of gVisor's "
        "(NonBlockingConnectNoListener)"),
    Erratum(
        "E13", "EALREADY instead of waiting",
        "EALREADY at once while a handshake is under way, for which connect(2) would wait",
        "Poll for POLLOUT and submit again (EISCONN: connected), or fall back to connect(2).",
        "0ABCDEFG", "", (), _MEASURED),
    Erratum(
        "E14", "SO_SNDTIMEO is ignored",
        "SO_SNDTIMEO is ignored; connect(2) says EINPROGRESS after that time",
        "Link IORING_OP_LINK_TIMEOUT with that time; if it fires, report EINPROGRESS.",
        "ABCDEFG", "", (), _MEASURED),
    Erratum(
        "E15", "a full AF_UNIX backlog waits in a worker",
        "AF_UNIX, full backlog: a cancelled request says EINTR, its cancel or timeout EALREADY or ENOENT",
        "Read EINTR and ECANCELED both as cancelled, and ignore what the cancel or timeout itself says.",
        "0ABCDEFG", "", (), _MEASURED, scope="around"),
    Erratum(
        "E16", "EAGAIN the long way round",
        "AF_UNIX, full backlog, O_NONBLOCK: EAGAIN, after up to 128 rounds of poll and a worker thread",
        "None is needed: the result is right. Where it costs too much, connect(2) can't block there.",
        "0ABCDEF", "\"io_uring/net: don't retry a non-blocking connect() that fails with -EAGAIN\" (7.3.2, "
        "6.12.117)", (), _MEASURED, scope="around"),
    Erratum(
        "E17", "relative AF_UNIX paths",
        "AF_UNIX, relative path: ENOENT when it gets to a worker, whose working directory is another",
        "Give absolute paths, and don't set IOSQE_ASYNC.",
        "0A", "5.12, whose workers are threads of the process (from memory); 5.10.162, which took over "
        "5.15's io_uring", (),
        "measured on 5.6.4 and 5.10.46, and no more on 5.10.218",
        (("mainline", "5.5", "5.12"), ("5.10.y", "5.10", "5.10.162"))),
    Erratum(
        "E18", "IOSQE_ASYNC answers in other ways",
        "IOSQE_ASYNC: an O_NONBLOCK socket says EINPROGRESS, sooner or later; era E always ECONNRESET",
        "Don't set IOSQE_ASYNC on a connect.",
        "0ABCDEFG", "", (), _MEASURED, scope="around"),
    Erratum(
        "E19", "no cancelling by fd", "IORING_ASYNC_CANCEL_FD answers EINVAL, and the request goes on",
        "Cancel by user_data.",
        "0A", "5.19", (), "measured on 5.10.46, 5.10.218 and 5.10.262",
        (("mainline", "5.5", "5.19"), ("5.10.y", "5.10", None)), "around"),
    Erratum(
        "E20", "close(2) ends nothing",
        "close(2) does not end a pending request, as it ends no connect(2) in another thread",
        "Cancel, wait for the request's own completion, then close.",
        "0ABCDEFG", "", ("axboe/liburing#363", "netty/netty-incubator-transport-io_uring#193"), _MEASURED,
        scope="around"),
    Erratum(
        "E21", "connect(2) itself: EBUSY",
        "connect(2) itself: while a thread blocks in it, shutdown(2) is EBUSY, and the connect goes on",
        "None is needed for requests, which wait in poll.",
        "", "\"tcp: allow again tcp_disconnect() when threads are waiting\"", (),
        "measured on 5.10.218 and 5.10.262; 6.1.y read in the changelogs, mainline from memory",
        (("mainline", "6.4", "6.6"), ("5.10.y", "5.10.218", None), ("6.1.y", "6.1.33", "6.1.60")),
        "around", ("5.10.218",)),
    Erratum(
        "E22", "connect(2) itself: EPIPE",
        "connect(2) itself: of two threads in it on one socket the second to wake says EPIPE",
        "Let one thread connect a socket.",
        "", "", (), "measured: ECONNABORTED up to 5.10.262, EPIPE from 6.1.176 on",
        (("mainline", "6.1", None),), "around"),
    Erratum(
        "E23", "0 without a connection",
        "0 at once, and not connected, where an ICMP error came that does not end the handshake",
        "After 0, poll: with POLLERR ask TCP_INFO, and while that says SYN_SENT wait and submit again.",
        "BCFG", "", (),
        "measured on 6.18.44 and 6.1.176: an unreachable host, IPv4, no IP_RECVERR needed. The error is "
        "put into the socket's error queue, which is a POLLERR, and SO_ERROR is 0"),
    Erratum(
        "E24", "stale MPTCP error",
        "on MPTCP the error of an earlier connect (dissolved with AF_UNSPEC) for one that succeeds",
        "Take SO_ERROR before connecting such a socket again.",
        "BCFG", "", (),
        "measured on 6.1.176 as it is and with B's form, 6.12.117, 6.16.12, 6.18.44, 6.19.14, 7.2.13 and "
        "7.3.4; not with A's form"),
)}


#: The errata that tell the eras apart, each of which examine.observe() finds by trying.
TELLING = frozenset(("E1", "E2", "E7", "E8", "E9", "E10", "E11", "E12", "E16"))


def recognise(observed: frozenset[str], observable: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """(era, ids of the errata met) for what was observed; the era is "" where none behaves so.

    observed     ids of the errata that were seen
    observable   ids of those that were looked for: of these, only what was seen is met
    To what was seen comes what follows from the era, and what is not about plain requests goes.
    """
    era = next((letter for letter in ERAS if {
        erratum.id for erratum in ERRATA.values() if erratum.id in TELLING and letter in erratum.eras
    } == observed & TELLING), "")
    met = [erratum.id for erratum in ERRATA.values() if erratum.scope == "request" and (
        erratum.id in observed or erratum.id not in observable and era and era in erratum.eras)]
    return era, tuple(met)


# -- the eras acted out ---------------------------------------------------------------------------
# io_connect() is called when a request is submitted, and again after each wait. What follows are
# its forms: each looks at the request, and answers the errno that completes it (0: connected), or
# POLL to wait until the socket is ready and be called again.
POLL = -1           # from an _issue: not yet
PENDING = -2        # as an answer: it would wait for ever
_LONGEST_MS = 10_000
_AT_ONCE_MS = 2     # on loopback, with a machine that has other things to do


class _Request:
    """One request, with what the kernel keeps in it (struct io_connect, REQ_F_FAIL)."""

    def __init__(self, sock, address):
        self.sock = sock
        self.raw = pack(sock.family, address)
        self.in_progress = False        # this request began the handshake that it waits for
        self.seen_aborted = False       # it has met ECONNABORTED once
        self.failed = False             # its poll was woken with POLLERR

    def connect(self):
        """connect(2) without waiting, as io_connect() calls it."""
        return -syscalls.connect(self.sock.fileno(), self.raw)

    def connect_in_worker(self):
        """connect(2) as a worker thread calls it: with the flags of the file, so it waits. (Here a
        shutdown does not end that on a kernel with E21; no kernel of era 0 has E21.)"""
        self.sock.setblocking(True)
        return _connect2(self.sock, self.raw)

    def sock_error(self):
        """Take the socket's pending error, as SO_ERROR does. It cleans up nothing."""
        return self.sock.getsockopt(SOL_SOCKET, SO_ERROR)

    def poll(self, milliseconds=0):
        """What poll(2) shows, 0 for nothing in that time. POLLERR and POLLHUP are always asked for."""
        poller = poll()
        poller.register(self.sock, POLLOUT)
        return sum(mask for _, mask in poller.poll(milliseconds))


def _issue_none(request):
    return EINVAL


def _issue_0(request):
    error = request.connect()
    if error in (EAGAIN, EINPROGRESS):
        return request.connect_in_worker()
    return error


def _issue_a(request):
    error = request.connect()
    if error in (EAGAIN, EINPROGRESS):
        return POLL
    return error


def _issue_b(request):
    if request.in_progress:
        return request.sock_error()
    error = request.connect()
    if error in (EAGAIN, EINPROGRESS):
        request.in_progress = error == EINPROGRESS
        return POLL
    return error


def _issue_c(request):
    if request.in_progress:
        return request.sock_error()
    return _try_again(request, request.connect())


def _issue_d(request):
    error = _try_again(request, request.connect())
    if request.in_progress and error in (EBADFD, EISCONN):
        return request.sock_error()
    return error


def _issue_e(request):
    if request.failed:
        return ECONNRESET
    return _issue_d(request)


def _issue_f(request):
    if request.in_progress and request.poll() & POLLERR:
        return request.sock_error()
    return _issue_d(request)


def _try_again(request, error):
    if error in (EAGAIN, EINPROGRESS):
        request.in_progress = request.in_progress or error == EINPROGRESS
        return POLL
    if error == ECONNABORTED and not request.seen_aborted:
        request.seen_aborted = True
        return POLL                     # which is ready at once
    return error


#: G differs from F in EAGAIN on O_NONBLOCK sockets only, which TCP on a blocking one never meets.
_FORMS = {"-": _issue_none, "0": _issue_0, "A": _issue_a, "B": _issue_b, "C": _issue_c, "D": _issue_d,
          "E": _issue_e, "F": _issue_f, "G": _issue_f}


def act(era: str, sock: socket.socket, address: object) -> int:
    """One IORING_OP_CONNECT on a blocking TCP socket, as that era did it -> 0, an errno, or PENDING.

    PENDING: nothing came of it in ten seconds. The socket does not block meanwhile, and does again
    afterwards: nobody else should use it in between, but to shut it down.
    """
    issue, request = _FORMS[era], _Request(sock, address)
    sock.setblocking(False)
    try:
        while True:
            error = issue(request)
            if error != POLL:
                return error
            # The kernel looks once as it arms the poll. What is ready then goes straight back to
            # io_connect(); E's look at POLLERR is in the wakeup, so it misses that (and loopback,
            # which refuses before connect returns, was spared).
            if not request.poll(_AT_ONCE_MS):
                mask = request.poll(_LONGEST_MS)
                if not mask:
                    return PENDING
                request.failed = bool(mask & POLLERR)
    finally:
        sock.setblocking(True)


def by_connect2(sock: socket.socket, address: object) -> int:
    """connect(2) on a blocking socket, on this kernel -> 0 or an errno."""
    return _connect2(sock, pack(sock.family, address))


def _connect2(sock, raw):
    error = EINTR
    while error == EINTR:               # then the handshake goes on, and so does the wait
        error = -syscalls.connect(sock.fileno(), raw)
    return error


# -- the scenes -----------------------------------------------------------------------------------
Scene = namedtuple("Scene", "title columns short slow play")
Scene.__doc__ = """One way to play connects, for `replay`.

title     what happens, one line
columns   what each of the answers is
short     the title for a table of all eras, or ""
slow      True: it waits for TCP's first retransmission, a second
play      function(connect) -> one answer for each column: 0, an errno, PENDING, or None.
          `connect` is function(sock, address) -> 0, an errno or PENDING, for a blocking socket
"""

_TCP_SYN_SENT = 2           # include/net/tcp_states.h
_SETTLING = 0.1             # seconds from the SYN to what happens meanwhile: the wait has begun by then
_SHUT_DOWN_PATIENCE = 0.5   # seconds after which what was shut down is called pending. Both together
                            # are less than the second after which TCP knocks again


def _refused(connect):
    with socket.socket() as sock, _bound() as closed:
        address = closed.getsockname()
        return *(connect(sock, address) for _ in range(3)), by_connect2(sock, address)


def _listen_after_refusal(connect):
    with socket.socket() as sock, _bound() as closed:
        answer = connect(sock, closed.getsockname())
        try:
            sock.listen()
        except OSError as error:
            return answer, error.errno
        return answer, 0


def _refused_then_accepted(connect):
    with socket.socket() as sock, _bound() as listener:
        first = connect(sock, listener.getsockname())
        listener.listen()
        return first, *(connect(sock, listener.getsockname()) for _ in range(2))


def _connected(connect):
    with socket.socket() as sock, _bound() as listener:
        listener.listen()
        return tuple(connect(sock, listener.getsockname()) for _ in range(3))


def _error_taken(connect):
    with socket.socket() as sock, _bound() as closed:
        address = closed.getsockname()
        sock.setblocking(False)
        sock.connect_ex(address)
        poller = poll()
        poller.register(sock, POLLOUT)
        poller.poll(_LONGEST_MS)
        taken = sock.getsockopt(SOL_SOCKET, SO_ERROR)
        sock.setblocking(True)
        return taken, connect(sock, address), connect(sock, address)


def _late_refusal(connect):
    with socket.socket() as sock, _full() as (address, listener):
        first = _meanwhile(sock, listener.close, lambda: connect(sock, address))
        return first, connect(sock, address), connect(sock, address)


def _late_success(connect):
    with socket.socket() as sock, _full() as (address, listener), ExitStack() as accepted:
        first = _meanwhile(sock, lambda: accepted.enter_context(listener.accept()[0]),
                           lambda: connect(sock, address))
        return first, connect(sock, address), connect(sock, address)


def _shut_down(connect):
    released = []

    def shut_down():
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:                 # E21; or there is nothing to shut down any more
            pass
        ended.wait(_SHUT_DOWN_PATIENCE)
        released.append(not ended.is_set())
        listener.close()                # who still waits is refused by the next SYN

    from threading import Event
    ended = Event()

    def connect_to_the_end():
        try:
            return connect(sock, address)
        finally:
            ended.set()

    with socket.socket() as sock, _full() as (address, listener):
        answer = _meanwhile(sock, shut_down, connect_to_the_end)
        if any(released):
            return PENDING, None
        return answer, sock.getsockopt(SOL_SOCKET, SO_ERROR)


def _under_way(connect):
    with socket.socket() as sock, _full() as (address, listener):
        sock.setblocking(False)
        sock.connect_ex(address)
        sock.setblocking(True)
        return _meanwhile(sock, listener.close, lambda: connect(sock, address)),


SCENES = (
    Scene("Refused three times on one socket, and then connect(2)",
          ("first", "second", "third", "connect(2)"), "refused, connect(2)", False, _refused),
    Scene("Refused, and then used to listen", ("connect", "listen(2)"), "", False,
          _listen_after_refusal),
    Scene("Refused, then somebody listens", ("first", "second", "third"), "then listening", False,
          _refused_then_accepted),
    Scene("Connected, and again", ("first", "second", "third"), "connected", False, _connected),
    Scene("Refused without waiting, and the error taken with SO_ERROR",
          ("SO_ERROR", "first", "second"), "", False, _error_taken),
    Scene("Refused late: the listener is full, and gone when TCP knocks again",
          ("first", "second", "third"), "refused late", True, _late_refusal),
    Scene("Connected late: the listener is full, and has room when TCP knocks again",
          ("first", "second", "third"), "", True, _late_success),
    Scene("Shut down from elsewhere while it waits", ("connect", "SO_ERROR"), "shut down", True, _shut_down),
    Scene("On a socket whose handshake is under way, and is refused late", ("connect",), "", True, _under_way),
)


def play(ways: dict, scenes=SCENES) -> dict:
    """Play scenes in several ways -> {(scene, name of way): answers}, all in about 1.3 seconds.

    ways   {name: function(sock, address) -> 0, an errno or PENDING}
    The slow scenes are played side by side, each in threads of its own.
    OSError: sockets, loopback or threads can't be had.
    """
    from threading import Thread
    answers, failures, threads = {}, [], []

    def one(scene, name):
        try:
            answers[scene, name] = scene.play(ways[name])
        except BaseException as error:
            failures.append(error)

    try:
        # daemon: after Ctrl-C nobody waits for them.
        threads = [Thread(target=one, args=(scene, name), daemon=True)
                   for scene in scenes if scene.slow for name in ways]
        for thread in threads:
            thread.start()
    except RuntimeError as error:       # "can't start new thread"
        raise OSError(EAGAIN, f"replay: {error}") from None
    for scene in scenes:
        if not scene.slow:
            for name in ways:
                one(scene, name)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return answers


def _bound():
    """A socket with a port of 127.0.0.1 that nobody else gets, and that does not listen."""
    sock = socket.socket()
    try:
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def _full():
    """(address, listener) of a listener that has no room: it leaves a SYN unanswered."""
    with _bound() as listener, socket.socket() as filler, socket.socket() as holder:
        holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        holder.bind(listener.getsockname())     # keeps the port when the listener is closed
        listener.listen(1)
        filler.connect(listener.getsockname())
        listener.listen(0)                      # room for one, and there it is
        yield listener.getsockname(), listener


def _meanwhile(sock, action, connect):
    """connect() here, and action() in another thread as soon as the SYN is out -> connect's answer."""
    from threading import Event, Thread
    ended = Event()

    def elsewhere():
        while not ended.is_set() and sock.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] != _TCP_SYN_SENT:
            time.sleep(0.002)
        ended.wait(_SETTLING)
        action()

    thread = Thread(target=elsewhere, daemon=True)
    thread.start()
    try:
        return connect()
    finally:
        ended.set()
        thread.join()
