"""A mock Hub on real sockets, and a `Hub` that asks it without ever sleeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from fetchverify import events
from fetchverify.core.retry import PATIENT, Patience
from fetchverify.net.hub import LIMITS, Hub, HubLimits
from fetchverify.net.wire import Endpoint
from mock_server import MockHub, World

TOKEN = "hf_demo"  # noqa: S105


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


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


@pytest.fixture
def client_of() -> Callable[[str], Client]:
    return Client
