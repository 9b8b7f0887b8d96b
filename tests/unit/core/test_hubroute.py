"""URLs of strangers: what they name, and that hostile ones name nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.hubroute import NOTHING, Target, is_repo_id, parse_target

KNOWN = {
    "/api/models/org/name": Target(verb="info", repo_id="org/name"),
    "/api/models/gpt2": Target(verb="info", repo_id="gpt2"),
    "/api/datasets/org/d/revision/v1.0": Target(verb="info", kind="dataset", repo_id="org/d", revision="v1.0"),
    "/api/models/org/name/revision/refs%2Fpr%2F1": Target(verb="info", repo_id="org/name", revision="refs/pr/1"),
    "/api/models/org/name/revision/refs/pr/1": Target(verb="info", repo_id="org/name", revision="refs/pr/1"),
    "/api/models/org/name/tree/feature%2Fx/a/b": Target(
        verb="tree", repo_id="org/name", revision="feature/x", path="a/b"
    ),
    "/api/models/org/name/tree/main": Target(verb="tree", repo_id="org/name"),
    "/api/models/org/name/paths-info/main": Target(verb="paths-info", repo_id="org/name"),
    "/api/spaces/org/s/refs": Target(verb="refs", kind="space", repo_id="org/s"),
    "/api/models": Target(verb="list"),
    "/org/name/resolve/main/a/b.bin": Target(verb="resolve", repo_id="org/name", path="a/b.bin"),
    "/gpt2/resolve/main/w.bin": Target(verb="resolve", repo_id="gpt2", path="w.bin"),
    "/datasets/org/d/resolve/main/%C3%BC%20x": Target(verb="resolve", kind="dataset", repo_id="org/d", path="ü x"),
}


@pytest.mark.parametrize("url", KNOWN)
def test_what_the_hubs_client_asks_for_is_understood(url: str) -> None:
    assert KNOWN[url] == parse_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "org/name/resolve/main/x",
        "/",
        "/..%2F..%2Fetc%2Fpasswd",
        "/api/models/..%2F..%2Fetc",
        "/api/models/../../etc",
        "/../name/resolve/main/x",
        "/org%2Fname/resolve/main/x",
        "/org/na--me/resolve/main/x",
        "/org/.hidden/resolve/main/x",
        "/org/name/resolve/main/a%2Fb",
        "/org/name/resolve/main/a%00b",
        "/org/name/resolve/main/%ff",
        "/org/name/resolve/main/a%0Ab",
        "/org/name/resolve/" + "a/" * 10_000,
        "http://elsewhere/org/name/resolve/main/x",
    ],
)
def test_a_hostile_url_names_nothing(url: str) -> None:
    """A name of a repo becomes a folder's name: what is not one for certain must end here."""
    assert NOTHING == parse_target(url)


@given(st.text(alphabet="/%.0123456789abcdefABCDEF-_~\x00ü\\ ", max_size=60))
def test_whatever_comes_a_repo_that_is_found_has_a_safe_name(tail: str) -> None:
    for start in ("/", "/api/models/", "/datasets/"):
        target = parse_target(start + tail + "/resolve/main/x")
        assert target.repo_id == "" or is_repo_id(target.repo_id)
        assert not {"", ".", ".."} & set(target.repo_id.split("/")) or target.repo_id == ""
