"""What is wrong in one repo's cache folder: its snapshots, refs and notes; single blobs are left to `blobs`."""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Mapping

from fetchverify.core.facts import (
    Answer,
    CacheFacts,
    Entry,
    Evidence,
    How,
    Promised,
    Promises,
    State,
    digest_of_name,
)
from fetchverify.core.findings import Kind, Tell, Verdict
from fetchverify.core.judging.blobs import Blobs
from fetchverify.core.judging.files import fields_of, judge_bytes
from fetchverify.core.judging.links import blob_behind
from fetchverify.core.judging.litter import judge_litter
from fetchverify.core.judging.questions import everything


def judge_cache(
    facts: CacheFacts,
    promised: Mapping[str, Promises],
    answers: Mapping[str, Answer],
    *,
    broken: Collection[str] = (),
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
    known: Verdict | None = None,
) -> Verdict:
    """Return what is wrong in one repo's cache folder.

    Args:
        facts: the survey.
        promised: commit to what it holds; a commit of which nothing is known is absent.
        answers: by the questions' keys.
        broken: commits whose cached listing is damaged, or contradicts the Hub's.
        wanted: which paths of the repo matter; where some do not, litter is not looked for.
        tell: hears of every good file.
        known: what `judge_contents` said of the same; then nothing of it is judged here.
    """
    verdict = known or judge_contents(facts, promised, answers, wanted=wanted, tell=tell)
    _judge_refs(verdict, facts)
    for path, why in facts.unreadable.items():
        verdict.add(Kind.UNREADABLE, path, path, detail=why)
    for commit in broken:
        verdict.add(Kind.BROKEN_LISTING, f"trees/{commit}.json", f"trees/{commit}.json", commit=commit)
    if wanted is everything:
        judge_litter(verdict, facts)
    return verdict


def judge_contents(
    facts: CacheFacts,
    promised: Mapping[str, Promises],
    answers: Mapping[str, Answer],
    *,
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
) -> Verdict:
    """Return what is wrong with the snapshots and blobs; the arguments are those of `judge_cache`.

    It follows from names, states, listings and answers alone, so that it holds as long as they do; what hangs on the
    hour, on other processes or on single small files is left to `judge_cache`.
    """
    verdict = Verdict()
    blobs = Blobs(facts, promised, answers)
    for commit, names in facts.snapshots.items():
        _judge_snapshot(verdict, facts, commit, names, promised.get(commit), blobs, answers, wanted, tell)
    verdict.findings += blobs.findings()
    verdict.size += blobs.good_bytes()
    _judge_no_exist(verdict, facts, promised, wanted)
    if wanted is everything:
        blobs.judge_unlinked(verdict)
    return verdict


def _judge_snapshot(
    verdict: Verdict,
    facts: CacheFacts,
    commit: str,
    names: Mapping[str, Entry],
    files: Promises | None,
    blobs: Blobs,
    answers: Mapping[str, Answer],
    wanted: Callable[[str], bool],
    tell: Tell | None,
) -> None:
    if not names:
        verdict.add(Kind.EMPTY_SNAPSHOT, f"snapshots/{commit}", f"snapshots/{commit}", commit=commit)
        return
    good = verdict.good
    root = facts.root
    for path, entry in names.items():
        if wanted is not everything and not wanted(path):
            continue
        promise = None if files is None else files.get(path)
        key = f"snapshots/{commit}/{path}"
        if not isinstance(entry, str):
            verdict.files += 1
            _judge_copy(verdict, commit, path, key, entry, files, promise, blobs, answers, tell)
            continue
        name = blob_behind(root, commit, path, entry)
        if files is not None and promise is None:
            lost = key in facts.dangling if name is None else blobs.look(name) is None
            extra = Kind.DANGLING if lost else Kind.EXTRA
            verdict.add(extra, path, key, commit=commit, detail="the commit holds no such file")
            continue
        verdict.files += 1
        if name is None:
            detail = f"it leads to `{entry}`, outside the repo's blobs: not followed"
            unknown = Kind.DANGLING if key in facts.dangling else Kind.UNPROVED
            kind = Kind.WRONG_TARGET if promise is not None else unknown
            verdict.add(kind, path, key, commit=commit, detail=detail, **fields_of(promise))
            continue
        found = blobs.look(name)
        if promise is not None and promise.digest.hex != name:
            kind = Kind.WRONG_TARGET if found is not None else Kind.DANGLING
            there = "" if found is not None else ", which is not there"
            detail = f"it leads to the blob `{name[:12]}…`{there}; its own is `{promise.digest.hex[:12]}…`"
            verdict.add(kind, path, key, commit=commit, detail=detail, **fields_of(promise))
        elif found is None:
            verdict.add(Kind.DANGLING, path, key, commit=commit, **fields_of(promise or _by_name(name)))
        elif isinstance(found, How):
            evidence = Evidence.BLOB_NAME if promise is None else promise.evidence
            good[evidence, found] += 1
            if tell is not None:
                tell(commit, path, evidence, found)
        else:
            found.names.append(key)
    if files is not None:
        for path, promise in files.items():
            if path not in names and (wanted is everything or wanted(path)):
                verdict.files += 1
                verdict.add(Kind.MISSING, path, f"snapshots/{commit}/{path}", commit=commit, **fields_of(promise))


