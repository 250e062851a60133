"""Completeness: what liburing HEAD knows, by name, and that pyuring has all of it.

The lists below are liburing's, written down: a name that pyuring loses fails here, and so does one
that the headers found on this machine (/usr/include, or PYURING_LIBURING) have and these lists do not. That each
helper is also tried on the real kernel is told from the tests' source, where it must be used outside of the tests
with a fake one.
"""
import ast
import errno
import os
import re
from pathlib import Path

import pytest
from prepbytes import INCLUDE

from pyuring import Batch, abi, registered, registration
from pyuring.ring import Ring

HELPERS = ["prep_" + name for name in """
    accept accept_direct bind cancel cancel64 cancel_fd close close_direct cmd_discard cmd_getsockname cmd_sock
    cmd_zone_reset_all connect epoll_ctl epoll_wait fadvise fadvise64 fallocate fgetxattr files_update
    fixed_fd_install fsetxattr fsync ftruncate futex_wait futex_waitv futex_wake getxattr link link_timeout
    linkat listen madvise madvise64 mkdir mkdirat msg_ring msg_ring_cqe_flags msg_ring_fd msg_ring_fd_alloc
    multishot_accept multishot_accept_direct nop nop128 open open_direct openat openat2 openat2_direct
    openat_direct pipe pipe_direct poll_add poll_multishot poll_remove poll_update provide_buffers read
    read_fixed read_multishot readv readv2 readv_fixed recv recv_multishot recvmsg recvmsg_multishot
    remove_buffers rename renameat send send_bundle send_set_addr send_zc send_zc_fixed sendmsg sendmsg_zc
    sendmsg_zc_fixed sendto setxattr shutdown socket socket_direct socket_direct_alloc splice statx symlink
    symlinkat sync_file_range tee timeout timeout_remove timeout_update unlink unlinkat uring_cmd uring_cmd128
    waitid write write_fixed writev writev2 writev_fixed
""".split()]

SETUP_FLAGS = ["IORING_SETUP_" + name for name in """
    IOPOLL SQPOLL SQ_AFF CQSIZE CLAMP ATTACH_WQ R_DISABLED SUBMIT_ALL COOP_TASKRUN TASKRUN_FLAG SQE128 CQE32
    SINGLE_ISSUER DEFER_TASKRUN NO_MMAP REGISTERED_FD_ONLY NO_SQARRAY HYBRID_IOPOLL CQE_MIXED SQE_MIXED
    SQ_REWIND
""".split()]

FEATURES = ["IORING_FEAT_" + name for name in """
    SINGLE_MMAP NODROP SUBMIT_STABLE RW_CUR_POS CUR_PERSONALITY FAST_POLL POLL_32BITS SQPOLL_NONFIXED EXT_ARG
    NATIVE_WORKERS RSRC_TAGS CQE_SKIP LINKED_FILE REG_REG_RING RECVSEND_BUNDLE MIN_TIMEOUT RW_ATTR NO_IOWAIT
""".split()]

