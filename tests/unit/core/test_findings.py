"""Rules over facts, without a disk: each row is a state, an answer, and what it has to be called."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import replace

import pytest

from fetchverify.core.facts import (
    Answer,
    AreaFacts,
    CacheFacts,
    Entry,
    Evidence,
    FolderFacts,
    How,
    Linked,
    Lock,
    Payload,
    Promised,
    State,
    StoreFacts,
    Unfinished,
)
from fetchverify.core.findings import Kind, Rank, Verdict
from fetchverify.core.judging.cache import judge_cache
from fetchverify.core.judging.files import blocks_text
from fetchverify.core.judging.folder import judge_folder
from fetchverify.core.judging.links import blob_behind
from fetchverify.core.judging.questions import cache_questions, folder_questions
from fetchverify.core.judging.store import judge_store
from fetchverify.core.manifest import Digest
from fetchverify.core.verified import Place, VerifyReport
from fetchverify.errors import ExitCode

ROOT = "/cache/models--org--m"
NOW = 1_000_000_000.0
DAY_S = 24 * 3600.0
C = "c0" * 20
W = "aa" * 32
OTHER = "bb" * 32
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 100\n"
PROMISE = Promised(Digest(algo="sha256", hex=W), 100, Evidence.HUB)


def state(
    size: int = 100, *, mode: int = stat.S_IFREG | 0o644, ino: int = 1, idle_s: float = 0.0, links: int = 1
) -> State:
    return State(mode, size, int((NOW - idle_s) * 1e9), 1, ino, links)


def a_cache(**more: object) -> CacheFacts:
    """One repo with one file, `w`, of 100 bytes."""
    given = {
        "root": ROOT,
        "now": NOW,
        "refs": {"main": C},
        "snapshots": {C: {"w": f"../../blobs/{W}"}},
        "blobs": {W: state()},
    }
    return CacheFacts(**{**given, **more})  # type: ignore[arg-type]


def judged(
    facts: CacheFacts, answers: dict[str, Answer] | None = None, *, promise: Promised | None = PROMISE
) -> Verdict:
    promised = {} if promise is None else {C: {"w": promise}}
    return judge_cache(facts, promised, {f"blobs/{W}": Answer(How.HASHED)} if answers is None else answers)


def kinds(verdict: Verdict) -> list[Kind]:
    return [finding.kind for finding in verdict.findings]


def test_a_good_file_is_counted_once_with_its_proof() -> None:
    verdict = judged(a_cache())
    assert ([], {(Evidence.HUB, How.HASHED): 1}, 1, 100) == (
        verdict.findings,
        verdict.good,
        verdict.files,
        verdict.size,
    )


def test_without_a_promise_the_blobs_name_is_the_evidence() -> None:
    assert {(Evidence.BLOB_NAME, How.HASHED): 1} == judged(a_cache(), promise=None).good


@pytest.mark.parametrize(
    ("size", "answer", "kind", "detail"),
    [
        (100, Answer(How.DIFFERS), Kind.CORRUPT, None),
        (100, Answer(How.DIFFERS, blocks=(3,)), Kind.CORRUPT, "block 3"),
        (100, Answer(How.UNREADABLE, detail="input/output error"), Kind.UNREADABLE, "input/output error"),
        (100, Answer(How.CHANGED), Kind.UNPROVED, "it changed while it was read"),
        (100, Answer(How.UNASKED), Kind.UNPROVED, "it was not hashed: a quick run, and never proved before"),
        (60, Answer(How.DIFFERS), Kind.TRUNCATED, "60 of 100 bytes"),
        (0, Answer(How.DIFFERS), Kind.TRUNCATED, "0 of 100 bytes"),
        (101, Answer(How.DIFFERS), Kind.CORRUPT, "1 bytes too many"),
        (60, Answer(How.DIFFERS, head=POINTER % W.encode()), Kind.POINTER, None),
        (60, Answer(How.DIFFERS, head=POINTER % OTHER.encode()), Kind.POINTER, "it points to sha256 `bbbbbbbbbbbb…`"),
        (60, Answer(How.DIFFERS, head=b"<!doctype html>"), Kind.PAGE, None),
    ],
)
def test_bad_bytes_are_called_what_they_are(size: int, answer: Answer, kind: Kind, detail: str | None) -> None:
    verdict = judged(a_cache(blobs={W: state(size)}), {f"blobs/{W}": answer})
    (finding,) = verdict.findings
    assert (kind, detail, "w", PROMISE.digest) == (finding.kind, finding.detail, finding.path, finding.digest)
    assert not verdict.good


@pytest.mark.parametrize("how", [How.HASHED, How.LEDGER, How.BLOCKS, How.UNASKED])
def test_a_proof_is_void_where_the_size_is_not_the_promised_one(how: How) -> None:
    """A ledger that says otherwise is not to be believed, and a quick run needs no bytes to see it."""
    facts = FolderFacts(root="/f", now=NOW, files={"w": state(99)})
    assert [Kind.TRUNCATED] == kinds(judge_folder(facts, {"w": PROMISE}, {"w": Answer(how)}, complete=True))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, [Kind.EMPTY_SNAPSHOT]),
        ({"w": f"../../blobs/{OTHER}"}, [Kind.DANGLING]),
        ({"w": "/etc/passwd"}, [Kind.WRONG_TARGET]),
        ({"w": f"../../../models--org--other/blobs/{W}"}, [Kind.WRONG_TARGET]),
        ({"w": f"{ROOT}/blobs/{W}"}, []),
        ({"w": f"../.././blobs/{W}"}, []),
        ({"w": f"../../blobs/{W}", "x": f"../../blobs/{W}"}, [Kind.EXTRA]),
        ({"x": f"../../blobs/{W}"}, [Kind.EXTRA, Kind.MISSING]),
        ({"w": state(mode=stat.S_IFDIR | 0o755, ino=9)}, [Kind.SPECIAL]),
        ({"w": state(mode=stat.S_IFIFO | 0o644, ino=9)}, [Kind.SPECIAL]),
        ({"w": state(ino=1)}, []),  # a hardlink to the blob
    ],
)
def test_names_of_a_snapshot(names: dict[str, Entry], expected: list[Kind]) -> None:
    found = [kind for kind in kinds(judged(a_cache(snapshots={C: names}))) if kind is not Kind.UNLINKED]
    assert expected == found


def test_a_link_to_another_files_good_bytes_is_no_proof() -> None:
    """Each blob is whole, and the reader of `w` still gets the wrong weights."""
    facts = a_cache(snapshots={C: {"w": f"../../blobs/{OTHER}"}}, blobs={OTHER: state()})
    verdict = judged(facts, {f"blobs/{OTHER}": Answer(How.HASHED)})
    assert ([Kind.WRONG_TARGET], 0) == (kinds(verdict), verdict.good.total())


def test_a_link_out_of_the_cache_is_never_asked_about() -> None:
    """A crafted cache must not make us read, or vouch for, somebody's private file."""
    facts = a_cache(snapshots={C: {"w": "/home/me/.ssh/id_rsa", "x": "../../../../home/me/.netrc"}}, blobs={})
    assert [] == cache_questions(facts, {C: {"w": PROMISE}})
    verdict = judge_cache(facts, {}, {})
    assert ([Kind.UNPROVED] * 2, 0) == (kinds(verdict), verdict.good.total())


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("w", f"../../blobs/{W}", W),
        ("a/b/w", f"../../../../blobs/{W}", W),
        ("a/w", f"../../blobs/{W}", None),
        ("w", "../../blobs/", None),
        ("w", "../../blobs/x/y", None),
        ("w", "../../blobs/../refs/main", None),
        ("w", f"{ROOT}/blobs/{W}", W),
        ("w", f"/elsewhere/blobs/{W}", None),
        ("w", "", None),
        ("/".join("d" * 70), f"{'../' * 71}blobs/{W}", W),
    ],
)
def test_which_blob_a_link_leads_to(path: str, text: str, expected: str | None) -> None:
    assert expected == blob_behind(ROOT, C, path, text)


