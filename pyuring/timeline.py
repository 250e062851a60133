"""timeline.py - a story of explain.py as a picture: time goes to the right, each request has a lane.

    draw(records, title)    the records of a Story as SVG text

Plain SVG, made of strings: rectangles, lines, text, and a <title> for each bar, which browsers show when the
mouse rests on it. The colours are for light pages, and for dark ones through prefers-color-scheme.

From top to bottom: the machine's states (of one connect), io_uring_enter (when the program was in the kernel),
a lane for each request from the enter that handed it over until its CQE was reaped, plain system calls, and
what came of each target. A request that says nothing when all goes well (IOSQE_CQE_SKIP_SUCCESS) ends with the
last one of its chain.

Leans on nothing: the records are dicts, whose kinds stand at the top of explain.py.
"""
from __future__ import annotations

IOSQE_CHAINS = 1 << 2 | 1 << 3          # IO_LINK, IO_HARDLINK
IOSQE_SKIPS = 1 << 6                    # CQE_SKIP_SUCCESS
IORING_CQE_F_MORE = 1 << 1

#: What a bar's colour says: (in the legend, on light, on dark).
COLOURS = {
    "ok": ("completed", "#2f855a", "#48bb78"),
    "error": ("error", "#c53030", "#fc8181"),
    "timeout": ("timeout", "#b7791f", "#f6c453"),
    "cancelled": ("cancelled, or nothing to do", "#718096", "#a0aec0"),
    "quiet": ("went well without a CQE", "#9ae6b4", "#276749"),
    "open": ("no answer", "#805ad5", "#b794f4"),
    "enter": ("io_uring_enter", "#2b6cb0", "#63b3ed"),
    "call": ("plain system call", "#2c7a7b", "#4fd1c5"),
    "state": ("state of the machine", "#cbd5e0", "#4a5568"),
}

_MOST_LANES = 400
_LEFT, _RIGHT, _TOP, _LANE = 300, 120, 84, 20        # on the right there is room for the last state's name
_WIDTH = 1100


class Lane:
    """One row: a label, and bars (from, to, colour, text, tip)."""

    __slots__ = ("label", "bars")

    def __init__(self, label: str) -> None:
        self.label = label
        self.bars: list[tuple] = []


class _Request:
    """What is known of a request between its SQE and its last CQE."""

    def __init__(self, name, lane, began, chain, skips):
        self.name, self.lane, self.began, self.chain, self.skips = name, lane, began, chain, skips
        self.done = self.cancelled = False


def lanes_of(records: list[dict]) -> tuple[list[Lane], float]:
    """The lanes of a story, from top to bottom, and when it ended in seconds."""
    end = max([record["t"] + _length(record) for record in records], default=0.0)
    states, enters = Lane("states"), Lane("io_uring_enter(2)")
    calls: dict[str, Lane] = {}
    requests, outcomes = _requests(records, end), []
    told = [record for record in records if record["kind"] == "state"]
    for record, after in zip(told, [record["t"] for record in told[1:]] + [end]):
        if record["next"] != "DONE":
            states.bars.append((record["t"], after, "state", record["next"],
                                f"{record['next']}, after {record['event']}: {record['why']}"))
    enter = None
    for record in records:
        kind = record["kind"]
        if kind == "enter":
            enter = record
        elif kind == "entered" and enter is not None:
            enters.bars.append((record["t"] - record["elapsed"], record["t"], "enter", "",
                                f"to_submit {enter['to_submit']}, min_complete {enter['min_complete']}: "
                                f"{record['result']}"))
            enter = None
        elif kind == "call":
            name = f"{record['name']}({record['manual']})"
            lane = calls.setdefault(name, Lane(name))
            tip = f"{record['arguments']} = {record['text'] or record['result']}"
            failed = record["result"] < 0 and record["text"] not in _NO_FAILURE
            lane.bars.append((record["t"], record["t"] + record["elapsed"], "error" if failed else "call", "", tip))
        elif kind == "outcome":
            lane = Lane(record["target"])
            colour = "ok" if record["ok"] else "timeout" if record["error"] == "timeout" else "error"
            lane.bars.append((record["t"] - record["elapsed"], record["t"], colour,
                              "connected" if record["ok"] else record["error"], record["message"] or "connected"))
            outcomes.append(lane)
    lanes = [lane for lane in (states, enters) if lane.bars]
    return lanes + requests + list(calls.values()) + outcomes, end


_NO_FAILURE = ("EISCONN", "EINPROGRESS", "EALREADY")    # of a connect(2) that was made to hear just that


