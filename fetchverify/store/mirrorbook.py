"""Where a mirror keeps what it knows, and the lock that lets one run at a time change it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fetchverify.core import mirrorstate
from fetchverify.core.manifest import RepoRef
from fetchverify.core.mirrorconfig import MirrorLayout
from fetchverify.core.mirrorstate import RepoState
from fetchverify.errors import DiskError, LockedError
from fetchverify.store import owner
from fetchverify.store.area import AREA_NAME
from fetchverify.store.disk import Disk
from fetchverify.store.holders import process
from fetchverify.store.hublock import OnWait, hub_lock

_MOST = 1 << 30
_TRIES = 5
_LATEST = 1e12


def _locked(holder: str | None) -> LockedError:
    who = holder or "another process"
    return LockedError(
        f"{who} is at work on this mirror", hint="wait for it with `--wait`, or let the next run do it", holder=who
    )


class MirrorBook:
    """The state of a mirror; each file is replaced whole, so a crash leaves the old or the new.

    In a cache it lies in `.locks`, which is the one folder there that the hub's scanner passes over.
    """

    def __init__(self, disk: Disk, folder: Path, layout: MirrorLayout) -> None:
        self._disk = disk
        self.path = folder / ".locks" / "fetchverify-mirror" if layout == "cache" else folder / AREA_NAME

    @contextmanager
    def lock(self, on_wait: OnWait, timeout_s: float | None) -> Iterator[None]:
        """Be the only run on this mirror.

        Raises:
            LockedError: another one is, and the time is up.
        """
        self._disk.make_dirs(self.path)
        with ExitStack() as stack:
            try:
                stack.enter_context(hub_lock(self._disk, self.path / "lock", on_wait, timeout_s))
            except LockedError as error:
                raise _locked(error.holder) from error
            stack.enter_context(self._only_one())
            yield

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Leave word of this process: on some Lustre, GPFS and NFS mounts a lock is everybody's.

        Whoever is not provably alive on this machine is passed over, or one crash would stop a mirror for ever.
        """
        me = owner.myself()
        hold = None
        try:
            for _ in range(_TRIES):
                tenancy = owner.look(self.path, me)
                if tenancy.life is owner.Life.LIVE:
                    raise _locked(None if tenancy.owner is None else process(tenancy.owner.pid))
                hold = owner.claim(self._disk, self.path, tenancy, me)
                if hold is not None:
                    break
            else:
                raise _locked(None)
        except DiskError:
            pass  # full or read-only, which the run itself will say; the lock alone has to do
        try:
            yield
        finally:
            if hold is not None:
                # The dead first: who looks meanwhile finds nobody, or us.
                for path in self.path.glob("owner*"):
                    if path != hold.path:
                        self._disk.unlink(path, missing_ok=True)
                hold.release()

    def load(self) -> dict[RepoRef, RepoState]:
        """Return the states that the last run noted; none where there was no run."""
        try:
            with (self.path / "state").open(encoding="utf-8", errors="replace", newline="\n") as lines:
                return mirrorstate.parse(lines)
        except OSError:
            return {}

    def save(self, states: Iterable[RepoState]) -> None:
        """Note the states."""
        self._disk.make_dirs(self.path)
        text = io.BytesIO()  # whose value is no copy
        for line in mirrorstate.render(states):
            text.write(line.encode())
        self._disk.write_file(self.path / "state", text.getvalue())

    def load_proofs(self) -> dict[str, float]:
        """Return when each file was last hashed, by the name that `mirror verify` gave it."""
        try:
            body = json.loads(self._read("proofs") or "{}")
        except (ValueError, RecursionError):
            return {}
        if not isinstance(body, dict):
            return {}
        times = {name: when for name, when in body.items() if isinstance(when, int | float)}
        return {name: float(when) for name, when in times.items() if 0 <= when < _LATEST}

    def save_proofs(self, proofs: dict[str, float]) -> None:
        """Note when each file was last hashed."""
        self._disk.make_dirs(self.path)
        self._disk.write_file(self.path / "proofs", json.dumps(proofs).encode() + b"\n")

    def _read(self, name: str) -> str:
        try:
            with (self.path / name).open("rb") as file:
                # Of its own length: a buffer of the most that we take would be allocated at once.
                most = min(_MOST, os.fstat(file.fileno()).st_size)
                return file.read(most).decode(errors="replace")
        except OSError:
            return ""
