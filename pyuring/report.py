"""report.py - what the `connect` command says: a line each, how far it is, and a summary.

A Tally counts in constant memory, however many outcomes there are: errors by their name, latencies
in bins. A Screen keeps stdout and a progress line on stderr apart when both are one terminal.

Some facts about bins
---------------------
A latency goes into bin int(32 * log2(nanoseconds)): each is 2.2 % wider than the one before, so what
is read back, the middle of a bin, is at most 1.1 % off, from a microsecond to a day, and there are
fewer than 1500 of them. Percentiles are of the nearest rank: the smallest bin up to which there are
that many. The histogram's rows have round edges, and a bin belongs to the row that its middle is in.

Leans on errors.py and sockaddr.py. Read next: cli.py.
"""
from __future__ import annotations

import os
import signal
import socket
import time
from math import ceil, log2

from . import errors, sockaddr

_BINS_PER_OCTAVE = 32
_ROWS_MOST = 12             # of a histogram
_BAR_LONGEST = 40
_ENOUGH = 20                # so many latencies are worth a histogram
# Round numbers from 1 to 10, ever fewer of them.
_STEPS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


# -- counting ---------------------------------------------------------------------------------------
class Latencies:
    """How long things took, in bins."""

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one."""
        number = int(_BINS_PER_OCTAVE * log2(seconds * 1e9)) if seconds > 1e-9 else 0
        self.bins[number] = self.bins.get(number, 0) + 1

    @property
    def count(self) -> int:
        """How many."""
        return sum(self.bins.values())

    def percentile(self, percent: float) -> float:
        """The seconds, give or take 1.1 %, that `percent` of them are within."""
        rank = max(1, ceil(self.count * percent / 100))
        for number, count in sorted(self.bins.items()):
            rank -= count
            if rank <= 0:
                return _middle(number)
        raise ValueError("there is no percentile of nothing")

    def rows(self) -> list[tuple[float, float, int]]:
        """The histogram: (from, to, how many), in seconds, without gaps, twelve at most."""
        if not self.bins:
            return []
        low, high = _middle(min(self.bins)), _middle(max(self.bins))
        for steps in _STEPS:
            edges = _edges(low, high, steps)
            if len(edges) <= _ROWS_MOST + 1:
                break
        counts = [0] * (len(edges) - 1)
        row = 0
        for number, count in sorted(self.bins.items()):
            while row < len(counts) - 1 and _middle(number) >= edges[row + 1]:
                row += 1
            counts[row] += count
        return list(zip(edges, edges[1:], counts))


def _middle(number):
    return 2 ** ((number + 0.5) / _BINS_PER_OCTAVE) * 1e-9


def _edges(low, high, steps):
    """Round numbers, from the last one that is not above `low` to the first one above `high`."""
    edges = []
    for power in range(-10, 10):
        for step in steps:
            edge = float(f"{step}e{power}")
            if edge <= low:
                edges = [edge]
            else:
                edges.append(edge)
                if edge > high:
                    return edges
    return edges


class Tally:
    """What came of all connects so far.

    ok, failed   how many; `failures` counts the latter by name
    """

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.failures: dict[str, int] = {}
        self.latencies = Latencies()            # of those that connected
        self.latencies_failed = Latencies()

    @property
    def done(self) -> int:
        """How many in all."""
        return self.ok + self.failed

    def add(self, error: OSError | None, elapsed: float) -> str:
        """Count one outcome -> what it is called."""
        if error is None:
            self.ok += 1
            self.latencies.add(elapsed)
            return "ok"
        name = error_name(error)
        self.failed += 1
        self.failures[name] = self.failures.get(name, 0) + 1
        self.latencies_failed.add(elapsed)
        return name

    def failures_in_words(self) -> str:
        """', 40 ECONNREFUSED, 2 timeout': the most frequent first."""
        ranked = sorted(self.failures.items(), key=lambda item: (-item[1], item[0]))
        return "".join(f", {count} {name}" for name, count in ranked)


_NAMES = {}         # of the addrinfo errors, on first use


def error_name(error: OSError) -> str:
    """ECONNREFUSED; EAI_NONAME where a name was not found; timeout where the caller's time ran out."""
    if isinstance(error, errors.ConnectTimeout):
        return "timeout"
    if isinstance(error, socket.gaierror):
        if not _NAMES:
            _NAMES.update((getattr(socket, name), name) for name in dir(socket) if name.startswith("EAI_"))
        return _NAMES.get(error.errno, "unresolved")
    return errors.name_of(error.errno)


# -- in words ---------------------------------------------------------------------------------------
def line_of(outcome, what: str) -> str:
    """An outcome for people."""
    return f"{what:<12}  {sockaddr.format_address(outcome.address)}  {outcome.elapsed * 1000:.1f} ms\n"