def _by_name(name: str) -> Promised | None:
    digest = digest_of_name(name)
    return None if digest is None else Promised(digest, None, Evidence.BLOB_NAME)


def _judge_copy(
    verdict: Verdict,
    commit: str,
    path: str,
    key: str,
    entry: State,
    files: Promises | None,
    promise: Promised | None,
    blobs: Blobs,
    answers: Mapping[str, Answer],
    tell: Tell | None,
) -> None:
    """Judge a snapshot's name that is no link: a hardlink to a blob, a copy where links are not to be had."""
    if files is not None and promise is None:
        verdict.add(Kind.EXTRA, path, key, commit=commit, size=entry.st_size, detail="the commit holds no such file")
        return
    if not stat.S_ISREG(entry.st_mode):
        verdict.add(Kind.SPECIAL, path, key, commit=commit, **fields_of(promise))
        return
    blob = blobs.inodes.get((entry.st_dev, entry.st_ino))
    if blob is not None and (promise is None or blob == promise.digest.hex):
        found = blobs.look(blob)
        if isinstance(found, How):
            evidence = Evidence.BLOB_NAME if promise is None else promise.evidence
            verdict.good[evidence, found] += 1
            if tell is not None:
                tell(commit, path, evidence, found)
        elif found is not None:
            found.names.append(key)
        return
    if promise is None:
        verdict.add(Kind.UNPROVED, path, key, commit=commit, size=entry.st_size, detail="nothing here says what it is")
        return
    judge_bytes(verdict, commit, path, key, entry, promise, answers.get(key), tell)


def _judge_refs(verdict: Verdict, facts: CacheFacts) -> None:
    if not facts.has_snapshots:
        verdict.add(Kind.NO_SNAPSHOTS, "snapshots", "snapshots", detail="the hub's tools drop the whole repo")
    for name in facts.obstacles:
        verdict.add(Kind.OBSTACLE, name, name, detail="the hub's client takes it for a folder")
    for name, commit in facts.refs.items():
        key = f"refs/{name}"
        if commit is None:
            verdict.add(Kind.BROKEN_REF, key, key)
        elif commit not in facts.snapshots:
            verdict.add(Kind.NOWHERE_REF, key, key, commit=commit, detail=f"it names `{commit}`")


def _judge_no_exist(
    verdict: Verdict, facts: CacheFacts, promised: Mapping[str, Promises], wanted: Callable[[str], bool]
) -> None:
    for commit, paths in facts.no_exist.items():
        files: Mapping[str, object] = promised.get(commit) or facts.snapshots.get(commit, {})
        for path in paths:
            if path in files and wanted(path):
                verdict.add(Kind.FALSE_NO_EXIST, path, f".no_exist/{commit}/{path}", commit=commit)
