"""Metadata over real sockets, on asyncio and trio."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from fetchverify import events
from fetchverify.core.manifest import Commit, Manifest, RemoteFile, RepoKind, RepoPath, RepoRef
from fetchverify.core.retry import PATIENT, Patience
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError, UntrustedMetadataError
from fetchverify.net.hub import LIMITS, Hub, HubLimits
from fetchverify.net.wire import Endpoint
from mock_server import (
    Close,
    Delay,
    DropHeaders,
    Gzip,
    HtmlPage,
    MockHub,
    NextPage,
    RedirectLoop,
    RedirectTo,
    Replace,
    SetHeaders,
    Status,
    Trickle,
    World,
    many_small_files,
)

pytestmark = pytest.mark.anyio
SHA1, SHA256 = "1" * 40, "2" * 64


@pytest.fixture
def world() -> World:
    world = World()
    world.add("org/name", {"a.txt": b"hello", "é ü/m.safetensors": b"x" * 100, "b.json": b"{}"})
    return world


@pytest.fixture
def mock(world: World) -> Iterator[MockHub]:
    with MockHub(world) as hub:
        yield hub


@dataclass
class Client:
    """Makes `Hub`s, and remembers what they said and how long they would have slept."""

    endpoint: str
    said: list[events.Event] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def __call__(self, *, token: str | None = None, patience: Patience = PATIENT, limits: HubLimits = LIMITS) -> Hub:
        async def sleep(wait_s: float) -> None:
            self.slept.append(wait_s)

        return Hub(
            Endpoint(url=self.endpoint, token=token),
            emit=self.said.append,
            connections=4,
            patience=patience,
            limits=limits,
            sleep=sleep,
            chance=lambda: 0.5,
        )


@pytest.fixture
def client(mock: MockHub) -> Client:
    return Client(mock.endpoint)


def ref(repo_id: str = "org/name", revision: str = "main", kind: RepoKind = "model") -> RepoRef:
    return RepoRef(kind=kind, repo_id=repo_id, revision=revision)


def promised(world: World, repo_id: str = "org/name") -> list[tuple[str, int, str, str]]:
    files = world.repo(repo_id).head().files.values()
    return [(file.path, file.size, file.etag(), file.git_oid()) for file in files]


def told(files: tuple[RemoteFile, ...]) -> list[tuple[str, int, str, str]]:
    return [(file.path, file.size, file.digest.hex, file.blob_id) for file in files]


async def fails(client: Client, asked: RepoRef | None = None, **options: Any) -> FetchverifyError:
    async with client(**options) as hub:
        with pytest.raises(FetchverifyError) as caught:
            await hub.manifest(asked or ref())
    return caught.value


async def test_two_requests_make_a_manifest(client: Client, mock: MockHub, world: World) -> None:
    """The Hub's quota is small, and a HEAD a file would spend it."""
    async with client() as hub:
        manifest = await hub.manifest(ref())
    assert promised(world) == told(manifest.files)
    assert world.repo("org/name").head().id == manifest.commit
    assert [("GET", "api"), ("GET", "tree")] == [(record.method, record.kind) for record in mock.ledger.requests()]
    assert hub.requests == 2


async def test_pages_are_followed(client: Client, mock: MockHub, world: World) -> None:
    """A listing of 2,500 files comes in three pages."""
    world.add("org/many", many_small_files(2500))
    async with client() as hub:
        manifest = await hub.manifest(ref("org/many"))
    assert promised(world, "org/many") == told(manifest.files)
    assert hub.requests == 4


async def test_a_commit_is_not_asked_for_and_a_cached_tree_not_fetched(client: Client, world: World) -> None:
    """A pinned snapshot that is on disk costs no request at all."""
    commit = world.repo("org/name").head().id
    async with client() as hub:
        fetched = await hub.manifest(ref(revision=commit))
        assert hub.requests == 1
        asked: list[Commit] = []

        def cached(at: Commit) -> tuple[RemoteFile, ...] | None:
            asked.append(at)
            return fetched.files

        assert fetched == await hub.manifest(ref(revision=commit), cached_tree=cached)
    assert hub.requests == 1
    assert [commit] == asked


