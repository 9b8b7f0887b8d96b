"""Notes in the ledger what hashing proved, only after the bytes are durable; without a place to write it forgets."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fetchverify.core.facts import Answer, How, Question
from fetchverify.errors import DiskError
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Proofs

# One sync of the whole file system costs less than this many of single files.
_MANY = 16
_BATCH_FILES = 4096
_BATCH_BYTES = 8 << 30


class Learner:
    """Takes answers from any thread; `close` notes what is left."""

    def __init__(self, disk: Disk, proofs: Proofs, root: Path) -> None:
        self._disk = disk
        self._proofs = proofs
        self._root = root
        self._lock = threading.Lock()
        self._waiting: list[Question] = []
        self._bytes = 0
        self._closed = not os.access(root, os.W_OK)

    def learn(self, question: Question, answer: Answer) -> None:
        """Take what was found out about one file."""
        if question.digest is None or self._closed:
            return
        if answer.how is How.DIFFERS:
            if self._proofs.knows(question.digest, question.state):
                self._try(lambda digest=question.digest: self._proofs.forget(digest, question.state))
            return
        if answer.how is not How.HASHED:
            return
        with self._lock:
            self._waiting.append(question)
            self._bytes += question.state.st_size
            if len(self._waiting) < _BATCH_FILES and self._bytes < _BATCH_BYTES:
                return
            batch = self._take()
        self._note(batch)

    def _take(self) -> list[Question]:
        batch, self._waiting, self._bytes = self._waiting, [], 0
        return batch

    def close(self) -> None:
        """Note what is left; blocks."""
        with self._lock:
            batch = self._take()
        if batch:
            self._note(batch)

    def _note(self, batch: list[Question]) -> None:
        def work() -> None:
            # Whoever wrote the files may not have synced them: a power cut must not leave a proof of lost bytes.
            together = len(batch) > _MANY and self._disk.sync_file_system(self._root)
            for question in batch:
                place = Path(question.where)
                try:
                    if not together:
                        self._disk.fsync_path(place)
                    seen = place.lstat()
                except (OSError, DiskError):
                    continue
                assert question.digest is not None
                self._proofs.add(question.digest, seen, hashed=question.state)
            self._proofs.flush()

        self._try(work)

    def _try(self, work: object) -> None:
        assert callable(work)
        try:
            work()
        except DiskError:
            self._closed = True  # read-only or full: verifying goes on, and the next run hashes again
