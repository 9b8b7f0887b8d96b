"""`mirror.toml`: what a mirror holds and how it is kept; every problem of a file is told at once, with its line."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from fetchverify.core.manifest import RepoKind, RepoRef
from fetchverify.core.paths import shown
from fetchverify.core.reference import parse_reference
from fetchverify.core.units import parse_rate
from fetchverify.errors import FetchverifyError

MirrorLayout: TypeAlias = Literal["cache", "folders"]

_ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/\*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WINDOW = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")
_DAY_MIN = 24 * 60
_MOST_CONNECTIONS = 64
_MOST_KEPT = 1_000_000

TEMPLATE = """\
# A mirror for `fetchverify mirror sync`; `fetchverify mirror check` says what is wrong with this file.

# Where the mirror lies; relative paths begin here.
folder = "mirror"

# "cache": a cache that clients use by HF_HUB_CACHE (over NFS, say), with HF_HUB_OFFLINE=1.
# "folders": org/name/COMMIT/ with plain files, and a link `main` to the newest.
layout = "cache"

# The first is trusted for what a repo holds, bytes may come from any.
# endpoints = ["https://huggingface.co"]

# Where the access token stands; without one of these, the hub's own rules hold (HF_TOKEN, `hf auth login`).
# token_file = "/etc/fetchverify/token"
# token_env = "MIRROR_TOKEN"

# Local time in which bytes are fetched; a run that comes later waits for the next one.
# window = "22:00-06:00"

# limit_rate = "50M"      # bytes a second, of all connections together
# connections = 16
# keep = 2                # commits of each revision that stay
# purge = false           # true: what is gone upstream is removed here; else it is kept and reported
# prometheus = "/var/lib/node_exporter/fetchverify.prom"

# [hooks]
# success = ["/usr/local/bin/after-sync"]     # every repo is fresh
# failure = ["/usr/local/bin/tell-someone"]
# change = ["/usr/local/bin/reload-models"]   # once a repo that changed; see FETCHVERIFY_REPO, FETCHVERIFY_PATH
# ping = "https://hc-ping.com/UUID"           # also UUID/start and UUID/fail

[[repo]]
id = "org/name"
# type = "model"          # or "dataset", "space"
# revisions = ["main"]
# include = ["*.safetensors", "*.json"]
# exclude = ["original/*"]
# keep = 3

