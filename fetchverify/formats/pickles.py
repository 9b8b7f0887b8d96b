"""What a pickle would build, with nothing executed or imported: names of callables are kept as names.

A pickle is a program. This machine runs its stack and memo, but where a pickle calls something, it puts down a note of
the call (`Made`). What the pickle may ask for is bounded: memory by a budget that every step is charged to, time by the
number of steps. `pickle.Unpickler` with a list of allowed names is no substitute: its memo takes 1 GiB for a few bytes,
and `BUILD` can rewrite a function that was handed out. Source: `pickletools` of CPython 3.13.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from typing import Any

from fetchverify.formats.source import Malformed

MOST_PICKLE_BYTES = 12 << 20
_BUDGET_BYTES = 40 << 20
_MOST_STEPS = 2_000_000
_LONGEST_NUMBER = 64


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something that the pickle would import."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Return `module.name`."""
        return f"{self.module}.{self.name}"


class Made:
    """What a call would have made: who is called, with what, and what is put into it afterwards.

    Its hash is its identity: comparing what a hostile pickle nests could take forever.
    """

    __slots__ = ("args", "callee", "items", "state")

    def __init__(self, callee: object, args: object) -> None:
        self.callee = callee
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []  # appended values, or pairs

    @property
    def path(self) -> str:
        """Return the name of what would be called; empty where that is no plain name."""
        return self.callee.path if isinstance(self.callee, Global) else ""


class Persistent:
    """A reference to something outside the pickle: in torch's files a storage."""

    __slots__ = ("key",)

    def __init__(self, key: object) -> None:
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """The end of a walk.

    Attributes:
        value: what the pickle builds: None, bool, int, float, str, bytes, list, tuple, dict, set, and the notes above.
        imports: `module.name` of all that it would import, in order, each once.
        stop: how many bytes the pickle takes.
    """

    value: Any
    imports: tuple[str, ...]
    stop: int


class _Mark:
    __slots__ = ()


_MARK = _Mark()


