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
    long: int
    """The long file, over the line alone: large enough that starting up does not hide the speed."""
    stream: int
    """Takes the place of big and long files over the line for tools that use one connection a file."""

    @classmethod
    def of(cls, big: int, *, quick: bool) -> Sizes:
        """Return the sizes that go with a big file of so many bytes."""
        return cls(big=big, small_files=50 if quick else 500, long=4 * big, stream=big // 8)


class Shelf:
    """The files of all cases in a folder that the server reads, and the `World` that describes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = World()
        self._cases: dict[str, Case] = {}

    def add(self, name: str, about: str, files: Iterable[tuple[str, int]], *, lfs: bool) -> Case:
        """Write the files of a repo, unless they are there, and return what they are."""
        if name in self._cases:
            return self._cases[name]
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
        case = self._cases[name] = Case(name=name, about=about, lfs=lfs, files=tuple(promised))
        return case

    def commit(self, case: Case) -> str:
        """Return the commit that a case's repo stands at."""
        return self.world.repo(case.repo_id).head().id


def cases_of(shelf: Shelf, sizes: Sizes, wanted: Iterable[str]) -> list[Case]:
    """Return the cases of these names: `big`, `four`, `small`, `long`."""
    return [_case(shelf, name, sizes) for name in wanted]


def stream_case(shelf: Shelf, sizes: Sizes) -> Case:
    """Return what takes the place of one big file over the line, for tools with one connection a file."""
    return _one_file(shelf, "stream", sizes.stream)


def bad_case(shelf: Shelf, sizes: Sizes) -> Case:
    """Return what is fetched over the bad lines."""
    return _one_file(shelf, "bad", sizes.big * 3 // 8)


def many_case(shelf: Shelf, count: int) -> Case:
    """Return a repo of so many files of 200 bytes, a thousand a folder."""
    files = [(f"part-{number // 1000:04d}/file-{number:06d}.txt", 200) for number in range(count)]
    return shelf.add(f"many-{count}", f"{count:,} files of 200 bytes", files, lfs=False)


def _case(shelf: Shelf, name: str, sizes: Sizes) -> Case:
    match name:
        case "big":
            return _one_file(shelf, name, sizes.big)
        case "long":
            return _one_file(shelf, name, sizes.long)
        case "four":
            size = sizes.big // 4
            files = [(f"model-{number:05d}-of-00004.safetensors", size) for number in range(1, 5)]
            return shelf.add(name, f"4 files of {_size(size)}", files, lfs=True)
        case "small":
            files = [(f"part-{number:05d}.json", sizes.small_file) for number in range(sizes.small_files)]
            about = f"{sizes.small_files} files of {sizes.small_file // KB} KB"
            return shelf.add(name, about, files, lfs=False)
    raise ValueError(name)


def _one_file(shelf: Shelf, name: str, size: int) -> Case:
    return shelf.add(name, f"1 file of {_size(size)}", [("model.safetensors", size)], lfs=True)


def _size(size: int) -> str:
    return f"{size // (1 << 30)} GiB" if size % (1 << 30) == 0 else f"{size // MiB} MiB"
