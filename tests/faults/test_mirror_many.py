"""What a run over many repos holds at once."""

from __future__ import annotations

import asyncio

from fetchverify.commands.mirror import targets
from fetchverify.commands.mirror.targets import Answer, Target
from fetchverify.core.manifest import RepoRef
from fetchverify.core.mirrorconfig import Entry
from fetchverify.net.hub import Hub
from fetchverify.net.wire import Endpoint
from mock_server import MockHub, World

MANY = 200


def test_asking_takes_no_task_for_each_repo() -> None:
    """Thousands that wait for their turn took more memory than all else together."""
    world = World()
    for number in range(MANY):
        world.add(f"org/m{number}", {"a": b"a"})
    entry = Entry(repo_id="org/*")
    every = [
        Target(ref=RepoRef(kind="model", repo_id=f"org/m{number}", revision="main"), entry=entry)
        for number in range(MANY)
    ]
    heard: list[Answer] = []
    tasks: list[int] = []

    def hear(answer: Answer) -> None:
        heard.append(answer)
        tasks.append(len(asyncio.all_tasks()))

    async def ask(endpoint: str) -> None:
        async with Hub(Endpoint.several((endpoint,), None)[0], emit=lambda event: None) as hub:
            await targets.ask(hub, every, lambda ref: None, hear)

    with MockHub(world) as hub:
        asyncio.run(ask(hub.endpoint))
    assert {target.ref for target in every} == {answer.target.ref for answer in heard}
    assert all(answer.head is not None for answer in heard)
    assert max(tasks) < MANY / 4
