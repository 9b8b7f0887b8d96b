"""Where the truth about what lies on disk comes from: the Hub, or what is here; judging is left to `core.judging`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from fetchverify.core.facts import Evidence, FolderFacts, Promised, digest_of_name
from fetchverify.core.manifest import Commit, Digest, RemoteFile, RepoKind, RepoRef
from fetchverify.core.reference import parse_reference
from fetchverify.core.sums import parse_sums
from fetchverify.core.tree import is_commit
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError, UsageError
from fetchverify.store import trees
from fetchverify.store.localdir import HUB_FOLDER
from fetchverify.store.proofs import Proofs
from fetchverify.store.scan import small_bytes
from fetchverify.store.survey import REPO_FOLDER
from fetchverify.store.surveyclone import clone_promises, look_at_clone

if TYPE_CHECKING:
    from fetchverify.net.hub import Hub

SUMS_NAME = "SHA256SUMS"
_MOST_SUMS_BYTES = 512 << 20


@dataclass(slots=True, kw_only=True)
class Truth:
    """What is known about one repo's files.

    Attributes:
        promised: by commit, then by path; a folder's stand under its one commit, or under the empty text.
        broken: commits whose cached listing is damaged, or contradicts the Hub's.
        gone: commits that the Hub does not give (any more), and what it said.
        trouble: why the Hub could not be asked; then the rest is from what lies here.
    """

    promised: dict[str, Mapping[str, Promised]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    gone: dict[str, AbsentError] = field(default_factory=dict)
    trouble: FetchverifyError | None = None


def repo_of(folder: str) -> tuple[RepoKind, str] | None:
    """Return the kind and id of the repo that a cache's folder name stands for."""
    found = REPO_FOLDER.fullmatch(folder)
    if found is None:
        return None
    kind: RepoKind = "model" if found[1] == "model" else "dataset" if found[1] == "dataset" else "space"
    return kind, found[2].replace("--", "/")


def _promises(files: Iterable[RemoteFile], evidence: Evidence) -> dict[str, Promised]:
    return {file.path: Promised(file.digest, file.size, evidence) for file in files}


async def truth_about(
    folder: Path,
    listings: Iterable[str],
    commits: Iterable[str],
    *,
    repo: tuple[RepoKind, str] | None,
    hub: Hub | None,
    proofs: Proofs,
    again: bool = False,
    lenient: bool = False,
) -> Truth:
    """Return what some commits of a repo hold, by the Hub's word or else by the listings that lie here.

    A listing that the Hub confirmed and that is unchanged since needs no request: a commit never changes.

    Args:
        folder: what `trees/` lies in.
        listings: the commits of which there is one.
        commits: those that matter.
        repo: which repo it is; None where nobody knows, then the Hub cannot be asked.
        hub: asks; None offline.
        proofs: the ledger, which remembers confirmed listings.
        again: ask in any case.
        lenient: where the Hub cannot be asked, say so in `trouble` and go on with what lies here.

    Raises:
        FetchverifyError: the Hub could not be asked.
    """
    truth, there = Truth(), set(listings)
    for commit in commits:
        if not is_commit(commit):
            continue
        known = await anyio.to_thread.run_sync(trees.read_tree, folder, commit) if commit in there else None
        place = folder / "trees" / f"{commit}.json"
        if known is None and commit in there:
            truth.broken.append(commit)
        evidence = Evidence.LISTING
        if hub is not None and repo is not None and truth.trouble is None:
            if known is not None and not again and _recognized(proofs, place):
                evidence = Evidence.HUB
            else:
                try:
                    told = await _ask(hub, repo, commit)
                except AbsentError as error:
                    # Deleted, made private, or forgotten by a forced push: what lies here may still be proved.
                    truth.gone[commit] = error
                except NetworkError as error:
                    if not lenient:
                        raise
                    truth.trouble = error
                else:
                    evidence = Evidence.HUB
                    if known is not None and not _same(known, told):
                        truth.broken.append(commit)
                    elif known is not None:
                        await anyio.to_thread.run_sync(_confirm, proofs, place)
                    known = told
        if known is not None:
            truth.promised[commit] = await anyio.to_thread.run_sync(_promises, known, evidence)
    return truth


async def _ask(hub: Hub, repo: tuple[RepoKind, str], commit: str) -> tuple[RemoteFile, ...]:
    manifest = await hub.manifest(RepoRef(kind=repo[0], repo_id=repo[1], revision=commit))
    return manifest.files


def _same(one: Iterable[RemoteFile], other: Iterable[RemoteFile]) -> bool:
    def core(files: Iterable[RemoteFile]) -> set[tuple[str, int, Digest]]:
        return {(file.path, file.size, file.digest) for file in files}

    return core(one) == core(other)