def object_of(outcome, what: str) -> dict:
    """An outcome for json."""
    error = outcome.error
    return {"target": sockaddr.format_address(outcome.address), "ok": error is None,
            "error": None if error is None else what, "errno": getattr(error, "errno", None),
            "message": None if error is None else str(error),
            "elapsed_ms": round(outcome.elapsed * 1000, 3)}


def latency_lines(tally: Tally, width: int = 80, few: bool = False) -> list[str]:
    """The latency of those that connected (if none did, of those that failed), and a histogram.

    few   also where they are too few for a histogram
    """
    latencies = tally.latencies if tally.ok else tally.latencies_failed
    count = latencies.count
    if not count or count < _ENOUGH and not few:
        return []
    percentiles = [_milliseconds(latencies.percentile(percent)) for percent in (50, 90, 99, 100)]
    lines = ["latency of {} {}: median {} ms, 90% within {} ms, 99% within {} ms, slowest {} ms, "
             "each from when its batch was submitted".format(
        count, "that connected" if tally.ok else "failures", *percentiles)]
    if count < _ENOUGH:
        return lines
    rows = latencies.rows()
    labels = [f"{_round(low)} - {_round(high)} ms" for low, high, _ in rows]
    room, most = max(map(len, labels)), max(count for _, _, count in rows)
    longest = max(1, min(_BAR_LONGEST, width - 1 - (2 + room + 2 + 2 + len(str(most)))))
    for label, (_, _, count) in zip(labels, rows):
        bar = "#" * (ceil(longest * count / most))
        lines.append(f"  {label:>{room}}  {bar:<{longest}}  {count:>{len(str(most))}}")
    return lines


def _milliseconds(seconds):
    """Three digits, as more would not be true."""
    value = seconds * 1000
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _round(edge):
    return f"{edge * 1000:.10g}"


_SCARCE = {     # errno's name: (what ran short, what to do about it)
    "EADDRNOTAVAIL": ("free port", "widen the sysctl net.ipv4.ip_local_port_range, or use several addresses"),
    "EMFILE": ("free descriptor", "raise it with ulimit -n, or lower --concurrency"),
    "ENFILE": ("free file", "raise the sysctl fs.file-max, or lower --concurrency"),
    "ENOMEM": ("memory", "free some, or lower --concurrency"),
    "ENOBUFS": ("memory", "free some, or lower --concurrency"),
}


def held_back_lines(held_back: dict[int, int]) -> list[str]:
    """What ran short and made it slower, and what to do about it."""
    lines = []
    for code, count in sorted(held_back.items(), key=lambda item: (-item[1], item[0])):
        name = errors.name_of(code)
        what, remedy = _SCARCE.get(name, ("room", "lower --concurrency"))
        lines.append(f"slowed down: no {what}, {'once' if count == 1 else f'{count} times'} ({name}); {remedy}")
    return lines


def summary_of(tally: Tally, elapsed: float, strategy: str, held_back: dict, mistakes: int, stopped) -> dict:
    """The summary for json."""
    latencies = tally.latencies
    return {
        "done": tally.done, "ok": tally.ok, "failed": tally.failed, "errors": tally.failures,
        "mistakes": mistakes, "interrupted": stopped is not None,
        "held_back": {errors.name_of(code): count for code, count in held_back.items()},
        "latency_ms": {name: float(f"{latencies.percentile(percent) * 1000:.3g}") for name, percent in (
            ("median", 50), ("p90", 90), ("p99", 99), ("slowest", 100))} if tally.ok else None,
        "elapsed_s": round(elapsed, 3), "strategy": strategy}


def summary_line(tally: Tally, elapsed: float, strategy: str, mistakes: int, stopped: int | None) -> str:
    """The last line. `stopped`: how many were under way when Ctrl-C came, or None."""
    line = f"{tally.ok} of {tally.done} connected{tally.failures_in_words()} in {elapsed:.3f} s ({strategy})"
    if mistakes:
        line += f"; {mistakes} bad target{'s' * (mistakes > 1)} left out"
    if stopped is not None:
        line += f"; interrupted, {stopped} under way"
    return line


