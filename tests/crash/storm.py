"""What a storm of kills is made of: hubs with one world, a reader who looks all the time, and the accounts of a life.

A life is one target from nothing to the end of its first run that was not killed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import scan_cache_dir

from fetchverify.core.blocks import BLOCK_SIZE, HEADER_SIZE, RECORD_SIZE, Tiling
from mock_server import MiB, MockHub, Seeded, Trickle, World
from mock_server.world import FileValue, Repo
from tests.shims import compiler, preload

LARGE = {"w.bin": 44 * MiB + 12345, "v.bin": 17 * MiB}
SMALL = {"config.json": b"{}\n", "sub/tiny.bin": b"t" * 5000, "sub/note.txt": b"n" * 300}
REPO_ID = "org/model"
CONNECTIONS = (1, 2, 4, 16)
RATE = 24 * MiB  # a connection; slow enough to be killed between any two blocks


def files_of(seed: str) -> dict[str, FileValue | None]:
    """Return a repo's files; another seed, other large ones."""
    return {**SMALL, **{path: Seeded(size, seed=f"{seed}:{path}") for path, size in LARGE.items()}}


class TwoHubs:
    """A Hub and its mirror: two endpoints, one world."""

    def __init__(self, seed: str) -> None:
        self.world = World()
        self.repo: Repo = self.world.add(REPO_ID, files_of(seed))
        self.hubs = (MockHub(self.world), MockHub(self.world))
        for hub in self.hubs:
            hub.fault(Trickle(rate=RATE))

    def __enter__(self) -> TwoHubs:
        for hub in self.hubs:
            hub.start()
        return self

    def __exit__(self, *_: object) -> None:
        for hub in self.hubs:
            hub.close()

    def sent(self, path: str) -> int:
        """Return the bytes of a file that were sent since the last `clear`."""
        return sum(hub.ledger.bytes_sent(path) for hub in self.hubs)

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """Return what was asked of a file since the last `clear`."""
        return [span for hub in self.hubs for span in hub.ledger.ranges(path)]

    def settle(self) -> None:
        """Wait until nothing is being sent any more: the client is gone, and the sockets say so."""
        until = time.monotonic() + 10
        while any(record.t_end is None for hub in self.hubs for record in hub.ledger.requests()):
            assert time.monotonic() < until, "a request to a dead client does not end"
            time.sleep(0.002)

    def clear(self) -> None:
        """Begin a new account."""
        for hub in self.hubs:
            hub.ledger.clear()

    def digests(self, commit: str) -> dict[str, str]:
        """Return the sha256 of each file of a commit."""
        return {path: file.content.sha256() for path, file in self.repo.commits[commit].files.items()}


class Reader:
    """Looks at a cache or a folder as others do: what has a name must be whole, whatever happens around it."""

    def __init__(self, hubs: TwoHubs, target: Path, *, plain: bool) -> None:
        self._hubs = hubs
        self._target = target
        self._plain = plain
        self._right: set[tuple[str, int, int, int]] = set()
        self._stop = threading.Event()
        self._wrong: list[str] = []
        self.files_seen = 0

    def look(self) -> list[str]:
        """Return what is wrong now; empty where readers are safe."""
        return self._look_at_folder() if self._plain else self._look_at_cache()

    def _look_at_folder(self) -> list[str]:
        allowed = {path: set[str]() for path in (*SMALL, *LARGE, "README.md")}
        for commit in self._hubs.repo.commits:
            for path, digest in self._hubs.digests(commit).items():
                allowed[path].add(digest)
        return [
            f"{path} is not whole"
            for path, digests in allowed.items()
            if not self._whole(self._target / path, digests, absent=True)
        ]

    def _look_at_cache(self) -> list[str]:
        root = self._target / "models--org--model"
        wrong = []
        for commit in self._hubs.repo.commits:
            for path, digest in self._hubs.digests(commit).items():
                if not self._whole(root / "snapshots" / commit / path, {digest}, absent=True):
                    wrong.append(f"{commit[:8]}/{path} is a name without its bytes")
        for ref in (root / "refs").rglob("*"):
            if not ref.is_file():
                continue
            for path, digest in self._hubs.digests(ref.read_text()).items():
                if not self._whole(root / "snapshots" / ref.read_text() / path, {digest}, absent=False):
                    wrong.append(f"the ref {ref.name} names a snapshot without {path}")
        if root.is_dir():
            # It warns of whatever the hub's own tools call corrupted.
            wrong += [str(warning) for warning in scan_cache_dir(self._target).warnings]
        return wrong

    def _whole(self, path: Path, digests: set[str], *, absent: bool) -> bool:
        try:
            found = path.lstat()
        except FileNotFoundError:
            return absent
        try:
            with path.open("rb") as file:
                behind = os.fstat(file.fileno())
                key = (str(sorted(digests)), behind.st_ino, behind.st_size, behind.st_mtime_ns)
                if key not in self._right:
                    if hashlib.file_digest(file, "sha256").hexdigest() not in digests:
                        return False
                    self._right.add(key)
        except FileNotFoundError:
            # A link that leads nowhere; but a link that was replaced between our two looks is none.
            return path.lstat().st_ino != found.st_ino
        self.files_seen += 1
        return True

    def __enter__(self) -> Reader:
        self._stop.clear()
        self._thread = threading.Thread(target=self._go_on_looking)
        self._thread.start()
        return self

    def _go_on_looking(self) -> None:
        while not self._stop.wait(0.03):
            self._wrong += self.look()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._wrong, self._wrong


