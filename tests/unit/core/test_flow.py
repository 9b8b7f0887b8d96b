"""How many connections: deciding is told the time and the bytes, and never looks at a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.flow import Flow, first_connections, laggards, past_cache, room_before_end, segment_blocks

MB = 1_000_000


def run(flow: Flow, rate_of: object, seconds: float, *, start: float = 0.0, received: int = 0) -> tuple[float, int]:
    """Let a line that gives `rate_of(connections)` bytes per second flow for a while."""
    now = start
    while now < start + seconds:
        now += 0.1
        received += int(rate_of(flow.target) * 0.1)  # type: ignore[operator]
        flow.tick(now, received)
    return now, received


def test_a_line_that_caps_each_connection_gets_all_of_them_soon() -> None:
    """200 Mbit/s a connection: sixteen of them in less than a second, from two."""
    flow = Flow(first=2, most=16, now=0.0, round_trip_s=0.0)
    run(flow, lambda lines: lines * 25 * MB, 0.8)
    assert 16 == flow.target


def test_a_connection_is_not_judged_before_it_came_to_speed() -> None:
    """At 50 ms a new one brings next to nothing for a quarter of a second, and that says nothing about the line."""
    flow, received, in_use = Flow(first=8, most=16, now=0.0, round_trip_s=0.05), 0, [0.0] * 8
    for tenth in range(1, 21):
        now = tenth / 10
        received += sum(int(2.5 * MB) for began in in_use if now - began > 0.3)
        in_use = [*in_use, *[now] * (flow.tick(now, received) - len(in_use))]
    assert 16 == flow.target


def test_where_the_total_is_the_limit_more_connections_are_taken_back() -> None:
    """On loopback two connections keep the hash busy; sixteen would only share the cores."""
    flow = Flow(first=2, most=16, now=0.0, round_trip_s=0.0)
    run(flow, lambda lines: 1500 * MB, 1.0)
    assert 2 == flow.target


def test_trouble_halves_once_however_many_connections_report_it() -> None:
    flow = Flow(first=16, most=16, now=0.0, round_trip_s=0.0)
    assert [8, 8, 8] == [flow.trouble(10.0), flow.trouble(10.1), flow.trouble(10.9)]
    assert [4, 2, 1, 1] == [flow.trouble(12.0), flow.trouble(14.0), flow.trouble(16.0), flow.trouble(18.0)]


def test_after_trouble_connections_come_back_one_by_one_if_they_bring_something() -> None:
    flow = Flow(first=16, most=16, now=0.0, round_trip_s=0.0)
    flow.trouble(1.0)
    now, received = run(flow, lambda lines: lines * 25 * MB, 58.0, start=1.0)
    assert 15 == flow.target
    run(flow, lambda lines: lines * 25 * MB, 20.0, start=now, received=received)
    assert 16 == flow.target


def test_a_number_that_the_server_refuses_is_not_tried_again_and_again() -> None:
    """It allows four: sixteen, eight, four, one more after a while, and four from then on."""
    flow, now, received, seen = Flow(first=16, most=16, now=0.0, round_trip_s=0.05), 0.0, 0, []
    while now < 50.0:
        now += 0.1
        received += int(min(flow.target, 4) * 2.5 * MB)
        flow.tick(now, received)
        if flow.target > 4:
            flow.trouble(now)
        seen.append(flow.target)
    assert 4 == min(seen)
    assert [4] * 350 == seen[-350:]


def test_a_server_that_limits_requests_says_by_its_answers_how_many_it_bears() -> None:
    """Sixteen asked, four are answered: four it is, one and a half round trips later, and not eight, four, two."""
    flow = Flow(first=16, most=16, now=0.0, round_trip_s=0.05)
    assert 8 == flow.refused(10.0, served=1), "the others' answers may be on their way"
    assert 8 == flow.refused(10.05, served=4)
    assert 4 == flow.refused(10.1, served=4)
    assert flow.limited
    reach = flow.reach
    assert (4, reach) == (flow.refused(10.12, served=4), flow.reach), "one of the crowd of before teaches nothing"
    assert [4, 4] == [flow.refused(11.0, served=4), flow.refused(13.0, served=3)], "it refuses what comes too early"
    assert 2 == flow.trouble(20.0), "a timeout is none of that"


def test_where_requests_are_limited_the_next_is_sent_ever_earlier_until_it_is_refused() -> None:
    flow = Flow(first=4, most=4, now=0.0, round_trip_s=0.05)
    flow.served()
    assert 1.0 == flow.reach, "nobody limits anything"
    flow.refused(1.0, served=4)
    for _ in range(100):
        flow.served()
    most = flow.reach
    assert most > 4.0
    flow.refused(2.0, served=4)
    assert 1.0 <= flow.reach < most
    run(flow, lambda lines: lines * 25 * MB, 80.0, start=2.0)
    assert (False, 1.0) == (flow.limited, flow.reach), "a minute without a refusal: perhaps it has more room now"


def test_a_request_makes_room_a_round_trip_before_its_end_where_that_helps() -> None:
    assert 0.05 == room_before_end(0.05, 16, reach=1.0)
    assert 0.2 == room_before_end(0.05, 16, reach=4.0)
    assert 0.0 == room_before_end(0.0005, 16, reach=4.0), "on loopback there is nothing to win"
    assert 0.0 == room_before_end(0.05, 1, reach=4.0), "who asks for one connection gets one"


@given(st.integers(1, 64), st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10**10), st.booleans()), max_size=80))
def test_the_target_stays_between_one_and_the_most(most: int, steps: list[tuple[float, int, bool]]) -> None:
    flow, now, received = Flow(first=first_connections(0.05, most), most=most, now=0.0, round_trip_s=0.0), 0.0, 0
    for passed, came, trouble in steps:
        now, received = now + passed, received + came
        assert 1 <= (flow.trouble(now) if trouble else flow.tick(now, received)) <= most


def test_only_a_fast_and_short_line_is_written_past_the_cache() -> None:
    assert past_cache(600 * MB, far=False)
    assert not past_cache(200 * MB, far=False)
    assert not past_cache(600 * MB, far=True)


def test_requests_span_more_where_a_round_trip_costs_more() -> None:
    """At 50 ms and 25 MB/s a request of 16 MiB would be silent for 7 % of its time."""
    mib8 = 8 << 20
    assert 2 == segment_blocks(0.0002, 800 * MB, mib8, left=200, lines=2)
    assert 5 == segment_blocks(0.05, 25 * MB, mib8, left=400, lines=16)
    assert 1 == segment_blocks(0.05, 25 * MB, mib8, left=20, lines=16)
    assert 8 == segment_blocks(0.3, 100 * MB, mib8, left=4000, lines=16)
    assert 1 == segment_blocks(0.001, 25 * MB, mib8, left=400, lines=16), "asked for ahead, it is hardly ever silent"


def test_the_first_requests_differ_in_length() -> None:
    """Sixteen that end together leave the line silent together."""
    assert [1, 2, 3, 4, 1] == [segment_blocks(0.05, 0.0, 8 << 20, 400, 16, under_way=n) for n in range(5)]


def test_only_the_far_slower_with_much_left_are_given_up() -> None:
    rates = {"a": (25.0, 3.0), "b": (24.0, 9.0), "slow": (2.0, 30.0), "slow, but almost done": (2.0, 1.0)}
    assert ["slow"] == laggards(rates, [])
    assert [] == laggards({"a": (25.0, 3.0), "slow": (2.0, 30.0)}, []), "two say nothing about what is usual"
    assert ["slow"] == laggards({"slow": (2.0, 30.0)}, [25.0, 24.0]), "the last one has no peers but those before it"
    assert [] == laggards(dict.fromkeys("abcd", (2.0, 60.0)), [25.0] * 9), "a slow line is not a slow connection"


def test_no_connection_is_added_while_what_came_waits_to_be_hashed() -> None:
    """More connections would only share the hash, and spread the file over memory that is not there."""
    flow = Flow(first=2, most=16, now=0.0, round_trip_s=0.0)
    assert [2] * 100 == [flow.tick(number / 10, number * 10**8, enough=True) for number in range(1, 101)]