def test_all_names_of_a_bad_blob_are_one_finding() -> None:
    """A repair fetches it once, and gives every name its link."""
    facts = a_cache(snapshots={C: {"a": f"../../blobs/{W}", "sub/b": f"../../../blobs/{W}"}})
    verdict = judge_cache(facts, {C: {"a": PROMISE, "sub/b": PROMISE}}, {f"blobs/{W}": Answer(How.DIFFERS)})
    (finding,) = verdict.findings
    assert (f"blobs/{W}", (f"snapshots/{C}/a", f"snapshots/{C}/sub/b")) == (finding.key, finding.names)


def test_a_filter_leaves_other_paths_and_all_litter_alone() -> None:
    facts = a_cache(snapshots={C: {"w": f"../../blobs/{OTHER}"}}, strange=("notes.txt",))
    verdict = judge_cache(facts, {C: {"w": PROMISE}}, {}, wanted=lambda path: path == "none")
    assert ([], 0) == (verdict.findings, verdict.files)
    assert [] == cache_questions(facts, {}, lambda path: path == "none")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"refs": {"main": C, "dev": None}}, Kind.BROKEN_REF),
        ({"refs": {"main": "d0" * 20}}, Kind.NOWHERE_REF),
        ({"has_snapshots": False}, Kind.NO_SNAPSHOTS),
        ({"no_exist": {C: ("w",)}}, Kind.FALSE_NO_EXIST),
        ({"unreadable": {"blobs": "permission denied"}}, Kind.UNREADABLE),
        ({"strange": ("notes.txt",)}, Kind.STRANGE),
        ({"blobs": {W: state(), OTHER: state(ino=2)}}, Kind.UNPROVED),  # no link, no answer: not vouched for
        ({"incompletes": {f"{OTHER}.1234.incomplete": state()}}, Kind.INCOMPLETE),
        ({"locks": {"x.lock": Lock(state(0, idle_s=2 * DAY_S), False)}}, Kind.STALE_LOCK),
        ({"area": AreaFacts(unfinished=(Unfinished("sha256-x", 5, 5, False),))}, Kind.DEAD_PARTIAL),
        ({"area": AreaFacts(temporaries={"tmp/x": state()})}, Kind.TEMPORARY),
        ({"area": AreaFacts(cut=("sha256-x",))}, Kind.CUT_LINKS),
        ({"area": AreaFacts(quarantined={"sha256-x": state()})}, Kind.QUARANTINED),
    ],
)
def test_what_else_lies_in_a_repos_folder(more: dict[str, object], expected: Kind) -> None:
    assert [expected] == kinds(judged(a_cache(**more)))


