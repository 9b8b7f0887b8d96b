"""The endpoints that bytes may come from: what the run learned of each, and each file; choosing is `core`'s."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import anyio

from fetchverify import events
from fetchverify.core.manifest import RemoteFile
from fetchverify.core.retry import Failure, Reason
from fetchverify.core.suppliers import ABSENT_FILES, Supply, next_supplier, scope
from fetchverify.engine.fetch import Means, Segment
from fetchverify.net.transport import ByteClient
from fetchverify.net.wire import Endpoint

_MEASURED_S = 0.3  # a request says something about its line's speed after this long
_CROWDED = frozenset({Reason.BAD_STATUS, Reason.TIMEOUT})


@dataclass(slots=True, eq=False, kw_only=True)
class Supplier:
    """One endpoint, and what this run learned of it; lives on the event loop.

    Attributes:
        number: 0 is the one whose metadata is trusted, and which alone sees the token.
        means: how its bytes are fetched.
        most: requests for segments that it bears at once.
        gone: why the rest of the run goes without it.
        lied: it sent bytes that are not the file; asked again only where nobody else has a file.
        rests_until: seconds of the loop's clock.
        absent: files in a row that it did not have.
        gave: it sent something.
    """

    number: int
    endpoint: Endpoint
    means: Means
    most: float = math.inf
    gone: Failure | None = None
    lied: bool = False
    rests_until: float = 0.0
    absent: int = 0
    gave: bool = False
    segments: set[Segment] = field(default_factory=set)
    _ended: deque[float] = field(default_factory=lambda: deque(maxlen=4))

    @property
    def name(self) -> str:
        """Host and path prefix, for people."""
        return self.endpoint.place

    @property
    def rate(self) -> float:
        """Bytes per second of one of its connections, as of late; 0 before any was measured."""
        rates = [*self._ended, *(one.rate for one in self.segments if one.age_s > _MEASURED_S)]
        return statistics.fmean(rates) if rates else 0.0

    def leave(self, segment: Segment) -> None:
        """Take a request for a segment off the list of those under way."""
        self.segments.discard(segment)
        if segment.received:
            self._ended.append(segment.rate)
            self.gave, self.absent = True, 0
        elif segment.dropped:
            self._ended.append(1.0)  # silent is slow; unmeasured, it would be asked first again and again
        if segment.landed and self.most < math.inf:
            self.most += 1  # it bears this many; perhaps one more

    def supply(self) -> Supply:
        """Return what it gives now."""
        most = int(min(self.most, 1 << 20))
        return Supply(number=self.number, active=len(self.segments), most=most, rate=self.rate)


class Suppliers:
    """All endpoints of one run, in the order in which the user named them."""

    def __init__(
        self,
        first: Means,
        endpoints: Sequence[Endpoint],
        new_client: Callable[[Endpoint], ByteClient],
        emit: events.Emit,
    ) -> None:
        others = [replace(first, client=new_client(endpoint)) for endpoint in endpoints[1:]]
        self.all = tuple(
            Supplier(number=number, endpoint=endpoint, means=means)
            for number, (endpoint, means) in enumerate(zip(endpoints, [first, *others], strict=True))
        )
        self._emit = emit

    @property
    def several(self) -> bool:
        """True where bytes may come from more than the one endpoint."""
        return len(self.all) > 1

    @property
    def liars(self) -> tuple[str, ...]:
        """Names of those who lied."""
        return tuple(each.name for each in self.all if each.lied)

    def close(self) -> None:
        """Close every connection."""
        for each in self.all:
            each.means.client.close()

    def abort(self) -> None:
        """Make whatever is under way fail at once."""
        for each in self.all:
            each.means.client.abort()

    def note_lie(self, numbers: Collection[int]) -> None:
        """Ask these no more; alone, an endpoint is simply asked again."""
        for each in self.all:
            if self.several and each.number in numbers and not each.lied:
                each.lied = True
                self._emit(
                    events.Note(level="warning", message=f"`{each.name}` sent bytes that are not the file; left out")
                )

    def tell(self, message: str) -> None:
        """Say what only those want to know who ask for more."""
        self._emit(events.Note(level="debug", message=message))

    def drop(self, supplier: Supplier, failure: Failure) -> None:
        """Go on without this one for the rest of the run; the last one stays."""
        if supplier.gone is None and any(each is not supplier and each.gone is None for each in self.all):
            supplier.gone = failure
            message = f"going on without `{supplier.name}`: {failure.summary}"
            self._emit(events.Note(level="warning", message=message))


class Choice:
    """Whom to ask for one file: what its suppliers did so far; lives on the event loop."""

    def __init__(self, suppliers: Suppliers, file: RemoteFile) -> None:
        self._suppliers = suppliers
        self._file = file
        self.passed: dict[Supplier, Failure] = {}
        self.bad: Counter[Supplier] = Counter()  # how often each sent something else

    def left(self) -> list[Supplier]:
        """Return all that may have the file, liars among them; never none.

        Another file's failures may drop the only one that has this file: then it is asked all the same.
        """
        unpassed = [each for each in self._suppliers.all if each not in self.passed]
        return [each for each in unpassed if each.gone is None] or unpassed

    def able(self) -> list[Supplier]:
        """Return those that may have the file, now or after a rest; liars where nobody else is left."""
        left = self.left()
        return [each for each in left if not each.lied] or left

    def elsewhere(self, supplier: Supplier) -> bool:
        """True where somebody else may have the file."""
        return any(each is not supplier for each in self.left())

    def next(self, free_bytes: int, block_size: int) -> Supplier | None:
        """Return whom to ask for a segment next; None where there is nobody for now."""
        if not self._suppliers.several:
            return self._suppliers.all[0]
        now = anyio.current_time()
        supplies = [each.supply() for each in self.able() if each.rests_until <= now]
        number = next_supplier(supplies, free_bytes=free_bytes, block_size=block_size)
        return None if number is None else self._suppliers.all[number]

    async def first(self) -> Supplier:
        """Return whom to ask for a small file, after a wait where all rest: the earlier named, the better."""
        while True:
            now, able = anyio.current_time(), self.able()
            awake = [each for each in able if each.rests_until <= now]
            if awake:
                return min(awake, key=lambda each: (self.bad[each], each.number))
            await anyio.sleep(max(0.01, min(each.rests_until for each in able) - now))

    def rest(self, supplier: Supplier, failure: Failure, wait_s: float) -> None:
        """Leave a supplier alone for a while, and ask less of it where it is crowded."""
        supplier.rests_until = max(supplier.rests_until, anyio.current_time() + wait_s)
        if failure.reason in _CROWDED:
            supplier.most = max(1, len(supplier.segments) // 2)

    def give_up(self, supplier: Supplier, failure: Failure) -> None:
        """Ask this one no more for the file; for none at all where others would fail alike."""
        self.passed[supplier] = failure
        supplier.absent += 1
        if scope(failure) == "run" or (supplier.absent >= ABSENT_FILES and not supplier.gave):
            self._suppliers.drop(supplier, failure)
        else:
            message = f"`{self._file.path}` not from `{supplier.name}`: {failure.summary}"
            self._suppliers.tell(message)

    def revive(self) -> Supplier | None:
        """Return one that was passed over since it ignores ranges: it has the file in one stream."""
        for supplier, failure in self.passed.items():
            if failure.reason is Reason.RANGE_IGNORED and supplier.gone is None:
                del self.passed[supplier]
                return supplier
        return None

    def told(self, last: Failure) -> Failure:
        """Return the failure to report when nobody has the file: what the first supplier said, where it did."""
        first = self._suppliers.all[0]
        return self.passed.get(first) or first.gone or last
