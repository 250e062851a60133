"""structs.py - structures and numbers of the file system calls: open_how, statx, AT_*, STATX_*, ...

What a request on a file takes or answers, where that is neither io_uring's own (that is abi.py) nor in
the standard library (O_*, RWF_*, POSIX_FADV_*, XATTR_* are in os, MADV_* in mmap, S_IS* in stat).
Constants keep the header's spelling. A version after one is the Linux release it first appeared in;
where none stands, every Linux that has io_uring knows it.

Facts: include/uapi/linux/{stat,openat2,fcntl,fs,falloc}.h of Linux, and the manual pages named below.
tests/test_structs.py compares all of it with the headers of the machine it runs on. Read beside
it: prep_files.py, whose requests take these.
"""
from __future__ import annotations

from collections import namedtuple
from struct import Struct

# ---- which file: dfd and flags of the calls on paths, openat(2), statx(2), linkat(2), unlinkat(2) -----

AT_FDCWD            = -100     # for dfd: a relative path starts at the working directory
AT_SYMLINK_NOFOLLOW = 0x100    # the link itself, where the path ends in one
AT_REMOVEDIR        = 0x200    # unlinkat() as rmdir(2)
AT_SYMLINK_FOLLOW   = 0x400    # linkat(): the file, where the path ends in a link to it
AT_NO_AUTOMOUNT     = 0x800
AT_EMPTY_PATH       = 0x1000   # the path may be "": dfd itself is meant, of whatever kind

AT_STATX_SYNC_AS_STAT = 0x0000  # statx() of a network file system: as stat(2) does
AT_STATX_FORCE_SYNC   = 0x2000  # ... ask the server
AT_STATX_DONT_SYNC    = 0x4000  # ... whatever is cached
AT_STATX_SYNC_TYPE    = 0x6000  # the two bits of these three

# ---- openat2(2) ---------------------------------------------------------------------------------------

RESOLVE_NO_XDEV       = 0x01   # 5.6   cross no mount point: EXDEV
RESOLVE_NO_MAGICLINKS = 0x02   # 5.6   follow no link of /proc/PID/fd and its kind: ELOOP
RESOLVE_NO_SYMLINKS   = 0x04   # 5.6   follow no symbolic link at all: ELOOP
RESOLVE_BENEATH       = 0x08   # 5.6   never leave dfd, not by "..", "/" or a link: EXDEV
RESOLVE_IN_ROOT       = 0x10   # 5.6   dfd is "/", as after chroot(2)
RESOLVE_CACHED        = 0x20   # 5.12  only what is cached, do not wait for a disk: EAGAIN

# struct open_how: flags, mode, resolve
OPEN_HOW = Struct("=QQQ")
assert OPEN_HOW.size == 24


class OpenHow(namedtuple("OpenHow", "flags mode resolve", defaults=(0, 0))):
    """`struct open_how`, for prep_openat2(): how a path is to be opened.

    flags     O_*, O_CLOEXEC among them unless children are to inherit the file
    mode      of a new file; without O_CREAT or O_TMPFILE it must be 0
    resolve   RESOLVE_*
    Where openat(2) ignores bits that it does not know, openat2(2) answers EINVAL.
    """

    __slots__ = ()
    flags: int
    mode: int
    resolve: int


# ---- statx(2) -----------------------------------------------------------------------------------------
# The mask: what is asked for, and in stx_mask what was answered.

STATX_TYPE           = 0x00000001  # stx_mode, the S_IFMT of it
STATX_MODE           = 0x00000002  # stx_mode, the rest
STATX_NLINK          = 0x00000004
STATX_UID            = 0x00000008
STATX_GID            = 0x00000010
STATX_ATIME          = 0x00000020
STATX_MTIME          = 0x00000040
STATX_CTIME          = 0x00000080
STATX_INO            = 0x00000100
STATX_SIZE           = 0x00000200
STATX_BLOCKS         = 0x00000400
STATX_BASIC_STATS    = 0x000007ff  # all above, as stat(2)
STATX_BTIME          = 0x00000800
STATX_ALL            = 0x00000fff  # all above, for ever: what is younger is asked for by name
STATX_MNT_ID         = 0x00001000  # 5.8   stx_mnt_id as in /proc/self/mountinfo
STATX_DIOALIGN       = 0x00002000  # 6.1   stx_dio_mem_align, stx_dio_offset_align
STATX_MNT_ID_UNIQUE  = 0x00004000  # 6.8   stx_mnt_id as statmount(2) has it, never used again
STATX_SUBVOL         = 0x00008000  # 6.10  stx_subvol
STATX_WRITE_ATOMIC   = 0x00010000  # 6.11  stx_atomic_write_*
STATX_DIO_READ_ALIGN = 0x00020000  # 6.14  stx_dio_read_offset_align