def _recognized(proofs: Proofs, place: Path) -> bool:
    try:
        return proofs.recognizes(place.lstat())
    except OSError:
        return False


def _confirm(proofs: Proofs, place: Path) -> None:
    """Note that the Hub said the same as the listing; the digest noted is the listing's own."""
    from fetchverify.engine.hashing import new_hash

    try:
        before = place.lstat()
        data = place.read_bytes()
        if len(data) != before.st_size or not os.access(place.parent, os.W_OK):
            return
        state = new_hash(Digest(algo="git-sha1", hex=""), len(data))
        state.update(data)
        proofs.add(Digest(algo="git-sha1", hex=state.hexdigest()), place, hashed=before)
    except (OSError, FetchverifyError):
        return  # a read-only cache: the Hub is asked again the next time


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which repo a plain folder holds, as far as it says; None for what it does not."""

    repo: tuple[RepoKind, str] | None = None
    commit: Commit | None = None
    clone: bool = False


def identify(facts: FolderFacts, given: RepoRef | None, hosts: tuple[str, ...]) -> Identity:
    """Return which repo and commit a folder holds: as our runs, git or the hub's client noted it.

    Args:
        facts: the survey.
        given: what the user says it is, or None.
        hosts: whose addresses are a Hub's, besides the known ones.
    """
    repo = None if given is None else (given.kind, given.repo_id)
    clone = look_at_clone(Path(facts.root)) if facts.clone else None
    if clone is not None:
        return Identity(repo=repo or _origin(clone.origin, hosts), commit=Commit(clone.commit), clone=True)
    recorded = Counter(record.commit for record in facts.records.values() if is_commit(record.commit))
    ours = [(repo_of(folder), commit) for folder, _, commit in facts.refs]
    if repo is not None:
        ours = [(which, commit) for which, commit in ours if which == repo]
    # Several revisions may have been put here, one after the other: the records say which one it is now.
    ours.sort(key=lambda one: -recorded[one[1]])
    if ours:
        return Identity(repo=repo or ours[0][0], commit=Commit(ours[0][1]))
    most = recorded.most_common(1)
    commit = Commit(most[0][0]) if most else Commit(sorted(facts.trees)[0]) if len(facts.trees) == 1 else None
    return Identity(repo=repo, commit=commit)


def _origin(address: str | None, hosts: tuple[str, ...]) -> tuple[RepoKind, str] | None:
    if address is None or address.startswith((".", "/", "file:")):
        return None
    try:
        ref = parse_reference(address, hosts=hosts).ref
    except UsageError:
        return None
    return ref.kind, ref.repo_id


async def truth_about_folder(
    facts: FolderFacts, identity: Identity, *, hub: Hub | None, proofs: Proofs, again: bool = False
) -> tuple[dict[str, Promised], bool, Truth]:
    """Return what each path of a folder should be, whether that is a whole listing, and where it comes from.

    Raises:
        FetchverifyError: the Hub could not be asked.
    """
    root = Path(facts.root)
    commits = [] if identity.commit is None else [identity.commit]
    truth = await truth_about(
        root.joinpath(*HUB_FOLDER), facts.trees, commits, repo=identity.repo, hub=hub, proofs=proofs, again=again
    )
    listed = truth.promised.get(identity.commit or "")
    if listed is None and identity.clone and identity.commit is not None:
        listed = await anyio.to_thread.run_sync(clone_promises, root, identity.commit)
    if listed is not None:
        return dict(listed), True, truth
    promises: dict[str, Promised] = {}
    for path, sha256 in read_sums(root / SUMS_NAME)[0].items():
        promises[path] = Promised(Digest(algo="sha256", hex=sha256), None, Evidence.SUMS)
    for path, record in facts.records.items():
        digest = digest_of_name(record.etag)
        if digest is not None:
            promises[path] = Promised(digest, None, Evidence.RECORD)
    return promises, False, truth


def read_sums(path: Path, *, must: bool = False) -> tuple[dict[str, str], int]:
    """Return path to sha256, and how many lines could not be read; nothing where there is no such file.

    Raises:
        UsageError: with `must`, where the file cannot be read, or holds not one sum.
    """
    raw = small_bytes(os.path.realpath(path) if must else str(path), _MOST_SUMS_BYTES)
    if raw is None:
        if must:
            raise UsageError(f"cannot read sums from `{path}`", hint="`sha256sum` and `--write-sums` write such a file")
        return {}, 0
    found, bad = parse_sums(raw)
    if must and not found:
        raise UsageError(f"`{path}` holds no sha256 sums", hint="`sha256sum` and `--write-sums` write such a file")
    return found, bad
