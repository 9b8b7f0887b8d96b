"""The verdict over what was measured of a line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetchverify.core.lineprobe import LineProbe, Reach, Throughput, judge
from fetchverify.core.retry import Quota, parse_quotas

MB = 1_000_000


def step(connections: int, rate: float, *, drops: int = 0, refused: int = 0) -> Throughput:
    return Throughput(connections=connections, received=int(rate * MB * 2), seconds=2.0, drops=drops, refused=refused)


PROBE = LineProbe(
    endpoint="http://hub",
    repo_id="org/name",
    path="model.bin",
    size=10**9,
    reach=Reach(host="hub", addresses=("10.0.0.1",), proxy=None, resolve_s=0.01, connect_s=0.01),
    lacks=(),
    ranges=True,
    if_range=True,
    bytes_host="cdn",
    quotas=(),
    round_trips_s=(0.02,),
    throughputs=(step(1, 25), step(4, 100), step(16, 400)),
)


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ((step(1, 25), step(4, 100), step(16, 400)), ()),
        ((step(1, 500), step(4, 510), step(16, 480)), ()),  # the default is as good as any
        ((step(1, 98), step(4, 100), step(16, 50)), ("--connections 1",)),
        ((step(1, 25), step(4, 100), step(16, 300, refused=40)), ("--connections 4",)),
        ((step(1, 0), step(4, 0), step(16, 10, refused=3)), ()),  # nothing else gave anything
    ],
)
def test_the_fewest_connections_that_are_as_good_as_the_best_are_named(
    steps: tuple[Throughput, ...], options: tuple[str, ...]
) -> None:
    verdict = judge(replace(PROBE, throughputs=steps))
    assert verdict.fit
    assert options == verdict.options


def test_a_line_without_ranges_is_not_fit() -> None:
    verdict = judge(replace(PROBE, ranges=False, if_range=None, throughputs=()))
    assert not verdict.fit
    assert 1 == verdict.exit_code
    assert ["ranges are ignored: a download that breaks begins again at its first byte"] == list(verdict.remarks)


def test_a_line_that_gives_nothing_is_not_fit() -> None:
    verdict = judge(replace(PROBE, throughputs=(step(1, 0), step(4, 0), step(16, 0))))
    assert not verdict.fit
    assert "no byte came in time" == verdict.remarks[0]


def test_what_is_wrong_besides_is_remarked() -> None:
    probe = replace(
        PROBE,
        if_range=False,
        quotas=parse_quotas('"api";r=3;t=55, "resolvers";r=4000;t=300'),
        throughputs=(step(1, 1, drops=2), step(4, 3), step(16, 3.5, drops=1, refused=9)),
    )
    assert (
        "`If-Range` is ignored: a file that changes under way is noticed by its digest alone",
        "3 connections broke while measuring: what came is kept",
        "requests are refused at 16 connections and above",
        "only 3 requests are left for the next 55 s",
        "too little came to tell the speed: name a repo with larger files, or give it more `--seconds`",
    ) == judge(probe).remarks


def test_quotas_are_read_and_nonsense_is_passed_over() -> None:
    assert (Quota(name="api", left=3, reset_s=55),) == parse_quotas('"api";r=3;t=55, "x";r=-1;t=2, nonsense')
    assert () == parse_quotas("")
