"""The package as a whole: its floors, its face, what it costs to import, and that it can be vendored.

The first half reads the source with ast and runs nothing. The second half copies the package under
another name, into a directory, a zip file, a place that can't be written to, and works with it there.
"""
import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyuring

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pyuring"

# A module imports from lower floors only. Who adds a module decides here where it stands.
FLOORS = {
    "abi": 0, "errors": 0, "machine": 0, "structs": 0, "timeline": 0,
    "sockaddr": 1, "syscalls": 1, "host": 1, "reasons": 1,
    "arguments": 2, "messages": 2, "waiting": 2,
    "decode": 3, "prep_files": 3, "prep_sockets": 3, "resources": 3, "layout": 3,
    "prep": 4, "registration": 4, "ring_fd": 4,
    "batch": 5,
    "ring": 6, "eras": 6, "examine": 6,
    "capabilities": 7, "driver": 7, "registered": 7, "watch": 7,
    "client": 8, "tracing": 8,
    "many": 9, "targets": 9, "report": 9,
    "explain": 10,
    "cli": 11, "__main__": 11,
}
# Beyond the floors: the command line says which version it is and starts under its own name.
EXCEPTIONS = {("cli", "__init__"), ("__main__", "cli")}

SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py"))}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
MODULES = sorted(set(TREES) - {"__init__"})
ALL = pytest.mark.parametrize("name", sorted(TREES))


