"""Addresses of LFS objects, asked of an LFS server by the hundred; the bytes are fetched by `transport`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from urllib.parse import urljoin

from fetchverify.core.lfsapi import BATCH, MEDIA_TYPE, Action, Told, batch_body, read_batch
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.errors import FetchverifyError, NetworkError
from fetchverify.net import wire
from fetchverify.net.checks import Source, TransferError
from fetchverify.net.lfsauth import Access, Grant
from fetchverify.net.transport import ByteClient

_MOST_REDIRECTS = 5
_MOST_BODY = 8 << 20  # of 100 objects; a signed address takes a few KiB
# An address that expires sooner is asked for again before it is used.
_EARLY_S = 5.0
# Files that fail together because the server does ask it once, not one after the other.
_QUIET_S = 0.5


class LfsLocator:
    """Where the objects of one LFS server lie; implements `transport.Locator`. Thread-safe.

    Args:
        access: the server, and what it may see.
        files: all that will be asked for, in the order in which they are wanted.
        ref: full name of the branch that is checked out.
    """

    def __init__(self, access: Access, files: Iterable[RemoteFile], *, ref: str | None = None) -> None:
        self._access = access
        self._unasked = {file.digest.hex: file for file in files}
        self._ref = ref
        self._told: dict[str, Told] = {}
        self._lock = threading.Lock()
        self._trouble: tuple[float, Failure] | None = None

    def locate(self, file: RemoteFile, client: ByteClient) -> Source:
        """Return where a file lies; each address is handed out once.

        Raises:
            TransferError: the server refuses this file, or could not be asked.
        """
        with self._lock:
            told = self._told.pop(file.digest.hex, None)
            if told is None or (isinstance(told, Action) and _expired(told)):
                self._ask(file, client)
                told = self._told.pop(file.digest.hex)
            if isinstance(told, Failure):
                raise TransferError(told)
            return self._source(told)

    def hint(self, failure: Failure) -> str:
        """Return what to do where the server refuses."""
        if self._access.is_hub:
            return "a private or gated repo needs `hf auth login` or `HF_TOKEN`, of an account that may see it"
        return "git has no password that this server takes: does `git fetch` work?"

    def _source(self, action: Action) -> Source:
        grant, headers = self._access.grant(), dict(action.headers)
        served_here = wire.origin_of(action.href) == wire.origin_of(grant.server.url)
        named = {name.lower() for name in headers}
        # As git-lfs: an object that the server itself serves, and does not call authenticated, wants the same again.
        if served_here and not action.authenticated and "authorization" not in named:
            headers |= grant.headers
        return Source(url=action.href, from_hub=False, headers=headers)

    def _ask(self, file: RemoteFile, client: ByteClient) -> None:
        now = time.monotonic()
        if self._trouble is not None and now < self._trouble[0]:
            raise TransferError(self._trouble[1])
        others = [other for oid, other in self._unasked.items() if oid != file.digest.hex]
        files = [file, *others[: BATCH - 1]]
        try:
            told = self._batch(files, client)
        except TransferError as error:
            wait_s = max(_QUIET_S, error.failure.retry_after_s or 0.0)
            self._trouble = (time.monotonic() + wait_s, error.failure)
            raise
        self._trouble = None
        for each in files:
            self._unasked.pop(each.digest.hex, None)
        self._told |= told

    def _batch(self, files: list[RemoteFile], client: ByteClient) -> dict[str, Told]:
        try:
            grant: Grant | None = self._access.grant()
        except FetchverifyError as error:
            reason = Reason.CONNECT if isinstance(error, NetworkError) else Reason.DENIED
            raise TransferError(Failure(reason=reason, detail=error.message)) from error
        body = batch_body(files, self._ref)
        while True:
            assert grant is not None
            status, answer, failure = self._post(grant, body, client)
            if status != 401:
                break
            grant = self._access.refused()
            if grant is None:
                assert failure is not None
                raise TransferError(failure)
        if failure is not None:
            raise TransferError(failure)
        self._access.accepted()
        host = wire.host_of(grant.server.url)
        try:
            told = read_batch(answer, files, now_s=time.time())
        except (ValueError, RecursionError) as error:
            detail = "this is no LFS server: its answer is not as the batch API has it"
            raise TransferError(Failure(reason=Reason.NOT_THE_FILE, detail=detail, host=host)) from error
        secure = grant.server.url.startswith("https:")
        return {oid: _checked(one, secure=secure) for oid, one in told.items()}

    def _post(self, grant: Grant, body: bytes, client: ByteClient) -> tuple[int, bytes, Failure | None]:
        """Return status, body and what went wrong; the grant is shown to the server's own origin alone."""
        url, origin = f"{grant.server.url}/objects/batch", wire.origin_of(grant.server.url)
        endpoint = wire.Endpoint(url=grant.server.url)
        for _ in range(_MOST_REDIRECTS + 1):
            headers = dict(grant.headers) if wire.origin_of(url) == origin else {}
            headers |= {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
            with client.post(url, headers, body) as response:
                location = response.headers.get("location")
                if response.status_code in (301, 302, 307, 308) and location is not None:
                    try:
                        url, _own = wire.decide_redirect(url, urljoin(url, location), endpoint)
                    except wire.BadRedirectError as error:
                        return 0, b"", Failure(reason=Reason.BAD_REDIRECT, detail=str(error))
                    continue
                if response.status_code >= 400:
                    return response.status_code, b"", _refused(response)
                if response.status_code != 200:
                    return 0, b"", Failure(reason=Reason.PROTOCOL, status=response.status_code, detail="no answer")
                return 200, _read(response), None
        return 0, b"", Failure(reason=Reason.REDIRECT_LOOP, detail=f"more than {_MOST_REDIRECTS} redirects")


class Nowhere:
    """Stands for the server that a clone does not have; implements `transport.Locator`."""

    def __init__(self, why: str) -> None:
        self._why = why

    def locate(self, file: RemoteFile, client: ByteClient) -> Source:
        """Raise `TransferError`: there is nobody to ask."""
        raise TransferError(Failure(reason=Reason.ABSENT, detail=self._why))

    def hint(self, failure: Failure) -> str:
        """Return what to do."""
        return "name a server with `git remote add` or `git config lfs.url`"


def _refused(response: wire.Response) -> Failure:
    failure = wire.failure_from_status(response)
    if failure.status not in (401, 403, 404, 405, 410, 501):
        return failure
    # Who may not see a repo is told that there is none (GitHub, GitLab, Gitea, the Hub); or the server knows no LFS.
    detail = f"the LFS server shows no such repo to us (HTTP {failure.status})"
    return Failure(reason=Reason.DENIED, status=failure.status, code=failure.code, detail=detail, host=failure.host)


def _read(response: wire.Response) -> bytes:
    body = bytearray()
    try:
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _MOST_BODY:
                raise TransferError(Failure(reason=Reason.LONG_BODY, detail="the LFS server's answer never ends"))
    except TransferError:
        raise
    except Exception as error:
        raise TransferError(wire.failure_from(error)) from error
    return bytes(body)


def _checked(told: Told, *, secure: bool) -> Told:
    if isinstance(told, Action) and secure and not told.href.lower().startswith("https:"):
        return Failure(reason=Reason.BAD_REDIRECT, detail="the LFS server sends us from https to http")
    return told


def _expired(action: Action) -> bool:
    return action.expires_s is not None and action.expires_s < time.time() + _EARLY_S
