"""report.py - what lab.py's rows say, as a line each and as RESULTS.md.

A row is what guest.py reported of one kernel, with its name, package and version. Read lab.py first.
"""
import thrice

WAYS = {"native": "n", "emulated": "E", "emulated+timeout": "T", "syscall": "S", "syscall+timeout": "U"}

ADDRESSES = {"127.0.0.1:port": "loopback:port", "::1:port": "loopback:port",
             "0.0.0.0:port": "any:port", ":::port": "any:port"}

HEAD = """# What each kernel answered

Written by `lab.py`, which boots Debian's own kernels and runs `tests/parity.py` and the core of the test
suite in each; see its first lines. Every kernel's row is from the day when it was last run. `era-A` to
`era-F` are Debian's linux-source-6.1 with the io_connect() of an earlier time put back (`eras.py`); F is
the source as it stands, the control.

A cell is one scenario with one kind of socket, played by one way to connect, and compared with what
connect(2) did on that very kernel in that very run: each call's errno, and what the socket was good for
afterwards. The ways: **native** is the bare IORING_OP_CONNECT, whose answers depend on the kernel;
**emulated** and **syscall** are pyuring's two strategies, once as they are and once with a time limit
that never fires; these should never differ. What differs all the same, on a guest that was slow just
then, is played up to twice more, alone; "0 (2 at first)" are two cells that differed in the first play only.

"""


# -- one line -------------------------------------------------------------------------------------------
def good(row):
    """Whether all that ran there ran well. The bare opcode may differ; that is what it is here for."""
    return "error" not in row and not failed_steps(row)


def failed_steps(row):
    """{what: what guest.py's run() says of it}; what goes well when it is run again, alone, has not failed."""
    steps = {step: row[step] for step in ("tour", "thrice", "parity", "pytest")
             if row.get(step, {}).get("exit")}
    if row.get("pytest", {}).get("again", {}).get("exit") == 0:
        del steps["pytest"]
    if row.get("parity", {}).get("exit") == 1 and (row["parity"].get("again") or [[1]])[-1] == []:
        del steps["parity"]
    return steps


def one_line(row):
    if "error" in row:
        return f"{row['name']:<14} {row['error']}"
    words = [f"{row['name']:<14} {row['release']:<28} {row['seconds']:>4} s  tour {row['tour']['exit']}"]
    if "parity" in row:
        words.append(f"cells {cells_text(row)}")
    if "pytest" in row:
        words.append(f"tests {tests_text(row)}")
    return "  ".join(words)


def why_not_good(row):
    """The ends of what the programs that failed there have printed; of those that failed once as well."""
    steps = failed_steps(row)
    if "again" in row.get("pytest", {}):
        steps["pytest"] = row["pytest"]
    if row.get("parity", {}).get("again"):
        steps["parity"] = {**row["parity"], "text": once(row)}
    return [f"{row['name']}, {step}, exit {ran['exit']} after {ran['seconds']:.0f} s:\n{ran['text'][-8000:]}"
            for step, ran in steps.items()]


def once(row):
    """The cells that differed, not those of the bare opcode; and which of them did so again."""
    lines = [f"{cell['scenario']}, {cell['socket']}, {cell['way']}: {difference(cell)}"
             for cell in cells(row) if cell["differs"] and cell["way"] != "native"]
    return "\n".join([*lines, *(f"when they were played again, these differed: {cells or 'none'}"
                                for cells in row["parity"]["again"])])


def cells_text(row):
    if "report" not in row["parity"]:
        return f"none (exit {row['parity']['exit']})"
    again = "".join(f", again {len(cells)}" for cells in row["parity"].get("again", ()))
    return " ".join(f"{way} {differing(row, way)}" for way in WAYS) + again


def tests_text(row):
    if "pytest" not in row:
        return ""
    ran = row["pytest"]
    counts = ", ".join(f"{number} {word}" for word, number in ran["counts"].items())
    if "again" in ran:
        counts += f"; these again: {tests_text({'pytest': ran['again']})}"
    return counts or f"no result (exit {ran['exit']} after {ran['seconds']:.0f} s)"


def cells(row):
    return row.get("parity", {}).get("report", {}).get("cells", [])


def differing(row, way):
    return sum(bool(cell["differs"]) for cell in cells(row) if cell["way"] == way)


def count(row, way):
    """How many differ; of pyuring's own ways those that did so each time when they were played again, alone."""
    first, again = differing(row, way), row["parity"].get("again")
    if way == "native" or not first or not again:
        return first
    return f"{sum(cell[2] == way for cell in again[-1])} ({first} at first)"


# -- the page -------------------------------------------------------------------------------------------
def page(rows):
    parts = [HEAD + kernels(rows), in_a_row(rows), failures(rows), matrix(rows), details(rows)]
    return "\n".join(parts).rstrip() + "\n"


def table(head, lines):
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in
                     [head, ["---"] * len(head), *lines]) + "\n"


def kernels(rows):
    lines = []
    for row in rows:
        line = [row["name"], f"{row['package']} {row['version']}".strip()]
        if "error" in row:
            line += [row["error"], "", row["how"]] + [""] * (len(WAYS) + 2)
        else:
            compared = sum(cell["differs"] is not None for cell in cells(row))
            line += [row["release"], row["date"], row["how"], compared or "none",
                     *(count(row, way) if compared else "" for way in WAYS), tests_text(row)]
        lines.append(line)
    return "## Kernels\n\nCells compared, and of those how many differ from connect(2), way by way.\n\n" + table(
        ["kernel", "package", "uname -r", "run on", "how", "cells", *WAYS, "tests"], lines)