# stx_attributes, of which stx_attributes_mask says what this file system can tell

STATX_ATTR_COMPRESSED   = 0x00000004
STATX_ATTR_IMMUTABLE    = 0x00000010
STATX_ATTR_APPEND       = 0x00000020
STATX_ATTR_NODUMP       = 0x00000040
STATX_ATTR_ENCRYPTED    = 0x00000800
STATX_ATTR_AUTOMOUNT    = 0x00001000
STATX_ATTR_MOUNT_ROOT   = 0x00002000  # 5.8
STATX_ATTR_VERITY       = 0x00100000  # 5.5
STATX_ATTR_DAX          = 0x00200000  # 5.8
STATX_ATTR_WRITE_ATOMIC = 0x00400000  # 6.11

SIZEOF_STATX = 256          # sizeof(struct statx), room for more fields included


class StatxTimestamp(namedtuple("StatxTimestamp", "tv_sec tv_nsec")):
    """`struct statx_timestamp`: seconds since 1970 (below 0 for earlier), and nanoseconds after them."""

    __slots__ = ()
    tv_sec: int
    tv_nsec: int

    @property
    def ns(self) -> int:
        """All of it in nanoseconds, as st_mtime_ns and its kin of os.stat()."""
        return self.tv_sec * 10**9 + self.tv_nsec


class _Field:
    """A number in a Statx: where it lies, and what it is. Looked up each time that it is asked for."""

    __slots__ = ("_at", "_unpack")

    def __init__(self, at, format):
        self._at, self._unpack = at, Struct("=" + format).unpack_from

    def __get__(self, instance, owner=None):
        return self if instance is None else self._unpack(instance, self._at)[0]


class _Time(_Field):
    """A time in a Statx."""

    __slots__ = ()

    def __init__(self, at):
        super().__init__(at, "qI")

    def __get__(self, instance, owner=None):
        return self if instance is None else StatxTimestamp(*self._unpack(instance, self._at))


class Statx(bytearray):
    """`struct statx`: 256 bytes for prep_statx() to fill in, and their fields by name.

    st = Statx()
    ring.prep_statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, st)
    ...                                     # after its CQE:
    st.stx_size, st.stx_mtime.tv_sec

    A field counts only where stx_mask has the bit for it; stx_mask, stx_blksize, stx_attributes,
    stx_attributes_mask and the numbers of devices always do. What this kernel does not know is 0.
    Times are StatxTimestamps; os.makedev() makes an st_dev of stx_dev_major and stx_dev_minor.
    Made from bytes it shows what a struct statx from elsewhere holds. statx(2).
    """

    __slots__ = ()

    def __init__(self, raw: bytes = bytes(SIZEOF_STATX)):
        if len(raw) != SIZEOF_STATX:
            raise ValueError(f"{len(raw)} bytes are no struct statx, which has {SIZEOF_STATX}")
        super().__init__(raw)

    stx_mask                      = _Field(0x00, "I")
    stx_blksize                   = _Field(0x04, "I")
    stx_attributes                = _Field(0x08, "Q")
    stx_nlink                     = _Field(0x10, "I")
    stx_uid                       = _Field(0x14, "I")
    stx_gid                       = _Field(0x18, "I")
    stx_mode                      = _Field(0x1c, "H")
    stx_ino                       = _Field(0x20, "Q")
    stx_size                      = _Field(0x28, "Q")
    stx_blocks                    = _Field(0x30, "Q")   # of 512 bytes
    stx_attributes_mask           = _Field(0x38, "Q")
    stx_atime                     = _Time(0x40)
    stx_btime                     = _Time(0x50)         # birth
    stx_ctime                     = _Time(0x60)
    stx_mtime                     = _Time(0x70)
    stx_rdev_major                = _Field(0x80, "I")
    stx_rdev_minor                = _Field(0x84, "I")
    stx_dev_major                 = _Field(0x88, "I")
    stx_dev_minor                 = _Field(0x8c, "I")
    stx_mnt_id                    = _Field(0x90, "Q")   # 5.8
    stx_dio_mem_align             = _Field(0x98, "I")   # 6.1   0: no O_DIRECT on this file
    stx_dio_offset_align          = _Field(0x9c, "I")   # 6.1   likewise
    stx_subvol                    = _Field(0xa0, "Q")   # 6.10
    stx_atomic_write_unit_min     = _Field(0xa8, "I")   # 6.11  bytes; for RWF_ATOMIC
    stx_atomic_write_unit_max     = _Field(0xac, "I")   # 6.11  bytes
    stx_atomic_write_segments_max = _Field(0xb0, "I")   # 6.11  iovecs
    stx_dio_read_offset_align     = _Field(0xb4, "I")   # 6.14  0: as stx_dio_offset_align
    stx_atomic_write_unit_max_opt = _Field(0xb8, "I")   # 6.16  bytes; beyond it slower, 0: no such limit

    def __repr__(self):
        return (f"<pyuring.Statx stx_mask={self.stx_mask:#x} stx_mode={self.stx_mode:#o} "
                f"stx_size={self.stx_size} stx_ino={self.stx_ino}>")

    __str__ = __repr__          # else bytearray's own, with all 256 bytes


