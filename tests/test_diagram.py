"""The pictures of the machine, and of the rings: they show the table and the memory as they are."""
import errno
import re

import pytest

import diagram
from pyuring import Ring, machine
from pyuring.machine import ConnectMachine

FILES = sorted(diagram.FILES)


@pytest.mark.parametrize("file", FILES)
def test_the_pictures_show_the_table_as_it_is(file):
    """They are out of date otherwise: python3 tests/diagram.py draws them anew."""
    text = (diagram.ROOT / file).read_text(encoding="utf-8")
    for name in diagram.FILES[file]:
        assert diagram.drawn(text, name) == text, "run python3 tests/diagram.py"


def test_a_picture_that_has_gone_stale_is_found(monkeypatch):
    text = (diagram.ROOT / "examples/machine.md").read_text(encoding="utf-8")
    monkeypatch.setitem(machine.NEXT, (machine.CHECKING, machine.CLEAN),
                        (machine.SCRUBBING, machine.SCRUB, machine.KEEP))
    assert diagram.drawn(text, "transitions") != text and diagram.drawn(text, "table") != text


def arrows_of(text):
    """{(from, to)} of the arrows in a drawing."""
    found = set()
    for before, after in re.findall(r"(?:^    |;  )([\w& \[*\]]+) --> ([\w& \[*\]]+)", text, re.M):
        found |= {(one, other) for one in before.split(" & ") for other in after.split(" & ")}
    return found


def test_both_drawings_have_every_step_of_the_table_and_no_other():
    steps = {(state, row[0]) for (state, _), row in machine.NEXT.items()}
    assert arrows_of(diagram.states()) == steps
    dots = {machine.IDLE: "[*]", machine.DONE: "[*]"}
    assert arrows_of(diagram.transitions()) == {tuple(dots.get(state, state) for state in step) for step in steps}


def test_the_table_as_text_has_all_rows():
    lines = diagram.table().splitlines()
    assert max(map(len, lines)) <= 80
    joined = re.sub(r"\n {12}", " ", "\n".join(lines))
    rows = [line for line in joined.splitlines() if "->" in line]
    assert len(rows) == len(diagram.steps())
    assert sum(len(events) for _, events, *_ in diagram.steps()) == len(machine.NEXT)


def test_the_two_walks_in_the_text_are_walks():
    """examples/machine.md tells two; every word of them in capitals is an event or an action, in turn."""
    text = (diagram.ROOT / "examples/machine.md").read_text(encoding="utf-8")
    walks = re.findall(r"START,\s+LOOK.*?ECONNREFUSED", text, re.S)
    assert len(walks) == 2
    for walk in walks:
        words = [word for word in re.findall(r"\b[A-Z]{4,}\b", re.sub(r"\(.*?\)", "", walk, flags=re.S))]
        assert words.pop() == "ECONNREFUSED"
        machine_ = ConnectMachine()
        for event, action in zip(words[::2], words[1::2]):
            code = {"FAILED": errno.ECONNREFUSED, "PENDING": errno.ECANCELED}.get(event, 0)
            assert machine_.feed(event, code) == action
        assert (machine_.state, machine_.error) == ("DONE", errno.ECONNREFUSED)


def test_where_the_picture_of_the_rings_says_that_they_lie(io_uring):
    """Two maps of one file descriptor: the SQEs in one, the CQEs and the counters in the other."""
    with Ring(8) as ring:
        layout = ring._layout
        assert len(layout._maps) == 2 and len(layout.sqes) == layout.sq_entries * 64
        assert layout.cq is layout.sq and len({layout.sq_head, layout.sq_tail, layout.cq_head, layout.cq_tail}) == 4
        assert len(layout.cqes) >= layout.cqes_at + layout.cq_entries * 16
        ring.prep_nop(user_data=5)
        before = [layout.sq[word] for word in (layout.sq_head, layout.sq_tail, layout.cq_head, layout.cq_tail)]
        ring.submit()
        after = [layout.sq[word] for word in (layout.sq_head, layout.sq_tail, layout.cq_head, layout.cq_tail)]
        assert (before, after) == ([0, 0, 0, 0], [1, 1, 0, 1])
        ring.reap()
        assert layout.sq[layout.cq_head] == 1
