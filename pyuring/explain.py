"""explain.py - the `explain` command: one connect as a story, of several targets a trace and a timeline.

    python3 -m pyuring explain example.org:443 --timeout 3
    python3 -m pyuring explain 127.0.0.1:22 --json              # one object a line
    python3 -m pyuring explain 127.0.0.1:1-100 --svg ports.svg

The connect is pyuring.connect()'s own: the same driver, machine and ring. What it does is overheard, by a Watch
on the ring (watch.py), a machine that tells of each transition, and stand-ins for the plain system calls. All
become records {"kind": ..., "t": seconds from the start, ...}, which are printed one by one as they come:

    target     what it is about: address, family, strategy
    ring       the ring's sizes and flags; or `reason` and `remedy`, where there is none
    state      the machine: state, event, errno -> next, action; and why (reasons.py)
    call       a plain system call: name, arguments, result, elapsed
    enter, entered, published, reaped, register         as watch.Watch tells them
    outcome    how it ended, as the `connect` command has it
    summary    of several targets: how many are ok and failed

Read driver.py, reasons.py and watch.py first; read next: timeline.py, the picture.
"""
from __future__ import annotations

import os
import select
import socket
import struct
import sys
import textwrap
import time

from . import (
    client, decode, driver, eras, errors, machine, many, reasons, report, sockaddr, syscalls, targets, watch,
)
from .capabilities import probe
from .layout import NAMES as SETUP_NAMES
from .sockaddr import SockAddr

_ENTRIES = 8            # as client.py's own rings
_TCP_STATES = ("?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
               "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")        # include/net/tcp_states.h
_OPTIONS = {(socket.SOL_SOCKET, socket.SO_ERROR): "SO_ERROR", (socket.SOL_SOCKET, socket.SO_SNDTIMEO): "SO_SNDTIMEO",
            (socket.IPPROTO_TCP, socket.TCP_INFO): "TCP_INFO",
            (socket.IPPROTO_TCP, driver._TCP_FASTOPEN_CONNECT): "TCP_FASTOPEN_CONNECT"}


# -- the command -----------------------------------------------------------------------------------------
def add_parser(commands, seconds) -> None:
    """Add the command to the command line's. `seconds` makes a timeout of text."""
    parser = commands.add_parser(
        "explain", help="one connect as a story: every request, answer, state and reason",
        description="Connects to the target as `connect` does and tells the story: every SQE and CQE byte by byte, "
        "heads and tails around each io_uring_enter, each state of the machine and the reason for it, and the plain "
        "system calls. Of several targets it tells less: entries in one line each, and outcomes. Exit 0: connected, "
        "1: not (or not all), 2: bad usage, 130: Ctrl-C.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="host:port, [v6]:port, unix:/path or "
                        "unix:@abstract-name; many ports as in host:22,80,8000-8100")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="seconds for each target")
    parser.add_argument("--strategy", choices=client.STRATEGIES, help="default: emulated where io_uring works, "
                        "else syscall")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")
    parser.add_argument("--svg", metavar="FILE", help="draw a timeline, too: a lane for each request")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments) -> int:
    """Carry the command out -> the exit code."""
    addresses = []
    for target in arguments.targets:
        try:
            addresses += targets.parse(target)
        except ValueError as error:
            arguments.usage_error(str(error))
    if not addresses:
        arguments.usage_error("nothing to connect to: give a TARGET")
    story = Story(_json_printer() if arguments.json else _Printer(sys.stdout, fields=len(addresses) == 1))
    try:
        if len(addresses) == 1:
            connected = tell_one(addresses[0], story, arguments.timeout, arguments.strategy)
        else:
            connected = tell_many(addresses, story, arguments.timeout, arguments.strategy)
    except errors.RingUnavailable as error:
        if sys.stderr is not None:
            print(f"explain: {error.strerror}", file=sys.stderr)
        return 1
    if arguments.svg:
        from . import timeline
        shown = sockaddr.format_address(addresses[0]) if len(addresses) == 1 else f"{len(addresses)} targets"
        with open(arguments.svg, "w", encoding="utf-8") as file:
            file.write(timeline.draw(story.records, f"pyuring explain: {shown}"))
    return 0 if connected else 1