def _length(record):
    return record.get("elapsed", 0.0) if record["kind"] == "call" else 0.0


def _requests(records, end):
    """The lanes of all requests, in the order in which they were handed over."""
    lanes, under_way = [], {}           # user_data -> requests, the oldest first
    everyone, chain = [], []
    entries, enter = {}, None           # id of an enter's record -> when the system call began
    for record in records:
        if record["kind"] == "enter":
            enter = record
        elif record["kind"] == "entered" and enter is not None:
            entries[id(enter)] = record["t"] - record["elapsed"]
            enter = None
    for record in records:
        for _, entry in record.get("sqes", ()):
            lane = Lane(_label(entry))
            flags = _number(entry, "flags")
            if not chain or not chain[-1][1]:
                chain = []
            began = entries.get(id(record), record["t"])
            request = _Request(entry.name, lane, began, chain, bool(flags & IOSQE_SKIPS))
            chain.append((request, bool(flags & IOSQE_CHAINS)))
            under_way.setdefault(entry.user_data, []).append(request)
            everyone.append(request)
            lanes.append(lane)
        for _, entry in record.get("cqes", ()):
            mine = under_way.get(entry.user_data)
            if not mine:
                continue                # from before the story
            request = mine[0]
            res = _number(entry, "res")
            colour = _colour(entry.name, res)
            last = not _number(entry, "flags") & IORING_CQE_F_MORE
            text = next(field.text for field in entry.fields if field.name == "res")
            request.lane.bars.append((request.began, record["t"], colour, text.partition(" (")[0], f"res {text}"))
            if last:
                mine.pop(0)
                request.cancelled = colour == "cancelled"
                _end(request, under_way, record["t"])
            else:
                request.began = record["t"]         # the next bar of a multishot request
    for request in everyone:
        if not request.done:
            request.lane.bars.append((request.began, end, "open", "no CQE so far", "not answered"))
    return lanes


def _end(request, under_way, t):
    """A request has had its last CQE; where it is its chain's last one, those without a CQE went well."""
    request.done = True
    if request.chain[-1][0] is not request:
        return
    before = None
    for other, _ in request.chain:
        if not other.done and other.skips:
            other.done = True
            if other.name == "LINK_TIMEOUT" and before is not None and before.cancelled:
                other.lane.bars.append((other.began, t, "timeout", "", "it cancelled the request before it, and is "
                                        "silent of that: IOSQE_CQE_SKIP_SUCCESS"))
            else:
                other.lane.bars.append((other.began, t, "quiet", "", "IOSQE_CQE_SKIP_SUCCESS: it went well"))
            for mine in under_way.values():
                if other in mine:
                    mine.remove(other)
        before = other


def _number(entry, name):
    return next((field.value for field in entry.fields if field.name == name), 0)


def _label(entry):
    """Its opcode, and what it is about."""
    about = [field.text.partition(" at 0x")[0] for field in entry.fields if field.pointed]
    return f"{entry.name} {' '.join(about)} #{entry.user_data}"


def _colour(name, res):
    import errno
    if res >= 0:
        return "ok"
    if res == -errno.ETIME:
        return "timeout"
    if res == -errno.ECANCELED or name == "ASYNC_CANCEL" and res in (-errno.ENOENT, -errno.EALREADY):
        return "cancelled"
    return "error"


# -- drawing -------------------------------------------------------------------------------------------
def draw(records: list[dict], title: str) -> str:
    """The story as the text of an SVG file."""
    lanes, end = lanes_of(records)
    left_out = max(0, len(lanes) - _MOST_LANES)
    lanes = lanes[:_MOST_LANES]
    start = min([bar[0] for lane in lanes for bar in lane.bars], default=0.0)
    end = max(end - start, 1e-6)
    bottom = _TOP + _LANE * len(lanes)
    height = bottom + (60 if left_out else 40)
    scale = (_WIDTH - _LEFT - _RIGHT) / end
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
             f'viewBox="0 0 {_WIDTH} {height}" role="img">',
             f"<title>{_text(title)}</title>", f"<style>{_style()}</style>",
             f'<rect class="page" x="0" y="0" width="{_WIDTH}" height="{height}"/>',
             f'<text class="head" x="12" y="24">{_text(title)}</text>']
    parts += _legend({bar[2] for lane in lanes for bar in lane.bars})
    for tick, label in _ticks(end):
        x = _LEFT + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 20}">{label}</text>')
    for row, lane in enumerate(lanes):
        y = _TOP + _LANE * row
        parts.append(f'<line class="grid" x1="12" y1="{y + 19.5}" x2="{_WIDTH - _RIGHT}" y2="{y + 19.5}"/>')
        parts.append(f'<text class="label" x="12" y="{y + 14}">{_text(_short(lane.label, 42))}'
                     f"<title>{_text(lane.label)}</title></text>")
        for began, ended, colour, text, tip in lane.bars:
            tip = f"{tip} ({(began - start) * 1000:.3f} to {(ended - start) * 1000:.3f} ms)"
            parts += _bar(_LEFT + (began - start) * scale, max(1.5, (ended - began) * scale), y, colour, text, tip,
                          (began, ended) == lane.bars[-1][:2])
    if left_out:
        parts.append(f'<text class="label" x="12" y="{bottom + 44}">and {left_out} more lanes, not drawn</text>')
    return "\n".join(parts) + "\n</svg>\n"


