"""What the Hub answers, without faults: access, revisions, pages, signed URLs, quotas."""

import http.client
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from mock_server import FileValue, KiB, MockHub, Quota, Seeded, World

SIZE = 100 * KiB
HF = {"Authorization": "Bearer hf_demo"}
STRANGER = {"Authorization": "Bearer hf_stranger"}
BAD = {"Authorization": "Bearer hf_bad"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str | None]:
        return self.status, self.headers.get("X-Error-Code")


def ask(url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: str | None = None) -> Reply:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())  # type: ignore[arg-type]
    finally:
        connection.close()


def make_world() -> World:
    world = World()
    files: dict[str, FileValue] = {"config.json": b"{}", "a/b/c.txt": b"deep", "w ä.safetensors": Seeded(SIZE, "w")}
    world.add("acme/m", files).tag("v1")
    world.add("acme/gated", {"x.txt": b"x"}, gated=True, tokens=["hf_demo"])
    world.add("acme/private", {"x.txt": b"x"}, private=True, tokens=["hf_demo"])
    world.add("acme/disabled", {"x.txt": b"x"}, disabled=True)
    world.add("gpt2", {"config.json": b"{}"})
    world.add("acme/d", {"x.txt": b"x"}, kind="dataset")
    world.add("acme/s", {"app.py": b"x"}, kind="space")
    return world


@pytest.fixture
def hub() -> Iterator[MockHub]:
    with MockHub(make_world(), page_size=2) as hub:
        yield hub


def test_a_repo_tells_its_commit_and_files(hub: MockHub) -> None:
    head = hub.world.repo("acme/m").head()
    info = ask(f"{hub.endpoint}/api/models/acme/m").json
    assert (head.id, ["a/b/c.txt", "config.json", "w ä.safetensors"]) == (
        info["sha"],
        [sibling["rfilename"] for sibling in info["siblings"]],
    )
    blobs = ask(f"{hub.endpoint}/api/models/acme/m/revision/v1?blobs=true").json["siblings"]
    assert {
        "rfilename": "w ä.safetensors",
        "size": SIZE,
        "blobId": head.files["w ä.safetensors"].git_oid(),
        "lfs": {"sha256": head.files["w ä.safetensors"].content.sha256(), "size": SIZE, "pointerSize": 131},
    } == blobs[2]
    assert {"_id", "id", "sha"} == set(ask(f"{hub.endpoint}/api/models/acme/m?expand=sha").json)


def test_a_tree_comes_in_pages(hub: MockHub) -> None:
    url: str | None = f"{hub.endpoint}/api/models/acme/m/tree/main?recursive=true&expand=true"
    found = []
    while url is not None:
        reply = ask(url)
        found.append([entry["path"] for entry in reply.json])
        link = re.match(r'<(.*)>; rel="next"', reply.headers.get("Link", ""))
        url = link[1] if link else None
    assert found == [["a", "a/b"], ["a/b/c.txt", "config.json"], ["w ä.safetensors"]]


def test_a_tree_can_be_asked_from_a_folder(hub: MockHub) -> None:
    reply = ask(f"{hub.endpoint}/api/models/acme/m/tree/main/a")
    assert [(entry["path"], entry["type"]) for entry in reply.json] == [("a/b", "directory")]
    assert ask(f"{hub.endpoint}/api/models/acme/m/tree/main/nope").refusal == (404, "EntryNotFound")


def test_paths_info_answers_forms_and_leaves_out_what_is_missing(hub: MockHub) -> None:
    form = urlencode({"paths": ["config.json", "a", "nope"], "expand": True}, doseq=True)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = ask(f"{hub.endpoint}/api/models/acme/m/paths-info/main", headers, method="POST", body=form)
    assert [(entry["path"], entry["type"], "lastCommit" in entry) for entry in reply.json] == [
        ("config.json", "file", True),
        ("a", "directory", True),
    ]


