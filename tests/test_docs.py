"""What help() says, and where the README points: no public name without words of its own.

What a docstring must tell depends on what it is of: prep_*() what the CQE's res is, register_*() how it fails
and how long it holds, both of them since which kernel, and where the truth of it stands.
"""
import importlib
import inspect
import os
import pkgutil
import pydoc
import re
import textwrap
from pathlib import Path

import pytest

import pyuring
from pyuring import Ring

ROOT = Path(__file__).resolve().parent.parent
MODULES = [importlib.import_module(f"pyuring.{module.name}") for module in pkgutil.iter_modules(pyuring.__path__)
           if module.name != "__main__"]
CLASSES = sorted({thing for module in MODULES for name, thing in vars(module).items()
                  if isinstance(thing, type) and not name.startswith("_") and thing.__module__ == module.__name__},
                 key=lambda kind: (kind.__module__, kind.__name__))

KERNEL = re.compile(r"Linux \d+\.\d")
SOURCE = re.compile(r"\b\w+\(\d\)|io_uring/\w+\.c|Documentation/")
RES = re.compile(r"\bCQEs?\b")
ERRORS = re.compile(r"OSError|ValueError")
LASTS = re.compile(r"until|stay|closed?\b|for good|goes? on|released|keep|kept|Undo|unregistered|in place")


def named(prefixes):
    return sorted(name for name in dir(Ring) if name.startswith(prefixes))


def said(name):
    return inspect.getdoc(getattr(Ring, name)) or ""


def own_members(kind):
    """(name, thing) of the public methods and properties that a class has itself, and of its slots."""
    for name, thing in vars(kind).items():
        if name.startswith("_") or getattr(kind, "_fields", ()) and name in kind._fields:
            continue
        if isinstance(thing, property) or inspect.ismemberdescriptor(thing) \
                or inspect.isroutine(getattr(thing, "__func__", thing)):
            yield name, thing


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__[8:]}.{kind.__name__}")
def test_every_class_and_what_it_can_do_has_words_of_its_own(kind):
    assert (kind.__dict__["__doc__"] or "").strip(), "no docstring, or only an inherited one"
    assert not kind.__dict__["__doc__"].startswith(kind.__name__ + "("), "the one that namedtuple() makes"
    without = [name for name, thing in own_members(kind) if not (inspect.getdoc(thing) or "").strip()
               and not (inspect.ismemberdescriptor(thing) and re.search(rf"\b{name}\b", kind.__doc__))]
    assert not without


def test_every_public_function_has_words_of_its_own():
    without = [f"{module.__name__}.{name}" for module in MODULES for name, thing in vars(module).items()
               if inspect.isfunction(thing) and not name.startswith("_") and not thing.__doc__]
    assert not without


@pytest.mark.parametrize("name", named("prep_"))
def test_prep_tells_its_res_its_kernel_and_its_source(name):
    text = said(name)
    assert RES.search(text), "what is the CQE's res?"
    assert KERNEL.search(text), "since which kernel?"
    assert SOURCE.search(text), "where does that stand?"
    assert f"io_uring_{name}(3)" in text or name in ("prep_cancel64", "prep_recv_zc"), "liburing's own page"


@pytest.mark.parametrize("name", named(("register_", "unregister_")))
def test_register_tells_its_errors_its_kernel_its_source_and_how_long_it_holds(name):
    text = said(name)
    assert ERRORS.search(text), "how does it fail?"
    assert KERNEL.search(text), "since which kernel?"
    assert SOURCE.search(text), "where does that stand?"


@pytest.mark.parametrize("name", ["register_buffers", "register_buffers_tags", "register_files", "register_buf_ring",
                                  "register_region", "register_wait_reg", "register_eventfd", "register_personality",
                                  "setup_buf_ring", "register_ifq", "clone_buffers", "push"])
def test_what_lends_memory_or_files_says_for_how_long(name):
    assert LASTS.search(said(name))


