"""Resumable, verified downloads from the Hugging Face Hub.

    >>> import fetchverify
    >>> folder = fetchverify.get("org/name", include=["*.safetensors"])  # doctest: +SKIP

No byte is ever published that was not proved against the repo's own digest.
"""

from fetchverify.api import FetchverifyError, IncompleteError, aget, get

__version__ = "0.1.0"

__all__ = ["FetchverifyError", "IncompleteError", "__version__", "aget", "get"]
