"""Files of at most 1 MiB: fetched into memory and hashed there; publishing is left to `transfer`.

A thread opens a connection for one of them and asks for others behind it on the same connection: what a request costs
beside its bytes, a round trip and httpx, is paid once for many.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread

from fetchverify.core.blocks import Block
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Stop
from fetchverify.engine.run import Run
from fetchverify.engine.suppliers import Choice, Supplier
from fetchverify.net.body import Body
from fetchverify.net.checks import TransferError

# Requests that one connection has under way, on a line whose round trip is worth hiding; and bytes behind them.
_MOST_AHEAD, _NEAR_AHEAD = 4, 1
_MOST_BYTES_AHEAD = 256 * 1024
# What came is told to the loop together: it is woken seldom, and publishes several in one go.
_HELD_AT_MOST, _HELD_FOR_S = 8, 0.02
# A thread that has nothing to do keeps its connection for so long: others are being published before more is asked for.
_LINGER_S = 0.2


@dataclass(slots=True, eq=False, kw_only=True)
class _Wanted:
    """A file that somebody waits for.

    Attributes:
        came: its bytes, unproved, or why there are none; before `done` is set.
        alone: it was asked for behind another and nothing came: the next time it is the first of its connection.
    """

    file: RemoteFile
    supplier: Supplier
    done: anyio.Event = field(default_factory=anyio.Event)
    came: bytes | Failure | None = None
    alone: bool = False

    @property
    def span(self) -> Block:
        """All of it."""
        return Block(0, self.file.size)

    def fits(self, before: _Wanted) -> bool:
        """Return whether it may be asked for behind another: what lies in LFS comes from elsewhere than from git."""
        return not self.alone and self.supplier is before.supplier and self.file.is_lfs == before.file.is_lfs


class SmallFiles:
    """Fetches small files of one run.

    Args:
        run: what all files share; `small_slots` says how many connections there may be.
        group: where the threads are waited for.

    Attributes:
        run: as it was given.
    """

    def __init__(self, run: Run, group: anyio.abc.TaskGroup) -> None:
        self.run = run
        self._group = group
        self._changed = threading.Condition()  # guards all that follows
        self._fed = False
        self._queue: deque[_Wanted] = deque()
        self._threads = 0

    def close(self) -> None:
        """Say that no more files will come, but those that have to be fetched again."""
        with self._changed:
            self._fed = True
            self._changed.notify_all()

    async def fetch(self, file: RemoteFile, choice: Choice) -> tuple[bytes | Failure, Supplier]:
        """Return the file's bytes, unproved, or why they could not be had; and who gave them, or was asked last."""
        run = self.run
        if file.size == 0:
            return b"", run.suppliers.all[0]  # a range of nothing cannot be asked for; the digest still has to match
        attempts, began = Counter[Supplier](), anyio.current_time()
        while True:
            supplier = await choice.first()
            content = await self._ask(file, supplier)
            if not isinstance(content, Failure):
                run.bytes_fetched += len(content)
                supplier.gave, supplier.absent = True, 0
                return content, supplier
            attempts[supplier] += 1
            if run.suppliers.several and content.host is None:
                content = replace(content, host=supplier.endpoint.host)
            elsewhere, quiet_s = choice.elsewhere(supplier), anyio.current_time() - began
            verdict = await run.judge(file.path, content, attempts[supplier], quiet_s, elsewhere=elsewhere)
            if isinstance(verdict, Stop):
                if not elsewhere:
                    return (choice.told(content) if run.suppliers.several else content), supplier
                choice.give_up(supplier, content)
            elif elsewhere:
                choice.rest(supplier, content, getattr(verdict, "wait_s", 0.0))

    async def _ask(self, file: RemoteFile, supplier: Supplier) -> bytes | Failure:
        wanted = _Wanted(file=file, supplier=supplier)
        with self._changed:
            self._queue.append(wanted)
            self._changed.notify()
            # Where those that are at work keep up, another would only take their time.
            most = self.run.small_slots.total_tokens // (1 if supplier.means.client.is_far else 2)
            one_more = self._threads < max(1, most) and len(self._queue) > self._threads // 2
            self._threads += one_more
        if one_more:
            self._group.start_soon(self._serve)
        await wanted.done.wait()
        assert wanted.came is not None
        return wanted.came

    async def _serve(self) -> None:
        await anyio.to_thread.run_sync(_Thread(self).run, limiter=self.run.small_slots)

    def take(self) -> _Wanted | None:
        """Return what is to be fetched next; None where there is nothing, and then the thread ends."""
        with self._changed:
            if self._queue and self._threads <= self.run.small_slots.total_tokens:
                return self._queue.popleft()
            self._threads -= 1
            return None

    def take_behind(self, before: _Wanted, wait_s: float = 0.0) -> _Wanted | None:
        """Return what may be asked for behind another, perhaps after a wait; None where there is nothing for now."""
        with self._changed:
            if self._threads > self.run.small_slots.total_tokens:
                return None
            if wait_s and not self._queue and not self._fed:
                self._changed.wait(wait_s)
            return self._queue.popleft() if self._queue and self._queue[0].fits(before) else None

    def give_back(self, lost: list[_Wanted]) -> None:
        """Have these fetched one by one."""
        for one in lost:
            one.alone = True
        with self._changed:
            self._queue.extendleft(reversed(lost))