class Story:
    """Records of what happens, in order. `show` is called with each as it comes."""

    def __init__(self, show) -> None:
        self.records: list[dict] = []
        self._show = show
        self._began = time.perf_counter()

    def tell(self, kind: str, fields: dict, t: float | None = None) -> None:
        """Add one; `t` is when it was, in time.perf_counter()'s seconds, None for now."""
        record = {"kind": kind, "t": (time.perf_counter() if t is None else t) - self._began, **fields}
        self.records.append(record)
        self._show(record)


# -- one connect -----------------------------------------------------------------------------------------
def tell_one(address: object, story: Story, timeout: float | None = None, strategy: str | None = None) -> bool:
    """Connect to one address, and tell the story -> whether it connected.

    RingUnavailable for an explicit strategy that this machine does not allow.
    """
    family = sockaddr.guess_family(address)
    if family != socket.AF_UNIX:
        began = time.perf_counter()
        try:
            family, raw, others = _resolve(story, address)
        except OSError as error:
            _tell_outcome(story, address, error, time.perf_counter() - began)
            return False
    else:
        raw, others = sockaddr.pack(family, address), 0
    ring = None
    refusal = None
    if strategy != "syscall":
        try:
            ring = client.make_ring(_ENTRIES)
        except errors.RingUnavailable as error:
            if strategy is not None:
                raise
            refusal = error
    try:
        taken = strategy or ("emulated" if ring is not None else "syscall")
        story.tell("target", {"target": sockaddr.format_address(address), "address": sockaddr.format_address(
            SockAddr(raw)), "family": decode._numbers_of("domain").get(int(family), str(family)),
            "others": others, "strategy": taken, "timeout": timeout})
        _tell_ring(story, ring, refusal)
        return _connect(address, story, ring, family, raw, timeout, taken)
    finally:
        if ring is not None:
            ring.close()


def _resolve(story, address):
    """(family, packed sockaddr, how many others there are) of a host and port."""
    family = sockaddr.guess_family(address)
    try:
        return family, sockaddr.pack(family, address, resolve=False), 0
    except ValueError:
        began, found, result = time.perf_counter(), [], 0
    try:
        found = socket.getaddrinfo(*address[:2], 0, socket.SOCK_STREAM)
        text = ", ".join(sockaddr.format_address(row[4]) for row in found)
    except socket.gaierror as error:
        result, text = error.errno, report.error_name(error)
        raise
    finally:
        if found or result:
            story.tell("call", {"name": "getaddrinfo", "manual": 3, "arguments": f"{address[0]!a}, {address[1]}",
                                "result": result, "text": text, "elapsed": time.perf_counter() - began}, began)
    family, _, _, _, target = found[0]
    return family, sockaddr.pack(family, target), len(found) - 1


def _tell_ring(story, ring, refusal):
    if ring is not None:
        story.tell("ring", {"fd": ring.fd, "sq_entries": ring.sq_entries, "cq_entries": ring.cq_entries,
                            "flags": decode.spelled(ring.flags, tuple(SETUP_NAMES.items()))})
    elif refusal is not None:
        story.tell("ring", {"reason": refusal.reason, "remedy": refusal.remedy})


def _connect(address, story, ring, family, raw, timeout, strategy):
    decode.sqe(bytes(64)).lines()       # what only the first time takes long is not for the story
    began = time.perf_counter()
    with _Overheard(story, family), _Socket(family, socket.SOCK_STREAM) as sock:
        sock.story = story
        job = driver.Job(sock, SockAddr(raw), client.start_event(sock, strategy), timeout, waits=True)
        job.machine = _Machine(story)
        if ring is None:
            works = driver.SyscallDriver()
            works.start(job)
            while not works.finished:
                works.step()
        else:
            with watch.Watch(ring, story.tell):
                works = driver.RingDriver(ring)
                works.start(job)
                while not works.finished:
                    works.step(job.owed)
        error = client.error_of(job, address, timeout)
        _tell_outcome(story, address, error, time.perf_counter() - began)
    return error is None


def _tell_outcome(story, address, error, elapsed):
    what = "ok" if error is None else report.error_name(error)
    outcome = many.Outcome(address, error, elapsed, None)
    story.tell("outcome", {**report.object_of(outcome, what), "elapsed": elapsed})


