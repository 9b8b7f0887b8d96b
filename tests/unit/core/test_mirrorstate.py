"""A mirror's book: what it says comes back, what is damaged is left out, and who failed often waits."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fetchverify.core.manifest import Commit, RepoRef
from fetchverify.core.mirrorstate import RepoState, parse, render

REF = RepoRef(kind="model", repo_id="org/name", revision="main")
ONE, TWO = Commit("1" * 40), Commit("2" * 40)
NOW = 1.8e9


def published(state: RepoState, commit: Commit, now: float) -> RepoState:
    return state.published(now, commit, selection="s", files=3, size=10)


def test_what_is_written_is_read() -> None:
    state = replace(published(published(RepoState(ref=REF), ONE, NOW), TWO, NOW + 1), damaged=(ONE,), renamed_to="o/n")
    assert {REF: state} == parse(render([state]))
    assert (ONE, TWO) == state.commits


@given(st.text(max_size=60), st.sampled_from(["commit", "commits", "failures", "checked", "repo_id", "type"]))
def test_what_is_damaged_is_left_out(junk: str, key: str) -> None:
    line = json.dumps({**published(RepoState(ref=REF), ONE, NOW).as_json(), key: junk})
    for state in parse(f'{{"version": 1}}\n{line}\n{junk}\n'.splitlines(keepends=True)).values():
        assert state.commit in (None, ONE)
        assert state.failures == 0
    assert {} == parse(junk.splitlines(keepends=True))


def test_after_failures_it_waits_longer_and_longer_but_never_more_than_a_day() -> None:
    state, waits = RepoState(ref=REF), []
    for _ in range(40):
        state = state.failed(NOW, "why")
        waits.append(max(0.0, state.next_try - NOW))
    assert [0.0] * 4 == waits[:4]
    assert [3600.0, 7200.0] == waits[4:6]
    assert 86400.0 == max(waits) == waits[-1]
    assert not state.is_due(NOW + 60)
    assert state.is_due(NOW + 86400)
    assert state.is_due(NOW - 10 * 86400), "a clock that was set back makes nobody wait for weeks"
    assert (40, state.next_try) == (state.unheard("down").failures, state.unheard("down").next_try)
    fresh = state.seen_fresh(NOW, etag=None, renamed_to=None)
    assert (0, None, True) == (fresh.failures, fresh.error, fresh.is_due(NOW))


def test_gone_is_no_failure_and_ends_when_it_is_back() -> None:
    twice = published(RepoState(ref=REF), ONE, NOW).missed(NOW + 1, "404").missed(NOW + 2, "404")
    assert not twice.may_purge(NOW + 1e9), "a clock that jumped makes years of two answers"
    state = twice.missed(NOW + 3, "404")
    assert (NOW + 1, 0) == (state.gone_since, state.failures)
    assert not state.may_purge(NOW + 86400)
    assert state.may_purge(NOW + 86402)
    assert NOW == twice.missed(NOW, "404").gone_since, "a clock that was ahead puts nothing off for years"
    assert not state.failed(NOW + 3, "500").may_purge(NOW + 1e7), "an error says nothing about what is gone"


def test_only_another_commit_is_a_change() -> None:
    first = published(RepoState(ref=REF), ONE, NOW)
    again = published(first, ONE, NOW + 5)
    assert (NOW, NOW + 5) == (again.changed, again.succeeded)
    assert NOW + 9 == published(again, TWO, NOW + 9).changed
