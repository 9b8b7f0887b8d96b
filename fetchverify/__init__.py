"""Resumable, verified downloads from the Hugging Face Hub.

    >>> import fetchverify
    >>> folder = fetchverify.get("org/name", include=["*.safetensors"])  # doctest: +SKIP

No byte is ever published that was not proved against the repo's own digest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fetchverify.api import FetchverifyError, IncompleteError, aget, get

__version__ = "0.1.0"

__all__ = ["FetchverifyError", "IncompleteError", "__version__", "aget", "get"]


def __getattr__(name: str) -> Any:
    # At first use (PEP 562): the command line imports this package for every `--help`, the library only for a run.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("fetchverify.api"), name)
