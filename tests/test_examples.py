"""Every example runs with no arguments and shows what it says, also where io_uring is blocked."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))

NO_RING = ["No io_uring here: EPERM", "seccomp"]        # said by whatever needs a ring, and why
REFUSED = "ECONNREFUSED"


def cancelled(number):
    """A read and its cancel, in either order. 5.10 now and then lets a worker thread wait for a pipe."""
    pairs = ("the cancel: 0", f"read {number}: -ECANCELED"), ("the cancel: -EALREADY", f"read {number}: -EINTR")
    return "(" + "|".join(rf"  {a}\n  {b}\n|  {b}\n  {a}\n" for a, b in pairs) + ")"


# What each prints, as patterns over its whole output, in the order in which they come.
SHOWS = {
    "01_three_syscalls.py": [
        r"published:   SQ head 0 tail 1    CQ head 0 tail 0\nenter: the kernel consumed 1\n",
        r"answer: user_data 1000, res 0, flags 0\n"
        r"answered:    SQ head 1 tail 1    CQ head 1 tail 1\n"],
    "02_heads_and_tails.py": [
        r"round 1:", r"prep_nop\(user_data=30\)   SQ head 0 tail 0 ours 3 \[###\.\]   CQ head 0 tail 0 \[\.{8}\]\n",
        r"published                SQ head 0 tail 3 ours 3 ",
        r"submit\(\) -> 3            SQ head 3 tail 3 ours 3 \[\.{4}\]   CQ head 0 tail 3 \[###\.{5}\]\n",
        r"reap\(\) -> 3 CQEs         SQ head 3 tail 3 ours 3 \[\.{4}\]   CQ head 3 tail 3 \[\.{8}\]\n",
        r"CQE\(user_data=30, res=0, flags=0\)\n",
        r"round 2:", r"SQ head 3 tail 3 ours 6 \[##\.#\]"],
    "03_out_of_order.py": [
        r"hands over all four: 4\n", r"  4: nothing \(NOP\): res 0\n", r"  3: a timeout of 0\.1 s: res -ETIME\n",
        r"  5: write to that pipe: res 5\n", r"  1: read a pipe that is still empty: res 5\n",
        r"  2: a timeout of 0\.3 s: res -ETIME\n", r"brought b'hello'\n"],
    "04_whose_buffer.py": [
        r"no CQE yet: +b'\.{16}'\n", r"meanwhile: +b'my shopping list'\n", r"res 6 so: b'KERNELpping list'\n",
        r"extend\(\): BufferError - ", r"buffer: b'hello'\n  extend\(\) after it: fine\n",
        r"after `del buffer`: still there", r"after the CQE: +freed\n"],
    "05_links_and_timeouts.py": [
        r"1\. .*\n  connect: 0\n  send: 5\n  receive: 5\n  in the buffer: b'HELLO'\n",
        r"2\. .*\n  connect: -ECONNREFUSED\n  send: -ECANCELED\n  receive: -ECANCELED\n",
        r"3\. .*\n(  connect: -ECANCELED\n  timeout: -ETIME|  timeout: -ETIME\n  connect: -ECANCELED)\n",
        r"4\. .*\n  ConnectTimeout: connect to 127\.0\.0\.1:\d+: timed out after 0\.2 s\n"],
    "06_cancelling.py": [
        rf"1\. .*\n{cancelled(1)}",
        r"2\. .*\n  read 2: 4\n  the cancel: -ENOENT\n",
        rf"3\. .*\n{cancelled(3)}",
        r"4\. .*\n  the cancel: (3\n  the reads: -ECANCELED, -ECANCELED, -ECANCELED|-EINVAL\. .*older than 5\.19.*)\n",
        r"5\. .*\n.*Closed: True\n"],
    "07_multishot.py": [r"'?one'", r"'?two'", r"'?three'", r"'?four'"],
    "08_direct_descriptors.py": [r"the server heard b'from a slot'\n|No direct sockets here: .*older than 5\.19"],
    "09_machine_by_hand.py": [
        r"No io_uring is needed here", r"SETTLED +-> DONE +FINISH .*\n  outcome: connected\n",
        r"HANGUP +-> INSPECTING .*\n  INTACT +-> RETRYING .*\n  FAILED \(ECONNREFUSED\) +-> CHECKING .*\n"
        r"  DIRTY +-> SCRUBBING +SCRUB .*\n  CONNECTED +-> DONE +FINISH .*\n  outcome: ECONNREFUSED\n",
        r"outcome: the caller's time is up\n", r"outcome: EISCONN\n",
        r"ConnectStateError: READY while LOOKING\n  <ConnectMachine LOOKING>\n"],
    "10_connect_bug.py": [
        rf"connect\(2\) +({REFUSED} +){{4}}0 *\n",
        rf"era B +{REFUSED} +ECONNABORTED ! +{REFUSED} +ECONNABORTED ! +EINVAL ! *\n",
        rf"era C +({REFUSED} +){{3}}ECONNABORTED ! +EINVAL ! *\n", rf"era D +({REFUSED} +){{4}}0 *\n",
        rf"era F +({REFUSED} +){{3}}ECONNABORTED ! +EINVAL ! *\n",
        r"this kernel's +\w", rf"pyuring +({REFUSED} +){{4}}0 *\n",
        r"  B  poll, then only read the socket's error\n     mainline from 6\.1 until 6\.3-rc4; .*6\.2\.y from 6\.2\s"],
    "11_connect_many.py": [
        r"strategy: emulated\n", r"when (\d|[1-5]\d|6[0-4]) of 200 addresses were taken",
        r"ConnectionRefusedError: 56\nconnected: 120\nno answer: 24\n200 connects in "],
    "12_beside_asyncio.py": [
        r"ring: wrote 9 bytes to a file\n", r"ring: read b'to a file' back\n", r"ring: the pipe brought b'at last'\n",
        r"Woken by the eventfd \d\d? times\. Open requests: 0\n"],
    "13_copy.py": [
        r"io_uring: \d+ reads and writes in \d+ system calls", r"the same bytes: True\n",
        r"read\(2\) and write\(2\): 259 reads and writes in 259 system calls", r"the same bytes: True\n"],
}
WHERE_BLOCKED = {
    **dict.fromkeys(SHOWS, NO_RING),
    "01_three_syscalls.py": [r"No io_uring here: io_uring_setup said 'Operation not permitted': .*seccomp"],
    "05_links_and_timeouts.py": NO_RING + ["ConnectTimeout: connect to 127.0.0.1:"],
    "09_machine_by_hand.py": SHOWS["09_machine_by_hand.py"],
    "10_connect_bug.py": SHOWS["10_connect_bug.py"][:5] + [r"this kernel's +No io_uring here: EPERM.*seccomp"]
    + SHOWS["10_connect_bug.py"][6:],
    "11_connect_many.py": [r"strategy: syscall, as there is no io_uring here: EPERM.*seccomp"]
    + SHOWS["11_connect_many.py"][1:],
    "12_beside_asyncio.py": NO_RING + ["asyncio: tick 4\n"],
    "13_copy.py": NO_RING + [r"read\(2\) and write\(2\): 259 ", "the same bytes: True\n"],
}
# What only newer kernels do: shown where this one does it.
MULTISHOT = [
    r"request 1 is in flight, 2 of 2 buffers", r"CQE: res 3, MORE, buffer \d\n +b'one'\n",
    r"CQE: res 3, MORE, buffer \d\n +b'two'\n", r"CQE: res -ENOBUFS, no MORE\n", r"request 2 .* 2 of 2",
    r"CQE: res 5, MORE, buffer \d\n +b'three'\n", r"CQE: res 4, MORE, buffer \d\n +b'four'\n",
    r"CQE: res 0, no MORE.*\nThat was the end\. 4 messages took 3 requests\.\n"]
WITHOUT_MULTISHOT = [r"No multishot receive here",
                     *(rf"request \d: b'{word}'\n" for word in "one two three four".split())]
DIRECT = [
    r"slot 0 is ours; this process has (\d+) open files\n  system calls: 1, requests: 4\n"
    r"  socket: 0\n  connect: 0\n  send: 11\n  close: 0\n  this process has \1 open files, as before\n",
    r"slot 0 is ours; .*\n.*\n  socket: 0\n  connect: -ECONNREFUSED\n  send: -EPIPE\n  close: 0\n"]
WITHOUT_DIRECT = [r"No direct sockets here: .*older than 5\.19.*\n.*\n  send: 11\nThe server heard b'from a slot'\n"]

def pause(flags):
    """What 05 (d) changes."""
    return {"import IOSQE_IO_LINK": "import IORING_TIMEOUT_ETIME_SUCCESS, IOSQE_IO_LINK", "ring.prep_send(":
            f"ring.prep_timeout(0.3, user_data=4, sqe_flags=IOSQE_IO_LINK{flags})\n        ring.prep_send(",
            "show_answers(ring, 3)": "show_answers(ring, 4)"}


# What the heads say to try: (example, what is changed, what is then printed).
TRIES = {
    "01: three NOPs": (1, {"NOPS = 1": "NOPS = 3"}, [r"SQ head 0 tail 3 ", "consumed 3", r"CQ head 3 tail 3"]),
    "01: no opcode": (1, {"OPCODE = 0": "OPCODE = 255"}, ["user_data 1000, res -22,"]),
    "01: three of no opcode": (1, {"NOPS = 1": "NOPS = 3", "OPCODE = 0": "OPCODE = 255"},
                               ["SQ head 0 tail 3 ", "consumed 1\n", r"entered: +SQ head 1 tail 3 ",
                                "user_data 1000, res -22,", "answered: +SQ head 1 tail 3 +CQ head 1 tail 1\n"]),
    "02: traced": (2, {"    with ring:": "    with ring, pyuring.trace(ring, sys.stdout):"},
                   [r"enter\(fd \d+, to_submit 3, ", "SQE 0: NOP", "CQE 0: "]),
    "02: grows by itself": (2, {"(10, 20, 30)": "(10, 20, 30, 40, 50)", "Ring(4)": "Ring(4, submit_when_full=True)"},
                            [r"prep_nop\(user_data=50\)   SQ head 4 tail 4 ours 5 "]),
    "03: the timeouts swapped": (3, {"timeout(0.3,": "timeout(0.1,", "timeout(0.1,": "timeout(0.3,"},
                                 ["Answered", "  2: .*res -ETIME\n", "  3: .*res -ETIME\n", "  5: ", "  1: "]),
    "04: three bytes": (4, {"buffer, 8, user_data=1": "buffer, 3, user_data=1"},
                        ["res 3 so: b'KERshopping list'",
                         r"res (3 and the buffer: b'NEL'|8 and the buffer: b'NELhello')"]),
    "05a: not silent": (5, {"limited(ring, silent)": "limited(ring, nobody)"},
                        [r"3\..*\n  connect: -ECONNREFUSED\n  timeout: -ECANCELED\n"]),
    "05b: no link": (5, {"sqe_flags=IOSQE_IO_LINK)\n        ring.prep_send": ")\n        ring.prep_send"},
                     [r"2\.", "send: -ECONNREFUSED|send: -EPIPE"]),
    "05c: a clock for the last": (5, {
        "sock, answer, user_data=3)": "sock, answer, user_data=3, sqe_flags=IOSQE_IO_LINK)\n"
        "        ring.prep_link_timeout(LIMIT, user_data=4)", "show_answers(ring, 3)": "show_answers(ring, 4)"},
        [r"receive: 5\n  timeout: -ECANCELED\n|timeout: -ECANCELED\n  receive: 5\n", r"2\.", "timeout: -ECANCELED"]),
    "05d: a pause": (5, pause(""), [r"1\. .*\n  connect: 0\n  timeout: -ETIME\n  send: -ECANCELED\n"
                                    r"  receive: -ECANCELED\n", r"2\. .*\n  connect: -ECONNREFUSED\n"]),
    "05d: a pause that is a success": (
        5, pause(", flags=IORING_TIMEOUT_ETIME_SUCCESS"),
        [r"1\. .*\n  connect: 0\n  timeout: -ETIME\n  send: 5\n  receive: 5\n  in the buffer: b'HELLO'"
         r"|timeout: -EINVAL"]),
    "05: traced": (5, {"    with ring:": "    with ring, pyuring.trace(ring, sys.stdout):"},
                   [r"enter\(fd \d+, to_submit 3, ", "SQE 0: CONNECT flags=IOSQE_IO_LINK"]),
    "05: a wrong count": (5, {"show_answers(ring, 3)": "show_answers(ring, 4)"},
                          [r"receive: 5\n  1 never answered: which, and why\?\n"]),
    "06: in time": (6, {'        os.write(writing, b"data")\n': "", "submit_and_wait(1)     #": "submit()     #"},
                    [rf"2\. .*\n{cancelled(2)}"]),
    "07: enough buffers": (7, {"BUFFERS = 2": "BUFFERS = 8"}, ["4 messages took 1 requests|No multishot"]),
    "07: not greedy": (7, {"GREEDY = True": "GREEDY = False"}, ["4 messages took 1 requests|No multishot"]),
    "08: soft links": (8, {"import IOSQE_IO_HARDLINK": "import IOSQE_IO_LINK"},
                       ["connect: -ECONNREFUSED\n  send: -ECANCELED\n  close: -ECANCELED\n|No direct sockets"]),
    "09: a kernel that cleans up": (9, {"DIRTY, CONNECTED)": "CLEAN)"},
                                    ["CLEAN +-> DONE +FINISH .*\n  outcome: ECONNREFUSED"]),
    "09: a 0 to make sure of": (9, {"CLEAN, SETTLED)": "CLEAN, CONNECTED, ISCONN)"},
                                ["CONNECTED +-> CONFIRMING +CALL .*\n  ISCONN .*-> DONE .*\n  outcome: connected"]),
    "09: without the last": (9, {"CLEAN, SETTLED)": "CLEAN, CONNECTED)"}, ["no outcome yet: .*CONFIRMING"]),
    "10: two more eras": (10, {'"BCDF"': '"ABCDEF"'},
                          [rf"era A +({REFUSED} +){{4}}0 *\n", rf"era E +({REFUSED} +){{4}}0 *\n"]),
    "11: four at a time": (11, {"CONCURRENCY = 64": "CONCURRENCY = 4"}, ["when 4 of 200 .*no answer", "no answer: 24"]),
    "12: not drained": (12, {"os.read(self._event, 8)": "pass"}, [r"eventfd \d\d\d+ times"]),
    "13: one at a time": (13, {"DEPTH = 16": "DEPTH = 1"}, [r"io_uring: 258 reads and writes in 258 system calls"]),
}

# As an older kernel would answer. The last of these is a CQE, not an exception.
EINVAL = "def refuse(*args, **kwargs): raise OSError(errno.EINVAL, 'older')"
OLDER = {
    "5.15: no buffer rings": ("07_multishot.py", f"{EINVAL}\nregistered.BufferRing.__init__ = refuse",
                              ["older than 5.19", *WITHOUT_MULTISHOT]),
    "5.19: no multishot receive": ("07_multishot.py", """