def walk(data: bytes, start: int = 0) -> Walked:
    """Return what the pickle at `start` would build.

    Raises:
        Malformed: it is no pickle, is cut short, or asks for more than it may.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    stream.seek(start)
    place = start
    try:
        for number, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            place = at or 0
            if number > _MOST_STEPS:
                raise Malformed("FV125", f"the pickle takes more than {_MOST_STEPS:,} steps")
            machine.step(opcode.name, argument)
            if machine.spent > _BUDGET_BYTES:
                raise Malformed("FV125", "the pickle would build more than is looked at")
        value = machine.pop()
    # The warning: `pickletools` passes on what `codecs` thinks of odd escapes, an error where warnings are errors.
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError, RecursionError, Warning) as error:
        raise Malformed("FV123", f"the pickle is damaged at byte {place:,}: {_why(error)}") from None
    return Walked(value=value, imports=tuple(machine.imports), stop=stream.tell())


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


class _Machine:
    """The stack, the memo, and what was spent."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.imports: dict[str, None] = {}
        self.spent = 0

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def push(self, value: object, cost: int = 8) -> None:
        self.spent += cost
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        """Return what lies above the last mark, and drop both."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                found = self.stack[index + 1 :]
                del self.stack[index:]
                self.spent += 8 * len(found)
                return found
        raise ValueError("no mark on the stack")

    def step(self, name: str, argument: Any) -> None:  # a table of opcodes, each a line or two
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                if argument.bit_length() > 8 * _LONGEST_NUMBER:
                    raise ValueError("a number of absurd length")
                self.push(argument, 40)
            case "FLOAT" | "BINFLOAT":
                self.push(argument, 32)
            case (
                "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8"
            ):
                self.push(argument, 60 + len(argument))
            case "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self.push(argument, 60 + 4 * len(argument))
            case "EMPTY_TUPLE":
                self.push(())
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                self.push({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[name](), 220)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                values = tuple(self.stack[-count:])
                if len(values) < count or _MARK in [value for value in values if isinstance(value, _Mark)]:
                    raise ValueError("too few values for a tuple")
                del self.stack[-count:]
                self.push(values, 80)
            case "TUPLE":
                self.push(tuple(self.to_mark()), 64)
            case "LIST":
                self.push(self.to_mark(), 64)
            case "DICT":
                made: dict[Any, Any] = {}
                self.put_items(made, self.to_mark())
                self.push(made, 64)
            case "FROZENSET":
                self.push(frozenset(_key(value) for value in self.to_mark()), 220)
            case "MARK":
                self.push(_MARK)
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.to_mark()
            case "DUP":
                self.push(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.remember(argument)
            case "MEMOIZE":
                self.remember(len(self.memo))
            case "GET" | "BINGET" | "LONG_BINGET":
                self.push(self.memo[argument])
            case "APPEND":
                value = self.pop()
                self.append(self.stack[-1], [value])
            case "APPENDS":
                values_ = self.to_mark()
                self.append(self.stack[-1], values_)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.put_items(self.stack[-1], [key, value])
            case "SETITEMS":
                pairs = self.to_mark()
                self.put_items(self.stack[-1], pairs)
            case "ADDITEMS":
                members = self.to_mark()
                self.append(self.stack[-1], members)
            case _:
                self.call(name, argument)

    def call(self, name: str, argument: Any) -> None:
        """Carry out the opcodes that would import or call: a note each."""
        match name:
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                self.name_global(module, attribute)
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise TypeError("a global whose name is no text")
                self.name_global(module, attribute)
            case "EXT1" | "EXT2" | "EXT4":
                self.name_global("copyreg", f"extension {argument}")
            case "REDUCE" | "NEWOBJ":
                arguments, callee = self.pop(), self.pop()
                self.push(Made(callee, arguments), 200)
            case "NEWOBJ_EX":
                named, arguments, callee = self.pop(), self.pop(), self.pop()
                self.push(Made(callee, (arguments, named)), 280)
            case "INST":
                module, _, attribute = argument.partition(" ")
                arguments = tuple(self.to_mark())
                self.name_global(module, attribute)
                self.push(Made(self.pop(), arguments), 200)
            case "OBJ":
                found = self.to_mark()
                self.push(Made(found[0], tuple(found[1:])), 200)
            case "BUILD":
                state = self.pop()
                target = self.stack[-1]
                if isinstance(target, Made):
                    target.state = state
            case "PERSID":
                self.push(Persistent(argument), 60)
            case "BINPERSID":
                self.push(Persistent(self.pop()), 60)
            case _:
                raise ValueError(f"the opcode {name}")

    def remember(self, index: int) -> None:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value should be")
        self.spent += 120 if index not in self.memo else 0
        self.memo[index] = self.stack[-1]

    def name_global(self, module: str, attribute: str) -> None:
        found = Global(module, attribute)
        self.imports.setdefault(found.path)
        self.push(found, 120 + len(found.path))

    def append(self, target: object, values: list[Any]) -> None:
        self.spent += 16 * len(values)
        match target:
            case list():
                target.extend(values)
            case set():
                target.update(_key(value) for value in values)
                self.spent += 120 * len(values)
            case Made():
                target.items.extend(values)
            case _:
                raise ValueError("values are added to what takes none")

    def put_items(self, target: object, flat: list[Any]) -> None:
        if len(flat) % 2:
            raise ValueError("a key without its value")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        self.spent += 120 * len(pairs)
        match target:
            case dict():
                for key, value in pairs:
                    target[_key(key)] = value
            case Made():
                target.items.extend(pairs)
            case _:
                raise ValueError("items are put into what takes none")


def _key(value: Any, depth: int = 0) -> Any:
    """Return the value where it may be hashed: nested tuples of a hostile pickle would take forever, or the stack."""
    if isinstance(value, tuple):
        if depth > 2 or len(value) > 64:
            raise ValueError("a key nested too deep")
        for item in value:
            _key(item, depth + 1)
    elif isinstance(value, (list, dict, set, frozenset)):
        raise TypeError("a key that cannot be hashed")
    return value
