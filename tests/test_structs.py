"""pyuring/structs.py against the C headers of this machine, against os, and against os.stat().

IO_URING_HEADER=/path/to/include/linux/io_uring.h compares with the headers beside that one, as in test_abi.py.
"""
import copy
import mmap
import os
import pickle
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyuring import structs
from pyuring.structs import SIZEOF_STATX, AttrPI, OpenHow, Statx, StatxTimestamp

HEADERS = Path(os.environ.get("IO_URING_HEADER", "/usr/include/linux/io_uring.h")).parent
FILES = ["stat.h", "openat2.h", "fcntl.h", "fs.h", "falloc.h"]
FIELDS = [name for name in vars(Statx) if name.startswith("stx_")]
NUMBERS = {name: value for name, value in vars(structs).items()
           if re.match(r"(AT|RESOLVE|STATX|RWF|FALLOC_FL|SYNC_FILE_RANGE|RENAME|SPLICE_F|IO_INTEGRITY)_", name)}


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    """{constant: value, "field": offset, "sizeof ...": bytes} as the C compiler sees the headers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    missing = [file for file in FILES if not (HEADERS / file).exists()]
    if not compiler or missing:
        pytest.skip(f"no C compiler, or no {HEADERS}/{missing}: install gcc and the kernel headers")
    lines = [f'#ifdef {name}\n printf("{name} %lld\\n", (long long)({name}));\n#endif' for name in NUMBERS]
    text = (HEADERS / "stat.h").read_text()
    lines += [f'printf("{name} %zu\\n", offsetof(struct statx, {name}));'
              for name in FIELDS if re.search(rf"\b{name};", text)]
    lines += [f'printf("sizeof_{name} %zu\\n", sizeof(struct {name}));' for name in ("statx", "open_how")]
    directory = tmp_path_factory.mktemp("structs")
    (directory / "structs.c").write_text(
        "#include <stddef.h>\n#include <stdio.h>\n" + "".join(f'#include "{HEADERS / file}"\n' for file in FILES)
        + "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run([compiler, "-w", "-I", HEADERS.parent, "-o", directory / "structs", directory / "structs.c"],
                   check=True)
    shown = subprocess.run([directory / "structs"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name: int(value) for name, value in map(str.split, shown.splitlines())}


def test_constants_equal_the_headers(c):
    common = {name: c[name] for name in NUMBERS if name in c}
    assert {name: NUMBERS[name] for name in common} == common
    assert len(common) > 50


def test_every_flag_of_the_headers_is_known(c):
    """But for those that no request here takes: other calls', or what is in os on every Python."""
    text = "".join((HEADERS / file).read_text() for file in FILES)
    names = set(re.findall(r"^#define\s+((?:STATX|RESOLVE|FALLOC_FL|RENAME|RWF|SYNC_FILE_RANGE)_\w+)", text, re.M))
    unknown = {name for name in names - set(NUMBERS) if not hasattr(os, name)}
    assert unknown <= {"STATX__RESERVED", "RWF_SUPPORTED", "FALLOC_FL_NO_HIDE_STALE", "FALLOC_FL_ALLOCATE_RANGE",
                       "SYNC_FILE_RANGE_WRITE_AND_WAIT", "RWF_WRITE_LIFE_NOT_SET"}


def test_statx_has_the_offsets_of_c(c):
    ours = {}
    for at in range(SIZEOF_STATX):              # the first byte that changes a field is where it lies
        marked = bytearray(SIZEOF_STATX)
        marked[at] = 0xff
        for name in FIELDS:
            if getattr(Statx(marked), name) not in (0, (0, 0)):
                ours.setdefault(name, at)
    assert {name: at for name, at in ours.items() if name in c} == {name: c[name] for name in FIELDS if name in c}
    assert set(ours) == set(FIELDS)
    assert len(set(c) & set(FIELDS)) >= 20


def test_structures_have_the_sizes_of_c(c):
    assert c["sizeof_statx"] == SIZEOF_STATX == len(Statx())
    assert c["sizeof_open_how"] == structs.OPEN_HOW.size


def test_what_the_standard_library_has_too_is_equal():
    import stat
    common = {name: getattr(module, name) for name in NUMBERS for module in (os, stat) if hasattr(module, name)}
    assert {name: NUMBERS[name] for name in common} == common


# -------------------------------------------------------------------------------------------------------- Statx

def test_every_field_of_statx_can_be_told_from_the_others():
    numbers = Statx(bytes(range(256)))
    assert numbers.stx_mode == struct.unpack_from("=H", bytes(range(256)), 0x1c)[0]
    assert numbers.stx_ino == struct.unpack_from("=Q", bytes(range(256)), 0x20)[0]
    assert numbers.stx_mtime == struct.unpack_from("=qI", bytes(range(256)), 0x70)
    values = [getattr(numbers, name) for name in FIELDS]
    assert len(FIELDS) == len(set(values)) == 28


def test_a_new_statx_is_empty_and_256_bytes():
    st = Statx()
    assert bytes(st) == bytes(256)
    assert not any(getattr(st, name) for name in FIELDS if name[-4:] != "time")
    assert st.stx_mtime == (0, 0)


@pytest.mark.parametrize("size", [0, 255, 257])
def test_statx_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=f"{size} bytes"):
        Statx(bytes(size))


def test_the_fields_of_statx_cannot_be_assigned_to():
    with pytest.raises(AttributeError):
        Statx().stx_size = 1


def test_a_statx_can_be_copied_and_pickled():
    st = Statx(bytes(range(256)))
    for other in copy.copy(st), copy.deepcopy(st), pickle.loads(pickle.dumps(st)):
        assert type(other) is Statx and other == st and other is not st


def test_what_a_statx_shows_is_short():
    st = Statx()
    struct.pack_into("=QQ", st, 0x20, 12, 345)
    struct.pack_into("=H", st, 0x1c, 0o100644)
    assert repr(st) == str(st) == "<pyuring.Statx stx_mask=0x0 stx_mode=0o100644 stx_size=345 stx_ino=12>"


def test_times_before_1970_are_negative():
    assert StatxTimestamp(-1, 500_000_000).ns == -500_000_000
    raw = bytearray(256)
    struct.pack_into("=qI", raw, 0x70, -2, 999_999_999)
    assert Statx(raw).stx_mtime == (-2, 999_999_999)


def test_a_statx_can_be_filled_like_any_buffer():
    with mmap.mmap(-1, 4096) as memory:
        memory[0x28:0x30] = struct.pack("=Q", 77)
        st = Statx()
        memoryview(st)[:] = memory[:256]
    assert st.stx_size == 77


# ----------------------------------------------------------------------------------------------- the other two

def test_open_how_and_attr_pi_have_defaults_and_names():
    assert OpenHow(1) == (1, 0, 0) and OpenHow(1, mode=2, resolve=3).resolve == 3
    assert AttrPI(b"x") == (b"x", 0, 0, 0) and AttrPI(b"x", seed=5).seed == 5