def imports(tree):
    """(node, what) for each import in a module, wherever it stands; inside the package ".what"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level in (0, 1), f"line {node.lineno} leaves the package"
            if not node.level:
                yield node, node.module
            elif node.module:
                yield node, "." + node.module
            else:       # from . import this, that: modules, or names that __init__ defines
                for alias in node.names:
                    yield node, "." + (alias.name if alias.name in TREES else "__init__")


def runs(tree):
    """The import nodes that importing the module executes."""
    def inside(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child
            yield from inside(child)
    return set(inside(tree))


# ---- the floors -------------------------------------------------------------------------------------

def test_every_module_has_its_floor():
    assert set(MODULES) == set(FLOORS)


def test_there_is_nothing_else_in_the_package():
    there = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert there == {f"{name}.py" for name in TREES} | {"py.typed"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    for node, what in imports(TREES[name]):
        if what.startswith(".") and (name, what[1:]) not in EXCEPTIONS:
            other = what[1:]
            assert other in FLOORS, f"line {node.lineno}: {name} imports {other}"
            assert FLOORS[other] < FLOORS[name], f"line {node.lineno}: {name} imports {other}"


def test_init_takes_from_everywhere_but_the_command_line():
    assert all(what[1:] in FLOORS and FLOORS[what[1:]] < 10
               for _, what in imports(TREES["__init__"]))


def test_init_has_no_logic():
    docstring, *rest = TREES["__init__"].body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        if isinstance(node, ast.Assign):
            assert ast.unparse(node.targets[0]) in ("__version__", "__all__")
            ast.literal_eval(node.value)
        else:
            assert isinstance(node, ast.ImportFrom) and node.level == 1


@ALL
def test_inside_the_package_imports_are_relative(name):
    assert not [what for _, what in imports(TREES[name]) if what.split(".")[0] == "pyuring"]
    assert "pyuring." not in "".join(re.findall(r"import_module\((.*)\)", SOURCES[name]))


@ALL
def test_only_the_standard_library_is_imported(name):
    if not hasattr(sys, "stdlib_module_names"):
        pytest.skip("sys.stdlib_module_names is Python 3.10")
    outside = {what.split(".")[0] for _, what in imports(TREES[name]) if not what.startswith(".")}
    assert outside <= set(sys.stdlib_module_names) | {"__future__"}


@pytest.mark.parametrize("name", sorted(set(TREES) - {"syscalls"}))
def test_only_syscalls_imports_ctypes(name):
    assert not [what for _, what in imports(TREES[name]) if what.split(".")[0] in ("ctypes", "_ctypes")]


SLOW = {"typing", "dataclasses", "asyncio", "inspect", "logging", "subprocess", "concurrent",
        "multiprocessing", "importlib", "enum", "re", "platform"}


@pytest.mark.parametrize("name", sorted(set(TREES) - {"cli"}))
def test_what_is_slow_to_import_is_not_imported_at_module_level(name):
    executed = runs(TREES[name])
    assert not {what for node, what in imports(TREES[name])
                if node in executed and what.split(".")[0] in SLOW}


def test_cli_imports_no_typing_either():
    executed = runs(TREES["cli"])
    assert not {what for node, what in imports(TREES["cli"])
                if node in executed} & {"typing", "dataclasses", "asyncio", "inspect"}


# ---- files that can be read -------------------------------------------------------------------------

@ALL
def test_every_module_opens_with_what_it_is(name):
    docstring = ast.get_docstring(TREES[name])
    assert docstring and len(docstring.splitlines()) >= 3
    assert docstring.splitlines()[0].endswith((".", ":"))


@ALL
def test_no_module_is_longer_than_900_lines(name):
    assert len(SOURCES[name].splitlines()) <= 900


@ALL
def test_no_line_is_wider_than_a_reader_wants(name):
    assert max(map(len, SOURCES[name].splitlines())) <= 120
    assert "\t" not in SOURCES[name]


@ALL
def test_annotations_cost_nothing_at_import(name):
    """So that `int | None` also works on Python 3.9."""
    if name in ("__init__", "__main__"):
        return
    assert "from __future__ import annotations" in SOURCES[name]


@ALL
def test_it_is_python_3_9(name):
    ast.parse(SOURCES[name], feature_version=(3, 9))


# ---- the face ---------------------------------------------------------------------------------------

def functions_of(tree):
    """(class name or "", function) of each function that is not in another one."""
    for node in tree.body:
        for inner in [node] if not isinstance(node, (ast.If, ast.Try)) else ast.walk(node):
            if isinstance(inner, ast.FunctionDef):
                yield "", inner
            elif isinstance(inner, ast.ClassDef):
                for member in inner.body:
                    if isinstance(member, ast.FunctionDef):
                        yield inner.name, member


def test_all_is_sorted_complete_and_true():
    assert pyuring.__all__ == sorted(pyuring.__all__)
    assert all(hasattr(pyuring, name) for name in pyuring.__all__)
    taken = {alias.asname or alias.name for node in TREES["__init__"].body
             if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(pyuring.__all__) == taken


def test_no_public_function_has_the_name_of_a_module():
    """`from pyuring import ring` must mean the module, and `pyuring.connect` the function."""
    for name, tree in TREES.items():
        for owner, function in functions_of(tree):
            assert owner or function.name not in TREES, f"{name}.{function.name}"
    assert not set(pyuring.__all__) & set(TREES)


@pytest.mark.parametrize("name", pyuring.__all__)
def test_what_is_public_says_what_it_is(name):
    """A docstring of its own, not one that it inherits or that namedtuple() made up."""
    thing = getattr(pyuring, name)
    assert vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_a_docstring(name):
    private = {node.name for node in TREES[name].body
               if isinstance(node, ast.ClassDef) and node.name.startswith("_")}
    without = [f"{owner}.{function.name}" for owner, function in functions_of(TREES[name])
               if not function.name.startswith("_") and owner not in private
               and not ast.get_docstring(function)]
    assert not without


# Parameters whose value is "any buffer", "any address", "a socket or its fd", "seconds or a Timespec":
# what they may be stands in prep.py's docstring, and no annotation says it better.
ANY = {"fd", "sockfd", "dfd", "epfd", "address", "addr", "addrlen", "buf", "futex", "path", "ts", "exc_info",
       "ring_addr", "memory", "area"}


def _public_signatures():
    for name in pyuring.__all__:
        thing = getattr(pyuring, name)
        classes = [kind for kind in getattr(thing, "__mro__", ())
                   if kind.__module__.startswith("pyuring.")]
        if not classes:
            yield name, thing
        for kind in classes:
            for member, value in vars(kind).items():
                value = getattr(value, "fget", getattr(value, "__func__", value))
                if inspect.isfunction(value) and value.__module__.startswith("pyuring.") and (
                        not member.startswith("_") or member in ("__init__", "__enter__", "__exit__")):
                    yield f"{name}.{member}", value


PUBLIC = dict(_public_signatures())


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_signature_is_annotated(name):
    signature = inspect.signature(PUBLIC[name])
    method = "." in name
    missing = [parameter.name for parameter in list(signature.parameters.values())[method:]
               if parameter.annotation is parameter.empty and parameter.name not in ANY]
    assert not missing
    assert signature.return_annotation is not signature.empty or name.endswith(".__init__")


def test_typed_and_without_dependencies():
    assert (PACKAGE / "py.typed").read_bytes() == b""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    try:
        import tomllib
    except ImportError:         # Python 3.11
        assert 'name = "pyuring-ctypes"' in text and "\ndependencies = []" in text
        return
    project = tomllib.loads(text)
    assert project["project"]["name"] == "pyuring-ctypes"
    assert project["project"]["dependencies"] == []
    assert project["project"]["version"] == pyuring.__version__
    assert project["tool"]["setuptools"]["packages"] == ["pyuring"]
    script = project["project"]["scripts"]["pyuring"]
    module, function = script.split(":")
    assert callable(getattr(importlib.import_module(module), function))


# ---- what an import costs ---------------------------------------------------------------------------

def child(code, *arguments, cwd=ROOT, options=("-S", "-E")):
    """Run code in an interpreter that knows the standard library and its directory, no more."""
    return subprocess.run([sys.executable, "-W", "error", *options, "-c", code, *map(str, arguments)],
                          cwd=cwd, capture_output=True, text=True, timeout=60)


def test_importing_it_imports_hardly_more_than_it_needs():
    done = child("import sys, socket, ctypes, mmap, struct\n"
                 "before = set(sys.modules)\n"
                 "import pyuring\n"
                 "print(*sorted(set(sys.modules) - before))")
    assert not done.stderr
    new = {name for name in done.stdout.split() if not name.startswith("pyuring")}
    slow = {"asyncio", "typing", "dataclasses", "inspect", "argparse", "json", "logging", "subprocess",
            "concurrent", "platform", "importlib.resources", "traceback"}
    assert not new & slow
    assert "pyuring.cli" not in done.stdout.split()


def test_importing_it_starts_and_opens_nothing():
    done = child("import os, socket, threading\n"
                 "before = os.listdir('/proc/self/fd')\n"
                 "import pyuring\n"
                 "print(os.listdir('/proc/self/fd') == before, threading.active_count())")
    assert (done.stdout, done.stderr) == ("True 1\n", "")


# ---- vendored ---------------------------------------------------------------------------------------

USE = """
import socket, sys
try:
    import pyuring
