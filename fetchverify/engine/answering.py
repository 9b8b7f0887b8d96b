"""Answers questions about files' bytes, in threads that share one list of work; asking is left to `core.judging`."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Sequence

import xxhash

from fetchverify.core.blocks import BlockMap, MiB
from fetchverify.core.facts import HEAD_BYTES, Answer, How, Question, State
from fetchverify.engine.hashing import new_buffer, new_hash

# A file of which nothing is in memory leaves nothing there, either, from this size: reading 500 GB must not push
# out what other programs work with. Smaller ones cost more to ask about than they hold.
_LARGE = 8 * MiB
_NO_TRACE = getattr(os, "O_NOATIME", 0)
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # no link, and no waiting for a pipe's writer


class Work:
    """One list of questions, and how far its answers are; `run` is called in as many threads as there are cores.

    Args:
        questions: largest first is fastest.
        block_map: the stored map of a proved file.
        quick: compare blocks only, and leave alone what has no block map.
        blocks_first: where there is a block map, compare its blocks before the whole is hashed: what is damaged
            costs a tenth of the time, and what is not that tenth more.
        done: called in the answering thread.
        stopped: makes every thread return soon.

    Attributes:
        answers: by the questions' keys.
        files: answered so far.
        size: bytes read so far, of those answered and of those under way.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        block_map: Callable[[Question], BlockMap | None],
        quick: bool,
        blocks_first: bool,
        done: Callable[[Question, Answer], None],
        stopped: threading.Event,
    ) -> None:
        self._questions = iter(questions)
        self._block_map = block_map
        self._quick = quick
        self._blocks_first = blocks_first
        self._done = done
        self._stopped = stopped
        self._lock = threading.Lock()
        self._read: dict[int, int] = {}
        self.answers: dict[str, Answer] = {}

    @property
    def files(self) -> int:
        """Files answered so far."""
        return len(self.answers)

    @property
    def size(self) -> int:
        """Bytes read so far."""
        return sum(tuple(self._read.values()))

    def run(self) -> None:
        """Answer until no question is left, or `stopped` is set; blocks."""
        reader = _Reader(self._stopped)
        me = threading.get_ident()
        while not self._stopped.is_set():
            with self._lock:
                question = next(self._questions, None)
                before = self._read.get(me, 0)
            if question is None:
                return

            def count(done: int, before: int = before) -> None:
                self._read[me] = before + done

            answer = self._answer(question, reader, count)
            if self._stopped.is_set():
                return  # cut short: not to be taken for a mismatch
            self._done(question, answer)
            self.answers[question.key] = answer

    def _answer(self, question: Question, reader: _Reader, count: Callable[[int], None]) -> Answer:
        try:
            fd = _open(question.where)
        except FileNotFoundError:
            return Answer(How.CHANGED, detail="it is gone by now")
        except OSError as error:
            return Answer(How.UNREADABLE, detail=(error.strerror or "it cannot be opened").lower())
        try:
            if not _is(fd, question.state):
                return Answer(How.CHANGED)
            cold = question.state.st_size >= _LARGE and _is_cold(fd, question.state.st_size)
            answer = self._measured(fd, question, reader, count)
            if cold:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return answer if _is(fd, question.state) else Answer(How.CHANGED)
        except OSError as error:
            # A bad sector (EIO), a share that went away.
            return Answer(How.UNREADABLE, detail=(error.strerror or "it cannot be read").lower())
        finally:
            os.close(fd)

    def _measured(self, fd: int, question: Question, reader: _Reader, count: Callable[[int], None]) -> Answer:
        state, digest = question.state, question.digest
        if digest is None:
            return Answer(How.UNASKED, head=os.pread(fd, HEAD_BYTES, 0))
        if question.size is not None and question.size != state.st_size:
            return Answer(How.DIFFERS, head=os.pread(fd, HEAD_BYTES, 0))
        if self._quick or self._blocks_first:
            kept = self._block_map(question)
            if kept is not None:
                bad = reader.bad_blocks(fd, kept, count if self._quick else lambda done: None)
                if bad:
                    return Answer(How.DIFFERS, blocks=bad, head=os.pread(fd, HEAD_BYTES, 0))
            if self._quick:
                return Answer(How.UNASKED if kept is None else How.BLOCKS)
            os.lseek(fd, 0, os.SEEK_SET)
        came = reader.hash(fd, state, question, count)
        if came == digest.hex:
            return Answer(How.HASHED)
        # Only now: hashing each block besides would cost every good file what only a bad one needs.
        kept = self._block_map(question)
        blocks = None if kept is None else reader.bad_blocks(fd, kept, lambda done: None)
        return Answer(How.DIFFERS, came=came, blocks=blocks, head=os.pread(fd, HEAD_BYTES, 0))


class _Reader:
    """One thread's buffer, and the ways to read a file through it."""

    def __init__(self, stopped: threading.Event) -> None:
        self._buffer = new_buffer()
        self._stopped = stopped

    def hash(self, fd: int, state: State, question: Question, count: Callable[[int], None]) -> str | None:
        """Return the hex digest; None where the file turned out longer or shorter than its state says."""
        assert question.digest is not None
        digest, done, buffer, size = new_hash(question.digest, state.st_size), 0, self._buffer, state.st_size
        while done < size:
            length = os.readv(fd, [buffer])
            if not length or self._stopped.is_set():
                return None
            digest.update(buffer[:length])
            done += length
            count(done)
        return digest.hexdigest() if done == size else None

    def bad_blocks(self, fd: int, block_map: BlockMap, count: Callable[[int], None]) -> tuple[int, ...]:
        """Return the indexes of the blocks whose bytes are not those of the map."""
        tiling, buffer, bad = block_map.tiling, self._buffer, []
        os.lseek(fd, 0, os.SEEK_SET)
        done = 0
        for index in range(tiling.count):
            left = len(tiling.block(index))
            check = xxhash.xxh3_128()
            while left and not self._stopped.is_set():
                length = os.readv(fd, [buffer[: min(left, len(buffer))]])
                if not length:
                    break
                check.update(buffer[:length])
                left -= length
                done += length
                count(done)
            if left or check.digest() != block_map.hashes[index]:
                bad.append(index)
        return tuple(bad)


def _open(path: str) -> int:
    """Open a file to read it; where it is ours, without a trace: a purge goes by when it was used."""
    try:
        return os.open(path, _OPEN | _NO_TRACE)
    except PermissionError:
        return os.open(path, _OPEN)


def _is(fd: int, state: State) -> bool:
    """Return True where the open file is the one that was seen, unchanged."""
    seen = os.fstat(fd)
    same = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return stat.S_ISREG(seen.st_mode) and same == (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


def _is_cold(fd: int, size: int) -> bool:
    """Return True where neither the file's beginning, middle nor end lie in memory; False where that is not told."""
    nowait = getattr(os, "RWF_NOWAIT", None)
    if nowait is None:
        return False
    probe = bytearray(1)
    for offset in (0, size // 2, size - 1):
        try:
            os.preadv(fd, [probe], offset, nowait)
            return False
        except BlockingIOError:
            continue
        except OSError:  # the file system cannot tell
            return False
    return True
