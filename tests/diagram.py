"""diagram.py - pictures of the ConnectMachine, drawn from its table: machine.NEXT in pyuring/machine.py.

    python3 tests/diagram.py        rewrites them: one in README.md, two in examples/machine.md

Each stands between two lines, <!-- NAME: ... --> and <!-- end NAME -->; what is around them is written by
hand and stays. test_diagram.py fails when a picture no longer shows the table.

The drawings are in mermaid's language, which GitHub shows as pictures and which can be read as it is, and in
plain text. Read next: pyuring/machine.py.
"""
import sys
import textwrap
from errno import errorcode
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from pyuring import machine     # noqa: E402

END = "<!-- end {} -->\n"
FILES = {"README.md": ("states",), "examples/machine.md": ("transitions", "table")}
ERRORS = {machine.KEEP: "", machine.TAKE: "the event's", machine.TIMED_OUT: "timed out", 0: "0"}


def successors():
    """{state: the states that may follow, in the table's order}."""
    found = {}
    for (state, _), (after, _, _) in machine.NEXT.items():
        found.setdefault(state, {})[after] = None
    return {state: tuple(found[state]) for state in machine.STATES if state in found}


def steps():
    """[(state, events, next state, action, error)]: the table, with rows that differ in the event alone as one."""
    merged = {}
    for (state, event), row in machine.NEXT.items():
        merged.setdefault((state, *row), []).append(event)
    order = machine.STATES.index
    return [(state, events, *row) for (state, *row), events in sorted(merged.items(), key=lambda it: order(it[0][0]))]


def states():
    """Which state may follow which: a flow chart, with those that lead to the same ones together."""
    alike = {}
    for state, after in successors().items():
        alike.setdefault(frozenset(after), (after, []))[1].append(state)
    lines = [""]
    for after, before in alike.values():
        link = f"{' & '.join(before)} --> {' & '.join(after)}"
        if lines[-1] and len(lines[-1] + link) < 90:
            lines[-1] += ";  " + link
        else:
            lines.append("    " + link)
    del lines[0]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"])


def named(events):
    """Events as words, in the order of machine.EVENTS; the nine answers by their common name."""
    answers = set(machine.ANSWERS)
    if answers <= set(events):
        return ["ANSWERS", *(event for event in machine.EVENTS if event in set(events) - answers)]
    if answers - {machine.CONNECTED} == set(events):
        return ["other", "ANSWERS"]
    return sorted(events, key=machine.EVENTS.index)


def transitions():
    """The same with what leads from one to the other: a state diagram, EVENT, EVENT / ACTION."""
    end = {machine.IDLE: "[*]", machine.DONE: "[*]"}
    merged = {}
    for state, events, after, action, _ in steps():     # whatever becomes of the error
        merged.setdefault((state, after, action), []).extend(events)
    lines = []
    for (state, after, action), events in merged.items():
        words = ", ".join(named(events)).replace("other, ", "other ")
        lines.append(f"    {end.get(state, state)} --> {end.get(after, after)}: {words} / {action}")
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def table():
    """The same as text."""
    lines = []
    for state, events, after, action, error in steps():
        error = ERRORS.get(error) or ("" if error is None else errorcode[error])
        first, *more = textwrap.wrap(" ".join(named(events)), 30)
        lines.append(f"{state:<12}{first:<31}-> {after:<12}{action:<9}{error}".rstrip())
        lines += [" " * 12 + row for row in more]
    head = f"{'state':<12}{'event':<31}   {'next state':<12}{'action':<9}error"
    return "\n".join(["```text", head, "", *lines, "```"])


def drawn(text, name):
    """`text` with the picture of that name drawn anew."""
    start = text.index(f"<!-- {name}: ")
    first = text.index("\n", start) + 1
    return text[:first] + globals()[name]() + "\n" + text[text.index(END.format(name), first):]


def main():
    for file, names in FILES.items():
        path = ROOT / file
        text = path.read_text(encoding="utf-8")
        new = text
        for name in names:
            new = drawn(new, name)
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(f"{file} rewritten")


if __name__ == "__main__":
    main()