@pytest.mark.parametrize(
    "more",
    [
        {"locks": {"x.lock": Lock(state(0, idle_s=2 * DAY_S), True)}},
        {"locks": {"x.lock": Lock(state(0), False)}},
        {"area": AreaFacts(unfinished=(Unfinished("sha256-x", 5, 5, True),))},
        {
            "incompletes": {f"{OTHER}.1234.incomplete": state(idle_s=9 * DAY_S)},
            "locks": {f"{OTHER}.lock": Lock(state(0), True)},
        },
        {"incompletes": {f"{OTHER}.1234.incomplete": state()}, "locks_exclude": False},
        {"no_exist": {C: ("absent",)}},
    ],
)
def test_what_somebody_may_be_using_is_left_alone(more: dict[str, object]) -> None:
    """Where locks do not exclude, a free lock proves nothing for a day."""
    assert [] == kinds(judged(a_cache(**more)))


PAYLOAD = "12" * 32
LINK = Linked(f"../../blobs/12/{PAYLOAD}", f"/cache/blobs/12/{PAYLOAD}", state(mode=stat.S_IFREG | 0o444))
USER = f"models--org--m/blobs/{W}"


@pytest.mark.parametrize(
    ("refs", "mode", "marked", "used", "expected"),
    [
        ((USER,), 0o444, True, True, []),
        ((), 0o444, True, True, [Kind.LOST_REFERENCE]),
        (None, 0o444, True, True, [Kind.LOST_REFERENCE]),
        ((USER,), 0o644, True, True, [Kind.LOOSE_MODE]),
        ((USER,), 0o000, True, True, [Kind.WRONG_MODE]),
        ((USER,), 0o444, False, True, [Kind.UNMARKED_STORE]),
        ((USER,), 0o444, True, False, [Kind.ORPHAN_PAYLOAD]),
    ],
)
def test_the_store_that_repos_share(
    refs: tuple[str, ...] | None, mode: int, marked: bool, used: bool, expected: list[Kind]
) -> None:
    store = StoreFacts(
        root="/cache/blobs", marked=marked, payloads={PAYLOAD: Payload(state(mode=stat.S_IFREG | mode), refs)}
    )
    repo = a_cache(blobs={}, blob_links={W: LINK} if used else {})
    assert expected == kinds(judge_store(store, [repo]))


def test_a_shared_blob_is_held_against_the_name_of_the_repos_link() -> None:
    """The payload's own name is Xet's hash, not the sha256."""
    facts = a_cache(blobs={}, blob_links={W: LINK})
    (question,) = cache_questions(facts, {C: {"w": PROMISE}})
    assert (f"blobs/{W}", LINK.where, PROMISE.digest) == (question.key, question.where, question.digest)
    assert [] == judged(facts).findings


