"""lab.py - run the tests on other kernels than this machine's, with nothing but Debian's packages.

    python3 tests/kernels/lab.py                        every kernel; writes RESULTS.md
    python3 tests/kernels/lab.py era-B 6.12             those; the other rows of RESULTS.md stay, where this
                                                        lab has run them
    python3 tests/kernels/lab.py --list                 what there is
    python3 tests/kernels/lab.py --ci                   the two user-mode kernels from packages, quickly
    python3 tests/kernels/lab.py 6.16 -- tests/test_ring.py -k overflow         these tests alone; writes nothing

Three kinds of kernel:
  user-mode Linux   Debian's linux.uml: a kernel as a process, whose root is this machine's own file
                    system, so the Python that runs this script is simply there
  eras              the same, built from Debian's linux-source-6.1 with our edits (eras.py), so that
                    IORING_OP_CONNECT answers as it did in 5.7 .. 6.16
  cloud kernels     in qemu with software emulation, on an initramfs with this Python, pytest and the
                    repository. Boots in seconds, and runs about ten times as long as usual

Needs Debian on amd64, and a Python that has pytest. For user-mode Linux: apt-get install gcc. For eras:
apt-get install gcc make flex bison bc xz-utils. For qemu: apt-get install qemu-system-x86 cpio
busybox-static. Packages, builds and each kernel's last results are kept in PYURING_LAB, or
~/.cache/pyuring-lab; about 2 GB.

Read next: guest.py, what runs inside; debian.py, the packages; report.py, RESULTS.md.
"""
import argparse
import contextlib
import gzip
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from base64 import b64decode
from pathlib import Path

import eras
import guest
import report
from debian import LAB, NotHere, fetch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"

# The core of the suite. Without test_parity.py: its cells are those of parity.py, which guest.py runs anyway.
CORE = [f"tests/test_{name}.py" for name in "machine driver client ring prep".split()]
CI_KERNELS = ["uml-5.10", "uml-6.1"]
CI_CORE = [f"tests/test_{name}.py" for name in "driver client ring".split()]    # the others ask no kernel

# name: (how it is booted, suite, pattern of the package). The newest package that matches is taken.
KERNELS = {
    "uml-5.10": ("user-mode Linux", "bullseye", "user-mode-linux"),
    "5.10-security": ("qemu", "bullseye-security", r"linux-image-5\.10\.0-\d+-cloud-amd64"),
    **{f"era-{era}": ("user-mode Linux", "bookworm", "linux-source-6.1") for era in eras.ERAS},
    "uml-6.1": ("user-mode Linux", "bookworm", "user-mode-linux"),
    "6.1": ("qemu", "bookworm", r"linux-image-6\.1\.0-\d+-cloud-amd64"),
    "6.12": ("qemu", "trixie", r"linux-image-6\.12\.\d+\+deb13-cloud-amd64"),
    "6.16": ("qemu", "trixie-backports", r"linux-image-6\.16\.\d+\+deb13-cloud-amd64"),
    "6.19": ("qemu", "trixie-backports", r"linux-binary-6\.19\.\d+\+deb13-cloud-amd64"),
    "7-sid": ("qemu", "sid", r"linux-binary-7\..*-cloud-amd64"),
    "7-backports": ("qemu", "trixie-backports", r"linux-binary-7\..*-cloud-amd64"),
    "here": ("this machine", None, None),
}

# Both kinds of guest run this as process 1. @run@: guest.py and its arguments; @setup@: what only one needs.
INIT = """#!@shell@
@setup@
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mkdir -p /run/tmp /dev/shm
mount -t tmpfs shm /dev/shm
ulimit -n 20000
for limit in /proc/sys/net/ipv4/icmp_msgs_per_sec /proc/sys/net/ipv4/icmp_msgs_burst; do echo 1000000 >$limit; done
export HOME=/root TMPDIR=/run/tmp PYTHONDONTWRITEBYTECODE=1
cd @repository@
@run@
exec @python@ -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'
"""
QEMU_SETUP = """/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
export PATH=@bin@:/bin LD_LIBRARY_PATH=@lib@"""