@dataclass(slots=True)
class Account:
    """What was sent and what was allowed, over many lives; bytes of the large files."""

    kills: int = 0
    lives: int = 0
    sent: int = 0
    owed: int = 0
    allowed_waste: int = 0
    looks: int = 0
    turns: dict[str, int] = field(default_factory=dict)

    def turn(self, name: str) -> None:
        """Count what was changed between two runs."""
        self.turns[name] = self.turns.get(name, 0) + 1

    @property
    def waste(self) -> int:
        """Bytes that were sent more than once."""
        return self.sent - self.owed

    def __str__(self) -> str:
        turns = ", ".join(f"{count} {name}" for name, count in sorted(self.turns.items()))
        return (
            f"{self.kills} kills survived in {self.lives} lives; {self.sent / MiB:.0f} MiB sent, "
            f"{self.waste / MiB:.0f} MiB of them twice ({self.allowed_waste / MiB:.0f} MiB allowed); changed: {turns}"
        )


def _recorded(journal: Path) -> frozenset[int]:
    """Return the indexes of a journal's whole records; read by hand, for the reader under test may be wrong."""
    records = journal.read_bytes()[HEADER_SIZE:]
    whole = range(0, len(records) - RECORD_SIZE + 1, RECORD_SIZE)
    return frozenset(int.from_bytes(records[at : at + 8], "little") for at in whole)


