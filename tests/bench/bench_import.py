"""bench_import.py - what `import pyuring` adds to a program that has its standard modules already.

Question: how many milliseconds does `import pyuring` take after `import socket, ctypes, mmap,
struct`? Measured inside fresh interpreters (python -I -S), with compiled bytecode in a cache of its own
and without any, interleaved with the bare import. Imports by users who lack some of the four pay
for those too, as they would anywhere.

    python3 tests/bench/bench_import.py [ROUNDS]
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _report import head, median        # noqa: E402

BARE = """
import sys, time
sys.path.insert(0, sys.argv[1])
began = time.perf_counter()
import socket, ctypes, mmap, struct
bare = time.perf_counter()
import pyuring
done = time.perf_counter()
print((bare - began) * 1000, (done - bare) * 1000)
"""


def measure(cache):
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=cache or "")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if not cache:
        environment.update(PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX="/nonexistent")
    # -S: without site, so that no .pth file has imported anything before.
    output = subprocess.run([sys.executable, "-S", "-s", "-c", BARE, str(ROOT)], env=environment,
                            check=True, capture_output=True, text=True).stdout
    return [float(value) for value in output.split()]


def main(rounds):
    head("import pyuring, milliseconds, after import socket, ctypes, mmap, struct.")
    with tempfile.TemporaryDirectory() as cache:
        measure(cache)                          # compiles
        cached = []
        plain = []
        for _ in range(rounds):
            cached.append(measure(cache))
            plain.append(measure(None))
    bare = median([bare for bare, _ in cached])
    print(f"the four, with bytecode                {bare:8.2f}")
    print(f"pyuring, with bytecode (as installed)  {median([own for _, own in cached]):8.2f}")
    print(f"pyuring, compiled each time (read-only copy without .pyc) "
          f"{median([own for _, own in plain]):.2f}   lost")


main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
