"""Which revisions a mirror is to keep, and where the Hub has each of them now, at the price of few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import anyio

from fetchverify.core.manifest import Commit, RepoRef
from fetchverify.core.mirrorconfig import Entry
from fetchverify.core.mirrorstate import RepoState
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError, ungrouped
from fetchverify.net.hub import Head, Hub

_AT_ONCE = 16
# So many calls in a row that nobody answered: the endpoint is down, and asking for thousands more would take hours.
_MOST_SILENCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One revision to keep.

    Attributes:
        listed: where its account's listing says that it stands; such a repo needs no request of its own.
        error: its account could not be listed, which says nothing about the repo.
        delisted: its account's listing does not name it any more.
    """

    ref: RepoRef
    entry: Entry
    listed: Commit | None = None
    error: FetchverifyError | None = None
    delisted: bool = False

    @property
    def is_account(self) -> bool:
        """True for the account itself, which stands among the targets where it could not be listed."""
        return self.ref.repo_id == self.entry.repo_id and self.entry.author is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the Hub said of a target: nothing moved (no head), where it stands, or an error.

    Attributes:
        silent: the error may as well be the endpoint's, which answered nobody.
    """

    target: Target
    head: Head | None = None
    error: FetchverifyError | None = None
    silent: bool = False


async def find(hub: Hub, entries: Iterable[Entry], states: Iterable[RepoState]) -> list[Target]:
    """Return every revision that the entries mean, each once; an entry for a repo comes before its account's."""
    found: dict[RepoRef, Target] = {}
    ordered = sorted(entries, key=lambda entry: entry.author is not None)
    for entry in ordered:
        if entry.author is None:
            for revision in entry.revisions:
                ref = RepoRef(kind=entry.kind, repo_id=entry.repo_id, revision=revision)
                found.setdefault(ref, Target(ref=ref, entry=entry))
    named = {(ref.kind, ref.repo_id) for ref in found}
    for entry in ordered:
        if entry.author is None:
            continue
        for target in await _of_account(hub, entry, entry.author, states):
            if (target.ref.kind, target.ref.repo_id) not in named:
                found.setdefault(target.ref, target)
    return list(found.values())


async def _of_account(hub: Hub, entry: Entry, author: str, states: Iterable[RepoState]) -> list[Target]:
    known = {
        state.ref: state
        for state in states
        if state.ref.kind == entry.kind
        and state.ref.repo_id != entry.repo_id
        and state.ref.repo_id.startswith(f"{author}/")
        and state.ref.revision in entry.revisions
    }
    try:
        listed = await hub.repos_of(author, entry.kind)
        if not listed:
            # A slip of the pen, or a token that sees less now: neither means that all of it is gone.
            raise AbsentError(
                f"{entry.kind}s of `{author}`: the Hub lists none",
                hint="is the name spelt as on the Hub, and may this token see them?",
            )
    except FetchverifyError as error:
        # The account stands for itself: where nothing is known of it yet, all would seem well.
        account = RepoRef(kind=entry.kind, repo_id=entry.repo_id, revision="main")
        return [Target(ref=ref, entry=entry, error=error) for ref in (account, *known)]
    found = [
        Target(
            ref=RepoRef(kind=entry.kind, repo_id=repo_id, revision=revision),
            entry=entry,
            listed=commit if revision == "main" else None,
        )
        for repo_id, commit in sorted(listed.items())
        for revision in entry.revisions
    ]
    gone = [Target(ref=ref, entry=entry, delisted=True) for ref in known if ref.repo_id not in listed]
    return found + gone


async def ask(
    hub: Hub, targets: Iterable[Target], etag: Callable[[RepoRef], str | None], hear: Callable[[Answer], None]
) -> None:
    """Ask where each target stands; `hear` is called on the event loop as the answers come.

    Raises:
        NetworkError: the endpoint does not answer at all; the targets that were not heard of are as they were.
    """
    every = list(targets)
    answered = any(target.listed is not None or target.delisted for target in every)
    silent: list[tuple[Target, NetworkError]] = []  # since the last answer: the endpoint's fault, or theirs?

    def hear_of_silent(*, nobody: bool = False) -> None:
        for target, error in silent:
            hear(Answer(target=target, error=error, silent=nobody))
        silent.clear()

    async def one(target: Target) -> None:
        nonlocal answered
        try:
            answer = Answer(target=target, head=await hub.head_of(target.ref, etag=etag(target.ref)))
        except NetworkError as error:
            silent.append((target, error))
            if len(silent) < _MOST_SILENCES:
                return
            hear_of_silent(nobody=True)
            raise
        except FetchverifyError as error:
            answer = Answer(target=target, error=error)
        answered = True
        hear_of_silent()
        hear(answer)

    async def ask_on(left: Iterator[Target]) -> None:
        for target in left:
            await one(target)

    unknown = []
    for target in every:
        if target.error is not None:
            hear(Answer(target=target, error=target.error))
        elif target.delisted:
            words = f"{target.ref.kind} `{target.ref.repo_id}` is not among the repos of its account any more"
            hear(Answer(target=target, error=AbsentError(words, gone=True)))
        elif target.listed is not None:
            hear(Answer(target=target, head=Head(commit=target.listed, repo_id=target.ref.repo_id)))
        else:
            unknown.append(target)
    left = iter(unknown)
    with ungrouped():
        # Not a task a target: thousands that wait for their turn take more memory than all else.
        async with anyio.create_task_group() as group:
            for _ in range(min(_AT_ONCE, len(unknown))):
                group.start_soon(ask_on, left)
    if silent and not answered:
        error = silent[-1][1]
        hear_of_silent(nobody=True)
        raise error
    hear_of_silent()