class _Thread:
    """One thread, and its connection."""

    def __init__(self, files: SmallFiles) -> None:
        self._files = files
        self._run = files.run
        self._asked: deque[_Wanted] = deque()
        self._held: list[_Wanted] = []
        self._since = 0.0

    def run(self) -> None:
        """Fetch until nothing is left to be fetched."""
        while (wanted := self._files.take()) is not None:
            try:
                self._fetch(wanted)
            finally:
                if self._asked:
                    lost = list(self._asked)
                    self._asked.clear()
                    self._files.give_back(lost)
        self._tell()

    def _fetch(self, first: _Wanted) -> None:
        """Fetch one file, and others behind it while all goes well."""
        client = first.supplier.means.client
        try:
            with client.open(self._run.manifest, first.file, None, first.span) as body:
                wanted = first
                while True:
                    self._ask_ahead(body, wanted, under_way=len(self._asked) - (wanted is not first))
                    content = self._read(body, wanted)
                    if wanted is not first:
                        self._asked.remove(wanted)
                    self._came(wanted, content)
                    if not self._asked and not self._linger(body, wanted):
                        break
                    if not body.advance():
                        return
                    wanted = next(one for one in self._asked if one.file is body.file)
                body.finish()
        except TransferError as error:
            # Of those that were asked for behind it nothing is known. Where all bytes came and more behind them, the
            # digest tells whether they are the file.
            if first.came is None:
                self._came(first, error.failure)

    def _linger(self, body: Body, last: _Wanted) -> bool:
        """Wait for another file to ask for; False where none comes."""
        for wait_s in (_HELD_FOR_S, _LINGER_S):
            self._ask_ahead(body, last, under_way=0, wait_s=wait_s)
            if self._asked:
                return True
            self._tell()
        return False

    def _ask_ahead(self, body: Body, last: _Wanted, under_way: int, wait_s: float = 0.0) -> None:
        if not body.takes_others:
            return
        client = last.supplier.means.client
        most = _MOST_AHEAD if client.is_far else _NEAR_AHEAD
        left = _MOST_BYTES_AHEAD - sum(one.file.size for one in self._asked)
        while under_way < most and left > 0 and body.can_ask_ahead:
            wanted = self._files.take_behind(last, wait_s)
            if wanted is None:
                return
            self._asked.append(wanted)
            left -= wanted.file.size
            under_way, wait_s = under_way + 1, 0.0
            try:
                body.ask_ahead(wanted.span, wanted.file, client.url_of(self._run.manifest, wanted.file))
            except TransferError:
                return  # what came before is read all the same; `advance` will say the rest

    def _read(self, body: Body, wanted: _Wanted) -> bytes:
        size, pace = wanted.file.size, wanted.supplier.means.pace
        content, done = memoryview(bytearray(size)), 0
        while done < size:
            count = body.fill(content[done : done + pace.piece(size)])
            pace.spend(count)
            done += count
        return bytes(content)

    def _came(self, wanted: _Wanted, came: bytes | Failure) -> None:
        wanted.came = came
        now = time.monotonic()
        if not self._held:
            self._since = now
        self._held.append(wanted)
        many = len(self._held) >= _HELD_AT_MOST or now - self._since > _HELD_FOR_S
        if many or wanted.supplier.means.client.is_far:  # the next may take long
            self._tell()

    def _tell(self) -> None:
        if self._held:
            held, self._held = self._held, []
            anyio.from_thread.run_sync(_set_all, held)


def _set_all(held: list[_Wanted]) -> None:
    for one in held:
        one.done.set()