def main():
    before, after = sys.argv[1:], []
    if "--" in before:
        split = before.index("--")
        before, after = before[:split], before[split + 1:]
    parser = argparse.ArgumentParser(
        usage="lab.py [-h] [--list] [--ci] [--report] [--timeout S] [KERNEL ...] [-- PYTEST_ARGUMENT ...]",
        description="Run the tests on other kernels (needs Debian on amd64).")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="see --list; default: all of them")
    parser.add_argument("--list", action="store_true", help="print the kernels' names and where they come from")
    parser.add_argument("--ci", action="store_true", help="the two user-mode kernels from packages; writes no "
                        "RESULTS.md, and passes with one line where it can't be done")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md, from the results kept")
    parser.add_argument("--timeout", type=int, metavar="S", help="seconds a kernel at most; default: 3600, "
                        "with --ci 1800")
    arguments = parser.parse_args(before)
    for name in arguments.kernels:
        if name not in KERNELS:
            parser.error(f"kernel {name!r} is unknown: give any of {', '.join(KERNELS)}")
    if arguments.list:
        for name, (how, suite, pattern) in KERNELS.items():
            print(f"{name:<15} {how:<16} {suite or '':<18} {pattern or ''}".rstrip())
        return 0
    if arguments.report:
        write_results()
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = CI_KERNELS if arguments.ci else arguments.kernels or list(KERNELS)
    try:
        rows = run_kernels(names, ["--only", *after] if after else CI_CORE * arguments.ci, arguments.timeout or (1800 if arguments.ci else 3600), ci=arguments.ci)
    except NotHere as why:
        print(f"skipped: the kernel lab: {why}" if arguments.ci else f"lab.py: {why}", flush=True)
        return 0 if arguments.ci else 2
    for row in rows:
        for text in report.why_not_good(row):
            print(f"\n-- {text}")
    print()
    for row in rows:
        print(report.one_line(row))
    if arguments.ci and not any(row.get("booted", True) for row in rows):
        print(f"skipped: the kernel lab: user-mode Linux does not boot here: {rows[0]['error']}")
        return 0
    return 0 if all(map(report.good, rows)) else 1


