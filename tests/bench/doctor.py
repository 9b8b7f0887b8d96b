"""How long `doctor` takes for the folder of a 70B model: 30 shards of 4.7 GB, sparse, with numbers where samples fall.

python -m tests.bench.doctor
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fetchverify.core.diagnosis.samples import STRIDE_BYTES

SHARDS, LAYERS, WIDE, INNER, WORDS = 30, 80, 8192, 28672, 128256


def tensors() -> dict[str, list[int]]:
    """Return the shapes of Llama-3.1-70B."""
    found = {"model.embed_tokens.weight": [WORDS, WIDE], "model.norm.weight": [WIDE], "lm_head.weight": [WORDS, WIDE]}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, shape in (
            ("self_attn.q_proj", [WIDE, WIDE]),
            ("self_attn.k_proj", [1024, WIDE]),
            ("self_attn.v_proj", [1024, WIDE]),
            ("self_attn.o_proj", [WIDE, WIDE]),
            ("mlp.gate_proj", [INNER, WIDE]),
            ("mlp.up_proj", [INNER, WIDE]),
            ("mlp.down_proj", [WIDE, INNER]),
            ("input_layernorm", [WIDE]),
            ("post_attention_layernorm", [WIDE]),
        ):
            found[f"{at}.{name}.weight"] = shape
    return found


def write(folder: Path) -> int:
    """Write the folder and return the bytes it pretends to hold."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": LAYERS}
    config |= {"vocab_size": WORDS, "hidden_size": WIDE, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    where: dict[str, str] = {}
    total = 0
    items = list(tensors().items())
    block = os.urandom(4096).replace(b"\x7f", b"\x01").replace(b"\xff", b"\x01")
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        header: dict[str, dict[str, Any]] = {}
        at = 0
        for tensor, shape in items[shard::SHARDS]:
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            where[tensor] = name
            at += size
        raw = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            start = file.tell()
            file.truncate(start + at)
            for one in header.values():
                first, last = one["data_offsets"]
                for place in range(first, last, STRIDE_BYTES):
                    file.seek(start + place)
                    file.write(block[: min(4096, last - place)])
        total += at
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def main() -> None:
    """Write the folder, look at it with and without samples, and print the times."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        total = write(Path(name))
        for words in (["--sample-budget", "0"], []):
            began = time.perf_counter()
            command = [sys.executable, "-m", "fetchverify", "doctor", name, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(f"{total / 1e9:.0f} GB, {' '.join(words) or 'as it comes'}: {time.perf_counter() - began:.2f} s")
            print(done.stdout)


if __name__ == "__main__":
    main()
