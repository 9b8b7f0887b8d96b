"""One file's bytes held against its promise: whether they are good, and what to call them where they are not."""

from __future__ import annotations

from typing import Any

from fetchverify.core.facts import Answer, How, Promised, State, is_page
from fetchverify.core.findings import Kind, Tell, Verdict
from fetchverify.core.manifest import Digest
from fetchverify.core.pointer import parse_pointer


def judge_bytes(
    verdict: Verdict,
    commit: str | None,
    path: str,
    key: str,
    entry: State,
    promise: Promised,
    answer: Answer | None,
    tell: Tell | None,
) -> None:
    """Judge one regular file's bytes by the answer about them."""
    right_size = promise.size is None or entry.st_size == promise.size
    if answer is not None and answer.good and right_size:
        verdict.good[promise.evidence, answer.how] += 1
        verdict.size += entry.st_size
        if tell is not None:
            tell(commit, path, promise.evidence, answer.how)
        return
    if answer is None:
        answer = Answer(How.UNASKED if right_size else How.DIFFERS)
    if not right_size and answer.how in (How.UNASKED, How.HASHED, How.LEDGER, How.BLOCKS):
        answer = answer._replace(how=How.DIFFERS)
    kind, detail = doubt(answer, entry, promise.digest, promise.size)
    verdict.add(
        kind,
        path,
        key,
        names=(key,),
        commit=commit,
        digest=promise.digest,
        size=promise.size or entry.st_size,
        evidence=promise.evidence,
        blocks=answer.blocks,
        came=answer.came,
        detail=detail,
    )


def doubt(answer: Answer, state: State, digest: Digest, size: int | None) -> tuple[Kind, str | None]:
    """Return what to call bytes that are not what was promised."""
    if answer.how is How.UNREADABLE:
        return Kind.UNREADABLE, answer.detail
    if answer.how is How.CHANGED:
        return Kind.UNPROVED, "it changed while it was read"
    if answer.how is How.UNASKED:
        return Kind.UNPROVED, "it was not hashed: a quick run, and never proved before"
    pointer = parse_pointer(answer.head)
    if pointer is not None:
        same = pointer.digest == digest
        return Kind.POINTER, None if same else f"it points to sha256 `{pointer.sha256[:12]}…`"
    if is_page(answer.head):
        return Kind.PAGE, None
    if size is not None and state.st_size < size:
        return Kind.TRUNCATED, f"{state.st_size:,} of {size:,} bytes"
    if size is not None and state.st_size > size:
        return Kind.CORRUPT, f"{state.st_size - size:,} bytes too many"
    if answer.blocks:
        return Kind.CORRUPT, blocks_text(answer.blocks)
    return Kind.CORRUPT, None


def blocks_text(blocks: tuple[int, ...]) -> str:
    """Return `block 3` or `blocks 3, 7 and 8`, at most eight of them named."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if len(blocks) > 8:
        return f"{len(blocks):,} blocks, from {blocks[0]} to {blocks[-1]}"
    return f"blocks {', '.join(map(str, blocks[:-1]))} and {blocks[-1]}"


def fields_of(promise: Promised | None) -> dict[str, Any]:
    """Return a promise as fields of a `Finding`; none where nothing was promised."""
    if promise is None:
        return {}
    return {"digest": promise.digest, "size": promise.size or 0, "evidence": promise.evidence}
