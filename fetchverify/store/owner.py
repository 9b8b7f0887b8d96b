"""Who owns a partial: proof that its last owner is gone, and taking its place without trusting locks.

The records form a chain: `owner` is the first, and `owner.<token>` the successor of the one with that token. A
successor is created by `link`, which exactly one process can win, on any file system, whether or not `flock`
excludes; a claim made on an outdated record is one that nobody follows.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk, temporary_name

# Mounted by one kernel only: another boot's processes are gone, and `flock` is the kernel's own word. Not NFS, CIFS,
# Lustre, GPFS, Ceph, 9p, virtiofs or any FUSE: another machine may hold the file open.
LOCAL_FILE_SYSTEMS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "tmpfs", "ramfs", "overlay"}
)
# What `link` says where the file system has no second names.
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_MOST_RECORDS = 100_000  # a chain longer than any number of restarts: somebody built a circle


class Life(Enum):
    """What can be said about a record's process."""

    LIVE = "live"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process's hold on a partial.

    Attributes:
        boot, pid_namespace, pid, start: which process it is; `start` in clock ticks after boot. Empty or 0 where
            the system does not tell.
        since: Unix time, for messages.
        token: names this hold.
    """

    boot: str
    pid_namespace: str
    pid: int
    start: int
    since: float
    token: str

    def as_bytes(self) -> bytes:
        """Return the record as it lies on disk."""
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_owner(raw: bytes) -> Owner | None:
    """Return the record, or None where it is torn or foreign."""
    try:
        body = json.loads(raw)
        owner = Owner(**body)
        texts, numbers = (owner.boot, owner.pid_namespace, owner.token), (owner.pid, owner.start, owner.since)
        right = all(isinstance(t, str) for t in texts) and all(isinstance(n, int | float) for n in numbers)
    except (ValueError, TypeError):
        return None
    return owner if right and len(owner.token) == 32 and owner.token.isalnum() else None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks after boot; 0 where it is gone, None where unknown."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    if state in {"Z", "X"}:  # its descriptors are closed already, unless a thread outlives the main one
        try:
            return 0 if len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1 else None
        except OSError:
            return 0
    try:
        return int(fields[18])
    except (IndexError, ValueError):
        return None


def myself() -> Owner:
    """Return a fresh record for this process."""
    return Owner(
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_namespace(),
        pid=os.getpid(),
        start=start_time(os.getpid()) or 0,
        since=time.time(),
        token=secrets.token_hex(16),
    )


def on_local_file_system(path: Path) -> bool:
    """Return True where this kernel alone can have the path's file system mounted."""
    return file_system(path) in LOCAL_FILE_SYSTEMS


def file_system(path: Path) -> str:
    """Return the kind of file system that the path lies on, as the kernel calls it; empty where nobody says."""
    here = os.path.realpath(path)
    best, kind = "", ""
    for line in _read_text("/proc/self/mountinfo").splitlines():
        fields = line.split()
        try:
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])  # a space is \040
            named = fields[fields.index("-") + 1]
        except (IndexError, ValueError):
            continue
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last mount on a point hides the earlier ones
            best, kind = point, named
    return kind


def judge(owner: Owner, *, now: Owner, local: bool, flock_free: bool) -> Life:
    """Return what can be proved about the owner's process.

    Args:
        owner: the record.
        now: this process, as `myself` describes it.
        local: `on_local_file_system` of the partial.
        flock_free: nobody holds the record's flock; says nothing where locks are not reliable.
    """
    if not flock_free:
        return Life.LIVE
    if owner.boot and owner.boot == now.boot and owner.pid_namespace and owner.pid_namespace == now.pid_namespace:
        start = start_time(owner.pid)
        if start is not None and owner.start:
            return Life.LIVE if start == owner.start else Life.DEAD
    # Another boot or namespace, or no /proc. On a file system of this kernel alone, the flock is the kernel's own
    # word: it lives exactly as long as the owner's descriptors. (A restarted container has another namespace; without
    # this each restart would copy its partial once more.) Elsewhere another machine may be at work.
    return Life.DEAD if local else Life.UNKNOWN