# [[repo]]
# id = "org/*"            # every repo of an account
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a line of the file, counted from 1; 0 is the file as a whole."""

    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Minutes of the day in which bytes are fetched; one that stops before it starts goes over midnight."""

    start: int
    stop: int

    def minutes_left(self, minute: int) -> int:
        """Return how long it stays open at this minute of the day; 0 where it is closed."""
        length = (self.stop - self.start) % _DAY_MIN or _DAY_MIN
        return max(0, length - (minute - self.start) % _DAY_MIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Commands with their arguments, empty for none, and the address that hears of each run."""

    success: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    ping: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A repo, or all repos of an account.

    Attributes:
        repo_id: `org/name`, or `org/*`.
        keep: commits of each revision that stay.
    """

    repo_id: str
    kind: RepoKind = "model"
    revisions: tuple[str, ...] = ("main",)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: int = 2

    @property
    def selection(self) -> str:
        """A name for what the patterns choose."""
        chosen = json.dumps([self.include, self.exclude]).encode()
        return hashlib.sha256(chosen).hexdigest()[:16]

    @property
    def author(self) -> str | None:
        """The account whose every repo is meant, or None."""
        return self.repo_id[:-2] if self.repo_id.endswith("/*") else None

    def means(self, ref: RepoRef) -> bool:
        """Return whether this entry asks for the revision; one for its account may do so as well."""
        named = self.repo_id == ref.repo_id if self.author is None else ref.repo_id.startswith(f"{self.author}/")
        return named and self.kind == ref.kind and ref.revision in self.revisions


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorConfig:
    """A whole `mirror.toml`; paths as they stand there."""

    folder: str
    entries: tuple[Entry, ...]
    layout: MirrorLayout = "cache"
    endpoints: tuple[str, ...] = ()
    token_file: str | None = None
    token_env: str | None = None
    window: Window | None = None
    limit_rate: int | None = None
    connections: int = 16
    purge: bool = False
    prometheus: str | None = None
    hooks: Hooks = field(default_factory=Hooks)


def parse(text: str) -> tuple[MirrorConfig | None, tuple[Problem, ...]]:
    """Return what a `mirror.toml` says, and what is wrong with it; with any problem there is no config."""
    try:
        body = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where = re.search(r"\(at line (\d+), column \d+\)", str(error))
        message = f"no TOML: {shown(str(error).partition(' (at ')[0])}"
        line = int(where[1]) if where else len(text.rstrip("\n").split("\n"))  # "at end of document"
        return None, (Problem(line=line, message=message),)
    lines = dict(_lines(text))
    top = _Table(body, lines, ())
    keep = top.number("keep", 2, least=1, most=_MOST_KEPT)
    config = MirrorConfig(
        folder=top.text("folder", required=True) or "",
        layout=top.choice("layout", get_args(MirrorLayout), "cache"),
        endpoints=top.texts("endpoints", check=_endpoint),
        token_file=top.text("token_file"),
        token_env=top.text("token_env", check=_variable),
        window=top.value("window", _window),
        limit_rate=top.value("limit_rate", parse_rate),
        connections=top.number("connections", 16, least=1, most=_MOST_CONNECTIONS),
        purge=top.flag("purge"),
        prometheus=top.text("prometheus"),
        hooks=_hooks(top),
        entries=tuple(_entry(table, keep) for table in top.tables("repo")),
    )
    top.end()
    named: set[tuple[str, str]] = set()
    for number, entry in enumerate(config.entries):
        if entry.repo_id and (entry.kind, entry.repo_id) in named:
            top.say_of(("repo", number), f"`{entry.repo_id}` is named twice; give one entry several `revisions`")
        named.add((entry.kind, entry.repo_id))
    if config.token_file is not None and config.token_env is not None:
        top.say("token_env", "`token_file` and `token_env` exclude each other")
    if not config.entries and not top.problems:
        top.say("repo", "no [[repo]]: there is nothing to mirror")
    problems = sorted(top.problems, key=lambda problem: problem.line)
    return (None if problems else config), tuple(problems)


def _hooks(top: _Table) -> Hooks:
    table = top.table("hooks")
    if table is None:
        return Hooks()
    commands = {name: table.texts(name) for name in ("success", "failure", "change")}
    hooks = Hooks(**commands, ping=table.text("ping", check=_endpoint))
    table.end()
    return hooks


def _entry(table: _Table, keep: int) -> Entry:
    kind: RepoKind = table.choice("type", get_args(RepoKind), "model")
    repo_id = table.text("id", required=True, check=lambda text: _repo_id(text, kind)) or ""
    entry = Entry(
        repo_id=repo_id,
        kind=kind,
        revisions=table.texts("revisions", check=lambda text: _revision(text, kind)) or ("main",),
        include=table.texts("include"),
        exclude=table.texts("exclude"),
        keep=table.number("keep", keep, least=1, most=_MOST_KEPT),
    )
    table.end()
    return entry


# --- one value -----------------------------------------------------------------------------------------------


def _endpoint(text: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("write an address such as https://huggingface.co, without user or password")


def _variable(text: str) -> None:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("write the name of a variable, such as HF_TOKEN")


def _repo_id(text: str, kind: RepoKind) -> None:
    if _ORG.fullmatch(text):
        return
    try:
        ref = parse_reference(text, kind=kind).ref
    except FetchverifyError as error:
        raise ValueError(error.message) from error
    if ref.repo_id != text:
        raise ValueError(f"write `{shown(ref.repo_id)}`, and the rest as `type` and `revisions`")


def _revision(text: str, kind: RepoKind) -> None:
    try:
        parse_reference("org/name", kind=kind, revision=text)
    except FetchverifyError as error:
        raise ValueError(error.message) from error


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise ValueError("write local times such as 22:00-06:00")
    numbers = [int(part) for part in found.groups()]
    return Window(start=numbers[0] * 60 + numbers[1], stop=numbers[2] * 60 + numbers[3])


class _Table:
    """One table of the file, read key by key; what nobody asked for is a problem at its end."""

    def __init__(self, body: Mapping[str, Any], lines: Mapping[tuple[object, ...], int], path: tuple[object, ...]):
        self._body = body
        self._lines = lines
        self._path = path
        self._asked: list[str] = []
        self.problems: list[Problem] = []

    def say(self, key: str, message: str) -> None:
        line = self._lines.get((*self._path, key)) or self._lines.get(self._path, 0)
        self.problems.append(Problem(line=line, message=message))

    def say_of(self, path: tuple[object, ...], message: str) -> None:
        self.problems.append(Problem(line=self._lines.get(path, 0), message=message))

    def _take(self, key: str, kind: type, what: str) -> Any:
        self._asked.append(key)
        value = self._body.get(key)
        if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
            return value
        self.say(key, f"`{key}` must be {what}")
        return None

    def text(self, key: str, *, required: bool = False, check: Callable[[str], object] | None = None) -> str | None:
        value: str | None = self._take(key, str, "text")
        if value is not None and self._is_good(key, value, check):
            return value
        if required and key not in self._body:
            self.say(key, f"`{key}` is missing")
        return None

    def _is_good(self, key: str, value: str, check: Callable[[str], object] | None) -> bool:
        try:
            if not value.strip() or "\0" in value:
                raise ValueError("it is empty")
            if check is not None:
                check(value)
        except ValueError as error:
            self.say(key, f"`{key}`: `{shown(value)}`: {error}")
            return False
        return True

    def texts(self, key: str, *, check: Callable[[str], object] | None = None) -> tuple[str, ...]:
        values = self._take(key, list, "a list of texts") or []
        if not all(isinstance(value, str) for value in values):
            self.say(key, f"`{key}` must be a list of texts")
            return ()
        return tuple(value for value in values if self._is_good(key, value, check))

    def value(self, key: str, parse: Callable[[str], Any]) -> Any:
        value: str | None = self._take(key, str, "text")
        return parse(value) if value is not None and self._is_good(key, value, parse) else None

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> Any:
        value = self._take(key, str, f"one of {', '.join(allowed)}")
        if value is None or value in allowed:
            return value or default
        self.say(key, f"`{key}`: `{shown(value)}` is none of {', '.join(allowed)}")
        return default

    def number(self, key: str, default: int, *, least: int, most: int) -> int:
        value = self._take(key, int, "a number")
        if value is None or least <= value <= most:
            return default if value is None else value
        self.say(key, f"`{key}` must be {least} to {most:,}")
        return default

    def flag(self, key: str) -> bool:
        return bool(self._take(key, bool, "true or false"))

    def table(self, key: str) -> _Table | None:
        value = self._take(key, dict, f"a table, [{key}]")
        return None if value is None else self._within(value, key)

    def tables(self, key: str) -> Iterator[_Table]:
        values = self._take(key, list, f"a list of tables, [[{key}]]") or []
        for number, value in enumerate(values):
            if isinstance(value, dict):
                yield self._within(value, key, number)
            else:
                self.say(key, f"`{key}` must be a list of tables, [[{key}]]")

    def _within(self, value: Mapping[str, Any], *path: object) -> _Table:
        table = _Table(value, self._lines, (*self._path, *path))
        table.problems = self.problems
        return table

    def end(self) -> None:
        for key in self._body:
            if key not in self._asked:
                near = _near(key, self._asked)
                self.say(key, f"`{shown(key)}` is no key of this file" + (f"; is `{near}` meant?" if near else ""))


def _near(key: str, known: list[str]) -> str | None:
    import difflib

    found = difflib.get_close_matches(key, known, 1)
    return found[0] if found else None


def _lines(text: str) -> Iterator[tuple[tuple[object, ...], int]]:
    """Yield where each key and table of a valid file stands: statement by statement, as the parser itself sees them."""
    lines = text.split("\n")
    counts: dict[str, int] = {}
    path: tuple[object, ...] = ()
    at = 0
    while at < len(lines):
        stop, body = _statement(lines, at)
        if lines[at].lstrip().startswith("["):
            (key, value), *_ = body.items()
            if isinstance(value, list):
                counts[key] = counts.get(key, -1) + 1
                path = (key, counts[key])
            else:
                path = (key,)
            yield path, at + 1
            yield (key,), at + 1
        else:
            for key, value in body.items():
                yield (*path, key), at + 1
                if isinstance(value, dict):
                    yield from (((*path, key, inner), at + 1) for inner in value)
        at = stop


def _statement(lines: list[str], at: int) -> tuple[int, dict[str, Any]]:
    """Return where the statement that begins at a line ends, and what it says alone."""
    stop = at
    text = ""
    while stop < len(lines):
        text += lines[stop] + "\n"
        stop += 1
        try:
            return stop, tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
    return stop, {}
