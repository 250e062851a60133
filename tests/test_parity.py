"""connect() beside connect(2), cell by cell, on the kernel that runs this; parity.py has the stage.

A cell is a scenario, a kind of socket and a way to connect. It passes when what the calls answered,
and what the socket was like afterwards, is what connect(2) gave on this kernel a moment ago.
"""
import contextlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import networks                                                     # noqa: E402
import parity                                                       # noqa: E402
import scenarios, scenarios_elsewhere, scenarios_network, scenarios_other       # noqa: E401,E402,F401

HONEST = [cell for cell in parity.cells() if cell[2] != "native"]


def label(cell):
    scene, kind, way = cell
    return f"{scene.name}-{kind}-{way}"


@pytest.fixture(scope="session")
def matrix(request):
    """The matrix, with the selected cells played."""
    chosen = [item.callspec.params["cell"] for item in request.session.items
              if "cell" in getattr(getattr(item, "callspec", None), "params", ())]
    played = parity.Matrix()
    for network in networks.NETWORKS if chosen else ():     # each keeps a thread, as long as we live
        with contextlib.suppress(parity.Skip):
            networks.made(network)
    before = os.listdir("/proc/self/fd")
    with parity.signals_interrupt():
        played.play_all(chosen)
        assert os.listdir("/proc/self/fd") == before
        yield played


def cell_of(matrix, cell):
    scene, kind, way = cell
    try:
        got = matrix.got(scene, kind, way)
        return matrix.want(scene, kind, way, None if way == "native" else got), got
    except parity.Skip as skip:
        pytest.skip(str(skip))


@pytest.mark.parametrize("cell", HONEST, ids=label)
def test_as_connect_2(cell, matrix):
    for want, got in zip(*cell_of(matrix, cell)):
        assert got in want


@pytest.mark.parametrize("cell", [cell for cell in parity.cells(["pending_before_late_success"])
                                  if cell[2] == "native"], ids=label)
def test_a_difference_is_seen(cell, matrix):
    """E13: no kernel's opcode waits for a handshake that was under way before."""
    want, got = cell_of(matrix, cell)
    assert all("connect EALREADY" in record for record in got)
    assert not any(record in records for record, records in zip(got, want))


def test_scenarios_say_what_they_are_for():
    for scene in parity.SCENARIOS.values():
        assert scene.kinds and set(scene.kinds) <= set(parity.KINDS), scene.name
        assert scene.ways and set(scene.ways) <= set(parity.WAYS), scene.name
        assert scene.rounds >= 2, scene.name
