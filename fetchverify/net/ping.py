"""Tells a monitoring service how a run went, in the form of healthchecks: `URL`, `URL/start`, `URL/fail`."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import anyio

from fetchverify.net import wire

_MOST_BODY = 10_000
_PATIENCE_S = 10.0


async def ping(url: str, what: Literal["", "start", "fail"], body: str = "") -> str | None:
    """Send one request, and return why that failed; None where it did not. No token goes along."""
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{what}" if what else parts.path
    try:
        with anyio.fail_after(_PATIENCE_S):
            async with wire.new_async_client(1) as client:
                address = parts._replace(path=path).geturl()
                response = await client.post(address, content=body.encode()[:_MOST_BODY], follow_redirects=False)
                return None if response.status_code < 300 else f"HTTP {response.status_code}"
    except TimeoutError:
        return f"no answer within {_PATIENCE_S:g} s"
    except Exception as error:  # whatever httpx or TLS may raise: a ping that fails costs nothing
        return wire.failure_from(error, host=wire.host_of(url)).summary