class Life:
    """One target, killed again and again until a run comes through."""

    def __init__(self, rng: random.Random, hubs: TwoHubs, where: Path, account: Account) -> None:
        self._rng = rng
        self._hubs = hubs
        self._account = account
        self._plain = rng.random() < 0.25
        self._where = where
        self._moves = 0
        self._connections = 4
        self._hub = hubs.hubs[0]
        self._revision = "main"
        self._clock: dict[str, str] = {}
        self._sent = 0
        self._kills = 0
        self._allowed = 0

    @property
    def _target(self) -> Path:
        return self._where / f"target-{self._moves}"

    def run(self, most_kills: int) -> None:
        """Start and kill; without a kill left, let the run come through. Ends when one did."""
        while True:
            if self._round(kill=self._kills < most_kills):
                break
        self._account.lives += 1
        self._account.kills += self._kills
        self._account.sent += self._sent
        self._account.owed += sum(LARGE.values())
        self._account.allowed_waste += self._allowed
        twice = self._sent - sum(LARGE.values())
        assert twice <= self._allowed, f"{twice} bytes sent twice: more than an unfinished block a connection a kill"

    def _round(self, *, kill: bool) -> bool:
        """Run once; True where it came through."""
        if self._kills:
            self._change_something()
        landed = {path: self._landed(path) for path in LARGE}
        missing = sum(LARGE.values()) - sum(self._bytes(path, indexes) for path, indexes in landed.items())
        self._hubs.clear()
        reader = Reader(self._hubs, self._target, plain=self._plain)
        with reader:
            process = self._start()
            if kill:
                self._wait_for_the_moment(process, missing)
                process.send_signal(signal.SIGKILL)
            _, err = process.communicate(timeout=120)
        self._account.looks += reader.files_seen
        self._hubs.settle()
        came_through = process.returncode == 0
        assert came_through or (kill and process.returncode == -signal.SIGKILL), err
        assert not (wrong := reader.look()), wrong
        for path, indexes in landed.items():
            self._check_nothing_was_asked_twice(path, indexes)
        self._sent += sum(self._hubs.sent(path) for path in LARGE)
        if came_through:
            left = list(self._target.rglob(".fetchverify/partial/*"))
            assert not left, left
            assert len(SMALL) + len(LARGE) <= reader.files_seen
        else:
            self._kills += 1
            self._allowed += self._connections * BLOCK_SIZE
        return came_through

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fetchverify", "get", REPO_ID, "-r", self._revision, "-v"]
        command += ["--endpoint", self._hub.endpoint, "--connections", str(self._connections)]
        command += ["--cache-dir", str(self._target)]
        if self._plain:
            command[-2:] = ["--to", str(self._target), "--cache-dir", str(self._where / "no-cache")]
        env = os.environ | {"HF_TOKEN": "", "HF_HUB_OFFLINE": "0"} | self._clock
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def _wait_for_the_moment(self, process: subprocess.Popen[str], missing: int) -> None:
        """Wait for a random moment: in time, in bytes, or about the end, where names are given."""
        rng = self._rng
        how = rng.choice(("time", "bytes", "bytes", "bytes", "end"))
        until = time.monotonic() + (rng.uniform(0, 1.5) if how == "time" else 60)
        # Squared: more often early than late, or most lives would be short.
        goal = missing if how == "end" else int(missing * rng.random() ** 2)
        while process.poll() is None and time.monotonic() < until:
            if how != "time" and sum(self._hubs.sent(path) for path in LARGE) >= goal:
                time.sleep(rng.uniform(0, 0.15 if how == "end" else 0.02))
                return
            time.sleep(0.002)

    def _change_something(self) -> None:
        rng, account = self._rng, self._account
        if rng.random() < 0.3:
            self._connections = rng.choice([n for n in CONNECTIONS if n != self._connections])
            account.turn("--connections")
        if rng.random() < 0.3:
            self._hub = self._hubs.hubs[self._hub is self._hubs.hubs[0]]
            account.turn("--endpoint")
        if rng.random() < 0.2:
            self._revision = rng.choice([name for name in ("main", "other") if name != self._revision])
            account.turn("--revision")
        if rng.random() < 0.2 and compiler() is not None:
            days = rng.choice((-4000, -30, -1, 1, 30))
            self._clock = {**preload("clock"), "FAKE_CLOCK_OFFSET_S": str(days * 86400)}
            account.turn("clock")
        if rng.random() < 0.2 and self._target.exists():
            old = self._target
            self._moves += 1
            if rng.random() < 0.5:
                old.rename(self._target)
                account.turn("folder moved")
            else:
                shutil.copytree(old, self._target, symlinks=True)
                shutil.rmtree(old)
                account.turn("folder copied")

    def _landed(self, path: str) -> frozenset[int]:
        """Return the blocks that journals vouch for, or all where the file is published already."""
        file = self._hubs.repo.file(path)
        tiling = Tiling(size=file.size, block_size=BLOCK_SIZE)
        root = self._target if self._plain else self._target / "models--org--model"
        published = root / path if self._plain else root / "blobs" / file.etag()
        if published.exists():
            return frozenset(range(tiling.count))
        journals = root.glob(f".fetchverify/partial/sha256-{file.etag()}*/journal")
        return max((_recorded(journal) for journal in journals), key=len, default=frozenset())

    @staticmethod
    def _bytes(path: str, indexes: frozenset[int]) -> int:
        tiling = Tiling(size=LARGE[path], block_size=BLOCK_SIZE)
        return sum(len(tiling.block(index)) for index in indexes)

    def _check_nothing_was_asked_twice(self, path: str, landed: frozenset[int]) -> None:
        for start, stop in self._hubs.ranges(path):
            asked = set(range(start // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE + 1))
            assert not asked & landed, f"{path}: blocks {sorted(asked & landed)} had landed, and were asked for again"
