"""Listings cut into pages that name the next one in a `Link` header, as the Hub's are."""

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from mock_server.messages import Origin, Request

T = TypeVar("T")


def page(
    items: Sequence[T],
    request: Request,
    query: Mapping[str, Sequence[str]],
    endpoints: Mapping[Origin, str | None],
    *,
    default: int,
) -> tuple[Sequence[T], str | None]:
    """Return the page a request asks for and the value of its `Link` header, None on the last page."""
    limit = _number(query, "limit", default)
    start = _number(query, "cursor", 0)
    stop = start + max(limit, 1)
    if stop >= len(items):
        return items[start:stop], None
    following = {**{key: list(values) for key, values in query.items()}, "cursor": [str(stop)]}
    url = f"{endpoints[request.origin] or ''}{request.path}?{urlencode(following, doseq=True)}"
    return items[start:stop], f'<{url}>; rel="next"'


def _number(query: Mapping[str, Sequence[str]], name: str, default: int) -> int:
    value = query.get(name, [""])[-1]
    return int(value) if value.isdecimal() else default
