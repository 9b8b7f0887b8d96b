"""What people type or paste for a repo."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.manifest import RepoKind, RepoPath, RepoRef
from fetchverify.core.reference import Reference, is_path, parse_reference
from fetchverify.errors import UsageError


def ref(repo_id: str, revision: str = "main", kind: RepoKind = "model", path: str | None = None) -> Reference:
    return Reference(
        ref=RepoRef(kind=kind, repo_id=repo_id, revision=revision), path=None if path is None else RepoPath(path)
    )


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", ref("org/name")),
        (" org/name \n", ref("org/name")),
        ("gpt2", ref("gpt2")),
        ("org/name/", ref("org/name")),
        ("org/name@v1.0", ref("org/name", "v1.0")),
        ("gpt2@refs/pr/1", ref("gpt2", "refs/pr/1")),
        ("org/name@refs%2Fpr%2F1", ref("org/name", "refs/pr/1")),
        ("org/name@feature/x", ref("org/name", "feature/x")),
        (f"org/name@{SHA.upper()}", ref("org/name", SHA)),
        ("datasets/org/name", ref("org/name", kind="dataset")),
        ("spaces/org/name@v2", ref("org/name", "v2", "space")),
        ("datasets/squad", ref("datasets/squad")),  # `a/b` is always a repo
        ("hf://org/name", ref("org/name")),
        ("HF://gpt2", ref("gpt2")),
        ("hf://datasets/squad", ref("squad", kind="dataset")),
        ("hf://org/name@rev/sub/file.json", ref("org/name", "rev", path="sub/file.json")),
        ("hf://org/name/sub/a@b.json", ref("org/name", path="sub/a@b.json")),
        ("hf://datasets/org/name@refs/pr/1/a b.txt", ref("org/name", "refs/pr/1", "dataset", "a b.txt")),
        ("hf://org/name@refs/convert/parquet", ref("org/name", "refs/convert/parquet")),
        ("hf://org/name@feature%2Fx/a", ref("org/name", "feature/x", path="a")),
        ("https://huggingface.co/org/name", ref("org/name")),
        ("huggingface.co/org/name", ref("org/name")),
        ("https://huggingface.co/gpt2", ref("gpt2")),
        ("https://hf.co/org/name.git", ref("org/name")),
        ("git@hf.co:org/name.git", ref("org/name")),
        ("ssh://git@hf.co/datasets/org/name", ref("org/name", kind="dataset")),
        ("https://huggingface.co/gpt2/resolve/main/config.json", ref("gpt2", path="config.json")),
        ("https://huggingface.co/org/name/tree/main", ref("org/name")),
        ("https://huggingface.co/org/name/tree/v1/sub/deep", ref("org/name", "v1", path="sub/deep")),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1/sub", ref("org/name", "refs/pr/1", path="sub")),
        ("https://huggingface.co/org/name/tree/refs/pr/1", ref("org/name", "refs/pr/1")),
        ("https://huggingface.co/org/name/blob/main/a%20b.json#L3", ref("org/name", path="a b.json")),
        ("https://huggingface.co/org/name/resolve/main/x.bin?download=true", ref("org/name", path="x.bin")),
        (f"https://huggingface.co/org/name/commit/{SHA}", ref("org/name", SHA)),
        ("https://huggingface.co/datasets/org/name/viewer/default/train", ref("org/name", kind="dataset")),
        ("https://huggingface.co/spaces/org/name/raw/main/app.py", ref("org/name", kind="space", path="app.py")),
        ("https://hf-mirror.com/org/name", ref("org/name")),
        ("https://huggingface.co:443/api/models/org/name/revision/v1", ref("org/name", "v1")),
        ("http://mirror.local:8080/hub/org/name/tree/dev", ref("org/name", "dev")),
        ("mirror.local:8080/hub/org/name", ref("org/name")),
    ],
)
def test_an_address_names_repo_revision_and_path(text: str, expected: Reference) -> None:
    """What the browser's address line, a README or a git remote shows must do."""
    assert expected == parse_reference(text, hosts=("mirror.local:8080/hub",))


def test_options_fill_what_the_address_leaves_open() -> None:
    """`-t` and `-r` complete an address that does not say."""
    assert ref("org/name", "v1", "dataset") == parse_reference("org/name", kind="dataset", revision="v1")
    assert ref("org/name", "v1") == parse_reference("org/name@v1", revision="v1")
    assert ref("org/name", kind="dataset") == parse_reference("hf://datasets/org/name", kind="dataset")


