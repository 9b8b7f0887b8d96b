"""Which files of a repo are wanted."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.manifest import Digest, RemoteFile, RepoPath
from fetchverify.core.select import Selection, TwoLayouts, matches_globs, select
from fetchverify.errors import AbsentError


def files(**sizes: int) -> tuple[RemoteFile, ...]:
    digest = Digest(algo="git-sha1", hex="0" * 40)
    return tuple(RemoteFile(path=RepoPath(p), size=s, digest=digest, blob_id="0" * 40) for p, s in sizes.items())


def paths(selection: Selection) -> list[str]:
    return [file.path for file in selection.files]


REPO = files(**{"README.md": 1, "config.json": 2, "data/a.csv": 10, "data/b[1].csv": 20, "data/sub/c.csv": 30})
LLAMA = files(
    **{
        ".gitattributes": 1,
        "LICENSE": 1,
        "config.json": 1,
        "model-00001-of-00002.safetensors": 500,
        "model-00002-of-00002.safetensors": 400,
        "model.safetensors.index.json": 5,
        "original/consolidated.00.pth": 900,
        "original/params.json": 1,
        "original/tokenizer.model": 2,
        "tokenizer.json": 3,
    }
)
GPT_OSS = files(
    **{
        "config.json": 1,
        "metal/model.bin": 130,
        "model-00000-of-00002.safetensors": 100,
        "original/config.json": 1,
        "original/model.safetensors": 120,
    }
)
MISTRAL = files(
    **{
        "README.md": 1,
        "config.json": 1,
        "consolidated.safetensors": 700,
        "model-00001-of-00001.safetensors": 700,
        "model.safetensors.index.json": 1,
        "params.json": 1,
        "tekken.json": 9,
    }
)


def test_without_a_wish_everything_is_wanted() -> None:
    """Nothing is left out silently."""
    assert Selection(files=REPO) == select(REPO)


@pytest.mark.parametrize(
    ("names", "include", "exclude", "expected"),
    [
        (["config.json"], [], [], ["config.json"]),
        (["./config.json"], [], [], ["config.json"]),
        (["data/b[1].csv"], [], [], ["data/b[1].csv"]),
        (["data/"], [], [], ["data/a.csv", "data/b[1].csv", "data/sub/c.csv"]),
        (["data/sub"], [], [], ["data/sub/c.csv"]),
        (["*.md", "data/sub"], [], [], ["README.md", "data/sub/c.csv"]),
        ([], ["*.csv"], ["data/sub/"], ["data/a.csv", "data/b[1].csv"]),
        ([], ["data/"], [], ["data/a.csv", "data/b[1].csv", "data/sub/c.csv"]),
        (["README.md"], ["*/c.csv"], [], ["README.md", "data/sub/c.csv"]),
        ([], [], ["data/*"], ["README.md", "config.json"]),
        ([], ["*.csv", "*.nothing"], ["*a.csv", "*b[[]*"], ["data/sub/c.csv"]),
    ],
)
def test_names_folders_and_globs(names: list[str], include: list[str], exclude: list[str], expected: list[str]) -> None:
    """In the manifest's order, however they were asked for."""
    selection = select(REPO, names=names, include=include, exclude=exclude)
    assert expected == paths(selection)
    assert len(REPO) - len(expected) == selection.left_out
    assert 63 - sum(file.size for file in selection.files) == selection.left_out_size


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("config.jsn", "did you mean `config.json`?"),
        ("readme.md", "did you mean `README.md`?"),
        ("c.csv", "did you mean `data/sub/c.csv`?"),
        ("nothing like it", "see what it holds with `--dry-run`"),
        ("*.parquet", "see what it holds with `--dry-run`"),
        ("/", "see what it holds with `--dry-run`"),
        ("", "see what it holds with `--dry-run`"),
    ],
)
def test_a_name_that_is_absent_tells_what_is_close(name: str, hint: str) -> None:
    """A typing error must not fetch nothing and say nothing."""
    with pytest.raises(AbsentError) as caught:
        select(REPO, names=[name])
    assert hint == caught.value.hint


