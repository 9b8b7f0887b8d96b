"""Writes the folders beside this file with the real libraries; commit what it writes.

    pip install torch transformers peft diffusers gguf deepspeed torchtune "torchao<0.10" && python tests/models/make.py

Everything is tiny: a Llama of two layers, 32 words, 16 wide.
"""
# mypy: ignore-errors

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import torch

HERE = Path(__file__).parent
VOCAB, WIDE, LAYERS = 32, 16, 2


def config(**more):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDE,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        torch_dtype="bfloat16",
        **{"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, **more},
    )


def llama(**more):
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(config(**more)).to(torch.bfloat16)


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{chr(97 + n): n + 3 for n in range(26)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def transformers_folders() -> None:
    from transformers import LlamaModel

    llama().save_pretrained(HERE / "hf")
    tokenizer().save_pretrained(HERE / "hf")
    llama().save_pretrained(HERE / "hf-sharded", max_shard_size="4KB")
    tokenizer().save_pretrained(HERE / "hf-sharded")
    llama(tie_word_embeddings=True).save_pretrained(HERE / "hf-tied")
    tokenizer().save_pretrained(HERE / "hf-tied")
    torch.manual_seed(0)
    LlamaModel(config()).to(torch.bfloat16).save_pretrained(HERE / "hf-no-head")
    tokenizer().save_pretrained(HERE / "hf-no-head")
    folder = HERE / "hf-bin"
    folder.mkdir()
    config(architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    torch.save(llama().state_dict(), folder / "pytorch_model.bin")
    folder = HERE / "hf-bin-old"
    folder.mkdir()
    config(architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    torch.save(llama().state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def adapter() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], base_model_name_or_path="meta-llama/tiny")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(HERE / "peft")
    get_peft_model(
        llama(), LoraConfig(r=4, target_modules="all-linear", rank_pattern={"q_proj": 2}, use_rslora=True)
    ).save_pretrained(HERE / "peft-untrained")


def trainer() -> None:
    """A checkpoint after one step of a LoRA: the gradients of A are still zero, for B was."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    model = get_peft_model(llama().float(), LoraConfig(r=4, target_modules=["q_proj"]))
    asked = TrainingArguments(
        "trainer-lora", max_steps=1, save_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True
    )
    words = tokenizer()
    words.pad_token = words.eos_token
    rows = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, 2, 3])}] * 2
    with contextlib.chdir(HERE):  # the folder's name is kept in training_args.bin
        Trainer(model, asked, train_dataset=rows, processing_class=words).train()


def meta() -> None:
    """Meta's own names, halves as its model parallelism cuts them."""
    for name, parts in (("meta", 1), ("meta-2", 2)):
        folder = HERE / name
        folder.mkdir()
        (folder / "params.json").write_text(
            json.dumps(
                {"dim": WIDE, "n_layers": LAYERS, "n_heads": 4, "n_kv_heads": 2, "vocab_size": VOCAB, "norm_eps": 1e-05}
            )
        )
        (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
        for part in range(parts):
            torch.manual_seed(part)
            weights = {"tok_embeddings.weight": torch.randn(VOCAB // parts, WIDE), "norm.weight": torch.randn(WIDE)}
            weights["output.weight"] = torch.randn(VOCAB // parts, WIDE)
            for layer in range(LAYERS):
                for short, rows, columns in (
                    ("attention.wq", WIDE // parts, WIDE),
                    ("attention.wk", 8 // parts, WIDE),
                    ("attention.wv", 8 // parts, WIDE),
                    ("attention.wo", WIDE, WIDE // parts),
                    ("feed_forward.w1", 24 // parts, WIDE),
                    ("feed_forward.w2", WIDE, 24 // parts),
                    ("feed_forward.w3", 24 // parts, WIDE),
                ):
                    weights[f"layers.{layer}.{short}.weight"] = torch.randn(rows, columns)
                for short in ("attention_norm", "ffn_norm"):
                    weights[f"layers.{layer}.{short}.weight"] = torch.randn(WIDE)
            torch.save({k: v.bfloat16() for k, v in weights.items()}, folder / f"consolidated.{part:02}.pth")


def llama_stack() -> None:
    """What Llama-Stack's torchtune recipe leaves after an epoch; names and keys are torchtune's own.

    Source: llama-stack 0.2 `post_training/torchtune/common/checkpointer.py`, both values of `checkpoint_format`.
    """
    from safetensors.torch import save_file
    from torchtune.models import convert_weights
    from torchtune.models.llama3_2._component_builders import lora_llama3_2
    from torchtune.modules.peft import get_adapter_state_dict, get_merged_lora_ckpt

    torch.manual_seed(0)
    modules = ["q_proj", "v_proj"]
    model = lora_llama3_2(
        modules,
        vocab_size=VOCAB,
        num_layers=LAYERS,
        num_heads=4,
        num_kv_heads=2,
        embed_dim=WIDE,
        max_seq_len=64,
        intermediate_dim=24,
        lora_rank=4,
        lora_alpha=8,
    ).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_b" in name:
            torch.nn.init.normal_(parameter)
    tuned = get_adapter_state_dict(model.state_dict())
    merged = get_merged_lora_ckpt(dict(model.state_dict()), rank=4, alpha=8)
    merged["output.weight"] = merged["tok_embeddings.weight"]

    for fixture, name, alone in (
        ("llama-stack-meta", "Llama3.2-1B-Instruct-sft-0", False),
        ("llama-stack-meta-alone", "Llama3.2-1B-Instruct-sft-1", True),
    ):
        folder = HERE / fixture / name
        folder.mkdir(parents=True)
        for each in ("params.json", "tokenizer.model"):
            shutil.copy(HERE / "meta" / each, folder)
        torch.save(convert_weights.tune_to_meta(dict(merged)), folder / "consolidated.00.pth")
        if not alone:
            (folder / "adapter").mkdir()
            torch.save(tuned, folder / "adapter" / "adapter.pth")
        _log(folder)

    folder = HERE / "llama-stack-hf" / "meta-llama" / "Llama-3.2-1B-Instruct-sft-0"
    (folder / "adapter").mkdir(parents=True)
    torch.save(tuned, folder / "adapter_model.pt")
    renamed = convert_weights.tune_to_peft_adapter_weights(dict(tuned), num_heads=4, num_kv_heads=2, dim=WIDE)
    save_file(renamed, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {"r": 4, "lora_alpha": 8, "target_modules": modules, "peft_type": "LORA"}
    told = convert_weights.tune_to_peft_adapter_config(told, base_model_name_or_path=None)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(told))
    # All of the base but its weights.
    for each in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(HERE / "hf-tied" / each, folder)
    (folder / "original").mkdir()
    for each in ("params.json", "tokenizer.model"):
        shutil.copy(HERE / "meta" / each, folder / "original")
    _log(folder)


def _log(folder: Path) -> None:
    (folder / "log").mkdir()
    (folder / "log" / "log_1740530605.txt").write_text("Step 1 | loss:2.5 lr:0.0001 grad_norm:0.5 \n")


def diffusion() -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(HERE / "diffusers")


def gguf_files() -> None:
    import gguf
    import numpy

    def write(path: Path, names: list[str], split: tuple[int, int] | None = None) -> None:
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(LAYERS)
        writer.add_embedding_length(WIDE)
        writer.add_token_list(["a", "b", "c"])
        if split:
            writer.add_uint16("split.no", split[0])
            writer.add_uint16("split.count", split[1])
        for number, name in enumerate(names):
            rng = numpy.random.default_rng(number)
            if number == 0:
                raw = gguf.quants.quantize(rng.standard_normal((4, 32), dtype="f4"), gguf.GGMLQuantizationType.Q8_0)
                writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            else:
                writer.add_tensor(name, rng.standard_normal((3, 5), dtype="f4"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write(HERE / "gguf" / "tiny-q8_0.gguf", ["token_embd.weight", "output_norm.weight", "output.weight"])
    write(HERE / "gguf-split" / "tiny-00001-of-00002.gguf", ["token_embd.weight", "output.weight"], (0, 2))
    write(HERE / "gguf-split" / "tiny-00002-of-00002.gguf", ["blk.0.attn_q.weight", "blk.0.attn_k.weight"], (1, 2))


def distributed() -> None:
    """What FSDP leaves: as llama-recipes names it, as Accelerate does, and with an optimizer."""
    import torch.distributed.checkpoint as dcp

    model = llama()
    folder = HERE / "dcp" / "fine-tuned-meta-llama" / "tiny"
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder, no_dist=True)
    (folder / "train_params.yaml").write_text(
        "model_name: meta-llama/tiny\nenable_fsdp: true\n"
        "dist_checkpoint_root_folder: dcp\ndist_checkpoint_folder: fine-tuned\n"
    )
    from torch.distributed.checkpoint.state_dict import get_state_dict

    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
    optimizer.step()
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": states}, checkpoint_id=HERE / "dcp-optim", no_dist=True)
    dcp.save({"model": weights}, checkpoint_id=HERE / "accelerate" / "pytorch_model_fsdp_0", no_dist=True)


def zero() -> None:
    """DeepSpeed's own names and keys; two ranks of stage 3."""
    folder = HERE / "zero" / "global_step2"
    folder.mkdir(parents=True)
    (HERE / "zero" / "latest").write_text("global_step2")
    shapes = {name: value.shape for name, value in llama().state_dict().items()}
    whole = sum(shape.numel() for shape in shapes.values())
    for rank in range(2):
        torch.save(
            {
                "module": {},
                "buffer_names": [],
                "param_shapes": [shapes],
                "shared_params": {},
                "ds_version": "0.19.8",
                "global_steps": 2,
                "dp_world_size": 2,
                "mp_world_size": 1,
            },
            folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt",
        )
        torch.manual_seed(rank)
        flat = [torch.randn(-(-whole // 2))]
        torch.save(
            {
                "optimizer_state_dict": {"zero_stage": 3, "partition_count": 2, "fp32_flat_groups": flat},
                "ds_version": "0.19.8",
            },
            folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    found = get_fp32_state_dict_from_zero_checkpoint(str(HERE / "zero"))
    assert shapes == {name: value.shape for name, value in found.items()}


def verl() -> None:
    """Each rank saves its part of every DTensor; which process group they came from is not in the file."""
    import torch.distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    folder = HERE / "verl"
    folder.mkdir()
    for rank in range(2):
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
        mesh = init_device_mesh("cpu", (2,))
        parts = {
            name: distribute_tensor(value, mesh, [Shard(0) if "norm" not in name else Replicate()], src_data_rank=None)
            for name, value in llama().state_dict().items()
        }
        torch.save(parts, folder / f"model_world_size_2_rank_{rank}.pt")
        torch.distributed.destroy_process_group()
    config().save_pretrained(folder / "huggingface")
    tokenizer().save_pretrained(folder / "huggingface")


if __name__ == "__main__":
    for old in HERE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    transformers_folders()
    adapter()
    trainer()
    meta()
    llama_stack()
    diffusion()
    gguf_files()
    distributed()
    zero()
    verl()
