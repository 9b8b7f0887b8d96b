"""Ways to damage the folders of the real libraries, each with the code that must name it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fetchverify.formats import torchfile
from fetchverify.formats.source import Bytes
from tests.unit.formats.damage import pack


def edit_json(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, change in changes.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = change
    path.write_text(json.dumps(value))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path: Path, change: Callable[[dict[str, tuple[dict[str, Any], bytes]]], None]) -> None:
    """Change the tensors of a file, as if it had been saved so: the header stays whole."""
    header, data = header_of(path)
    header.pop("__metadata__", None)
    tensors = {name: (one, data[one["data_offsets"][0] : one["data_offsets"][1]]) for name, one in header.items()}
    change(tensors)
    out, at, new = bytearray(), 0, {}
    for name, (one, raw) in tensors.items():
        new[name] = {**one, "data_offsets": [at, at + len(raw)]}
        out += raw
        at += len(raw)
    path.write_bytes(pack(new, bytes(out)))


def drop(pattern: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        lost = [name for name in tensors if re.search(pattern, name)]
        assert lost, pattern
        for name in lost:
            del tensors[name]

    return change


def rename(text: str, by: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        items = [(name.replace(text, by, 1) if text else by + name, one) for name, one in tensors.items()]
        tensors.clear()
        tensors.update(items)

    return change


def hollow(tensors: dict[str, Any]) -> None:
    for name, (one, _) in tensors.items():
        tensors[name] = ({**one, "shape": [0]}, b"")


def clear(tensors: dict[str, Any]) -> None:
    tensors.clear()


def half_rank(tensors: dict[str, Any]) -> None:
    name = next(name for name in tensors if "lora_A" in name)
    one, raw = tensors[name]
    tensors[name] = ({**one, "shape": [one["shape"][0] // 2, one["shape"][1]]}, raw[: len(raw) // 2])


def cut(path: Path, by: int = 9) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def model(name: str = "model.safetensors") -> Callable[[Callable[[dict[str, Any]], None]], Callable[[Path], None]]:
    return lambda change: lambda folder: rewrite(folder / name, change)


def gone(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            found = list(folder.glob(name))
            assert found, name
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def stale_single_file(folder: Path) -> None:
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "model.safetensors")


def index_names_more(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    value = json.loads(path.read_text())
    value["weight_map"]["model.extra.weight"] = "model-00001-of-00003.safetensors"
    path.write_text(json.dumps(value))


def index_names_less(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    value = json.loads(path.read_text())
    value["weight_map"].popitem()
    path.write_text(json.dumps(value))


def total_size(folder: Path) -> None:
    edit_json(folder / "model.safetensors.index.json", metadata={"total_size": 1})


def variant(folder: Path) -> None:
    (folder / "vae").mkdir()
    shutil.copy(folder / "unet/config.json", folder / "vae/config.json")
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.safetensors", folder / "vae/diffusion_pytorch_model.fp16.safetensors"
    )
    edit_json(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"x")
    (folder / "vocab.txt").symlink_to(outside)


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/gone")


def evil_pickle(folder: Path) -> None:
    (folder / "rng.pkl").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")


def wrong_parts(folder: Path) -> None:
    shutil.copy(folder.parent.parent / "meta" / "consolidated.00.pth", folder / "consolidated.01.pth")


def other_slices(folder: Path) -> None:
    """A rank whose slice has another size, patched where the pickle gives shape and numbers."""
    path = folder / "global_step2" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    data = path.read_bytes()
    shape = struct.pack("<H", 2472)
    assert data.count(b"M" + shape) >= 2
    path.write_bytes(data.replace(b"M" + shape, b"M" + struct.pack("<H", 2471)))


def numbers(name: str, raw: bytes | None) -> Callable[[dict[str, Any]], None]:
    """Put these bytes over the first numbers of a tensor; None: zeros over all of them."""

    def change(tensors: dict[str, Any]) -> None:
        one, data = tensors[name]
        tensors[name] = (one, bytes(len(data)) if raw is None else raw + data[len(raw) :])

    return change


def on_record_then_flipped(folder: Path) -> None:
    """The hub's client notes the digest of what it fetched; a bit of the numbers flips in place."""
    path = folder / "model.safetensors"
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    told = f"{'a' * 40}\n{hashlib.sha256(data).hexdigest()}\n{path.stat().st_mtime}\n"
    (notes / "model.safetensors.metadata").write_text(told)


