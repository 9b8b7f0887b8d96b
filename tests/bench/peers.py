"""The peers as command lines: how each fetches the files of a case, proves them, and has them reach the disk."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.bench.cases import Case, Promised
from tests.bench.place import version

StepKind = Literal["fetch", "hash", "sync"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a peer's run."""

    kind: StepKind
    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a peer is asked to do; everything it writes goes below `out`."""

    case: Case
    commit: str
    endpoint: str
    ca: Path | None
    out: Path
    connections: int

    def url(self, file: Promised) -> str:
        """Return the address of a file at the Hub."""
        return f"{self.endpoint}/{self.case.repo_id}/resolve/main/{file.path}"

    def plain(self, file: Promised) -> Path:
        """Return where a tool without a cache puts a file."""
        return self.out / file.path

    def cached(self, file: Promised) -> Path:
        """Return where the hub's cache holds a file."""
        repo = f"models--{self.case.repo_id.replace('/', '--')}"
        return self.out / "hub" / repo / "snapshots" / self.commit / file.path

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of a command: nothing of the user's that could help or hurt."""
        found = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.out),
            "LC_ALL": "C.UTF-8",
            "HF_HOME": str(self.out),
            "HF_HUB_CACHE": str(self.out / "hub"),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **more,
        }
        return found if self.ca is None else {**found, "SSL_CERT_FILE": str(self.ca)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Programs that were found or compiled for this run."""

    python: str
    """The interpreter that has the peers written in Python."""
    nosync: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A tool, or a chain of them.

    Attributes:
        name: on the command line.
        label: in tables.
        proves: it fails by itself where a digest differs; else its `hash` step says the digests.
        streams: how many connections it makes at most for one file; None is as many as it is told.
        steps: the commands for an order.
        version: what it says of itself, empty where it is not installed.
        cached: it fills the hub's cache rather than a folder.
    """

    name: str
    label: str
    proves: bool
    steps: Callable[[Order, Tools], list[Step]]
    version: Callable[[Tools], str]
    streams: int | None = None
    cached: bool = False


# --- second and third steps -----------------------------------------------------------------------------------

# A thread a core: hashlib lets go of the interpreter's lock.
_HASH = """
import concurrent.futures, hashlib, os, sys
def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
print(*concurrent.futures.ThreadPoolExecutor(os.cpu_count()).map(digest, sys.argv[1:]), sep="\\n")
"""


_FEW = 16


def _hashlib(order: Order, tools: Tools, where: Callable[[Promised], Path]) -> list[Step]:
    paths = [str(where(file)) for file in order.case.files]
    return [Step(kind="hash", argv=(tools.python, "-S", "-c", _HASH, *paths), env=order.env()), _sync(order, where)]


def _openssl(order: Order, where: Callable[[Promised], Path]) -> list[Step]:
    paths = [str(where(file)) for file in order.case.files]
    # One process for many small files: starting others costs more than they save, and their lines would mix.
    at_once = (os.cpu_count() or 1) if len(paths) <= _FEW else 1
    share = 1 if at_once > 1 else len(paths)
    script = f'printf "%s\\n" "$@" | xargs -P {at_once} -n {share} openssl dgst -r -sha256'
    return [Step(kind="hash", argv=("sh", "-c", script, "sh", *paths), env=order.env()), _sync(order, where)]


def _sync(order: Order, where: Callable[[Promised], Path]) -> Step:
    return Step(kind="sync", argv=("sync", *[str(where(file)) for file in order.case.files]), env=order.env())


# --- the peers ------------------------------------------------------------------------------------------------


def _fetchverify(order: Order, tools: Tools) -> list[Step]:
    script = Path(sys.executable).with_name("fetchverify")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "fetchverify"]
    argv = (*command, "get", "-q", order.case.repo_id, "--connections", str(order.connections))
    return [Step(kind="fetch", argv=argv, env=order.env())]


def _fetchverify_unsynced(order: Order, tools: Tools) -> list[Step]:
    (step,) = _fetchverify(order, tools)
    return [Step(kind="fetch", argv=step.argv, env={**step.env, "LD_PRELOAD": str(tools.nosync)})]


def _hf(order: Order, tools: Tools) -> list[Step]:
    script = Path(tools.python).with_name("hf")
    argv = (str(script), "download", order.case.repo_id, "--max-workers", str(order.connections))
    return [Step(kind="fetch", argv=argv, env=order.env()), *_hashlib(order, tools, order.cached)]