# --- folders ----------------------------------------------------------------------------------------------------

LINK_TEXT = "../shared/w"
LINK_OID = hashlib.sha1(b"blob %d\0%s" % (len(LINK_TEXT), LINK_TEXT.encode()), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("entry", "promise", "expected"),
    [
        (LINK_TEXT, Promised(Digest(algo="git-sha1", hex=LINK_OID), None, Evidence.GIT), []),
        (LINK_TEXT, PROMISE, [Kind.UNPROVED]),
        (state(mode=stat.S_IFSOCK), PROMISE, [Kind.SPECIAL]),
        (None, PROMISE, [Kind.MISSING]),
    ],
)
def test_links_and_others_in_a_folder(entry: Entry | None, promise: Promised, expected: list[Kind]) -> None:
    facts = FolderFacts(root="/f", now=NOW, files={} if entry is None else {"w": entry})
    assert expected == kinds(judge_folder(facts, {"w": promise}, {}, complete=True))
    if isinstance(entry, str) and expected:
        dangling = replace(facts, dangling=frozenset({"w"}))
        assert [Kind.DANGLING] == kinds(judge_folder(dangling, {"w": promise}, {}, complete=True))


@pytest.mark.parametrize(
    ("complete", "answer", "expected"),
    [
        (True, Answer(How.UNASKED), Kind.EXTRA),
        (False, Answer(How.UNASKED), Kind.UNPROVED),
        (False, Answer(How.UNASKED, head=POINTER % W.encode()), Kind.POINTER),
    ],
)
def test_a_file_that_nobody_promised(complete: bool, answer: Answer, expected: Kind) -> None:
    facts = FolderFacts(root="/f", now=NOW, files={"x": state(60)})
    assert ["x"] == [question.key for question in folder_questions(facts, {})]
    assert [expected] == kinds(judge_folder(facts, {}, {"x": answer}, complete=complete))


def test_promised_paths_out_of_the_folder_are_missing_never_read() -> None:
    """A SHA256SUMS is anybody's text."""
    promises = dict.fromkeys(("../secret", "/etc/passwd", "a/../../secret"), PROMISE)
    facts = FolderFacts(root="/f", now=NOW, files={})
    assert [] == folder_questions(facts, promises)
    assert [Kind.MISSING] * 3 == kinds(judge_folder(facts, promises, {}, complete=True))


# --- what it amounts to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "strict", "allow_missing", "code"),
    [
        (Kind.CORRUPT, False, False, 1),
        (Kind.MISSING, False, False, 1),
        (Kind.MISSING, True, True, 0),
        (Kind.DANGLING, False, True, 1),
        (Kind.UNPROVED, False, False, 0),
        (Kind.UNPROVED, True, False, 1),
        (Kind.EXTRA, True, False, 0),
    ],
)
def test_what_a_finding_amounts_to(kind: Kind, strict: bool, allow_missing: bool, code: int) -> None:
    assert code == int(report_of(kind, strict=strict, allow_missing=allow_missing).exit_code)


def report_of(kind: Kind, **more: object) -> VerifyReport:
    verdict = Verdict()
    verdict.add(kind, "w", "w")
    place = Place(target="/f", in_cache=False, repo_id=None, repo_type=None, commits=(), verdict=verdict)
    common = {"seconds": 0.0, "files_hashed": 0, "bytes_hashed": 0, "requests": 0}
    return VerifyReport(places=(place,), **{**common, **more})  # type: ignore[arg-type]


def test_damage_is_said_before_a_hub_that_is_out_of_reach() -> None:
    assert ExitCode.FINDINGS == report_of(Kind.CORRUPT, network=ExitCode.NETWORK).exit_code
    assert ExitCode.NETWORK == report_of(Kind.EXTRA, network=ExitCode.NETWORK).exit_code


def test_every_kind_has_a_rank_and_only_one_is_unproved() -> None:
    assert [Kind.UNPROVED] == [kind for kind in Kind if kind.rank is Rank.UNPROVED]


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ((3,), "block 3"),
        ((3, 7), "blocks 3 and 7"),
        ((1, 3, 7), "blocks 1, 3 and 7"),
        (tuple(range(9)), "9 blocks, from 0 to 8"),
    ],
)
def test_blocks_in_words(blocks: tuple[int, ...], text: str) -> None:
    assert text == blocks_text(blocks)