def matrix(rows):
    """kernel x scenario: a letter for each way that differs."""
    rows = [row for row in rows if cells(row)]
    marks, skipped = {}, {}
    for row in rows:
        for cell in cells(row):
            key = cell["scenario"], cell["socket"], row["name"]
            marks[key] = marks.get(key, "") + (WAYS[cell["way"]] if cell["differs"] else "")
            skipped[key] = skipped.get(key, True) and cell["differs"] is None
    lines, same = {}, {}            # (scenario, its marks): sockets; scenario: sockets
    for scenario, socket in dict.fromkeys(key[:2] for key in marks):
        keys = [(scenario, socket, row["name"]) for row in rows]
        line = [marks.get(key) or ("-" if skipped.get(key, True) else "") for key in keys]
        if any(mark not in ("", "-") for mark in line):
            lines.setdefault((scenario, *line), []).append(socket)
        elif "" in line:
            same.setdefault(scenario, []).append(socket)
    text = "## Kernel x scenario\n\nA letter for each way that differs: " + ", ".join(
        f"{letter} {way}" for way, letter in WAYS.items()) + ". Empty: all as connect(2); -: not on this kernel.\n\n"
    text += table(["scenario", "sockets", *(row["name"] for row in rows)],
                  [[key[0], " ".join(sockets), *key[1:]] for key, sockets in lines.items()])
    if same:
        text += "\nThe same by every way on every kernel that has them: " + ", ".join(
            f"{scenario} ({' '.join(sockets)})" for scenario, sockets in same.items()) + ".\n"
    return text


def details(rows):
    """What differed: got and, in brackets, what connect(2) said; sockets and kernels that agree are together."""
    found = {}                  # (scenario, way, text, socket): kernels
    for row in rows:
        for cell in cells(row):
            if cell["differs"]:
                key = cell["scenario"], cell["way"], difference(cell), cell["socket"]
                found.setdefault(key, []).append(row["name"])
    merged = {}                 # (scenario, way, text, kernels): sockets
    for (scenario, way, text, socket), names in found.items():
        merged.setdefault((scenario, way, text, tuple(names)), []).append(socket)
    order = {scenario: number for number, scenario in enumerate(dict.fromkeys(key[0] for key in found))}
    lines = [[scenario, way, " ".join(sockets), text, " ".join(names)] for (scenario, way, text, names), sockets in
             sorted(merged.items(), key=lambda item: (order[item[0][0]], list(WAYS).index(item[0][1])))]
    return ("## What differed\n\nIn bold what came, in brackets what connect(2) says there. Of what the socket is "
            "good for afterwards only the differences.\n\n"
            + table(["scenario", "way", "sockets", "answers", "kernels"], lines))


def difference(cell):
    texts, known = [], set()
    for got, allowed in zip(cell["got"], cell["want"]):
        if got in allowed:
            continue
        after, _, parts = got.partition(": ")
        parts = parts.split(", ")
        wanted = max((want.partition(": ")[2].split(", ") for want in allowed),
                     key=lambda want: (len(want) == len(parts), sum(map(str.__eq__, want, parts))), default=[])
        wanted += ["nothing"] * (len(parts) - len(wanted))
        shown = []
        for number, (part, want) in enumerate(zip(parts, wanted)):
            if part != want:
                call, _, answer = want.rpartition(" ")
                text = f"**{part}** ({answer if call and part.startswith(call + ' ') else want})"
            elif part.startswith("connect "):
                text = part
            else:
                continue
            if (number, text) not in known:
                known.add((number, text))
                shown.append(text)
        missing = wanted[len(parts):]
        if missing:
            shown.append(f"**nothing** ({', '.join(missing)})")
        if any("**" in text for text in shown):
            texts.append(f"{after}: {', '.join(shown)}")
    text = "; ".join(texts).replace("|", "\\|")
    for address, word in ADDRESSES.items():
        text = text.replace(address, word)
    return text


def in_a_row(rows):
    """thrice.py on each, and the whole of it for era B."""
    rows = [row for row in rows if "measured" in row.get("thrice", {})]
    text = "## Requests in a row on one socket\n\n"
    for row in rows:
        if row["name"] == "era-B":
            text += (f"With the io_connect() of 6.1.0 to 6.1.21 (era-B, run on {row['date']}); a star marks what "
                     f"connect(2) would not say:\n\n```\n{thrice.table(row['thrice']['measured'])}\n```\n\n")
    lines = []
    for row in rows:
        measured = row["thrice"]["measured"]
        emulated = [f"{thrice.TITLES[name]}: {', '.join(ways['emulated'])}" for name, ways in measured.items()
                    if ways["emulated"] != ways["connect(2)"]]
        lines.append([row["name"], *(", ".join(ways["native"]) for ways in measured.values()),
                      "; ".join(emulated) or "as connect(2)"])
    says = "; ".join(f"{thrice.TITLES[name]}: {', '.join(want)}" for name, want in (
        ("refused", ["ECONNREFUSED"] * 3), ("connected", ["0", "EISCONN", "EISCONN"]), ("late", ["ECONNREFUSED"] * 2)))
    return text + (f"IORING_OP_CONNECT on every kernel (`thrice.py`). connect(2) says: {says}.\n\n"
                   + table(["kernel", *thrice.TITLES.values(), "emulated"], lines))


def failures(rows):
    """The tests that failed, and the kernels that did not get that far."""
    lines = []
    for row in rows:
        again = row.get("pytest", {}).get("again", {}).get("failed", [])
        for failed in row.get("pytest", {}).get("failed", []):
            passed = "" if failed in again or "again" not in row["pytest"] else "; passed when run again"
            lines.append(f"- {row['name']}: {failed}{passed}")
    return "## Tests that failed\n\n" + ("\n".join(lines) or "None.") + "\n"
