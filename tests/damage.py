"""What goes wrong with a repo in the hub's cache, done by script, and what `verify` must call it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fetchverify.core.findings import Kind
from mock_server import MiB, Seeded, World
from mock_server.world import FileValue

CONFIG = b'{"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}\n'
TOKENIZER = b'{"version": "1.0", "model": {"type": "BPE"}}\n'
WEIGHTS = Seeded(18 * MiB, seed="weights")  # three blocks
OTHER = Seeded(2 * MiB, seed="other")
FILES: dict[str, FileValue | None] = {
    "config.json": CONFIG,
    "empty.txt": b"",
    "other.bin": OTHER,
    "sub/twin.json": CONFIG,
    "tokenizer.json": TOKENIZER,
    "w.safetensors": WEIGHTS,
}
REPO = "org/model"
FOLDER = "models--org--model"
NOWHERE = "0123456789abcdef0123456789abcdef01234567"
A_DAY_AND_MORE = 25 * 3600
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to the network</body></html>\n"
DENIED = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n'


def a_world() -> World:
    """Return a Hub with the repo."""
    world = World()
    world.add(REPO, FILES)
    return world


@dataclass(frozen=True)
class Cached:
    """One repo in a cache, for doing things to it."""

    cache: Path

    @property
    def root(self) -> Path:
        return self.cache / FOLDER

    @property
    def commit(self) -> str:
        return (self.root / "refs" / "main").read_text()

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshots" / self.commit

    @property
    def area(self) -> Path:
        return self.root / ".fetchverify"

    def name(self, path: str) -> Path:
        return self.snapshot / path

    def blob(self, path: str) -> Path:
        return Path(os.path.realpath(self.name(path)))

    def write(self, path: str, content: bytes) -> None:
        """Overwrite a blob in place, as a bad disk or a careless program does."""
        blob = self.blob(path)
        blob.chmod(0o644)
        blob.write_bytes(content)

    def flip(self, path: str, offset: int) -> None:
        blob = self.blob(path)
        data = bytearray(blob.read_bytes())
        data[offset] ^= 1
        with blob.open("r+b") as file:
            file.seek(offset % len(data))
            file.write(data[offset:][:1])

    def relink(self, path: str, target: str) -> None:
        self.name(path).unlink()
        self.name(path).symlink_to(target)

    def copied(self, path: str, content: bytes | None = None) -> Path:
        """Make a copy of a link, as Windows and careless archives do."""
        name = self.name(path)
        data = name.read_bytes() if content is None else content
        name.unlink()
        name.write_bytes(data)
        return name


def aged(path: Path, seconds: float = A_DAY_AND_MORE) -> None:
    """Set a file's time back."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment), follow_symlinks=False)


Do = Callable[[Cached], object]


@dataclass(frozen=True)
class Damage:
    """One way to break a repo.

    Attributes:
        kinds: what `verify` must find, and nothing else of rank damage.
        fetch: the files whose bytes a repair may ask for.
        ours: it takes a cache that fetchverify wrote.
    """

    name: str
    do: Do
    kinds: frozenset[Kind]
    fetch: tuple[str, ...] = ()
    ours: bool = False
    litter: bool = field(default=False)


def _pointer(_: Cached) -> bytes:
    return POINTER % (WEIGHTS.sha256().encode(), WEIGHTS.size)


def _swap_blob(repo: Cached, make: Callable[[Path], object]) -> None:
    blob = repo.blob("w.safetensors")
    blob.unlink()
    make(blob)


def _hole(repo: Cached) -> None:
    with repo.blob("w.safetensors").open("r+b") as file:
        file.seek(9 * MiB)
        file.write(bytes(4096))


def _listing(repo: Cached, change: Callable[[bytes], bytes]) -> None:
    place = repo.root / "trees" / f"{repo.commit}.json"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(change(place.read_bytes() if place.exists() else b"{}"))


def _lock(repo: Cached) -> None:
    place = repo.cache / ".locks" / FOLDER / f"{'ab' * 32}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    aged(place)


def _incomplete(repo: Cached) -> None:
    place = repo.root / "blobs" / f"{'cd' * 32}.7f2a.incomplete"
    place.write_bytes(b"x" * 1000)
    aged(place)