# Processes, for it keeps the interpreter's lock while it downloads.
_HF_TRANSFER = """
import concurrent.futures, json, sys
from hf_transfer import download
jobs, connections = json.load(open(sys.argv[1])), int(sys.argv[2])
at_once = min(len(jobs), connections)
share = max(1, connections // at_once)
def get(job):
    download(job[0], job[1], max_files=share, chunk_size=10 << 20, parallel_failures=share, max_retries=20)
if at_once == 1:
    get(jobs[0])
else:
    list(concurrent.futures.ProcessPoolExecutor(at_once).map(get, jobs))
"""


def _hf_transfer(order: Order, tools: Tools) -> list[Step]:
    jobs = order.out / "jobs.json"
    jobs.write_text(json.dumps([(order.url(file), str(order.plain(file))) for file in order.case.files]))
    argv = (tools.python, "-c", _HF_TRANSFER, str(jobs), str(order.connections))
    return [Step(kind="fetch", argv=argv, env=order.env()), *_hashlib(order, tools, order.plain)]


def _curl(order: Order, tools: Tools) -> list[Step]:
    wanted = order.out / "urls"
    wanted.write_text("".join(f'url = "{order.url(f)}"\noutput = "{order.plain(f)}"\n' for f in order.case.files))
    argv = ["curl", "-q", "-sSfL", "--parallel", "--parallel-max", str(order.connections), "-K", str(wanted)]
    if order.ca is not None:
        argv += ["--cacert", str(order.ca)]
    return [Step(kind="fetch", argv=tuple(argv), env=order.env()), *_openssl(order, order.plain)]


def _aria2(order: Order, tools: Tools) -> list[Step]:
    wanted = order.out / "urls"
    wanted.write_text(
        "".join(
            f"{order.url(f)}\n dir={order.out}\n out={f.path}\n checksum=sha-256={f.sha256}\n" for f in order.case.files
        )
    )
    at_once = min(len(order.case.files), order.connections)
    share = max(1, order.connections // at_once)
    argv = ["aria2c", "--no-conf", "-q", "-i", str(wanted), f"-j{at_once}", f"-x{share}", f"-s{share}", "-k1M"]
    argv += ["--file-allocation=none", "--async-dns=false", "--max-tries=20", "--retry-wait=1"]
    if order.ca is not None:
        argv += [f"--ca-certificate={order.ca}"]
    return [Step(kind="fetch", argv=tuple(argv), env=order.env()), _sync(order, order.plain)]


# --- what is installed ----------------------------------------------------------------------------------------


def _package(name: str) -> Callable[[Tools], str]:
    def ask(tools: Tools) -> str:
        if tools.python == sys.executable:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return ""
        code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        done = subprocess.run([tools.python, "-c", code, name], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    return ask


def _program(name: str, *others: str) -> Callable[[Tools], str]:
    def ask(tools: Tools) -> str:
        if any(shutil.which(each) is None for each in (name, *others)):
            return ""
        return version([name, "--version"])

    return ask


OURS = Peer(
    name="fetchverify",
    label="fetchverify get",
    proves=True,
    steps=_fetchverify,
    version=lambda tools: importlib.metadata.version("fetchverify"),
    cached=True,
)
UNSYNCED = Peer(
    name="unsynced",
    label="fetchverify get, its fsync made void",
    proves=True,
    steps=_fetchverify_unsynced,
    version=lambda tools: importlib.metadata.version("fetchverify") if tools.nosync is not None else "",
    cached=True,
)
PEERS = (
    OURS,
    UNSYNCED,
    Peer(
        name="hf",
        label="hf download + hashlib",
        proves=False,
        steps=_hf,
        version=_package("huggingface_hub"),
        streams=1,
        cached=True,
    ),
    Peer(
        name="hf_transfer",
        label="hf_transfer + hashlib",
        proves=False,
        steps=_hf_transfer,
        version=_package("hf_transfer"),
    ),
    Peer(
        name="curl",
        label="curl + openssl dgst",
        proves=False,
        steps=_curl,
        version=_program("curl", "openssl", "xargs"),
        streams=1,
    ),
    Peer(name="aria2", label="aria2c -x16 --checksum", proves=True, steps=_aria2, version=_program("aria2c")),
)


def compile_nosync(work: Path, compiler: str | None) -> Path | None:
    """Return the library that makes `fsync` void; None where there is no compiler."""
    if compiler is None:
        return None
    library, source = work / "nosync.so", Path(__file__).with_name("nosync.c")
    done = subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=False)
    return library if done.returncode == 0 else None