# -- many ------------------------------------------------------------------------------------------------
def tell_many(addresses: list, story: Story, timeout: float | None = None, strategy: str | None = None) -> bool:
    """Connect to many addresses with connect_many(), and tell what its ring does -> whether all connected."""
    probe()         # connect_many() asks for it: better now than in the middle of the story
    story.tell("target", {"target": f"{len(addresses)} targets", "address": None, "family": None, "others": 0,
                          "strategy": strategy or probe().strategy, "timeout": timeout})
    make_ring, failed = client.make_ring, 0

    def watched_ring(entries):
        try:
            ring = make_ring(entries)
        except errors.RingUnavailable as error:
            _tell_ring(story, None, error)
            raise
        _tell_ring(story, ring, None)
        watch.Watch(ring, story.tell)       # closing the ring ends it
        return ring

    outcomes = many.connect_many(addresses, timeout=timeout, strategy=strategy)
    client.make_ring = watched_ring
    try:
        with _Overheard(story):
            for outcome in outcomes:
                failed += not outcome.ok
                _tell_outcome(story, outcome.address, outcome.error, outcome.elapsed)
    finally:
        outcomes.close()
        client.make_ring = make_ring
    story.tell("summary", {"ok": len(addresses) - failed, "failed": failed})
    return not failed


# -- overhearing -----------------------------------------------------------------------------------------
class _Machine(machine.ConnectMachine):
    """A machine that tells of each transition."""

    __slots__ = ("_story",)

    def __init__(self, story):
        super().__init__()
        self._story = story

    def feed(self, event, code=0):
        before = self.state
        action = super().feed(event, code)
        self._story.tell("state", {
            "state": before, "event": event, "errno": errors.name_of(code) if code else None, "next": self.state,
            "action": action, "doing": reasons.DOING[action], "why": reasons.WHY[before, event][1]})
        return action


class _Socket(socket.socket):
    """A socket that tells of the options it is asked for."""

    story: Story

    def getsockopt(self, level, option, *size):
        began = time.perf_counter()
        value = super().getsockopt(level, option, *size)
        name = _OPTIONS.get((level, option), f"{level}, {option}")
        self.story.tell("call", {"name": "getsockopt", "manual": 2, "arguments": f"fd {self.fileno()}, {name}",
                                 "result": 0, "text": _option(name, value),
                                 "elapsed": time.perf_counter() - began}, began)
        return value


def _option(name, value):
    """An option's value in words."""
    if name == "TCP_INFO":
        if len(value) < driver._TCP_INFO.size:
            return f"{len(value)} bytes"
        state, sent = driver._TCP_INFO.unpack(value)
        shown = _TCP_STATES[state] if state < len(_TCP_STATES) else state
        return f"TCP_{shown}, {sent} segment{'s' * (sent != 1)} sent"
    if name == "SO_SNDTIMEO":
        seconds, microseconds = struct.unpack("=qq" if len(value) == 16 else "=ii", value)
        return f"{seconds + microseconds / 1e6:g} s" if seconds or microseconds else "none"
    if name == "SO_ERROR" and value:
        return errors.name_of(value)
    return str(value)


class _Module:
    """A module with some of its functions exchanged."""

    def __init__(self, module, **functions):
        self._module = module
        vars(self).update(functions)

    def __getattr__(self, name):
        return getattr(self._module, name)


class _Poll:
    """select.poll() that tells."""

    def __init__(self, story):
        self._story = story
        self._poll = select.poll()
        self._asked: dict[int, int] = {}

    def register(self, fd, mask):
        self._asked[fd] = mask
        self._poll.register(fd, mask)

    def unregister(self, fd):
        del self._asked[fd]
        self._poll.unregister(fd)

    def poll(self, timeout):
        events = decode._flags_of("events")
        fds = ", ".join(f"fd {fd} for {decode.spelled(mask, events)}" for fd, mask in self._asked.items())
        began = time.perf_counter()
        found = self._poll.poll(timeout)
        self._story.tell("call", {
            "name": "poll", "manual": 2, "result": len(found),
            "arguments": f"{fds or 'nothing'}, {'no limit' if timeout >= driver._LONGEST_POLL_MS else f'{timeout} ms'}",
            "text": ", ".join(f"fd {fd}: {decode.spelled(mask, events)}" for fd, mask in found),
            "elapsed": time.perf_counter() - began}, began)
        return found


