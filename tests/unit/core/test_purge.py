"""What goes when a purge is asked for, in which order, and how many bytes that frees."""

from __future__ import annotations

import pytest

from fetchverify.core.purge import Bytes, Purge, PurgeOptions, Revision, is_pinned, plan_purge

NOW = 1_800_000_000.0
DAY_S = 86400.0
MODEL = "models--org--model"
TWIN = "models--org--twin"
GB = 10**9


def revision(commit: str, *blobs: str, days: float = 0, folder: str = MODEL, **more: object) -> Revision:
    given: dict[str, object] = {
        "repo": ("model", folder.partition("--")[2].replace("--", "/")),
        "folder": folder,
        "commit": commit * 40,
        "refs": (),
        "blobs": frozenset(blobs),
        "used": NOW - days * DAY_S,
    }
    return Revision(**{**given, **more})  # type: ignore[arg-type]


def planned(revisions: list[Revision], **more: object) -> list[Purge]:
    sizes = {(r.folder, blob): Bytes((r.folder, blob), GB, 1) for r in revisions for blob in r.blobs}
    unlinked: dict[str, list[str]] = {}
    given: dict[str, object] = {"sizes": sizes, "unlinked": unlinked}
    given.update({key: more.pop(key) for key in ("sizes", "unlinked") if key in more})
    return plan_purge(revisions, options=PurgeOptions(**more), now=NOW, **given)  # type: ignore[arg-type]


def gone(purges: list[Purge]) -> str:
    """Return the commits that go, a letter each, in their order."""
    return "".join(one.commit[0] for one in purges)


def test_nothing_goes_without_being_asked_for() -> None:
    assert not PurgeOptions(pins=("org/*",)).asked
    assert [] == planned([revision("a", "w", days=999)], unlinked={MODEL: ["x"]})


# --- which ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "expected"), [(29.9, ""), (30.0, ""), (30.1, "a")])
def test_older_than_takes_what_nobody_used_for_longer(days: float, expected: str) -> None:
    assert expected == gone(planned([revision("a", days=days)], older_than_s=30 * DAY_S))


@pytest.mark.parametrize("told_by", ["access time", "link time"])
def test_older_than_takes_what_refs_name_too_and_says_which_time_told(told_by: str) -> None:
    (one,) = planned([revision("a", days=45, refs=("main",), told_by=told_by)], older_than_s=30 * DAY_S)
    assert f"last used 45 days ago by its {told_by}" == one.why


@pytest.mark.parametrize(("days", "expected"), [(0.5, "today"), (1.5, "a day ago"), (1234.0, "1,234 days ago")])
def test_how_long_ago(days: float, expected: str) -> None:
    (one,) = planned([revision("a", days=days)], older_than_s=0.0)
    assert f"last used {expected} by its access time" == one.why


def test_so_many_revisions_are_kept_of_each_repo_the_latest_used() -> None:
    mine = [revision(commit, days=days) for commit, days in (("a", 3), ("b", 1), ("c", 2))]
    others = [revision("d", days=9, folder=TWIN)]
    assert "ac" == gone(planned(mine + others, keep_revisions=1))
    assert "a" == gone(planned(mine + others, keep_revisions=2))
    assert "" == gone(planned(mine + others, keep_revisions=3))


def test_a_revision_that_a_ref_names_is_never_one_too_many() -> None:
    """`--keep-revisions 1` must not take `v1.0` because `main` is newer; but each counts for one that is kept."""
    named = [revision("a", days=9, refs=("v1.0",)), revision("b", days=8, refs=("main", "refs/pr/1"))]
    assert "" == gone(planned(named, keep_revisions=1))
    assert "c" == gone(planned([*named, revision("c")], keep_revisions=2))
    assert "" == gone(planned([*named, revision("c")], keep_revisions=3))


def test_unreferenced_takes_revisions_without_a_ref_and_blobs_without_a_name() -> None:
    revisions = [revision("a", "w", refs=("main",)), revision("b", "w", "x")]
    sizes = {(MODEL, blob): Bytes(blob, GB, 1) for blob in "wxy"}
    assert [("b" * 40, ("x",), GB, "no ref names it"), ("", ("y",), GB, "no name leads to it")] == [
        (one.commit, one.blobs, one.frees, one.why)
        for one in planned(revisions, unreferenced=True, sizes=sizes, unlinked={MODEL: ["y"]})
    ]


def test_the_least_recently_used_go_until_the_rest_fits() -> None:
    revisions = [revision("a", "1", days=2), revision("b", "2", days=3), revision("c", "3", days=1)]
    assert "" == gone(planned(revisions, max_size=3 * GB))
    assert "b" == gone(planned(revisions, max_size=3 * GB - 1))
    assert "ba" == gone(planned(revisions, max_size=GB))
    assert "bac" == gone(planned(revisions, max_size=0))
    assert {"the cache is larger than it may be"} == {one.why for one in planned(revisions, max_size=0)}