# ---- flags that the standard library lacks, wholly or on Python 3.9 -----------------------------------

# preadv2(2): rw_flags; others are in os
RWF_APPEND    = 0x010
RWF_NOAPPEND  = 0x020  # 6.9
RWF_ATOMIC    = 0x040  # 6.11  all of it or nothing, also after a power failure; O_DIRECT
RWF_DONTCACHE = 0x080  # 6.14  leave nothing in the page cache
RWF_NOSIGNAL  = 0x100  # 6.18  EPIPE and no SIGPIPE

# splice(2), tee(2): splice_flags
SPLICE_F_MOVE     = 1
SPLICE_F_NONBLOCK = 2
SPLICE_F_MORE     = 4

# fallocate(2): mode
FALLOC_FL_KEEP_SIZE      = 0x01  # the file does not grow
FALLOC_FL_PUNCH_HOLE     = 0x02  # zeroes that take no space; with KEEP_SIZE
FALLOC_FL_COLLAPSE_RANGE = 0x08  # cut a range out
FALLOC_FL_ZERO_RANGE     = 0x10  # zeroes
FALLOC_FL_INSERT_RANGE   = 0x20  # shift the rest to make room
FALLOC_FL_UNSHARE_RANGE  = 0x40  # a copy of its own, where blocks are shared with other files
FALLOC_FL_WRITE_ZEROES   = 0x80  # 6.17  zeroes that take their space already

# sync_file_range(2): flags
SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE       = 2
SYNC_FILE_RANGE_WAIT_AFTER  = 4

# renameat2(2): flags
RENAME_NOREPLACE = 1  # EEXIST where newpath is there
RENAME_EXCHANGE  = 2  # the two change names
RENAME_WHITEOUT  = 4

# ---- protection information, on block devices that keep some beside each sector -----------------------

IO_INTEGRITY_CHK_GUARD  = 1 << 0  # 6.14  the checksum must be right
IO_INTEGRITY_CHK_REFTAG = 1 << 1  # 6.14
IO_INTEGRITY_CHK_APPTAG = 1 << 2  # 6.14


class AttrPI(namedtuple("AttrPI", "buf flags app_tag seed", defaults=(0, 0, 0))):
    """`struct io_uring_attr_pi`, for the attr_pi of a read or write (Linux 6.14, IORING_FEAT_RW_ATTR).

    buf       buffer of the protection information itself: a read writes to it, a write takes it
    flags     IO_INTEGRITY_CHK_*: what the device is to check
    app_tag   to compare with, for CHK_APPTAG
    seed      the first reference tag
    """

    __slots__ = ()
    buf: object
    flags: int
    app_tag: int
    seed: int
