"""A git clone: where its parts lie, what it is configured to, and which of its files are LFS pointers.

Read through the `git` command alone; what to do about the pointers is left to `core`, filling them to `worktree`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from fetchverify.core.gitremote import Config
from fetchverify.core.pointer import LONGEST_POINTER, Pointer, parse_pointer
from fetchverify.errors import UsageError
from fetchverify.store.git import Git, GitError

GitPath = NewType("GitPath", bytes)  # as the index has it: any bytes but NUL

_FILE_MODES = frozenset({"100644", "100755"})
_MOST_CONFIG = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One LFS pointer of the index.

    Attributes:
        blob_id: git's id of the pointer.
        blob: the pointer itself.
        checked_out: False where a sparse checkout leaves it out.
        filtered: an attribute makes it git-lfs's (`filter=lfs`); only then git takes content for the pointer.
    """

    path: GitPath
    blob_id: str
    blob: bytes
    pointer: Pointer
    checked_out: bool
    filtered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """One work tree.

    Attributes:
        root: of the work tree.
        prefix: the folder below it that was named, with a slash; empty for the whole.
        git_dir: of this work tree.
        common_dir: what all work trees of the repo share.
        id_bytes: length of an object id.
    """

    root: Path
    prefix: str
    git_dir: Path
    common_dir: Path
    id_bytes: int

    @property
    def git(self) -> Git:
        """Git in this work tree."""
        return Git(self.root)

    @property
    def index(self) -> Path:
        """The index's file."""
        return self.git_dir / "index"

    @classmethod
    def find(cls, path: Path) -> Clone:
        """Return the clone that a folder belongs to.

        Raises:
            UsageError: it belongs to none, or to one without a work tree.
        """
        where = path.expanduser().absolute()
        if not where.is_dir():
            raise UsageError(f"`{path}` is no folder", hint="name a clone, or a folder in one")
        git = Git(where)
        try:
            inside = git("rev-parse", "--is-inside-work-tree").strip()
        except GitError as error:
            if "dubious ownership" in error.message or "not owned" in error.message:
                raise UsageError(
                    f"`{path}` belongs to somebody else, and git does not trust it",
                    hint=f"if you do: `git config --global --add safe.directory {where}`",
                ) from error
            if "not a git repository" not in error.message and "bare repository" not in error.message:
                raise
            raise _no_clone(path, where) from error
        if inside != b"true":
            raise _no_clone(path, where)
        # One a line, and nothing else on it: a folder's name may hold a newline.
        asked = ("--show-toplevel", "--show-prefix", "--absolute-git-dir", "--git-common-dir", "--show-object-format")
        told = [os.fsdecode(git("rev-parse", one).removesuffix(b"\n")) for one in asked]
        root, prefix, git_dir, common, object_format = told
        return cls(
            root=Path(os.path.realpath(root)),
            prefix=prefix,
            git_dir=Path(git_dir),
            common_dir=Path(os.path.normpath(where / common)),
            id_bytes=32 if object_format == "sha256" else 20,
        )

    def head(self) -> tuple[str | None, str | None]:
        """Return the commit that is checked out and the branch, each None where there is none."""
        return self._line("rev-parse", "--verify", "-q", "HEAD"), self._line("symbolic-ref", "--short", "-q", "HEAD")

    def _line(self, *arguments: str) -> str | None:
        try:
            return os.fsdecode(self.git(*arguments)).strip() or None
        except GitError:
            return None

    # -- configuration

    def config(self) -> Config:
        """Return git's configuration for this clone."""
        return _parse_config(self.git("config", "--list", "-z"))

    def lfsconfig(self) -> Config:
        """Return the committed `.lfsconfig`, as it is: most of it must not be believed (`gitremote.only_safe`)."""
        path = self.root / ".lfsconfig"
        try:
            found = path.lstat()
        except OSError:
            sources: Sequence[tuple[str, ...]] = (("--blob", ":.lfsconfig"), ("--blob", "HEAD:.lfsconfig"))
        else:
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_CONFIG:
                return {}
            sources = (("--no-includes", "--file", str(path)),)
        for source in sources:
            try:
                return _parse_config(self.git("config", *source, "--list", "-z"))
            except GitError:
                continue  # absent, or no configuration
        return {}

    def address(self, remote: str) -> str | None:
        """Return a remote's address, or another one, as git would use it (`url.*.insteadOf`)."""
        return self._line("ls-remote", "--get-url", "--", remote)

    def stores(self, config: Config) -> tuple[Path, ...]:
        """Return the LFS stores of this clone: its own first, then those of repos it borrows objects from."""
        storage = (config.get("lfs.storage") or [""])[-1] or "lfs"
        own = self.common_dir / Path(storage).expanduser() / "objects"
        return (own, *(store for folder in self._alternates() for store in lfs_stores(folder)))

    def _alternates(self) -> Iterator[Path]:
        objects = self.common_dir / "objects"
        try:
            lines = (objects / "info" / "alternates").read_bytes().splitlines()
        except OSError:
            return
        for line in lines:
            if line and not line.startswith(b"#"):
                yield Path(os.path.normpath(objects / os.fsdecode(line))).parent

    # -- pointers

    def pointers(self) -> list[Entry]:
        """Return the LFS pointers of the index below `prefix`, in its order."""
        listed = list(self._listed())
        blobs = self._short_blobs({blob_id for _, blob_id, _ in listed})
        found = [
            (path, blob_id, checked_out, pointer)
            for path, blob_id, checked_out in listed
            if blob_id in blobs and (pointer := parse_pointer(blobs[blob_id])) is not None
        ]
        filters = self._filters(path for path, *_ in found)
        return [
            Entry(
                path=path,
                blob_id=blob_id,
                blob=blobs[blob_id],
                pointer=pointer,
                checked_out=checked_out,
                filtered=filters.get(path) == b"lfs",
            )
            for path, blob_id, checked_out, pointer in found
        ]

    def _below(self) -> tuple[str, ...]:
        return (f":(top,literal){self.prefix}",) if self.prefix else ()

    def _listed(self) -> Iterator[tuple[GitPath, str, bool]]:
        """Yield path, blob and whether it is checked out, of every plain file that is in no conflict."""
        listing = self.git("ls-files", "--stage", "-t", "-z", "--", *self._below())
        for line in listing.split(b"\0"):
            head, _, path = line.partition(b"\t")
            words = head.split(b" ")
            if len(words) == 4 and words[1].decode() in _FILE_MODES and words[3] == b"0":
                yield GitPath(path), words[2].decode(), words[0] != b"S"

    def submodules(self) -> list[str]:
        """Return the folders of submodules below `prefix`: repos of their own, which are not looked into."""
        listing = self.git("ls-files", "--stage", "-z", "--", *self._below())
        return [os.fsdecode(line.partition(b"\t")[2]) for line in listing.split(b"\0") if line.startswith(b"160000 ")]

    def _short_blobs(self, blob_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the content of those blobs that are short enough for a pointer."""
        asked = "".join(f"{blob_id}\n" for blob_id in sorted(blob_ids)).encode()
        if not asked:
            return {}
        checked = self.git("cat-file", "--batch-check", "--buffer", data=asked).splitlines()
        words = (line.split(b" ") for line in checked)
        short = [w[0] for w in words if len(w) == 3 and w[1] == b"blob" and int(w[2]) < LONGEST_POINTER]
        told = self.git("cat-file", "--batch", "--buffer", data=b"".join(one + b"\n" for one in short))
        blobs: dict[str, bytes] = {}
        at = 0
        while at < len(told):
            end = told.index(b"\n", at)
            blob_id, _, size = told[at:end].split(b" ")
            blobs[blob_id.decode()] = told[end + 1 : end + 1 + int(size)]
            at = end + 1 + int(size) + 1
        return blobs

    def _filters(self, paths: Iterable[GitPath]) -> dict[GitPath, bytes]:
        asked = b"".join(path + b"\0" for path in paths)
        if not asked:
            return {}
        words = self.git("check-attr", "--stdin", "-z", "filter", data=asked).split(b"\0")
        return {GitPath(path): value for path, value in zip(words[0::3], words[2::3], strict=False)}


def lfs_stores(place: Path) -> Iterator[Path]:
    """Yield where the LFS store of a repo may lie: of a clone, a bare repo or a git directory."""
    for folder in (place / ".git", place):
        store = folder / "lfs" / "objects"
        if store.is_dir():
            yield store


def _no_clone(path: Path, where: Path) -> UsageError:
    if ".git" in where.parts:
        return UsageError(
            f"`{path}` lies in a git directory, not in a work tree", hint="name the folder with the files"
        )
    if (where / "HEAD").is_file() and (where / "objects").is_dir():
        return UsageError(f"`{path}` is a bare repo: it has no files to fill", hint="clone it, and name the clone")
    return UsageError(
        f"`{path}` is no git clone", hint="a repo on the Hub is `org/name`; a folder to put it in is `--to DIR`"
    )


def _parse_config(listing: bytes) -> dict[str, list[str]]:
    """Return `git config --list -z`: a key, a newline, a value, a NUL; a key alone means true."""
    config: dict[str, list[str]] = {}
    for item in listing.split(b"\0"):
        key, newline, value = item.partition(b"\n")
        if key:
            config.setdefault(os.fsdecode(key), []).append(os.fsdecode(value) if newline else "true")
    return config