def test_what_goes_for_another_reason_counts_toward_the_size() -> None:
    revisions = [revision("a", "1", days=2, refs=("main",)), revision("b", "2", days=1)]
    assert "b" == gone(planned(revisions, unreferenced=True, max_size=GB))


@pytest.mark.parametrize(
    ("pin", "pinned"),
    [
        ("org/model", True),
        ("org/*", True),
        ("*", True),
        ("org/model@v1.0", True),
        ("org/model@aaaaaaa", True),
        (f"org/model@{'a' * 40}", True),
        ("org/*@v1.0", True),
        ("org/model@aaaaaa", False),  # six are too few to name a commit
        ("org/model@v1", False),
        ("org/mod", False),
        ("org/Model", False),
        ("other/model", False),
        ("", False),
    ],
)
def test_what_a_pin_names(pin: str, pinned: bool) -> None:
    one = revision("a", days=99, refs=("v1.0",))
    assert pinned is is_pinned(one, [pin])
    everything = {"older_than_s": 0.0, "max_size": 0, "unreferenced": True, "keep_revisions": 1}
    assert ("" if pinned else "a") == gone(planned([one], pins=(pin,), **everything))


def test_blobs_without_a_name_are_pinned_with_their_repo() -> None:
    unlinked = {MODEL: ["x"], TWIN: ["y"]}
    assert [TWIN] == [one.folder for one in planned([], unreferenced=True, unlinked=unlinked, pins=("org/model",))]
    assert 2 == len(planned([], unreferenced=True, unlinked=unlinked, pins=("org/model@v1.0",)))


# --- how many bytes ---------------------------------------------------------------------------------------------


def test_a_blob_goes_with_the_last_of_its_revisions() -> None:
    revisions = [revision("a", "w", "x", days=3), revision("b", "w", "y", days=2), revision("c", "y", days=1)]
    assert [(("x",), GB), (("w",), GB)] == [
        (one.blobs, one.frees) for one in planned(revisions, older_than_s=1.5 * DAY_S)
    ]


def test_two_repos_names_of_one_inode_count_once() -> None:
    """A hard-linked mirror: 1 GB on disk, whatever `du` of each repo says."""
    revisions = [revision("a", "w", days=2), revision("b", "w", days=1, folder=TWIN)]
    sizes = {(folder, "w"): Bytes("inode", GB, 2) for folder in (MODEL, TWIN)}
    assert "" == gone(planned(revisions, sizes=sizes, max_size=GB))
    assert "ab" == gone(planned(revisions, sizes=sizes, max_size=GB - 1)), "one of them frees nothing"
    assert [0, GB] == [one.frees for one in planned(revisions, sizes=sizes, max_size=0)]
    assert [0] == [one.frees for one in planned(revisions, sizes=sizes, older_than_s=1.5 * DAY_S)]


def test_a_hard_link_outside_counts_for_the_size_and_frees_nothing() -> None:
    """It was counted as no bytes at all, so that no purge ever began."""
    sizes = {(MODEL, "w"): Bytes("inode", GB, 2)}
    (one,) = planned([revision("a", "w")], sizes=sizes, max_size=GB - 1)
    assert (("w",), 0) == (one.blobs, one.frees)


def test_hard_links_in_two_snapshots_and_their_blob_count_once() -> None:
    """Without symlinks every revision has a hard link of its own."""
    blob = Bytes("inode", GB, 3)
    revisions = [revision("a", "w", days=2, copies=(blob,)), revision("b", "w", days=1, copies=(blob,))]
    sizes = {(MODEL, "w"): blob}
    assert "" == gone(planned(revisions, sizes=sizes, max_size=GB))
    assert [((), 0), (("w",), GB)] == [(one.blobs, one.frees) for one in planned(revisions, sizes=sizes, max_size=0)]


def test_copies_count_each() -> None:
    copies = [Bytes(name, GB, 1) for name in "wx"]
    revisions = [revision("a", days=2, copies=(copies[0],)), revision("b", days=1, copies=(copies[1],))]
    assert "a" == gone(planned(revisions, max_size=GB))
    assert [GB, GB] == [one.frees for one in planned(revisions, max_size=0)]


def test_a_shared_payload_is_free_with_its_last_user() -> None:
    revisions = [revision("a", "w", days=3), revision("b", "w", days=2, folder=TWIN)]
    sizes = {(folder, "w"): Bytes("payload", GB, 2) for folder in (MODEL, TWIN)}
    assert [0] == [one.frees for one in planned(revisions, sizes=sizes, older_than_s=2.5 * DAY_S)]
    assert [0, GB] == [one.frees for one in planned(revisions, sizes=sizes, older_than_s=DAY_S)]


def test_an_unlinked_name_of_bytes_that_go_frees_them() -> None:
    sizes = {(MODEL, "w"): Bytes("inode", GB, 2), (TWIN, "w"): Bytes("inode", GB, 2)}
    found = planned([revision("a", "w")], sizes=sizes, unlinked={TWIN: ["w"]}, unreferenced=True)
    assert [0, GB] == [one.frees for one in found]