async def test_a_cached_tree_that_is_not_believable_is_fetched_anew(client: Client, world: World) -> None:
    """Anyone can write into a cache; a listing there is checked like one from the network."""
    async with client() as hub:
        good = await hub.manifest(ref())
        evil = RemoteFile(path=RepoPath("../x"), size=1, digest=good.files[0].digest, blob_id=SHA1)
        assert good == await hub.manifest(ref(), cached_tree=lambda commit: (evil,))


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1", "feature/x"])
async def test_revisions_with_slashes(client: Client, world: World, revision: str) -> None:
    """Pull requests are revisions too."""
    world.repo("org/name").commit({"c.txt": b"pr"}, branch=revision)
    async with client() as hub:
        manifest = await hub.manifest(ref(revision=revision))
    assert world.repo("org/name").head(revision).id == manifest.commit
    assert "c.txt" in [file.path for file in manifest.files]


@pytest.mark.parametrize("kind", ["dataset", "space"])
async def test_datasets_and_spaces(client: Client, world: World, kind: RepoKind) -> None:
    """Each kind has a prefix of its own."""
    world.add("org/other", {"a.csv": b"1"}, kind=kind)
    async with client() as hub:
        manifest = await hub.manifest(ref("org/other", kind=kind))
    assert ["a.csv"] == [file.path for file in manifest.files]


async def test_a_renamed_repo_is_followed(client: Client, mock: MockHub, world: World) -> None:
    """The Hub redirects within itself, and the token goes along there."""
    world.rename("org/name", "org/new")
    async with client(token="hf_demo") as hub:
        manifest = await hub.manifest(ref())
    assert len(manifest.files) == 3
    assert hub.requests == 4
    assert all(record.authorization for record in mock.ledger.requests())


async def test_the_token_never_leaves_the_endpoint(client: Client, mock: MockHub) -> None:
    """A mirror that redirects its API elsewhere gets an error, and elsewhere gets no request."""
    mock.fault(RedirectTo(to="other"), route="api")
    error = await fails(client, token="hf_demo")
    assert isinstance(error, NetworkError)
    assert "redirects to another host" in error.message
    assert {"hub"} == {record.origin for record in mock.ledger.requests()}


# --- mirrors that have less than the Hub ---------------------------------------------------------------------


async def test_a_mirror_without_a_tree_api(client: Client, mock: MockHub, world: World) -> None:
    """`?blobs=true` tells the same."""
    mock.configure(tree=False)
    async with client() as hub:
        manifest = await hub.manifest(ref())
    assert promised(world) == told(manifest.files)
    assert hub.requests == 3


async def test_a_mirror_that_lists_names_alone(client: Client, mock: MockHub, world: World) -> None:
    """A HEAD a file finds size and digest; the LFS pointer's id follows from them."""
    mock.configure(tree=False)
    commit = world.repo("org/name").head()
    names = [{"rfilename": path} for path in commit.files]
    body = json.dumps({"sha": commit.id, "siblings": names})
    mock.fault(Replace(body=body), route="api")
    async with client() as hub:
        manifest = await hub.manifest(ref())
    assert promised(world) == told(manifest.files)
    assert 3 == sum(record.method == "HEAD" for record in mock.ledger.requests())
    assert {"hub"} == {record.origin for record in mock.ledger.requests()}