class _Overheard:
    """While this is on, the driver's plain system calls are told of."""

    def __init__(self, story, family=None):
        self._story = story
        self._family = family

    def __enter__(self):
        self._before = syscalls.connect, driver.select, driver.os
        syscalls.connect = self._connect
        driver.select = _Module(select, poll=lambda: _Poll(self._story))
        driver.os = _Module(os, set_blocking=self._set_blocking)

    def __exit__(self, *exc_info):
        syscalls.connect, driver.select, driver.os = self._before

    def _connect(self, fd, raw):
        began = time.perf_counter()
        result = self._before[0](fd, raw)
        shown, family = _address(raw), int.from_bytes(raw[:2], sys.byteorder)
        if family and self._family is not None and family != self._family:
            shown = "an address of the wrong family, so that it waits for the handshake and can begin none"
        self._story.tell("call", {
            "name": "connect", "manual": 2, "arguments": f"fd {fd}, {shown}", "result": result,
            "text": errors.name_of(-result) if result else "", "elapsed": time.perf_counter() - began}, began)
        return result

    def _set_blocking(self, fd, blocking):
        began = time.perf_counter()
        os.set_blocking(fd, blocking)
        self._story.tell("call", {
            "name": "fcntl", "manual": 2, "result": 0, "text": "",
            "arguments": f"fd {fd}, F_SETFL, {'without' if blocking else 'with'} O_NONBLOCK",
            "elapsed": time.perf_counter() - began}, began)


def _address(raw):
    if not any(raw[:2]):
        return "AF_UNSPEC"
    return decode._address(raw)


# -- printing --------------------------------------------------------------------------------------------
def _json_printer():
    import json

    def show(record):
        fields = {name: _plain(value) for name, value in record.items() if name not in ("t", "elapsed")}
        for name in ("t", "elapsed"):
            if name in record:
                fields[f"{name}_ms"] = round(record[name] * 1000, 4)
        print(json.dumps(fields), flush=True)
    return show


