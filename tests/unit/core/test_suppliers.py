"""Whom to ask, whom to pass over, whom to suspect."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fetchverify.core.retry import Failure, Reason
from fetchverify.core.suppliers import (
    EARLIER,
    FIRST,
    Question,
    Supply,
    name_liars,
    next_supplier,
    questions,
    scope,
)

MiB = 1 << 20
BLOCK = 8 * MiB


def supply(number: int, active: int, rate: float, most: int = 1 << 20) -> Supply:
    return Supply(number=number, active=active, most=most, rate=rate * MiB)


def spread(rates: list[float], lines: int, free_bytes: int = 1000 * BLOCK) -> list[int]:
    """Hand out `lines` connections one by one."""
    active = [0] * len(rates)
    for _ in range(lines):
        supplies = [supply(n, active[n], rate) for n, rate in enumerate(rates)]
        chosen = next_supplier(supplies, free_bytes=free_bytes, block_size=BLOCK)
        assert chosen is not None
        active[chosen] += 1
    return active


def test_connections_go_where_bytes_come_from() -> None:
    assert [8, 8] == spread([50, 50], 16)
    assert [12, 4] == spread([60, 20], 16)
    assert [16, 0] == spread([100, 1], 16)


def test_who_was_never_asked_is_asked_once() -> None:
    supplies = [supply(0, 3, 100), supply(1, 0, 0), supply(2, 0, 0)]
    assert 1 == next_supplier(supplies, free_bytes=100 * BLOCK, block_size=BLOCK)


def test_a_slow_one_does_not_hold_the_end() -> None:
    """Its next block would take 8 s; the others are through in one."""
    supplies = [supply(0, 8, 50), supply(1, 0, 1)]
    assert 1 == next_supplier([supply(0, 60, 50), supply(1, 0, 1)], free_bytes=10000 * BLOCK, block_size=BLOCK)
    assert 0 == next_supplier(supplies, free_bytes=50 * BLOCK, block_size=BLOCK)
    assert 0 == next_supplier(supplies, free_bytes=0, block_size=BLOCK)


def test_nobody_is_asked_for_more_than_it_bears() -> None:
    supplies = [supply(0, 4, 50, most=4), supply(1, 0, 40, most=1)]
    assert 1 == next_supplier(supplies, free_bytes=100 * BLOCK, block_size=BLOCK)
    assert None is next_supplier(supplies[:1], free_bytes=100 * BLOCK, block_size=BLOCK)
    assert None is next_supplier([], free_bytes=100 * BLOCK, block_size=BLOCK)


SUPPLIES = st.lists(
    st.builds(
        Supply,
        number=st.just(0),
        active=st.integers(0, 20),
        most=st.integers(1, 20),
        rate=st.one_of(st.just(0.0), st.floats(1, 1e10)),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda some: [
        Supply(number=number, active=one.active, most=one.most, rate=one.rate) for number, one in enumerate(some)
    ]
)


@given(SUPPLIES, st.integers(0, 1 << 40))
def test_the_fastest_is_never_refused_while_it_has_room(supplies: list[Supply], free_bytes: int) -> None:
    """A file must not starve while somebody could give it."""
    chosen = next_supplier(supplies, free_bytes=free_bytes, block_size=BLOCK)
    fastest = max(supplies, key=lambda one: one.rate)
    if fastest.rate and fastest.active < fastest.most:
        assert chosen is not None
    if chosen is not None:
        assert supplies[chosen].active < supplies[chosen].most


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure(reason=Reason.ABSENT, status=404, code="EntryNotFound"), "file"),
        (Failure(reason=Reason.ABSENT, status=404), "file"),
        (Failure(reason=Reason.ABSENT, status=404, code="RepoNotFound"), "run"),
        (Failure(reason=Reason.DENIED, status=403), "run"),
        (Failure(reason=Reason.CONNECT), "run"),
        (Failure(reason=Reason.RANGE_IGNORED), "file"),
        (Failure(reason=Reason.CONTRADICTED), "file"),
    ],
)
def test_what_a_failure_says_about_the_next_file(failure: Failure, expected: str) -> None:
    assert expected == scope(failure)


def test_the_first_is_believed_first_and_liars_are_suspected_first() -> None:
    came = {index: frozenset((giver,)) for index, giver in enumerate([0, 1, 1, 1, 2, 2, 0])}
    asked = list(questions(came, [0, 1, 2], liars=[1]))
    assert Question(witness=0, suspect=1, indexes=(1, 2, 3)) == asked[0]
    assert Question(witness=0, suspect=2, indexes=(4, 5)) == asked[1]
    assert [0, 0, 2, 2, 1, 1] == [question.witness for question in asked], "a known liar is believed last"
    assert Question(witness=0, suspect=2, indexes=(4, 5)) == next(questions(came, [0, 1, 2], liars=[]))


def test_with_nobody_else_there_is_nothing_to_ask() -> None:
    assert [] == list(questions({0: frozenset((FIRST,))}, [FIRST], []))


CAME = st.dictionaries(st.integers(0, 40), st.frozensets(st.integers(EARLIER, 3), min_size=1, max_size=2), min_size=1)


@given(CAME, st.lists(st.integers(0, 3), unique=True), st.sets(st.integers(0, 3)))
def test_every_block_of_others_is_asked_once_of_each_witness(
    came: dict[int, frozenset[int]], witnesses: list[int], liars: set[int]
) -> None:
    asked: dict[int, list[int]] = {witness: [] for witness in witnesses}
    for question in questions(came, witnesses, liars):
        assert all(question.suspect in came[index] for index in question.indexes)
        asked[question.witness] += question.indexes
    for witness, indexes in asked.items():
        assert sorted(index for index, givers in came.items() if givers != {witness}) == sorted(indexes)


@given(st.data())
def test_some_witness_and_its_answers_mend_any_file_with_one_liar(data: st.DataObject) -> None:
    """Whoever lies, and however often: with two others' word, or one, the right file is found."""
    count = data.draw(st.integers(2, 4), "suppliers")
    came = {i: frozenset((data.draw(st.integers(0, count - 1)),)) for i in range(data.draw(st.integers(1, 12)))}
    liar = data.draw(st.integers(0, count - 1), "liar")
    lies = data.draw(st.sets(st.sampled_from(sorted(came))), "lies")
    wrong = {index for index, givers in came.items() if liar in givers and index in lies}
    assume(wrong)
    mended: dict[int, frozenset[int]] | None = None
    replaced: dict[int, frozenset[int]] = {}
    believed = None
    for question in questions(came, range(count), []):
        if question.witness != believed:
            believed, replaced = question.witness, {}
        for index in question.indexes:
            told_wrong = believed == liar and index in lies
            if told_wrong != (index in wrong):
                replaced[index] = came[index]
        still = (wrong - replaced.keys()) | {i for i in replaced if believed == liar and i in lies}
        if not still and mended is None:
            mended = dict(replaced)
            assert frozenset((liar,)) == name_liars(mended, question.witness)
    assert mended is not None


def test_a_block_of_two_givers_is_laid_to_the_known_liar() -> None:
    assert frozenset((1,)) == name_liars({0: frozenset((1,)), 1: frozenset((1, 2))}, 0)
    assert frozenset((1, 2)) == name_liars({1: frozenset((1, 2))}, 0)
    assert frozenset((2,)) == name_liars({1: frozenset((0, 2))}, 0)
    assert frozenset() == name_liars({1: frozenset((EARLIER,))}, 0)