def test_a_docstring_that_tells_too_little_is_found(monkeypatch):
    monkeypatch.setattr(Ring.prep_nop, "__doc__", "Do nothing.")
    with pytest.raises(AssertionError):
        test_prep_tells_its_res_its_kernel_and_its_source("prep_nop")


# ---- help(pyuring.Ring) ------------------------------------------------------------------------------

def test_help_on_ring_begins_with_what_it_is_and_five_lines():
    lines = [line.strip(" |") for line in pydoc.render_doc(Ring, renderer=pydoc.plaintext).splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("An io_uring: "))
    assert first < lines.index("Method resolution order:")
    assert lines[first + 1:first + 3] == ["", "with pyuring.Ring(64) as ring:"]


def example():
    """The lines of the class's docstring that are an example."""
    paragraph = inspect.getdoc(Ring).split("\n\n")[1]
    return textwrap.dedent(paragraph)


def test_the_five_lines_work(io_uring, capsys):
    lines = example()
    assert len(lines.splitlines()) == 5
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"seven..")
        exec(compile(lines, "help", "exec"), {"pyuring": pyuring, "fd": read_end, "buffer": bytearray(16)})
    finally:
        os.close(read_end)
        os.close(write_end)
    assert capsys.readouterr().out == "1 7\n"


def test_help_names_every_method_in_its_group():
    text = inspect.getdoc(Ring)
    missing = [name for name in dir(Ring) if not name.startswith(("_", "prep_", "register_", "unregister_"))
               and not re.search(rf"\b{name}\b", text) and not inspect.getdoc(getattr(Ring, name))]
    assert not missing
    methods = [name for name in dir(Ring) if not name.startswith(("_", "prep_", "register_", "unregister_"))
               and callable(getattr(Ring, name))]
    assert not [name for name in methods if f"{name}()" not in text]
    assert not [name for name in re.findall(r"(?<!\.)\b(\w+)\(\)", text) if not hasattr(Ring, name)]


# ---- essays ------------------------------------------------------------------------------------------

def test_what_an_essay_says_has_its_source():
    """"Some facts about ..." in the middle of a module: a page, a file of the kernel, or a measurement."""
    found = 0
    for module in MODULES:
        for essay in re.findall(r"^ *# Some facts about .*\n(?: *#.*\n)+", inspect.getsource(module), re.M):
            found += 1
            assert re.search(r"\w+\(\d\)|io_uring/\w+\.c|measured on", essay), essay
            assert len(essay.splitlines()) <= 25
    assert found >= 5


# ---- the README, and where it points -----------------------------------------------------------------

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("file", ["README.md", "examples/machine.md"])
def test_every_link_to_a_file_leads_to_one(file):
    path = ROOT / file
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert links and not [link for link in links if not (path.parent / link).exists()]


def test_every_module_is_in_the_reading_order():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Reading it")[2]
    order = LINK.findall(text)
    assert not [module.__name__ for module in MODULES if f"pyuring/{module.__name__[8:]}.py" not in order]
    assert len(order) == len(set(order))


def test_every_row_of_the_reading_order_has_its_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Reading it")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) > 5 and all(row[2].strip().isdigit() and row[3].strip() for row in rows)


def test_what_a_module_says_to_read_next_comes_later_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Reading it")[2]
    order = [Path(link).name for link in LINK.findall(text)]
    found = 0
    for module in MODULES:
        for name in re.findall(r"[Rr]ead\s+next:\s[^.]*?\b(\w+\.py)|(?<!\w)(\w+\.py)[ ,(]+to be read next", module.__doc__):
            found += 1
            here, there = f"{module.__name__[8:]}.py", "".join(name)
            assert order.index(here) < order.index(there), f"{here} sends its reader back to {there}"
    assert found > 20


def test_what_a_module_says_to_read_next_is_there():
    names = {module.__name__[8:] for module in MODULES} | {"__init__"}
    for module in MODULES:
        for name in re.findall(r"\b(\w+)\.py\b", module.__doc__):
            assert name in names or (ROOT / "tests" / f"{name}.py").exists(), f"{module.__name__} names {name}.py"