def test_refs_and_listings(hub: MockHub) -> None:
    repo = hub.world.repo("acme/m")
    repo.commit({"pr.txt": b"1"}, branch="refs/pr/1")
    refs = ask(f"{hub.endpoint}/api/models/acme/m/refs?include_prs=1").json
    names = {key: [ref["name"] for ref in refs[key]] for key in refs}
    assert names == {"branches": ["main"], "converts": [], "tags": ["v1"], "pullRequests": ["1"]}
    assert ask(f"{hub.endpoint}/acme/m/resolve/refs%2Fpr%2F1/pr.txt").status == 200
    assert ask(f"{hub.endpoint}/acme/m/resolve/refs/pr/1/pr.txt").status == 200
    page = ask(f"{hub.endpoint}/api/models?author=acme&limit=2")
    assert [row["id"] for row in page.json] == ["acme/disabled", "acme/gated"]
    assert "cursor=2" in page.headers["Link"]


def test_small_files_come_from_the_hub_large_ones_from_the_cdn(hub: MockHub) -> None:
    small = ask(f"{hub.endpoint}/acme/m/resolve/main/config.json")
    file = hub.world.repo("acme/m").file("w ä.safetensors")
    assert (200, f'"{hub.world.repo("acme/m").file("config.json").git_oid()}"') == (
        small.status,
        small.headers["ETag"],
    )
    large = ask(f"{hub.endpoint}/acme/m/resolve/main/w%20%C3%A4.safetensors", method="HEAD")
    assert (302, hub.world.repo("acme/m").head().id, f'"{file.content.sha256()}"', str(SIZE)) == (
        large.status,
        large.headers["X-Repo-Commit"],
        large.headers["X-Linked-Etag"],
        large.headers["X-Linked-Size"],
    )
    assert large.headers["Location"].startswith(hub.cdn_endpoint)
    body = ask(large.headers["Location"], {"Range": "bytes=-10"})
    assert (206, file.content.read(SIZE - 10, SIZE)) == (body.status, body.body)
    assert file.content.sha256() not in body.headers["ETag"]
    assert (416, f"bytes */{SIZE}") == (
        (refused := ask(large.headers["Location"], {"Range": f"bytes={SIZE}-"})).status,
        refused.headers["Content-Range"],
    )


def test_a_mirror_serves_all_by_itself() -> None:
    with MockHub(make_world(), cdn=False, drop_headers={"x-repo-commit", "x-linked-size"}, tree=False) as hub:
        reply = ask(f"{hub.endpoint}/acme/m/resolve/main/w%20%C3%A4.safetensors", {"Range": "bytes=0-9"})
        assert (
            reply.status,
            reply.headers.get("X-Repo-Commit"),
            reply.headers.get("X-Linked-Size"),
        ) == (206, None, None)
        assert ask(f"{hub.endpoint}/api/models/acme/m/tree/main").status == 404
        assert ask(f"{hub.endpoint}/api/models/acme/m").status == 200


def test_signed_urls_expire_and_cannot_be_altered(hub: MockHub) -> None:
    resolve = f"{hub.endpoint}/acme/m/resolve/main/w%20%C3%A4.safetensors"
    location = ask(resolve, method="HEAD").headers["Location"]
    assert ask(location, method="HEAD").status == 200
    assert ask(re.sub(r"Expires=\d", "Expires=9", location)).status == 403
    assert ask(location.split("?")[0]).status == 403
    assert ask(location.split("?")[0] + "?Expires=soon&Signature=%C3%A4").status == 403
    hub.configure(ttl_s=0.05)
    location = ask(resolve, method="HEAD").headers["Location"]
    time.sleep(0.06)
    assert ask(location).status == 403