def _dead_partial(repo: Cached) -> None:
    place = repo.area / "partial" / f"sha256-{'ef' * 32}"
    place.mkdir(parents=True)
    (place / "data").write_bytes(b"x" * 1000)
    (place / "journal").write_bytes(b"")
    for each in (place / "data", place / "journal", place):
        aged(each)


def _temporary(repo: Cached) -> None:
    place = repo.area / "tmp" / "left-behind"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"x" * 1000)
    aged(place)


def _dead_partial_of_what_is_here(repo: Cached) -> None:
    """As a kill between publishing and cleaning up leaves it, with the claim of a process that is gone."""
    place = repo.area / "partial" / f"sha256-{WEIGHTS.sha256()}"
    place.mkdir(parents=True)
    (place / "data").write_bytes(b"x" * 1000)
    (place / "journal").write_bytes(b"")
    gone = {"boot": "a", "pid_namespace": "b", "pid": 2**22, "start": 1, "since": 1.0, "token": "0" * 32}
    (place / "owner").write_text(json.dumps(gone))
    for each in (*place.iterdir(), place):
        aged(each)


def _foreign_lock(repo: Cached) -> None:
    """Of a tool that keeps its lock by being there: it is held by nobody all the same."""
    _lock(repo)
    place = repo.cache / ".locks" / FOLDER / f"{'ab' * 32}.lock"
    place.chmod(0o444)
    aged(place)


def _uppercase(repo: Cached) -> None:
    blob = repo.blob("w.safetensors")
    blob.rename(blob.with_name(blob.name.upper()))
    repo.relink("w.safetensors", f"../../blobs/{blob.name.upper()}")


def _file_for(folder: str) -> Do:
    def do(repo: Cached) -> None:
        place = repo.root / folder
        if place.exists():
            shutil.rmtree(place)
        place.write_text("mine\n")

    return do


def _ref_below(repo: Cached) -> None:
    place = repo.root / "refs" / "refs" / "pr" / "1"
    place.parent.mkdir(parents=True)
    place.write_text(NOWHERE)


def _no_exist_below(repo: Cached) -> None:
    place = repo.root / ".no_exist" / repo.commit / "sub" / "twin.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"rubbish")


def _lost_extra(repo: Cached) -> None:
    repo.name("mine.txt").symlink_to("../../blobs/" + "ab" * 32)


def _looped(repo: Cached) -> None:
    repo.relink("w.safetensors", "w.safetensors")


def _loop_extra(repo: Cached) -> None:
    repo.name("mine.txt").symlink_to("mine.txt")


def _moved(repo: Cached) -> None:
    """Links that were absolute, in a cache that was moved since."""
    for path in FILES:
        repo.relink(path, f"/old/place/{FOLDER}/blobs/{repo.blob(path).name}")


def _quarantined(repo: Cached) -> None:
    place = repo.area / "quarantine" / f"sha256-{'aa' * 32}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"bad")


def _no_exist(repo: Cached) -> None:
    place = repo.root / ".no_exist" / repo.commit / "config.json"
    place.parent.mkdir(parents=True)
    place.touch()


def _unlinked(repo: Cached) -> None:
    (repo.root / "blobs" / hashlib.sha256(b"nobody's").hexdigest()).write_bytes(b"nobody's")


def _unlinked_and_corrupt(repo: Cached) -> None:
    (repo.root / "blobs" / ("12" * 32)).write_bytes(b"nobody's")


def _new_snapshot(repo: Cached) -> None:
    (repo.root / "snapshots" / NOWHERE).mkdir()


def _instead(path: str, make: Callable[[Path], object]) -> Do:
    def do(repo: Cached) -> None:
        repo.name(path).unlink()
        make(repo.name(path))

    return do


def _without(repo: Cached) -> None:
    repo.blob("w.safetensors").unlink()
    repo.name("w.safetensors").unlink()


def _lying_listing(repo: Cached) -> None:
    _listing(repo, lambda raw: raw.replace(WEIGHTS.sha256().encode(), b"ab" * 32))


def _wrong_blob(repo: Cached) -> None:
    repo.relink("w.safetensors", f"../../blobs/{repo.blob('other.bin').name}")


def _gzipped(repo: Cached) -> None:
    repo.write("other.bin", gzip.compress(OTHER.read(0, OTHER.size), 1))


def _damage(name: str, do: Do, *kinds: Kind, fetch: tuple[str, ...] = (), ours: bool = False) -> Damage:
    litter = all(kind.rank.value == "litter" for kind in kinds)
    return Damage(name, do, frozenset(kinds), fetch, ours, litter)


