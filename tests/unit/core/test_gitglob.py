"""Patterns of `lfs.fetchinclude` and `lfs.fetchexclude`, as gitignore reads them."""

from __future__ import annotations

import pytest

from fetchverify.core.gitglob import split_patterns, wanted


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.bin", "a.bin", True),
        ("*.bin", "deep/er/a.bin", True),
        ("*.bin", "a.bin.txt", False),
        ("sub", "sub/a.bin", True),
        ("sub/", "x/sub/a.bin", True),
        ("/sub", "x/sub/a.bin", False),
        ("sub/*.bin", "sub/a.bin", True),
        ("sub/*.bin", "sub/deep/a.bin", False),
        ("sub/*.bin", "x/sub/a.bin", False),
        ("sub/**/a.bin", "sub/x/y/a.bin", True),
        ("**/a.bin", "a.bin", True),
        ("sub/**", "sub/x/y", True),
        ("model-0000[12]*", "model-00002-of-9", True),
        ("model-0000[!12]*", "model-00002-of-9", False),
        ("a?c", "a/c", False),
        ("a\\*c", "a*c", True),
        ("a\\*c", "abc", False),
        ("a.c", "abc", False),
        ("[", "[", True),
        ("[[]x", "[x", True),
    ],
)
def test_a_pattern_matches_as_in_gitignore(pattern: str, path: str, matches: bool) -> None:
    assert matches is wanted(path, [pattern], [])
    assert matches is not wanted(path, [], [pattern])


def test_patterns_are_separated_by_commas() -> None:
    assert ("a b", "*.c") == split_patterns(" a b, *.c,,")
    assert () == split_patterns(None)
    assert wanted("x", [], [])