except ImportError:
    pass
else:
    sys.exit("the original is importable: this proves nothing")
from app._vendor import uring_inside as uring
address = ("127.0.0.1", int(sys.argv[1]))
with socket.socket() as sock:
    uring.connect(sock, address, 5)
    assert sock.getpeername() == address
with uring.create_connection(address, 5) as sock:
    assert sock.getpeername() == address
assert [outcome.ok for outcome in uring.connect_many([address, address])] == [True, True]
print(uring.__name__, uring.probe().available, uring.__file__)
"""
TOUR = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "runpy.run_module('app._vendor.uring_inside', run_name='__main__', alter_sys=True)")


def vendor(directory, name="uring_inside"):
    """Copy the package to directory/app/_vendor/name, without what Python has compiled."""
    target = directory / "app" / "_vendor" / name
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for package in (directory / "app", directory / "app" / "_vendor"):
        (package / "__init__.py").touch()
    return target


def check_vendored(where, listener, elsewhere, options=("-S", "-E", "-s")):
    """Use the copy in `where`, then run its tour, from another directory."""
    code = f"import sys; sys.path.insert(0, {str(where)!r})\n" + USE
    done = child(code, listener.getsockname()[1], cwd=elsewhere, options=options)
    assert (done.returncode, done.stderr) == (0, "")
    name, available, file = done.stdout.split()
    assert name == "app._vendor.uring_inside" and file.startswith(str(where))
    assert available == str(pyuring.probe().available)

    done = child(TOUR, where, cwd=elsewhere, options=options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python3 -m app._vendor.uring_inside doctor " in done.stdout
    assert "python3 -m pyuring" not in done.stdout
    assert "examples/" not in done.stdout           # which were not vendored


@pytest.fixture
def elsewhere(tmp_path):
    """A working directory in which nothing can be imported."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def test_a_vendored_copy_works_under_another_name(tmp_path, listener, elsewhere):
    vendor(tmp_path / "there")
    check_vendored(tmp_path / "there", listener, elsewhere)