Ring.prep_recv_multishot = lambda self, *args, **fields: self.prep_nop(user_data=99)
def wait(ring, wait_cqe=Ring.wait_cqe):
    cqe = wait_cqe(ring)
    return cqe._replace(res=-errno.EINVAL) if cqe.user_data == 99 else cqe
Ring.wait_cqe = wait""", WITHOUT_MULTISHOT),
    "5.15: no tables with empty slots": ("08_direct_descriptors.py",
                                         f"{EINVAL}\nregistered.FixedFiles.__init__ = refuse", WITHOUT_DIRECT),
    "5.15: cancels by user_data only": ("06_cancelling.py", "Ring.prep_cancel_fd = lambda self, fd, flags, user_data: "
                                        "self.prep_cancel(1, 1 << 30, user_data=user_data)",
                                        [r"4\. .*\n  the cancel: -EINVAL\. This kernel is older than 5\.19"]),
}


def run(path, prologue="", *arguments):
    code = (f"import sys; sys.argv[1:] = {list(arguments)!r}\n{prologue}\n"
            f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')")
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                          text=True, timeout=60, cwd="/")


def in_order(patterns, text):
    """All of these are in the text, one after the other."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(text, at)
        assert found, f"no {pattern!r} from here on:\n{text[at:]}"
        at = found.end()