def test_unranged_gets_of_huge_files_can_be_refused(hub: MockHub) -> None:
    hub.configure(max_unranged=SIZE - 1)
    location = ask(f"{hub.endpoint}/acme/m/resolve/main/w%20%C3%A4.safetensors", method="HEAD").headers["Location"]
    assert [
        ask(location).status,
        ask(location, {"Range": "bytes=0-9"}).status,
        ask(location, method="HEAD").status,
    ] == [400, 206, 200]


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/api/models/acme/none", {}, (401, "RepoNotFound")),
        ("/api/models/acme/none", HF, (404, "RepoNotFound")),
        ("/api/models/acme/private", {}, (401, "RepoNotFound")),
        ("/api/models/acme/private", STRANGER, (404, "RepoNotFound")),
        ("/api/models/acme/private", HF, (200, None)),
        ("/acme/private/resolve/main/x.txt", {}, (401, "RepoNotFound")),
        ("/acme/private/resolve/main/x.txt", HF, (200, None)),
        ("/api/models/acme/gated", {}, (200, None)),
        ("/api/models/acme/gated/tree/main", {}, (200, None)),
        ("/acme/gated/resolve/main/x.txt", {}, (401, "GatedRepo")),
        ("/acme/gated/resolve/main/x.txt", STRANGER, (403, "GatedRepo")),
        ("/acme/gated/resolve/main/x.txt", HF, (200, None)),
        ("/acme/m/resolve/main/config.json", BAD, (401, None)),
        ("/api/models/acme/disabled", {}, (403, None)),
        ("/acme/m/resolve/nope/config.json", {}, (404, "RevisionNotFound")),
        ("/api/models/acme/m/revision/nope", {}, (404, "RevisionNotFound")),
        ("/acme/m/resolve/main/nope", {}, (404, "EntryNotFound")),
        ("/gpt2/resolve/main/config.json", {}, (200, None)),
        ("/api/models/gpt2/tree/main", {}, (200, None)),
        ("/datasets/acme/d/resolve/main/x.txt", {}, (200, None)),
        ("/api/datasets/acme/d", {}, (200, None)),
        ("/spaces/acme/s/resolve/main/app.py", {}, (200, None)),
        ("/api/spaces/acme/s/revision/main", {}, (200, None)),
        ("/acme/d/resolve/main/x.txt", {}, (401, "RepoNotFound")),
        ("/api/agent-harnesses", {}, (404, None)),
        ("/", {}, (404, None)),
        ("/api/whoami-v2", {}, (401, None)),
        ("/api/whoami-v2", HF, (200, None)),
    ],
)
def test_access_is_refused_as_the_hub_does(
    hub: MockHub, path: str, headers: dict[str, str], expected: tuple[int, str | None]
) -> None:
    assert expected == ask(hub.endpoint + path, headers).refusal


def test_other_methods_are_refused(hub: MockHub) -> None:
    assert ask(f"{hub.endpoint}/acme/m/resolve/main/config.json", method="DELETE").status == 405


def test_a_renamed_repo_redirects_within_the_hub(hub: MockHub) -> None:
    hub.world.rename("gpt2", "openai/gpt2")
    reply = ask(f"{hub.endpoint}/gpt2/resolve/main/config.json?x=1")
    assert (reply.status, reply.headers["Location"]) == (307, "/openai/gpt2/resolve/main/config.json?x=1")
    reply = ask(f"{hub.endpoint}/api/models/gpt2/tree/main")
    assert (reply.status, reply.headers["Location"]) == (307, "/api/models/openai/gpt2/tree/main")


def test_quotas_are_announced_and_kept() -> None:
    with MockHub(make_world(), quotas={"api": Quota(limit=2, window_s=0.2)}) as hub:
        url = f"{hub.endpoint}/api/models/acme/m"
        replies = [ask(url) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert [reply.headers["RateLimit"] for reply in replies] == ['"api";r=1;t=0', '"api";r=0;t=0', '"api";r=0;t=0']
        assert ask(f"{hub.endpoint}/acme/m/resolve/main/config.json").status == 200
        time.sleep(0.2)
        assert ask(url).status == 200


def test_revisions_move_while_the_hub_runs(hub: MockHub) -> None:
    url = f"{hub.endpoint}/acme/m/resolve/main/config.json"
    assert ask(url).body == b"{}"
    old = hub.world.repo("acme/m").head().id
    hub.world.repo("acme/m").force_push({"config.json": b"new"})
    assert ask(url).body == b"new"
    assert ask(f"{hub.endpoint}/acme/m/resolve/{old}/config.json").refusal == (404, "RevisionNotFound")