def run_kernels(names, pytest_arguments, timeout, ci):
    """A row for each, one after the other; kept in the lab and in RESULTS.md as well, unless it's for CI or
    with pytest arguments."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotHere(f"its kernels are for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    if importlib.util.find_spec("pytest") is None:
        raise NotHere(f"{sys.executable} has no pytest")
    LAB.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        machine = Machine(Path(scratch), pytest_arguments, timeout)
        for name in names:
            try:
                row = run_kernel(machine, name)
            except NotHere as why:
                if ci:
                    raise
                print(f"-- {name}: not run: {why}", flush=True)
                rows.append({"name": name, "error": f"not run: {why}"})
                continue
            print(f"   {report.one_line(row)}", flush=True)
            rows.append(row)
            if not (ci or pytest_arguments):
                kept = LAB / "results" / f"{name}.json"
                kept.parent.mkdir(exist_ok=True)
                kept.write_text(json.dumps(row, indent=1))
                write_results()
    return rows


def run_kernel(machine, name):
    """Fetch it, boot it, test -> its row."""
    how, suite, pattern = KERNELS[name]
    package = version = ""
    if how == "this machine":
        boot, kernel = machine.boot_here, ()
    elif how == "qemu":
        package, version, files = fetch(suite, pattern, "vmlinuz*")
        boot, kernel = machine.boot_qemu, files
    elif name.startswith("era-"):
        package, version, files = fetch(suite, pattern, "linux-source-*.tar.xz")
        boot, kernel = machine.boot_uml, (era_kernel(version, *files), [], f"io_connect_era={name[-1]}")
    else:
        package, version, files = fetch(suite, pattern, "linux.uml", "crc-ccitt.ko", "ipv6.ko")
        boot, kernel = machine.boot_uml, (files[0], files[1:])
    log = LAB / f"{name}.log"
    print(f"-- {name}: {how} {package} {version}".rstrip() + f"; output in {log}", flush=True)
    began = time.monotonic()
    result = boot(name, log, *kernel)
    return {"name": name, "how": how, "package": package, "version": version,
            "seconds": round(time.monotonic() - began), **result}


def era_kernel(version, archive):
    """The kernel of eras.py, built if need be."""
    missing = eras.missing_tools()
    if missing:
        raise NotHere(f"the eras are built with {', '.join(eras.TOOLS)}; not here: {', '.join(missing)}")
    tree = LAB / "build" / f"linux-{version}"
    if not tree.exists():
        print(f"   unpacking and building {archive.name}: some minutes", flush=True)
        unfinished = tree.with_name(f"{tree.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        subprocess.run(["tar", "-C", unfinished, "-xf", archive, "--strip-components=1"], check=True)
        unfinished.rename(tree)
    return eras.build(tree)


class Machine:
    """What the kernels of one run share: a copy of the repository as it is now, the initramfs, the shim."""

    def __init__(self, scratch, pytest_arguments, timeout):
        self.scratch, self.timeout = scratch, timeout
        self.repository = scratch / "repository"
        for name in ("pyuring", "tests", "examples"):
            shutil.copytree(ROOT / name, self.repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("README.md", "pyproject.toml"):
            shutil.copy(ROOT / name, self.repository)
        self.guest = ["tests/kernels/guest.py", str(timeout // 2), *(pytest_arguments or CORE)]
        self._shim = self._initramfs = None

    def boot_here(self, name, log):
        command = [sys.executable, *self.guest]
        return self.watch(command, log, cwd=self.repository, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def boot_uml(self, name, log, kernel, modules, *parameters):
        init = self.scratch / f"{name}.init"
        setup = f"export PYURING_LAB_MODULES={shlex.quote(':'.join(map(str, modules)))}"
        init.write_text(fill(INIT, shell="/bin/sh", setup=setup, repository=shlex.quote(str(self.repository)),
                             python=shlex.quote(sys.executable), run=shlex.join([sys.executable, *self.guest])))
        init.chmod(0o755)
        command = [kernel, "mem=1G", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}",
                   "con=null", "con0=null,fd:1", "quiet", f"uml_dir={self.scratch}", f"umid={name}", *parameters]
        return self.watch(command, log, env={**os.environ, "LD_PRELOAD": str(self.shim())})

    def boot_qemu(self, name, log, kernel):
        for tool in ("qemu-system-x86_64", "cpio", "busybox", "ldd"):
            if shutil.which(tool) is None:
                raise NotHere(f"{tool} is not here: apt-get install qemu-system-x86 cpio busybox-static")
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1500", "-nographic", "-no-reboot",
                   "-kernel", kernel, "-initrd", self.initramfs(), "-append", "console=ttyS0 panic=-1 quiet"]
        return self.watch(command, log)

    def watch(self, command, log, **options):
        """Run it to its end, output to the log -> what guest.py reported, or {"error": ...}."""
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       start_new_session=True, **options)
            why = "the report is not complete"
            try:
                process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                why = f"not done after {self.timeout} s"
            finally:                # all of them: a user-mode kernel's processes are processes here
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = log.read_text(errors="replace").replace("\r", "")
        block = re.findall(rf"^{guest.BEGIN}$(.*?)^{guest.END}$", text, re.MULTILINE | re.DOTALL)
        if block:
            try:
                return json.loads(gzip.decompress(b64decode(block[-1])))
            except (ValueError, OSError, EOFError) as error:
                why = f"the report is damaged: {error}"
        lines = [line for line in text.splitlines() if line.strip()] or ["no output"]
        return {"error": f"{why}; last line: {lines[-1][:200]}", "booted": "\n==== " in text}

    def shim(self):
        """xstate.c, compiled."""
        if self._shim is None:
            if shutil.which("cc") is None:
                raise NotHere("cc, which compiles xstate.c for user-mode Linux, is not here: apt-get install gcc")
            self._shim = self.scratch / "xstate.so"
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", self._shim, HERE / "xstate.c"], check=True)
        return self._shim

    def initramfs(self):
        """This Python, pytest, busybox and the repository, packed -> path."""
        if self._initramfs is None:
            root = self.scratch / "root"
            python = copy_python(root)
            shutil.copytree(self.repository, root / "repository")
            init = root / "init"
            init.write_text(fill(
                INIT, shell="/bin/busybox sh",
                setup=fill(QEMU_SETUP, bin=python.parent, lib=sysconfig.get_config_var("LIBDIR")),
                repository="/repository", python=python, run=shlex.join([str(python), *self.guest])))
            init.chmod(0o755)
            names = b"\0".join(os.fsencode(path.relative_to(root)) for path in sorted(root.rglob("*")))
            archive = subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], input=names, cwd=root,
                                     check=True, capture_output=True).stdout
            self._initramfs = self.scratch / "initramfs.gz"
            self._initramfs.write_bytes(gzip.compress(archive, 1))
        return self._initramfs


# -- a root file system for qemu ----------------------------------------------------------------------
def copy_python(root):
    """busybox, this Python, its libraries and pytest, below root -> the Python's path in there."""
    for folder in ("bin", "dev", "proc", "sys", "run", "tmp", "root", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
    for name in ("mount", "mkdir"):             # before busybox has installed itself
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n"
                                         "nobody:x:65534:65534::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")

    stdlib = Path(sysconfig.get_path("stdlib"))
    leave = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "test", "idlelib",
                                   "tkinter", "ensurepip", "lib2to3", "config-*", "turtledemo")
    shutil.copytree(stdlib, inside(root, stdlib), ignore=leave)
    site = inside(root, stdlib) / "site-packages"
    for module in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments",
                   "exceptiongroup", "tomli", "py", "typing_extensions"):
        copy_module(module, site)
    python = Path(sys._base_executable).resolve()
    copied = inside(root, python)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(python, copied)
    if copied.name != "python3":
        (copied.parent / "python3").symlink_to(copied.name)
    for library in libraries([python, *stdlib.glob("lib-dynload/*.so")]):
        inside(root, library).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, inside(root, library))
    return python


def inside(root, path):
    return root / Path(path).relative_to("/")


def copy_module(name, site):
    """A module or package that pytest needs, from wherever this Python finds it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        return
    site.mkdir(exist_ok=True)
    origin = Path(found.origin)
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(origin, site)


def libraries(binaries):
    output = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    return sorted({Path(path) for path in re.findall(r"(/\S+\.so[^\s:]*)(?= \()", output)})


# -- the ends -------------------------------------------------------------------------------------------
def fill(template, **values):
    for name, value in values.items():
        template = template.replace(f"@{name}@", str(value))
    return template


def write_results():
    """RESULTS.md, from the results kept; but a lab that has not run all that is in it leaves it alone."""
    kept = {name: LAB / "results" / f"{name}.json" for name in KERNELS}
    rows = [json.loads(path.read_text()) for path in kept.values() if path.exists()]
    there = RESULTS.read_text() if RESULTS.exists() else ""
    missing = [name for name, path in kept.items() if not path.exists() and f"\n| {name} | " in there]
    path = LAB / RESULTS.name if missing else RESULTS
    path.write_text(report.page(rows))
    if missing:
        print(f"   {RESULTS.name} stays: this lab has not run {', '.join(missing)}. See {path}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