def test_every_example_is_known_here_and_the_rungs_have_no_gap():
    assert [path.name for path in EXAMPLES] == sorted(SHOWS) == sorted(WHERE_BLOCKED)
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
    assert len(EXAMPLES) >= 12


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_shows_what_it_says(path, io_uring):
    result = run(path)
    assert (result.returncode, result.stderr) == (0, "")
    in_order(SHOWS[path.name], result.stdout)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_says_why_where_io_uring_is_blocked(path):
    block = f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n" \
            "import errno, seccomp; seccomp.block(errno.EPERM)"
    result = run(path, block)
    assert (result.returncode, result.stderr) == (0, "")
    in_order(WHERE_BLOCKED[path.name], result.stdout)


def test_07_is_one_request_until_the_buffers_are_gone(io_uring):
    out = run(EXAMPLES[6]).stdout
    in_order(WITHOUT_MULTISHOT if "No multishot receive here" in out else MULTISHOT, out)


def test_08_makes_and_ends_a_socket_without_any_descriptor(io_uring):
    out = run(EXAMPLES[7]).stdout
    in_order(WITHOUT_DIRECT if "No direct sockets here" in out else DIRECT, out)


@pytest.mark.parametrize("kernel", OLDER)
def test_says_what_an_older_kernel_lacks_and_shows_what_it_has(kernel, io_uring):
    name, prologue, patterns = OLDER[kernel]
    result = run(ROOT / "examples" / name, f"sys.path.insert(0, {str(ROOT)!r})\n"
                 f"import errno\nfrom pyuring import registered, Ring\n{prologue}")
    assert (result.returncode, result.stderr) == (0, "")
    in_order(patterns, result.stdout)


