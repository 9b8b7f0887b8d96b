"""`SHA256SUMS`, held against the `sha256sum` of this machine; lines that are hostile or torn."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.sums import format_sums, parse_sums

A, B = "aa" * 32, "bb" * 32
NAMES = [
    "plain.bin",
    "sub/a b.bin",
    "line\nbreak",
    "back\\slash",
    "carriage\rreturn",
    " lead",
    "*star",
    "é.txt",
    "\udcff",
]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (f"{A}  a.bin\n", ({"a.bin": A}, 0)),
        (f"{A} *a.bin\n", ({"a.bin": A}, 0)),
        (f"{A.upper()}  a.bin", ({"a.bin": A}, 0)),
        (f"{A}  ./sub/a.bin\n", ({"sub/a.bin": A}, 0)),
        (f"{A}  .//a.bin\n", ({"a.bin": A}, 0)),
        (f"{A} *a.bin\r\n", ({"a.bin": A}, 0)),
        (f"SHA256 (a (1).bin) = {A}\n", ({"a (1).bin": A}, 0)),
        (f"\\{A}  a\\nb\\\\c\n", ({"a\nb\\c": A}, 0)),
        (f"{A}  a\\nb\n", ({"a\\nb": A}, 0)),
        (f"# made by hand\n\n  \n{A}  a\n{B}  b\n", ({"a": A, "b": B}, 0)),
        (f"{A}  a\n{A}  a\n", ({"a": A}, 0)),
        (f"{A}  a\n{B}  a\n{A}  b\n", ({"b": A}, 1)),
        (f"{A}  a\n{B}  a\n{A}  a\n", ({}, 1)),
        (f"\\{A}  a\\tb\n", ({}, 1)),
        (f"\\{A}  a\\\n", ({}, 1)),
        (f"{A[:-1]}  a\n", ({}, 1)),
        (f"{A}a\n", ({}, 1)),
        (f"{A}  \n", ({}, 1)),
        (f"{A}  ./\n", ({}, 1)),
        ("d41d8cd98f00b204e9800998ecf8427e  md5.bin\n", ({}, 1)),
        ("<!DOCTYPE html>\n", ({}, 1)),
        ("", ({}, 0)),
    ],
)
def test_lines_are_read_as_coreutils_reads_them(raw: str, expected: tuple[dict[str, str], int]) -> None:
    assert expected == parse_sums(raw.encode())


@given(st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), st.just(A)))
def test_what_was_written_is_read_back(sums: dict[str, str]) -> None:
    kept = {name: value for name, value in sums.items() if not name.startswith("./")}
    assert (kept, 0) == parse_sums(format_sums(kept.items()))


@given(st.binary(max_size=300))
def test_rubbish_is_counted_not_raised(raw: bytes) -> None:
    _, bad = parse_sums(raw)
    assert 0 <= bad <= raw.count(b"\n") + 1


def test_the_real_sha256sum_takes_our_lines_and_we_take_its(tmp_path: Path) -> None:
    """Also for names that need escapes: a line break in a name must not become a line."""
    if shutil.which("sha256sum") is None:
        pytest.skip("`sha256sum` is not installed")
    sums = {}
    for number, name in enumerate(NAMES):
        place = tmp_path / "files" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"%d" % number)
        sums[name] = hashlib.sha256(b"%d" % number).hexdigest()
    (tmp_path / "SUMS").write_bytes(format_sums(sums.items()))
    files = tmp_path / "files"
    told = subprocess.run(
        ["sha256sum", "-c", "--strict", "../SUMS"], cwd=files, capture_output=True, check=False, env=os.environ
    )
    assert (0, len(NAMES)) == (told.returncode, told.stdout.count(b": OK\n")), told.stderr
    theirs = subprocess.run(["sha256sum", "--", *map(os.fsencode, NAMES)], cwd=files, capture_output=True, check=True)
    assert (sums, 0) == parse_sums(theirs.stdout)
