"""A second opinion on a large file whose digest is wrong: other suppliers' versions of its blocks, until it is right.

Which blocks to ask whom for, and who lied, is decided in `core.suppliers`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import xxhash

from fetchverify.core.blocks import Block, Tiling
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, OneStream, ReResolve, Stop
from fetchverify.core.suppliers import Question, name_liars, questions
from fetchverify.engine.hashing import BUFFER_SIZE
from fetchverify.engine.run import Run
from fetchverify.engine.suppliers import Choice, Supplier
from fetchverify.net.checks import Source, TransferError
from fetchverify.store.disk import Disk
from fetchverify.store.partial import Partial

# A block is held in memory until it is known to be the same: 4 of 8 MiB at once.
_AT_ONCE = 4
_BLOCKS_A_REQUEST = 4


@dataclass(slots=True, kw_only=True)
class Version:
    """One witness's version of the blocks in which it differs, kept beside the partial.

    After `swap` the partial holds the witness's bytes, and the file here what stood in their place.
    """

    witness: int
    path: Path
    fd: int
    places: dict[int, int] = field(default_factory=dict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks as they lie one after the other."""
        return tuple(sorted(self.places, key=self.places.__getitem__))

    def keep(self, disk: Disk, index: int, data: memoryview) -> None:
        """Append the witness's bytes of a block; thread-safe."""
        with self._lock:
            at = self._size
            self._size += len(data)
        disk.write_at(self.fd, data, at)
        self.places[index] = at


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What came of it.

    Attributes:
        proved: the partial is now the file, journal and all.
        complete: every block was compared with another supplier's.
        fetched: bytes received for it.
        liars: numbers of those who sent other bytes, where it is proved.
        bad: files with the bytes that were replaced, and the blocks that each holds one after the other.
        witnesses: numbers of those who sent the right ones.
    """

    proved: bool
    complete: bool
    fetched: int
    liars: frozenset[int] = frozenset()
    bad: tuple[tuple[Path, tuple[int, ...]], ...] = ()
    witnesses: frozenset[int] = frozenset()

    @property
    def blocks(self) -> int:
        """How many blocks were replaced."""
        return sum(len(indexes) for _, indexes in self.bad)


class SecondOpinion:
    """Asks for it, once, while the complete partial is open and nobody else writes to it."""

    def __init__(
        self,
        run: Run,
        file: RemoteFile,
        partial: Partial,
        disk: Disk,
        choice: Choice,
        came: Mapping[int, frozenset[int]],
    ) -> None:
        self._run = run
        self._file = file
        self._partial = partial
        self._disk = disk
        self._choice = choice
        self._came = came
        self._sources: dict[int, Source] = {}
        self._heard: set[tuple[int, int]] = set()  # which witness was asked about which block
        self._agreed: set[int] = set()  # blocks that came alike from two
        self._unable: set[int] = set()
        self._fetched = 0

    async def ask(self) -> Opinion:
        """Replace the blocks in which others differ, by one hypothesis after the other, until the digest is right.

        Raises:
            DiskError: the partial or the versions beside it could not be written or read.
        """
        left = self._choice.left()
        witnesses = [each.number for each in left]
        liars = [each.number for each in left if each.lied]
        versions: dict[int, Version] = {}
        try:
            current: Version | None = None
            # Two that agree are right as a rule; only at the very last they may have read from one broken store.
            for thorough in (False, True):
                for question in questions(self._came, witnesses, liars):
                    wanted = self._wanted(question, thorough=thorough)
                    if not wanted:
                        continue
                    if current is None or current.witness != question.witness:
                        if current is not None:
                            await self._swap(current)  # it was not the whole truth: back to what came
                        current = versions.get(question.witness)
                        if current is None:
                            current = await anyio.to_thread.run_sync(self._new, question.witness)
                            versions[question.witness] = current
                        await self._swap(current)  # what an earlier pass found
                    found = await self._compare(wanted, current)
                    if found:
                        await self._swap(current, found)
                        if await self._proved():
                            return self._opinion([current])
            if current is not None:
                await self._swap(current)
            apart = _apart(list(versions.values()))
            if len(apart) > 1:  # each lied in its own blocks, and each tells the truth about the others'
                for version in apart:
                    await self._swap(version)
                if await self._proved():
                    return self._opinion(apart)
                for version in apart:
                    await self._swap(version)
            return self._opinion([])
        finally:
            for version in versions.values():
                self._disk.close(version.fd)

    def _opinion(self, right: list[Version]) -> Opinion:
        liars: frozenset[int] = frozenset()
        for version in right:
            liars |= name_liars({index: self._came[index] for index in version.places}, version.witness)
        return Opinion(
            proved=bool(right),
            complete={index for _, index in self._heard} >= self._came.keys(),
            fetched=self._fetched,
            liars=liars,
            bad=tuple((version.path, version.order) for version in right),
            witnesses=frozenset(version.witness for version in right),
        )

    async def _proved(self) -> bool:
        return await self._run.auditor.matches(self._partial.path, self._file.digest, self._file.size)

    def _new(self, witness: int) -> Version:
        path = self._partial.path.parent / f"version-{witness}"
        self._disk.unlink(path, missing_ok=True)
        return Version(witness=witness, path=path, fd=self._disk.create(path))

    # --- asking ------------------------------------------------------------------------------------------------

    def _wanted(self, question: Question, *, thorough: bool) -> list[int]:
        """Return the blocks that the witness was not asked about; where not `thorough`, none that two agree on."""
        return [
            index
            for index in question.indexes
            if (question.witness, index) not in self._heard and (thorough or index not in self._agreed)
        ]

    async def _compare(self, wanted: list[int], into: Version) -> tuple[int, ...]:
        """Keep the witness's version of the blocks in which it differs; return which these are."""
        supplier, before = self._run.suppliers.all[into.witness], set(into.places)
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def ask(indexes: tuple[int, ...]) -> None:
            async with limiter:
                await self._ask(supplier, indexes, into)

        async with anyio.create_task_group() as group:
            for indexes in _requests(wanted):
                group.start_soon(ask, indexes)
        return tuple(sorted(into.places.keys() - before))

    async def _ask(self, supplier: Supplier, indexes: tuple[int, ...], into: Version) -> None:
        """Compare neighbouring blocks; what the witness cannot give stays as it is."""
        attempt, began = 0, anyio.current_time()
        while indexes and supplier.number not in self._unable:
            work = _Comparison(self._partial, indexes, into, self._disk)
            async with self._run.slots:
                failure = await anyio.to_thread.run_sync(self._request, supplier, work, limiter=self._run.threads)
            self._fetched += work.received
            self._run.bytes_fetched += work.received
            self._heard.update((supplier.number, index) for index in indexes[: work.done])
            self._agreed.update(index for index in indexes[: work.done] if index not in into.places)
            if work.done:
                attempt, began = 0, anyio.current_time()
            indexes = indexes[work.done :]
            if failure is None:
                continue
            attempt += 1
            verdict = await self._run.judge(self._file.path, failure, attempt, anyio.current_time() - began)
            match verdict:
                case ReResolve():
                    self._sources.pop(supplier.number, None)
                case Stop() | OneStream():
                    self._unable.add(supplier.number)

    def _request(self, supplier: Supplier, work: _Comparison) -> Failure | None:
        manifest, client = self._run.manifest, supplier.means.client
        try:
            # In one step each: the others that ask this witness forget a source that failed.
            source = self._sources.get(supplier.number)
            if source is None:
                source = self._sources[supplier.number] = client.locate(manifest, self._file)
            with client.open(manifest, self._file, source, work.span) as body:
                for piece in work.pieces():
                    filled = 0
                    while filled < len(piece):
                        count = body.fill(piece[filled : filled + supplier.means.pace.piece(BUFFER_SIZE)])
                        filled += count
                        work.received += count
                        supplier.means.pace.spend(count)
                body.finish()
        except TransferError as error:
            return error.failure
        return None

    # --- replacing ---------------------------------------------------------------------------------------------

    async def _swap(self, version: Version, indexes: tuple[int, ...] | None = None) -> None:
        """Exchange these blocks (all where None) between the partial and the version beside it."""
        which = tuple(version.places) if indexes is None else indexes
        if which:
            await anyio.to_thread.run_sync(self._exchange, version, which)

    def _exchange(self, version: Version, indexes: tuple[int, ...]) -> None:
        tiling = self._partial.tiling
        # Dropped first: a run that dies here fetches them again.
        self._partial.drop(indexes)
        for index in indexes:
            block, at = tiling.block(index), version.places[index]
            ours, theirs = memoryview(bytearray(len(block))), os.pread(version.fd, len(block), at)
            self._partial.read_into(ours, block.start)
            self._partial.write(theirs, block.start)
            self._disk.write_at(version.fd, ours, at)
            self._partial.record(index, xxhash.xxh3_128_digest(theirs))