@pytest.mark.parametrize("name", TRIES)
def test_what_the_head_says_to_try_comes_out_as_it_says(name, tmp_path, io_uring):
    number, changes, patterns = TRIES[name]
    path = EXAMPLES[number - 1]
    _, head, code = path.read_text().split('"""', 2)
    keys = re.compile("|".join(map(re.escape, changes)))        # at one go: some are swapped
    assert sorted(keys.findall(code)) == sorted(changes)        # each is there, once
    changed = tmp_path / path.name
    changed.write_text('"""' + head + '"""' + keys.sub(lambda found: changes[found.group()], code))
    result = run(changed, f"sys.path.insert(0, {str(ROOT)!r})")
    assert (result.returncode, result.stderr) == (0, "")
    in_order(patterns, result.stdout)


def test_what_the_heads_of_02_and_03_say_to_try_ends_with_an_exception(tmp_path, io_uring):
    for number, old, new, exception in (
            (2, "(10, 20, 30)", "(10, 20, 30, 40, 50)", "SubmissionQueueFull: all 4 SQEs are taken"),
            (3, """ring.prep_write(writing, b"hello", user_data=user_data_for("write to that pipe"))""",
             "pass", "wait_cqe: timed out after 0.5 s")):
        path = EXAMPLES[number - 1]
        changed = tmp_path / path.name
        assert old in path.read_text()
        changed.write_text(path.read_text().replace(old, new).replace("wait_cqe()", "wait_cqe(timeout=0.5)"))
        result = run(changed, f"sys.path.insert(0, {str(ROOT)!r})")
        assert result.returncode == 1 and exception in result.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_has_a_head_that_says_what_is_new_and_what_to_try(path):
    text = path.read_text()
    head = re.match(r'"""(.*?)"""', text, re.DOTALL).group(1)
    assert head.startswith(path.name + " - ")
    in_order([rf"\n{word} .*\S" for word in ("New here:", "Before:", "Needs", "Try:", "Next:")], head)
    assert "Linux" in head[head.index("\nNeeds"):head.index("\nTry:")]
    index = EXAMPLES.index(path)
    following = EXAMPLES[index + 1].name if index + 1 < len(EXAMPLES) else "pyuring/ring.py"
    assert re.search(r"\nNext: ([\w/.]+)", head).group(1).rstrip(".") == following
    assert len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("blocked", [False, True])
