"""Clients that know nothing of mirrors download from `fetchverify mirror serve`, while the Hub itself is off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from urllib.parse import quote

import pytest

from mock_server import MiB, MockHub, Seeded, World
from tests.mirrors import NEEDS_SERVER, Served, clean, copy_cache, fetch, fetch_folder, repo_folder, serving

pytestmark = NEEDS_SERVER

FILES: dict[str, bytes | Seeded] = {
    "config.json": b'{"model_type": "llama"}\n',
    "empty.txt": b"",
    "weights/shard-00001.safetensors": Seeded(9 * MiB, seed="one"),
    "weights/deep/er/notes.md": b"# notes\n",
    "ünï code/with spaces %41#?.txt": b"hello\n",
    "twin-a.txt": b"same\n",
    "twin-b.txt": b"same\n",
}
EXPECTED = {name: value if isinstance(value, bytes) else value.read(0, value.size) for name, value in FILES.items()}
BIG = "weights/shard-00001.safetensors"
REPOS = [("model", "org/nested"), ("dataset", "org/data"), ("space", "org/app"), ("model", "gpt2")]
LAYOUTS = ("cache", "folders")


@dataclass(frozen=True)
class Site:
    """Both layouts, filled from a Hub that is off by now, each served."""

    cache: Path
    folders: Path
    commits: dict[tuple[str, str], str]
    served: dict[str, Served]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("mirror")
    world = World()
    for kind, repo_id in REPOS:
        world.add(repo_id, dict(FILES), kind=kind)  # type: ignore[arg-type]
    world.repo("org/nested").commit({"second.txt": b"2\n"}, branch="feature/x")
    folders = place / "folders"
    commits = {}
    with MockHub(world) as hub:
        for kind, repo_id in REPOS:
            fetch(hub, place / "home", kind, repo_id)
            commits[kind, repo_id] = world.repo(repo_id, kind).head().id  # type: ignore[arg-type]
            fetch_folder(hub, folders, kind, repo_id, commits[kind, repo_id])  # type: ignore[arg-type]
        fetch(hub, place / "home", "model", "org/nested", "-r", "feature/x")
    cache = place / "home" / "hub"
    with (
        serving(cache, place / "cache.log", "--json") as one,
        serving(folders, place / "folders.log", "--layout", "folders", "--only-proved") as two,
    ):
        yield Site(cache, folders, commits, {"cache": one, "folders": two})


def run(argv: list[str], served: Served, home: Path, *, code: int = 0, **more: str) -> str:
    env = clean(HF_ENDPOINT=served.endpoint, HF_HOME=str(home), **more)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert code == done.returncode, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{served.log.read_text()}"
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.relative_to(folder).parts[0][0] != "."}


SNAPSHOTS = """
import json, sys, huggingface_hub
asked = json.loads(sys.argv[1])
print(json.dumps([huggingface_hub.snapshot_download(repo_id, repo_type=kind) for kind, repo_id in asked]))
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hubs_client_downloads_whole_snapshots(layout: str, site: Site, tmp_path: Path) -> None:
    """`HF_ENDPOINT=http://mirror` is all that a machine without the internet needs."""
    out = run([sys.executable, "-c", SNAPSHOTS, json.dumps(REPOS)], site.served[layout], tmp_path)
    snapshots = [Path(path) for path in json.loads(out)]
    assert [site.commits[kind, repo_id] for kind, repo_id in REPOS] == [path.name for path in snapshots]
    assert [EXPECTED] * len(REPOS) == [contents(path) for path in snapshots]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_get_takes_from_a_mirror_is_proved(layout: str, site: Site, tmp_path: Path) -> None:
    """The digests are the Hub's: our client proves what comes, and offline what it keeps."""
    command = [sys.executable, "-m", "fetchverify"]
    served = site.served[layout]
    report = json.loads(run([*command, "get", "org/nested", "--json"], served, tmp_path).splitlines()[-1])
    assert {"fetched", "linked"} == {outcome["kind"] for outcome in report["outcomes"]}  # the twins are one blob
    assert EXPECTED == contents(Path(report["target"]))
    run([*command, "verify", "org/nested", "--offline", "--deep"], served, tmp_path)


