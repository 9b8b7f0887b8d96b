from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from fetchverify.core.diagnosis.facts import Tensor
from fetchverify.formats import safetensors
from fetchverify.formats.source import Bytes, Malformed
from tests.unit.formats import damage


def codes_of(data: bytes) -> set[str]:
    try:
        return {flaw.code for flaw in safetensors.read_header(Bytes(data)).flaws}
    except Malformed as error:
        return {error.flaw.code}


def test_a_good_header_is_read() -> None:
    header = safetensors.read_header(Bytes(damage.good()))
    start = header.data_start
    assert (Tensor("a", "F32", (2, 2), start, start + 16), Tensor("b", "F32", (4,), start + 16, start + 32)) == (
        header.tensors
    )
    assert () == header.flaws
    assert len(damage.good()) == header.promised_size


@pytest.mark.parametrize(
    "name", [name for name, (_, code) in damage.ONE_FILE.items() if code[:3] == "FV1" and code not in damage.SNIFFED]
)
def test_each_broken_rule_has_its_code(name: str) -> None:
    make, code = damage.ONE_FILE[name]
    assert code in codes_of(make())


def test_metadata_may_hold_braces_and_escapes() -> None:
    header = {"__metadata__": {"a": '{"x":[1]} \\ "', "ü": "é"}, "t": damage.entry("U8", [1], 0, 1)}
    found = safetensors.read_header(Bytes(damage.pack(header, b"\1")))
    assert header["__metadata__"] == found.metadata
    assert ["t"] == [tensor.name for tensor in found.tensors]


def test_entries_in_any_order_and_with_blanks_are_read() -> None:
    raw = b'{ "t" : {"data_offsets": [0, 1], "shape" : [ 1 ], "dtype":"U8"}\n, '
    raw += b'"u":{"dtype":"U8","shape":[],"data_offsets":[1,2]} }  '
    header = safetensors.read_header(Bytes(damage.pack(raw, b"\1\1")))
    assert [("t", (1,)), ("u", ())] == [(tensor.name, tensor.shape) for tensor in header.tensors]
    assert () == header.flaws


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":' + b"[" * 4_000_000,
        b"{" + b'"":{},' * 2_000_000 + b"}",
        b'{"__metadata__":{' + b'"":"",' * 2_000_000 + b"}}",
        b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(120_000)) + b"}",
        b'{"' + b"\\\\" * 7_000_000,
        b'{"a":{"dtype":"U8","shape":[' + b"1," * 1_000_000 + b'1],"data_offsets":[0,1]}}',
    ],
)
def test_a_hostile_header_takes_no_more_than_64_mib(raw: bytes) -> None:
    source = Bytes(damage.pack(raw, b""))
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            safetensors.read_header(source)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@given(at=st.integers(0, 10_000), new=st.binary(min_size=0, max_size=12), cut=st.integers(0, 12))
@example(at=0, new=struct.pack("<Q", 2**64 - 1), cut=8)
@example(at=8, new=b"[", cut=1)
def test_random_damage_never_crashes_and_what_we_pass_the_library_passes(at: int, new: bytes, cut: int) -> None:
    """The library is the judge: a header that we find flawless loads; one that it refuses is flawed for us."""
    data = damage.good()
    at %= len(data)
    data = data[:at] + new + data[at + cut :]
    found = codes_of(data)
    try:
        deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, OverflowError):
        assert found
    else:
        assert found <= {"FV115"}


@given(st.binary(max_size=300))
def test_any_bytes_as_a_header_raise_nothing_else(raw: bytes) -> None:
    codes_of(damage.pack(b"{" + raw, b""))
    codes_of(raw)