def _bar(x, width, y, colour, text, tip, last):
    parts = [f'<rect class="{colour}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_LANE - 7}">'
             f"<title>{_text(tip)}</title></rect>"]
    if colour not in ("enter", "call"):         # submission, or the change of state; and completion
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{y + 1}" x2="{x:.1f}" y2="{y + _LANE - 2}"/>')
        if colour not in ("open", "quiet", "state"):
            parts.append(f'<circle class="mark" cx="{x + width:.1f}" cy="{y + _LANE / 2 - 0.5}" r="3"/>')
    room = (8.5 if colour == "state" else 6.5) * len(text) + 8
    if text and colour == "state":
        if room < width:
            parts.append(f'<text class="in" x="{x + 4:.1f}" y="{y + 14}">{_text(text)}</text>')
        elif last:
            parts.append(f'<text class="in" x="{x + width + 6:.1f}" y="{y + 14}">{_text(text)}</text>')
    elif text and x + width + room < _WIDTH - 4:
        parts.append(f'<text class="in" x="{x + width + 6:.1f}" y="{y + 14}">{_text(text)}</text>')
    elif text:
        parts.append(f'<text class="in" text-anchor="end" x="{x - 6:.1f}" y="{y + 14}">{_text(text)}</text>'
                     if x - room > _LEFT and width < room else
                     f'<text class="over" x="{x + 6:.1f}" y="{y + 14}">{_text(text)}</text>')
    return parts


def _legend(used):
    parts, x = [], 12
    for name, (label, _, _) in COLOURS.items():
        if name in used:
            parts.append(f'<rect class="{name}" x="{x}" y="38" width="14" height="12"/>')
            parts.append(f'<text class="label" x="{x + 19}" y="48">{label}</text>')
            x += 19 + 6.4 * len(label) + 18
    parts.append('<line class="mark" x1="14" y1="58" x2="14" y2="72"/>'
                 '<text class="label" x="22" y="69">submitted</text>'
                 '<circle class="mark" cx="98" cy="65" r="3"/>'
                 '<text class="label" x="106" y="69">its CQE was reaped, or the target was done</text>')
    return parts


def _ticks(end):
    """(seconds, label) of about eight round points in time."""
    step = 1e-6
    for power in range(-6, 7):
        for digit in (1, 2, 5):
            step = digit * 10.0 ** power
            if end / step <= 9:
                break
        if end / step <= 9:
            break
    unit, factor = ("us", 1e6) if end < 1e-3 else ("ms", 1e3) if end < 1 else ("s", 1)
    return [(number * step, f"{number * step * factor:.6g} {unit}") for number in range(int(end / step) + 1)]


def _style():
    common = (".head{font:600 15px sans-serif}.label,.in,.over,.axis{font:12px sans-serif}.axis{text-anchor:middle}"
              ".grid{stroke-width:1}.mark{stroke-width:1.5}")
    light, dark = [_theme(at, *colours) for at, colours in (
        (1, ("#ffffff", "#1a202c", "#e2e8f0", "#ffffff")), (2, ("#12161f", "#e2e8f0", "#2d3748", "#12161f")))]
    return f"{common}{light}@media (prefers-color-scheme: dark){{{dark}}}"


def _theme(at, page, ink, grid, over):
    bars = "".join(f".{name}{{fill:{row[at]}}}" for name, row in COLOURS.items())
    return (f".page{{fill:{page}}}.head,.label,.in,.axis{{fill:{ink}}}.over{{fill:{over}}}.grid{{stroke:{grid}}}"
            f".mark{{stroke:{ink};fill:{page}}}{bars}")


def _short(text, most):
    return text if len(text) <= most else text[:most - 3] + "..."


def _text(text):
    """For XML: no markup, and no characters that it does not allow."""
    text = "".join(char if char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff" else "?"
                   for char in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
