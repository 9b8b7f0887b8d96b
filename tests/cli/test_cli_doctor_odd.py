"""`fetchverify doctor` before what is no model: it says what it is, on lines of its own, and never calls it healthy."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fetchverify.store import reading
from tests.cli.test_cli_doctor import doctor
from tests.models.folders import copy
from tests.unit.diagnosis.test_diagnosis_folders import diagnose
from tests.unit.formats.damage import POINTER


def unprivileged(*words: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run `doctor` as someone whom permissions stop, also where the tests run as root."""
    tool = shutil.which("setpriv")
    if os.geteuid() == 0 and tool is None:
        if os.environ.get("FETCHVERIFY_NO_SKIPS"):
            pytest.fail("setpriv is not installed")
        pytest.skip("setpriv is not installed")
    lost = "-dac_override,-dac_read_search"
    before = [f"{tool}", f"--bounding-set={lost}", f"--inh-caps={lost}"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*before, sys.executable, "-m", "fetchverify", "doctor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_HOME": str(home)},
        check=False,
    )


def test_an_empty_folder_is_not_healthy(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    done = doctor(tmp_path / "empty", home=tmp_path)
    assert 0 == done.returncode
    assert "warning FV217: no known layout: .\n  seen: there is no file in it\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("unknown (no known layout)")


def test_a_file_that_no_rule_speaks_of_is_not_called_healthy(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    done = doctor(tmp_path / "notes.txt", home=tmp_path)
    assert (0, 1) == (done.returncode, done.stdout.count("warning FV217"))
    assert "unknown (" in done.stdout
    whole = doctor(copy("hf", tmp_path) / "model.safetensors", home=tmp_path)
    assert whole.stdout.startswith("healthy (one file): ")
    asked = doctor(tmp_path / "hf" / "model.safetensors", "--for", "vllm", home=tmp_path)
    assert "`vllm` needs the layout of transformers, this is one file" in asked.stdout


def test_one_more_like_it_is_english(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.safetensors").write_bytes(b"x")
    assert "  FV106 1 more like it; `--json` names all" in doctor(tmp_path, home=tmp_path).stdout.splitlines()


def test_a_line_end_in_a_name_cannot_forge_a_line(tmp_path: Path) -> None:
    (tmp_path / "x\nhealthy (transformers).safetensors").write_bytes(b"x")
    done = doctor(tmp_path, home=tmp_path)
    assert not [line for line in done.stdout.splitlines() if line.startswith("healthy")]
    assert 5 == len(done.stdout.splitlines())
    done = doctor(tmp_path / "a\nhint: curl example.org", home=tmp_path)
    assert (3, 2) == (done.returncode, len(done.stderr.splitlines()))


def test_a_name_with_a_dash_first_is_no_option_of_the_command_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "--force.safetensors").write_bytes(b"x")
    done = doctor(tmp_path, home=tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  do:")]
    words = shlex.split(line.partition("`")[2].rpartition("`")[0])
    assert ["fetchverify", "get", "REPO_ID", "--to", str(tmp_path), "--", "--force.safetensors"] == words


def test_links_to_folders_are_no_unreadable_files(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path / "in")
    (folder / "latest").symlink_to(".")
    (folder / "up").symlink_to("../hf")
    done = doctor(folder, home=tmp_path)
    assert (0, "healthy") == (done.returncode, done.stdout[:7])
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "far").symlink_to(outside)
    done = doctor(folder, home=tmp_path)
    assert 0 == done.returncode
    assert "warning FV504: a link that leaves the folder: far" in done.stdout
    assert "which was not looked at" in done.stdout
    assert "FV119" not in done.stdout


def test_links_that_lead_to_each_other_lead_nowhere(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "vocab.txt").symlink_to("merges.txt")
    (folder / "merges.txt").symlink_to("vocab.txt")
    done = doctor(folder, home=tmp_path)
    assert (1, 2) == (done.returncode, done.stdout.count("error FV120"))


def test_what_lies_too_deep_is_said_not_to_have_been_looked_at(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("top", *("d" * 40))
    deep.parent.mkdir(parents=True)
    copy("hf", deep.parent)
    done = doctor(tmp_path / "top", home=tmp_path)
    assert "; not checked: folders more than 16 deep" in done.stdout
    assert "healthy" not in done.stdout
    near = tmp_path.joinpath("near", *("d" * 12))
    near.mkdir(parents=True)
    copy("hf", near)
    assert "healthy (transformers)" in doctor(tmp_path / "near", home=tmp_path).stdout


def test_names_left_out_are_said_though_folders_are_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_ENTRIES", 50)
    copy("zero", tmp_path)
    assert () == diagnose(tmp_path).unchecked
    for number in range(10):
        (tmp_path / f"a{number}").mkdir()
        for each in range(5):
            (tmp_path / f"a{number}" / f"{each}").touch()
    assert ("all but the first 50 names",) == diagnose(tmp_path).unchecked


def test_a_name_that_cannot_be_is_not_there(tmp_path: Path) -> None:
    done = doctor("x" * 300, home=tmp_path)
    assert 3 == done.returncode
    assert "`fetchverify get" not in done.stderr  # no repo has such a name


@pytest.mark.parametrize("what", ["link", "loop"])
def test_a_link_that_leads_nowhere_is_named_as_one(what: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    done = doctor(tmp_path / what, home=tmp_path)
    assert 3 == done.returncode
    assert f"`{tmp_path / what}` is a link to `{'gone' if what == 'link' else 'loop'}`, where nothing is" in done.stderr


def test_what_is_to_be_typed_for_a_path_is_no_get(tmp_path: Path) -> None:
    assert "`fetchverify get" not in doctor(tmp_path / "absent", home=tmp_path).stderr
    assert "`fetchverify get org/absent`" in doctor("org/absent", home=tmp_path).stderr
    assert 2 == doctor("", home=tmp_path).returncode


@pytest.mark.parametrize("below", ["", "inner"])
def test_a_folder_that_may_not_be_read_is_trouble_of_the_disk(below: str, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    (locked / "inner").mkdir(parents=True)
    locked.chmod(0)
    try:
        done = unprivileged(locked / below, home=tmp_path / "home")
    finally:
        locked.chmod(0o755)
    assert 5 == done.returncode
    assert "Permission denied" in done.stderr
    assert "bug" not in done.stderr


def test_a_neighbour_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    locked = tmp_path / "fine-tuned-a"
    locked.mkdir()
    copy("dcp", tmp_path / "x")
    shutil.copytree(tmp_path / "x" / "dcp" / "fine-tuned-meta-llama", tmp_path / "fine-tuned-b")
    locked.chmod(0)
    try:
        done = unprivileged(tmp_path / "fine-tuned", home=tmp_path / "home")
    finally:
        locked.chmod(0o755)
    assert 0 == done.returncode
    assert "warning FV413" in done.stdout


def test_a_pipe_or_device_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    done = doctor(tmp_path / "model.safetensors", home=tmp_path)
    assert (1, 1) == (done.returncode, done.stdout.count("error FV119"))
    assert "it is no plain file" in done.stdout
    assert 1 == doctor("/dev/zero", home=tmp_path).returncode


def test_terabytes_of_nothing_take_a_moment(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    for name in ("model.safetensors", "extra.gguf", "extra.bin", "preprocessor_config.json"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 42)
    done = doctor(folder, home=tmp_path)
    assert (1, 4) == (done.returncode, done.stdout.count("error FV110"))


def test_a_yaml_that_is_no_training_config_is_not_healthy(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &x [*x, *x]\nb: !!python/object/apply:os.system ['id']\n")
    done = doctor("--accelerate", tmp_path / "c.yaml", home=tmp_path)
    assert 1 == done.returncode
    assert "error FV416" in done.stdout


def test_a_budget_that_is_no_number_is_refused(tmp_path: Path) -> None:
    assert 2 == doctor(tmp_path, "--sample-budget", "nan", home=tmp_path).returncode


def test_a_terminal_that_knows_ascii_alone_is_written_to_all_the_same(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    (folder / "model.safetensors").write_bytes(POINTER)
    done = doctor(folder, home=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert 1 == done.returncode
    assert "with sha256 `abababababab\\u2026`" in done.stdout
    assert "" == done.stderr


def test_an_index_that_names_what_no_repo_holds_is_itself_to_be_fetched_again(tmp_path: Path) -> None:
    folder = copy("hf-sharded", tmp_path)
    index = folder / "model.safetensors.index.json"
    odd = {"a": "../../../etc/passwd", "b": "x\n\x1b[2J.safetensors", "c": 5, "d": "/etc/hosts", "e": "-x.safetensors"}
    index.write_text(json.dumps({"weight_map": odd}))
    done = doctor(folder, home=tmp_path)
    assert "error FV203" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  do:   get them")]
    words = shlex.split(line.partition("`")[2].rpartition("`")[0])
    assert ["--to", str(folder), "--", "-x.safetensors"] == words[3:]
    index.write_text(json.dumps({"weight_map": {"a": odd["a"]}}))
    assert f"`fetchverify get REPO_ID {index.name} --to {folder}`" in doctor(folder, home=tmp_path).stdout
