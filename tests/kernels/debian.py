"""debian.py - files out of Debian's packages of any suite, by apt, with nothing installed.

apt gets lists and a cache of its own in the lab's folder; the mirror is the one that this machine's own
apt uses. lab.py fetches its kernels with this; read that next.
"""
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

LAB = Path(os.environ.get("PYURING_LAB", Path.home() / ".cache" / "pyuring-lab"))
TOOLS = "apt-get apt-cache dpkg-deb".split()


class NotHere(Exception):
    """This machine can't do it; the text says why."""


_suites = {}


def fetch(suite, pattern, *members):
    """The newest package whose name matches -> (name, version, paths of its files `members`, globs).

    Downloads it once; what is kept are those files.
    """
    if suite not in _suites:
        _suites[suite] = Apt(suite)
    apt = _suites[suite]
    package = apt.newest(pattern)
    version = apt.version(package)
    folder = LAB / "packages" / f"{package}_{version}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=LAB) as scratch:
            apt.run("apt-get", "download", package, cwd=scratch)
            deb, = Path(scratch).glob("*.deb")
            unpacked, kept = Path(scratch, "unpacked"), Path(scratch, "kept")
            subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
            kept.mkdir()
            for member in members:
                for path in list(unpacked.rglob(member)):
                    if path.is_file():
                        shutil.move(path, kept)
            folder.parent.mkdir(exist_ok=True)
            kept.rename(folder)
    return package, version, [next(folder.glob(member)) for member in members]


class Apt:
    """apt with lists of its own, for a suite that this machine does not use."""

    def __init__(self, suite):
        for tool in TOOLS:
            if shutil.which(tool) is None:
                raise NotHere(f"{tool} is not here: this needs Debian's package tools")
        mirror = self.mirror(suite)
        self.folder = LAB / "apt" / suite
        (self.folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "sources.list").write_text(f"deb {mirror} {suite} main\n")
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
        raise NotHere(f"apt knows no Debian mirror for {suite}: this needs Debian, and its lists (apt-get update)")

    def run(self, *command, cwd=None):
        options = {"Dir::Etc::sourcelist": self.folder / "sources.list",
                   "Dir::Etc::sourceparts": "/dev/null", "Dir::State::status": "/dev/null",
                   "Dir::State::lists": self.folder / "lists",
                   "Dir::Cache": self.folder, "APT::Sandbox::User": "root", "APT::Update::Error-Mode": "any"}
        switches = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run([command[0], *switches, *command[1:]], cwd=cwd, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotHere(f"{self.folder.name}: {' '.join(command)} failed: {last}")
        return done.stdout

    def newest(self, pattern):
        matching = [name for name in self.run("apt-cache", "pkgnames").split() if re.fullmatch(pattern, name)]
        if not matching:
            raise NotHere(f"{self.folder.name} has no package like {pattern}")
        return max(matching, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])

    def version(self, package):
        shown = self.run("apt-cache", "show", "--no-all-versions", package)
        return re.search(r"^Version: (\S+)$", shown, re.MULTILINE).group(1)
