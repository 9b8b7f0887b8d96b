"""Files that the real libraries wrote are read, and no damage to them raises anything but `Malformed`."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetchverify.core.diagnosis.facts import Tensor
from fetchverify.formats import dcp, gguf, pickles, safetensors, torchfile, ziptable
from fetchverify.formats.source import Bytes, Malformed
from tests.models.folders import HERE

READERS: dict[str, Callable[[Bytes], object]] = {
    "hf/model.safetensors": safetensors.read_header,
    "hf-bin/pytorch_model.bin": torchfile.read_torch,
    "hf-bin-old/pytorch_model.bin": torchfile.read_torch,
    "meta/consolidated.00.pth": torchfile.read_torch,
    "zero/global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt": torchfile.read_torch,
    "verl/model_world_size_2_rank_0.pt": torchfile.read_torch,
    "gguf/tiny-q8_0.gguf": gguf.read_gguf,
    "dcp-optim/.metadata": dcp.read_dcp,
}


def content(name: str) -> bytes:
    return (HERE / name).read_bytes()


@pytest.mark.parametrize("name", ["hf-bin", "hf-bin-old"])
def test_a_torch_file_names_the_same_tensors_as_the_safetensors_file(name: str) -> None:
    def bare(tensors: tuple[Tensor, ...]) -> set[tuple[str, str, tuple[int, ...]]]:
        return {(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors}

    found = torchfile.read_torch(Bytes(content(f"{name}/pytorch_model.bin")))
    assert bare(safetensors.read_header(Bytes(content("hf/model.safetensors"))).tensors) == bare(found.tensors)
    assert () == found.flaws
    assert {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.BFloat16Storage"} == set(found.imports)


def test_a_ranks_part_of_a_tensor_tells_the_whole_and_where_it_is_cut() -> None:
    found = torchfile.read_torch(Bytes(content("verl/model_world_size_2_rank_0.pt")))
    whole = {one.name: one.shape for one in safetensors.read_header(Bytes(content("hf/model.safetensors"))).tensors}
    assert whole == {name: part.shape for name, part in found.slices.items()}
    here = {tensor.name: tensor.shape for tensor in found.tensors}
    for name, part in found.slices.items():
        assert ((None,) if "norm" in name else (0,)) == part.sides
        assert here[name] == (part.shape if "norm" in name else (part.shape[0] // 2, *part.shape[1:]))


def test_the_places_of_torch_tensors_hold_the_same_numbers() -> None:
    whole, header = content("hf/model.safetensors"), safetensors.read_header(Bytes(content("hf/model.safetensors")))
    data, found = content("hf-bin/pytorch_model.bin"), torchfile.read_torch(Bytes(content("hf-bin/pytorch_model.bin")))
    numbers = {tensor.name: data[tensor.start : tensor.stop] for tensor in found.tensors}
    assert {tensor.name: whole[tensor.start : tensor.stop] for tensor in header.tensors} == numbers


def test_a_gguf_header_is_read() -> None:
    found = gguf.read_gguf(Bytes(content("gguf/tiny-q8_0.gguf")))
    assert {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 16} == found.metadata
    assert {"tokenizer.ggml.tokens": 3} == found.arrays
    assert [("token_embd.weight", "Q8_0", (4, 32)), ("output_norm.weight", "F32", (3, 5))] == [
        (tensor.name, tensor.dtype, tensor.shape) for tensor in found.tensors[:2]
    ]
    assert () == found.flaws


def test_a_distributed_checkpoint_tells_its_tensors_and_where_they_lie() -> None:
    found = dcp.read_dcp(Bytes(content("dcp-optim/.metadata")))
    assert ("model", "optim") == found.roots
    shapes = {tensor.name: tensor.shape for tensor in found.tensors}
    assert (32, 16) == shapes["model.lm_head.weight"]
    assert (((0, 0), (32, 16)),) == found.chunks["model.lm_head.weight"]
    assert {"__0_0.distcp"} == {record.path for record in found.records}
    assert max(record.start + record.length for record in found.records) == len(content("dcp-optim/__0_0.distcp"))
    assert not found.transformed


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/fetchverify-was-here; exit 1",)


def test_nothing_that_a_pickle_calls_is_called(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    data = pickle.dumps({"a": partial(os.mkdir, str(witness)), "b": Evil()})
    walked = pickles.walk(data)
    assert {"posix.system", "posix.mkdir", "functools.partial"} <= set(walked.imports)
    assert not witness.exists()


HOSTILE = {
    "empty dicts": b"\x80\x02" + b"}" * 11_000_000 + b".",
    "a far memo": b"\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x6f.",
    "many memos": b"\x80\x02N" + b"\x94" * 4_000_000 + b".",
    "tuples of tuples": b"\x80\x02N" + b"\x85" * 1_000_000 + b".",
    "keys that are deep": b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.",
    "keys that double": b"\x80\x02}N" + b"2\x86" * 60 + b"Ns.",
    "lists that double": b"\x80\x02](" + b"22" * 1_500_000 + b"e.",
    "a long number": b"\x80\x02\x8b\xff\xff\xff\x00" + b"\1" * 0xFFFFFF + b".",
    "decimal digits": b"L" + b"9" * 5_000_000 + b"L\n.",
    "a length beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
    "text that claims much": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "an unknown opcode": b"\x80\x02\xff.",
    "no end": b"\x80\x02}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_within_64_mib(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            pickles.walk(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", READERS)
@given(
    at=st.integers(0, 1 << 20),
    new=st.binary(max_size=9),
    cut=st.integers(0, 9),
    end=st.none() | st.integers(0, 1 << 20),
)
@settings(max_examples=150, deadline=None)
def test_random_damage_raises_nothing_but_malformed(name: str, at: int, new: bytes, cut: int, end: int | None) -> None:
    data = content(name)
    at %= len(data)
    data = (data[:at] + new + data[at + cut :])[: None if end is None else end % len(data)]
    try:
        READERS[name](Bytes(data))
    except Malformed:
        pass


@pytest.mark.parametrize("name", [name for name in READERS if "old" not in name and name != "hf/model.safetensors"])
def test_a_file_that_was_cut_short_is_not_taken_for_whole(name: str) -> None:
    data = content(name)
    try:
        found = READERS[name](Bytes(data[: len(data) // 2]))
    except Malformed:
        return
    assert getattr(found, "flaws", ())


def test_members_of_an_archive_lie_where_the_table_says() -> None:
    source = Bytes(content("hf-bin/pytorch_model.bin"))
    members = ziptable.read_table(source)
    member = members["pytorch_model/version"]
    assert b"3\n" == source.read(*ziptable.data_range(source, member))


def test_a_large_archive_with_a_large_pickle_takes_no_more_than_64_mib() -> None:
    """Table, pickle and what is made of it are held at one time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02]" + b"(" + b"]" * 150_000 + b"e" + b"N0" * 900_000 + b".")
        for number in range(ziptable.MOST_MEMBERS - 1):
            file.writestr(f"a/data/{number}", b"")
    source = Bytes(out.getvalue())
    tracemalloc.start()
    try:
        with suppress(Malformed):
            torchfile.read_torch(source)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
