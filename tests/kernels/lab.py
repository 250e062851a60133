"""lab.py - run the tests on other kernels than this machine's, with nothing but Debian's packages.

    python3 tests/kernels/lab.py                        every kernel of KERNELS: the tour, the tests
    python3 tests/kernels/lab.py 5.10 7 -- tests/test_ring.py -k overflow

Fetches Debian's cloud kernels by apt (into a folder of its own, nothing is installed), packs the
Python that runs this script, pytest and the repository into an initramfs, and boots each in qemu
with software emulation, which takes seconds to boot and about ten times as long as usual to run.
Needs Debian on amd64 with: apt-get install qemu-system-x86 cpio busybox-static, and a Python that
has pytest.

What is kept between runs (packages, kernels) lies in PYURING_LAB, or ~/.cache/pyuring-lab.
"""
import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = Path(os.environ.get("PYURING_LAB", Path.home() / ".cache" / "pyuring-lab"))

# What to call it: (suite, pattern of the package with the kernel). The newest that matches is taken.
KERNELS = {
    "5.10": ("bullseye", r"linux-image-5\.10\.0-\d+-cloud-amd64"),
    "5.10-security": ("bullseye-security", r"linux-image-5\.10\.0-\d+-cloud-amd64"),
    "6.1": ("bookworm", r"linux-image-6\.1\.0-\d+-cloud-amd64"),
    "6.12": ("trixie", r"linux-image-6\.12\.\d+\+deb13-cloud-amd64"),
    "7": ("sid", r"linux-binary-7\..*-cloud-amd64"),
}

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 20000
export PATH={bin}:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH={lib}
cd /repository
echo "==== booted $(uname -r)"
python3 -m pyuring
echo "==== tour $?"
python3 -m pytest -q --color=no -p no:cacheprovider {arguments}
echo "==== tests $?"
poweroff -f
"""


def main():
    parser = argparse.ArgumentParser(description="Run the tests on other kernels (needs Debian on "
                                     "amd64, qemu-system-x86, cpio, busybox-static).")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL",
                        help=f"any of {', '.join(KERNELS)}; default: all")
    parser.add_argument("--timeout", type=int, default=1800, metavar="S", help="seconds a kernel")
    before, after = sys.argv[1:], []
    if "--" in before:
        split = before.index("--")
        before, after = before[:split], before[split + 1:]
    arguments = parser.parse_args(before)
    for name in arguments.kernels:
        if name not in KERNELS:
            parser.error(f"kernel {name!r} is unknown: give any of {', '.join(KERNELS)}")
    for tool in ("apt-get", "dpkg-deb", "qemu-system-x86_64", "cpio", "busybox", "ldd"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not here: apt-get install qemu-system-x86 cpio busybox-static")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        initrd = pack_initramfs(Path(scratch), after or ["tests"])
        for name in arguments.kernels or KERNELS:
            package, kernel = fetch(name)
            log = LAB / f"{name}.log"
            print(f"-- {name}: {package}, output in {log}", flush=True)
            rows.append((name, package, *boot(kernel, initrd, log, arguments.timeout)))
    print()
    for row in rows:
        print("  ".join(f"{cell:<16}" for cell in row).rstrip())
    return 0 if all(row[3] == "0" and row[4] == "0" for row in rows) else 1


# -- kernels --------------------------------------------------------------------------------------
def fetch(name):
    """(package and version, path of the kernel image) of one of KERNELS; downloads once."""
    suite, pattern = KERNELS[name]
    apt = Apt(suite)
    package = apt.newest(pattern)
    folder = LAB / "kernels" / package
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=LAB) as scratch:
            apt.run("apt-get", "download", package, cwd=scratch)
            deb, = Path(scratch).glob("*.deb")
            unpacked = Path(scratch, "unpacked")
            subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
            image = next(path for path in unpacked.rglob("vmlinuz*") if path.is_file())
            folder.mkdir(parents=True)
            shutil.copy(image, folder / "vmlinuz")
            (folder / "version").write_text(deb.name.split("_")[1])
    return f"{package} {(folder / 'version').read_text()}", folder / "vmlinuz"


class Apt:
    """apt with lists of its own, for a suite that this machine does not use."""

    def __init__(self, suite):
        self.folder = LAB / "apt" / suite
        (self.folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(
            f"deb {self.mirror(suite)} {suite} main\n")
        self.run("apt-get", "update", "-qq")

    @staticmethod
    def mirror(suite):
        """The mirror that this machine's own apt uses for such a suite."""
        output = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"],
                                check=True, capture_output=True, text=True).stdout
        wanted = "security" in suite
        for uri in output.split():
            if "debian" in uri and ("security" in uri) == wanted:
                return uri
        raise SystemExit(f"apt knows no Debian mirror for {suite}: run apt-get update first")

    def run(self, *command, cwd=None):
        options = {"Dir::Etc::sourcelist": self.folder / "sources.list",
                   "Dir::Etc::sourceparts": "/dev/null", "Dir::State::lists": self.folder / "lists",
                   "Dir::Cache": self.folder, "APT::Sandbox::User": "root"}
        switches = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return subprocess.run([command[0], *switches, *command[1:]], cwd=cwd, check=True,
                              capture_output=True, text=True).stdout

    def newest(self, pattern):
        names = [line.split()[0] for line in self.run(
            "apt-cache", "search", "--names-only", "cloud-amd64").splitlines()]
        matching = [name for name in names if re.fullmatch(pattern, name)]
        if not matching:
            raise SystemExit(f"{self.folder.name} has no package like {pattern}")
        return max(matching, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


# -- the guest --------------------------------------------------------------------------------------
def pack_initramfs(scratch, pytest_arguments):
    """An initramfs with this Python, pytest, busybox and the repository -> its path."""
    root = scratch / "root"
    for folder in ("bin", "dev", "proc", "sys", "tmp", "root", "etc"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin" / "busybox")
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

    repository = root / "repository"
    repository.mkdir()
    for name in ("pyuring", "tests", "examples"):
        shutil.copytree(ROOT / name, repository / name,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, repository)
    init = root / "init"
    init.write_text(INIT.format(bin=python.parent, lib=sysconfig.get_config_var("LIBDIR"),
                                arguments=" ".join(f"'{word}'" for word in pytest_arguments)))
    init.chmod(0o755)
    names = b"\0".join(os.fsencode(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(["cpio", "--null", "-o", "-H", "newc", "--quiet"], input=names, cwd=root,
                             check=True, capture_output=True).stdout
    initrd = scratch / "initrd.gz"
    initrd.write_bytes(gzip.compress(archive, 1))
    return initrd


def inside(root, path):
    return root / Path(path).relative_to("/")


def copy_module(name, site):
    """A module or package that pytest needs, from wherever this Python finds it."""
    import importlib.util
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


def boot(kernel, initrd, log, timeout):
    """Boot, wait for the end -> (release, the tour's exit code, pytest's, pytest's last line)."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1500", "-nographic",
               "-no-reboot", "-kernel", kernel, "-initrd", initrd,
               "-append", "console=ttyS0 panic=-1 quiet"]
    with open(log, "wb") as output:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output,
                           stderr=subprocess.STDOUT, timeout=timeout)
        except subprocess.TimeoutExpired:
            pass
    text = log.read_text(errors="replace").replace("\r", "")
    last = re.findall(r"^=*\s*(\d+ (?:passed|failed).*?)\s*=*$", text, re.MULTILINE)
    return (*(found[-1] if found else "none" for found in (
        re.findall(rf"==== {word} (.*)$", text, re.MULTILINE)
        for word in ("booted", "tour", "tests"))), last[-1] if last else "no result")


if __name__ == "__main__":
    sys.exit(main())