def test_13_copies_files_and_says_what_it_can_not(tmp_path, blocked):
    block = f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n" \
            "import errno, seccomp; seccomp.block(errno.EPERM)" if blocked else ""
    source, dest = tmp_path / "source", tmp_path / "dest"
    for size in (0, 1, 128 * 1024, 3_000_000):
        data = (b"%08d" * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]
        source.write_bytes(data)
        source.chmod(0o640)
        dest.write_bytes(b"x" * 4_000_000)      # what was there is gone, also where it was longer
        result = run(EXAMPLES[12], block, str(source), str(dest))
        assert (result.returncode, result.stderr) == (0, "")
        assert dest.read_bytes() == data
    dest.unlink()
    run(EXAMPLES[12], block, str(source), str(dest))
    assert dest.stat().st_mode & 0o777 == 0o640
    folder = tmp_path / "folder"
    folder.mkdir()
    run(EXAMPLES[12], block, str(source), str(folder))
    assert (folder / "source").read_bytes() == data
    assert run(EXAMPLES[12], block, "/proc/self/status", str(dest)).returncode == 0
    assert dest.read_bytes().startswith(b"Name:")
    for arguments, complaint in (((source, source), "are one file"), ((tmp_path / "none", dest), "No such file"),
                                 ((source, "/dev/full"), "No space left"), ((source,), "usage:")):
        result = run(EXAMPLES[12], block, *map(str, arguments))
        assert result.returncode == 1 and complaint in result.stderr and "Traceback" not in result.stderr
    assert source.read_bytes() == data


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