class _Comparison:
    """One request's blocks, each held against the record of what the partial has; runs in a worker thread.

    Attributes:
        done: how many blocks were compared.
        received: bytes.
    """

    def __init__(self, partial: Partial, indexes: tuple[int, ...], into: Version, disk: Disk) -> None:
        self._tiling: Tiling = partial.tiling
        self._hashes = {index: partial.landed.hashes[index] for index in indexes}
        self._into = into
        self._disk = disk
        self.span = Block(self._tiling.block(indexes[0]).start, self._tiling.block(indexes[-1]).stop)
        self.done = 0
        self.received = 0

    def pieces(self) -> Iterator[memoryview]:
        """Yield a buffer for each block, to be filled before the next one is asked for."""
        buffer = memoryview(bytearray(self._tiling.block_size))
        for index, promised in self._hashes.items():
            block = self._tiling.block(index)
            yield buffer[: len(block)]
            if xxhash.xxh3_128_digest(buffer[: len(block)]) != promised:
                self._into.keep(self._disk, index, buffer[: len(block)])
            self.done += 1


def _requests(indexes: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield neighbouring blocks that one request should span."""
    run: list[int] = []
    for index in indexes:
        if run and (index != run[-1] + 1 or len(run) == _BLOCKS_A_REQUEST):
            yield tuple(run)
            run = []
        run.append(index)
    if run:
        yield tuple(run)


def _apart(versions: list[Version]) -> list[Version]:
    """Return the versions that concern no block of an earlier one."""
    taken: set[int] = set()
    apart: list[Version] = []
    for version in versions:
        if version.places and not taken & version.places.keys():
            apart.append(version)
            taken |= version.places.keys()
    return apart