async def test_a_mirror_that_names_no_digest_proves_nothing(client: Client, mock: MockHub, world: World) -> None:
    """Bytes that nothing can be held against are not fetched."""
    mock.configure(tree=False)
    commit = world.repo("org/name").head()
    body = json.dumps({"sha": commit.id, "siblings": [{"rfilename": path} for path in commit.files]})
    mock.fault(Replace(body=body), route="api")
    mock.fault(DropHeaders(names=("x-linked-etag", "etag")), route="resolve")
    error = await fails(client)
    assert isinstance(error, UntrustedMetadataError)
    assert "nothing could be proved" in error.message


async def test_a_mirror_that_drops_the_commit_header(client: Client, mock: MockHub) -> None:
    """The body names it, too (huggingface_hub #1796)."""
    mock.configure(drop_headers=frozenset({"x-repo-commit"}))
    async with client() as hub:
        assert len((await hub.manifest(ref())).files) == 3


async def test_a_mirror_that_hands_the_hubs_own_links_on(client: Client, mock: MockHub, world: World) -> None:
    """The next page is asked of the mirror, nobody else learns of it."""
    world.add("org/many", many_small_files(2500))
    mock.fault(NextPage(to="https://huggingface.co/api/models/org/many/tree/x?cursor=1000"), route="tree", nth=1)
    error = await fails(client, ref("org/many"))
    assert "goes on at another address" in error.message
    commit = world.repo("org/many").head().id
    mock.clear_faults()
    link = f"https://huggingface.co/api/models/org/many/tree/{commit}?recursive=true&cursor=1000"
    mock.fault(NextPage(to=link), route="tree", nth=1)
    async with client() as hub:
        assert promised(world, "org/many") == told((await hub.manifest(ref("org/many"))).files)


# --- what is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "token", "message", "hint"),
    [
        (ref("org/nothing"), None, "no such repo", "needs `hf auth login`"),
        (ref("org/nothing"), "hf_demo", "no such repo", "hf auth whoami"),
        (ref(revision="v9"), None, "`org/name` at `v9`: no such revision", "see the branches and tags at http"),
        (ref(revision=SHA1), None, "no such revision", "see the branches"),
        (ref(), "hf_wrong", "Invalid credentials", "the token is refused"),
    ],
)
async def test_what_is_absent_says_what_to_do(
    client: Client, asked: RepoRef, token: str | None, message: str, hint: str
) -> None:
    """Exit code 3, one request, and the next thing to type."""
    error = await fails(client, asked, token=token)
    assert isinstance(error, AbsentError)
    assert message in error.message
    assert hint in (error.hint or "")
    assert "hf_wrong" not in f"{error.message}{error.hint}"
    assert client.slept == []


async def test_a_gated_repo_names_the_page_of_its_licence(client: Client, mock: MockHub) -> None:
    """Only a person can accept it."""
    mock.fault(Status(code=403, error_code="GatedRepo"), route="api")
    error = await fails(client)
    assert isinstance(error, AbsentError)
    assert error.hint == (f"accept the licence at {mock.endpoint}/org/name, then run `hf auth login` or set `HF_TOKEN`")


# --- what passes, and what does not --------------------------------------------------------------------------


async def test_a_bad_gateway_is_tried_again(client: Client, mock: MockHub) -> None:
    """And told, with what it waits for."""
    mock.fault(Status(code=502), route="tree", nth="first 2")
    async with client() as hub:
        assert len((await hub.manifest(ref())).files) == 3
    assert [0.25, 0.5] == client.slept
    assert [1, 2] == [event.attempt for event in client.said if isinstance(event, events.Retrying)]
    assert hub.retries == 2


async def test_a_rate_limit_is_waited_for(client: Client, mock: MockHub) -> None:
    """As long as the Hub says, plus a bit, and the user is told."""
    mock.fault(Status(code=429, ratelimit='"api";r=0;t=55'), route="api", nth=1)
    async with client() as hub:
        assert len((await hub.manifest(ref())).files) == 3
    assert [55.5] == client.slept
    assert [events.Waiting(what=f"the rate limit of `{hub_host(mock)}`", wait_s=55.5)] == client.said


