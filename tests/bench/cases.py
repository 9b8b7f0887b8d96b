"""What is fetched: repos of generated files, written once to the server's disk, known to all by path and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mock_server import OnDisk, RepoFile, Seeded, World
from tests.bench.units import KB, MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A file as every peer is told to prove it."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One repo and its files; `lfs` ones lie behind a redirect to the CDN, the rest at the Hub, as on the real one."""

    name: str
    about: str
    lfs: bool
    files: tuple[Promised, ...]

    @property
    def repo_id(self) -> str:
        """The repo."""
        return f"bench/{self.name}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is to fetch, in bytes and files."""

    big: int
    small_files: int = 500
    small_file: int = 20 * KB
    far: int
    """The big file over the line: large enough that starting up does not hide the speed."""
    far_stream: int
    """The same for tools that use one connection a file."""

    @classmethod
    def of(cls, big: int, *, quick: bool) -> Sizes:
        """Return the sizes that go with a big file of so many bytes."""
        return cls(big=big, small_files=50 if quick else 500, far=4 * big, far_stream=big // 8)


class Shelf:
    """The files of all cases in a folder that the server reads, and the `World` that describes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = World()

    def add(self, name: str, about: str, files: Iterable[tuple[str, int]], *, lfs: bool) -> Case:
        """Write the files of a repo and return what they are."""
        promised, stored = [], []
        for path, size in files:
            place = self.root / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            sha256 = hashlib.sha256()
            with place.open("wb") as file:
                for piece in Seeded(size, f"{name}/{path}").pieces(0, size):
                    file.write(piece)
                    sha256.update(piece)
            promised.append(Promised(path=path, size=size, sha256=sha256.hexdigest()))
            content = OnDisk(place)
            content._sha256 = sha256.hexdigest()  # hashed just now; 8 GiB once more would take seconds
            stored.append(RepoFile(path=path, content=content, lfs=lfs))
        self.world.add(f"bench/{name}", stored)
        return Case(name=name, about=about, lfs=lfs, files=tuple(promised))

    def commit(self, case: Case) -> str:
        """Return the commit that a case's repo stands at."""
        return self.world.repo(case.repo_id).head().id


def near_cases(shelf: Shelf, sizes: Sizes, wanted: Iterable[str]) -> list[Case]:
    """Return the cases that are fetched without the line."""
    return [_case(shelf, name, "", sizes.big, sizes) for name in wanted]


def far_cases(shelf: Shelf, sizes: Sizes, wanted: Iterable[str]) -> tuple[list[Case], dict[str, Case]]:
    """Return the cases of the line, and those that take their place for tools with one connection a file."""
    wanted = list(wanted)
    much = {"big": sizes.far, "four": sizes.big // 4}
    cases = [_case(shelf, name, "far-", much.get(name, 0), sizes) for name in wanted]
    streams = {"far-big": _case(shelf, "big", "stream-", sizes.far_stream, sizes)} if "big" in wanted else {}
    return cases, streams


def bad_case(shelf: Shelf, sizes: Sizes) -> Case:
    """Return what is fetched over the bad lines."""
    return _case(shelf, "big", "bad-", sizes.big * 3 // 8, sizes)


def many_case(shelf: Shelf, count: int) -> Case:
    """Return a repo of so many files of 200 bytes, a thousand a folder."""
    files = [(f"part-{number // 1000:04d}/file-{number:06d}.txt", 200) for number in range(count)]
    return shelf.add(f"many-{count}", f"{count:,} files of 200 bytes", files, lfs=False)


def _case(shelf: Shelf, name: str, prefix: str, size: int, sizes: Sizes) -> Case:
    match name:
        case "big":
            return shelf.add(f"{prefix}big", f"1 file of {_size(size)}", [("model.safetensors", size)], lfs=True)
        case "four":
            names = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]
            about = f"4 files of {_size(size // 4)}"
            return shelf.add(f"{prefix}four", about, [(name, size // 4) for name in names], lfs=True)
        case "small":
            files = [(f"part-{number:05d}.json", sizes.small_file) for number in range(sizes.small_files)]
            about = f"{sizes.small_files} files of {sizes.small_file // KB} KB"
            return shelf.add(f"{prefix}small", about, files, lfs=False)
    raise ValueError(name)


def _size(size: int) -> str:
    return f"{size // (1 << 30)} GiB" if size % (1 << 30) == 0 else f"{size // MiB} MiB"
