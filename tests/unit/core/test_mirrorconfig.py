"""`mirror.toml`: every problem is told, with its line; what is valid means what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.mirrorconfig import TEMPLATE, Entry, Window, parse
from fetchverify.core.units import parse_duration, parse_rate, parse_share, parse_size

GOOD = 'folder = "m"\n[[repo]]\nid = "org/name"\n'


def problems(text: str) -> list[tuple[int, str]]:
    config, found = parse(text)
    assert (config is None) == bool(found)
    return [(one.line, one.message) for one in found]


def test_the_template_is_valid_and_so_is_it_with_every_comment_taken_away() -> None:
    assert [] == problems(TEMPLATE)
    lines = [
        line.removeprefix("# ") if line.startswith(("# ", "#[")) and ("=" in line or "[" in line) else line
        for line in TEMPLATE.splitlines()
    ]
    wanted = [line for line in lines if line.startswith("[") or (" = " in line and not line.startswith("#"))]
    both = [line for line in wanted if not line.startswith("token_env")]
    config, found = parse("\n".join(both))
    assert () == found
    assert config is not None
    assert config.hooks.change
    assert ["org/name", "org/*"] == [entry.repo_id for entry in config.entries]
    assert "org" == config.entries[1].author


def test_what_is_not_said_has_a_default() -> None:
    config, _ = parse(GOOD)
    assert config is not None
    assert (Entry(repo_id="org/name"),) == config.entries
    assert ("cache", 16, None, False) == (config.layout, config.connections, config.window, config.purge)


def test_keep_is_handed_down() -> None:
    config, _ = parse(f'keep = 5\n{GOOD}[[repo]]\nid = "org/other"\nkeep = 1\n')
    assert config is not None
    assert [5, 1] == [entry.keep for entry in config.entries]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("folder = ", 1, "no TOML"),
        ('folder = "m"\n', 0, "nothing to mirror"),
        ('\n\nlayot = "cache"\n' + GOOD, 3, "is `layout` meant?"),
        ('layout = "zip"\n' + GOOD, 1, "none of cache, folders"),
        ("connections = 0\n" + GOOD, 1, "1 to 64"),
        ("connections = true\n" + GOOD, 1, "must be a number"),
        ("purge = 1\n" + GOOD, 1, "true or false"),
        ('window = "9-17"\n' + GOOD, 1, "22:00-06:00"),
        ('limit_rate = "fast"\n' + GOOD, 1, "50M"),
        ('endpoints = [\n  "https://a",\n  "https://user@b",\n]\n' + GOOD, 1, "without user"),
        ('token_env = "A"\ntoken_file = "b"\n' + GOOD, 1, "exclude each other"),
        ('token_env = "A-B"\n' + GOOD, 1, "name of a variable"),
        (GOOD + '[hooks]\nfailure = "mail"\n', 5, "list of texts"),
        (GOOD + '[hooks]\npong = "x"\n', 5, "`pong` is no key"),
        (GOOD + '[[repo]]\nid = "a/b/c"\n', 5, "too many parts"),
        (GOOD + '[[repo]]\nid = "org/*/x"\n', 5, "org/*/x"),
        (GOOD + '[[repo]]\n\ntype = "model"\n', 4, "`id` is missing"),
        (GOOD + '[[repo]]\nid = "o/n"\nrevisions = ["-x"]\n', 6, "-x"),
        (GOOD + '[[repo]]\nid = "../../etc/x"\n', 5, "id"),
        (GOOD + '[[repo]]\nid = "org/name"\n', 4, "named twice"),
    ],
)
def test_each_mistake_is_named_with_its_line(text: str, line: int, words: str) -> None:
    found = problems(text)
    assert [line] == [where for where, _ in found], found
    assert words in found[0][1]


def test_all_mistakes_are_told_at_once_in_order() -> None:
    found = problems('folder = 3\nx = 1\n[[repo]]\nid = 4\n[[repo]]\nkeep = 0\nid = "a/b"\n')
    assert [1, 2, 4, 6] == [line for line, _ in found]


@given(st.text(max_size=200) | st.text(alphabet='folder="[]repid\n*/.#', max_size=80))
def test_no_text_is_too_strange(text: str) -> None:
    config, found = parse(text)
    assert (config is None) == bool(found)


def test_a_window_may_go_over_midnight() -> None:
    night = Window(start=22 * 60, stop=6 * 60)
    assert [480, 360, 1, 0, 0] == [night.minutes_left(minute) for minute in (22 * 60, 0, 359, 360, 12 * 60)]
    assert 24 * 60 == Window(start=60, stop=60).minutes_left(60)


@pytest.mark.parametrize(
    ("parse", "good", "value", "bad"),
    [
        (parse_rate, "50M", 50 << 20, "M50"),
        (parse_rate, "50MB/s", 50_000_000, "fast"),
        (parse_size, "2T", 2 * 10**12, "2T/s"),
        (parse_size, "1.5GiB", 3 << 29, ""),
        (parse_duration, "90s", 90.0, "90"),
        (parse_duration, "4w", 4 * 604800.0, "4y"),
        (parse_share, "5%", 0.05, "0%"),
        (parse_share, "100%", 1.0, "101%"),
    ],
)
def test_amounts(parse: object, good: str, value: float, bad: str) -> None:
    assert callable(parse)
    assert value == parse(good)
    with pytest.raises(ValueError, match="write"):
        parse(bad)