def hub_host(mock: MockHub) -> str:
    return mock.endpoint.removeprefix("http://")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Status(code=503), "Service Unavailable (HTTP 503)"),
        (Close(), "disconnected"),
        (Close(reset=True), ""),
        (HtmlPage(), "a web page came"),
        (RedirectLoop(), "redirects"),
        (Delay(seconds=30.0), "no whole answer within"),
        (Trickle(rate=1), "no whole answer within"),
        (Status(code=429, retry_after=3600), "wants us to wait 3600 s"),
    ],
)
async def test_giving_up_names_host_attempts_and_cause(client: Client, mock: MockHub, fault: Any, reason: str) -> None:
    """Exit code 4: another time, another place."""
    mock.fault(fault, route="api")
    error = await fails(client, patience=Patience(attempts=2), limits=HubLimits(call_s=0.3))
    assert isinstance(error, NetworkError)
    assert reason in error.message
    assert hub_host(mock) in error.message
    assert len(client.slept) == len(mock.ledger.requests()) - 1 or isinstance(fault, RedirectLoop)


async def test_a_port_where_nobody_listens() -> None:
    """Refused connections are tried again, then told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}")
    error = await fails(client, patience=Patience(attempts=3))
    assert isinstance(error, NetworkError)
    assert "asked 3 times" in error.message
    assert len(client.slept) == 2


# --- what lies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["self", "http://evil.example/x", "http://[::1", "ftp://x/y"])
async def test_a_listing_that_never_ends_or_leads_away(client: Client, mock: MockHub, to: str) -> None:
    """The run ends with exit code 1, after few requests, and none to strangers."""
    mock.fault(NextPage(to=to), route="tree")
    assert isinstance(await fails(client), UntrustedMetadataError)
    assert len(mock.ledger.requests()) <= 3


async def test_a_listing_of_empty_pages_ends(client: Client, mock: MockHub, world: World) -> None:
    """Each page may name another next one for ever."""
    commit = world.repo("org/name").head().id
    for number in range(1, 10):
        link = f'</api/models/org/name/tree/{commit}?cursor={number}>; rel="next"'
        mock.fault(Replace(body="[]", headers={"Link": link}), route="tree", nth=number)
    assert "empty pages" in (await fails(client)).message
    assert len(mock.ledger.requests()) == 4


async def test_a_listing_may_not_be_endless(client: Client, mock: MockHub, world: World) -> None:
    """Entries are counted, whatever they are."""
    world.add("org/many", many_small_files(2500))
    assert "more than 2,000 entries" in (await fails(client, ref("org/many"), limits=HubLimits(entries=2000))).message


def entry(**changes: Any) -> dict[str, Any]:
    return {"type": "file", "path": "a.bin", "oid": SHA1, "size": 5} | changes


LFS = {"oid": SHA256, "size": 5, "pointerSize": 134}
HOSTILE: list[Any] = [
    {"hello": [1]},
    "files",
    None,
    [None],
    [[]],
    [entry(type="submodule")],
    [entry(path="../../etc/cron.d/x")],
    [entry(path=None)],
    [entry(path="/x")],
    [entry(path=".git/config")],
    [entry(oid="abc")],
    [entry(oid=SHA1.upper().replace("1", "A"))],
    [entry(oid=SHA1 + "\n")],
    [entry(oid=None)],
    [entry(size=-1)],
    [entry(size=True)],
    [entry(size=1.5)],
    [entry(size=None)],
    [entry(size=1 << 80)],
    [entry(lfs="x")],
    [entry(lfs={"oid": SHA1, "size": 5})],
    [entry(lfs={"size": 5})],
    [entry(lfs=LFS | {"size": 6})],
    [entry(), entry()],
    [entry(), entry(path="a.bin/b")],
]


@pytest.mark.parametrize("page", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_listings_are_refused(client: Client, mock: MockHub, page: Any) -> None:
    """Each would write outside the target, or promise what cannot be proved."""
    mock.fault(Replace(body=json.dumps(page)), route="tree")
    error = await fails(client)
    assert isinstance(error, UntrustedMetadataError)
    assert error.message.isprintable()


@pytest.mark.parametrize("body", ["", "{", "[NaN]", "[" * 100_000, "\xff", "[" + "9" * 5000 + "]"])
async def test_what_is_no_json(client: Client, mock: MockHub, body: str) -> None:
    """Neither deep nesting nor huge numbers end in a traceback."""
    mock.fault(Replace(body=body), route="tree")
    assert isinstance(await fails(client), UntrustedMetadataError)


async def test_an_answer_is_bounded(client: Client, mock: MockHub) -> None:
    """Memory is ours, not the server's; also where gzip makes little of much."""
    mock.fault(Replace(body=" " * 100_000 + "[]"), route="tree")
    few = HubLimits(page_bytes=50_000)
    error = await fails(client, limits=few, patience=Patience(attempts=1))
    assert isinstance(error, NetworkError)
    assert "longer than 50,000 bytes" in error.message
    mock.fault(Gzip(), route="tree")
    assert len(gzip.compress(b" " * 100_000)) < 1000
    error = await fails(client, limits=few, patience=Patience(attempts=1))
    assert "longer than 50,000 bytes" in error.message