API = """
import json, sys, huggingface_hub
api = huggingface_hub.HfApi()
info = api.model_info("org/nested", files_metadata=True)
tree = list(api.list_repo_tree("org/nested", recursive=True))
found = {
    "sha": info.sha,
    "siblings": {s.rfilename: (s.size, s.lfs.sha256 if s.lfs else s.blob_id) for s in info.siblings},
    "tree": {f.path: (f.size, f.lfs.sha256 if f.lfs else f.blob_id) for f in tree if hasattr(f, "size")},
    "folders": [f.path for f in tree if not hasattr(f, "size")],
    "top": [f.path for f in api.list_repo_tree("org/nested", "weights")],
    "paths": [f.path for f in api.get_paths_info("org/nested", ["weights", "empty.txt", "nowhere"])],
    "refs": {b.name: b.target_commit for b in api.list_repo_refs("org/nested").branches},
    "models": [(m.id, m.sha) for m in api.list_models(author="org")],
    "datasets": [(d.id, d.sha) for d in api.list_datasets(author="org")],
    "exists": [api.file_exists("org/nested", "empty.txt"), api.file_exists("org/nested", "nowhere")],
    "repo": [api.repo_exists("org/nested"), api.repo_exists("org/nowhere")],
    "revision": [api.revision_exists("org/nested", "main"), api.revision_exists("org/nested", "nowhere")],
}
print(json.dumps(found))
"""


def digest(data: bytes, *, lfs: bool) -> str:
    return sha256(data).hexdigest() if lfs else sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hubs_client_reads_all_that_it_asks(layout: str, site: Site, tmp_path: Path) -> None:
    found = json.loads(run([sys.executable, "-c", API], site.served[layout], tmp_path))
    files = {name: [len(data), digest(data, lfs=name == BIG)] for name, data in EXPECTED.items()}
    main = site.commits["model", "org/nested"]
    refs = {"main": main}
    if layout == "cache":
        refs["feature/x"] = found["refs"]["feature/x"]
    assert {
        "sha": main,
        "siblings": files,
        "tree": files,
        "folders": ["weights", "weights/deep", "weights/deep/er", "ünï code"],
        "top": ["weights/deep", BIG],
        "paths": ["weights", "empty.txt"],
        "refs": refs,
        "models": [["org/nested", main]],
        "datasets": [["org/data", site.commits["dataset", "org/data"]]],
        "exists": [True, False],
        "repo": [True, False],
        "revision": [True, False],
    } == found


def test_a_branch_with_a_slash_is_one_revision(site: Site, tmp_path: Path) -> None:
    code = 'import huggingface_hub as h; print(h.hf_hub_download("org/nested", "second.txt", revision="feature/x"))'
    path = Path(run([sys.executable, "-c", code], site.served["cache"], tmp_path).strip())
    assert b"2\n" == path.read_bytes()


