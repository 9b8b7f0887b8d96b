"""What a verification needs anywhere: a Hub to ask, the ledger's answers, the reading of the rest, a report.

`verifycache` and `verifyfolder` say what is looked at, and what follows.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from fetchverify import events
from fetchverify.commands.truth import Identity, Truth
from fetchverify.commands.verifyoptions import VerifyOptions
from fetchverify.core.facts import Answer, CacheFacts, FolderFacts, How, Promises, Question
from fetchverify.core.judging.questions import everything
from fetchverify.core.retry import patience
from fetchverify.core.verified import Place, VerifyReport
from fetchverify.engine.audit import Auditor
from fetchverify.engine.ledger import Learner
from fetchverify.errors import ExitCode
from fetchverify.store.blockmap import load_block_map
from fetchverify.store.disk import Disk
from fetchverify.store.proofs import Proofs
from fetchverify.store.seal import Seal

if TYPE_CHECKING:
    from fetchverify.net.hub import Hub
    from fetchverify.net.wire import Endpoint


@dataclass(slots=True, kw_only=True)
class Job:
    """One place between its survey and its verdict."""

    facts: CacheFacts | FolderFacts
    identity: Identity
    proofs: Proofs
    promised: Mapping[str, Promises]
    truth: Truth
    area: Path
    wanted: Callable[[str], bool]
    complete: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    sealable: bool = False
    """All of the repo was looked at, and the next run may rest on what is found."""
    known: Seal | None = None
    """What is known of snapshots and blobs without asking: they are as they were when they were sealed."""


class Verification:
    """One run's state, and the steps that do not depend on what is looked at."""

    def __init__(self, options: VerifyOptions, emit: events.Emit) -> None:
        self._options = options
        self._emit = emit
        self._disk = Disk()
        self._auditor = Auditor()
        self.hub: Hub | None = None
        self.endpoint: Endpoint | None = None
        self._files = self._bytes = 0

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Let `connect` be called in the block."""
        async with AsyncExitStack() as self._stack:
            yield

    async def connect(self) -> None:
        """Have a Hub to ask, where one may be asked, from now on."""
        if self.hub is not None or not self.may_ask:
            return
        # Imported only here: for who asks nothing, httpx and its kin are half of a short run.
        from fetchverify.net.hub import Hub
        from fetchverify.net.wire import Endpoint

        self.endpoint = Endpoint.from_environment(self._options.endpoint, self._options.token)
        hub = Hub(self.endpoint, emit=self._emit, patience=patience(self._options.retries))
        self.hub = await self._stack.enter_async_context(hub)

    @property
    def may_ask(self) -> bool:
        """Return whether the Hub's word is wanted."""
        return not self._options.offline and self._options.sums is None

    def report(self, began: float, places: list[Place], network: ExitCode, sums: str | None) -> VerifyReport:
        """Return what the run says at its end."""
        return VerifyReport(
            places=tuple(places),
            seconds=round(time.monotonic() - began, 3),
            files_hashed=self._files,
            bytes_hashed=self._bytes,
            requests=0 if self.hub is None else self.hub.requests,
            strict=self._options.strict,
            allow_missing=self._options.allow_missing,
            sums=sums,
            network=network,
        )

    @property
    def _hosts(self) -> tuple[str, ...]:
        return () if self.endpoint is None else (self.endpoint.place,)

    def _tell_doubts(self, name: str, truth: Truth) -> None:
        """Say what was held against what lies here alone, and why."""
        doubts = [
            f"commit `{commit[:8]}`, which the Hub does not give: {error.message}"
            for commit, error in truth.gone.items()
        ]
        if truth.trouble is not None:
            doubts.append(f"the Hub could not be asked: {truth.trouble.message}")
        for doubt in doubts:
            self._emit(events.Note(level="warning", message=f"`{name}`: held against what lies here: {doubt}"))

    def _wanted(self, *, part: bool = False) -> Callable[[str], bool]:
        include, exclude = self._options.include, self._options.exclude
        if not include and not exclude:
            return (lambda path: True) if part else everything
        from fetchverify.core.select import chooser

        return chooser(include, exclude)

    def _sort_out(self, job: Job, asked: list[Question]) -> None:
        """Answer from the ledger what it knows; the rest is to be read."""
        knows, answers = job.proofs.knows, job.answers
        if self._options.deep:
            job.questions = asked
            return
        maps = job.facts.area.block_maps if self._options.quick else frozenset()
        known = Answer(How.LEDGER)
        for question in asked:
            digest = question.digest
            if (
                digest is not None
                and knows(digest, question.state)
                and question.size in (None, question.state.st_size)
                and not (maps and digest.key in maps)
            ):
                answers[question.key] = known
            else:
                job.questions.append(question)

    async def measure(self, jobs: list[Job]) -> None:
        """Read what has to be read, place after place."""
        files = sum(len(job.questions) for job in jobs)
        size = sum(question.state.st_size for job in jobs for question in job.questions)
        if not files:
            return
        self._emit(events.AuditPlanned(files=files, size=size))
        for job in jobs:
            if not job.questions:
                continue
            learner = Learner(self._disk, job.proofs, Path(job.facts.root))
            files_before, bytes_before = self._files, self._bytes

            def tell(files: int, size: int, files_before: int = files_before, bytes_before: int = bytes_before) -> None:
                self._files, self._bytes = files_before + files, bytes_before + size
                self._emit(events.AuditProgress(files=self._files, size=self._bytes))

            def block_map(question: Question, area: Path = job.area) -> Any:
                if question.digest is None:
                    return None
                return load_block_map(area, question.digest, question.state.st_size)

            try:
                job.answers |= await self._auditor.answer(
                    job.questions,
                    block_map=block_map,
                    quick=self._options.quick,
                    blocks_first=self._options.blocks_first,
                    done=learner.learn,
                    tell=tell,
                )
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(learner.close)