async def test_gzip_is_read_and_other_codings_are_not(client: Client, mock: MockHub) -> None:
    """It was asked for; a chunk of anything else could hold gigabytes."""
    mock.fault(Gzip(), route="tree")
    async with client() as hub:
        assert isinstance(await hub.manifest(ref()), Manifest)
    mock.clear_faults()
    mock.fault(SetHeaders(headers={"Content-Encoding": "zstd"}), route="tree")
    error = await fails(client, patience=Patience(attempts=1))
    assert "`zstd`, which was not asked for" in error.message


async def test_a_contradicting_commit_is_an_error(client: Client, mock: MockHub) -> None:
    """Files of one commit must not be proved against another's."""
    for route in ("api", "tree"):
        mock.clear_faults()
        mock.fault(SetHeaders(headers={"X-Repo-Commit": SHA1}), route=route)
        error = await fails(client)
        assert isinstance(error, UntrustedMetadataError)
        assert f"its header says `{SHA1}`" in error.message


@pytest.mark.parametrize("sha", [None, "main", SHA1.upper() + "0", 5, SHA1[:39]])
async def test_a_revision_without_a_commit_is_an_error(client: Client, mock: MockHub, sha: Any) -> None:
    """An address that is no Hub's answers anything."""
    mock.fault(Replace(body=json.dumps({"sha": sha})), route="api")
    assert "names no commit" in (await fails(client)).message


async def test_what_a_head_says(client: Client, world: World) -> None:
    """Identity and size from the Hub's own headers, the CDN is not asked."""
    commit = Commit(world.repo("org/name").head().id)
    async with client() as hub:
        found = [await hub.head(ref(), commit, RepoPath(path)) for path, *_ in promised(world)]
    assert promised(world) == told(tuple(found))
    assert hub.requests == 3


# --- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(world: World, authority: trustme.CA) -> Iterator[MockHub]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with MockHub(world, ssl_context=context) as hub:
        yield hub


async def test_the_certificates_of_a_company_are_trusted_when_named(
    secure: MockHub, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind an intercepting proxy nothing works without."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with Client(secure.endpoint)() as hub:
        assert len((await hub.manifest(ref())).files) == 3


async def test_a_strange_certificate_ends_the_run_at_once(secure: MockHub) -> None:
    """Asking again does not make it trusted; the hint names the way."""
    client = Client(secure.endpoint)
    error = await fails(client)
    assert isinstance(error, NetworkError)
    assert "certificate refused" in error.message
    assert "SSL_CERT_FILE" in (error.hint or "")
    assert client.slept == []
