"""The demo world that the command line serves: a model, a dataset, a space and a gated model."""

import json

from mock_server.tiny_llama import GITATTRIBUTES, tiny_llama
from mock_server.world import World

TOKEN = "hf_demo"  # noqa: S105 - opens nothing but the demo's gated repo
"""The token that may read `demo/gated-llama`."""


def demo_world() -> World:
    """Return the demo repos.

    They are `demo/tiny-llama` (with a tag `v1` and a branch `next`), `demo/gated-llama`, the dataset
    `demo/tiny-dataset` and the space `demo/tiny-space`.
    """
    world = World()
    llama = world.add("demo/tiny-llama", dict(tiny_llama()))
    llama.tag("v1")
    llama.commit({"README.md": tiny_llama()["README.md"] + b"\nNext version.\n"}, branch="next", title="Next")
    world.add("demo/gated-llama", dict(tiny_llama("gated-llama")), gated=True, tokens=[TOKEN])
    world.add("demo/tiny-dataset", _dataset(), kind="dataset")
    world.add("demo/tiny-space", _space(), kind="space")
    return world


def _dataset() -> dict[str, bytes]:
    files = {
        ".gitattributes": GITATTRIBUTES.encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n\n# tiny-dataset\n\nMade-up sentences in two languages.\n",
    }
    for language, words in {"en": ("cat", "dog", "bird"), "de": ("Katze", "Hund", "Vogel")}.items():
        for split, count in {"train": 600, "test": 60}.items():
            rows = [
                {"id": index, "lang": language, "text": f"{words[index % 3]} {index // 3}"} for index in range(count)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            files[f"data/{language}/{split}/part-00000.jsonl"] = text.encode()
    files["data/media/images.zip"] = _empty_zip()
    return files


def _empty_zip() -> bytes:
    """Return the smallest zip there is: just an end record."""
    return b"PK\x05\x06" + bytes(18)


def _space() -> dict[str, bytes]:
    return {
        "README.md": b"---\ntitle: Tiny space\nsdk: static\n---\n",
        "index.html": b"<!doctype html><title>Tiny space</title><p>Hello\n",
        "assets/style.css": b"p { font-family: sans-serif }\n",
    }
