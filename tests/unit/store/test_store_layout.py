"""What holds for every target: observe, publish, unpublish, finish; the cache and a plain folder alike."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import xxhash

from fetchverify.core.manifest import RemoteFile
from fetchverify.core.plan import Copy, Seen, plan_fetch
from fetchverify.errors import DiskError, LockedError, UntrustedMetadataError
from fetchverify.store.disk import Disk
from fetchverify.store.folder import Folder
from fetchverify.store.hubcache import HubCache
from fetchverify.store.layout import Layout
from fetchverify.store.partial import Partial

if TYPE_CHECKING:
    from tests.unit.store.conftest import Repo

Making: TypeAlias = "Callable[[dict[str, bytes]], Repo]"


def observe(layout: Layout, repo: Repo) -> dict[str, Seen]:
    seen = layout.observe(repo.manifest, repo.manifest.files)
    return {str(path): what for path, what in seen.items()}


def read(layout: Layout, repo: Repo) -> dict[str, bytes]:
    return {file.path: (layout.target / file.path).read_bytes() for file in repo.manifest.files}


def fresh(layout: Layout) -> Layout:
    """Return the layout as the next process sees it."""
    if isinstance(layout, HubCache):
        return HubCache(Disk(), layout.cache_dir, layout.root.name)
    assert isinstance(layout, Folder)
    return Folder(Disk(), layout.target)


def download(layout: Layout, repo: Repo, path: str) -> Path:
    """Return a sealed partial's data, as the engine leaves it."""
    file, data = repo.file(path), repo.contents[path]
    partial = Partial.open(Disk(), layout.area, file.digest, file.size)
    partial.write(data, 0)
    for index in range(partial.tiling.count):
        partial.record(index, xxhash.xxh3_128_digest(data))
    return partial.seal()


def test_before_anything_nothing_is_seen_and_nothing_written(layout: Layout, repo: Repo, tmp_path: Path) -> None:
    assert {file.path: Seen() for file in repo.manifest.files} == observe(layout, repo)
    assert (None, None, []) == (layout.read_ref("main"), layout.read_tree("1" * 40), os.listdir(tmp_path))


def test_what_was_published_is_proved_in_the_next_run(layout: Layout, repo: Repo) -> None:
    repo.publish(layout)
    assert repo.contents == read(layout, repo)
    later = fresh(layout)
    seen = observe(later, repo)
    plan = plan_fetch(repo.manifest.files, seen, copies_cost_space=later.copies_cost_space)  # type: ignore[arg-type]
    assert plan.changes_nothing
    assert len(repo.manifest.files) == len(plan.keeps)
    assert "1" * 40 == later.read_ref("main")
    assert set(repo.manifest.files) == set(later.read_tree("1" * 40) or ())


def test_a_download_is_published_under_all_its_paths(layout: Layout, repo: Repo) -> None:
    layout.begin(repo.manifest)
    twins = [repo.file("weights/deep/model.bin"), repo.file("weights/twin.bin")]
    data = download(layout, repo, "weights/twin.bin")
    inode = data.stat().st_ino
    layout.publish_data(twins, data)
    assert not data.exists()
    assert [b"w" * 5000] * 2 == [(layout.target / file.path).read_bytes() for file in twins]
    assert inode == (layout.target / twins[0].path).stat().st_ino
    assert [True, True] == [s.published.proved for p, s in observe(layout, repo).items() if s.published is not None]


def test_a_plain_file_gets_the_umasks_mode(layout: Layout, repo: Repo) -> None:
    """`Partial` may have been made under another umask, by another run."""
    before = os.umask(0o027)
    try:
        layout.begin(repo.manifest)
        data = download(layout, repo, "weights/twin.bin")
        data.chmod(0o600)
        layout.publish_data([repo.file("weights/twin.bin")], data)
        layout.publish_bytes(repo.file("config.json"), b"{}")
    finally:
        os.umask(before)
    modes = [(layout.target / path).stat().st_mode & 0o777 for path in ("weights/twin.bin", "config.json")]
    assert [0o640, 0o640] == modes


def test_the_ref_moves_only_at_the_end(layout: Layout, repo: Repo) -> None:
    """A reader that follows the ref must find a snapshot."""
    repo.publish(layout)
    newer = repo.at("2", config__json=b"{1}")
    layout.begin(newer.manifest)
    layout.publish_bytes(newer.file("config.json"), b"{1}")
    assert "1" * 40 == layout.read_ref("main")
    newer.publish(layout)
    assert "2" * 40 == layout.read_ref("main")


@pytest.mark.parametrize("revision", ["refs/pr/1", "v1.0", "feature/x y"])
def test_any_revisions_name_can_be_a_ref(layout: Layout, repo: Repo, revision: str) -> None:
    repo.named(revision).publish(layout)
    assert ("1" * 40, None) == (fresh(layout).read_ref(revision), fresh(layout).read_ref("main"))


