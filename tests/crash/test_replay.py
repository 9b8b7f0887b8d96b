"""A recorded command, cut off after every operation: readers see nothing or the whole file, and a re-run ends well."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import huggingface_hub
import pytest

from fetchverify.store.disk import Disk
from fetchverify.store.diskerrors import AnyPath
from tests.crash import laws, recorder, replay
from tests.crash.commands import BIG, CASES, REPO, Case, Setting, fetched, must
from tests.crash.model import FIXED, KEPT, File, Tree, random_choice
from tests.crash.recorder import RecordingDisk
from tests.tally import Chance, Count


def record(
    setting: Setting, case: Case, kind: type[RecordingDisk] = RecordingDisk
) -> tuple[RecordingDisk, laws.Promise]:
    place = setting.place / "recorded"
    place.mkdir()
    here = setting.elsewhere(place)
    before = case.prepare(here)
    disk = kind(place)
    with pytest.MonkeyPatch.context() as patch:
        recorder.use(patch, disk)
        must(case.words(here))
    return disk, case.promise(here, before)


@pytest.mark.parametrize("name", CASES)
def test_the_recorder_sees_every_write(setting: Setting, name: str) -> None:
    """What goes past it is never lost in a replay: the recorded operations must make the tree that lies there."""
    disk, _ = record(setting, CASES[name])
    real, replayed = (
        shown(tree) for tree in (recorder.scan(setting.place / "recorded"), replay.final(disk.operations)(KEPT).tree)
    )
    assert sorted(real) == sorted(replayed)
    assert [] == [path for path in real if real[path] != replayed[path]]


def shown(tree: Tree) -> dict[str, object]:
    return {
        path: node.data if isinstance(node, File) else node
        for path, node in tree.items()
        if not path.endswith(".lock") and not path.startswith("cache/.locks")  # the hub's own lock files
    }


@pytest.mark.parametrize("name", CASES)
def test_a_power_cut_at_any_operation_misleads_nobody_and_a_re_run_ends_well(
    setting: Setting, name: str, chance: Chance, count: Count
) -> None:
    """Every prefix, with unsynced writes lost, torn or reordered; from a sample of the states the run goes on."""
    case = CASES[name]
    disk, promise = record(setting, case)
    sample = sift(case, disk, promise, chance.rng, 12 * chance.rounds, (3 if case.slow else 14) * chance.rounds, count)
    for number, state in enumerate(sample):
        again = go_on(setting, case, disk, promise, state, recorded=number % 7 == 0)
        count("re-runs from such a state")
        if isinstance(again, RecordingDisk):
            # The power fails once more, while the run goes on from where it failed before.
            sift(case, again, promise, chance.rng, 12, 0, count)


def sift(
    case: Case,
    disk: RecordingDisk,
    promise: laws.Promise,
    rng: random.Random,
    chances: int,
    size: int,
    count: Count,
) -> list[replay.State]:
    """Hold every state after every prefix against the laws of readers; return a random sample of the states."""
    prefixes, states, sample = set(), 0, list[replay.State]()
    for state in replay.states(disk.operations, rng, chances=chances):
        unproved, problems = case.unproved(state.tree, promise), case.misled(state.tree, promise)
        count("bytes published unproved", unproved)
        assert (0, []) == (unproved, problems), (str(state), disk.operations[max(0, state.done - 5) : state.done])
        prefixes.add(state.done)
        states += 1
        if len(sample) < size:  # every state has the same chance to be in the sample
            sample.append(state)
        elif (spot := rng.randrange(states)) < size:
            sample[spot] = state
    count("prefixes replayed", len(prefixes))
    count("states after a power cut", states)
    return sample


@pytest.mark.parametrize("name", CASES)
def test_what_a_run_reported_is_there_after_a_power_cut(setting: Setting, name: str, chance: Chance) -> None:
    """The hub's client leaves blobs of 0 bytes where the power fails seconds after it ended well."""
    case = CASES[name]
    disk, promise = record(setting, case)
    after = replay.final(disk.operations)
    for choice in (*FIXED, *(random_choice(chance.rng) for _ in range(100 * chance.rounds))):
        state = after(choice)
        assert [] == case.missing(state.tree, promise) + case.misled(state.tree, promise), str(state)


