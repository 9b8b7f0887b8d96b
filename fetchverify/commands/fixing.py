"""What all of `fix-cache` shares: what was asked for, one repo on its way, and how a step that failed is noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fetchverify.commands.verification import Job
from fetchverify.core.facts import CacheFacts
from fetchverify.core.manifest import RepoKind
from fetchverify.core.purge import PurgeOptions
from fetchverify.core.repair import Repair, Step
from fetchverify.core.report import Outcome
from fetchverify.core.retry import PATIENT
from fetchverify.core.verified import Place
from fetchverify.errors import DiskError, FetchverifyError, LockedError
from fetchverify.store.diskerrors import is_failing
from fetchverify.store.hubcache import HubCache


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOptions:
    """What `fetchverify fix-cache` was asked for; None means "as the hub client does"."""

    repos: tuple[str, ...] = ()
    repo_type: RepoKind | None = None
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    offline: bool = False
    dry_run: bool = False
    deep: bool = False
    connections: int = 16
    limit_rate: int | None = None
    retries: int = PATIENT.attempts
    lock_timeout_s: float | None = None
    purge: PurgeOptions = field(default_factory=PurgeOptions)
    empty_quarantine: bool = False


@dataclass(slots=True, kw_only=True)
class Repo:
    """One repo between its survey and its end."""

    folder: str
    cache: HubCache
    job: Job
    place: Place
    repair: Repair
    done: list[Step] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def facts(self) -> CacheFacts:
        """What was seen of it."""
        assert isinstance(self.job.facts, CacheFacts)
        return self.job.facts


class Noting:
    """Notes that a step failed and goes on with the others; a full or failing disk ends the run."""

    def __init__(self, failed: dict[str, str], step: Step) -> None:
        self._failed, self._step = failed, step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        cause = error.__cause__ if isinstance(error, DiskError) else error
        if isinstance(cause, FileNotFoundError):
            self._failed[self._step.key] = "it vanished while the cache was looked at"
            return True
        if isinstance(error, LockedError | DiskError | PermissionError) and not (
            isinstance(cause, OSError) and is_failing(cause)
        ):
            self._failed[self._step.key] = error.message if isinstance(error, FetchverifyError) else str(error)
            return True
        return False