_W = ("w.safetensors",)
_T = ("tokenizer.json",)
_END = WEIGHTS.size - 1

CATALOGUE: tuple[Damage, ...] = (
    # bytes
    _damage("first byte flipped", lambda r: r.flip("w.safetensors", 0), Kind.CORRUPT, fetch=_W),
    _damage("a byte flipped", lambda r: r.flip("w.safetensors", 9 * MiB), Kind.CORRUPT, fetch=_W),
    _damage("last byte flipped", lambda r: r.flip("w.safetensors", _END), Kind.CORRUPT, fetch=_W),
    _damage("a byte of a git blob flipped", lambda r: r.flip("tokenizer.json", 3), Kind.CORRUPT, fetch=_T),
    _damage("a blob of two names flipped", lambda r: r.flip("config.json", 3), Kind.CORRUPT, fetch=("config.json",)),
    _damage("a hole", _hole, Kind.CORRUPT, fetch=_W),
    _damage("zeros", lambda r: r.write("w.safetensors", bytes(WEIGHTS.size)), Kind.CORRUPT, fetch=_W),
    _damage(
        "cut at 99 %",
        lambda r: os.truncate(r.blob("w.safetensors"), WEIGHTS.size * 99 // 100),
        Kind.TRUNCATED,
        fetch=_W,
    ),
    _damage("cut by a byte", lambda r: os.truncate(r.blob("w.safetensors"), _END), Kind.TRUNCATED, fetch=_W),
    _damage("cut to nothing", lambda r: os.truncate(r.blob("w.safetensors"), 0), Kind.TRUNCATED, fetch=_W),
    _damage("a git blob cut", lambda r: os.truncate(r.blob("tokenizer.json"), 9), Kind.TRUNCATED, fetch=_T),
    _damage(
        "a byte too many", lambda r: os.truncate(r.blob("w.safetensors"), WEIGHTS.size + 1), Kind.CORRUPT, fetch=_W
    ),
    _damage("an empty file with bytes", lambda r: r.write("empty.txt", b"x"), Kind.CORRUPT, fetch=("empty.txt",)),
    _damage("a pointer", lambda r: r.write("w.safetensors", _pointer(r)), Kind.POINTER, fetch=_W),
    _damage(
        "another file's pointer", lambda r: r.write("w.safetensors", POINTER % (b"ab" * 32, 7)), Kind.POINTER, fetch=_W
    ),
    _damage("a web page", lambda r: r.write("w.safetensors", PAGE), Kind.PAGE, fetch=_W),
    _damage("a CDN's error", lambda r: r.write("w.safetensors", DENIED), Kind.PAGE, fetch=_W),
    _damage("a web page for a git blob", lambda r: r.write("tokenizer.json", PAGE), Kind.PAGE, fetch=_T),
    _damage("gzip of it", _gzipped, Kind.CORRUPT, fetch=("other.bin",)),
    _damage("another file's bytes", lambda r: r.write("tokenizer.json", CONFIG), Kind.CORRUPT, fetch=_T),
    # blobs
    _damage("blob removed", lambda r: r.blob("w.safetensors").unlink(), Kind.DANGLING, fetch=_W),
    _damage("all blobs removed", lambda r: shutil.rmtree(r.root / "blobs"), Kind.DANGLING, fetch=tuple(FILES)),
    _damage("blob is a folder", lambda r: _swap_blob(r, Path.mkdir), Kind.SPECIAL, fetch=_W),
    _damage("blob is a pipe", lambda r: _swap_blob(r, os.mkfifo), Kind.SPECIAL, fetch=_W),
    _damage(
        "blob links to nowhere", lambda r: _swap_blob(r, lambda b: b.symlink_to("/nowhere")), Kind.DANGLING, fetch=_W
    ),
    _damage("blob cannot be read", lambda r: r.blob("w.safetensors").chmod(0), Kind.WRONG_MODE),
    _damage("blobs is a file", _file_for("blobs"), Kind.OBSTACLE, Kind.DANGLING, fetch=tuple(FILES)),
    _damage("blob of a name in capitals", _uppercase, Kind.WRONG_TARGET, fetch=_W),
    # names
    _damage("name removed", lambda r: r.name("w.safetensors").unlink(), Kind.MISSING),
    _damage("folder of names removed", lambda r: shutil.rmtree(r.name("sub")), Kind.MISSING),
    _damage("name and blob removed", _without, Kind.MISSING, fetch=_W),
    _damage("linked to another blob", _wrong_blob, Kind.WRONG_TARGET),
    _damage(
        "linked to a lost path", lambda r: r.relink("w.safetensors", "/old/disk/blobs/" + "ab" * 32), Kind.WRONG_TARGET
    ),
    _damage("linked to no blob", lambda r: r.relink("w.safetensors", "../../blobs/" + "ab" * 32), Kind.DANGLING),
    _damage("a copy, cut", lambda r: os.truncate(r.copied("w.safetensors"), MiB), Kind.TRUNCATED),
    _damage("a copy, corrupt", lambda r: r.copied("tokenizer.json", TOKENIZER[::-1]), Kind.CORRUPT),
    _damage("a pointer for a link", lambda r: r.copied("w.safetensors", _pointer(r)), Kind.POINTER),
    _damage("the link's text for a link", lambda r: r.copied("w.safetensors", b"../../blobs/x"), Kind.TRUNCATED),
    _damage("name is a folder", _instead("tokenizer.json", Path.mkdir), Kind.MISSING),
    _damage("name is a pipe", _instead("tokenizer.json", os.mkfifo), Kind.SPECIAL),
    _damage("a link to itself", _looped, Kind.WRONG_TARGET),
    _damage("links of a cache that was moved", _moved, Kind.WRONG_TARGET),
    _damage("a lost name that the repo lacks", _lost_extra, Kind.DANGLING),
    _damage("a loop that the repo lacks", _loop_extra, Kind.DANGLING),
    # refs, snapshots, notes
    _damage("a ref in folders, to no snapshot", _ref_below, Kind.NOWHERE_REF),
    _damage("refs is a file", _file_for("refs"), Kind.OBSTACLE),
    _damage("snapshots is a file", _file_for("snapshots"), Kind.OBSTACLE, Kind.NO_SNAPSHOTS, Kind.NOWHERE_REF),
    _damage(
        "a file among the snapshots",
        lambda r: (r.root / "snapshots" / "notes.txt").write_text("mine"),
        Kind.OBSTACLE,
    ),
    _damage("a snapshot is a file", lambda r: (r.root / "snapshots" / NOWHERE).write_text("mine"), Kind.OBSTACLE),
    _damage("listings are a file", _file_for("trees"), Kind.OBSTACLE),
    _damage("notes of what is absent are a file", _file_for(".no_exist"), Kind.OBSTACLE),
    _damage("a name in a folder noted as not existing", _no_exist_below, Kind.FALSE_NO_EXIST),
    _damage("ref to no snapshot", lambda r: (r.root / "refs" / "dev").write_text(NOWHERE), Kind.NOWHERE_REF),
    _damage("empty ref", lambda r: (r.root / "refs" / "dev").write_text(""), Kind.BROKEN_REF),
    _damage("ref with rubbish", lambda r: (r.root / "refs" / "dev").write_bytes(b"\x00\xff"), Kind.BROKEN_REF),
    _damage("snapshot without files", _new_snapshot, Kind.EMPTY_SNAPSHOT),
    _damage(
        "no folder of snapshots", lambda r: shutil.rmtree(r.root / "snapshots"), Kind.NO_SNAPSHOTS, Kind.NOWHERE_REF
    ),
    _damage("noted as not existing", _no_exist, Kind.FALSE_NO_EXIST),
    _damage("listing is rubbish", lambda r: _listing(r, lambda _: b"rubbish"), Kind.BROKEN_LISTING),
    _damage("listing lies", _lying_listing, Kind.BROKEN_LISTING, ours=True),
    # litter
    _damage("blob without link", _unlinked, Kind.UNLINKED),
    _damage("corrupt blob without link", _unlinked_and_corrupt, Kind.CORRUPT),
    _damage("the hub's orphan", _incomplete, Kind.INCOMPLETE),
    _damage("our dead partial", _dead_partial, Kind.DEAD_PARTIAL),
    _damage("our dead partial of what is here", _dead_partial_of_what_is_here, Kind.DEAD_PARTIAL),
    _damage("a stale lock of another's", _foreign_lock, Kind.STALE_LOCK),
    _damage("a temporary file", _temporary, Kind.TEMPORARY),
    _damage("a stale lock", _lock, Kind.STALE_LOCK),
    _damage("a bad copy in quarantine", _quarantined, Kind.QUARANTINED),
    _damage("somebody's file", lambda r: (r.root / "notes.txt").write_text("mine"), Kind.STRANGE),
    _damage("a name that the repo lacks", lambda r: r.name("mine.txt").write_text("mine"), Kind.EXTRA),
)


# Of these the hub's scan says that the whole repo is corrupted, and `hf cache ls` does not list it.
DROPPED = frozenset(
    {
        "blob removed",
        "all blobs removed",
        "blobs is a file",
        "blob links to nowhere",
        "linked to a lost path",
        "linked to no blob",
        "a link to itself",
        "links of a cache that was moved",
        "a lost name that the repo lacks",
        "a loop that the repo lacks",
        "ref to no snapshot",
        "a ref in folders, to no snapshot",
        "empty ref",
        "ref with rubbish",
        "refs is a file",
        "snapshots is a file",
        "no folder of snapshots",
        "a file among the snapshots",
        "a snapshot is a file",
    }
)


def _hard_linked_elsewhere(repo: Cached) -> None:
    (repo.cache.parent / "mirror").mkdir()
    for blob in (repo.root / "blobs").iterdir():
        (repo.cache.parent / "mirror" / blob.name).hardlink_to(blob)


def _absolute(repo: Cached) -> None:
    for path in FILES:
        repo.relink(path, str(repo.blob(path)))


def _hard_linked_names(repo: Cached) -> None:
    for path in FILES:
        blob = repo.blob(path)
        repo.name(path).unlink()
        repo.name(path).hardlink_to(blob)


def _elsewhere(repo: Cached, place: Path) -> None:
    away = repo.cache.parent / "disk2"
    away.mkdir()
    place.rename(away / place.name)
    place.symlink_to(away / place.name)


def _absent_noted(repo: Cached) -> None:
    place = repo.root / ".no_exist" / repo.commit / "adapter_config.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"rubbish")


def _read_only(repo: Cached) -> None:
    for blob in (repo.root / "blobs").iterdir():
        blob.chmod(0o444)


def _pull_request(repo: Cached) -> None:
    place = repo.root / "refs" / "refs" / "pr" / "1"
    place.parent.mkdir(parents=True)
    place.write_text(repo.commit)


def _rubbish(*names: str) -> Do:
    def do(repo: Cached) -> None:
        for name in names:
            for place in repo.area.glob(name):
                place.write_bytes(b"rubbish" * 20)

    return do


def _cut(name: str) -> Do:
    def do(repo: Cached) -> None:
        for place in repo.area.glob(name):
            os.truncate(place, place.stat().st_size - 5)

    return do


# What is odd, and whole: no damage is found, nothing is fetched, and nothing is changed.
ODD: dict[str, Do] = {
    "hard links elsewhere": _hard_linked_elsewhere,
    "absolute links": _absolute,
    "hard links for names": _hard_linked_names,
    "a copy for a link": lambda repo: repo.copied("w.safetensors"),
    "the cache is a link": lambda repo: _elsewhere(repo, repo.cache),
    "the repo is a link": lambda repo: _elsewhere(repo, repo.root),
    "noted as absent, which it is": _absent_noted,
    "a note of another commit": lambda repo: (repo.root / ".no_exist" / NOWHERE).mkdir(parents=True),
    "blobs that nobody may write to": _read_only,
    "a ref of a pull request": _pull_request,
    "no refs": lambda repo: shutil.rmtree(repo.root / "refs"),
    "a file of the Finder": lambda repo: (repo.root / "snapshots" / ".DS_Store").write_bytes(b"\0"),
    "the ledger is rubbish": _rubbish("proofs", "seal-*"),
    "the ledger is cut": _cut("proofs"),
    "the block maps are rubbish": _rubbish("blocks/*"),
    "the block maps are cut": _cut("blocks/*"),
    "no listing": lambda repo: shutil.rmtree(repo.root / "trees", ignore_errors=True),
}


def names_of(damages: tuple[Damage, ...] = CATALOGUE) -> list[str]:
    """Return test ids."""
    return [damage.name.replace(" ", "-") for damage in damages]


def as_json(line: str) -> dict[str, object]:
    """Return a line of JSON."""
    value: dict[str, object] = json.loads(line)
    return value
