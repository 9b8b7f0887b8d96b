"""Runs a command's coroutine under signals: the first one cancels, a second one quits; words are left to `cli`."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import anyio
from anyio.abc import TaskStatus

from fetchverify.errors import ExitCode

T = TypeVar("T")

EXITS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Interrupted(Exception):  # noqa: N818  # as KeyboardInterrupt: no error of anyone's
    """A signal ended the run; everything that landed is kept."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code.name.lower())
        self.exit_code = exit_code


def run_command(main: Callable[[], Awaitable[T]], *, on_signal: Callable[[], None]) -> T:
    """Run `main` on an event loop of its own and return what it returns.

    After the first SIGINT or SIGTERM a second one ends the process at once, until it is over: also while
    the interpreter waits for threads.

    Args:
        main: is cancelled by the first signal, and may take its time to clean up.
        on_signal: is called on the loop's thread when that signal comes, before anything is cancelled.

    Raises:
        Interrupted: a signal came before `main` was through.
    """
    return anyio.run(_supervise, main, on_signal)


async def _supervise(main: Callable[[], Awaitable[T]], on_signal: Callable[[], None]) -> T:
    result: T
    error: Exception | None = None
    seen: list[ExitCode] = []
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            # The task stays when the scope is cancelled: without it the default handlers would be back.
            await group.start(_watch, scope, seen, on_signal)
            # Kept here and raised outside: the group would wrap it.
            try:
                result = await main()
            except Exception as caught:
                error = caught
        group.cancel_scope.cancel()
    if seen:
        for signum in EXITS:
            signal.signal(signum, _quit)
    if seen and (error is not None or scope.cancelled_caught):
        raise Interrupted(seen[0]) from error
    if error is not None:
        raise error
    return result


async def _watch(
    scope: anyio.CancelScope,
    seen: list[ExitCode],
    on_signal: Callable[[], None],
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(*EXITS) as signals:
        task_status.started()
        async for signum in signals:
            seen.append(EXITS[signum])
            # Not awaited like the first: the loop may be busy, and a second signal must always work.
            for each in EXITS:
                signal.signal(each, _quit)
            try:
                on_signal()
            finally:
                scope.cancel()
            await anyio.sleep_forever()


def _quit(signum: int, _frame: object) -> NoReturn:
    os._exit(128 + signum)
