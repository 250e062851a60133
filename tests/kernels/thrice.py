"""thrice.py - three requests in a row on one socket, by each of connect()'s strategies: the shortest
program that tells the eras of IORING_OP_CONNECT apart.

    python3 tests/kernels/thrice.py

Prints a table of errno names, 0 for success; a cell that differs from connect(2)'s ends in "*".
tests/parity.py asks far more; this is the part that fits on a page. Run on other kernels by lab.py.
"""
import errno
import os
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyuring                                                      # noqa: E402

TITLES = {"refused": "refused three times", "connected": "connected three times",
          "late": "refused after a second, twice"}


def once(strategy, sock, address):
    try:
        if strategy is None:
            sock.connect(address)
        else:
            pyuring.connect(sock, address, strategy=strategy)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "0"


def refused(strategy):
    with socket.socket() as nobody, socket.socket() as sock:
        nobody.bind(("127.0.0.1", 0))
        return [once(strategy, sock, nobody.getsockname()) for _ in range(3)]


def connected(strategy):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        return [once(strategy, sock, listener.getsockname()) for _ in range(3)]


def late(strategy):
    """The accept queue is full, so the handshake stalls; the listener closes, so the retried SYN, a second
    later, is refused: the failure arrives by a wakeup, as it does from a real network."""
    with socket.socket() as sock, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        closing = threading.Timer(0.3, listener.close)
        closing.start()
        results = [once(strategy, sock, address) for _ in range(2)]
        closing.join()
        for filler in fillers:
            filler.close()
        return results


def measure():
    """{"refused": {"connect(2)": [...], "native": [...], "emulated": [...]}, ...}"""
    return {ask.__name__: {strategy or "connect(2)": ask(strategy)
                           for strategy in (None, "native", "emulated")}
            for ask in (refused, connected, late)}


def table(measured):
    lines = []
    for scenario, ways in measured.items():
        lines.append(TITLES[scenario])
        for way, got in ways.items():
            cells = [cell + ("" if cell == want else " *") for cell, want in zip(got, ways["connect(2)"])]
            name = {"native": "IORING_OP_CONNECT", "emulated": "pyuring (emulated)"}.get(way, way)
            lines.append(f"  {name:<20}" + "".join(f"{cell:<16}" for cell in cells).rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    print(f"Linux {os.uname().release}")
    print(table(measure()))