_LET_GO: set[str] = set()  # tokens of holds that this process gave up, though their record may still lie there


class Hold:
    """This process's hold on one partial's directory; its flock is kept until `release` or `drop`."""

    def __init__(self, disk: Disk, path: Path, owner: Owner, fd: int) -> None:
        self._disk = disk
        self._path = path
        self._owner = owner
        self._fd: int | None = fd

    @property
    def path(self) -> Path:
        """The record."""
        return self._path

    def release(self) -> None:
        """Let go, once every other descriptor is closed: without the record the next one may take over at once.

        Where the disk fails and the record has to stay, this process still knows; others see it end.
        """
        if self._fd is not None:
            _LET_GO.add(self._owner.token)
            try:
                # What went wrong before is the error to hear of, not this one.
                with suppress(DiskError):
                    self._disk.unlink(self._path, missing_ok=True)
            finally:
                self.drop()

    def drop(self) -> None:
        """Let the flock go and say nothing: the directory is gone, or is about to be."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """Who holds a directory now: the last record of its chain, and what can be proved about it.

    Attributes:
        owner: None where there is no record (nobody came yet) or an unreadable one.
        next_name: the file name under which a successor claims.
    """

    owner: Owner | None
    life: Life
    next_name: str


def look(folder: Path, now: Owner) -> Tenancy:
    """Return who holds the directory now."""
    name = "owner"
    current: Owner | None = None
    free = True
    for _ in range(_MOST_RECORDS):
        try:
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            break
        except OSError:
            return Tenancy(owner=current, life=Life.UNKNOWN, next_name=name)
        try:
            raw = os.read(fd, 4096) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
            free = _flock_is_free(fd)
        finally:
            os.close(fd)
        found = parse_owner(raw)
        if found is None:
            return Tenancy(owner=current, life=Life.UNKNOWN if free else Life.LIVE, next_name=name)
        current, name = found, f"owner.{found.token}"
    if current is None:
        return Tenancy(owner=None, life=Life.DEAD, next_name=name)
    if current.token in _LET_GO:
        return Tenancy(owner=current, life=Life.DEAD, next_name=name)
    life = judge(current, now=now, local=on_local_file_system(folder), flock_free=free)
    return Tenancy(owner=current, life=life, next_name=name)


def _flock_is_free(fd: int) -> bool:
    # Shared, so that two who look at the same time do not take each other for the owner.
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no flock: no witness
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def claim(disk: Disk, folder: Path, tenancy: Tenancy, me: Owner) -> Hold | None:
    """Become the successor of `tenancy`'s owner; None where somebody was faster, or the directory is gone."""
    temporary = temporary_name(folder)
    try:
        fd = disk.create(temporary)
    except DiskError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        # Locked and written before it gets its name: nobody can see it unlocked or half.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # no flock here: the record alone speaks
        disk.write_at(fd, me.as_bytes(), 0)
        disk.fsync(fd)
        try:
            disk.link(temporary, folder / tenancy.next_name)
        except DiskError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in NO_LINKS:
                raise
            # FAT, some FUSE: the name is as exclusive, but may be seen empty for a moment, which says "unknown".
            named = disk.create(folder / tenancy.next_name)
            disk.close(fd)
            fd = named
            disk.write_at(fd, me.as_bytes(), 0)
            disk.fsync(fd)
    except DiskError as error:
        disk.close(fd)
        disk.unlink(temporary, missing_ok=True)
        if isinstance(error.__cause__, (FileExistsError, FileNotFoundError)):
            return None
        raise
    disk.unlink(temporary, missing_ok=True)
    # No sync of the folder: a power cut that takes the record takes the process, too.
    return Hold(disk, folder / tenancy.next_name, me, fd)
