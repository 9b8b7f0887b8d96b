"""Metadata: a revision resolved to a `Manifest`, over async httpx; the bytes are left to `transport`."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import anyio
import anyio.to_thread
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from fetchverify import events
from fetchverify.core.manifest import Commit, Manifest, RemoteFile, RepoKind, RepoPath, RepoRef
from fetchverify.core.paths import check_files, check_path, shown
from fetchverify.core.reference import is_repo_id
from fetchverify.core.retry import PATIENT, Failure, Patience, Reason, Stop, decide
from fetchverify.core.tree import MAX_ENTRIES, file_from_headers, is_commit, parse_siblings, parse_tree_page
from fetchverify.errors import AbsentError, FetchverifyError, NetworkError, UntrustedMetadataError, ungrouped
from fetchverify.net import wire

# httpx's own default is 20; a renamed repo takes one.
_MAX_REDIRECTS = 5
_REPOS_A_PAGE = 100
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"')
_NOT_A_HUB = "is this the address of a Hub? see `--endpoint` and `HF_ENDPOINT`"
# Larger answers are parsed in a thread: the loop also serves progress and signals.
_PARSE_ASIDE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """What an endpoint may cost us, however it behaves.

    Attributes:
        entries: files and folders of one listing.
        page_bytes: one page of a listing, decoded; the Hub's pages of 1,000 entries stay below 1 MiB.
        info_bytes: a revision with the names of all its files, decoded: a million names of 100 bytes.
        empty_pages: pages in a row without any entry.
        call_s: one request with its whole answer, however slowly it trickles.
    """

    entries: int = MAX_ENTRIES
    page_bytes: int = 32 << 20
    info_bytes: int = 256 << 20
    empty_pages: int = 3
    call_s: float = 120.0


LIMITS = HubLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A successful answer, whole; `body` is decoded. 304 says that what an ETag names is still so."""

    url: str
    status: int
    headers: httpx.Headers
    links: dict[str | None, dict[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a revision stands.

    Attributes:
        repo_id: the repo's name now; another one than asked for where it was renamed.
        etag: names this answer, for the next question; None where the endpoint gives none.
    """

    commit: Commit
    repo_id: str
    etag: str | None = None


def _sendable(etag: str | None) -> str | None:
    """Return the ETag where it is one (RFC 9110 §8.8.3): the server's word, or a file's, becomes a header of ours."""
    return etag if etag is not None and _ETAG.fullmatch(etag) else None


class _NoSuchApiError(AbsentError):
    """The endpoint has no tree API, as some mirrors."""


class Hub:
    """One endpoint's API; an async context manager, for asyncio and trio.

    Args:
        endpoint: the Hub or mirror whose word is taken for what a repo holds.
        emit: hears of retries and waits.
        connections: requests under way at once, where a mirror's lack of an API needs one a file.
        patience: how often and how long to try.
        limits: what is believed to be an attack, or nobody at the other end.
        sleep: waits between attempts.
        clock: seconds, never going back.
        chance: random numbers in `[0, 1)`.

    Attributes:
        requests: how many were sent, redirects and retries among them.
        retries: how many calls were made again.
        has_tree: it lists files by the tree API, as far as is known.
    """

    def __init__(
        self,
        endpoint: wire.Endpoint,
        *,
        emit: events.Emit = events.ignore,
        connections: int = 16,
        patience: Patience = PATIENT,
        limits: HubLimits = LIMITS,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        clock: Callable[[], float] = anyio.current_time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._endpoint = endpoint
        self._emit = emit
        self._patience = patience
        self._limits = limits
        self._connections = connections
        self._sleep = sleep
        self._clock = clock
        self._chance = chance
        self._client = wire.new_async_client(connections)
        self.requests = 0
        self.retries = 0
        self.has_tree = True

    async def __aenter__(self) -> Hub:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(5, shield=True):
            await self._client.__aexit__(kind, error, trace)

    async def manifest(
        self, ref: RepoRef, *, cached_tree: Callable[[Commit], tuple[RemoteFile, ...] | None] = lambda commit: None
    ) -> Manifest:
        """Return every file of the commit that the revision names now.

        Args:
            ref: repo and revision.
            cached_tree: returns what an earlier run noted of this commit, which never changes; runs in a thread.

        Raises:
            AbsentError: no such repo or revision, or it may not be seen.
            NetworkError: the endpoint could not be reached, or kept failing.
            UntrustedMetadataError: the answers contradict themselves or name unsafe paths.
        """
        commit = await self.resolve_commit(ref)
        files = await anyio.to_thread.run_sync(_believable, cached_tree, commit)
        if files is None:
            try:
                files = await self.tree(ref, commit)
            except _NoSuchApiError:
                self.has_tree = False
                files = await self._siblings(ref, commit)
            check_files(files)
        return Manifest(ref=ref, commit=commit, files=files)

    async def resolve_commit(self, ref: RepoRef) -> Commit:
        """Return the commit that the revision names; one that is a commit itself costs no request.

        Raises:
            FetchverifyError: as `manifest`.
        """
        if is_commit(ref.revision):
            return Commit(ref.revision)
        url = self._revision_url(ref, ref.revision)
        answer = await self._ask(ref, "GET", url, most_bytes=self._limits.info_bytes)
        return self._named_commit(ref, answer, await self._json(answer))

    async def head_of(self, ref: RepoRef, *, etag: str | None = None) -> Head | None:
        """Return where a revision stands in one small answer; None where that is what `etag` names.

        Raises:
            FetchverifyError: as `manifest`.

        Source: huggingface_hub 2.4.0 `hf_api.py::model_info` (`expand`).
        """
        url = self._revision_url(ref, ref.revision) + "?expand=sha"
        etag = _sendable(etag)
        answer = await self._ask(ref, "GET", url, most_bytes=self._limits.info_bytes, etag=etag)
        if answer.status == 304:
            return None
        info = await self._json(answer)
        told = info.get("id") if isinstance(info, dict) else None
        return Head(
            commit=self._named_commit(ref, answer, info),
            repo_id=told if isinstance(told, str) and is_repo_id(told) else ref.repo_id,
            etag=_sendable(answer.headers.get("etag")),
        )

    async def repos_of(self, author: str, kind: RepoKind) -> dict[str, Commit | None]:
        """Return the repos of an account and where their main branch stands, a hundred a request.

        Raises:
            FetchverifyError: as `manifest`.

        Source: huggingface_hub 2.4.0 `hf_api.py::list_models`, `utils/_pagination.py::paginate`.
        """
        ref = RepoRef(kind=kind, repo_id=f"{author}/*", revision="main")
        query = f"author={quote(author, safe='')}&limit={_REPOS_A_PAGE}&expand=sha"
        found: dict[str, Commit | None] = {}
        async with aclosing(self._pages(ref, f"{self._endpoint.url}/api/{kind}s?{query}")) as pages:
            async for page in pages:
                for row in page:
                    repo_id, sha = (row.get("id"), row.get("sha")) if isinstance(row, dict) else (None, None)
                    # The endpoint's word for whose repos these are would be a way to any folder.
                    if isinstance(repo_id, str) and is_repo_id(repo_id) and repo_id.startswith(f"{author}/"):
                        found[repo_id] = Commit(sha) if isinstance(sha, str) and is_commit(sha) else None
        return found

    def _named_commit(self, ref: RepoRef, answer: _Answer, info: Any) -> Commit:
        # Mirrors that answer with less than the Hub may still name the commit in the header.
        header = answer.headers.get("x-repo-commit")
        sha = info.get("sha", header) if isinstance(info, dict) else None
        if not isinstance(sha, str) or not is_commit(sha):
            raise UntrustedMetadataError(
                f"`{self._endpoint.host}` names no commit for `{ref.repo_id}` at `{shown(ref.revision)}`",
                hint=_NOT_A_HUB,
            )
        self._check_commit(answer, sha, "the revision")
        return Commit(sha)

    async def tree(self, ref: RepoRef, commit: Commit) -> tuple[RemoteFile, ...]:
        """Return the files of a commit from the tree API, page by page; paths are safe, not yet held together.

        Raises:
            FetchverifyError: as `manifest`.

        Source: huggingface_hub 2.4.0 `hf_api.py::list_repo_tree`, `utils/_pagination.py::paginate`.
        """
        first = wire.api_url(self._endpoint, ref, f"/tree/{commit}?recursive=true&expand=false")
        files: list[RemoteFile] = []
        # Closed here and now: a refused page must not leave it to the garbage collector.
        async with aclosing(self._pages(ref, first, commit=commit)) as pages:
            async for page in pages:
                files += parse_tree_page(page)
        return tuple(files)

    async def _pages(self, ref: RepoRef, first: str, *, commit: Commit | None = None) -> AsyncGenerator[list[Any]]:
        """Yield the pages of a listing, which ends however the endpoint behaves."""
        url: str | None = first
        entries = empty = 0
        asked: set[str] = set()
        while url is not None:
            if url in asked:
                raise UntrustedMetadataError(f"the listing of `{ref.repo_id}` names a page twice: it would never end")
            asked.add(url)
            answer = await self._ask(ref, "GET", url, most_bytes=self._limits.page_bytes, listing=commit is not None)
            if commit is not None:
                self._check_commit(answer, commit, "the listing")
            page = await self._json(answer)
            if not isinstance(page, list):
                raise UntrustedMetadataError(f"the listing of `{ref.repo_id}` is no list", hint=_NOT_A_HUB)
            yield page
            entries += len(page)
            empty = 0 if page else empty + 1
            if entries > self._limits.entries:
                raise UntrustedMetadataError(f"`{ref.repo_id}` lists more than {self._limits.entries:,} entries")
            url = self._next_page(ref, answer, first)
            if url is not None and empty >= self._limits.empty_pages:
                raise UntrustedMetadataError(f"the listing of `{ref.repo_id}` goes on and on with empty pages")

    async def head(self, ref: RepoRef, commit: Commit, path: RepoPath) -> RemoteFile:
        """Return a file as the headers of its download describe it: for mirrors without any listing of digests.

        Raises:
            FetchverifyError: as `manifest`.

        Source: huggingface_hub 2.4.0 `file_download.py::get_hf_file_metadata`.
        """
        url = wire.resolve_url(self._endpoint, ref, commit, path)
        answer = await self._ask(ref, "HEAD", url, most_bytes=0)
        self._check_commit(answer, commit, f"`{shown(path)}`")
        return file_from_headers(path, answer.headers, redirected=answer.status >= 300)

    async def _siblings(self, ref: RepoRef, commit: Commit) -> tuple[RemoteFile, ...]:
        """Return the files from `?blobs=true`; where that lacks digests, from the headers of a HEAD a file."""
        url = self._revision_url(ref, commit) + "?blobs=true"
        answer = await self._ask(ref, "GET", url, most_bytes=self._limits.info_bytes)
        info = await self._json(answer)
        sha = info.get("sha", commit) if isinstance(info, dict) else commit
        if sha != commit:
            raise UntrustedMetadataError(f"asked for commit `{commit}`, `{self._endpoint.host}` lists `{shown(sha)}`")
        listed = list(parse_siblings(info))
        found: dict[int, RemoteFile] = {}
        limiter = anyio.CapacityLimiter(self._connections)

        async def ask(index: int, path: RepoPath) -> None:
            async with limiter:
                found[index] = await self.head(ref, commit, path)

        with ungrouped():
            async with anyio.create_task_group() as group:
                for index, each in enumerate(listed):
                    if isinstance(each, RemoteFile):
                        found[index] = each
                    else:
                        group.start_soon(ask, index, each)
        return tuple(found[index] for index in range(len(listed)))

    # --- one call --------------------------------------------------------------------------------------------

    def _revision_url(self, ref: RepoRef, revision: str) -> str:
        return wire.api_url(self._endpoint, ref, f"/revision/{quote(revision, safe='')}")

    def _check_commit(self, answer: _Answer, commit: str, what: str) -> None:
        """Hold `X-Repo-Commit` against the commit; mirrors drop the header, and what is no commit says nothing."""
        told = answer.headers.get("x-repo-commit")
        if told is not None and told != commit and is_commit(told):
            raise UntrustedMetadataError(
                f"`{self._endpoint.host}` contradicts itself: {what} is of commit `{commit}`, its header says `{told}`"
            )

    def _next_page(self, ref: RepoRef, answer: _Answer, first: str) -> str | None:
        """Return the address of the next page, always at the endpoint itself; None after the last page.

        Mirrors hand the Hub's own links on. Only their query is taken, so they cost no request to anyone else.
        """
        link = answer.links.get("next", {}).get("url")
        if link is None:
            return None
        page, _, _ = first.partition("?")
        try:
            target = urlsplit(urljoin(answer.url, link))
        except ValueError:
            target = urlsplit("")
        plain = unquote(urlsplit(page).path.removeprefix(urlsplit(self._endpoint.url).path))
        if target.path != urlsplit(answer.url).path and not unquote(target.path).endswith(plain):
            raise UntrustedMetadataError(
                f"the listing of `{ref.repo_id}` goes on at another address, `{shown(wire.redact(link))}`"
            )
        return f"{page}?{target.query}"

    async def _json(self, answer: _Answer) -> Any:
        try:
            if len(answer.body) < _PARSE_ASIDE:
                return _parse(answer.body)
            return await anyio.to_thread.run_sync(_parse, answer.body)
        except (ValueError, RecursionError) as error:
            raise UntrustedMetadataError(
                f"`{self._endpoint.host}` answered something that is no JSON", hint=_NOT_A_HUB
            ) from error

    async def _ask(
        self,
        ref: RepoRef,
        method: str,
        url: str,
        *,
        most_bytes: int,
        listing: bool = False,
        etag: str | None = None,
    ) -> _Answer:
        """Return a successful answer; to a HEAD, a redirect to elsewhere is one too, and with an `etag`, 304.

        Raises:
            FetchverifyError: what `decide` made of the last failure.
        """
        attempt, began = 0, self._clock()
        while True:
            failure: Failure
            try:
                with anyio.fail_after(self._limits.call_s):
                    outcome = await self._once(method, url, most_bytes, etag)
            except TimeoutError:
                detail = f"no whole answer within {self._limits.call_s:g} s"
                outcome = Failure(reason=Reason.TIMEOUT, detail=detail, host=self._endpoint.host)
            if isinstance(outcome, _Answer):
                return outcome
            failure = outcome
            if listing and _means_no_such_api(failure):
                raise _NoSuchApiError(f"`{self._endpoint.host}` has no listing of files")
            attempt += 1
            verdict = decide(
                failure,
                attempt=attempt,
                elapsed_s=self._clock() - began,
                jitter=self._chance(),
                patience=self._patience,
            )
            if isinstance(verdict, Stop):
                raise self._error(ref, failure, attempt)
            wait_s = getattr(verdict, "wait_s", 0.0)
            self.retries += 1
            if failure.status == 429:
                self._emit(events.Waiting(what=f"the rate limit of `{self._endpoint.host}`", wait_s=round(wait_s, 3)))
            else:
                self._emit(events.Retrying(path=None, reason=failure.summary, attempt=attempt, wait_s=round(wait_s, 3)))
            await self._sleep(wait_s)

    async def _once(self, method: str, url: str, most_bytes: int, etag: str | None) -> _Answer | Failure:
        """Send once, and follow redirects within the endpoint's own origin: the token goes nowhere else."""
        host = self._endpoint.host
        for _ in range(_MAX_REDIRECTS + 1):
            self.requests += 1
            extra = {"Accept-Encoding": "identity" if method == "HEAD" else "gzip"}
            if etag is not None:
                extra["If-None-Match"] = etag
            try:
                request = self._client.build_request(method, url, headers=wire.base_headers(self._endpoint, extra))
                response = await self._client.send(request, stream=True)
                try:
                    redirected = response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers
                    body = b""
                    if not redirected and response.status_code < 400 and method != "HEAD":
                        body = await _read_bounded(response, most_bytes)
                finally:
                    with anyio.move_on_after(5, shield=True):
                        await response.aclose()
            except _BodyError as error:
                return Failure(reason=error.reason, detail=str(error), host=host)
            except Exception as error:  # whatever httpx, a codec or TLS may raise is one failed call
                return wire.failure_from(error, host=host)
            if response.status_code >= 400:
                return wire.failure_from_status(response)
            if etag is not None and response.status_code == 304:
                return _answer(url, response, b"")
            if not redirected:
                if response.status_code != 200:
                    return Failure(reason=Reason.PROTOCOL, status=response.status_code, detail="no answer", host=host)
                if response.headers.get("content-type", "").startswith("text/html") and method != "HEAD":
                    detail = "a web page came, not the Hub's answer: a login page of this network?"
                    return Failure(reason=Reason.NOT_THE_FILE, detail=detail, host=host)
                return _answer(url, response, body)
            try:
                target, own = wire.decide_redirect(url, response.headers["location"], self._endpoint)
            except wire.BadRedirectError as error:
                return Failure(reason=Reason.BAD_REDIRECT, detail=str(error), host=host)
            if not own:
                if method == "HEAD":
                    return _answer(url, response, b"")
                detail = f"the API redirects to another host, `{wire.host_of(target)}`"
                return Failure(reason=Reason.BAD_REDIRECT, detail=detail, host=host)
            url = target
        return Failure(reason=Reason.REDIRECT_LOOP, detail=f"more than {_MAX_REDIRECTS} redirects", host=host)

    def _error(self, ref: RepoRef, failure: Failure, attempts: int) -> FetchverifyError:
        what = f"{ref.kind} `{ref.repo_id}`" + ("" if ref.revision == "main" else f" at `{shown(ref.revision)}`")
        host = self._endpoint.host
        match failure.reason:
            case Reason.DENIED | Reason.ABSENT:
                hint = wire.access_hint(self._endpoint, ref, failure)
                return AbsentError(f"{what}: {failure.summary}", hint=hint, gone=failure.reason is Reason.ABSENT)
            case Reason.TLS:
                hint = "behind a company's proxy, point `SSL_CERT_FILE` to the certificates of its authority"
            case Reason.PROXY_AUTH | Reason.PROXY:
                hint = "check `HTTPS_PROXY` and `NO_PROXY`, with user and password where the proxy wants them"
            case Reason.BAD_REDIRECT | Reason.REDIRECT_LOOP:
                hint = f"is `{host}` the Hub's own address? see `--endpoint` and `HF_ENDPOINT`"
            case Reason.NOT_THE_FILE | Reason.REFUSED | Reason.ENCODED:
                hint = _NOT_A_HUB
            case _ if failure.status == 429 and self._endpoint.token is None:
                hint = "wait, or log in with `hf auth login`: accounts may ask more often"
            case _:
                hint = "try again later; is a proxy or another `--endpoint` needed?"
        asked = "" if attempts == 1 else f", asked {attempts} times"
        wait_s = failure.retry_after_s
        if wait_s is not None and wait_s > self._patience.most_asked_wait_s:
            asked += f", which wants us to wait {wait_s:.0f} s"
        return NetworkError(f"{what} could not be looked up: {failure.summary}{asked}", hint=hint)


def _means_no_such_api(failure: Failure) -> bool:
    """True where an endpoint does not know the tree API at all, rather than this repo or commit."""
    return failure.status in (404, 405, 501) and failure.code not in ("RepoNotFound", "RevisionNotFound", "GatedRepo")


def _believable(
    cached_tree: Callable[[Commit], tuple[RemoteFile, ...] | None], commit: Commit
) -> tuple[RemoteFile, ...] | None:
    """Return the cached listing; None where it is absent or would be refused from the network, too."""
    files = cached_tree(commit)
    if files is None:
        return None
    try:
        for file in files:
            check_path(file.path)
        check_files(files)
    except UntrustedMetadataError:
        return None
    return files


def _answer(url: str, response: httpx.Response, body: bytes) -> _Answer:
    return _Answer(url=url, status=response.status_code, headers=response.headers, links=response.links, body=body)


def _parse(body: bytes) -> Any:
    """Return the JSON value of a body in UTF-8; NaN and Infinity, which are no JSON, are refused."""
    return json.loads(body.decode(), parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


class _BodyError(Exception):
    """A body that was not read to its end, on purpose."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


async def _read_bounded(response: httpx.Response, most: int) -> bytes:
    """Return the body, decoded; neither an endless nor a compressed bomb eats the memory.

    Raises:
        _BodyError: it is longer than `most`, or in a coding that was not asked for.
    """
    chunks = response.aiter_raw()
    try:
        return await _decoded(chunks, response.headers.get("content-encoding", "identity"), most)
    except _BodyError:
        # httpx nests generators that only end by being read to their end; on a closed connection that is near.
        await response.aclose()
        with suppress(Exception):
            async for _ in chunks:
                pass
        raise


async def _decoded(chunks: AsyncIterator[bytes], coding: str, most: int) -> bytes:
    """Return the chunks as one body.

    Decoded here and not by httpx: 64 KiB of zstd can hold gigabytes, and httpx decodes a chunk at once.
    """
    coding = coding.strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise _BodyError(Reason.ENCODED, f"the answer is `{shown(coding, 40)}`, which was not asked for")
    unzip = zlib.decompressobj(wbits=31) if "gzip" in coding else None
    body = bytearray()
    async for chunk in chunks:
        try:
            # One byte more than allowed shows that there is more.
            body += chunk if unzip is None else unzip.decompress(chunk, most + 1 - len(body))
        except zlib.error as error:
            raise _BodyError(Reason.ENCODED, "the answer's gzip is broken") from error
        if len(body) > most:
            raise _BodyError(Reason.LONG_BODY, f"the answer is longer than {most:,} bytes")
    if unzip is not None and not unzip.eof and body:
        raise _BodyError(Reason.SHORT_BODY, "the answer's gzip ends early")
    return bytes(body)