def large_with(start: int, stop: int) -> Callable[[Path], None]:
    """Put a tensor of 8 MiB into the model, zeros in a part of it."""

    def damage(folder: Path) -> None:
        data = bytearray(random.Random(0).randbytes(1 << 20).replace(b"\x7f", b"\1").replace(b"\xff", b"\2") * 8)
        data[start:stop] = bytes(stop - start)
        one = {"dtype": "BF16", "shape": [1024, 4096]}
        rewrite(folder / "model.safetensors", lambda tensors: tensors.update({"model.large": (one, bytes(data))}))

    return damage


def uncovered(folder: Path) -> None:
    """A tensor of which `.metadata` says that it is taller than what was saved of it."""
    path = folder / ".metadata"
    data = path.read_bytes()
    assert data.count(b"K K\x10\x86") > 1
    path.write_bytes(data.replace(b"K K\x10\x86", b"K!K\x10\x86", 1))


def wrong_sum(folder: Path) -> None:
    (folder / "checklist.chk").write_text(f"{'ab' * 16}  consolidated.00.pth\n")


def pythons_own_save(folder: Path) -> None:
    """Sharded as torch's own form was before safetensors: two files and an index."""
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')


def vision(folder: Path) -> None:
    edit_json(folder / "config.json", vision_config={"hidden_size": 4})


def added_word(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={"32": {"content": "<x>"}})


