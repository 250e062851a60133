"""pyuring/abi.py against the C header of this machine.

Three questions. Has every constant the value the header gives it? Has every struct the size and the offsets
the C compiler gives it? And is the opcode table in order? The first two need <linux/io_uring.h> (the second a
C compiler too) and skip without. IO_URING_HEADER=/path/to/io_uring.h compares with another one, such as that
of a newer kernel or of liburing.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyuring import abi

HEADER = Path(os.environ.get("IO_URING_HEADER", "/usr/include/linux/io_uring.h"))
QUERY_HEADER = HEADER.parent / "io_uring" / "query.h"     # Linux 6.18
BPF_HEADER = HEADER.parent / "io_uring" / "bpf_filter.h"  # Linux 7.0
MORE_HEADERS = [QUERY_HEADER, BPF_HEADER]

OPS = {name: value for name, value in vars(abi).items() if name.startswith("IORING_OP_")}


# ---------------------------------------------------------------------------------------- reading the header

def header_text():
    if not HEADER.exists():
        pytest.skip(f"no {HEADER}: install the kernel headers, or set IO_URING_HEADER")
    text = HEADER.read_text()
    text += "".join(header.read_text() for header in MORE_HEADERS if header.exists())
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    return text.replace("\\\n", " ")


def evaluate(expression, known):
    """The value of a constant C expression as the header writes them, or None if it is not one."""
    expression = re.sub(r"\(\s*__u(?:32|64)\s*\)", "", expression)
    expression = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\b", r"\1", expression)
    names = re.findall(r"\b[A-Za-z_]\w*", expression)
    if not expression.strip() or any(name not in known for name in names):
        return None
    for name in names:
        expression = re.sub(rf"\b{name}\b", str(known[name]), expression)
    if not re.fullmatch(r"[0-9a-fA-FxX<>|&~()+\-\s]+", expression):
        return None
    value = eval(expression, {"__builtins__": {}})         # digits and operators only, as just checked
    return value & 0xffffffff if "~" in expression else value


def parse_constants(text):
    constants = {}
    define = r"^[ \t]*#[ \t]*define[ \t]+(?P<name>\w+)[ \t]+(?P<value>[^\n]+)$"
    enum = r"\benum\b[^{;]*\{(?P<body>[^}]*)\}"
    for match in re.finditer(f"{define}|{enum}", text, flags=re.M):
        if match["name"]:
            value = evaluate(match["value"], constants)
            if value is not None:
                constants[match["name"]] = value
            continue
        value = -1
        for member in filter(None, map(str.strip, match["body"].split(","))):
            name, _, expression = member.partition("=")
            value = evaluate(expression, constants) if expression else value + 1
            constants[name.strip()] = value
    return constants


def parse_structs(text):
    """The text between the braces, by struct name."""
    structs = {}
    for match in re.finditer(r"^struct\s+(\w+)\s*\{", text, flags=re.M):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        structs[match[1]] = text[match.end():end - 1]
    return structs


@pytest.mark.parametrize("text, constants", [
    ("#define A (1U << 3)\n#define B A\n", {"A": 8, "B": 8}),
    ("#define A 0x80ULL\n#define B (~0U)\n#define C (-2)\n", {"A": 0x80, "B": 0xffffffff, "C": -2}),
    ("enum e {\n X,\n Y,\n Z = 7,\n W,\n};\n", {"X": 0, "Y": 1, "Z": 7, "W": 8}),
    ("enum {\n V = 1U << 31\n};\n#define W ((__u32)1 << 4)\n", {"V": 1 << 31, "W": 16}),
    ("enum { P };\n#define Q (1U << P)\n#define R (P | Q)\n", {"P": 0, "Q": 1, "R": 1}),
    ("#define F(x) x\n#define G sizeof(int)\n#define H\n", {}),
])
def test_the_parser_reads_what_headers_write(text, constants):
    assert parse_constants(text) == constants


# -------------------------------------------------------------------------------------------------- constants

def test_every_constant_equals_the_header():
    header = parse_constants(header_text())
    common = {name: value for name, value in header.items() if hasattr(abi, name)}
    assert {name: getattr(abi, name) for name in common} == common
    assert len(common) > 100, f"only {len(common)} names of {HEADER} are known: is that the right file?"


def test_every_opcode_of_the_header_is_known():
    header = {name for name in parse_constants(header_text()) if name.startswith("IORING_OP_")}
    unknown = header - {"IORING_OP_LAST"} - set(OPS)
    assert not unknown, f"{HEADER} is newer than abi.py: {sorted(unknown)}"
    assert len(header) > 15


def test_every_io_uring_constant_of_the_header_is_known():
    # Not listed: markers of an enum's end, bit numbers of flags that are listed, zero-copy receive's own set.
    header = parse_constants(header_text())
    unknown = {name for name in header
               if re.match(r"IORING_|IOSQE_|IO_URING_|IOU_|IO_WQ_|SOCKET_URING_|SPLICE_F_", name)
               and not re.search(r"_LAST$|^IOSQE_\w+_BIT$|^IORING_ZCRX_", name)
               and not hasattr(abi, name)}
    assert not unknown, f"{HEADER} has constants that abi.py lacks: {sorted(unknown)}"


@pytest.mark.parametrize("prefix, count", [
    ("IORING_OP_", 65), ("IORING_SETUP_", 21), ("IORING_FEAT_", 18), ("IORING_ENTER_", 8), ("IOSQE_", 7),
])
def test_each_value_of_a_family_is_used_once(prefix, count):
    values = [value for name, value in vars(abi).items() if name.startswith(prefix)]
    numbers = values if prefix == "IORING_OP_" else [value.bit_length() - 1 for value in values]
    assert values == (values if prefix == "IORING_OP_" else [1 << number for number in numbers])
    assert numbers == list(range(count)), "a gap, a duplicate, or not in order"


def test_register_opcodes_have_no_gap():
    _, _, section = Path(abi.__file__).read_text().partition("= io_uring_register\n")
    section, _, _ = section.partition("IORING_REGISTER_USE_REGISTERED_RING")
    numbers = [int(n) for n in re.findall(r"^IORING_(?:UN)?REGISTER_\w+ += (\d+) ", section, flags=re.M)]
    assert numbers == list(range(38))


def test_every_syscall_row_is_three_consecutive_numbers():
    for machine, (setup, enter, register) in abi.SYSCALLS.items():
        assert (enter, register) == (setup + 1, setup + 2), machine
        assert setup == (535 if machine == "alpha" else 425), machine
    assert not any(machine.startswith("mips") for machine in abi.SYSCALLS)


# ---------------------------------------------------------------------------------------------------- structs

# (our Struct, the C struct, its fields in our order). `a|b`: one field, and its name in older headers.
LAYOUTS = [
    ("SQE", "io_uring_sqe",
     "opcode flags ioprio fd off addr len fsync_flags user_data buf_index personality file_index|splice_fd_in"
     " addr3|__pad2 -"),
    ("ATTR_PI", "io_uring_attr_pi", "flags app_tag len addr seed"),
    ("CQE", "io_uring_cqe", "user_data res flags"),
    ("PARAMS", "io_uring_params",
     "sq_entries cq_entries flags sq_thread_cpu sq_thread_idle features wq_fd - - -"
     " sq_off.head sq_off.tail sq_off.ring_mask sq_off.ring_entries sq_off.flags sq_off.dropped sq_off.array"
     " sq_off.resv1 sq_off.user_addr|sq_off.resv2"
     " cq_off.head cq_off.tail cq_off.ring_mask cq_off.ring_entries cq_off.overflow cq_off.cqes cq_off.flags"
     " cq_off.resv1 cq_off.user_addr|cq_off.resv2"),
    ("TIMESPEC", "__kernel_timespec", "tv_sec tv_nsec"),
    ("GETEVENTS_ARG", "io_uring_getevents_arg", "sigmask sigmask_sz min_wait_usec|pad ts"),
    ("REG_WAIT", "io_uring_reg_wait", "ts.tv_sec ts.tv_nsec min_wait_usec flags sigmask sigmask_sz"),
    ("PROBE", "io_uring_probe", "last_op ops_len resv"),
    ("PROBE_OP", "io_uring_probe_op", "op resv flags resv2"),
    ("QUERY_HDR", "io_uring_query_hdr", "next_entry query_data query_op size result"),
    ("QUERY_OPCODE", "io_uring_query_opcode",
     "nr_request_opcodes nr_register_opcodes feature_flags ring_setup_flags enter_flags sqe_flags"
     " nr_query_opcodes"),
    ("QUERY_ZCRX", "io_uring_query_zcrx",
     "register_flags area_flags nr_ctrl_opcodes features rq_hdr_size rq_hdr_alignment"),
    ("QUERY_SCQ", "io_uring_query_scq", "hdr_size hdr_alignment"),
    ("SYNC_CANCEL_REG", "io_uring_sync_cancel_reg", "addr fd flags timeout.tv_sec timeout.tv_nsec opcode"),
    ("RSRC_REGISTER", "io_uring_rsrc_register", "nr flags resv2 data tags"),
    ("RSRC_UPDATE", "io_uring_rsrc_update", "offset resv data"),
    ("RSRC_UPDATE2", "io_uring_rsrc_update2", "offset resv data tags nr resv2"),
    ("FILE_INDEX_RANGE", "io_uring_file_index_range", "off len resv"),
    ("CLONE_BUFFERS", "io_uring_clone_buffers", "src_fd flags src_off dst_off nr"),
    ("BUF", "io_uring_buf", "addr len bid resv"),
    ("BUF_REG", "io_uring_buf_reg", "ring_addr ring_entries bgid flags|pad min_left"),
    ("BUF_STATUS", "io_uring_buf_status", "buf_group head"),
    ("RECVMSG_OUT", "io_uring_recvmsg_out", "namelen controllen payloadlen flags"),
    ("RESTRICTION", "io_uring_restriction", "opcode register_op"),
    ("CLOCK_REGISTER", "io_uring_clock_register", "clockid"),
    ("NAPI", "io_uring_napi", "busy_poll_to prefer_busy_poll"),
    ("REGION_DESC", "io_uring_region_desc", "user_addr size flags id mmap_offset"),
    ("MEM_REGION_REG", "io_uring_mem_region_reg", "region_uptr flags"),
    ("ZCRX_IFQ_REG", "io_uring_zcrx_ifq_reg",
     "if_idx if_rxq rq_entries flags area_ptr region_ptr offsets.head offsets.tail offsets.rqes zcrx_id rx_buf_len"),
    ("ZCRX_AREA_REG", "io_uring_zcrx_area_reg", "addr len rq_area_token flags dmabuf_fd"),
    ("ZCRX_RQE", "io_uring_zcrx_rqe", "off len"),
    ("ZCRX_CTRL", "zcrx_ctrl", "zcrx_id op zc_export.zcrx_fd"),
    ("BPF", "io_uring_bpf",
     "cmd_type cmd_flags filter.opcode filter.flags filter.filter_len filter.pdu_size filter.filter_ptr"),
]

# Union members beside the one that names our field: they must lie where abi.py's comment on SQE puts them.
SQE_MEMBERS = {
    8: "off addr2 cmd_op", 16: "addr splice_off_in level", 20: "optname",
    28: "rw_flags fsync_flags poll_events poll32_events sync_range_flags msg_flags timeout_flags accept_flags"
        " cancel_flags open_flags statx_flags fadvise_advice splice_flags rename_flags unlink_flags"
        " hardlink_flags xattr_flags msg_ring_flags uring_cmd_flags waitid_flags futex_flags install_fd_flags"
        " nop_flags pipe_flags",
    40: "buf_index buf_group", 44: "file_index splice_fd_in zcrx_ifq_idx optlen addr_len",
    48: "addr3 attr_ptr optval cmd", 56: "attr_type_mask",
}

ARRAYS = {"cmd", "__pad2", "pad"}        # their size and sign tell nothing about a field of ours

EMBEDDED = {"sq_off": "io_sqring_offsets", "cq_off": "io_cqring_offsets", "offsets": "io_uring_zcrx_offsets",
            "zc_export": "zcrx_ctrl_export", "filter": "io_uring_bpf_filter"}


def spans(layout):
    """[(offset, size, signed), ...] of a Struct: mark one byte at a time and see which field changes."""
    offsets = {}
    for offset in range(layout.size):
        marked = bytearray(layout.size)
        marked[offset] = 0xff
        for index, value in enumerate(layout.unpack(marked)):
            if value:
                offsets.setdefault(index, []).append(offset)
    ones = layout.unpack(b"\xff" * layout.size)
    return [(offsets[index][0], len(offsets[index]), ones[index] < 0) for index in sorted(offsets)]


def in_header(structs, c_name, field):
    outer, _, inner = field.rpartition(".")
    if c_name == "__kernel_timespec" or inner in ("tv_sec", "tv_nsec"):
        return not outer or re.search(rf"\b{outer}\b", structs[c_name])
    return re.search(rf"\b{inner}\b", structs.get(EMBEDDED.get(outer, c_name), ""))


@pytest.fixture(scope="module")
def c_layout(tmp_path_factory):
    """{"struct": (size, 0, 0), "struct.field": (offset, size, signed)} as the C compiler sees them."""
    structs = parse_structs(header_text())
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler (cc, gcc) to ask for sizes and offsets")

    lines = []
    for _, c_name, fields in LAYOUTS:
        if c_name not in structs and c_name != "__kernel_timespec":
            continue
        lines.append(f'printf("{c_name} %zu 0 0\\n", sizeof(struct {c_name}));')
        names = fields.replace("|", " ").split()
        if c_name == "io_uring_sqe":
            names += " ".join(SQE_MEMBERS.values()).split()
        for field in dict.fromkeys(names):
            if not in_header(structs, c_name, field):
                continue
            offset = f"offsetof(struct {c_name}, {field})"
            member = f"((struct {c_name} *)0)->{field}"
            size = f"sizeof({member})"
            signed = f"(__typeof__({member}))-1 < 1"
            if field in ARRAYS:
                size, signed = "(size_t)0", "0"
            lines.append(f'printf("{c_name}.{field} %zu %zu %d\\n", {offset}, {size}, {signed});')

    includes = ["<stddef.h>", "<stdio.h>", "<linux/time_types.h>", f'"{HEADER}"']
    includes += [f'"{header}"' for header in MORE_HEADERS if header.exists()]
    directory = tmp_path_factory.mktemp("abi")
    (directory / "layout.c").write_text("".join(f"#include {file}\n" for file in includes)
                                        + "int main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    built = subprocess.run([compiler, "-o", "layout", "layout.c"], cwd=directory,
                           stderr=subprocess.PIPE, text=True)
    assert built.returncode == 0, built.stderr
    output = subprocess.run([directory / "layout"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name: tuple(map(int, numbers)) for name, *numbers in map(str.split, output.splitlines())}


@pytest.mark.parametrize("name, c_name, fields", LAYOUTS, ids=[row[0] for row in LAYOUTS])
def test_struct_has_the_size_and_offsets_of_c(c_layout, name, c_name, fields):
    ours = spans(getattr(abi, name))
    assert len(ours) == len(fields.split()), "a field of the Struct has no name here"
    if c_name not in c_layout:
        pytest.skip(f"{HEADER} is older than struct {c_name}")
    assert getattr(abi, name).size == c_layout[c_name][0]
    for (offset, size, signed), field in zip(ours, fields.split()):
        known = [alias for alias in field.split("|") if f"{c_name}.{alias}" in c_layout]
        if not known:
            continue                              # "-", a field of ours only; or one younger than this header
        c_offset, c_size, c_signed = c_layout[f"{c_name}.{known[0]}"]
        assert offset == c_offset, f"{c_name}.{known[0]}"
        if known[0] not in ARRAYS:
            assert (size, signed) == (c_size, c_signed), f"{c_name}.{known[0]}"


def test_sqe_unions_lie_where_the_comment_says(c_layout):
    checked = 0
    for offset, members in SQE_MEMBERS.items():
        for member in members.split():
            if f"io_uring_sqe.{member}" in c_layout:
                assert c_layout[f"io_uring_sqe.{member}"][0] == offset, member
                checked += 1
    assert checked >= 15


def test_core_structs_were_compared_field_by_field(c_layout):
    # Guards the two tests above against a parser that finds nothing.
    for c_name, count in [("io_uring_sqe", 12), ("io_uring_cqe", 3), ("io_uring_params", 20)]:
        assert sum(field.startswith(c_name + ".") for field in c_layout) >= count, c_name


@pytest.mark.parametrize("name, size", [
    ("SQE", 64), ("CQE", 16), ("PARAMS", 120), ("TIMESPEC", 16), ("GETEVENTS_ARG", 24), ("PROBE", 16),
    ("PROBE_OP", 8), ("SYNC_CANCEL_REG", 64),
])
def test_struct_sizes_without_a_compiler(name, size):
    assert getattr(abi, name).size == size


def test_reserved_bytes_are_packed_as_zero_over_old_contents():
    dirty = bytearray(b"\xff" * abi.SYNC_CANCEL_REG.size)
    abi.SYNC_CANCEL_REG.pack_into(dirty, 0, 0, 0, 0, 0, 0, 0)
    assert not any(dirty)


def test_every_layout_is_native_without_padding():
    for name, value in vars(abi).items():
        if isinstance(value, abi.Struct):
            assert value.format.startswith("="), name
            assert name in {row[0] for row in LAYOUTS}, f"{name} is compared with no C struct"


# ----------------------------------------------------------------------------------------------- opcode table

def version(text):
    assert re.fullmatch(r"[5-9]\.\d{1,2}", text), text
    return tuple(map(int, text.split(".")))


def test_the_table_has_a_row_for_every_opcode_in_order():
    assert len(abi.OPCODES) == len(OPS) == 65
    assert [row.number for row in abi.OPCODES] == list(range(65))
    assert len({row.name for row in abi.OPCODES}) == 65


@pytest.mark.parametrize("row", abi.OPCODES, ids=[row.name for row in abi.OPCODES])
def test_row(row):
    assert OPS["IORING_OP_" + row.name.upper()] == row.number
    assert version(row.since) >= (5, 1)
    assert row.fields and row.fields == row.fields.strip()
    assert row.helpers
    assert all(re.fullmatch(r"prep_[a-z0-9_]+", helper) for helper in row.helpers)


def test_a_helper_belongs_to_one_opcode():
    helpers = [helper for row in abi.OPCODES for helper in row.helpers]
    assert len(helpers) == len(set(helpers))


def test_versions_never_decrease_down_the_table():
    versions = [version(row.since) for row in abi.OPCODES]
    assert versions == sorted(versions)


def test_the_bands_of_constants_say_what_the_table_says():
    band = None
    seen = {}
    for line in Path(abi.__file__).read_text().splitlines():
        head = re.fullmatch(r"# ---- (\d+\.\d+) ----", line)
        constant = re.match(r"(IORING_OP_\w+) += (\d+) ", line)
        if head:
            band = head[1]
        elif constant:
            seen[int(constant[2])] = band
    assert seen == {row.number: row.since for row in abi.OPCODES}


# --------------------------------------------------------------------------------------------------- the file

def test_abi_imports_only_struct_and_collections():
    imported = set()
    for node in ast.walk(ast.parse(Path(abi.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    assert imported <= {"__future__", "struct", "collections"}


def test_abi_is_data_without_functions():
    body = ast.parse(Path(abi.__file__).read_text()).body
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Assert, ast.Expr)
    assert all(isinstance(node, allowed) for node in body)
