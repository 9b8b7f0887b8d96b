"""What a person means who names something to `doctor`: a path, a repo in the cache, or what lies beside the path."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fetchverify.core.diagnosis.findings import Origin
from fetchverify.core.manifest import RepoKind
from fetchverify.core.paths import shown
from fetchverify.core.reference import parse_reference
from fetchverify.core.tree import is_commit
from fetchverify.errors import AbsentError, DiskError, FetchverifyError
from fetchverify.store.hubcache import repo_folder_name
from fetchverify.store.reading import entries
from fetchverify.store.trees import parse_commit, ref_parts

_NEARBY = 200
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is looked at.

    Attributes:
        allowed: where links may lead.
        asked: with another folder found nearby, the one that was asked for.
    """

    path: Path
    allowed: Path
    origin: Origin
    asked: Path | None = None


def find(what: str, repo_type: RepoKind | None, revision: str | None, cache_dir: Path | None) -> Target:
    """Return the place that the words mean: a path where there is one, else a repo in the cache, else one nearby.

    Raises:
        AbsentError: nothing of that name is on this disk.
        DiskError: whether there is cannot be told, for want of permission or for a failing disk.
    """
    try:
        found = _find(what, repo_type, revision, cache_dir)
    except OSError as error:
        raise DiskError(
            f"`{_shown(what)}` cannot be looked at: {error.strerror}", hint="check the disk and who may read it"
        ) from error
    if found is not None:
        return found
    link = None
    with suppress(OSError):
        link = str(Path(what).expanduser().readlink())
    if link is not None:
        raise AbsentError(
            f"`{_shown(what)}` is a link to `{_shown(link)}`, where nothing is",
            hint="set the link anew, or name what it should lead to",
        )
    hint = "name a file, a folder, or a repo in the cache as `org/name`"
    with suppress(FetchverifyError):
        parse_reference(what, kind=repo_type, revision=revision, hosts=())
        hint = f"name a path, or fetch it first: `fetchverify get {what}`"
    raise AbsentError(f"there is no file, folder or cached repo `{_shown(what)}`", hint=hint)


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) <= _MOST_SHOWN else shown(text)


def _find(what: str, repo_type: RepoKind | None, revision: str | None, cache_dir: Path | None) -> Target | None:
    path = Path(what).expanduser().absolute()
    if _exists(path):
        target = _at(path)
        return _nearby(path) or target if path.is_dir() and not any(path.iterdir()) else target
    return _cached(what, repo_type, revision, cache_dir) or _nearby(path)


def _exists(path: Path) -> bool:
    """Tell whether something is there.

    Raises:
        PermissionError: that is not to be known.
    """
    try:
        path.stat()
    except PermissionError:
        raise
    except OSError:
        return False  # nothing, a loop of links, a name that no disk takes
    return True


def _at(path: Path) -> Target:
    """Return the target for a path: in the cache it knows its repo, and may link into the repo's blobs."""
    real = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    for parent in (real, *real.parents):
        kind, *names = parent.name.split("--")
        if kind in {"models", "datasets", "spaces"} and 1 <= len(names) <= 2 and (parent / "snapshots").is_dir():
            snapshot = _snapshot(parent, "main") if parent == real else None
            commit = real.relative_to(parent / "snapshots").parts[0] if snapshot is None and parent != real else None
            return Target(
                path=snapshot or real,
                allowed=parent.parent,
                origin=Origin(repo_id="/".join(names), revision=snapshot.name if snapshot else commit),
            )
    folder = real if real.is_dir() else real.parent
    return Target(path=real, allowed=folder, origin=Origin(to=str(path if path.is_dir() else path.parent)))


def _cached(what: str, repo_type: RepoKind | None, revision: str | None, cache_dir: Path | None) -> Target | None:
    from huggingface_hub import constants

    try:
        reference = parse_reference(what, kind=repo_type, revision=revision, hosts=())
        name = repo_folder_name(reference.ref.kind, reference.ref.repo_id)
    except FetchverifyError:
        return None
    cache = (cache_dir or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    snapshot = _snapshot(cache / name, reference.ref.revision)
    if snapshot is None:
        return None
    origin = Origin(repo_id=reference.ref.repo_id, revision=revision)
    return Target(path=snapshot, allowed=cache.resolve(), origin=origin)


def _snapshot(repo: Path, revision: str) -> Path | None:
    """Return a revision's snapshot; of `main` without a ref the newest there is."""
    parts = ref_parts(revision)
    commit: str | None = revision if is_commit(revision) else None
    if commit is None and parts is not None:
        try:
            commit = parse_commit((repo / "refs").joinpath(*parts).read_bytes())
        except OSError:
            commit = None
    snapshots = repo / "snapshots"
    if commit is not None and (snapshots / commit).is_dir():
        return snapshots / commit
    if revision != "main" or not snapshots.is_dir():
        return None
    found = [one for one in snapshots.iterdir() if one.is_dir()]
    return max(found, key=lambda one: one.stat().st_mtime, default=None)


def _nearby(path: Path) -> Target | None:
    """Return a checkpoint beside the folder that was asked for: trainers append names of their own to it.

    Source: llama-recipes `save_model_checkpoint`: `<root>/<folder>-<model name>`, and a model's name holds a `/`.
    """
    parent = path.parent
    if not path.name or not parent.is_dir():
        return None
    beside = [one for one in sorted(parent.iterdir()) if one != path and one.name.startswith(path.name)]
    for top in beside[:_NEARBY]:
        # What cannot be read there was not asked for.
        with suppress(DiskError, OSError):
            if not top.is_dir() or top.is_symlink():
                continue
            for entry in entries(top, top):
                if entry.path.endswith((".distcp", "/.metadata", "train_params.yaml")) or entry.path == ".metadata":
                    return replace(_at((top / entry.path).parent), asked=path)
    return None
