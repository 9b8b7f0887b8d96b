"""Commands and addresses that hear of a mirror's runs; what fails here is told, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Literal

import anyio

from fetchverify import events
from fetchverify.core.manifest import Commit, RepoRef
from fetchverify.core.mirrorconfig import Hooks

_PATIENCE_S = 600.0
_MOST_WORDS = 2_000


class Heralds:
    """Calls a mirror's hooks.

    Args:
        hooks: what the config names.
        emit: hears of those that fail.
    """

    def __init__(self, hooks: Hooks, emit: events.Emit) -> None:
        self._hooks = hooks
        self._emit = emit

    async def began(self) -> None:
        """Tell that a run began."""
        await self._ping("start", "")

    async def changed(self, ref: RepoRef, commit: Commit, path: str) -> None:
        """Tell that readers see another commit."""
        about = {"REPO": ref.repo_id, "REPO_TYPE": ref.kind, "REVISION": ref.revision, "COMMIT": commit, "PATH": path}
        await self._run("change", self._hooks.change, about, "")

    async def ended(self, summary: Callable[[], str], *, failed: bool) -> None:
        """Tell how a run ended; `summary` is made only where somebody hears it: of thousands of repos it is long."""
        command = self._hooks.failure if failed else self._hooks.success
        if not command and self._hooks.ping is None:
            return
        told = summary()
        await self._run("failure" if failed else "success", command, {"FAILED": "1" if failed else "0"}, told)
        await self._ping("fail" if failed else "", told)

    async def _ping(self, what: Literal["", "start", "fail"], body: str) -> None:
        if self._hooks.ping is None:
            return
        from fetchverify.net.ping import ping

        why = await ping(self._hooks.ping, what, body)
        if why is not None:
            self._warn(f"the ping was not heard: {why}")

    async def _run(self, name: str, command: Sequence[str], about: dict[str, str], text: str) -> None:
        if not command:
            return
        environment = {**os.environ, **{f"FETCHVERIFY_{key}": value for key, value in about.items()}}
        try:
            # Files, not pipes: a hook may leave its input unread, and may say more than memory holds.
            with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
                told.write(text.encode())
                told.seek(0)
                with anyio.fail_after(_PATIENCE_S):
                    done = await anyio.run_process(
                        list(command), stdin=told, stdout=said, stderr=subprocess.STDOUT, check=False, env=environment
                    )
                said.seek(max(0, said.seek(0, os.SEEK_END) - _MOST_WORDS))
                words = said.read().decode(errors="replace").strip()
        except TimeoutError:
            self._warn(f"the hook `{name}` was ended after {_PATIENCE_S:.0f} s")
            return
        except OSError as error:
            self._warn(f"the hook `{name}` cannot be run: `{command[0]}`: {error.strerror}")
            return
        if done.returncode:
            self._warn(f"the hook `{name}` ended with exit code {done.returncode}" + (f": {words}" if words else ""))

    def _warn(self, text: str) -> None:
        self._emit(events.Note(level="warning", message=text))
