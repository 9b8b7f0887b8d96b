"""Deciding what to do is pure: whole plans are compared."""

from __future__ import annotations

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.plan import Copy, Fetch, Keep, Link, Plan, Refuse, Seen, plan_fetch

MiB = 1 << 20


def a_file(path: str, size: int = 10 * MiB, digit: str = "a") -> RemoteFile:
    return RemoteFile(path=RepoPath(path), size=size, digest=Digest(algo="sha256", hex=digit * 64), blob_id=digit * 40)


def a_copy(where: str = "/blobs/a", size: int = 10 * MiB, proved: bool = True) -> Copy:
    return Copy(where=where, size=size, proved=proved)


def plan(files: list[RemoteFile], seen: dict[str, Seen], *, folder: bool = False, force: bool = False) -> Plan:
    keyed = {RepoPath(path): what for path, what in seen.items()}
    return plan_fetch(files, keyed, copies_cost_space=folder, force=force)


def test_what_is_published_is_kept_whether_proved_or_not() -> None:
    """An unproved file is hashed by whoever carries the plan out, not fetched."""
    file, copy = a_file("w.bin"), a_copy(proved=False)
    assert Plan(keeps=(Keep(file=file, copy=copy),)) == plan([file], {"w.bin": Seen(published=copy)})


def test_only_a_proved_snapshot_changes_nothing() -> None:
    file = a_file("w.bin")
    assert plan([file], {"w.bin": Seen(published=a_copy())}).changes_nothing
    assert not plan([file], {"w.bin": Seen(published=a_copy(proved=False))}).changes_nothing
    assert not plan([file], {}).changes_nothing


def test_a_published_file_of_another_length_is_replaced() -> None:
    file, short = a_file("w.bin"), a_copy(size=3)
    expected = Plan(fetches=(Fetch(files=(file,), landed=0, replaces=(short,)),))
    assert expected == plan([file], {"w.bin": Seen(published=short)})


def test_a_copy_elsewhere_is_linked_proved_ones_first() -> None:
    """A blob that another revision fetched must not be paid for twice."""
    file = a_file("w.bin")
    unproved, proved, short = a_copy("/x", proved=False), a_copy("/y"), a_copy("/z", size=1)
    expected = Plan(links=(Link(file=file, copies=(proved, unproved)),))
    assert expected == plan([file], {"w.bin": Seen(copies=(short, unproved, proved))})


def test_a_link_to_the_wrong_blob_is_not_kept() -> None:
    file, blob = a_file("w.bin"), a_copy()
    seen = Seen(published=a_copy("/blobs/other"), linked_right=False, copies=(blob,))
    expected = Plan(links=(Link(file=file, copies=(blob,), replaces=a_copy("/blobs/other")),))
    assert expected == plan([file], {"w.bin": seen})


def test_one_digest_is_fetched_once_however_many_paths_have_it() -> None:
    one, two = a_file("one.bin"), a_file("sub/two.bin")
    made = plan([one, two], {"one.bin": Seen(landed=MiB), "sub/two.bin": Seen(landed=MiB)})
    assert Plan(fetches=(Fetch(files=(one, two), landed=MiB),)) == made
    assert 9 * MiB == made.bytes_to_fetch


def test_small_files_come_first_and_large_ones_stay_in_order() -> None:
    files = [a_file("b", digit="b"), a_file("config.json", size=100, digit="c"), a_file("a", digit="d")]
    assert ["config.json", "b", "a"] == [fetch.files[0].path for fetch in plan(files, {}).fetches]


def test_an_obstacle_is_refused_even_when_forced() -> None:
    file = a_file("w.bin")
    seen = {"w.bin": Seen(obstacle="`sub` is a link that leaves the folder")}
    expected = Plan(refusals=(Refuse(file=file, why="`sub` is a link that leaves the folder"),))
    assert expected == plan([file], seen)
    assert expected == plan([file], seen, force=True)


def test_force_fetches_what_is_there_from_its_first_byte() -> None:
    file, copy = a_file("w.bin"), a_copy()
    expected = Plan(fetches=(Fetch(files=(file,), landed=0, replaces=(copy,)),))
    assert expected == plan([file], {"w.bin": Seen(published=copy, landed=MiB)}, force=True)


def test_space_counts_what_is_missing_and_what_a_folder_copies() -> None:
    """A preflight on totals would refuse a resume that fits."""
    new, twin, here = a_file("new", digit="b"), a_file("twin", digit="b"), a_file("here")
    seen = {"new": Seen(landed=4 * MiB), "twin": Seen(landed=4 * MiB), "here": Seen(copies=(a_copy(),))}
    assert 6 * MiB == plan([new, twin, here], seen).bytes_free_needed
    assert 26 * MiB == plan([new, twin, here], seen, folder=True).bytes_free_needed
