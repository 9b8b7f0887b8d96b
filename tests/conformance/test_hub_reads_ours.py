"""The real `huggingface_hub` is content with what we publish, and we with what it downloaded; both of its lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mock_server import MiB, MockHub, Seeded, World
from mock_server.world import FileValue

NESTED: dict[str, FileValue | None] = {
    "config.json": b'{"model_type": "llama"}\n',
    "empty.txt": b"",
    "weights/shard-00001.safetensors": Seeded(9 * MiB, seed="one"),
    "weights/deep/er/shard-00002.safetensors": Seeded(2 * MiB, seed="two"),
    "weights/deep/er/notes.md": b"# notes\n",
    "ünï code/with spaces.txt": b"hello\n",
    "twin-a.txt": b"same\n",
    "twin-b.txt": b"same\n",
}
REPOS = [("model", "org/nested"), ("dataset", "org/data"), ("space", "org/app"), ("model", "gpt2")]


@pytest.fixture(scope="module")
def hub() -> Iterator[MockHub]:
    world = World()
    for kind, repo_id in REPOS:
        world.add(repo_id, NESTED, kind=kind)  # type: ignore[arg-type]
    with MockHub(world) as running:
        yield running


def environment(hub: MockHub, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    here = str(Path(sys.executable).parent)
    return kept | {
        "PATH": here + os.pathsep + kept.get("PATH", ""),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        **more,
    }


def run(argv: list[str], env: dict[str, str], *, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def ours(repo_id: str, kind: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "fetchverify", "get", repo_id, "-t", kind, *more]


STRICT = ("--fail-on-missing-files", "--fail-on-extra-files")
SNAPSHOT = """
import sys, huggingface_hub
print(huggingface_hub.snapshot_download(sys.argv[1], repo_type=sys.argv[2], local_files_only=sys.argv[3] == "local"))
"""


def theirs(repo_id: str, kind: str, *, local: bool) -> list[str]:
    return [sys.executable, "-c", SNAPSHOT, repo_id, kind, "local" if local else "online"]


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.relative_to(folder).parts[0][0] != "."}


EXPECTED = {name: value.read(0, value.size) if isinstance(value, Seeded) else value for name, value in NESTED.items()}


@pytest.mark.parametrize(("kind", "repo_id"), REPOS, ids=[repo_id.replace("/", "-") for _, repo_id in REPOS])
def test_the_hub_takes_our_snapshot_for_its_own(kind: str, repo_id: str, hub: MockHub, tmp_path: Path) -> None:
    """`from_pretrained` must just work, offline as well, and `hf cache` must have nothing to complain about."""
    env = environment(hub, tmp_path)
    snapshot = run(ours(repo_id, kind), env).stdout.splitlines()[-1]
    assert EXPECTED == contents(Path(snapshot))
    assert [snapshot] == run(theirs(repo_id, kind, local=True), env).stdout.split("\n")[:1]
    hub.ledger.clear()
    run(theirs(repo_id, kind, local=False), env)
    assert [] == [record for record in hub.ledger.requests(method="GET") if record.kind in ("resolve", "cdn")]
    listed = run(["hf", "cache", "ls", "--show-warnings"], env)
    assert f"{kind}/{repo_id}" in listed.stdout
    assert "warn" not in (listed.stdout + listed.stderr).lower()
    verified = run(["hf", "cache", "verify", repo_id, "--repo-type", kind, *STRICT], env)
    assert "warn" not in (verified.stdout + verified.stderr).lower()


@pytest.mark.parametrize(("kind", "repo_id"), REPOS, ids=[repo_id.replace("/", "-") for _, repo_id in REPOS])
def test_we_fetch_nothing_after_the_hubs_download(kind: str, repo_id: str, hub: MockHub, tmp_path: Path) -> None:
    """What the hub's client downloaded is hashed once and kept; a second run does not even hash."""
    env = environment(hub, tmp_path)
    run(theirs(repo_id, kind, local=False), env)
    hub.ledger.clear()
    first = json.loads(run(ours(repo_id, kind, "--json"), env).stdout.splitlines()[-1])
    assert {"kept"} == {outcome["kind"] for outcome in first["outcomes"]}
    assert 0 == first["bytes_fetched"]
    second = json.loads(run(ours(repo_id, kind, "--json"), env).stdout.splitlines()[-1])
    assert (False, 1) == (second["changed"], second["requests"])
    assert ["api", "api"] == [record.kind for record in hub.ledger.requests()]


def test_a_plain_folder_is_the_hubs_local_dir(hub: MockHub, tmp_path: Path) -> None:
    """`hf download --local-dir` after us must find nothing to do, and `hf cache verify` agree."""
    env, folder = environment(hub, tmp_path / "home"), tmp_path / "here"
    assert [str(folder)] == run(ours("org/nested", "model", "--to", str(folder)), env).stdout.splitlines()[-1:]
    assert EXPECTED == contents(folder)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    hub.ledger.clear()
    run(["hf", "download", "org/nested", "--local-dir", str(folder)], env)
    assert [] == [record for record in hub.ledger.requests(method="GET") if record.kind in ("resolve", "cdn")]
    run(["hf", "cache", "verify", "org/nested", "--local-dir", str(folder)], env)


def test_we_take_over_the_hubs_local_dir(hub: MockHub, tmp_path: Path) -> None:
    env, folder = environment(hub, tmp_path / "home"), tmp_path / "here"
    run(["hf", "download", "org/nested", "--local-dir", str(folder)], env)
    hub.ledger.clear()
    report = json.loads(run(ours("org/nested", "model", "--to", str(folder), "--json"), env).stdout.splitlines()[-1])
    assert {"kept"} == {outcome["kind"] for outcome in report["outcomes"]}
    assert 0 == report["bytes_fetched"]


def test_part_of_a_repo_is_not_taken_for_the_whole(hub: MockHub, tmp_path: Path) -> None:
    """Without the full listing the hub's `local_files_only` returns a partial snapshot as if it were complete."""
    env = environment(hub, tmp_path)
    run([*ours("org/nested", "model"), "--include", "*.json"], env)
    run(theirs("org/nested", "model", local=True), env, code=1)
