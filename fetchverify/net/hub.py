"""Metadata: a revision resolved to a `Manifest`, over async httpx; the bytes are left to `transport`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any
from urllib.parse import quote

import anyio
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify import events
from fetchverify.core.manifest import Commit, Manifest, RemoteFile, RepoPath, RepoRef
from fetchverify.core.paths import check_files
from fetchverify.core.retry import PATIENT, Failure, Patience, Reason, Stop, decide
from fetchverify.core.tree import MAX_ENTRIES, file_from_headers, is_commit, parse_siblings, parse_tree_page
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError, UntrustedMetadataError
from fetchverify.net import wire

_MAX_REDIRECTS = 5
# A page of 1,000 entries with long paths is below 1 MiB; the Hub's largest (expand) pages stay below 10.
_MAX_PAGE = 64 << 20
_CALL_DEADLINE_S = 120.0


class Hub:
    """One endpoint's API; an async context manager.

    Args:
        endpoint: the Hub or mirror whose word is taken for what a repo holds.
        emit: hears of retries.
        connections: requests under way at once, where a mirror's lack of an API needs one a file.
        patience: how many failures in a row to forgive.
    """

    def __init__(
        self, endpoint: wire.Endpoint, *, emit: events.Emit, connections: int = 16, patience: Patience = PATIENT
    ) -> None:
        self._endpoint = endpoint
        self._emit = emit
        self._patience = patience
        self._connections = connections
        self._client = wire.new_async_client(connections)
        self.requests = 0

    async def __aenter__(self) -> Hub:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def manifest(
        self, ref: RepoRef, *, cached_tree: Callable[[Commit], tuple[RemoteFile, ...] | None] = lambda commit: None
    ) -> Manifest:
        """Return every file of the commit that the revision names now.

        Args:
            ref: repo and revision.
            cached_tree: returns what an earlier run noted of this commit; a commit never changes.

        Raises:
            AbsentError: no such repo or revision, or it may not be seen.
            NetworkError: the endpoint could not be reached, or kept failing.
            UntrustedMetadataError: the answers contradict themselves or name unsafe paths.
        """
        commit = await self.resolve_commit(ref)
        files = cached_tree(commit)
        if files is None:
            try:
                files = await self.tree(ref, commit)
            except AbsentError:
                # Mirrors without a tree API (#1796 and its kin) may still list the files with the revision.
                files = await self._siblings(ref, commit)
        check_files(files)
        return Manifest(ref=ref, commit=commit, files=files)

    async def resolve_commit(self, ref: RepoRef) -> Commit:
        """Return the commit that the revision names; one that is a commit itself costs no request."""
        if is_commit(ref.revision):
            return Commit(ref.revision)
        answer, _ = await self._get_json(ref, self._revision_url(ref, ref.revision))
        sha = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(sha, str) or not is_commit(sha):
            raise UntrustedMetadataError(
                f"`{self._endpoint.host}` names no commit for `{ref.repo_id}` at `{ref.revision}`",
                hint="is this the address of a Hub? see `--endpoint` and `HF_ENDPOINT`",
            )
        return Commit(sha)

    async def tree(self, ref: RepoRef, commit: Commit) -> tuple[RemoteFile, ...]:
        """Return the files of a commit from the tree API, page by page; paths are safe, not yet held together.

        Source: huggingface_hub 2.4.0 `hf_api.py::list_repo_tree`, `utils/_pagination.py::paginate`.
        """
        query = "?recursive=true&expand=false"
        url: str | None = wire.api_url(self._endpoint, ref, f"/tree/{commit}{query}")
        files: list[RemoteFile] = []
        asked: set[str] = set()
        while url is not None:
            if url in asked:
                raise UntrustedMetadataError(f"a page of the listing of `{ref.repo_id}` names itself as the next one")
            asked.add(url)
            page, response = await self._get_json(ref, url)
            found = parse_tree_page(page)
            if not found and not page:
                break
            files += found
            if len(files) > MAX_ENTRIES:
                raise UntrustedMetadataError(f"`{ref.repo_id}` lists more than {MAX_ENTRIES:,} files")
            url = self._next_page(ref, response)
        return tuple(files)

    async def _siblings(self, ref: RepoRef, commit: Commit) -> tuple[RemoteFile, ...]:
        """Return the files from `?blobs=true`; where that lacks digests, from the headers of a HEAD a file."""
        answer, _ = await self._get_json(ref, self._revision_url(ref, commit) + "?blobs=true")
        files: list[RemoteFile] = []
        bare: list[RepoPath] = []
        for found in parse_siblings(answer):
            if isinstance(found, RemoteFile):
                files.append(found)
            else:
                bare.append(found)
        limiter = anyio.CapacityLimiter(self._connections)

        async def ask(path: RepoPath) -> None:
            async with limiter:
                files.append(await self.head(ref, commit, path))

        async with anyio.create_task_group() as group:
            for path in bare:
                group.start_soon(ask, path)
        return tuple(sorted(files, key=lambda file: file.path))

    async def head(self, ref: RepoRef, commit: Commit, path: RepoPath) -> RemoteFile:
        """Return a file as the headers of its download describe it: for mirrors without any listing of digests.

        Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
        """
        response, _ = await self._ask(ref, "HEAD", wire.resolve_url(self._endpoint, ref, commit, path), stay=True)
        told = response.headers.get("x-repo-commit")
        if told is not None and told != commit:
            raise UntrustedMetadataError(f"`{path}` is served from commit `{told[:40]}`, not `{commit}`")
        return file_from_headers(path, response.headers, redirected=response.has_redirect_location)

    # --- one call --------------------------------------------------------------------------------------------

    def _revision_url(self, ref: RepoRef, revision: str) -> str:
        return wire.api_url(self._endpoint, ref, f"/revision/{quote(revision, safe='')}")

    def _next_page(self, ref: RepoRef, response: httpx.Response) -> str | None:
        link = response.links.get("next", {}).get("url")
        if link is None:
            return None
        target = str(response.url.join(link))
        if wire.origin_of(target) != wire.origin_of(self._endpoint.url):
            raise UntrustedMetadataError(
                f"the listing of `{ref.repo_id}` goes on at another host, `{wire.host_of(target)}`"
            )
        return target

    async def _get_json(self, ref: RepoRef, url: str) -> tuple[Any, httpx.Response]:
        response, body = await self._ask(ref, "GET", url)
        try:
            return json.loads(body), response
        except (ValueError, RecursionError) as error:
            raise UntrustedMetadataError(
                f"`{self._endpoint.host}` answered something that is no JSON",
                hint="is this the address of a Hub? see `--endpoint` and `HF_ENDPOINT`",
            ) from error

    async def _ask(self, ref: RepoRef, method: str, url: str, *, stay: bool = False) -> tuple[httpx.Response, bytes]:
        """Return a successful answer and its body; with `stay`, a redirect to elsewhere is one too."""
        attempt, began = 0, anyio.current_time()
        while True:
            try:
                with anyio.fail_after(_CALL_DEADLINE_S):
                    outcome = await self._once(method, url, stay=stay)
            except TimeoutError:
                outcome = Failure(reason=Reason.TIMEOUT, detail="no answer in time", host=self._endpoint.host)
            if not isinstance(outcome, Failure):
                return outcome
            attempt += 1
            jitter = random.random()  # noqa: S311
            quiet_s = anyio.current_time() - began
            verdict = decide(outcome, attempt=attempt, elapsed_s=quiet_s, jitter=jitter, patience=self._patience)
            if isinstance(verdict, Stop):
                raise self._error(ref, outcome, attempt)
            wait_s = getattr(verdict, "wait_s", 0.0)
            self._emit(events.Retrying(path=None, reason=outcome.summary, attempt=attempt, wait_s=round(wait_s, 3)))
            await anyio.sleep(wait_s)

    async def _once(self, method: str, url: str, *, stay: bool) -> tuple[httpx.Response, bytes] | Failure:
        for _ in range(_MAX_REDIRECTS):
            self.requests += 1
            headers = wire.base_headers(self._endpoint) | {"Accept-Encoding": "gzip"}
            request = self._client.build_request(method, url, headers=headers)
            try:
                response = await self._client.send(request, stream=True)
                try:
                    body = await _read_bounded(response)
                finally:
                    await response.aclose()
            except Exception as error:  # whatever httpx, a codec or TLS may raise is one failed call
                return wire.failure_from(error, host=self._endpoint.host)
            if isinstance(body, Failure):
                return body
            if response.status_code >= 400:
                return wire.failure_from_status(response)
            if not response.has_redirect_location:
                return response, body
            try:
                url, own = wire.decide_redirect(url, response.headers["location"], self._endpoint)
            except wire.BadRedirectError as error:
                return Failure(reason=Reason.BAD_REDIRECT, detail=str(error), host=self._endpoint.host)
            if not own:
                if stay:
                    return response, body
                detail = f"the API redirects to another host, `{wire.host_of(url)}`"
                return Failure(reason=Reason.BAD_STATUS, detail=detail, host=self._endpoint.host)
        detail = f"more than {_MAX_REDIRECTS} redirects"
        return Failure(reason=Reason.REDIRECT_LOOP, detail=detail, host=self._endpoint.host)

    def _error(self, ref: RepoRef, failure: Failure, attempts: int) -> FetchverifyError:
        what = f"{ref.kind} `{ref.repo_id}`" + ("" if ref.revision == "main" else f" at `{ref.revision}`")
        match failure.reason:
            case Reason.DENIED | Reason.ABSENT:
                return AbsentError(f"{what}: {failure.summary}", hint=_hint(self._endpoint, ref, failure))
            case Reason.TLS:
                hint = "a company proxy? point `SSL_CERT_FILE` to its certificate authority"
                return NetworkError(f"{failure.summary}", hint=hint)
            case _:
                times = "" if attempts == 1 else f" ({attempts} attempts)"
                hint = "try again later; is a proxy or another `--endpoint` needed?"
                return NetworkError(f"{what} could not be looked up{times}: {failure.summary}", hint=hint)


def _hint(endpoint: wire.Endpoint, ref: RepoRef, failure: Failure) -> str:
    page = f"{endpoint.url}/{'' if ref.kind == 'model' else ref.kind + 's/'}{ref.repo_id}"
    if "gated" in failure.detail:
        return f"accept the licence at {page}, then run `hf auth login` or set `HF_TOKEN`"
    if "revision" in failure.detail:
        return f"see the branches and tags at {page}"
    if endpoint.token is None:
        return "check the name and `--repo-type`; a private or gated repo needs `hf auth login` or `HF_TOKEN`"
    return "check the name, `--repo-type`, and that the account of the token may see it (`hf auth whoami`)"


async def _read_bounded(response: httpx.Response) -> bytes | Failure:
    """Return the body, decoded; a compressed bomb or an endless one must not eat the memory."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_PAGE:
            return Failure(reason=Reason.BAD_STATUS, detail=f"the answer is longer than {_MAX_PAGE >> 20} MiB")
    return bytes(body)