# What each register operation is done by: methods of Ring, or functions of registration.py where no ring is needed.
OPERATIONS = {
    "REGISTER_BUFFERS": "register_buffers",
    "UNREGISTER_BUFFERS": "unregister_buffers",
    "REGISTER_FILES": "register_files",
    "UNREGISTER_FILES": "unregister_files",
    "REGISTER_EVENTFD": "register_eventfd",
    "UNREGISTER_EVENTFD": "unregister_eventfd",
    "REGISTER_FILES_UPDATE": "register_files_update",
    "REGISTER_EVENTFD_ASYNC": "register_eventfd_async",
    "REGISTER_PROBE": "register_probe",
    "REGISTER_PERSONALITY": "register_personality",
    "UNREGISTER_PERSONALITY": "unregister_personality",
    "REGISTER_RESTRICTIONS": "register_restrictions",
    "REGISTER_ENABLE_RINGS": "enable_rings",
    "REGISTER_FILES2": "register_files_tags register_files_sparse",
    "REGISTER_FILES_UPDATE2": "register_files_update_tag",
    "REGISTER_BUFFERS2": "register_buffers_tags register_buffers_sparse",
    "REGISTER_BUFFERS_UPDATE": "register_buffers_update_tag",
    "REGISTER_IOWQ_AFF": "register_iowq_aff",
    "UNREGISTER_IOWQ_AFF": "unregister_iowq_aff",
    "REGISTER_IOWQ_MAX_WORKERS": "register_iowq_max_workers",
    "REGISTER_RING_FDS": "register_ring_fd",
    "UNREGISTER_RING_FDS": "unregister_ring_fd",
    "REGISTER_PBUF_RING": "register_buf_ring setup_buf_ring",
    "UNREGISTER_PBUF_RING": "unregister_buf_ring free_buf_ring",
    "REGISTER_SYNC_CANCEL": "register_sync_cancel",
    "REGISTER_FILE_ALLOC_RANGE": "register_file_alloc_range",
    "REGISTER_PBUF_STATUS": "buf_ring_head",
    "REGISTER_NAPI": "register_napi",
    "UNREGISTER_NAPI": "unregister_napi",
    "REGISTER_CLOCK": "register_clock",
    "REGISTER_CLONE_BUFFERS": "clone_buffers clone_buffers_offset",
    "REGISTER_SEND_MSG_RING": "register_sync_msg",
    "REGISTER_ZCRX_IFQ": "register_ifq",
    "REGISTER_RESIZE_RINGS": "resize_rings",
    "REGISTER_MEM_REGION": "register_region register_wait_reg",
    "REGISTER_QUERY": "register_query",
    "REGISTER_ZCRX_CTRL": "register_zcrx_ctrl",
    "REGISTER_BPF_FILTER": "register_bpf_filter register_bpf_filter_task",
}
# Named like an operation, but values that go with one.
NO_OPERATIONS = {"REGISTER_LAST", "REGISTER_USE_REGISTERED_RING", "REGISTER_FILES_SKIP", "REGISTER_SRC_REGISTERED",
                 "REGISTER_DST_REPLACE"}


def header(name):
    path = INCLUDE / name
    if not path.exists():
        pytest.skip(f"no {path}: install liburing's headers (liburing-dev)")
    return path.read_text(encoding="utf-8")


def named(prefix):
    """The names in abi.py that begin with it."""
    return [name for name in vars(abi) if name.startswith(prefix)]


# -- the lists ---------------------------------------------------------------------------------------------------
def test_the_lists_are_as_long_as_liburings():
    assert [len(set(names)) for names in (HELPERS, SETUP_FLAGS, FEATURES, OPERATIONS)] == [103, 21, 18, 38]


def test_no_helper_of_the_liburing_found_here_is_missing():
    theirs = set(re.findall(r"\bio_uring_(prep_\w+)\s*\(", header("liburing.h")))
    assert "prep_nop" in theirs and theirs - {"prep_rw"} <= set(HELPERS)


@pytest.mark.parametrize("prefix, here", [("IORING_SETUP_", SETUP_FLAGS), ("IORING_FEAT_", FEATURES)],
                         ids=["setup flags", "features"])
def test_no_flag_of_the_header_found_here_is_missing(prefix, here):
    assert set(re.findall(rf"^#define\s+({prefix}\w+)", header("liburing/io_uring.h"), re.M)) <= set(here)
    assert named(prefix) == here


def test_no_register_operation_of_the_header_found_here_is_missing():
    theirs = re.findall(r"^\s+IORING_((?:UN)?REGISTER_\w+)", header("liburing/io_uring.h"), re.M)
    assert "REGISTER_BUFFERS" in theirs and set(theirs) - NO_OPERATIONS <= set(OPERATIONS)


# -- helpers and opcodes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", HELPERS)
def test_a_ring_and_a_batch_have_each_helper(name):
    assert callable(getattr(Ring, name)) and callable(getattr(Batch, name))


def test_the_opcode_table_names_all_helpers_and_no_others():
    table = [helper for row in abi.OPCODES for helper in row.helpers]
    assert sorted(table) == sorted([*HELPERS, "prep_rw"])
    assert [row.name for row in abi.OPCODES if "prep_rw" in row.helpers] == ["recv_zc"]


def test_the_opcode_table_has_each_opcode():
    numbers = {name[len("IORING_OP_"):].lower(): value for name, value in vars(abi).items()
               if name.startswith("IORING_OP_")}
    assert {row.name: row.number for row in abi.OPCODES} == numbers
    assert len(numbers) == 65


ON_THE_KERNEL = ("files", "sockets", "requests", "registered", "registration", "lifetime", "ring")


