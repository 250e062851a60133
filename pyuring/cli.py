"""cli.py - the command line: a tour, `doctor`, `connect`, `explain`, `replay`, `opcodes`.

Only presentation: what is shown comes from client.py, capabilities.py, eras.py and ring.py. Exit codes:
0 all is well, 1 not all, 2 bad usage, 130 after Ctrl-C, 141 when nobody reads the output any more.
"""
from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import socket
import sys
import time

from . import __version__, abi, client, eras, errors, explain, host, many, report, sockaddr
from .capabilities import picked, probe
from .targets import Targets

# Whatever it was vendored as. (Not __package__, which Python 3.9 sets late in a zip file.)
_NAME = "python3 -m " + __name__.rpartition(".")[0]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, which names the value and where to look; no usage above it."""
        _complain(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)

    def parse_known_args(self, args=None, namespace=None):
        """Targets may stand between options: argparse takes those before the first, and leaves the others."""
        namespace, rest = super().parse_known_args(args, namespace)
        if hasattr(namespace, "targets"):
            namespace.targets += [word for word in rest if word == "-" or word[:1] != "-"]
            rest = [word for word in rest if word != "-" and word[:1] == "-"]
        return namespace, rest


def main(argv: list[str] | None = None) -> int:
    """Run the command line -> the exit code."""
    # A path need not be text: it comes in by any byte, and goes out in any encoding. A stream
    # that was closed (>&-) is None.
    for stream, errors_ in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors_)
    try:
        try:
            arguments = _parser().parse_args(argv)
            code = arguments.run(arguments)
        except SystemExit as end:       # argparse: --help, or a mistake that it has told about
            code = end.code
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except OSError as error:            # a full disk behind stdout, no file descriptor left, ...
        _complain(f"{_NAME}: {error}")
        code = 1
    _quietly_close_stdout()
    return code


def _complain(line):
    if sys.stderr is not None:          # print() would take stdout instead
        print(line, file=sys.stderr)


def _quietly_close_stdout():
    # The interpreter flushes stdout once more at exit; what can't be written then goes nowhere.
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, KeyboardInterrupt):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


def _parser():
    parser = _Parser(prog=_NAME, description="io_uring in pure Python. Without a command: a tour "
                     "on loopback that needs no network.")
    parser.add_argument("--version", action="version", version=f"pyuring {__version__}")
    parser.set_defaults(run=_tour)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    doctor = commands.add_parser("doctor", help="is io_uring usable here, and if not, what blocks "
                                 "it and what to do (exit 0: usable, 1: not)")
    doctor.add_argument("--json", action="store_true", help="one JSON object")
    doctor.set_defaults(run=_doctor)

    connect = commands.add_parser(
        "connect", help="connect to each target (exit 0: all connected, 1: some not)",
        description="Connects to each target, closes again, and prints a line for each as it "
        "finishes, then a summary; on a terminal meanwhile how far it is. Arguments and files up to a MiB "
        "are checked before the first connect; a bad line of a longer file or of stdin is told and left "
        "out. Exit 0: all connected, 1: some not, 2: bad usage or a bad line, 130: Ctrl-C.")
    connect.add_argument("targets", nargs="*", metavar="TARGET", help="host:port, [v6]:port, unix:/path or "
                         "unix:@abstract-name; many ports as in host:22,80,8000-8100; - reads more from stdin, "
                         "one a line")
    connect.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="more targets, one "
                         "a line; empty lines and those that start with # are none (may be given several times)")
    connect.add_argument("-q", "--quiet", action="store_true", help="no line for each, only the summary; "
                         "with --json that is one object")
    connect.add_argument("--only", choices=("ok", "failed"), help="a line only for these; all are counted")
    connect.add_argument("--timeout", type=_seconds, metavar="S", help="seconds for each target "
                         "(default: the kernel's own patience, about two minutes)")
    connect.add_argument("--concurrency", type=_count, metavar="N", default=256,
                         help="at most so many at a time (default: 256)")
    connect.add_argument("--strategy", choices=client.STRATEGIES, help="default: emulated where "
                         "io_uring works, else syscall")
    connect.add_argument("--json", action="store_true", help="one JSON object a line, no summary")
    connect.set_defaults(run=_connect, usage_error=connect.error)

    explain.add_parser(commands, _seconds)

    replay = commands.add_parser(
        "replay", help="act out how some kernel's IORING_OP_CONNECT treated refused, repeated, late "
        "and successful connects", description="Acts out, on this kernel and on loopback, how another "
        "kernel's IORING_OP_CONNECT treated refused, repeated, late and successful connects, beside "
        "connect(2) and pyuring; without ERA the whole history, with the reason, the commit and the reports. "
        "Takes a second and a half; needs no io_uring.")
    replay.add_argument("era", nargs="?", type=_era, metavar="ERA", help="a kernel version such as 6.2 or "
                        f"5.15.148, or an era: {', '.join(eras.ERAS)}")
    replay.add_argument("--all", action="store_true", help="all eras, in one table")
    replay.set_defaults(run=_replay, usage_error=replay.error)

    opcodes = commands.add_parser(
        "opcodes", help="every opcode: since which kernel, supported here, who prepares it",
        description="Prints every opcode: number, name, the Linux release that brought it, whether this "
        "kernel has it, the methods of pyuring.Ring that prepare it (liburing has them as io_uring_prep_*), "
        "and what they put where in the SQE.")
    opcodes.add_argument("--json", action="store_true", help="one JSON object")
    opcodes.set_defaults(run=_opcodes)
    return parser


def _era(text):
    try:
        return eras.resolve(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text):
    try:
        return client.check_timeout(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds from 0") from None


def _count(text):
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


# -- the tour -------------------------------------------------------------------------------------
def _tour(_arguments):
    works = probe()
    print(f"pyuring {__version__} on Linux {works.release}, Python {platform.python_version()}")
    if works.available:
        print("io_uring works here. A request is an entry in a ring that is shared with the "
              "kernel:")
        _one_nop()
    else:
        print(f"io_uring does not work here: {works.reason}.\n{works.remedy}.")
        print("pyuring.connect() goes on with plain system calls, as below.")

    with socket.socket() as listener, socket.socket() as closed:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        closed.bind(("127.0.0.1", 0))           # bound, so nobody else gets it; nobody listens
        print(f"\nA connect to a listener ({sockaddr.format_address(listener.getsockname())}), "
              "and once more on the same socket:")
        _compare(listener.getsockname(), works, ("first", "second"), _twice)
        print(f"\nA connect where nobody listens ({sockaddr.format_address(closed.getsockname())}"
              "), once more, and what the socket is good for afterwards:")
        _compare(closed.getsockname(), works,
                 ("first", "second", "then connect(2)", "then listen()"), _twice_and_after)
    print("""
