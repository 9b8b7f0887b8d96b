"""The commands that write, each with what lay there before: what is replayed, killed and cut off from power.

To have another one tried, add a line to `CASES`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import xxhash

from fetchverify import cli
from fetchverify.store.disk import Disk
from fetchverify.store.hubcache import HubCache
from fetchverify.store.partial import Partial
from mock_server import KiB, MiB, MockHub, Seeded, World
from tests.crash import laws
from tests.crash.model import File, Tree, seal

REPO = "org/model"
CACHE_ROOT = "cache/models--org--model"
VERSIONS_ROOT = f"here/{REPO}"
BIG, MIDDLE = "weights/big.safetensors", "middle.bin"
FILES: dict[str, bytes] = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}\n',
    "empty.txt": b"",
    "sub/twin.json": b'{"architectures": ["LlamaForCausalLM"]}\n',
    "sub/deeper/vocab.txt": Seeded(70 * KiB, seed="vocab").read(0, 70 * KiB),
    MIDDLE: Seeded(1536 * KiB, seed="middle").read(0, 1536 * KiB),
    BIG: Seeded(17 * MiB + 5, seed="big").read(0, 17 * MiB + 5),
}
CHANGED = {"config.json": b'{"architectures": ["Other"]}\n', MIDDLE: Seeded(1100 * KiB, seed="m2").read(0, 1100 * KiB)}


Into: TypeAlias = Literal["cache", "folder", "clone", "versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A Hub, and the folder in which a command may write."""

    hub: MockHub
    place: Path

    def get(self, *more: str) -> list[str]:
        """Return the words of a `get` into the cache."""
        words = ["get", REPO, "--endpoint", self.hub.endpoint, "--cache-dir", str(self.place / "cache"), "--json"]
        return [*words, "--connections", "4", *more]

    def get_to(self, *more: str) -> list[str]:
        """Return the words of a `get` into a folder."""
        return self.get("--to", str(self.place / "here"), *more)

    def pull(self, *more: str) -> list[str]:
        """Return the words of a `pull` in a clone."""
        return ["pull", str(self.place / "here"), "--cache-dir", str(self.place / "cache"), "--json", *more]

    def fix(self) -> list[str]:
        """Return the words of a `fix-cache` of the whole cache."""
        return ["fix-cache", "--endpoint", self.hub.endpoint, "--cache-dir", str(self.place / "cache"), "--json"]

    def sync(self) -> list[str]:
        """Return the words of a `mirror sync`."""
        return ["mirror", "sync", str(self.place / "mirror.toml"), "--now", "--json"]

    def get_locked(self) -> list[str]:
        """Return the words of a `get` of what a lock file pins."""
        _, _, *options = self.get("--locked", str(self.place / "models.lock"))
        return ["get", *options]

    def elsewhere(self, place: Path) -> Setting:
        """Return the same Hub with another folder."""
        return Setting(hub=self.hub, place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One command.

    Attributes:
        words: its command line.
        prepare: makes what lies there before; returns the bytes that a reader may see besides those promised.
        into: which layout's laws hold.
        slow: it has to wait for clocks; fewer re-runs are made.
        ends: exit codes with which it may end on a disk that died in its midst.
    """

    words: Callable[[Setting], list[str]]
    prepare: Callable[[Setting], dict[str, frozenset[bytes]]]
    into: Into = "cache"
    slow: bool = False
    ends: frozenset[int] = frozenset({5})

    def promise(self, setting: Setting, before: dict[str, frozenset[bytes]]) -> laws.Promise:
        """Return what the Hub promises at its branch `main`."""
        repo = setting.hub.world.repo(REPO)
        commit = repo.branches["main"]
        files = repo.commits[commit].files
        return laws.Promise(
            commit=commit,
            files={path: file.content.read(0, file.size) for path, file in files.items()},
            lfs=frozenset(path for path, file in files.items() if file.lfs),
            before=before,
        )

    def misled(self, tree: Tree, promise: laws.Promise) -> laws.Problems:
        """Return where a reader could be misled, in the target and in the cache beside it."""
        problems = laws.cache_problems(tree, CACHE_ROOT, promise)
        if self.into == "versions":
            return problems + laws.version_problems(tree, VERSIONS_ROOT, promise, FILES)
        if self.into != "cache":
            problems += laws.folder_problems(tree, "here", promise)
        if self.into == "clone":
            problems += [f"{path} is gone" for path in promise.files if f"here/{path}" not in tree]
        return problems

    def unproved(self, tree: Tree, promise: laws.Promise) -> int:
        """Return the bytes that were published without being what was promised."""
        return laws.newly_unproved_bytes(tree, promise, None if self.into == "cache" else self._folder(promise))

    def _folder(self, promise: laws.Promise) -> str:
        return f"{VERSIONS_ROOT}/{promise.commit}" if self.into == "versions" else "here"

    def missing(self, tree: Tree, promise: laws.Promise) -> laws.Problems:
        """Return what a run that ended well owes."""
        if self.into == "cache":
            return laws.missing_from_cache(tree, CACHE_ROOT, promise)
        return laws.missing_from_folder(tree, self._folder(promise), promise)

    def most_to_fetch(self, tree: Tree, promise: laws.Promise, path: str) -> int:
        """Return the bytes of a file that a run may fetch, given what lies there."""
        incoming = f"{VERSIONS_ROOT}/.incoming/{promise.commit}"
        spots = [f"{CACHE_ROOT}/blobs/{promise.digest(path).hex}", f"{self._folder(promise)}/{path}"]
        spots.append(f"{incoming}/{path}")
        if any(isinstance(n := tree.get(spot), File) and n.seal == promise.seals[path] for spot in spots):
            return 0
        area = f"{incoming}/.fetchverify" if self.into == "versions" else _AREAS[self.into]
        return laws.still_to_fetch(tree, area, promise, path)


_AREAS: dict[str, str] = {
    "cache": f"{CACHE_ROOT}/.fetchverify",
    "folder": "here/.fetchverify",
    "clone": "here/.git/fetchverify",
}


def new_world() -> World:
    """Return a world with the repo."""
    world = World()
    world.add(REPO, dict(FILES))
    return world


# --- what lies there before


def nothing(_: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare an empty place."""
    return {}


def partly(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a partial: one block is right, one is vouched for and lost its bytes, one never came."""
    data = FILES[BIG]
    area = HubCache.for_repo(Disk(), setting.place / "cache", "model", REPO).area
    with Partial.open(Disk(), area, laws.digest_of(data, lfs=True), len(data)) as partial:
        first, second = partial.tiling.block(0), partial.tiling.block(1)
        partial.write(data[first.start : first.stop], first.start)
        for index, block in enumerate((first, second)):
            partial.record(index, xxhash.xxh3_128_digest(data[block.start : block.stop]))
    return {}


def rotten(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a cache whose largest blob and a small one rotted, in two snapshots."""
    must(setting.get())
    setting.hub.world.repo(REPO).commit({"README.md": b"# later\n"})
    must(setting.get())
    before: dict[str, frozenset[bytes]] = {}
    commits = setting.hub.world.repo(REPO).commits
    for path in (BIG, "sub/twin.json"):
        data = bytes([FILES[path][0] ^ 1]) + FILES[path][1:]
        name = laws.digest_of(FILES[path], lfs=path == BIG).hex
        (setting.place / CACHE_ROOT / "blobs" / name).write_bytes(data)
        bad = frozenset([seal(data)])
        before[f"blobs/{name}"] = bad
        before |= {f"snapshots/{c}/{p}": bad for c in commits for p in FILES if FILES[p] == FILES[path]}
    return before


def earlier_in_cache(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a cache that holds the commit before."""
    must(setting.get())
    setting.hub.world.repo(REPO).commit(CHANGED)
    return {}


def earlier_in_folder(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a folder that holds the commit before."""
    must(setting.get_to())
    setting.hub.world.repo(REPO).commit(CHANGED)
    return {path: frozenset([seal(FILES[path])]) for path in CHANGED}


def cloned(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a clone that holds pointers."""
    env = clean_environment() | {
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    words = ["git", "clone", "-q", f"{setting.hub.endpoint}/{REPO}", str(setting.place / "here")]
    subprocess.run(words, env=env, check=True, timeout=60)
    return {path: frozenset([seal((setting.place / "here" / path).read_bytes())]) for path in (BIG, MIDDLE)}


def pinned(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a lock file that pins the repo."""
    must(["lock", REPO, "--endpoint", setting.hub.endpoint, "-o", str(setting.place / "models.lock"), "--json"])
    return {}


def mirrored_in_cache(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a mirror in a cache that holds the commit before."""
    return _mirrored(setting, "cache", "cache")


def mirrored_in_folders(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a mirror in folders that holds the commit before."""
    return _mirrored(setting, "folders", "here")


def _mirrored(setting: Setting, layout: str, folder: str) -> dict[str, frozenset[bytes]]:
    head = f'folder = "{folder}"\nlayout = "{layout}"\nendpoints = ["{setting.hub.endpoint}"]\nconnections = 4\n'
    (setting.place / "mirror.toml").write_text(f'{head}[[repo]]\nid = "{REPO}"\n')
    must(setting.sync())
    setting.hub.world.repo(REPO).commit(CHANGED)
    return {}


def in_cache(setting: Setting) -> dict[str, frozenset[bytes]]:
    """Prepare a cache that holds everything."""
    must(setting.get())
    return {}


CASES = {
    "get": Case(words=Setting.get, prepare=nothing),
    "get, resumed": Case(words=Setting.get, prepare=partly),
    "get, of a later commit": Case(words=Setting.get, prepare=earlier_in_cache),
    "get, over rotten blobs": Case(words=Setting.get, prepare=rotten),
    "fix-cache": Case(words=Setting.fix, prepare=rotten),
    "get --locked": Case(words=Setting.get_locked, prepare=pinned),
    "get --to": Case(words=Setting.get_to, prepare=nothing, into="folder"),
    "get --to, out of the cache": Case(words=Setting.get_to, prepare=in_cache, into="folder"),
    "get --to, of a later commit": Case(words=Setting.get_to, prepare=earlier_in_folder, into="folder"),
    "mirror sync, in a cache": Case(words=Setting.sync, prepare=mirrored_in_cache),
    "mirror sync, in folders": Case(words=Setting.sync, prepare=mirrored_in_folders, into="versions"),
    # Git is asked first: to it, what cannot be read is no clone.
    "pull": Case(words=Setting.pull, prepare=cloned, into="clone", slow=True, ends=frozenset({2, 5})),
}

# --- running


def run_here(words: Iterable[str]) -> tuple[int, list[dict[str, Any]]]:
    """Run the command line in this process; return its exit code and its JSON lines."""
    raw = io.BytesIO()
    out, err = io.TextIOWrapper(raw, "utf-8"), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(words))
        except SystemExit as ended:
            code = int(ended.code or 0)
        out.flush()
    return code, [json.loads(line) for line in raw.getvalue().splitlines()]


def must(words: Iterable[str]) -> list[dict[str, Any]]:
    """Run the command line in this process, where it has to end well."""
    code, lines = run_here(words)
    assert 0 == code, lines[-1]
    return lines


def fetched(lines: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield the bytes fetched of each file, out of a report."""
    for outcome in lines[-1].get("outcomes", ()):
        yield outcome["path"], outcome["fetched"]


def clean_environment() -> dict[str, str]:
    """Return what the environment must not say."""
    return {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PATH": os.environ["PATH"]}
