"""A partial after any history of landings, drops, syncs, kills and torn journals; ledgers after any damage."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fetchverify.core.blocks import HEADER_SIZE, RECORD_SIZE
from fetchverify.core.manifest import Digest
from fetchverify.store.disk import Disk
from fetchverify.store.partial import Partial, landed_bytes
from fetchverify.store.proofs import Proofs

DIGEST = Digest(algo="sha256", hex="ab" * 32)


class PartialHistory(RuleBasedStateMachine):
    """What is said to have landed has its bytes, and what landed is lost by harm only."""

    def __init__(self) -> None:
        super().__init__()
        self.area = Path(tempfile.mkdtemp(prefix="partial-history-"))
        self.partial: Partial | None = None
        self.order: list[int] = []  # records in the journal, in order

    @initialize(size=st.integers(0, 600), block_size=st.integers(1, 90), seed=st.integers(0, 9))
    def begin(self, size: int, block_size: int, seed: int) -> None:
        self.data = bytes((seed + 7 * number) % 251 for number in range(size))
        self.block_size = block_size
        self.open()

    def open(self) -> None:
        self.partial = Partial.open(Disk(), self.area, DIGEST, len(self.data), block_size=self.block_size)
        assert set(self.order) == set(self.partial.landed.hashes)

    @property
    def now(self) -> Partial:
        assert self.partial is not None
        return self.partial

    @rule(choice=st.integers(0, 10_000))
    def land(self, choice: int) -> None:
        if missing := self.now.landed.missing():
            index = missing[choice % len(missing)]
            block = self.now.tiling.block(index)
            piece = self.data[block.start : block.stop]
            middle = len(piece) // 2  # in two writes, the later half first
            self.now.write(piece[middle:], block.start + middle)
            self.now.write(piece[:middle], block.start)
            self.now.record(index, xxhash.xxh3_128_digest(piece))
            self.order.append(index)

    @rule(choice=st.integers(0, 10_000))
    def write_without_record(self, choice: int) -> None:
        if missing := self.now.landed.missing():
            self.now.write(b"\xff", self.now.tiling.block(missing[choice % len(missing)]).start)

    @rule(choices=st.sets(st.integers(0, 600), max_size=5))
    def drop(self, choices: set[int]) -> None:
        self.now.drop(choices)
        if choices & set(self.order):  # the journal is written anew
            self.order = [index for index in self.order if index not in choices]

    @rule()
    def sync(self) -> None:
        self.now.sync()
        assert self.now.unsynced_bytes == 0

    @rule()
    def close_and_open(self) -> None:
        self.now.close()
        self.open()

    @rule(cut=st.integers(1, 3 * RECORD_SIZE), tail=st.binary(max_size=40))
    def tear_the_journal(self, cut: int, tail: bytes) -> None:
        self.now.close()
        journal = self.now.path.with_name("journal")
        length = max(HEADER_SIZE, journal.stat().st_size - cut)
        os.truncate(journal, length)
        with journal.open("ab") as file:
            file.write(tail)
        self.order = self.order[: (length - HEADER_SIZE) // RECORD_SIZE]
        self.open()

    @rule(at=st.integers(0, 10_000), bit=st.integers(0, 7))
    def flip_a_bit_of_the_journal(self, at: int, bit: int) -> None:
        self.now.close()
        journal = self.now.path.with_name("journal")
        raw = bytearray(journal.read_bytes())
        at %= len(raw)
        raw[at] ^= 1 << bit
        journal.write_bytes(raw)
        # A damaged header vouches for nothing, a damaged record for nothing from there on.
        self.order = [] if at < HEADER_SIZE else self.order[: (at - HEADER_SIZE) // RECORD_SIZE]
        self.open()

    @invariant()
    def what_landed_has_its_bytes(self) -> None:
        if self.partial is None:
            return
        for index, found in list(self.now.landed.hashes.items()):
            block = self.now.tiling.block(index)
            piece = bytearray(len(block))
            assert len(block) == self.now.read_into(memoryview(piece), block.start)
            assert xxhash.xxh3_128_digest(piece) == found
        assert self.now.landed.landed == landed_bytes(self.area, DIGEST, len(self.data), block_size=self.block_size)

    def teardown(self) -> None:
        if self.partial is not None:
            while self.now.landed.missing():
                self.land(0)
            assert self.data == self.now.seal().read_bytes()
            self.now.discard()
            assert not os.listdir(self.area / "partial")
        shutil.rmtree(self.area)


TestPartialHistory = PartialHistory.TestCase
TestPartialHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=8), max_size=5),
    harm=st.tuples(st.integers(0, 5000), st.binary(max_size=30)),
)
def test_a_damaged_ledger_forgets_but_never_lies(batches: list[list[tuple[int, int]]], harm: tuple[int, bytes]) -> None:
    area = Path(tempfile.mkdtemp(prefix="ledger-"))
    try:

        def stat(inode: int, mtime_ns: int) -> os.stat_result:
            return os.stat_result((0o100644, inode, 1, 1, 0, 0, 10, 0, 0, 0), {"st_mtime_ns": mtime_ns})

        disk = Disk()
        said: set[tuple[int, int]] = set()
        for batch in batches:
            proofs = Proofs.load(disk, area)
            for inode, mtime_ns in batch:
                proofs.add(DIGEST, stat(inode, mtime_ns))
                said.add((inode, mtime_ns))
            proofs.flush()
        ledger = area / "proofs"
        if ledger.exists():
            raw = ledger.read_bytes()
            at = harm[0] % (len(raw) + 1)
            ledger.write_bytes(raw[:at] + harm[1] + raw[at + len(harm[1]) :])
        after = Proofs.load(disk, area)
        known = {(i, m) for i in range(21) for m in range(4) if after.knows(DIGEST, stat(i, m))}
        assert known <= said
        after.add(DIGEST, stat(99, 1))
        after.flush()
        assert Proofs.load(disk, area).knows(DIGEST, stat(99, 1))
    finally:
        shutil.rmtree(area)