def test_nothing_left_is_an_error() -> None:
    """`hf download --include` of a misspelt glob succeeds with an empty folder."""
    with pytest.raises(AbsentError) as caught:
        select(REPO, include=["*.parquet"], exclude=["x"])
    assert caught.value.message == "no file is left by `--include *.parquet`, `--exclude x`"
    assert Selection(files=()) == select(())


def test_two_layouts_are_told_with_their_cost() -> None:
    """Half of the bytes are wasted on people who do not know."""
    assert TwoLayouts(hf_leaves_out=903, original_leaves_out=911) == select(LLAMA).two_layouts
    assert TwoLayouts(hf_leaves_out=251, original_leaves_out=231) == select(GPT_OSS).two_layouts
    assert TwoLayouts(hf_leaves_out=701, original_leaves_out=701) == select(MISTRAL).two_layouts
    assert (
        "the repo holds its weights twice: `--layout hf` would leave out 903 B, `--layout original` 911 B"
        == select(LLAMA).note
    )


def test_a_choice_that_was_made_is_not_asked_for_again() -> None:
    """Neither by layout nor by glob."""
    assert select(LLAMA, layout="hf").note is None
    assert select(LLAMA, include=["*.safetensors"]).note is None
    assert select(REPO).note is None


LAYOUTS = [
    (
        LLAMA,
        [file.path for file in LLAMA if not file.path.startswith("original/")],
        [file.path for file in LLAMA if file.path.startswith("original/")],
    ),
    (
        GPT_OSS,
        ["config.json", "model-00000-of-00002.safetensors"],
        ["original/config.json", "original/model.safetensors"],
    ),
    (
        MISTRAL,
        [file.path for file in MISTRAL if file.path not in ("consolidated.safetensors", "params.json")],
        [file.path for file in MISTRAL if not file.path.startswith("model")],
    ),
]


@pytest.mark.parametrize(("repo", "hf", "original"), LAYOUTS)
def test_a_layout_takes_one_format(repo: tuple[RemoteFile, ...], hf: list[str], original: list[str]) -> None:
    """Meta's folder, gpt-oss with a third format, Mistral's files side by side."""
    assert hf == paths(select(repo, layout="hf"))
    assert original == paths(select(repo, layout="original"))


def test_a_named_file_is_taken_whatever_the_layout() -> None:
    """Who names a file means it."""
    assert ["original/params.json"] == paths(select(LLAMA, names=["original/params.json"], layout="hf"))


def test_a_layout_that_is_not_there_is_absent() -> None:
    """Fetching the other one instead would be a surprise of many GB."""
    old_llama = files(**{"consolidated.00.pth": 9, "params.json": 1, "tokenizer.model": 1})
    with pytest.raises(AbsentError, match="original layout only"):
        select(old_llama, layout="hf")
    assert old_llama == select(old_llama, layout="original").files
    assert old_llama == select(old_llama).files
    with pytest.raises(AbsentError, match="no original layout"):
        select(REPO, layout="original")
    assert REPO == select(REPO, layout="hf").files


PATTERNS = st.lists(st.text(st.sampled_from("ab./*?[]!-\\A"), max_size=6), max_size=3)


@given(
    names=st.lists(st.text(st.sampled_from("ab./[]!-\\A*\n"), min_size=1, max_size=8), max_size=6),
    include=PATTERNS | st.none(),
    exclude=PATTERNS | st.none(),
)
def test_globs_mean_what_they_mean_to_the_hub(
    names: list[str], include: list[str] | None, exclude: list[str] | None
) -> None:
    """A pattern copied from `hf download` must take the same files."""
    theirs = list(filter_repo_objects(names, allow_patterns=include, ignore_patterns=exclude))
    assert theirs == [name for name in names if matches_globs(name, include, exclude)]
