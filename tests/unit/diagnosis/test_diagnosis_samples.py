from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.diagnosis.findings import Diagnosis
from fetchverify.core.diagnosis.samples import blocks_of, is_wild, order
from fetchverify.engine.examine import examine
from fetchverify.store.reading import entries
from tests.models.folders import copy
from tests.unit.diagnosis.damages import header_of
from tests.unit.diagnosis.test_diagnosis_folders import codes, diagnose
from tests.unit.formats.damage import entry, pack

MiB = 1 << 20


@given(st.lists(st.floats(width=32), min_size=1, max_size=64))
def test_wild_numbers_are_told_from_tame_ones(numbers: list[float]) -> None:
    wild = not all(map(math.isfinite, numbers))
    assert wild == is_wild("F32", struct.pack(f"<{len(numbers)}f", *numbers))
    assert wild == is_wild("F64", struct.pack(f"<{len(numbers)}d", *numbers))
    halves = struct.pack(f"<{len(numbers)}f", *numbers)
    upper = b"".join(halves[at + 2 : at + 4] for at in range(0, len(halves), 4))  # BF16 is the upper half of F32
    # Cutting may make an infinity of a NaN, which is as wild, or zero bits of a tame number, which stays tame.
    assert wild == is_wild("BF16", upper)


def large(
    path: Path, *, zero: tuple[int, int] | None = None, name: str = "model.layers.0.mlp.gate_proj.weight"
) -> None:
    """Write a file of one tensor of 8 MiB, with a hole."""
    data = bytearray(os.urandom(MiB).replace(b"\x7f", b"\x01").replace(b"\xff", b"\x02") * 8)
    if zero is not None:
        data[zero[0] : zero[1]] = bytes(zero[1] - zero[0])
    path.write_bytes(pack({name: entry("BF16", [1024, 4096], 0, 8 * MiB)}, bytes(data)))


def look(path: Path) -> set[str]:
    return codes(diagnose(path))


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        (None, set()),
        ((3 * MiB - 4096, 4 * MiB + 8192), {"FV117"}),  # the shortest that is always seen
        ((7 * MiB, 8 * MiB), {"FV117"}),
        ((0, 8 * MiB), {"FV313"}),
        ((2 * MiB, 2 * MiB + 8192), set()),  # a page of zeros may be rows
    ],
)
def test_a_hole_in_the_numbers_is_found(zero: tuple[int, int] | None, expected: set[str], tmp_path: Path) -> None:
    large(tmp_path / "x.safetensors", zero=zero)
    assert expected == look(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "name",
    ["model.norm.weight", "layers.0.q.bias", "zero_convs.0.weight", "state.0.exp_avg_sq", "state.1.momentum_buffer"],
)
def test_what_may_be_zero_is_no_hole(name: str, tmp_path: Path) -> None:
    large(tmp_path / "x.safetensors", zero=(0, 8 * MiB), name=name)
    assert set() == look(tmp_path / "x.safetensors")


def test_nan_among_the_numbers_is_found(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    path = folder / "model.safetensors"
    header, data = header_of(path)
    at = len(path.read_bytes()) - len(data) + header["lm_head.weight"]["data_offsets"][0]
    raw = bytearray(path.read_bytes())
    raw[at : at + 2] = struct.pack("<H", 0x7FC0)
    path.write_bytes(raw)
    found = diagnose(folder)
    assert {"FV312"} == codes(found)
    assert set() == codes(diagnose(folder, sample_budget_s=0))


def test_what_was_not_looked_at_is_said(tmp_path: Path) -> None:
    large(tmp_path / "x.safetensors")
    found = diagnose(tmp_path / "x.safetensors", sample_budget_s=1e-9)
    assert "0 of 8 samples of the numbers" in found.checked
    assert "8 samples of the numbers" in diagnose(tmp_path / "x.safetensors").checked


def test_any_beginning_of_the_samples_is_spread_over_all(tmp_path: Path) -> None:
    large(tmp_path / "x.safetensors")
    (found,) = entries(tmp_path / "x.safetensors", tmp_path)
    seen = examine(tmp_path / "x.safetensors", found)
    blocks = blocks_of("x", seen.tensors or ())
    assert sorted(blocks, key=lambda one: one.start) == sorted(order(blocks), key=lambda one: one.start)
    assert 4 * MiB == (spread := list(order(blocks)))[1].start - spread[0].start


def in_cache(tmp_path: Path, *, flip: bool) -> Diagnosis:
    cache = tmp_path / "hub"
    repo = cache / "models--org--name"
    commit = "a" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for path in copy("hf", tmp_path).iterdir():
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if path.suffix == ".json":
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        elif flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        (repo / "blobs" / digest).write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
    return diagnose("org/name", cache_dir=cache)


def test_a_repo_in_the_cache_is_looked_at_with_its_digests(tmp_path: Path) -> None:
    found = in_cache(tmp_path, flip=False)
    assert set() == codes(found, notes=True)
    assert "5 digests" in found.checked


def test_a_flipped_bit_is_found_by_the_blobs_name(tmp_path: Path) -> None:
    found = in_cache(tmp_path, flip=True)
    assert {"FV116"} == codes(found)
    (one,) = found.findings
    assert "get it again: `fetchverify get org/name model.safetensors`" == one.remedy


def test_the_hubs_own_notes_are_evidence_until_the_user_edits(tmp_path: Path) -> None:
    folder = copy("hf", tmp_path)
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    moment = (folder / "model.safetensors").stat().st_mtime
    (notes / "model.safetensors.metadata").write_text(f"{'a' * 40}\n{'b' * 64}\n{moment}\n")
    assert {"FV116"} == codes(diagnose(folder))
    os.utime(folder / "model.safetensors", (moment + 60, moment + 60))
    assert set() == codes(diagnose(folder))


def test_the_report_is_json(tmp_path: Path) -> None:
    body = diagnose(copy("hf-no-head", tmp_path)).as_json()
    assert body == json.loads(json.dumps(body))
    assert ["FV315"] == [one["code"] for one in body["findings"]]
    assert [{"path": ".", "layout": "transformers"}] == body["places"]
