"""Errors that end a run, each with its exit code and the next thing to type; one file's trouble is an `Outcome`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fetchverify.core.report import Report


class ExitCode(IntEnum):
    """What the process says to its caller; the README's table is rendered from here."""

    CLEAN = 0
    FINDINGS = 1
    USAGE = 2
    ABSENT = 3
    NETWORK = 4
    DISK = 5
    LOCKED = 6
    BUG = 70
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """One line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.CLEAN: "everything asked for is there and proved",
    ExitCode.FINDINGS: "something was found broken, or could not be proved",
    ExitCode.USAGE: "the command line was wrong",
    ExitCode.ABSENT: "repo, revision or file absent, or access denied",
    ExitCode.NETWORK: "network trouble; try again later, what arrived is kept",
    ExitCode.DISK: "disk trouble: full, read-only, failing",
    ExitCode.LOCKED: "another run holds the lock",
    ExitCode.BUG: "a bug in fetchverify",
    ExitCode.INTERRUPTED: "interrupted (SIGINT); partials are kept",
    ExitCode.TERMINATED: "terminated (SIGTERM); partials are kept",
}


class FetchverifyError(Exception):
    """The run cannot go on.

    Attributes:
        message: what happened and why; no final period, literals in backticks.
        hint: the next thing to type or check, or None.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FetchverifyError):
    """The caller asked for something that makes no sense."""

    exit_code = ExitCode.USAGE


class AbsentError(FetchverifyError):
    """Repo, revision or file does not exist, or may not be seen with this token.

    Attributes:
        gone: the server knows of no such thing. The Hub says so, too, where something is hidden from who asks.
    """

    exit_code = ExitCode.ABSENT

    def __init__(self, message: str, *, hint: str | None = None, gone: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.gone = gone


class UntrustedMetadataError(FetchverifyError):
    """The server's metadata contradicts itself or would write outside the target; nothing was written."""

    exit_code = ExitCode.FINDINGS


class NetworkError(FetchverifyError):
    """The network or the server failed for longer than we were willing to wait."""

    exit_code = ExitCode.NETWORK


class DiskError(FetchverifyError):
    """The disk is full, read-only or failing; what was proved is kept.

    Attributes:
        full: space, or the right to it, is what is missing.
    """

    exit_code = ExitCode.DISK

    def __init__(self, message: str, *, hint: str | None = None, full: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.full = full


class LockedError(FetchverifyError):
    """Another run holds what we need.

    Attributes:
        holder: who, in words that follow "waiting for".
    """

    exit_code = ExitCode.LOCKED

    def __init__(self, message: str, *, hint: str | None = None, holder: str = "another process") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class IncompleteError(FetchverifyError):
    """The library's form of a run that ended with files missing; the command line prints the report instead."""

    def __init__(self, message: str, *, report: Report) -> None:
        super().__init__(message)
        self.report = report
        self.exit_code = report.exit_code


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise one error for the group that tasks end with: several files that fail alike need one message.

    Raises:
        FetchverifyError: the disk's before any other; a group without an error of ours is raised as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours = [error for error in _leaves(group) if isinstance(error, FetchverifyError)]
        if not ours:
            raise
        raise max(ours, key=lambda error: isinstance(error, DiskError)) from group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
