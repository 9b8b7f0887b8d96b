"""Rules of faults read from TOML; what is unknown there is an error that says where.

about = "One byte of the first shard is wrong."

[[rule]]
nth = 1
match = { path = "*.safetensors", route = "cdn" }
fault = { kind = "flip", offset = 4096 }
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mock_server.faults import FAULTS, Fault, Match, Nth, Rule, kind_of_type

FOLDER = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """A scenario file that cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A named list of rules."""

    name: str
    about: str
    rules: tuple[Rule, ...]


def bundled() -> list[str]:
    """Return the names of the scenarios that come with the mock Hub."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(path: str | Path) -> Scenario:
    """Return the scenario in a file, or a bundled one by its bare name.

    Raises:
        ScenarioError: there is no such file, or something in it is unknown or of the wrong type.
    """
    file = Path(path)
    if not file.exists() and file.name == str(path) and (FOLDER / f"{path}.toml").exists():
        file = FOLDER / f"{path}.toml"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(
            f"cannot read the scenario `{path}`: {error.strerror}; bundled ones: {', '.join(bundled())}"
        ) from error
    return parse(text, name=file.stem)


def parse(text: str, *, name: str = "scenario") -> Scenario:
    """Return the scenario a TOML text describes.

    Raises:
        ScenarioError: with the line, for bad TOML, or the number of the rule and its line.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{name}: {error}") from error
    _refuse_unknown(data, {"about", "rule"}, f"{name}")
    rules = data.get("rule", [])
    if not isinstance(rules, list):
        raise ScenarioError(f"{name}: write rules as `[[rule]]`")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.replace(" ", "").startswith("[[rule]]")]
    made = []
    for index, rule in enumerate(rules):
        where = f"{name}: rule {index + 1}" + (f" (line {lines[index]})" if len(lines) == len(rules) else "")
        made.append(_rule(rule, where))
    return Scenario(name=name, about=str(data.get("about", "")), rules=tuple(made))


def _rule(data: Any, where: str) -> Rule:
    if not isinstance(data, dict):
        raise ScenarioError(f"{where}: write rules as `[[rule]]`")
    _refuse_unknown(data, {"nth", "match", "fault"}, where)
    if "fault" not in data:
        raise ScenarioError(f"{where}: no `fault`")
    nth: Nth = data.get("nth", "every")
    numbers = nth if isinstance(nth, list) else [nth]
    if not isinstance(nth, str) and not all(type(number) is int for number in numbers):
        raise ScenarioError(f"{where}: `nth` cannot be `{nth}`")
    try:
        match = Match(**_arguments(Match, data.get("match", {}), f"{where}: match"))
        return Rule(fault=_fault(data["fault"], where), match=match, nth=nth)
    except (TypeError, ValueError, re.error) as error:
        raise error if isinstance(error, ScenarioError) else ScenarioError(f"{where}: {error}") from error


def _fault(data: Any, where: str) -> Fault:
    kinds = {kind_of_type(fault): fault for fault in FAULTS}
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in kinds:
        raise ScenarioError(f"{where}: unknown fault kind `{kind}`; one of {', '.join(sorted(kinds))}")
    given = {key: value for key, value in data.items() if key != "kind"}
    fault = kinds[kind]
    return fault(**_arguments(fault, given, f"{where}: {kind}"))


def _arguments(owner: type[Any], data: Any, where: str) -> dict[str, Any]:
    """Return TOML values as keyword arguments, checked against the dataclass."""
    if not isinstance(data, dict):
        raise ScenarioError(f"{where}: write a table `{{ key = value }}`")
    known = {item.name: item for item in fields(owner)}
    _refuse_unknown(data, set(known), where)
    for name, item in known.items():
        if item.default is MISSING and item.default_factory is MISSING and name not in data:
            raise ScenarioError(f"{where}: `{name}` is missing")
    hints = get_type_hints(owner)
    return {key: _value(value, hints[key], f"{where}: `{key}`") for key, value in data.items()}


def _value(value: Any, hint: Any, where: str) -> Any:
    options = [hint] if get_origin(hint) is not None and not _is_union(hint) else list(get_args(hint)) or [hint]
    for option in options:
        shape = get_origin(option) or option
        if shape is tuple and isinstance(value, list):
            return tuple(str(item) for item in value)
        if shape is Mapping and isinstance(value, dict):
            return {str(key): str(item) for key, item in value.items()}
        if shape is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if shape in {int, str, bool} and type(value) is shape:
            return value
        if isinstance(value, str) and value in get_args(option):  # a Literal
            return value
    raise ScenarioError(f"{where} cannot be `{value}`")


def _is_union(hint: Any) -> bool:
    return type(None) in get_args(hint) or str(get_origin(hint)) == "<class 'types.UnionType'>"


def _refuse_unknown(data: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise ScenarioError(f"{where}: unknown key `{key}`; known: {', '.join(sorted(known))}")
