"""The blobs of one repo's cache folder: each is judged once, however many names lead to it."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping

from fetchverify.core.facts import Answer, CacheFacts, Evidence, How, Promises, State, digest_of_name
from fetchverify.core.findings import Finding, Kind, Verdict
from fetchverify.core.judging.files import doubt
from fetchverify.core.judging.links import inodes_of


class Blob:
    """What is known of one blob's bytes; made only for those that are not good."""

    __slots__ = ("answer", "came", "detail", "kind", "names", "size", "wanted")

    def __init__(self, kind: Kind, detail: str | None, answer: Answer | None, size: int) -> None:
        self.kind, self.detail, self.answer, self.size = kind, detail, answer, size
        self.names: list[str] = []


class Blobs:
    """The blobs of one repo: which are good, which names lead to them."""

    def __init__(self, facts: CacheFacts, promised: Mapping[str, Promises], answers: Mapping[str, Answer]) -> None:
        self._facts = facts
        self._answers = answers
        self._sizes = {p.digest.hex: p.size for files in promised.values() for p in files.values()}
        self._evidence = {p.digest.hex: p.evidence for files in promised.values() for p in files.values()}
        self._bad: dict[str, Blob | None] = {}
        self._proof: dict[str, How] = {}
        self.led_to: set[str] = set()
        self.inodes = inodes_of(facts)

    def state_of(self, name: str) -> State | None:
        """Return the state of a blob's bytes."""
        state = self._facts.blobs.get(name)
        if state is None and name in self._facts.blob_links:
            return self._facts.blob_links[name].state
        return state

    def look(self, name: str) -> How | Blob | None:
        """Return how a blob was proved, what is wrong with it, or None where there is none."""
        self.led_to.add(name)
        proof = self._proof.get(name)
        if proof is not None:
            return proof
        if name in self._bad:
            return self._bad[name]
        found = self._find(name)
        if isinstance(found, How):
            self._proof[name] = found
        else:
            self._bad[name] = found
        return found

    def _find(self, name: str) -> How | Blob | None:
        state = self._facts.blobs.get(name)
        if state is None:
            link = self._facts.blob_links.get(name)
            if link is None or link.dangling:
                return None
            if link.where is None:
                return Blob(
                    Kind.UNPROVED, f"its blob is a link to `{link.text}`, outside the cache: not followed", None, 0
                )
            if link.state is None:
                return None
            state = link.state
        if not stat.S_ISREG(state.st_mode):
            return Blob(Kind.SPECIAL, "its blob is no regular file", None, 0)
        answer = self._answers.get(f"blobs/{name}")
        digest = digest_of_name(name)
        size = self._sizes.get(name)
        if digest is None:
            return Blob(Kind.UNPROVED, "its blob's name is no digest", answer, state.st_size)
        if size is not None and state.st_size != size:
            kind, detail = doubt(answer or Answer(How.DIFFERS), state, digest, size)
            return Blob(kind if kind is not Kind.UNPROVED else Kind.CORRUPT, detail, answer, size)
        if answer is None:
            return Blob(Kind.UNPROVED, "it was not hashed", None, state.st_size)
        if not state.st_mode & stat.S_IRUSR:
            return Blob(Kind.WRONG_MODE, "its owner may not read it", answer, state.st_size)
        if answer.good:
            return answer.how
        kind, detail = doubt(answer, state, digest, size)
        return Blob(kind, detail, answer, state.st_size)

    def good_bytes(self) -> int:
        """Return the bytes of the good blobs that names lead to."""
        return sum(state.st_size for name in self._proof if (state := self.state_of(name)) is not None)

    def findings(self) -> Iterator[Finding]:
        """Yield one finding for each blob that is not good and that names lead to."""
        for name, blob in self._bad.items():
            if blob is not None and blob.names:
                yield self._finding(name, blob)

    def _finding(self, name: str, blob: Blob) -> Finding:
        answer = blob.answer
        first = blob.names[0] if blob.names else f"blobs/{name}"
        commit, path = None, first
        if first.startswith("snapshots/"):
            _, commit, path = first.split("/", 2)
        return Finding(
            kind=blob.kind,
            path=path,
            key=f"blobs/{name}",
            names=tuple(blob.names),
            size=blob.size,
            commit=commit,
            digest=digest_of_name(name),
            evidence=self._evidence.get(name, Evidence.BLOB_NAME),
            blocks=None if answer is None else answer.blocks,
            came=None if answer is None else answer.came,
            detail=blob.detail,
        )

    def judge_unlinked(self, verdict: Verdict) -> None:
        """Note the blobs that no name leads to, and which of them are bad besides."""
        for name in (*self._facts.blobs, *self._facts.blob_links):
            if name in self.led_to:
                continue
            found = self._find(name)
            if isinstance(found, How):
                state = self.state_of(name)
                verdict.add(
                    Kind.UNLINKED,
                    f"blobs/{name}",
                    f"blobs/{name}",
                    size=0 if state is None else state.st_size,
                    digest=digest_of_name(name),
                    evidence=Evidence.BLOB_NAME,
                )
            elif found is None:
                verdict.add(Kind.DANGLING, f"blobs/{name}", f"blobs/{name}", digest=digest_of_name(name))
            else:
                verdict.findings.append(self._finding(name, found))
