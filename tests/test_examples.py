"""Every example runs with no arguments and shows what it says, also where io_uring is blocked."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))

SHOWS = {
    "01_three_syscalls.py": ["published:   SQ head 0 tail 1    CQ head 0 tail 0",
                             "answer: user_data 1000, res 0, flags 0",
                             "answered:    SQ head 1 tail 1    CQ head 1 tail 1"],
    "02_nop_through_ring.py": ["submit() -> 3", "reap() -> CQE(user_data=30, res=0, flags=0)",
                               "SQ head 3 tail 3  (ours 3)   CQ head 3 tail 3"],
    "03_connect_timeout.py": ["connect: ECANCELED", "timeout: ETIME",
                              "ConnectTimeout: connect to 127.0.0.1:"],
}
WHERE_BLOCKED = {
    "01_three_syscalls.py": ["io_uring_setup: Operation not permitted"],
    "02_nop_through_ring.py": ["No io_uring here: EPERM", "seccomp"],
    "03_connect_timeout.py": ["No io_uring here: EPERM", "ConnectTimeout: connect to 127.0.0.1:"],
}


def run(path, prologue=""):
    code = f"{prologue}\nimport runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                          text=True, timeout=60, cwd="/")


def test_every_example_is_known_here():
    assert [path.name for path in EXAMPLES] == sorted(SHOWS) == sorted(WHERE_BLOCKED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_shows_what_it_says(path, io_uring):
    result = run(path)
    assert (result.returncode, result.stderr) == (0, "")
    for line in SHOWS[path.name]:
        assert line in result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_says_why_where_io_uring_is_blocked(path):
    block = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n" \
            "import errno, seccomp; seccomp.block(errno.EPERM)"
    result = run(path, block)
    assert (result.returncode, result.stderr) == (0, "")
    for line in WHERE_BLOCKED[path.name]:
        assert line in result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_has_a_head_that_says_what_is_new_and_what_to_try(path):
    text = path.read_text()
    head = re.match(r'"""(.*?)"""', text, re.DOTALL).group(1)
    assert head.startswith(path.name + " - ")
    for word in ("New here:", "Linux 5.", "Try:"):
        assert word in head
    assert len(text.splitlines()) <= 120


@pytest.mark.parametrize("name", ["bench_connect.py", "bench_import.py"])
def test_benchmarks_run_and_print_ratios(name):
    result = subprocess.run([sys.executable, ROOT / "tests" / "bench" / name, "1"],
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "CPython" in result.stdout or "PyPy" in result.stdout
    assert "lost" in result.stdout


def test_readme_names_files_that_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