def _plain(value):
    """For json: entries as dicts."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return [{"number": number, **entry.as_dict()} for number, entry in value]
    return value


_COLOURS = {"state": "1", "call": "36", "bad": "31", "good": "32"}


class _Printer:
    """Records for people. `fields`: entries as tables."""

    def __init__(self, out, fields):
        self._out = out
        self._fields = fields
        self._colour = out is not None and out.isatty() and not os.environ.get("NO_COLOR")
        self._calls = {"enter": 0, "call": 0}
        self._named: dict[str, None] = {}       # errata that the reasons named, in that order
        self._checked = False                   # whether the SEND of nothing has been told of

    def __call__(self, record):
        if record["kind"] in self._calls:
            self._calls[record["kind"]] += 1
        lines = getattr(self, "_" + record["kind"], self._of_the_ring)(record)
        if self._out is not None:
            self._out.write("".join(line.rstrip() + "\n" for line in lines))
            self._out.flush()

    def _paint(self, how, text):
        return f"\x1b[{_COLOURS[how]}m{text}\x1b[0m" if self._colour else text

    def _stamped(self, record, first, *rest):
        """A line with its time in front, and others below it."""
        return [f"{record['t'] * 1000:9.3f} ms  {first}", *(f"{'':14}{line}" for line in rest)]

    def _target(self, record):
        strategy = {"emulated": "over io_uring, and what the kernel gets wrong is put right (emulated)",
                    "native": "one IORING_OP_CONNECT and its bare result (native)",
                    "syscall": "with connect(2) and poll(2) (syscall)"}[record["strategy"]]
        lines = [f"connect to {record['target']}, {strategy}"]
        if record["address"] is not None:
            more = f"; {record['others']} more address{'es' * (record['others'] > 1)}, not tried"
            limit = "" if record["timeout"] is None else f", within {record['timeout']:g} s"
            lines.append(f"  address  {record['family']} {record['address']}{limit}{more * bool(record['others'])}")
        lines.append("  times    from when explain began" + "; the ring is made first" * (
            record["strategy"] != "syscall"))
        return lines + [""] * (record["strategy"] == "syscall")

    def _ring(self, record):
        if "reason" in record:
            return [f"no ring: {record['reason']}.", f"{record['remedy']}.",
                    "So this is the story of the plain system calls.", ""]
        lines = [f"  ring     fd {record['fd']}, {record['sq_entries']} SQEs, {record['cq_entries']} CQEs",
                 f"           {record['flags']}"]
        if self._fields:
            lines.append("           A NOP has been through it, to see that it works: the counters stand at 1.")
        return lines + [""]

    def _state(self, record):
        self._name_errata(record["why"])
        heard = record["event"] + (f" ({record['errno']})" if record["errno"] else "")
        return self._stamped(record, self._paint("state", f"{record['state']} + {heard} -> {record['next']}: "
                                                          f"{record['doing']}"), *_wrapped(record["why"]))

    def _call(self, record):
        text = record["text"]
        if record["result"] < 0:
            text = self._paint("bad", text if text.startswith("EAI_") else f"-{text}")
        elif text and record["name"] == "poll":
            text = f"{record['result']}, {text}"
        return self._stamped(record, self._paint("call", f"{record['name']}({record['manual']})")
                             + f" {record['arguments']} = {text or record['result']} "
                             + f"in {watch.in_words(record['elapsed'])}")

    def _of_the_ring(self, record):
        first, *rest = watch.lines_of(record["kind"], record, self._fields)
        if record["kind"] == "entered":
            return [f"{'':14}{first}"]
        if record["kind"] == "enter":
            arguments, _, queues = first[len("enter("):].partition(")   ")
            first = f"{self._paint('call', 'io_uring_enter(2)')} {arguments}   {queues}"
        return self._stamped(record, first, *map(self._marked, rest), *self._check_of_many(record))

    def _check_of_many(self, record):
        """Of several targets, and once: why there is a SEND that nobody asked for."""
        if self._fields or self._checked or not any(
                entry.name == "SEND" and not next(field.value for field in entry.fields if field.name == "len")
                for _, entry in record.get("sqes", ())):
            return []
        self._checked = True
        why = ("The SEND of nothing is connect_many()'s own: it fails where CONNECT said 0 and nothing is connected "
               "(E23; see many.py).")
        self._name_errata(why)
        return _wrapped(why)

    def _name_errata(self, text):
        words = (word.strip("().,:;") for word in text.split())
        self._named.update(dict.fromkeys(word for word in words if word[:1] == "E" and word[1:].isdigit()))

    def _errata(self):
        """What the numbers mean that were named."""
        lines = ["", "How some kernels' IORING_OP_CONNECT differs from connect(2), for a program that submits it",
                 "itself (the main ones are at the head of machine.py, all of them in eras.py):"]
        for name in self._named:
            lines += textwrap.wrap(eras.ERRATA[name].symptom, 98, initial_indent=f"  {name:<4} ",
                                   subsequent_indent=" " * 7)
        return lines if self._named else []

    def _marked(self, line):
        """A line about an entry, in colour if it tells of an error."""
        return self._paint("bad", line) if " res " in line and " -E" in line or "res=-E" in line else line

    def _outcome(self, record):
        elapsed = watch.in_words(record["elapsed"])
        if record["ok"]:
            line = self._paint("good", f"connected to {record['target']}") + f" in {elapsed}"
        else:
            message = record["message"]
            if message.startswith("[Errno"):
                message = f"{record['error']}: {message.partition('] ')[2]}"
            line = self._paint("bad", message) + f" in {elapsed}"
        if not self._fields:
            return self._stamped(record, line)
        return ["", f"{line}, with {_times(self._calls['enter'], 'io_uring_enter')}, "
                    f"{_times(self._calls['call'], 'plain call')}, and all this printing", *self._errata()]

    def _summary(self, record):
        return [*self._errata(), "", f"{record['ok']} of {record['ok'] + record['failed']} connected"]


def _times(count, what):
    return f"{count} {what}{'s' * (count != 1)}"


def _wrapped(text):
    return textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
