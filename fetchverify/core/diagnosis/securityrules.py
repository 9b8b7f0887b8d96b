"""What would run code: pickles, Python that comes with the model, programs among the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fetchverify.core.diagnosis.codes import finding
from fetchverify.core.diagnosis.facts import Content, FileSeen
from fetchverify.core.diagnosis.findings import Finding, Severity

# What weights and training states name. Seen in files of torch 1.6 to 2.14, transformers, DeepSpeed, verl, numpy.
_HARMLESS = re.compile(
    r"""
    collections\.(OrderedDict|defaultdict|Counter|deque)
    | torch\.(\w+Storage|Size|device|Tensor|dtype|\w*(float|int|bool|complex)\w*|half|double|short|long|strided)
    | torch\.(BoolTensor|(Byte|Char|Short|Int|Long|Half|Float|Double|BFloat16)Tensor)
    | torch\._utils\._rebuild_\w+ | torch\._tensor\._rebuild_from_type_v2 | torch\.storage\.\w+
    | torch\.nn\.parameter\.Parameter | torch\.serialization\._get_layout | torch\.random\.\w+
    | torch\.distributed\.(checkpoint\.(metadata|filesystem)|_shard|tensor|_tensor|device_mesh|_mesh_layout)\.[\w.]+
    | torch\.optim\.\w+\.\w+ | torch\.optim\.\w+
    | numpy\.(_?core)\.(multiarray|numeric)\.(_reconstruct|scalar|_frombuffer) | numpy\.(ndarray|dtype|dtypes\.\w+)
    | numpy\.random\.\w+\.\w+ | _codecs\.encode | copyreg\._reconstructor
    | (builtins|__builtin__)\.(set|frozenset|slice|range|complex|bytearray|bytes|list|dict|tuple|object)
    | (builtins|__builtin__)\.(int|float|bool|str)
    | argparse\.Namespace | datetime\.\w+ | enum\.\w+ | pathlib\.\w+ | types\.SimpleNamespace
    | deepspeed\.(runtime\.(zero|fp16)|utils)\.[\w.]+
    | transformers\.(trainer_utils|trainer_pt_utils|training_args)\.\w+
    | (trl|peft)\.[\w.]+Config | transformers\.integrations\.deepspeed\.\w+ | accelerate\.(state|utils)\.[\w.]+
    """,
    re.VERBOSE,
)
# What no model file has a reason to name.
_HARMFUL = re.compile(
    r"(os|posix|nt|sys|subprocess|commands|pty|socket|shutil|runpy|importlib|ctypes|webbrowser|requests|urllib|httpx?"
    r"|asyncio|multiprocessing|threading|code|codeop|timeit|bdb|pdb|operator|functools|types|marshal|pickle|tempfile)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|compile|open|getattr|setattr|__import__|globals|input|breakpoint|apply)"
    r"|torch\.(hub|jit|ops|package|utils\.(cpp_extension|collect_env))\..*|numpy\.(testing|f2py)\..*"
)
_TEXTS = (".py", ".txt", ".md")
_PROGRAM_ENDINGS = (".exe", ".dll", ".so", ".dylib", ".bat", ".cmd", ".ps1", ".sh", ".scr", ".msi", ".app")


def judge_security(files: Iterable[FileSeen]) -> Iterator[Finding]:
    """Yield what would run code."""
    for seen in files:
        yield from _pickles(seen)
        yield from _programs(seen)
        yield from _remote_code(seen)


def _pickles(seen: FileSeen) -> Iterator[Finding]:
    unknown = [name for name in seen.imports if not _HARMLESS.fullmatch(name)]
    harmful = [name for name in unknown if _HARMFUL.fullmatch(name)]
    names = ", ".join(f"`{name[:80]}`" for name in (harmful or unknown)[:5])
    if harmful:
        yield finding("FV501", seen.entry.path, f"its pickle calls {names}")
    elif unknown:
        yield finding("FV501", seen.entry.path, f"its pickle names {names}", severity=Severity.WARNING)


def _programs(seen: FileSeen) -> Iterator[Finding]:
    path = seen.entry.path
    name = path.rpartition("/")[2]
    if name == "zero_to_fp32.py":
        yield finding("FV505", path, "DeepSpeed puts it beside its checkpoints")
    elif name.lower().endswith(_PROGRAM_ENDINGS):
        yield finding("FV503", path, "its name is a program's")
    elif seen.sniffed.content is Content.PROGRAM and (seen.entry.executable or not name.endswith(_TEXTS)):
        yield finding("FV503", path, "its first bytes are a program's")


def _remote_code(seen: FileSeen) -> Iterator[Finding]:
    if not isinstance(seen.value, dict) or not isinstance(seen.value.get("auto_map"), dict):
        return
    named = [str(value)[:80] for value in seen.value["auto_map"].values()]
    elsewhere = [value for value in named if "--" in value]
    what = f"`auto_map` names {', '.join(f'`{value}`' for value in named[:3])}"
    if elsewhere:
        what += ": code of another repo"
    yield finding("FV502", seen.entry.path, what)