@pytest.mark.parametrize(
    ("text", "kind", "revision", "words"),
    [
        ("", None, None, "no repo was named"),
        ("./org/name", None, None, "is a path on this machine"),
        ("org/name/file.json", None, None, "too many parts"),
        ("org/name@", None, None, "the revision is empty"),
        ("org/name@a..b", None, None, "no name of a revision"),
        ("org/name@a b", None, None, "no name of a revision"),
        ("org/name@\x1b[31m", None, None, r"\x1b[31m"),
        ("org/name", None, "", "the revision is empty"),
        ("org--name/x", None, None, "no name of a repo"),
        ("org/..", None, None, "no name of a repo"),
        ("org/nämé", None, None, "no name of a repo"),
        ("org/name@v1", None, "v2", "names the revision `v1`, `-r` names `v2`"),
        ("https://huggingface.co/org/name", "dataset", None, "names a model, `-t` a dataset"),
        ("hf://datasets/org/name", "space", None, "names a dataset, `-t` a space"),
        ("hf://buckets/org/name", None, None, "no model, dataset or space"),
        ("hf://org/name/../../etc", None, None, "no path in a repo"),
        ("https://example.org/org/name", None, None, "lies on no Hub that is known"),
        ("https://huggingface.co/docs/hub", None, None, "no page of a repo"),
        ("https://huggingface.co/org/name/settings", None, None, "no page that names files"),
        ("https://huggingface.co/org/name/discussions/7", None, None, "no page that names files"),
        ("https://huggingface.co:x/org/name", None, None, "is no address"),
        ("s3://bucket/key", None, None, "no address of a Hub"),
    ],
)
def test_what_is_no_reference_is_refused_with_a_hint(
    text: str, kind: RepoKind | None, revision: str | None, words: str
) -> None:
    """Each message says what is wrong, and nothing is guessed."""
    with pytest.raises(UsageError) as caught:
        parse_reference(text, kind=kind, revision=revision)
    assert words in caught.value.message


def test_a_pull_request_page_tells_its_revision() -> None:
    """The page itself names no files, but its number does."""
    with pytest.raises(UsageError) as caught:
        parse_reference("https://huggingface.co/org/name/discussions/7")
    assert caught.value.hint == "type `org/name@refs/pr/7`"


def test_secrets_in_an_address_never_reach_the_message() -> None:
    """People paste remotes with tokens in them."""
    with pytest.raises(UsageError) as caught:
        parse_reference("https://me:hf_secret@example.org/org/name?token=hf_secret")
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("text", [".", "./a", "../a/b", "/a/b", "~/models", "~", r"C:\models", "c:/models", r"\\nas\x"])
def test_paths_are_told_from_repos(text: str) -> None:
    """A path starts like one; `a/b` is always a repo."""
    assert is_path(text)
    assert not is_path("a/b")


@given(st.text(st.sampled_from("ab-._/é@:%"), max_size=12) | st.from_regex(r"[\w.\-]{1,100}(/[\w.\-]{1,100})?"))
def test_repo_ids_are_those_of_the_hub(text: str) -> None:
    """A rule of our own would refuse real repos, or ask the Hub for what cannot exist."""
    try:
        validate_repo_id(text)
        valid = True
    except HFValidationError:
        valid = False
    try:
        accepted = parse_reference(f"hf://models/{text}" if "/" in text else text).ref.repo_id == text
    except UsageError:
        accepted = False
    # The hub lets `\Z` be a newline away and takes empty repo ids for none; both are no concern here.
    assert accepted == (valid and text.isascii() and bool(text.strip()))


@given(st.text(max_size=60))
def test_nothing_but_a_usage_error_ever_comes_out(text: str) -> None:
    """Any paste ends in a repo or in a message, never in a traceback."""
    for prefix in ("", "hf://", "https://huggingface.co/", "https://", "git@hf.co:"):
        try:
            found = parse_reference(prefix + text)
        except UsageError as error:
            message = error.message
        else:
            message = found.ref.repo_id
            assert ".." not in f"{found.ref.repo_id} {found.ref.revision}"
        assert message.isprintable()