def go_on(
    setting: Setting,
    case: Case,
    disk: RecordingDisk,
    promise: laws.Promise,
    state: replay.State,
    *,
    recorded: bool = False,
) -> Disk:
    """Put the state on a disk, have the hub's client read it, and run the same command again; return what it used."""
    with tempfile.TemporaryDirectory(dir=setting.place) as place:
        here = setting.elsewhere(Path(place))
        replay.put(state, here.place, disk)
        the_hub_is_content(here.place / "cache", promise)
        with pytest.MonkeyPatch.context() as patch:
            recorder.use(patch, again := RecordingDisk(here.place) if recorded else Disk())
            lines = must(case.words(here))
        found = recorder.scan(here.place)
        assert [] == case.missing(found, promise) + case.misled(found, promise), str(state)
        for path, size in fetched(lines):
            assert size <= case.most_to_fetch(state.tree, promise, path), (path, str(state))
        the_hub_is_content(here.place / "cache", promise)
        return again


def the_hub_is_content(cache: Path, promise: laws.Promise) -> None:
    if not cache.is_dir() or not list(cache.glob("models--*/snapshots")):
        return  # the power failed between two folders: nothing was published
    assert [] == huggingface_hub.scan_cache_dir(cache).warnings
    try:
        folder = huggingface_hub.snapshot_download(REPO, cache_dir=cache, local_files_only=True)
    except FileNotFoundError:  # the hub's `LocalEntryNotFoundError`: it has nothing, or not all, and says so
        return
    assert [] == [path for path in promise.files if not Path(folder, path).is_file()]


# --- the replay can fail


class NoFileSync(RecordingDisk):
    """Does as if `fsync` of files were not worth it."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_path(self, path: AnyPath) -> None:
        pass


class NoFolderSync(RecordingDisk):
    """Does as if names were durable when they are made."""

    def fsync_dir(self, path: AnyPath) -> None:
        pass


class NoStagedSync(RecordingDisk):
    """Forgets the small files alone."""

    def fsync_path(self, path: AnyPath) -> None:
        if Path(path).parent.name != "tmp":
            super().fsync_path(path)


class NoBlobsSync(RecordingDisk):
    """Forgets the folder of the blobs alone: links may survive that lead nowhere."""

    def fsync_dir(self, path: AnyPath) -> None:
        if Path(path).name != "blobs":
            super().fsync_dir(path)


class PublishedInPlace(RecordingDisk):
    """Copies over the final name instead of renaming to it."""

    def rename(self, src: AnyPath, dst: AnyPath) -> None:
        if Path(dst).parent.name != "blobs":
            super().rename(src, dst)
            return
        data = Path(src).read_bytes()
        fd = self.create(dst)
        self.write_at(fd, data, 0)
        self.fsync(fd)
        self.close(fd)
        self.unlink(src)


@pytest.mark.parametrize("kind", [NoFileSync, NoFolderSync, NoStagedSync, NoBlobsSync, PublishedInPlace])
def test_a_disk_that_forgets_something_is_caught(setting: Setting, kind: type[RecordingDisk]) -> None:
    case = CASES["get"]
    disk, promise = record(setting, case, kind)
    states = replay.states(disk.operations, random.Random(1), chances=12)
    assert any(case.misled(state.tree, promise) for state in states)


def test_a_ledger_that_speaks_of_lost_bytes_is_caught(setting: Setting) -> None:
    """The re-run believes its ledger: were a proof written before its bytes are durable, it would end ill."""
    case = CASES["get --to"]
    disk, promise = record(setting, case, NoFileSync)
    state = replay.final(disk.operations)(KEPT)
    big = state.tree[f"here/{BIG}"]
    assert isinstance(big, File)
    zeros = File(lambda: bytes(len(big.data)), mtime_ns=big.mtime_ns, number=big.number)
    lost = {**state.tree, f"here/{BIG}": zeros}
    with pytest.raises(AssertionError, match="not in the folder"):
        go_on(setting, case, disk, promise, replay.State(done=state.done, choice=state.choice, tree=lost))