# -- how far it is ----------------------------------------------------------------------------------
class Progress:
    """The progress line's text.

    total       a function: (how many in all or None, whether that is certain)
    held_back   {errno: how often}, as it grows
    """

    _HALF_LIFE = 2.0        # seconds after which the rate that was counts for half

    def __init__(self, tally: Tally, total, held_back: dict[int, int]) -> None:
        self._tally = tally
        self._total = total
        self._held_back = held_back
        self._done = 0
        self._rate: float | None = None
        self._when = time.monotonic()

    def text(self, now: float | None = None) -> str:
        """How many are done, ok, a second, how long it will take, and what failed."""
        now = time.monotonic() if now is None else now
        tally = self._tally
        done, passed = tally.done, now - self._when
        if passed > 0:
            rate = (done - self._done) / passed
            if self._rate is not None:
                rate += (self._rate - rate) * 0.5 ** (passed / self._HALF_LIFE)
            self._rate, self._done, self._when = rate, done, now
        total, certain = self._total()
        about = "" if certain else "about "
        parts = [f"{done} done" if total is None else f"{done} of {about}{max(done, total)} done", f"{tally.ok} ok"]
        if self._rate is not None:
            parts.append(f"{self._rate:.0f}/s" if self._rate >= 10 else f"{self._rate:.1f}/s")
        if total is not None and self._rate and self._rate > 0.001:
            parts.append(f"{about}{_duration(max(0, total - done) / self._rate)} left")
        for code, count in self._held_back.items():
            parts.append(f"held back {count} ({errors.name_of(code)})")
        return ", ".join(parts) + tally.failures_in_words()


def _duration(seconds):
    seconds = ceil(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Screen:
    """stdout in batches, and a progress line on stderr where that is a terminal.

    out, err   text streams, or None where they are closed
    progress   a function that gives the line's text

    An outcome that has come is not left lying: what is not written yet, and the progress line, are
    seen to five times a second, also while nothing else happens. A timer's signal does that
    (setitimer(2)), as the thread that waits can't, and a thread of its own could be stuck in a write
    to a pipe when the interpreter wants to end. The handler runs in the main thread, between two
    bytecodes of whatever that does, so
      - it must not raise what the interrupted code would take for its own: a write that failed is
        kept in `broken` and ends the command as Ctrl-C would, which anything must cope with
      - what it shares with the rest is never in between: a list that is only appended to, and cut
        where it was copied; `_busy` keeps it out of a write that is under way.
    """

    _EVERY = 0.2            # seconds
    _MANY = 500             # lines that are written without waiting any longer

    def __init__(self, out, err) -> None:
        self.broken: OSError | None = None
        self.progress = None
        self._out = out
        self._err = err
        self._lines: list[str] = []
        self._written = 0.0                 # when, last
        self._busy = self._shown = False
        self._live = err is not None and err.isatty() and os.environ.get("TERM") != "dumb"
        self._one = self._live and out is not None and out.isatty()
        self._before: tuple | None = None

    def __enter__(self) -> Screen:
        try:
            handler = signal.signal(signal.SIGALRM, self._tick)
        except ValueError:                  # not in the main thread: each line at once, no progress
            self._live = self._one = False
            return self
        self._before = handler, signal.setitimer(signal.ITIMER_REAL, self._EVERY, self._EVERY)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            handler, timer = self._before
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        self._clear()
        self.flush()

    def print(self, text: str) -> None:
        """Write it to stdout, now or soon."""
        self._lines.append(text)
        if len(self._lines) >= self._MANY or self._before is None or \
                time.monotonic() - self._written > self._EVERY:
            self.flush()

    def aside(self, text: str) -> None:
        """Write a line to stderr, now."""
        if self._err is None:
            return
        self.flush()
        self._busy = True
        try:
            self._clear()
            self._err.write(text + "\n")
            self._err.flush()
        finally:
            self._busy = False

    def flush(self) -> None:
        """Write what is not written yet."""
        lines = self._lines[:]
        if not lines or self._busy:
            return
        self._busy = True
        try:
            del self._lines[:len(lines)]
            shown = self._shown
            if self._one:
                self._clear()
            if self._out is not None:
                out, self._out = self._out, None        # which is not tried again once it has failed
                out.write("".join(lines))
                out.flush()
                self._out = out
            self._written = time.monotonic()
            if self._one and shown:
                self._draw()
        finally:
            self._busy = False

    def _tick(self, *_):
        if self._busy:
            return
        try:
            self.flush()
        except OSError as error:
            self.broken = error
            raise KeyboardInterrupt from None
        if self._live and self.progress is not None:
            self._draw()

    def _draw(self):
        try:
            width = os.get_terminal_size(self._err.fileno()).columns
        except (OSError, ValueError):
            width = 0
        text, room = self.progress(), (width or 80) - 1
        if len(text) > room:
            text = (text[:max(0, room - 3)] + "...")[:room]
        self._on_terminal("\r\x1b[K" + text)
        self._shown = True

    def _clear(self):
        if self._shown:
            self._shown = False
            self._on_terminal("\r\x1b[K")

    def _on_terminal(self, text):
        try:
            self._err.write(text)
            self._err.flush()
        except OSError:                     # it has gone away
            self._live = self._shown = False
