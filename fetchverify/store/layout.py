"""What every target on disk can do: observe, begin, lock, publish, unpublish, finish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from fetchverify.core.leftover import Leftover
from fetchverify.core.manifest import Commit, Manifest, RemoteFile, RepoPath
from fetchverify.core.plan import Copy, Seen
from fetchverify.store.hublock import OnWait
from fetchverify.store.proofs import Proofs

How: TypeAlias = Literal["linked", "reflink", "copy"]


class Layout(Protocol):
    """A target: the hub's cache of one repo, or a plain folder. Methods block; all may be called from any thread.

    `observe` or `begin` comes first and binds the layout to its manifest. Publishing keeps one order, so that
    neither a reader nor a power cut sees a name without its bytes: durable data, its final name, links, ref.
    """

    @property
    def area(self) -> Path:
        """Our own folder, on the target's file system."""

    @property
    def target(self) -> Path:
        """Where readers look: the snapshot folder, or DIR."""

    @property
    def copies_cost_space(self) -> bool:
        """True where a second path of the same digest is a second file."""

    @property
    def proofs(self) -> Proofs:
        """The ledger of what was verified."""

    def observe(self, manifest: Manifest, files: Sequence[RemoteFile]) -> Mapping[RepoPath, Seen]:
        """Return what lies on disk for each of `files`; looks at names and sizes, reads no data, writes nothing."""

    def begin(self, manifest: Manifest) -> None:
        """Make the target ready to be written to, and store the full listing; before the first partial."""

    def read_tree(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """Return the cached listing of a commit; None where it is absent or in any way invalid."""

    def read_ref(self, revision: str) -> Commit | None:
        """Return the commit that a finished run last saw under this revision; a commit stands for itself."""

    def lock(self, file: RemoteFile, on_wait: OnWait, timeout_s: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock that the hub's own client takes for this file; enter and leave it in one thread.

        Args:
            file: what is about to be published.
            on_wait: called about once a second while waiting, with what is waited for and for how long; it may raise
                to give up.
            timeout_s: how long to wait; None is for ever, 0 only tries.

        Raises:
            LockedError: the time is up.
        """

    def publish_data(self, files: Sequence[RemoteFile], data: Path) -> None:
        """Give a file in our area its final name under every path of `files`, and note the proof.

        Args:
            files: all of one digest.
            data: proved, durable, without a writable descriptor anywhere.
        """

    def publish_copy(self, file: RemoteFile, source: Copy) -> How:
        """Publish from proved bytes that lie on disk already; the source stays as it is."""

    def publish_bytes(self, file: RemoteFile, data: bytes) -> None:
        """Publish a small proved file."""

    def publish_many(self, contents: Sequence[tuple[RemoteFile, bytes]]) -> None:
        """Publish many small proved files at the price of few syncs."""

    def leftovers(self, file: RemoteFile) -> Iterable[Leftover]:
        """Return what others left of a download of this file; call it under the file's lock."""

    def unpublish(self, file: RemoteFile) -> Path | None:
        """Take bad bytes away from readers, and return where they lie, for quarantine to move.

        Bytes that the ledger knows under the promised digest are not bad: they stay, and the next publishing
        replaces them in one step. None also where the bytes are not ours to move (a link that led elsewhere, a
        payload that other repos share).
        """

    def finish(self, manifest: Manifest) -> None:
        """Make everything durable and let the ref move; only when every selected file is published."""
