"""guest.py - what lab.py runs inside each kernel: the tour, thrice.py, tests/parity.py and pytest.

    python3 tests/kernels/guest.py SECONDS [--only] PYTEST_ARGUMENT...

Everything they print goes to the console; what lab.py is to keep follows as one block of JSON, gzip and
base64 between two marker lines, because the console is the one way out of every kind of guest. Each
program gets at most SECONDS. PYURING_LAB_MODULES: kernel modules to load first. Read lab.py next.
"""
import base64
import ctypes
import datetime
import fcntl
import gzip
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BEGIN, END = "==== begin of the report", "==== end of the report"
ROOT = Path(__file__).resolve().parents[2]


def main():
    seconds, arguments = float(sys.argv[1]), sys.argv[2:]
    for path in filter(None, os.environ.get("PYURING_LAB_MODULES", "").split(":")):
        load_module(path)
    loopback_up()
    report = {"release": os.uname().release, "python": sys.version.split()[0],
              "date": datetime.date.today().isoformat()}
    report["tour"] = run(seconds, "-m", "pyuring")
    if arguments[:1] == ["--only"]:
        report["pytest"] = run_pytest(seconds, arguments[1:])
        return tell(report)
    report["thrice"] = run(seconds, "-c", "import json, thrice; print(json.dumps(thrice.measure()))")
    if report["thrice"]["exit"] == 0:
        report["thrice"]["measured"] = json.loads(report["thrice"]["text"].splitlines()[-1])
    if (ROOT / "tests" / "parity.py").exists():
        report["parity"] = ran = run_parity(seconds)
        differ = differing(ran)
        while differ and len(ran.setdefault("again", [])) < 2:      # as below
            again = run_parity(seconds, *sorted({scenario for scenario, _, _ in differ}))
            if "report" not in again:
                break
            differ &= differing(again)
            ran["again"].append(sorted(differ))
    if arguments:
        report["pytest"] = ran = run_pytest(seconds, arguments)
        if ran["failed"] and ran["exit"] == 1:      # alone, and when nothing else goes on: the guests are slow
            ran["again"] = run_pytest(seconds, [line.partition(" - ")[0] for line in ran["failed"]])
    tell(report)


def tell(report):
    block = base64.encodebytes(gzip.compress(json.dumps(report).encode())).decode()
    print(BEGIN, block + END, sep="\n", flush=True)


def run_parity(seconds, *words):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "parity.json")
        ran = run(seconds, "tests/parity.py", "--json", path, *words)
        if path.exists():
            ran["report"] = json.loads(path.read_text())
    return ran


def differing(ran):
    """The cells where one of pyuring's own strategies differs."""
    return {(cell["scenario"], cell["socket"], cell["way"]) for cell in ran.get("report", {}).get("cells", [])
            if cell["differs"] and cell["way"] != "native"}


def run_pytest(seconds, arguments):
    ran = run(seconds, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--tb=short", *arguments)
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", ran["text"].splitlines()[-1])
    ran["counts"] = {word: int(number) for number, word in counts}
    ran["failed"] = re.findall(r"^(?:FAILED|ERROR) (.*)$", ran["text"], re.MULTILINE)
    return ran


def load_module(path):
    """As insmod(8), which not every machine has. finit_module(2) is 313 on x86_64, the lab's only machine."""
    with open(path, "rb") as file:
        if ctypes.CDLL(None, use_errno=True).syscall(313, file.fileno(), b"", 0):
            print(f"==== {path} can't be loaded: {os.strerror(ctypes.get_errno())}", flush=True)


def loopback_up():
    """Without ip(8), which not every machine has. netdevice(7): struct ifreq is a name, then the flags."""
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket() as sock:
        name, flags = struct.unpack("16sH22x", fcntl.ioctl(sock, siocgifflags, struct.pack("16sH22x", b"lo", 0)))
        if not flags & iff_up:
            fcntl.ioctl(sock, siocsifflags, struct.pack("16sH22x", name, flags | iff_up))


def run(seconds, *arguments):
    """Run Python with these arguments, repeat on the console what it prints -> what came of it."""
    print("====", *arguments, flush=True)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "kernels")))
    began, lines = time.monotonic(), []
    with subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        timer.cancel()
    return {"exit": process.returncode, "seconds": round(time.monotonic() - began, 1),
            "text": "".join(lines)[-20000:]}


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    main()
