"""What was measured of a line to an endpoint, and what follows for a long download; measuring is left to `net`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fetchverify.core.retry import Quota
from fetchverify.errors import ExitCode

DEFAULT_CONNECTIONS = 16
# The default stays where it gives this much of the best: `get` itself takes fewer where more bring nothing.
_DEFAULT_DOES = 0.75
_AS_GOOD = 0.9
# Below this many bytes a step measured the start of its connections alone.
LEAST_SAMPLE = 8 << 20
_FEW_REQUESTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What so many connections gave together.

    Attributes:
        received: bytes after the connections had come to speed.
        seconds: for how long those were counted.
        drops: connections that broke.
        refused: requests that the server refused for being too many (429, 503).
    """

    connections: int
    received: int
    seconds: float
    drops: int
    refused: int

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.received / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How the endpoint's host is reached; times in seconds.

    Attributes:
        proxy: between us and it, without user and password; then its address and times are the proxy's.
        tls: the protocol's version; None over plain HTTP.
    """

    host: str
    addresses: tuple[str, ...]
    proxy: str | None
    resolve_s: float
    connect_s: float
    tls: str | None = None
    tls_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProbe:
    """One endpoint, looked at through one file of one repo.

    Attributes:
        path: the file that was read, of `size` bytes.
        lacks: what a full Hub says and this endpoint does not, for people.
        ranges: it answers a range with that range.
        if_range: it holds `If-Range` against the file's ETag; None where ranges are not honoured.
        bytes_host: who sends the bytes.
        round_trips_s: seconds, of one kept connection.
    """

    endpoint: str
    repo_id: str
    path: str
    size: int
    reach: Reach
    lacks: tuple[str, ...]
    ranges: bool
    if_range: bool | None
    bytes_host: str
    quotas: tuple[Quota, ...]
    round_trips_s: tuple[float, ...]
    throughputs: tuple[Throughput, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object, with its verdict."""
        body = asdict(self)
        for step, value in zip(body["throughputs"], self.throughputs, strict=True):
            step["bytes_per_s"] = round(value.rate)
        verdict = judge(self)
        return {
            "kind": "LineProbe",
            "exit_code": int(verdict.exit_code),
            "fit": verdict.fit,
            "options": verdict.options,
            "remarks": verdict.remarks,
            **body,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the line is fit for a long download.

    Attributes:
        fit: an interrupted download goes on where it stopped, and what it brings can be proved.
        best: the step whose number of connections to use; None where nothing was measured.
        options: what to add to the command line.
        remarks: what to know, the gravest first; the first says why where it is not fit.
    """

    fit: bool
    best: Throughput | None
    options: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Return 0 for a fit line, else 1."""
        return ExitCode.CLEAN if self.fit else ExitCode.FINDINGS


def judge(probe: LineProbe) -> Verdict:
    """Return what the measurements mean."""
    best = _best(probe.throughputs)
    remarks = []
    if not probe.ranges:
        remarks.append("ranges are ignored: a download that breaks begins again at its first byte")
    elif best is None:
        remarks.append("no byte came in time")
    if probe.ranges and probe.if_range is False:
        remarks.append("`If-Range` is ignored: a file that changes under way is noticed by its digest alone")
    drops = sum(step.drops for step in probe.throughputs)
    if drops:
        remarks.append(f"{drops} connection{'s' if drops > 1 else ''} broke while measuring: what came is kept")
    refused = [step for step in probe.throughputs if step.refused]
    if refused:
        remarks.append(f"requests are refused at {refused[0].connections} connections and above")
    remarks += [
        f"only {quota.left} requests are left for the next {quota.reset_s} s"
        for quota in probe.quotas
        if quota.left < _FEW_REQUESTS
    ]
    if best is not None and best.received < LEAST_SAMPLE:
        remarks.append("too little came to tell the speed: name a repo with larger files, or give it more `--seconds`")
    options = []
    if best is not None and best.connections != DEFAULT_CONNECTIONS:
        options.append(f"--connections {best.connections}")
    return Verdict(fit=probe.ranges and best is not None, best=best, options=tuple(options), remarks=tuple(remarks))


def _best(steps: Sequence[Throughput]) -> Throughput | None:
    """Return the step to take: the default where it does, else the fewest connections that are as good as any."""
    flowing = [step for step in steps if step.received and not step.refused] or [
        step for step in steps if step.received
    ]
    if not flowing:
        return None
    most = max(step.rate for step in flowing)
    for step in flowing:
        if step.connections == DEFAULT_CONNECTIONS and step.rate >= most * _DEFAULT_DOES:
            return step
    return next(step for step in flowing if step.rate >= most * _AS_GOOD)


def median_s(round_trips_s: Sequence[float]) -> float:
    """Return the usual round trip in seconds; 0 where there is none."""
    return statistics.median(round_trips_s) if round_trips_s else 0.0
