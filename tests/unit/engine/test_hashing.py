"""The hasher proves what lies on disk: in order, whatever the order of arrival, and never bytes that changed since."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import random
import threading
import time

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.blocks import Tiling
from fetchverify.core.manifest import Digest
from fetchverify.engine.hashing import BUFFER_SIZE, BufferPool, InOrderHash, new_buffer, new_hash
from fetchverify.errors import DiskError


class Disk:
    """A partial in memory."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.reads: list[tuple[int, int]] = []

    def read_into(self, buffer: memoryview, offset: int) -> int:
        self.reads.append((offset, len(buffer)))
        piece = self.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


def a_hasher(disk: Disk, tiling: Tiling, earlier: dict[int, bytes], pool: BufferPool, rotted: list[int]) -> InOrderHash:
    digest = Digest(algo="sha256", hex="0" * 64)
    return InOrderHash(digest, tiling, read_into=disk.read_into, block_hashes=earlier, pool=pool, rotted=rotted.append)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.randoms(use_true_random=False), st.integers(0, 3))
def test_pieces_may_arrive_in_any_order(lengths: list[int], rng: random.Random, buffers: int) -> None:
    """Three connections land their ranges as they please; some pieces no longer fit into memory."""
    content = rng.randbytes(sum(lengths))
    disk, pool = Disk(len(content)), BufferPool(buffers)
    hasher = a_hasher(disk, Tiling(size=len(content), block_size=1 << 20), {}, pool, [])
    offsets = [sum(lengths[:number]) for number in range(len(lengths))]
    pieces = rng.sample(list(zip(offsets, lengths, strict=True)), len(lengths))
    digest: list[str | None] = []
    # Daemons: Hypothesis may end an example anywhere, and a thread left behind would hold up the interpreter's exit.
    thread = threading.Thread(target=lambda: digest.append(hasher.run()), daemon=True)
    thread.start()
    for offset, length in pieces:
        disk.data[offset : offset + length] = content[offset : offset + length]
        buffer = pool.take()
        if buffer is None:
            hasher.wrote(offset, length)
        else:
            buffer[:length] = content[offset : offset + length]
            hasher.offer(offset, buffer, length)
    thread.join(10)
    assert [hashlib.sha256(content).hexdigest()] == digest


def test_what_is_far_ahead_does_not_wait_in_memory() -> None:
    """One slow connection at the frontier must not pin all of it."""
    disk, pool = Disk(80 * BUFFER_SIZE), BufferPool(1)
    hasher = a_hasher(disk, Tiling(size=80 * BUFFER_SIZE), {}, pool, [])
    assert hasher.take(70 * BUFFER_SIZE) is None
    assert hasher.take(60 * BUFFER_SIZE) is not None


def test_what_is_no_longer_in_memory_is_read_in_a_few_large_pieces() -> None:
    content = random.Random(1).randbytes(11 * BUFFER_SIZE - 7)
    disk, pool = Disk(len(content)), BufferPool(1)
    disk.data[:] = content
    hasher = a_hasher(disk, Tiling(size=len(content)), {}, pool, [])
    for offset in range(0, len(content), BUFFER_SIZE):
        if offset == 6 * BUFFER_SIZE:
            buffer = new_buffer()
            buffer[:] = content[offset : offset + BUFFER_SIZE]
            hasher.offer(offset, buffer, BUFFER_SIZE)
        else:
            hasher.wrote(offset, min(BUFFER_SIZE, len(content) - offset))
    assert hashlib.sha256(content).hexdigest() == hasher.run()
    one = BUFFER_SIZE
    assert [(0, 4 * one), (4 * one, 2 * one), (7 * one, 4 * one - 7)] == disk.reads


def test_a_hash_that_cannot_read_on_keeps_neither_buffers_nor_readers() -> None:
    """A dead disk ends a run with exit code 5, and not with readers that wait for ever."""
    disk, pool = Disk(3 * BUFFER_SIZE), BufferPool(1)
    hasher = a_hasher(disk, Tiling(size=3 * BUFFER_SIZE), {}, pool, [])

    def dead(buffer: memoryview, offset: int) -> int:
        raise DiskError("cannot read `data`: Input/output error")

    hasher._read_into = dead
    buffer = hasher.take(BUFFER_SIZE)
    assert buffer is not None
    hasher.offer(BUFFER_SIZE, buffer, BUFFER_SIZE)
    hasher.wrote(0, BUFFER_SIZE)
    hasher.outrun = True
    with pytest.raises(DiskError):
        hasher.run()
    again = hasher.take(2 * BUFFER_SIZE)
    assert again is not None, "the one buffer was given back"
    hasher.offer(2 * BUFFER_SIZE, again, BUFFER_SIZE)
    assert pool.take() is not None, "and what comes late is not kept"
    assert hasher.take(2 * BUFFER_SIZE) is None, "nobody waits"


