"""The mock Hub against the real, unmodified `huggingface_hub`: whatever it asks of the Hub, the mock must answer."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

from mock_server import Flip, KiB, MiB, MockHub, Seeded, Status, World, many_small_files
from mock_server.demo import TOKEN, demo_world

Kind = Literal["model", "dataset", "space"]


@pytest.fixture(autouse=True)
def _session_closed() -> Iterator[None]:
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub() -> Iterator[MockHub]:
    with MockHub(demo_world()) as hub:
        yield hub


def download(hub: MockHub, repo_id: str, to: Path, kind: Kind = "model", **options: Any) -> Path:
    given: dict[str, Any] = {"token": False, "cache_dir": to, **options}
    return Path(snapshot_download(repo_id, repo_type=kind, endpoint=hub.endpoint, **given))


def content_of(hub: MockHub, repo_id: str, kind: Kind, revision: str = "main") -> dict[str, str]:
    return {path: file.content.sha256() for path, file in hub.world.repo(repo_id, kind).head(revision).files.items()}


def content_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize("cdn", [True, False])
@pytest.mark.parametrize(
    ("repo_id", "kind"),
    [("demo/tiny-llama", "model"), ("demo/tiny-dataset", "dataset"), ("demo/tiny-space", "space")],
)
def test_a_snapshot_is_what_the_repo_holds_and_verifies(
    hub: MockHub, tmp_path: Path, repo_id: str, kind: Kind, cdn: bool
) -> None:
    hub.configure(cdn=cdn)
    folder = download(hub, repo_id, tmp_path, kind)
    assert hub.world.repo(repo_id, kind).head().id == folder.name
    assert content_of(hub, repo_id, kind) == content_in(folder)
    api = HfApi(endpoint=hub.endpoint, token=False)
    checked = api.verify_repo_checksums(repo_id, repo_type=kind, cache_dir=tmp_path)
    assert (len(content_of(hub, repo_id, kind)), [], []) == (
        checked.checked_count,
        checked.mismatches,
        checked.missing_paths,
    )


def test_lfs_files_come_from_the_cdn_without_the_token(hub: MockHub, tmp_path: Path) -> None:
    download(hub, "demo/gated-llama", tmp_path, token=TOKEN)
    fetched = hub.ledger.requests(kind="cdn", method="GET")
    assert len(fetched) == 2
    assert {False} == {record.authorization for record in fetched}
    assert {True} == {record.authorization for record in hub.ledger.requests(origin="hub")}


@pytest.mark.parametrize("revision", ["next", "v1"])
def test_branches_and_tags_are_followed(hub: MockHub, tmp_path: Path, revision: str) -> None:
    folder = download(hub, "demo/tiny-llama", tmp_path, revision=revision)
    assert content_of(hub, "demo/tiny-llama", "model", revision) == content_in(folder)


def test_a_pull_request_is_a_revision(hub: MockHub, tmp_path: Path) -> None:
    hub.world.repo("demo/tiny-llama").commit({"pr.txt": b"1"}, branch="refs/pr/1", replace=True)
    folder = download(hub, "demo/tiny-llama", tmp_path, revision="refs/pr/1")
    assert list(content_in(folder)) == ["pr.txt"]


def test_a_local_dir_is_filled(hub: MockHub, tmp_path: Path) -> None:
    folder = download(hub, "demo/tiny-dataset", tmp_path / "cache", "dataset", local_dir=tmp_path / "data")
    assert content_of(hub, "demo/tiny-dataset", "dataset") == content_in(folder)


def test_names_of_all_kinds_survive(tmp_path: Path) -> None:
    names = ["a b.txt", "ü/ö.bin", "100%.txt", "a+b&c=d?.txt", "#x.bin", "[y].json", "deep/er/and/deeper/z.bin"]
    world = World()
    world.add("gpt2", {name: name.encode() for name in names})
    with MockHub(world) as hub:
        assert content_of(hub, "gpt2", "model") == content_in(download(hub, "gpt2", tmp_path))


def test_long_listings_are_followed_page_by_page(tmp_path: Path) -> None:
    world = World()
    world.add("acme/many", many_small_files(250, per_folder=20))
    with MockHub(world, page_size=100) as hub:
        tree = list(HfApi(endpoint=hub.endpoint, token=False).list_repo_tree("acme/many", recursive=True))
        assert len(tree) == 250 + 13
        assert len(hub.ledger.requests(kind="tree")) == 3


def test_the_api_tells_what_the_client_reads(hub: MockHub) -> None:
    api = HfApi(endpoint=hub.endpoint, token=False)
    repo = hub.world.repo("demo/tiny-llama")
    info = api.model_info("demo/tiny-llama", files_metadata=True)
    shard = repo.file("model-00001-of-00002.safetensors")
    sibling = next(each for each in info.siblings or [] if each.rfilename == shard.path)
    assert (repo.head().id, False, False) == (info.sha, info.private, info.gated)
    assert sibling.lfs is not None
    assert (shard.size, shard.content.sha256(), shard.git_oid()) == (sibling.size, sibling.lfs.sha256, sibling.blob_id)
    assert {"main", "next"} == {branch.name for branch in api.list_repo_refs("demo/tiny-llama").branches}
    assert [each.path for each in api.get_paths_info("demo/tiny-llama", ["config.json", "no"])] == ["config.json"]
    assert api.get_paths_info("demo/tiny-llama", "config.json", expand=True)[0].last_commit is not None
    assert next(iter(api.list_repo_tree("demo/tiny-llama", expand=True))).last_commit is not None
    assert {"demo/gated-llama", "demo/tiny-llama"} == {model.id for model in api.list_models(author="demo")}
    assert api.dataset_info("demo/tiny-dataset").sha == hub.world.repo("demo/tiny-dataset", "dataset").head().id
    assert api.space_info("demo/tiny-space").sha == hub.world.repo("demo/tiny-space", "space").head().id
    assert HfApi(endpoint=hub.endpoint, token=TOKEN).whoami()["name"] == "demo"
    assert api.file_exists("demo/tiny-llama", "config.json")
    assert not api.file_exists("demo/tiny-llama", "nope")


def test_refusals_become_the_clients_own_errors(hub: MockHub, tmp_path: Path) -> None:
    hub.world.add("demo/private", {"x": b"x"}, private=True, tokens=[TOKEN])

    def get(repo_id: str, path: str = "config.json", revision: str = "main", token: str | bool = False) -> str:
        return hf_hub_download(repo_id, path, revision=revision, endpoint=hub.endpoint, token=token, cache_dir=tmp_path)

    with pytest.raises(GatedRepoError):
        get("demo/gated-llama")
    with pytest.raises(GatedRepoError):
        get("demo/gated-llama", token="hf_stranger")
    with pytest.raises(RepositoryNotFoundError):
        get("demo/none")
    with pytest.raises(RepositoryNotFoundError):
        get("demo/private", "x")
    with pytest.raises(RepositoryNotFoundError):
        get("demo/private", "x", token="hf_stranger")
    with pytest.raises(RevisionNotFoundError):
        get("demo/tiny-llama", revision="nope")
    with pytest.raises(RemoteEntryNotFoundError):
        get("demo/tiny-llama", "nope")
    with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)):
        get("demo/tiny-llama", token="hf_bad")
    assert get("demo/private", "x", token=TOKEN)
    assert get("demo/gated-llama", token=TOKEN)


def test_a_renamed_repo_is_found(hub: MockHub, tmp_path: Path) -> None:
    hub.world.rename("demo/tiny-llama", "demo/small-llama")
    path = hf_hub_download("demo/tiny-llama", "config.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert Path(path).read_bytes() == hub.world.repo("demo/small-llama").file("config.json").content.read(0, 10**6)


def test_rate_limits_are_understood(hub: MockHub) -> None:
    hub.fault(Status(code=429, ratelimit='"api";r=0;t=55'), route="api")
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi(endpoint=hub.endpoint, token=False).whoami(token=TOKEN)
    limit = parse_ratelimit_headers(caught.value.response.headers)
    assert limit is not None
    assert (
        limit.resource_type,
        limit.remaining,
        limit.reset_in_seconds,
        limit.limit,
    ) == ("api", 0, 55, 500)


def test_the_client_resumes_nothing_and_believes_a_flipped_byte(tmp_path: Path) -> None:
    """The reference to beat: sizes are checked, bytes are not."""
    world = World()
    repo = world.add("acme/m", {"w.bin": Seeded(MiB + 5 * KiB, "w")})
    with MockHub(world) as hub:
        hub.fault(Flip(offset=MiB))
        folder = download(hub, "acme/m", tmp_path)
        assert repo.file("w.bin").content.sha256() != content_in(folder)["w.bin"]
        checked = HfApi(endpoint=hub.endpoint, token=False).verify_repo_checksums("acme/m", cache_dir=tmp_path)
        assert [mismatch["path"] for mismatch in checked.mismatches] == ["w.bin"]


def test_the_command_line_downloads_and_verifies(hub: MockHub, tmp_path: Path) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for arguments in (("download", "demo/tiny-llama"), ("cache", "verify", "demo/tiny-llama")):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "hf"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