def used_on_the_kernel():
    """Names of methods that are used in tests on the real kernel, and in their tables."""
    names = set()
    for module in ON_THE_KERNEL:
        tree = ast.parse((Path(__file__).parent / f"test_{module}.py").read_text(encoding="utf-8"))
        for part in tree.body:
            if isinstance(part, ast.FunctionDef) and {"make", "fake"} & {arg.arg for arg in part.args.args}:
                continue            # with a fake kernel
            for node in ast.walk(part):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
                elif isinstance(node, ast.Name):
                    names.add(node.id)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.update(node.value.split())
    return names


USED = used_on_the_kernel()


@pytest.mark.parametrize("name", [*HELPERS, "prep_recv_zc"])
def test_each_helper_is_tried_on_the_real_kernel(name):
    assert name in USED


# -- register operations -----------------------------------------------------------------------------------------
def test_abi_has_each_register_operation_and_no_other():
    ours = {name[len("IORING_"):] for name in [*named("IORING_REGISTER_"), *named("IORING_UNREGISTER_")]}
    assert ours - NO_OPERATIONS == set(OPERATIONS)
    numbers = [getattr(abi, "IORING_" + name) for name in OPERATIONS]
    assert numbers == list(range(38))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_register_operation_has_its_method_and_is_tried_on_the_real_kernel(operation):
    for name in OPERATIONS[operation].split():
        assert callable(getattr(Ring, name, None) or getattr(registration, name))
        assert name in USED | LAYOUT_USES, name


# test_layout.py has a fixture `make` of another kind, and no fake kernel at all.
LAYOUT_USES = set(re.findall(r"\.(\w+)\(", (Path(__file__).parent / "test_layout.py").read_text(encoding="utf-8")))


def test_the_comfortable_objects_are_here():
    assert all(hasattr(registered, name) for name in ("FixedBuffers", "FixedFiles", "BufferRing"))


# -- setup flags -------------------------------------------------------------------------------------------------
# What a ring with this flag is made with, where the flag alone is not enough.
BESIDE = {
    "SQ_AFF": ["SQPOLL"], "TASKRUN_FLAG": ["COOP_TASKRUN"], "DEFER_TASKRUN": ["SINGLE_ISSUER"],
    "REGISTERED_FD_ONLY": ["NO_MMAP"], "HYBRID_IOPOLL": ["IOPOLL"], "SQ_REWIND": ["NO_SQARRAY"],
}


@pytest.mark.parametrize("name", SETUP_FLAGS)
def test_each_setup_flag_makes_a_ring_that_works_or_is_refused_in_a_sentence(name, io_uring):
    short = name[len("IORING_SETUP_"):]
    flags = getattr(abi, name) | sum(getattr(abi, "IORING_SETUP_" + other) for other in BESIDE.get(short, ()))
    arguments = {}
    with Ring(4) as other:
        if short == "CQSIZE":
            arguments["cq_entries"] = 16
        elif short == "ATTACH_WQ":
            arguments["wq_fd"] = other
        elif short == "SQ_AFF":
            arguments["sq_thread_cpu"] = min(os.sched_getaffinity(0))
        try:
            ring = Ring(4, flags=flags, **arguments)
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EPERM, errno.ENOMEM) and len(str(error)) > 40
            pytest.skip(str(error))
        with ring:
            assert ring.flags & getattr(abi, name)
            if ring.flags & abi.IORING_SETUP_R_DISABLED:
                ring.enable_rings()
            ring.prep_nop(user_data=7)
            try:
                ring.submit()
            except OSError as error:
                assert ring.flags & abi.IORING_SETUP_R_DISABLED
                pytest.skip(f"this kernel does not enable it: {error}")         # 5.10.46
            user_data, res, _ = ring.wait_cqe(20)
            # io_nop() had no answer for a ring that polls (measured on 5.10.46).
            assert user_data == 7 and (res == 0 or short == "IOPOLL" and res == -errno.EINVAL)


@pytest.mark.parametrize("name", BESIDE)
def test_a_flag_without_the_one_that_it_needs_is_refused_before_the_kernel_is_asked(name, fake_nothing):
    with pytest.raises(ValueError, match=f"IORING_SETUP_{name} needs IORING_SETUP_{BESIDE[name][0]}"):
        Ring(4, flags=getattr(abi, "IORING_SETUP_" + name))


@pytest.fixture
def fake_nothing(monkeypatch):
    """A kernel that must not be asked."""
    from pyuring import syscalls
    monkeypatch.setattr(syscalls, "setup", lambda *arguments: pytest.fail("the kernel was asked"))