def test_a_vendored_copy_runs_as_a_module(tmp_path, listener):
    vendor(tmp_path, "pyuring")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-S", "-E", "-m", "app._vendor.pyuring", "connect",
         "127.0.0.1:%d" % listener.getsockname()[1], "nohost"], cwd=tmp_path, capture_output=True,
        text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("python3 -m app._vendor.pyuring connect: target 'nohost'")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED],
                         ids=["stored", "deflated"])
def test_a_vendored_copy_works_from_a_zip_file(tmp_path, listener, elsewhere, compression):
    vendor(tmp_path / "there")
    archive = tmp_path / "there.zip"
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted((tmp_path / "there").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "there"))
    check_vendored(archive, listener, elsewhere)


def test_a_vendored_copy_needs_no_compiled_files(tmp_path, listener, elsewhere):
    vendor(tmp_path / "there")
    check_vendored(tmp_path / "there", listener, elsewhere, ("-S", "-E", "-s", "-B"))
    assert not list((tmp_path / "there").rglob("*.pyc"))


# Root may write anywhere, unless it gives that up: CAP_DAC_OVERRIDE, which is capability 1.
HUMBLE = """
import ctypes, os, struct
libc, header = ctypes.CDLL(None), struct.pack("=Ii", 0x20080522, 0)
sets = ctypes.create_string_buffer(24)
if os.geteuid() == 0 and not libc.capget(header, sets):
    effective, permitted, inherited, *rest = struct.unpack("=6I", sets.raw)
    sets.raw = struct.pack("=6I", effective & ~2, permitted & ~2, inherited & ~2, *rest)
    libc.capset(header, sets)
try:
    open(DIRECTORY + "/written", "w").close()
    print("can write")
except PermissionError:
    pass
"""


def test_a_vendored_copy_works_where_nothing_can_be_written(tmp_path, listener, elsewhere):
    copy = vendor(tmp_path / "there")
    directories = [path for path in (tmp_path / "there").rglob("*") if path.is_dir()]
    for path in directories:
        path.chmod(0o555)
    try:
        done = child(f"DIRECTORY = {str(copy)!r}\n{HUMBLE}\nimport sys; sys.path.insert(0, "
                     f"{str(tmp_path / 'there')!r})\n" + USE, listener.getsockname()[1], cwd=elsewhere)
    finally:
        for path in directories:
            path.chmod(0o755)
    if done.stdout.startswith("can write"):
        pytest.skip("this user can write into directories that are read-only")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("app._vendor.uring_inside ")
    assert not list(copy.rglob("*.pyc"))


def test_two_vendored_copies_live_in_one_process_and_survive_a_fork(tmp_path, listener, elsewhere):
    for name in ("one", "two"):
        vendor(tmp_path, name)
    done = child(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + """
import os, socket
from app._vendor import one, two
assert one.Ring is not two.Ring
address = ("127.0.0.1", int(sys.argv[1]))
strategy = "emulated" if one.probe().strategy == "emulated" else None

def both():
    for copy in (one, two):
        for _ in range(2):
            with socket.socket() as sock:
                copy.connect(sock, address, 5, strategy=strategy)
                assert sock.getpeername() == address
        assert all(outcome.ok for outcome in copy.connect_many([address] * 3, strategy=strategy))
both()
child = os.fork()
if not child:
    code = 1
    try:
        both()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
both()
print("both")
""", listener.getsockname()[1], cwd=elsewhere)
    assert (done.stdout, done.stderr) == ("both\n", "")