def test_blocks_of_an_earlier_run_are_checked_and_hashed_in_one_pass() -> None:
    content = random.Random(1).randbytes(1000)
    disk, tiling = Disk(1000), Tiling(size=1000, block_size=300)
    disk.data[:] = content
    earlier = {i: xxhash.xxh3_128_digest(content[i * 300 : (i + 1) * 300]) for i in range(4)}
    hasher = a_hasher(disk, tiling, earlier, BufferPool(0), [])
    assert hashlib.sha256(content).hexdigest() == hasher.run()
    assert [(0, 300), (300, 300), (600, 300), (900, 100)] == disk.reads


def test_a_rotted_block_is_reported_and_hashed_only_when_it_landed_again() -> None:
    """What a power cut lost fails its hash and is fetched again; the blocks before it are not."""
    content = random.Random(2).randbytes(900)
    disk, tiling = Disk(900), Tiling(size=900, block_size=300)
    earlier = {i: xxhash.xxh3_128_digest(content[i * 300 : (i + 1) * 300]) for i in range(3)}
    disk.data[:] = content[:300] + bytes(300) + content[600:]
    rotted: list[int] = []
    hasher = a_hasher(disk, tiling, earlier, BufferPool(0), rotted)
    digest: list[str | None] = []
    thread = threading.Thread(target=lambda: digest.append(hasher.run()))
    thread.start()
    while not rotted:
        thread.join(0.01)
    disk.data[300:600] = content[300:600]
    hasher.wrote(300, 300)
    thread.join(10)
    assert ([1], [hashlib.sha256(content).hexdigest()]) == (rotted, digest)


def test_a_stopped_hasher_returns_soon_and_without_a_digest() -> None:
    hasher = a_hasher(Disk(10), Tiling(size=10), {}, BufferPool(1), [])
    digest: list[str | None] = []
    thread = threading.Thread(target=lambda: digest.append(hasher.run()))
    thread.start()
    hasher.stop()
    thread.join(0.5)
    assert [None] == digest


@pytest.mark.parametrize(
    ("algo", "expected"),
    [
        ("sha256", hashlib.sha256(b"hello\n").hexdigest()),
        ("git-sha1", "ce013625030ba8dba906f756967f9e9ca394464a"),  # printf 'hello\n' | git hash-object --stdin
    ],
)
def test_digests_are_those_of_the_repo(algo: str, expected: str) -> None:
    state = new_hash(Digest(algo=algo, hex=expected), 6)  # type: ignore[arg-type]
    state.update(b"hello\n")
    assert expected == state.hexdigest()


def test_a_reader_far_ahead_of_a_busy_hash_waits_only_for_a_moment() -> None:
    """On a long line its silence would cost more than reading its bytes from disk again."""
    disk, pool = Disk(0), BufferPool(1)
    hasher = a_hasher(disk, Tiling(size=80 * BUFFER_SIZE), {}, pool, [])
    hasher.busy = hasher.outrun = True
    assert hasher.take(60 * BUFFER_SIZE) is not None


def test_a_reader_takes_no_buffer_from_an_empty_pool_unless_the_hash_gives_one_back() -> None:
    """What the hash has to do is what all wait for; where it has nothing to do, the line must not stand still."""
    hasher = a_hasher(Disk(0), Tiling(size=80 * BUFFER_SIZE), {}, pool := BufferPool(1), [])
    buffer = hasher.take(0)
    assert buffer is not None
    assert hasher.take(BUFFER_SIZE) is None
    hasher.busy = True
    assert hasher.take(BUFFER_SIZE) is None, "it is busy for a moment only: the line is what all wait for"
    hasher.outrun = True
    threading.Timer(0.05, pool.give, [buffer]).start()
    assert hasher.take(BUFFER_SIZE) is buffer


def test_a_hash_is_outrun_where_bytes_come_faster_than_it_works() -> None:
    """Resting behind one slow connection, then running through what the others brought, is not being outrun."""
    disk = Disk(80 * BUFFER_SIZE)
    hasher = a_hasher(disk, Tiling(size=80 * BUFFER_SIZE), {}, BufferPool(1), [])
    thread = threading.Thread(target=hasher.run, daemon=True)
    thread.start()
    hasher.look()
    time.sleep(0.2)
    hasher.wrote(0, BUFFER_SIZE)
    time.sleep(0.1)
    assert not hasher.look(), "one buffer in a third of a second"
    for index in range(1, 60):
        hasher.wrote(index * BUFFER_SIZE, BUFFER_SIZE)
    assert hasher.look(), "all others at once"
    hasher.stop()
    thread.join(5)


def test_a_buffer_begins_with_a_page() -> None:
    """16 bytes into one, some processors take five times as long to copy into it from the page cache."""
    assert ctypes.addressof(ctypes.c_char.from_buffer(new_buffer())) % mmap.PAGESIZE == 0
