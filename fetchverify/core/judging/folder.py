"""What is wrong in a plain folder or a clone, where each path is a file of its own."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Collection, Mapping

from fetchverify.core.facts import Answer, Entry, Evidence, FolderFacts, How, Promised, Promises
from fetchverify.core.findings import Kind, Tell, Verdict
from fetchverify.core.judging.files import fields_of, judge_bytes
from fetchverify.core.judging.litter import ORPHAN_S, judge_area
from fetchverify.core.judging.questions import everything
from fetchverify.core.manifest import Digest
from fetchverify.core.pointer import parse_pointer


def judge_folder(
    facts: FolderFacts,
    promises: Promises,
    answers: Mapping[str, Answer],
    *,
    complete: bool,
    broken: Collection[str] = (),
    wanted: Callable[[str], bool] = everything,
    tell: Tell | None = None,
) -> Verdict:
    """Return what is wrong in a plain folder.

    Args:
        facts: the survey.
        promises: what is known of each path.
        answers: by the questions' keys.
        complete: the promises are a whole listing: what it does not hold is not the repo's.
        broken: commits whose cached listing is damaged.
        wanted: which paths of the repo matter; where some do not, litter is not looked for.
        tell: hears of every good file.
    """
    verdict = Verdict()
    for path, entry in facts.files.items():
        if not wanted(path):
            continue
        promise = promises.get(path)
        if promise is None:
            _judge_unknown(verdict, path, entry, answers.get(path), complete=complete)
            continue
        verdict.files += 1
        if isinstance(entry, str):
            _judge_link(verdict, path, entry, promise, dangling=path in facts.dangling, tell=tell)
        elif not stat.S_ISREG(entry.st_mode):
            verdict.add(Kind.SPECIAL, path, path, **fields_of(promise))
        else:
            judge_bytes(verdict, None, path, path, entry, promise, answers.get(path), tell)
    for path, promise in promises.items():
        if path not in facts.files and wanted(path):
            verdict.files += 1
            verdict.add(Kind.MISSING, path, path, **fields_of(promise))
    for path, why in facts.unreadable.items():
        verdict.add(Kind.UNREADABLE, path, path, detail=why)
    for commit in broken:
        key = f".cache/huggingface/trees/{commit}.json"
        verdict.add(Kind.BROKEN_LISTING, key, key, commit=commit)
    if wanted is everything:
        for path, state in facts.incompletes.items():
            if facts.now - state.st_mtime_ns / 1e9 > ORPHAN_S:
                verdict.add(Kind.INCOMPLETE, path, path, size=state.st_size)
        judge_area(verdict, facts.area)
    return verdict


def _judge_unknown(verdict: Verdict, path: str, entry: Entry, answer: Answer | None, *, complete: bool) -> None:
    """Judge a name that nobody promised."""
    pointer = None if answer is None else parse_pointer(answer.head)
    if complete:
        size = 0 if isinstance(entry, str) else entry.st_size
        verdict.add(Kind.EXTRA, path, path, size=size)
        return
    verdict.files += 1
    if pointer is not None:
        promised = fields_of(Promised(pointer.digest, pointer.size, Evidence.POINTER))
        verdict.add(Kind.POINTER, path, path, names=(path,), **promised)
    elif isinstance(entry, str):
        verdict.add(Kind.UNPROVED, path, path, detail=f"a link to `{entry}`: not followed")
    else:
        verdict.add(Kind.UNPROVED, path, path, size=entry.st_size, detail="nothing here says what it is")


def _judge_link(
    verdict: Verdict, path: str, text: str, promise: Promised, *, dangling: bool, tell: Tell | None
) -> None:
    data = text.encode("utf-8", "surrogateescape")
    # git keeps a link as a blob of its text.
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if promise.digest == Digest(algo="git-sha1", hex=oid):
        verdict.good[promise.evidence, How.HASHED] += 1
        if tell is not None:
            tell(None, path, promise.evidence, How.HASHED)
    elif dangling:
        verdict.add(Kind.DANGLING, path, path, names=(path,), detail=f"it leads to `{text}`", **fields_of(promise))
    else:
        detail = f"a link to `{text}`: not followed"
        verdict.add(Kind.UNPROVED, path, path, names=(path,), detail=detail, **fields_of(promise))
