"""targets.py - what the `connect` command connects to: arguments, files and streams, as addresses.

A target is host:port, [v6]:port, unix:/path or unix:@name, and in the place of one port may stand
many: 127.0.0.1:22,80,8000-8100. parse() makes it a sequence of addresses, which has a length without
being walked through, and takes no more memory for 65,536 ports than for one.

Arguments, and regular files of up to a MiB, are read before the first connect, so that a mistake in
them is told while nothing has been done yet. Longer files, pipes and stdin are read line by line as
connects go on, in constant memory: a bad line is told, counted and left out.

Leans on sockaddr.py. Read next: report.py, what came of them.
"""
from __future__ import annotations

import os
import socket
import stat
import sys
from functools import partial

from . import sockaddr

_WHOLE_BYTES = 1 << 20      # a file up to here is read before the first connect
_LONGEST_LINE = 1 << 16     # what is longer comes in pieces, each of which is a mistake


class Ports:
    """The addresses of one host with several ranges of ports."""

    def __init__(self, host: str, ranges: list[range]) -> None:
        self._host = host
        self._ranges = ranges

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __iter__(self):
        host = self._host
        for ports in self._ranges:
            for port in ports:
                yield host, port


def parse(target: str) -> Ports | tuple:
    """The addresses that a target stands for. ValueError, with what to write instead."""
    host, _, ports = target.rpartition(":")
    many = ("," in ports or "-" in ports) and ports[0] in "0123456789" and not ports.strip("0123456789,-")
    if many and not target.startswith("unix:"):
        ranges = [_range(part, target) for part in ports.split(",")]
        (host, _), = parse(f"{host}:{ranges[0][0]}")
        return Ports(host, ranges)
    family, address = sockaddr.split_target(target)
    if family is not None:
        sockaddr.pack(family, address)          # a path may be too long
    else:
        _check_host(target, address)
    return (address,)


def _range(part, target):
    low, dash, high = part.partition("-")
    for number in (low, high) if dash else (low,):
        if not (number.isdigit() and len(number) <= 5 and int(number) <= 0xFFFF):
            raise ValueError(f"target {target!a}: port {part!a} is neither a number in 0..65535 nor a range of "
                             "two; write them as in host:22,80,8000-8100")
    if dash and int(low) > int(high):
        raise ValueError(f"target {target!a}: port range {part!a} is empty; write {high}-{low}")
    return range(int(low), int(high if dash else low) + 1)


def _check_host(target, address):
    host = address[0]
    try:
        socket.inet_pton(socket.AF_INET, host)      # most are, and this is quick
        return
    except (OSError, ValueError):
        pass
    try:
        sockaddr.pack(sockaddr.guess_family(address), address, resolve=False)
    except ValueError:
        try:
            host.encode("idna")                     # a name, as socket.getaddrinfo() would take it
        except UnicodeError:
            raise ValueError(f"target {target!a}: host {host!a} is neither an address nor a "
                             "name (labels of 1 to 63 characters)") from None


class Targets:
    """All targets of a command line, in the order in which they were added. Iterable once.

    complain   is called with one line of text for each mistake
    mistakes   how many there were so far
    taken      how many addresses were made so far
    """

    def __init__(self, complain) -> None:
        self.mistakes = 0
        self.taken = 0
        self._complain = complain
        self._sources: list = []            # sequences of addresses, and _Lines
        self._counted = 0                   # addresses in the sequences
        self._streams: list[_Lines] = []
        self._opened: list = []

    def add(self, target: str) -> None:
        """One target, as an argument has it."""
        self._add(self._parsed(target))

    def add_stdin(self) -> None:
        """A target from each line of stdin, once it is their turn."""
        if sys.stdin is None:
            self._mistake("target '-' reads stdin, which is closed")
        else:
            self._add_stream(_Lines("stdin", sys.stdin, self))

    def add_file(self, path: str) -> None:
        """A target from each line of a file: at once, or if it is long, once it is their turn."""
        try:
            # As arguments are decoded: a target may be a path.
            file = open(path, encoding=sys.getfilesystemencoding(), errors="surrogateescape")
        except (OSError, ValueError) as error:      # ValueError: a NUL byte
            why = getattr(error, "strerror", None) or error
            self._mistake(f"can't open {path!a}: {why}; --file is for a file with a target in each line, "
                          "or - for stdin")
            return
        self._opened.append(file)
        lines = _Lines(ascii(path)[1:-1], file, self)
        if lines.size is None or lines.size > _WHOLE_BYTES:
            self._add_stream(lines)
        else:
            for addresses in lines.sequences():
                self._add(addresses)

    def total(self) -> tuple[int | None, bool]:
        """(how many addresses there will be, whether that is certain); None where nobody can know.

        Of a long file it is estimated, by how many bytes of it gave how many addresses so far.
        """
        total, certain = self._counted, True
        for lines in self._streams:
            if lines.ended:
                total += lines.given
            elif lines.size and lines.read:
                total += max(lines.given, lines.given * lines.size // lines.read)
                certain = False
            else:
                return None, False
        return total, certain

    def __iter__(self):
        for addresses in self._sources:
            for address in addresses:
                self.taken += 1
                yield address

    def close(self) -> None:
        """Close the files."""
        while self._opened:
            self._opened.pop().close()

    def _add(self, addresses):
        if addresses:
            self._sources.append(addresses)
            self._counted += len(addresses)

    def _add_stream(self, lines):
        self._sources.append(lines)
        self._streams.append(lines)

    def _parsed(self, target, where=""):
        try:
            return parse(target)
        except ValueError as error:
            self._mistake(f"{where}{error}")
            return ()

    def _mistake(self, text):
        self.mistakes += 1
        self._complain(text)


class _Lines:
    """The targets in the lines of a file or stream. Empty lines and those with a # in front are none.

    size    bytes, if it is a regular file
    read    about how many of them were read (characters, in fact)
    given   how many addresses these gave
    ended   whether there are no more
    """

    def __init__(self, name, stream, targets):
        self.name = name
        self.size = None
        self.read = self.given = 0
        self.ended = False
        self._stream = stream
        self._targets = targets
        try:
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode):
                self.size = status.st_size
        except (OSError, ValueError):       # a stream that is none of the system's
            pass

    def __iter__(self):
        for addresses in self.sequences():
            yield from addresses

    def sequences(self):
        """The addresses of each line that has some."""
        parsed, number = self._targets._parsed, 1
        try:
            for line in iter(partial(self._stream.readline, _LONGEST_LINE), ""):
                self.read += len(line)
                target = line.strip()
                if target and target[0] != "#":
                    addresses = parsed(target, f"{self.name}:{number}: ")
                    self.given += len(addresses)
                    yield addresses
                number += line[-1] == "\n"
        except OSError as error:
            self._targets._mistake(f"{self.name}:{number}: can't read on: {error.strerror or error}")
        self.ended = True
