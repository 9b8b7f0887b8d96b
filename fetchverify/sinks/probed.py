"""The words of `probe`: what was measured, a line each, and the verdict in one; printing them is left to the caller."""

from __future__ import annotations

from fetchverify.core.lineprobe import LineProbe, Reach, judge, median_s
from fetchverify.sinks import human

_LONG_DOWNLOAD = 100_000_000_000


def lines(probe: LineProbe) -> list[str]:
    """Return the measurements."""
    rows = [("endpoint", probe.endpoint), *_reach(probe.reach)]
    lacks = ", ".join(probe.lacks)
    rows.append(("metadata", f"of a mirror: it lacks {lacks}" if lacks else "of a full Hub: listing, commit, digests"))
    rows.append(("bytes from", probe.bytes_host))
    if_range = {True: ", and `If-Range` too", False: ", `If-Range` is not", None: ""}[probe.if_range]
    rows.append(("ranges", f"honoured{if_range}" if probe.ranges else "ignored"))
    for quota in probe.quotas:
        left = human.count(quota.left, "request")
        rows.append(("rate limit", f"{quota.name}: {left} left, more in {human.duration(quota.reset_s)}"))
    if probe.round_trips_s:
        low, high = min(probe.round_trips_s), max(probe.round_trips_s)
        many = len(probe.round_trips_s)
        rows.append(("round trip", f"{_ms(median_s(probe.round_trips_s))} ({_ms(low)} to {_ms(high)}, {many} times)"))
    for step in probe.throughputs:
        troubles = [f"{human.count(step.drops, 'connection')} broke"] if step.drops else []
        troubles += [f"{human.count(step.refused, 'request')} refused"] if step.refused else []
        rows.append((human.count(step.connections, "connection"), ", ".join([human.rate(step.rate), *troubles])))
    wide = max(len(name) for name, _ in rows)
    return [f"{name:<{wide}}  {human.printable(text)}" for name, text in rows]


def _reach(reach: Reach) -> list[tuple[str, str]]:
    whose = "proxy's address" if reach.proxy is not None else "address"
    more = f" and {len(reach.addresses) - 1} more" if len(reach.addresses) > 1 else ""
    rows = [("proxy", reach.proxy or "none")]
    rows.append((whose, f"{reach.addresses[0]}{more}, resolved in {_ms(reach.resolve_s)}"))
    tls = "" if reach.tls_s is None else f", {reach.tls} in {_ms(reach.tls_s)}"
    rows.append(("connect", f"{_ms(reach.connect_s)}{tls}"))
    return rows


def verdict(probe: LineProbe) -> str:
    """Return whether the line is fit for a long download, in one line, with the options to use."""
    found = judge(probe)
    if not found.fit or found.best is None:
        return f"not fit for a long download: {found.remarks[0]}"
    options = " ".join(found.options)
    use = f"use `fetchverify get REPO_ID {options}`" if options else "no option is needed"
    takes = human.duration(_LONG_DOWNLOAD / found.best.rate)
    speed = f"{human.rate(found.best.rate)} with {human.count(found.best.connections, 'connection')}"
    return f"fit for a long download: {speed}, {human.size(_LONG_DOWNLOAD)} in {takes}; {use}"


def remarks(probe: LineProbe) -> list[str]:
    """Return what to know besides."""
    found = judge(probe)
    return list(found.remarks if found.fit else found.remarks[1:])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