What differs from connect(2) is marked with *. The kernel's own answers changed from version to
version; pyuring's do not.
""")
    following = [(f"{_NAME} doctor", "what this machine allows"),
                 (f"{_NAME} connect example.org:443", "any number of host:port")]
    example = os.path.join("examples", "01_three_syscalls.py")      # not in a vendored copy
    if os.path.exists(os.path.join(os.path.dirname(__file__), os.pardir, example)):
        following.append((f"python3 {example}", "io_uring from the ground up, without pyuring"))
    width = max(len(command) for command, _ in following)
    for word, (command, what) in zip(("Next:", "", ""), following):
        print(f"{word:<5}  {command:<{width}}    {what}")
    return 0


def _one_nop():
    with client.Ring(4) as ring:
        ring.prep_nop(user_data=42)
        ready = ring.sq_ready
        consumed = ring.submit_and_wait(1)
        print(f"  prep_nop(user_data=42)    {ready} SQE is ready\n"
              f"  submit_and_wait(1)        the kernel took {consumed}\n"
              f"  reap()                    {ring.reap()[0]}")


def _compare(address, works, columns, steps):
    """A table: what connect(2), the bare opcode and pyuring each give."""
    rows = [("connect(2)", steps(address, _by_connect2))]
    if works.available:
        rows.append(("IORING_OP_CONNECT", steps(address, _by("native"))))
    rows.append((f"pyuring ({works.strategy})", steps(address, _by(None))))
    _table(columns, rows)


def _table(columns, rows):
    """Rows of (name, cells) under their columns; what differs from the first row is marked."""
    cells = [[name, *(cell if cell == rows[0][1][i] else cell + " *"
                      for i, cell in enumerate(row))] for name, row in rows]
    widths = [max(len(line[i]) for line in [("", *columns), *cells])
              for i in range(len(columns) + 1)]
    for line in [("", *columns), *cells]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        print("  " + (_bold(text) if "*" in text else text))


def _twice(address, connect):
    with socket.socket() as sock:
        return [_name(lambda: connect(sock, address)) for _ in range(2)]


def _twice_and_after(address, connect):
    with socket.socket() as sock, socket.socket() as other:
        results = [_name(lambda: connect(sock, address)) for _ in range(2)]
        results.append(_name(lambda: sock.connect(address)))
        _name(lambda: connect(other, address))
        results.append(_name(other.listen))
        return results


def _by_connect2(sock, address):
    sock.connect(address)


def _by(strategy):
    return lambda sock, address: client.connect(sock, address, 5, strategy=strategy)


def _name(call):
    try:
        call()
    except OSError as error:
        return errors.name_of(error.errno) if error.errno else type(error).__name__
    return "0"


def _bold(text):
    return f"\x1b[1m{text}\x1b[0m" if _colour(sys.stdout) else text


def _colour(stream):
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


# -- doctor ---------------------------------------------------------------------------------------
def _doctor(arguments):
    works, seen = probe(), host.look()
    names = [row.name for row in abi.OPCODES]
    report = {
        "usable": works.available,
        "cause": works.cause, "reason": works.reason, "remedy": works.remedy,
        "strategy": works.strategy,
        "kernel": works.release, "machine": seen.machine,
        "python": platform.python_version(), "pyuring": __version__,
        "setup_flags": _flag_names("IORING_SETUP_", works.setup_flags),
        "features": _flag_names("IORING_FEAT_", works.features),
        "opcodes": sorted(works.ops),
        "opcodes_missing": [name for name in names if works.ops and name not in works.ops],
        "io_uring_disabled": seen.io_uring_disabled, "io_uring_group": seen.io_uring_group,
        "seccomp": seen.seccomp, "sandbox": seen.sandbox,
        "memlock": seen.memlock, "nofile": seen.nofile, "open_files": seen.open_files,
        "connect_era": works.era, "connect_errata": _errata(works),
    }
    if arguments.json:
        print(json.dumps(report))
        return 0 if works.available else 1

    if works.available:
        print("io_uring is usable here.")
    else:
        print(f"io_uring is not usable here ({works.cause}).")
        print(f"  seen      {works.reason}")
        print(f"  remedy    {works.remedy}")
    strategy = {
        "emulated": "emulated: over io_uring, and what the kernel gets wrong is put right",
        "syscall": "syscall: connect(2) and poll(2), which needs no io_uring",
    }[works.strategy]
    print(f"  connect   {strategy}")
    if works.strategy == "syscall" and works.available:
        print(f"            {works.reason}")
    print(f"  kernel    Linux {works.release} on {seen.machine}")
    print(f"  python    {platform.python_version()}, pyuring {__version__}")
    if works.available:
        _wrapped("setup", " ".join(report["setup_flags"]))
        _wrapped("features", " ".join(report["features"]))
        if works.ops:
            missing = report["opcodes_missing"]
            newer = sorted(works.ops.difference(names))
            _wrapped("opcodes", f"{len(names) - len(missing)} of the {len(names)} that pyuring knows work"
                     + f"; not here: {' '.join(missing)}" * bool(missing) + f"; newer: {' '.join(newer)}" * bool(newer))
        else:
            _wrapped("opcodes", "unknown: this kernel can't be asked (Linux 5.6)")
    disabled = seen.io_uring_disabled
    print("  sysctl    " + ("kernel.io_uring_disabled does not exist (Linux 6.6)" if disabled is None
                            else f"kernel.io_uring_disabled = {disabled}"))
    print("  seccomp   " + {0: "no filter on this process", 1: "strict mode",
                            2: "a filter is on this process"}.get(seen.seccomp, "unknown"))
    opened = "unknown" if seen.open_files is None else seen.open_files
    print(f"  limits    {opened} of {_limit(seen.nofile)} files open (RLIMIT_NOFILE), "
          f"RLIMIT_MEMLOCK {_limit(seen.memlock)} bytes (counts before Linux 5.12)")
    _show_errata(works, report["connect_errata"])
    return 0 if works.available else 1


# -- opcodes --------------------------------------------------------------------------------------
def _opcodes(arguments):
    works = probe()
    rows = [{**row._asdict(), "helpers": _helpers(row), "supported": row.name in works.ops if works.ops else None}
            for row in abi.OPCODES]
    newer = sorted(works.ops - {row.name for row in abi.OPCODES})
    if arguments.json:
        print(json.dumps({"kernel": works.release, "opcodes": rows, "newer": newer}))
        return 0
    width = max(len(row["name"]) for row in rows)
    print(f"{'':>3} {'opcode':{width}}  since  here  prepared by")
    for row in rows:
        here = {True: "yes", False: "no", None: "?"}[row["supported"]]
        print(f"{row['number']:>3} {row['name']:{width}}  {row['since']:5}  {here:4}", end="  ")
        print(*row["helpers"])
        print(f"{'':{width + 4}}  {row['fields']}")
    if works.ops:
        here = sum(row["supported"] for row in rows)
        print(f"\nLinux {works.release} has {here} of these {len(rows)}"
              + (f", and newer ones: {' '.join(newer)}." if newer else "."))
    else:
        print(f"\nLinux {works.release} can't be asked which it has: {works.reason or 'that came with Linux 5.6'}.")
    return 0


def _helpers(row):
    # Where the table says prep_rw, liburing has nothing but that, and Ring a method of its own.
    return [f"prep_{row.name}" if helper == "prep_rw" else helper for helper in row.helpers]


def _flag_names(prefix, flags):
    return [name[len(prefix):] for name in vars(abi)
            if name.startswith(prefix) and flags & getattr(abi, name)]


def _wrapped(label, text):
    import textwrap
    print(textwrap.fill(text, 96, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12))


def _limit(value):
    return "unlimited" if value is None else value


_UNFIXED = " No release has a fix so far."


def _errata(works):
    """A dict for each connect erratum that this kernel shows; None where that was not examined."""
    if works.connect is None:
        return None
    found = []
    for erratum in map(eras.ERRATA.get, works.connect):
        fixed, when = _when_fixed(erratum, works)
        found.append({
            "id": erratum.id, "title": erratum.title, "symptom": erratum.symptom,
            "advice": f"{erratum.workaround} {when}", "fixed_in": fixed,
            "report": ", ".join(erratum.reports)})
    return found


def _when_fixed(erratum, works):
    """(the first release in this kernel's branch that no longer has it, or None; that in words)

    None also where releases before it were not run, and may be fixed."""
    try:
        branch = eras.parse_version(works.release)[:2]
    except ValueError:                      # a release that does not even look like one
        branch = (0, 0)
    fixed, again = eras.fixed_in(erratum, branch, works.era)
    if fixed in erratum.measured:
        return None, f"Fixed in {fixed} or before."
    if fixed:
        return fixed, f"Fixed in {fixed}" + (f", back in {again}." if again else ".")
    mainline = [(first, fixed) for name, first, fixed in erratum.affected if name == "mainline"]
    if not any(fixed for _, fixed in mainline):
        return None, _UNFIXED.strip()
    back, gone = mainline[-1]
    theirs = f"{branch[0]}.{branch[1]}.y" if any(era == works.era for _, era in eras.history(branch)) else ""
    if gone:
        return None, f"Fixed in {_release(gone)}" + (f", never in {theirs}." if theirs else ".")
    # It went and came back; stable branches that were free of it got it again by patches.
    return None, (f"Not in {_release(mainline[-2][1])} to {eras.before(_release(back))} as they came out; back in "
                  f"{_release(back)}" + (f"; no later fix in {theirs}." if theirs else "."))


def _release(of_mainline):
    """6.16-rc7 was on the way to 6.16, which is what people run."""
    return of_mainline.partition("-")[0]


def _show_errata(works, errata):
    import textwrap
    if errata is None:
        if works.available:
            print(f"\n{works.reason}. It is tried on TCP sockets of 127.0.0.1. pyuring.connect() does without.")
        return
    era = (f"like era {works.era}'s, one of the forms that it has had (all of them: {_NAME} replay)" if works.era
           else "like no era's that pyuring knows")
    print(textwrap.fill(
        f"IORING_OP_CONNECT behaves here {era}. pyuring.connect() is not affected; a program that submits "
        f"it directly sees:" if errata else f"IORING_OP_CONNECT behaves here {era}, as connect(2) does.", 98,
        initial_indent="\n"))
    unfixed = []
    for erratum in errata:
        advice = erratum["advice"]
        if advice.endswith(_UNFIXED):           # said once, below
            advice = advice[:-len(_UNFIXED)]
            unfixed.append(erratum["id"])
        for label, text in ((erratum["id"], erratum["symptom"]), ("", advice)):
            print(textwrap.fill(text, 98, initial_indent=f"  {label:<4} ", subsequent_indent=" " * 7))
    if unfixed:
        print(f"  No release so far has a fix for {', '.join(unfixed)}.")
    if works.era:
        print(f"  Found by trying, not by version. How it came about: {_NAME} replay {works.era}")
    if len(unfixed) < len(errata) and _is_vendors(works.release):
        print(f"  Fixes are named by kernel.org's releases; {works.release} is a vendor's: ask there.")


def _is_vendors(release):
    try:
        return eras.parse_version(release).vendor
    except ValueError:
        return True


# -- connect --------------------------------------------------------------------------------------
def _connect(arguments):
    if not arguments.targets and not arguments.file:
        arguments.usage_error("nothing to connect to: give a TARGET, --file FILE, or - for stdin")
    screen = report.Screen(sys.stdout, sys.stderr)
    targets = Targets(lambda text: screen.aside(f"{_NAME} connect: {text}"))
    try:
        for target in arguments.targets:
            targets.add_stdin() if target == "-" else targets.add(target)
        for path in arguments.file:
            targets.add_stdin() if path == "-" else targets.add_file(path)
        return 2 if targets.mistakes else _connect_all(arguments, targets, screen)
    finally:
        targets.close()


def _connect_all(arguments, targets, screen):
    began, tally, stopped = time.monotonic(), report.Tally(), None
    outcomes = many.connect_many(targets, timeout=arguments.timeout, concurrency=arguments.concurrency,
                                 strategy=arguments.strategy)
    screen.progress = report.Progress(tally, targets.total, outcomes.held_back).text
    in_words = _json_line if arguments.json else report.line_of
    show_ok, show_failed = (not arguments.quiet and arguments.only in (None, which) for which in ("ok", "failed"))
    try:
        with screen:
            try:
                for outcome in outcomes:
                    what = tally.add(outcome.error, outcome.elapsed)
                    if show_failed if outcome.error else show_ok:
                        screen.print(in_words(outcome, what))
            finally:
                outcomes.close()
    except errors.RingUnavailable as error:
        _complain(f"{_NAME} connect: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        if screen.broken:
            raise screen.broken from None
        stopped = targets.taken - tally.done
    elapsed, strategy = time.monotonic() - began, arguments.strategy or picked()
    slowed_down = report.held_back_lines(outcomes.held_back)
    if arguments.json and arguments.quiet:
        print(json.dumps(report.summary_of(tally, elapsed, strategy, outcomes.held_back, targets.mistakes, stopped)))
    elif not arguments.json or _is_terminal(sys.stderr):
        for line in (*report.latency_lines(tally, _width(sys.stdout), few=arguments.quiet), *slowed_down,
                     report.summary_line(tally, elapsed, strategy, targets.mistakes, stopped)):
            print(line, file=sys.stderr if arguments.json else sys.stdout)
    else:
        for line in slowed_down:
            _complain(f"{_NAME} connect: {line}")
    if stopped is not None:
        raise KeyboardInterrupt
    return 2 if targets.mistakes else 1 if tally.failed else 0


def _json_line(outcome, what):
    return json.dumps(report.object_of(outcome, what)) + "\n"


def _is_terminal(stream):
    return stream is not None and stream.isatty()


def _width(stream):
    """The columns of a terminal, and 80 at most."""
    try:
        return min(os.get_terminal_size(stream.fileno()).columns or 80, 80)
    except (AttributeError, OSError, ValueError):
        return 80


# -- replay ---------------------------------------------------------------------------------------
def _replay(arguments):
    if arguments.all and arguments.era is not None:
        arguments.usage_error("give either ERA (a version such as 6.2, or an era's letter) or --all")
    if arguments.all:
        return _replay_all()
    if arguments.era is None:
        return _replay_history()
    import textwrap
    letter, version, notes = arguments.era
    era, ours = eras.ERAS[letter], f"pyuring ({picked()})"
    print(f"Linux {eras.name_of(version)}: era {letter}" if version else f"Era {letter}", end="")
    print(f" of IORING_OP_CONNECT: {era.what}.")
    for note in notes:
        print(textwrap.fill(note, 98))
    _tell_era(era)
    acted = f"era {letter}, acted out"
    answers = _play({"connect(2)": eras.by_connect2, acted: _acted(letter), ours: _by_pyuring})
    for scene in eras.SCENES:
        print(f"\n{scene.title}:")
        _table(scene.columns, [(name, [_number(answer) for answer in answers[scene, name]])
                               for name in ("connect(2)", acted, ours)])
    _legend(answers)
    print(f"\nErrata of era {letter}:")
    for erratum in (erratum for erratum in eras.ERRATA.values() if letter in erratum.eras):
        reports = f" [{', '.join(erratum.reports)}]" if erratum.reports else ""
        print(textwrap.fill(erratum.symptom + reports, 98, initial_indent=f"  {erratum.id:<4} ",
                            subsequent_indent=" " * 7, break_on_hyphens=False))
    return 0


def _tell_era(era):
    import textwrap
    print(textwrap.fill(f"Has it: {eras.releases(era.letter)}.", 98))
    if era.commit:
        before = f"; reported before: {', '.join(era.reports)}" if era.reports else ""
        print(textwrap.fill(f"Commit: {era.commit}{before}.", 98, break_on_hyphens=False))
    print()
    print(textwrap.fill(era.why, 98))


def _replay_history():
    """Era by era: the reason, what it gave, and what was reported of it."""
    import textwrap
    ours = f"pyuring ({picked()})"
    scenes = [scene for scene in eras.SCENES if scene.short]
    ways = {"connect(2)": eras.by_connect2, **{f"era {letter}": _acted(letter) for letter in eras.ERAS},
            ours: _by_pyuring}
    print("The history of IORING_OP_CONNECT, acted out on this kernel. Five things are tried each time, all on TCP\n"
          "over loopback: refused three times on one socket and then connect(2); refused once, and then\n"
          "somebody listens; connected, and again; refused late; shut down from elsewhere while it waits.", flush=True)
    answers = _play(ways, scenes)
    _legend(answers)
    before = ""
    for letter, era in eras.ERAS.items():
        print("\n" + _bold(f"Era {letter}: {era.what}."))
        _tell_era(era)
        print()
        _table([scene.short for scene in scenes],
               [(name, [" ".join(map(_number, answers[scene, name])) for scene in scenes])
                for name in ("connect(2)", f"era {letter}", ours)])
        new = [erratum for erratum in eras.ERRATA.values() if erratum.scope == "request"
               and letter in erratum.eras and (not before or before not in erratum.eras)]
        if new:
            print()
            print(textwrap.fill("New in it: " + "; ".join(
                f"{erratum.id} {erratum.title}" + (f" [{', '.join(erratum.reports)}]" if erratum.reports else "")
                for erratum in new) + ".", 98, break_on_hyphens=False))
        before = letter
    _legend(answers)
    print(f"\nMore of one: {_NAME} replay 6.2. All in one table: {_NAME} replay --all")
    return 0


def _play(*arguments):
    try:
        return eras.play(*arguments)
    except OSError as error:
        remedy = ("allow more open files (ulimit -n)" if error.errno in (errno.EMFILE, errno.ENFILE) else
                  "bring loopback up (ip link set lo up), or allow sockets")
        raise OSError(error.errno, f"replay plays on TCP sockets of 127.0.0.1, and: {error.strerror}; "
                      f"{remedy}") from None


def _replay_all():
    ours = f"pyuring ({picked()})"
    ways = {"connect(2)": eras.by_connect2, **{f"era {letter}": _acted(letter) for letter in eras.ERAS},
            ours: _by_pyuring}
    scenes = [scene for scene in eras.SCENES if scene.short]
    print("What IORING_OP_CONNECT gave in each of its eras, acted out on this kernel:\n")
    answers = _play(ways, scenes)
    _table([scene.short for scene in scenes],
           [(name, [" ".join(map(_number, answers[scene, name])) for scene in scenes]) for name in ways])
    _legend(answers)
    print()
    for letter, era in eras.ERAS.items():
        print(f"  era {letter}  {era.what}" + (f" ({era.commit})" if era.commit.isalnum() else ""))
    print(f"\nThe whole story of one: {_NAME} replay 6.2")
    return 0


def _acted(letter):
    return lambda sock, address: eras.act(letter, sock, address)


def _by_pyuring(sock, address):
    try:
        client.connect(sock, address, 10)
    except errors.ConnectTimeout:
        return eras.PENDING
    except OSError as error:
        return error.errno
    return 0


def _number(answer):
    return {None: "-", eras.PENDING: "pending"}.get(answer, str(answer))


def _legend(answers):
    import textwrap
    given = {answer for row in answers.values() for answer in row}
    numbers = sorted(answer for answer in given if answer is not None and answer > 0)
    print()
    print(textwrap.fill(
        "0 is success" + "".join(f", {number} {errors.name_of(number)}" for number in numbers)
        + "; pending: it would wait for ever" * (eras.PENDING in given)
        + "; -: not asked, after a pending" * (None in given) + "; * differs from connect(2) on this kernel.", 98))
