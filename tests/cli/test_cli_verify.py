"""The command line of `verify`: what people and programs type, what comes out, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mock_server import MiB, MockHub
from tests.damage import FILES, OTHER, REPO, WEIGHTS, Cached, a_world
from tests.mounts import mounted

COMMAND = [sys.executable, "-m", "fetchverify"]
NOBODY = "http://127.0.0.1:9"


class Typed:
    """Types commands against one Hub and one cache."""

    def __init__(self, endpoint: str, cache: Path, cwd: Path) -> None:
        self.endpoint, self.cwd, self.repo = endpoint, cwd, Cached(cache)

    def __call__(self, *words: str, endpoint: str | None = None) -> tuple[int, str, str]:
        common = ["--endpoint", endpoint or self.endpoint, "--token", "", "--cache-dir", str(self.repo.cache)]
        done = subprocess.run([*COMMAND, *words, *common], cwd=self.cwd, capture_output=True, check=False, timeout=60)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def objects(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        code, out, _ = self("verify", *words, "--json", "-q")
        return code, [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    with MockHub(a_world()) as running:
        yield running


@pytest.fixture(scope="module")
def pristine(hub: MockHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pristine")
    assert 0 == Typed(hub.endpoint, place / "cache", place)("get", REPO, "-q", "--to", "folder")[0]
    assert 0 == Typed(hub.endpoint, place / "cache", place)("get", REPO, "-q")[0]
    return place


@pytest.fixture
def typed(hub: MockHub, pristine: Path, tmp_path: Path) -> Typed:
    """A cache, and a folder of ours beside it, where the commands are typed."""
    shutil.copytree(pristine, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Typed(hub.endpoint, tmp_path / "cache", tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((REPO,), 0, ""),
        (("--all",), 0, ""),
        (("./folder",), 0, ""),
        ((), 2, "nothing was named"),
        ((REPO, "--all"), 2, "it takes no REPO_ID"),
        ((REPO, "--quick", "--deep"), 2, "exclude each other"),
        (("--all", "-r", "main"), 2, "leave out `-r`"),
        (("--all", "--write-sums"), 2, "takes one repo"),
        ((REPO, "--sums", "x"), 2, "goes with a folder"),
        ((REPO, "--repo", REPO), 2, "what a folder holds"),
        (("./folder", "--sums", "x", "-r", "main"), 2, "leave one out"),
        (("./folder", "--sums", "nowhere"), 2, "cannot read sums from `nowhere`"),
        (("./nowhere",), 3, "there is no folder"),
        (("org/none",), 3, "is not in the cache"),
        ((REPO, "-r", "v9"), 3, "v9"),
    ],
)
def test_how_a_run_ends(typed: Typed, words: tuple[str, ...], code: int, said: str) -> None:
    got, out, err = typed("verify", *words)
    assert (code, True) == (got, said in err), (out, err)


def test_a_hub_out_of_reach_is_exit_4_and_damage_is_said_before_it(typed: Typed) -> None:
    """A cron job that greps for exit 4 must not sleep over a corrupt file."""
    typed.repo.flip("w.safetensors", 5)
    words = ("verify", "--all", "--deep", "--retries", "1")
    assert 1 == typed(*words, endpoint=NOBODY)[0]
    typed.repo.flip("w.safetensors", 5)
    code, out, err = typed(*words, endpoint=NOBODY)
    assert (4, True, True) == (code, "against the cached listing" in out, "could not be asked" in err)


def test_json_is_an_object_a_file_and_a_finding_and_the_report_last(typed: Typed) -> None:
    typed.repo.flip("w.safetensors", 9 * MiB)
    typed.repo.name("tokenizer.json").unlink()
    code, told = typed.objects(REPO)
    assert 1 == code
    assert "Report" == told[-1]["kind"]
    files = {one["path"]: (one["status"], one["evidence"]) for one in told if one["kind"] == "File"}
    assert dict.fromkeys(set(FILES) - {"w.safetensors", "tokenizer.json"}, ("ok", "the Hub's listing")) == files
    found = {one["finding"]: one for one in told if one["kind"] == "Finding" and one["rank"] == "damage"}
    assert {"corrupt", "missing"} == set(found)
    bad = found["corrupt"]
    assert ("w.safetensors", f"sha256:{WEIGHTS.sha256()}", [1]) == (bad["path"], bad["digest"], bad["blocks"])
    assert WEIGHTS.sha256() != bad["came"]
    assert f"fetchverify fix-cache {REPO}" == bad["remedy"]
    (place,) = told[-1]["places"]
    assert (1, len(FILES) - 2, [typed.repo.commit]) == (told[-1]["exit_code"], place["proved"], place["commits"])


def test_people_are_told_what_and_what_to_type(typed: Typed) -> None:
    typed.repo.flip("w.safetensors", 9 * MiB)
    code, out, _ = typed("verify", REPO)
    assert 1 == code
    assert f"`w.safetensors` is corrupt: block 1; type `fetchverify fix-cache {REPO}`" in out.splitlines()
    assert (1, [line for line in out.splitlines() if "corrupt:" in line]) == (
        (quiet := typed("verify", REPO, "-q"))[0],
        quiet[1].splitlines(),
    )


def test_without_damage_quiet_says_nothing(typed: Typed) -> None:
    assert (0, "", "") == typed("verify", REPO, "-q")


def test_offline_names_each_file_with_its_proof_and_what_has_none(typed: Typed) -> None:
    shutil.rmtree(typed.repo.root / "trees")
    typed.repo.copied("tokenizer.json")
    code, out, _ = typed("verify", REPO, "--offline", "--deep", endpoint=NOBODY)
    lines = out.splitlines()
    proved = {line for line in lines if line.endswith("proved against the blob's name")}
    assert (0, {f"`{path}`: proved against the blob's name" for path in set(FILES) - {"tokenizer.json"}}) == (
        code,
        proved,
    )
    assert "`tokenizer.json` is unproved: nothing here says what it is" in lines
    assert 1 == typed("verify", REPO, "--offline", "--strict", endpoint=NOBODY)[0]


def test_by_default_what_changed_since_the_proof_is_read_and_nothing_else(typed: Typed) -> None:
    assert 0 == typed.objects(REPO)[0]
    blob = typed.repo.blob("other.bin")
    os.utime(blob)  # as good as before, but touched
    code, told = typed.objects(REPO)
    assert (0, 1, OTHER.size) == (code, told[-1]["files_hashed"], told[-1]["bytes_hashed"])
    assert ["other.bin"] == [one["path"] for one in told if one.get("how") == "hashed"]
    assert (0, 0) == ((again := typed.objects(REPO))[0], again[1][-1]["files_hashed"])


def test_a_replaced_file_of_the_same_size_and_time_is_read(typed: Typed) -> None:
    """`cp -p` and `rsync -t` keep size and time; the inode gives it away."""
    assert 0 == typed.objects(REPO)[0]
    blob = typed.repo.blob("w.safetensors")
    seen, data = blob.stat(), bytearray(blob.read_bytes())
    data[77] ^= 1
    other = blob.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    other.replace(blob)
    code, told = typed.objects(REPO)
    assert (1, {"corrupt"}) == (code, {one["finding"] for one in told if one["kind"] == "Finding"})


def test_quick_reads_block_maps_and_says_unchanged_never_proved_anew(typed: Typed) -> None:
    typed.objects(REPO)  # these are copies: what the ledger knows are other inodes
    code, told = typed.objects(REPO, "--quick")
    how = {one["path"]: one["how"] for one in told if one["kind"] == "File"}
    assert (0, set(FILES)) == (code, set(how))
    assert "its blocks are unchanged since proof" == how["w.safetensors"]
    assert "hashed" not in how.values()


def test_some_files_and_one_revision(typed: Typed) -> None:
    typed.repo.flip("w.safetensors", 0)
    assert 0 == typed("verify", REPO, "--include", "*.json")[0]
    assert 0 == typed("verify", REPO, "--exclude", "*.safetensors")[0]
    assert 1 == typed("verify", REPO, "-r", "main")[0]
    assert 1 == typed("verify", REPO, "-r", typed.repo.commit, "--offline")[0]
    shutil.copytree(typed.repo.snapshot, typed.repo.root / "snapshots" / ("0" * 40), symlinks=True)
    code, told = typed.objects(REPO, "-r", "main")
    assert (1, [typed.repo.commit]) == (code, told[-1]["places"][0]["commits"])


def test_paths_into_the_cache_are_the_repo(typed: Typed) -> None:
    """What `get` printed is what people paste."""
    for path in (typed.repo.cache, typed.repo.root, typed.repo.snapshot):
        code, told = typed.objects(str(path))
        assert (0, REPO) == (code, told[-1]["places"][0]["repo_id"]), path


def test_sums_of_a_repo_in_the_cache(typed: Typed) -> None:
    code, out, _ = typed("verify", REPO, "--write-sums", "my.sums")
    assert (0, True) == (code, "sums written: my.sums" in out)
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", str(typed.cwd / "my.sums")],
        cwd=typed.repo.snapshot,
        capture_output=True,
        check=False,
    )
    assert (0, len(FILES)) == (done.returncode, done.stdout.count(b": OK\n"))
    assert 0 == typed("verify", "./folder", "--sums", "my.sums", "--deep")[0]


def test_no_sums_of_what_is_not_whole(typed: Typed) -> None:
    (typed.cwd / "folder" / "tokenizer.json").unlink()
    code, _, err = typed("verify", "./folder", "--write-sums")
    assert (1, True) == (code, "was not written: not every file is proved" in err)
    assert not (typed.cwd / "folder" / "SHA256SUMS").exists()


ESCAPE = "\x1b]0;owned\x07\x1b[31mred"
ODD = (ESCAPE, "line\nbreak", "not-utf8-\udcff", "-rf", "\u202egnp.exe")


def test_hostile_names_reach_neither_the_terminal_nor_break_json(typed: Typed) -> None:
    """Anybody can send a folder or a cache; its names are data."""
    for name in ODD:
        (typed.repo.snapshot / name).write_bytes(b"x")
        (typed.cwd / "folder" / name).write_bytes(b"x")
    (typed.repo.root / "refs" / ESCAPE).write_text("rubbish")
    for words in (("--offline", REPO), ("./folder", "-v"), ("--all", "-v")):
        code, out, err = typed("verify", *words)
        assert ("./folder" not in words) is bool(code), (out, err)
        assert not {"\x1b", "\x07", "\u202e"} & set(out + err), words
        assert "break`" not in [line[:6] for line in out.splitlines()]
    code, told = typed.objects("./folder")
    assert (0, len(ODD)) == (code, len([one for one in told if one.get("finding") == "extra"]))


def test_sums_that_name_files_elsewhere_are_not_followed(typed: Typed) -> None:
    """A SHA256SUMS from the net must not make us say what is in a file outside."""
    (typed.cwd / "secret").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (typed.cwd / "s").write_text(f"{empty}  ../secret\n{empty}  {typed.cwd}/secret\n{empty}  empty.txt\n")
    code, told = typed.objects("./folder", "--sums", "s")
    assert (1, 1, 2) == (
        code,
        told[-1]["places"][0]["proved"],
        sum(one.get("finding") == "missing" for one in told),
    )


def test_a_link_in_a_folder_is_not_followed(typed: Typed) -> None:
    place = typed.cwd / "folder" / "w.safetensors"
    place.rename(typed.cwd / "away")
    place.symlink_to("../away")
    code, told = typed.objects("./folder")
    assert (0, ["unproved"]) == (code, [one["finding"] for one in told if one["kind"] == "Finding"])
    (typed.cwd / "away").unlink()
    code, told = typed.objects("./folder")
    assert (1, ["dangling"]) == (code, [one["finding"] for one in told if one["kind"] == "Finding"])


def test_a_read_only_cache_is_verified_all_the_same(typed: Typed, tmp_path: Path) -> None:
    """A cluster's shared cache belongs to somebody else."""
    with mounted(tmp_path, "tmpfs", "64M") as place:
        shutil.copytree(typed.repo.cache, place / "cache", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        there = Typed(typed.endpoint, place / "cache", tmp_path)
        assert (0, "", "") == there("verify", REPO, "-q")
        assert (0, "", "") == there("verify", "--all", "--offline", "-q")
