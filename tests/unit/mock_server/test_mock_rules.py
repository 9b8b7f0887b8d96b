from typing import Any

import pytest

from mock_server import Cut, Delay, Flip, Match, Rule, Status
from mock_server.faults import FAULTS, Exchange, FaultBook, Nth
from mock_server.scenario import ScenarioError, bundled, load, parse


def exchange(**changes: Any) -> Exchange:
    given: dict[str, Any] = {
        "origin": "cdn",
        "route": "cdn",
        "method": "GET",
        "path": "/blobs/models/acme/m/00/x/w.safetensors",
        "file": "x/w.safetensors",
        "repo": "acme/m",
        "range": (0, 100),
        "token": None,
        "serves_bytes": True,
    }
    return Exchange(**{**given, **changes})


@pytest.mark.parametrize(
    ("nth", "expected"),
    [
        (2, [2]),
        ([1, 3], [1, 3]),
        ("every", [1, 2, 3, 4]),
        ("every 2", [2, 4]),
        ("first 3", [1, 2, 3]),
        ("from 3", [3, 4]),
    ],
)
def test_nth_counts_the_matching_requests_from_one(nth: Nth, expected: list[int]) -> None:
    book = FaultBook([Rule(fault=Delay(seconds=1), nth=nth)])
    assert expected == [number for number in range(1, 5) if book.pick(exchange())]


@pytest.mark.parametrize(
    ("match", "accepted"),
    [
        ({}, True),
        ({"method": "get"}, True),
        ({"method": "HEAD"}, False),
        ({"path": "x/w.safetensors"}, True),
        ({"path": "*.safetensors"}, True),
        ({"path": "w.safetensors"}, False),
        ({"path": "/blobs/*"}, True),
        ({"regex": r"w\.safe"}, True),
        ({"route": "cdn"}, True),
        ({"route": "tree"}, False),
        ({"origin": "hub"}, False),
        ({"repo": "acme/*"}, True),
        ({"start": 0}, True),
        ({"start": 1}, False),
        ({"covers": 99}, True),
        ({"covers": 100}, False),
        ({"token": "none"}, True),
        ({"token": "any"}, False),
        ({"token": "hf_demo"}, False),
    ],
)
def test_a_rule_looks_at_what_it_names(match: dict[str, Any], accepted: bool) -> None:
    assert accepted == Match(**match).accepts(exchange())


def test_faults_of_bodies_do_not_count_heads_and_redirects() -> None:
    """`nth=2` then is the second body, whatever a client asks before it."""
    book = FaultBook([Rule(fault=Cut(after=1), nth=2)])
    asked = [
        exchange(method="HEAD", route="resolve", serves_bytes=False),
        exchange(route="resolve", serves_bytes=False),
        exchange(),
        exchange(),
    ]
    assert [(), (), (), (Cut(after=1),)] == [book.pick(each) for each in asked]


def test_faults_of_bodies_reach_the_api_when_it_is_named() -> None:
    book = FaultBook([Rule(fault=Cut(after=1), match=Match(route="tree"))])
    assert (Cut(after=1),) == book.pick(exchange(route="tree", serves_bytes=False))


def test_several_rules_may_hit_one_request() -> None:
    book = FaultBook([Rule(fault=Flip(offset=1)), Rule(fault=Status(code=500), nth=1)])
    assert (Flip(offset=1), Status(code=500)) == book.pick(exchange())
    book.clear()
    assert book.pick(exchange()) == ()


def test_every_fault_has_a_scenario_and_every_scenario_is_explained() -> None:
    scenarios = [load(name) for name in bundled()]
    assert set(FAULTS) == {type(rule.fault) for each in scenarios for rule in each.rules}
    assert [each.name for each in scenarios if not each.about.endswith(".") or not each.rules] == []


def test_a_scenario_is_its_rules() -> None:
    text = """
        about = "x"
        [[rule]]
        nth = "first 2"
        match = { path = "*.bin", route = "cdn" }
        fault = { kind = "cut", after = 5, reset = true }
        [[rule]]
        fault = { kind = "delay", seconds = 1 }
    """
    assert (
        Rule(fault=Cut(after=5, reset=True), match=Match(path="*.bin", route="cdn"), nth="first 2"),
        Rule(fault=Delay(seconds=1.0)),
    ) == parse(text).rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x =", "scenario: Invalid value"),
        ("color = 1", "scenario: unknown key `color`; known: about, rule"),
        ("rule = 3", "scenario: write rules as `[[rule]]`"),
        ("\n[[rule]]\nfoo = 1", "scenario: rule 1 (line 2): unknown key `foo`"),
        ("[[rule]]", "scenario: rule 1 (line 1): no `fault`"),
        ('[[rule]]\nfault = { kind = "nope" }', "scenario: rule 1 (line 1): unknown fault kind `nope`; one of "),
        ('[[rule]]\nfault = { kind = "flip" }', "scenario: rule 1 (line 1): flip: `offset` is missing"),
        ('[[rule]]\nfault = { kind = "flip", offset = "a" }', "flip: `offset` cannot be `a`"),
        ('[[rule]]\nfault = { kind = "flip", offset = 1, x = 2 }', "flip: unknown key `x`; known: mask, offset"),
        ('[[rule]]\nmatch = { route = "x" }\nfault = { kind = "gzip" }', "match: `route` cannot be `x`"),
        ('[[rule]]\nmatch = { regex = "(" }\nfault = { kind = "gzip" }', "rule 1 (line 1): missing )"),
        ('[[rule]]\nnth = "often"\nfault = { kind = "gzip" }', "nth `often` is none of"),
        ('[[rule]]\nnth = 1.5\nfault = { kind = "gzip" }', "`nth` cannot be `1.5`"),
    ],
)
def test_what_is_wrong_in_a_scenario_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_missing_scenario_is_an_error_that_names_the_bundled_ones() -> None:
    with pytest.raises(ScenarioError, match=r"cannot read the scenario `nope`.*cut-reset"):
        load("nope")
