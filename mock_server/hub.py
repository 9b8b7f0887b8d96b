"""A mock Hub running in this process, the face that tests and the command line use."""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from mock_server import inject, scenario
from mock_server.app import App, Routed, Settings
from mock_server.faults import Fault, FaultBook, Match, Nth, Rule, kind_of
from mock_server.ledger import Ledger, Record
from mock_server.messages import Origin, Request
from mock_server.quota import Quota
from mock_server.serve import Answer, Server
from mock_server.world import World


class MockHub:
    """A Hub at `endpoint` (with a CDN at `cdn_endpoint`) between entering and leaving the `with` block.

    `other_endpoint` is a third origin that holds everything and checks nothing: where a redirect may lead, and where
    the ledger shows whether an Authorization header was carried along.

    Args:
        world: the repos; they may change while the Hub runs. None is an empty world.
        cdn: whether LFS files redirect to a second origin; without, the Hub serves them itself, as mirrors do.
        ttl_s: how long a signed URL lives.
        page_size: entries on a page of a listing.
        drop_headers: header fields the Hub never sends, as some mirrors.
        tree: whether there is a tree API.
        paths_info: whether there is a paths-info API.
        max_unranged: the CDN answers 400 to an unranged GET of a larger file.
        lfs_header: the LFS batch API signs by a header in place of a query.
        lfs_errors: status by path or oid of what the LFS batch API refuses.
        quotas: limits of `api` and `resolvers` requests.
        rules: faults from the start.
        ssl_context: serve TLS on all origins.
        ledger: a file to which each finished request is appended as a JSON line.
        host: the address to listen on.
        port: the Hub's port; 0 is any free one.
        cdn_port: the CDN's port.
        cdn_host: the name of `host` in URLs of the CDN and the third origin. It differs from the Hub's, because
            huggingface_hub 1.x takes a redirect to another port of the same host for one within the Hub.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        cdn: bool = True,
        ttl_s: float = 3600.0,
        page_size: int = 1000,
        drop_headers: Iterable[str] = (),
        tree: bool = True,
        paths_info: bool = True,
        max_unranged: int | None = None,
        lfs_header: bool = False,
        lfs_errors: Mapping[str, int] | None = None,
        quotas: Mapping[str, Quota] | None = None,
        rules: Iterable[Rule] = (),
        ssl_context: ssl.SSLContext | None = None,
        ledger: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int = 0,
        cdn_host: str | None = None,
    ) -> None:
        self.world = world if world is not None else World()
        settings = Settings(
            cdn=cdn,
            ttl_s=ttl_s,
            page_size=page_size,
            drop_headers=frozenset(drop_headers),
            tree=tree,
            paths_info=paths_info,
            max_unranged=max_unranged,
            lfs_header=lfs_header,
            lfs_errors=dict(lfs_errors or {}),
            quotas=dict(quotas or {}),
        )
        self._app = App(self.world, settings)
        self._faults = FaultBook(list(rules))
        self._sink = ledger
        self.ledger = Ledger()
        self._ssl = ssl_context
        self._host = host
        self._cdn_host = cdn_host or ("localhost" if host == "127.0.0.1" else host)
        self._ports: dict[Origin, int] = {"hub": port, "cdn": cdn_port, "other": 0}
        self._server: Server | None = None

    @property
    def endpoint(self) -> str:
        """Base URL of the Hub."""
        return self._endpoint("hub")

    @property
    def cdn_endpoint(self) -> str:
        """Base URL of the CDN."""
        return self._endpoint("cdn")

    @property
    def other_endpoint(self) -> str:
        """Base URL of the third origin."""
        return self._endpoint("other")

    @property
    def settings(self) -> Settings:
        """How this Hub differs from the usual one; `configure` changes it."""
        return self._app.settings

    def configure(self, **changes: Any) -> None:
        """Change settings while the Hub runs: `hub.configure(cdn=False, ttl_s=0.1)`."""
        self._app.settings = replace(self._app.settings, **changes)

    def fault(
        self,
        fault: Fault | Rule,
        /,
        *,
        nth: Nth = "every",
        **match: Any,
    ) -> None:
        """Put a rule in force, or a fault on the requests that `match` (the fields of `Match`) describes."""
        rule = fault if isinstance(fault, Rule) else Rule(fault=fault, match=Match(**match), nth=nth)
        self._faults.add(rule)

    def scenario(self, name: str | Path) -> None:
        """Put the rules of a scenario in force: a file, or the name of a bundled one."""
        for rule in scenario.load(name).rules:
            self._faults.add(rule)

    def clear_faults(self) -> None:
        """Behave from now on."""
        self._faults.clear()

    def start(self) -> "MockHub":
        """Open the ports and answer."""
        if self._server is not None:
            raise RuntimeError("the hub is running")
        if self._sink is not None:
            self.ledger.open_sink(self._sink)
        server = Server(self._handle, on_connect=self.ledger.connected, ssl_context=self._ssl)
        self._server = server
        try:
            for origin, port in self._ports.items():
                self._ports[origin] = server.listen(origin, self._host, port)
                self._app.endpoints[origin] = self._endpoint(origin)
            server.start()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Cut what is being sent and free all ports and threads."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._app.git.close()
        self.ledger.close()

    def __enter__(self) -> "MockHub":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _endpoint(self, origin: Origin) -> str:
        scheme = "https" if self._ssl is not None else "http"
        return f"{scheme}://{self._host if origin == 'hub' else self._cdn_host}:{self._ports[origin]}"

    def _handle(self, request: Request) -> Answer:
        started = time.monotonic()
        routed = self._app.route(request)
        faults = self._faults.pick(routed.exchange)
        number = self.ledger.begin(_record(request, routed, started))
        response = self._app.respond(routed, faults)
        silent = response.delivery.silent or response.delivery.raw is not None
        self.ledger.answer(
            number,
            status=0 if silent else response.status,
            faults=tuple(kind_of(fault) for fault in faults if inject.applies(fault, request)),
        )
        return Answer(
            response=response,
            sent=lambda count: self.ledger.sent(number, count),
            end=lambda: self.ledger.end(number),
        )


def _record(request: Request, routed: Routed, started: float) -> Record:
    headers, exchange = request.headers, routed.exchange
    return Record(
        origin=request.origin,
        connection=request.connection,
        method=request.method,
        path=unquote(request.path),
        query=request.query,
        file=exchange.file,
        kind=exchange.route,
        range=exchange.range,
        authorization=headers.get("authorization") is not None,
        user_agent=headers.get("user-agent"),
        if_range=headers.get("if-range"),
        accept_encoding=headers.get("accept-encoding"),
        t_start=started,
    )