def test_a_listing_comes_in_pages(site: Site) -> None:
    """The next page's address is absolute: the hub's client follows it as it is."""
    served = site.served["cache"]
    status, headers, body = served.ask("/api/models?author=org&author=&limit=1")
    assert (200, ["org/nested"]) == (status, [row["id"] for row in json.loads(body)])
    paths: list[str] = []
    url = "/api/models/org/nested/tree/main?recursive=true&limit=4"
    while url:
        status, headers, body = served.ask(url)
        paths += [entry["path"] for entry in json.loads(body)]
        link = headers.get("link", "")
        assert not link or link.startswith(f"<{served.endpoint}/api/models/org/nested/tree/main?")
        url = link[1:].partition(">")[0].removeprefix(served.endpoint)
    assert sorted({*EXPECTED, "weights", "weights/deep", "weights/deep/er", "ünï code"}) == paths


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_is_answered_as_the_hub_does(layout: str, site: Site) -> None:
    served, commit = site.served[layout], site.commits["model", "org/nested"]
    data = EXPECTED[BIG]
    etag = f'"{sha256(data).hexdigest()}"'
    url = f"/org/nested/resolve/main/{BIG}"
    about = {"x-repo-commit": commit, "x-linked-etag": etag, "x-linked-size": str(len(data)), "etag": etag}
    status, headers, body = served.ask(url, method="HEAD")
    assert (200, b"", str(len(data))) == (status, body, headers["content-length"])
    assert about == {name: headers[name] for name in about}
    status, headers, body = served.ask(url, Range="bytes=1048570-9437183", If_Range=etag)
    assert (206, "bytes 1048570-9437183/9437184") == (status, headers["content-range"])
    assert data[1048570:] == body
    assert about == {name: headers[name] for name in about}
    assert 200 == served.ask(url, Range="bytes=0-0", If_Range='"other"')[0]
    status, headers, _ = served.ask(url, Range=f"bytes={len(data)}-")
    assert (416, f"bytes */{len(data)}") == (status, headers["content-range"])
    status, headers, body = served.ask(url, If_None_Match=etag)
    assert (304, b"", etag) == (status, body, headers["etag"])
    status, headers, body = served.ask("/org/nested/resolve/main/empty.txt")
    assert (200, b"", "0") == (status, body, headers["content-length"])
    assert f'"{digest(b"", lfs=False)}"' == headers["etag"]
    odd = "ünï code/with spaces %41#?.txt"
    assert b"hello\n" == served.ask(f"/org/nested/resolve/{commit}/{quote(odd)}")[2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_missing_is_named_as_the_hub_does(layout: str, site: Site) -> None:
    served = site.served[layout]
    for url, code in {
        "/org/nested/resolve/main/nowhere": "EntryNotFound",
        "/org/nested/resolve/nowhere/empty.txt": "RevisionNotFound",
        f"/org/nested/resolve/{'0' * 40}/empty.txt": "RevisionNotFound",
        "/org/nowhere/resolve/main/empty.txt": "RepoNotFound",
        "/api/models/org/nowhere": "RepoNotFound",
        "/api/datasets/org/nested": "RepoNotFound",
        "/api/models/org/nested/tree/main/nowhere": "EntryNotFound",
    }.items():
        status, headers, _ = served.ask(url)
        assert (404, code) == (status, headers.get("x-error-code")), url
    assert (404, None) == (served.ask("/nowhere")[0], served.ask("/nowhere")[1].get("x-error-code"))


def test_a_file_that_is_promised_but_not_held_is_not_called_absent(site: Site, tmp_path: Path) -> None:
    """The hub's client keeps an `EntryNotFound` on record: models would later be loaded without the file."""
    cache = copy_cache(site.cache, tmp_path / "cache")
    blobs = repo_folder(cache, "org/nested") / "blobs"
    (blobs / sha256(EXPECTED[BIG]).hexdigest()).unlink()
    with serving(cache, tmp_path / "log") as served:
        status, headers, _ = served.ask(f"/org/nested/resolve/main/{BIG}", method="HEAD")
        assert (404, None) == (status, headers.get("x-error-code"))
        code = f'import huggingface_hub as h; h.hf_hub_download("org/nested", "{BIG}")'
        run([sys.executable, "-c", code], served, tmp_path / "home", code=1)
        assert [] == list((tmp_path / "home").rglob(".no_exist"))
        assert 0 < served.metric('withheld_total{why="absent"}')


def test_a_cache_of_an_older_client_has_no_listings_and_is_served_all_the_same(site: Site, tmp_path: Path) -> None:
    """Before 1.32 the hub's client kept no `trees`; names of blobs are digests there, too."""
    cache = copy_cache(site.cache, tmp_path / "cache")
    for path in (*cache.rglob("trees/*.json"), *cache.glob("*/.fetchverify/proofs")):
        path.unlink()
    with serving(cache, tmp_path / "log") as served:
        command = [sys.executable, "-m", "fetchverify", "get", "org/nested", "--json"]
        report = json.loads(run(command, served, tmp_path / "home").splitlines()[-1])
        assert EXPECTED == contents(Path(report["target"]))
        assert 0 < served.metric("unproved_total")