@pytest.mark.parametrize("revision", ["1" * 40, "2" * 40])
def test_a_commit_needs_no_ref(layout: Layout, repo: Repo, revision: str) -> None:
    """Nor does a branch that is named like one: the hub's client would never read it."""
    repo.named(revision).publish(layout)
    assert "1" * 40 == layout.read_ref("1" * 40)
    assert not list(layout.area.parent.glob("refs/*")) + list(layout.area.glob("refs/*"))


def test_a_hostile_revision_writes_nowhere(cache: HubCache, repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(UntrustedMetadataError):
        repo.named("../../../evil").publish(cache)
    assert not list(tmp_path.rglob("evil"))
    assert cache.read_ref("../refs/main") is None


@pytest.mark.parametrize("raw", [b"", b"x" * 40, b"\xff\0", b"1" * 39])
def test_a_torn_ref_is_none(layout: Layout, repo: Repo, raw: bytes) -> None:
    repo.publish(layout)
    ref = next(p for p in [layout.area.parent / "refs" / "main", layout.area / "refs" / "main"] if p.exists())
    ref.write_bytes(raw)
    assert fresh(layout).read_ref("main") is None


def test_landed_bytes_of_partials_are_seen(layout: Layout, repo: Repo) -> None:
    layout.begin(repo.manifest)
    file = repo.file("weights/twin.bin")
    with Partial.open(Disk(), layout.area, file.digest, file.size) as partial:
        partial.write(b"w" * 5000, 0)
        partial.record(0, xxhash.xxh3_128_digest(b"w" * 5000))
    seen = observe(layout, repo)
    assert {"weights/twin.bin": 5000, "weights/deep/model.bin": 5000} == {
        path: what.landed for path, what in seen.items() if what.landed
    }


def test_bad_bytes_are_taken_from_readers_and_given_to_quarantine(layout: Layout, repo: Repo) -> None:
    repo.publish(layout)
    file = repo.file("weights/twin.bin")
    path = layout.target / file.path
    with path.open("r+b") as opened:
        opened.write(b"rot")
    later = fresh(layout)
    published = observe(later, repo)[file.path].published
    assert published is not None
    assert not published.proved
    bad = later.unpublish(file)
    assert bad is not None
    assert b"rotww" == bad.read_bytes()[:5]
    bad.rename(later.area / "taken")
    assert not os.path.lexists(path)
    assert observe(later, repo)[file.path].published is None
    later.publish_data([file], download(later, repo, file.path))
    assert repo.contents == read(later, repo)


def test_proved_bytes_are_not_taken_from_readers(layout: Layout, repo: Repo) -> None:
    """`--force` fetches again what is good: it must be replaced in one step, and never lie in quarantine."""
    repo.publish(layout)
    file = repo.file("weights/twin.bin")
    before = (layout.target / file.path).stat().st_ino
    assert layout.unpublish(file) is None
    assert repo.contents == read(layout, repo)
    layout.publish_data([file], download(layout, repo, file.path))
    assert before != (layout.target / file.path).stat().st_ino
    assert repo.contents == read(layout, repo)


def test_a_copy_that_is_too_short_is_not_published(layout: Layout, repo: Repo, tmp_path: Path) -> None:
    layout.begin(repo.manifest)
    (tmp_path / "source").write_bytes(b"short")
    with pytest.raises(DiskError, match="changed while it was copied"):
        layout.publish_copy(repo.file("weights/twin.bin"), Copy(where=str(tmp_path / "source"), size=5000, proved=True))
    assert observe(layout, repo)["weights/twin.bin"].published is None
    assert [] == os.listdir(layout.area / "tmp")


def test_proved_bytes_from_elsewhere_are_copied_and_never_hardlinked(
    layout: Layout, repo: Repo, tmp_path: Path
) -> None:
    """An edit in one place must not rot the other."""
    layout.begin(repo.manifest)
    source = tmp_path / "source"
    source.write_bytes(b"w" * 5000)
    how = layout.publish_copy(repo.file("weights/twin.bin"), Copy(where=str(source), size=5000, proved=True))
    assert how in {"reflink", "copy"}
    source.write_bytes(b"edited")
    assert b"w" * 5000 == (layout.target / "weights/twin.bin").read_bytes()


@pytest.mark.parametrize("what", ["link", "file", "inside"])
def test_nothing_is_written_through_a_planted_folder(layout: Layout, repo: Repo, tmp_path: Path, what: str) -> None:
    layout.begin(repo.manifest)
    outside = tmp_path / "outside"
    outside.mkdir()
    layout.target.mkdir(exist_ok=True)
    planted = layout.target / "weights"
    match what:
        case "link":
            planted.symlink_to(outside)
        case "inside":
            (layout.target / "real").mkdir()
            planted.symlink_to("real")
        case "file":
            planted.write_bytes(b"x")
    obstacles = {path: seen.obstacle for path, seen in observe(layout, repo).items() if seen.obstacle}
    assert {"weights/deep/model.bin", "weights/twin.bin"} == set(obstacles)
    with pytest.raises(DiskError, match="where a folder belongs"):
        layout.publish_data([repo.file("weights/twin.bin")], download(layout, repo, "weights/twin.bin"))
    assert [] == os.listdir(outside)


@pytest.mark.parametrize("what", ["folder", "fifo"])
def test_what_stands_in_the_way_is_an_obstacle(layout: Layout, repo: Repo, what: str) -> None:
    layout.begin(repo.manifest)
    layout.target.mkdir(exist_ok=True)
    way = layout.target / "config.json"
    way.mkdir() if what == "folder" else os.mkfifo(way)
    obstacles = {path: seen.obstacle for path, seen in observe(layout, repo).items() if seen.obstacle}
    assert ["config.json"] == list(obstacles)


def test_a_name_too_long_for_the_disk_is_an_obstacle(layout: Layout, make: Making) -> None:
    """The hub's `.metadata` beside it must fit, too."""
    fits = "ü" * 127 if layout.area.parent.name != "dir" else "ü" * 123
    repo = make({fits: b"x", fits + "ü": b"x"})
    repo_ = make({fits: b"x"})
    repo_.publish(layout)
    assert [None, f"`{fits}ü` has a name too long for this folder"] == [
        s.obstacle for s in observe(layout, repo).values()
    ]


def test_the_lock_is_the_one_that_the_hubs_client_takes(layout: Layout, repo: Repo) -> None:
    """Both ways, and from worker threads: the client holds it for its whole download."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    layout.begin(repo.manifest)
    file = repo.file("weights/twin.bin")
    expected = {
        "models--org--name": layout.area.parent.parent / f".locks/models--org--name/{file.digest.hex}.lock",
        "dir": layout.target / ".cache/huggingface/download/weights/twin.bin.lock",
    }[layout.area.parent.name]
    waited: list[tuple[str, float]] = []
    with WeakFileLock(expected):
        began = time.monotonic()
        with (
            pytest.raises(LockedError, match=f"process {os.getpid()} .* has held"),
            layout.lock(file, lambda what, s: waited.append((what, s)), 0.5),
        ):
            pass
        assert time.monotonic() - began < 5
        with pytest.raises(LockedError), layout.lock(file, lambda *_: None, 0):
            pass
    assert [f"process {os.getpid()} (this one), which holds `{expected}`"] == [what for what, _ in waited]
    with layout.lock(file, lambda *_: None, 0), pytest.raises(TimeoutError), WeakFileLock(expected, timeout=0.2):
        pass

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with layout.lock(file, lambda *_: None, 0):
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with pytest.raises(LockedError), layout.lock(file, lambda *_: None, 0):
        pass
    threading.Timer(0.3, done.set).start()
    with layout.lock(file, lambda *_: None, None):
        assert done.is_set()
    thread.join()


def test_a_waiter_can_give_up(layout: Layout, repo: Repo) -> None:
    class GaveUpError(Exception):
        pass

    def give_up(what: str, waited_s: float) -> None:
        raise GaveUpError

    layout.begin(repo.manifest)
    file = repo.file("config.json")
    with (
        layout.lock(file, lambda *_: None, 0),
        pytest.raises(GaveUpError),
        layout.lock(file, give_up, None),
    ):
        pass


def test_many_threads_publish_at_once(layout: Layout, make: Making) -> None:
    repo = make({f"d{n % 7}/e{n % 3}/f{n}": b"%d" % (n // 2) for n in range(120)})
    layout.begin(repo.manifest)
    failures: list[BaseException] = []

    def work(files: tuple[RemoteFile, ...]) -> None:
        try:
            for file in files:
                with layout.lock(file, lambda *_: None, 10):
                    layout.publish_bytes(file, repo.contents[file.path])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(repo.manifest.files[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    layout.finish(repo.manifest)
    assert [] == failures
    assert repo.contents == read(layout, repo)
    assert [] == os.listdir(layout.area / "tmp")


def test_only_old_rubbish_is_swept(layout: Layout, repo: Repo) -> None:
    layout.begin(repo.manifest)
    for name, age_s in (("old", 25 * 3600), ("new", 3600)):
        (layout.area / "tmp" / name).write_bytes(b"x")
        os.utime(layout.area / "tmp" / name, (time.time() - age_s,) * 2)
    fresh(layout).begin(repo.manifest)
    assert ["new"] == os.listdir(layout.area / "tmp")