def flip_last_tensor(path: str) -> Callable[[Path], None]:
    """Flip a bit of the numbers, behind any header that is read."""

    def damage(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        seen = torchfile.read_torch(Bytes(bytes(data))) if not path.endswith("distcp") else None
        at = seen.tensors[-1].start if seen is not None else data.find(b"/data/0") + 400
        data[at] ^= 1
        (folder / path).write_bytes(data)

    return damage


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def only_a_readme(folder: Path) -> None:
    gone("*.json", "*.safetensors")(folder)
    (folder / "README.md").write_text("# x")


def foreign_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as file:
        file.writestr("a.txt", "x")


RECIPES = "fine-tuned-meta-llama/tiny"
STACK_META = "Llama3.2-1B-Instruct-sft-0"
STACK_HF = "meta-llama/Llama-3.2-1B-Instruct-sft-0"


def torch_patched(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """Change names or sizes in a file of `torch.save`, to others of equal length; what is around them stays whole."""
    assert len(old) == len(new)

    def damage(folder: Path) -> None:
        with zipfile.ZipFile(folder / path) as file:
            parts = [(one, file.read(one)) for one in file.namelist()]
        with zipfile.ZipFile(folder / path, "w") as file:
            for name, data in parts:
                assert not name.endswith("data.pkl") or old in data
                file.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)

    return damage


# Each row of the field notes on what breaks one folder, and each rule on tensors: what is damaged, how, and the code.
ONE_FOLDER: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no config": ("hf", gone("config.json"), "FV201"),
    "no weights": ("hf", gone("model.safetensors"), "FV202"),
    "no weights of torch's form": ("hf-bin", gone("pytorch_model.bin"), "FV202"),
    "a shard of torch's form is missing": ("hf-bin", pythons_own_save, "FV203"),
    "a flipped bit whose digest is on record": ("hf", on_record_then_flipped, "FV116"),
    "a hole in the numbers": ("hf", large_with(3 << 20, 5 << 20), "FV117"),
    "a tail of zeros": ("hf", large_with(6 << 20, 8 << 20), "FV117"),
    "a large tensor of zeros": ("hf", large_with(0, 8 << 20), "FV313"),
    "a small tensor of zeros": ("hf", model()(numbers("lm_head.weight", None)), "FV313"),
    "NaN among the numbers": ("hf", model()(numbers("lm_head.weight", b"\xc0\x7f")), "FV312"),
    "an infinity among the numbers": ("hf", model()(numbers("lm_head.weight", b"\x80\x7f")), "FV312"),
    "a shard is missing": ("hf-sharded", gone("model-00002*"), "FV203"),
    "the last shard is missing": ("hf-sharded", gone("model-00003*"), "FV203"),
    "all shards are missing": ("hf-sharded", gone("model-0000*"), "FV203"),
    "no index": ("hf-sharded", gone("*.index.json"), "FV204"),
    "the index names what no shard holds": ("hf-sharded", index_names_more, "FV205"),
    "a shard holds what the index does not name": ("hf-sharded", index_names_less, "FV205"),
    "another total size": ("hf-sharded", total_size, "FV206"),
    "a single file beside shards": ("hf-sharded", stale_single_file, "FV207"),
    "no tokenizer": ("hf", gone("tokenizer.json", "tokenizer_config.json"), "FV208"),
    "half a tokenizer": ("hf", gone("tokenizer_config.json"), "FV208"),
    "no processor": ("hf", vision, "FV209"),
    "no adapter config": ("peft", gone("adapter_config.json"), "FV210"),
    "no adapter weights": ("peft", gone("adapter_model*"), "FV211"),
    "an adapter of 40 bytes": ("peft", model("adapter_model.safetensors")(clear), "FV309"),
    "an adapter of empty tensors": ("peft", model("adapter_model.safetensors")(hollow), "FV308"),
    "an adapter without a B": ("peft", model("adapter_model.safetensors")(drop(r"layers.0.*q_proj.lora_B")), "FV311"),
    "an adapter without a target": ("peft", model("adapter_model.safetensors")(drop(r"q_proj")), "FV311"),
    "an adapter of another rank": ("peft", model("adapter_model.safetensors")(half_rank), "FV310"),
    "a gap in Meta's parts": ("meta-2", gone("consolidated.00.pth"), "FV212"),
    "the last of Meta's parts is missing": ("meta-2", gone("consolidated.01.pth"), "FV212"),
    "no params.json": ("meta", gone("params.json"), "FV213"),
    "no tokenizer.model": ("meta", gone("tokenizer.model"), "FV208"),
    "Meta's layers are fewer": ("meta", lambda folder: edit_json(folder / "params.json", n_layers=3), "FV304"),
    "Meta's width is another": ("meta", lambda folder: edit_json(folder / "params.json", dim=32), "FV306"),
    "Meta's part is not what checklist.chk says": ("meta", wrong_sum, "FV116"),
    "a part of Meta's is cut short": ("meta", lambda folder: cut(folder / "consolidated.00.pth", 900), "FV108"),
    "Meta's parts disagree": ("meta-2", wrong_parts, "FV317"),
    "Llama-Stack's merged model is missing": ("llama-stack-meta", gone(f"{STACK_META}/consolidated.00.pth"), "FV212"),
    "Llama-Stack's model alone is missing": ("llama-stack-meta-alone", gone("*/consolidated.00.pth"), "FV212"),
    "Llama-Stack's params.json is missing": ("llama-stack-meta", gone(f"{STACK_META}/params.json"), "FV213"),
    "Llama-Stack's tokenizer is missing": ("llama-stack-meta", gone(f"{STACK_META}/tokenizer.model"), "FV208"),
    "Llama-Stack's merged model is cut short": (
        "llama-stack-meta",
        lambda folder: cut(folder / STACK_META / "consolidated.00.pth", 900),
        "FV108",
    ),
    "Llama-Stack's adapter in torchtune's form is cut short": (
        "llama-stack-meta",
        lambda folder: cut(folder / STACK_META / "adapter/adapter.pth", 900),
        "FV108",
    ),
    "Llama-Stack's adapter in torchtune's form lacks its B": (
        "llama-stack-meta",
        torch_patched(f"{STACK_META}/adapter/adapter.pth", b"q_proj.lora_b", b"q_proj.lost_b"),
        "FV311",
    ),
    "Llama-Stack's folder of the adapter is missing": ("llama-stack-hf", gone(f"{STACK_HF}/adapter"), "FV222"),
    "Llama-Stack's adapter is missing": ("llama-stack-hf", gone(f"{STACK_HF}/adapter/*.safetensors"), "FV211"),
    "Llama-Stack's adapter has no config": ("llama-stack-hf", gone(f"{STACK_HF}/adapter/*.json"), "FV210"),
    "Llama-Stack's adapter is empty": (
        "llama-stack-hf",
        model(f"{STACK_HF}/adapter/adapter_model.safetensors")(hollow),
        "FV308",
    ),
    "Llama-Stack's copy of the base's config is missing": ("llama-stack-hf", gone(f"{STACK_HF}/config.json"), "FV201"),
    "two layouts in one folder": (
        "meta",
        lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
        "FV218",
    ),
    "a component is missing": ("diffusers", gone("unet"), "FV214"),
    "a component's weights are missing": ("diffusers", gone("unet/*.safetensors"), "FV214"),
    "a component's config is missing": ("diffusers", gone("scheduler/*"), "FV214"),
    "no model_index.json": ("diffusers", gone("model_index.json"), "FV223"),
    "mixed variants": ("diffusers", variant, "FV215"),
    "a GGUF part is missing": ("gguf-split", gone("*-00002-of*"), "FV216"),
    "GGUF cut short": ("gguf", lambda folder: cut(folder / "tiny-q8_0.gguf", 100), "FV108"),
    "GGUF of version 1": (
        "gguf",
        lambda folder: (folder / "tiny-q8_0.gguf").write_bytes(
            b"GGUF\1" + (folder / "tiny-q8_0.gguf").read_bytes()[5:]
        ),
        "FV124",
    ),
    "GGUF of another magic": (
        "gguf",
        lambda folder: (folder / "tiny-q8_0.gguf").write_bytes(b"GGUX" + (folder / "tiny-q8_0.gguf").read_bytes()[4:]),
        "FV124",
    ),
    "a tokenizer with more words": ("hf", added_word, "FV316"),
    "a flipped bit in a torch file": ("hf-bin", flip_last_tensor("pytorch_model.bin"), "FV118"),
    "a flipped bit in Meta's part": ("meta", flip_last_tensor("consolidated.00.pth"), "FV118"),
    "a flipped bit in a rank's states": (
        "zero",
        flip_last_tensor("global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        "FV118",
    ),
    "a flipped bit in a checkpoint's data": ("dcp-optim", flip_last_tensor("__0_0.distcp"), "FV118"),
    "a pipe in place of a file": ("hf", pipe, "FV119"),
    "a zip that torch did not write": ("hf-bin", foreign_zip, "FV123"),
    "a config of a million values": (
        "hf",
        lambda folder: (folder / "config.json").write_text("[" + "[]," * 1_000_000 + "1]"),
        "FV125",
    ),
    "nothing of a model's": ("hf", only_a_readme, "FV217"),
    "no .metadata": ("dcp-optim", gone(".metadata"), "FV401"),
    "no data file": ("dcp-optim", gone("__0_0.distcp"), "FV402"),
    "a data file cut short": ("dcp-optim", lambda folder: cut(folder / "__0_0.distcp"), "FV403"),
    "llama-recipes' .metadata is missing": ("dcp", gone(f"{RECIPES}/.metadata"), "FV401"),
    "llama-recipes' data file is cut short": ("dcp", lambda folder: cut(folder / RECIPES / "__0_0.distcp"), "FV403"),
    "Accelerate's .metadata is missing": ("accelerate", gone("pytorch_model_fsdp_0/.metadata"), "FV401"),
    "Accelerate's data file cut short": (
        "accelerate",
        lambda folder: cut(folder / "pytorch_model_fsdp_0" / "__0_0.distcp"),
        "FV403",
    ),
    "chunks that leave a part uncovered": ("dcp-optim", uncovered, "FV404"),
    "no latest": ("zero", gone("latest"), "FV405"),
    "latest names nothing": ("zero", lambda folder: (folder / "latest").write_text("global_step9"), "FV405"),
    "no model states": ("zero", gone("global_step2/*model_states.pt"), "FV406"),
    "a rank is missing": ("zero", gone("global_step2/zero_pp_rank_0*optim*"), "FV406"),
    "the last rank is missing": ("zero", gone("global_step2/zero_pp_rank_1*"), "FV406"),
    "slices differ": ("zero", other_slices, "FV407"),
    "verl's rank is missing": ("verl", gone("*rank_0.pt"), "FV409"),
    "verl's last rank is missing": ("verl", gone("*rank_1.pt"), "FV409"),
    "a rank of verl's lacks a tensor": (
        "verl",
        torch_patched("model_world_size_2_rank_1.pt", b"lm_head.weight", b"lm_lost.weight"),
        "FV407",
    ),
    "a rank of verl's holds a smaller slice": (
        "verl",
        torch_patched("model_world_size_2_rank_1.pt", b"K\x10K\x10\x86", b"K\x0fK\x10\x86"),
        "FV407",
    ),
    "a rank of verl's is cut short": (
        "verl",
        lambda folder: cut(folder / "model_world_size_2_rank_0.pt", 900),
        "FV108",
    ),
    "the head is gone": ("hf", model()(drop("lm_head")), "FV301"),
    "a layer lacks a tensor": ("hf", model()(drop(r"layers.1.*up_proj")), "FV303"),
    "a layer is gone": ("hf", model()(drop(r"layers.1\.")), "FV304"),
    "more layers than the config": ("hf", config(num_hidden_layers=1), "FV305"),
    "a larger vocabulary": ("hf", config(vocab_size=64), "FV306"),
    "another width": ("hf", config(hidden_size=32), "FV306"),
    "a wrapper's prefix": ("hf", model()(rename("", "module.")), "FV307"),
    "a wrapper of torch.compile": ("hf", model()(rename("", "_orig_mod.")), "FV307"),
    "a wrapper of FSDP": ("hf", model()(rename("", "_fsdp_wrapped_module.")), "FV307"),
    "a wrapper of PEFT": ("hf", model()(rename("", "base_model.model.")), "FV307"),
    "two wrappers": ("hf", model()(rename("", "_orig_mod._fsdp_wrapped_module.")), "FV307"),
    "a model of empty tensors": ("hf", model()(hollow), "FV308"),
    "a model of no tensor": ("hf", model()(clear), "FV309"),
    "a config that is no JSON": ("hf", lambda folder: cut(folder / "config.json"), "FV121"),
    "a config that is a message": (
        "hf",
        lambda folder: (folder / "config.json").write_text('{"error": "Repository not found"}'),
        "FV103",
    ),
    "a link that leaves": ("hf", link_out, "FV504"),
    "a link that leads nowhere": ("hf", dangling, "FV120"),
    "code comes with it": ("hf", config(auto_map={"AutoModel": "modeling_x.X"}), "FV502"),
    "a program": ("hf", lambda folder: (folder / "run.exe").write_bytes(b"MZ\x90"), "FV503"),
    "a pickle that runs code": ("hf", evil_pickle, "FV501"),
    "zero_to_fp32.py": ("zero", lambda folder: (folder / "zero_to_fp32.py").write_text("#"), "FV505"),
    "torch file cut short": ("hf-bin", lambda folder: cut(folder / "pytorch_model.bin", 700), "FV108"),
}
