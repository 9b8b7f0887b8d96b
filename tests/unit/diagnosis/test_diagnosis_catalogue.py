"""The catalogue of what breaks in a model's folder: each row has a healthy folder, a way to damage it, and a code.

That the folders raise no alarm and that each damage gets its code is shown in `test_diagnosis_folders`; here it is held
that no row, folder, damage or code goes without.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from fetchverify.core.diagnosis.codes import RULES
from tests.cli import test_cli_doctor as typed
from tests.faults import test_doctor_against as against
from tests.models.folders import HEALTHY
from tests.unit.diagnosis import test_diagnosis_folders as folders
from tests.unit.diagnosis import test_diagnosis_stack as stack
from tests.unit.diagnosis import test_diagnosis_uses as uses
from tests.unit.diagnosis.damages import ONE_FOLDER
from tests.unit.formats.damage import ONE_FILE


@dataclass(frozen=True)
class Row:
    """One row: folders that are whole, and damages by name with their codes."""

    healthy: tuple[str, ...]
    damages: Mapping[str, str]


SAFETENSORS = ("hf", "hf-sharded", "hf-tied", "hf-no-head", "peft")
FILES: dict[str, Row] = {
    "pointer; HTML, JSON or XML body; Entry not found; gzip; GGUF; pickle; byte order mark": Row(
        SAFETENSORS,
        {
            "LFS pointer": "FV101",
            "LFS pointer with CRLF": "FV101",
            "Xet pointer": "FV101",
            "HTML body": "FV102",
            "JSON body": "FV103",
            "XML body": "FV103",
            "Entry not found": "FV103",
            "gzip": "FV104",
            "GGUF": "FV105",
            "pickle": "FV105",
            "byte order mark": "FV111",
        },
    ),
    "header length over 100 MB": Row(SAFETENSORS, {"header length over 100 MB": "FV111"}),
    "0 to 7 bytes": Row(SAFETENSORS, {"no byte": "FV106", "7 bytes": "FV106"}),
    "truncated in the header": Row(SAFETENSORS, {"cut in the header": "FV107"}),
    "truncated in the data; trailing bytes; doubled; CRLF": Row(
        SAFETENSORS,
        {"cut in the data": "FV108", "trailing bytes": "FV109", "doubled": "FV109", "CRLF": "FV109"},
    ),
    "zeroed head, or all zeros": Row(
        SAFETENSORS, {"zeroed head": "FV110", "zeroed header behind its length": "FV110", "all zeros": "FV110"}
    ),
    "overlap, gap, reversed offsets": Row(
        SAFETENSORS, {"overlap": "FV112", "gap": "FV112", "reversed offsets": "FV112"}
    ),
    "shape does not match bytes": Row(SAFETENSORS, {"shape does not match bytes": "FV113"}),
    "unknown dtype": Row(SAFETENSORS, {"unknown dtype": "FV114"}),
    "duplicate key with equal offsets": Row(SAFETENSORS, {"duplicate key": "FV115"}),
    "{}, 40 bytes, tensors of shape [0]": Row(
        SAFETENSORS,
        {
            "no tensor": "FV309",
            "tensors of shape [0]": "FV308",
            "a model of empty tensors": "FV308",
            "a model of no tensor": "FV309",
        },
    ),
    "zeroed tail, hole, sparse file, flipped bit": Row(
        SAFETENSORS,
        {
            "a tail of zeros": "FV117",
            "a hole in the numbers": "FV117",
            "a large tensor of zeros": "FV313",
            "a small tensor of zeros": "FV313",
            "a flipped bit whose digest is on record": "FV116",
        },
    ),
    "evidence in archives and lists of sums": Row(
        ("hf-bin", "hf-bin-old", "meta", "zero", "dcp-optim"),
        {
            "a flipped bit in a torch file": "FV118",
            "a flipped bit in Meta's part": "FV118",
            "a flipped bit in a rank's states": "FV118",
            "a flipped bit in a checkpoint's data": "FV118",
            "Meta's part is not what checklist.chk says": "FV116",
        },
    ),
    "files that are none, or of another kind": Row(
        ("hf", "hf-bin", "hf-bin-old"),
        {
            "a pipe in place of a file": "FV119",
            "a link that leads nowhere": "FV120",
            "a config that is no JSON": "FV121",
            "a config that is a message": "FV103",
            "a config of a million values": "FV125",
            "a zip that torch did not write": "FV123",
            "torch file cut short": "FV108",
        },
    ),
}
LAYOUTS: dict[str, Row] = {
    "HF transformers": Row(
        ("hf", "hf-sharded", "hf-tied", "hf-no-head", "hf-bin", "hf-bin-old"),
        {
            "no config": "FV201",
            "no weights": "FV202",
            "no weights of torch's form": "FV202",
            "a shard is missing": "FV203",
            "the last shard is missing": "FV203",
            "all shards are missing": "FV203",
            "a shard of torch's form is missing": "FV203",
            "no index": "FV204",
            "the index names what no shard holds": "FV205",
            "a shard holds what the index does not name": "FV205",
            "another total size": "FV206",
            "a single file beside shards": "FV207",
            "nothing of a model's": "FV217",
        },
    ),
    "tokenizer, processor": Row(
        ("hf", "verl"),
        {
            "no tokenizer": "FV208",
            "half a tokenizer": "FV208",
            "no processor": "FV209",
            "a tokenizer with more words": "FV316",
        },
    ),
    "PEFT": Row(
        ("peft", "peft-untrained", "trainer-lora"),
        {
            "no adapter config": "FV210",
            "no adapter weights": "FV211",
            "an adapter of 40 bytes": "FV309",
            "an adapter of empty tensors": "FV308",
            "an adapter without a B": "FV311",
            "an adapter without a target": "FV311",
            "an adapter of another rank": "FV310",
        },
    ),
    "Meta": Row(
        ("meta", "meta-2"),
        {
            "a gap in Meta's parts": "FV212",
            "the last of Meta's parts is missing": "FV212",
            "no params.json": "FV213",
            "no tokenizer.model": "FV208",
            "Meta's layers are fewer": "FV304",
            "Meta's width is another": "FV306",
            "a part of Meta's is cut short": "FV108",
            "Meta's parts disagree": "FV317",
            "two layouts in one folder": "FV218",
        },
    ),
    "Llama-Stack": Row(
        ("llama-stack-meta", "llama-stack-meta-alone", "llama-stack-hf"),
        {
            "Llama-Stack's merged model is missing": "FV212",
            "Llama-Stack's model alone is missing": "FV212",
            "Llama-Stack's params.json is missing": "FV213",
            "Llama-Stack's tokenizer is missing": "FV208",
            "Llama-Stack's merged model is cut short": "FV108",
            "Llama-Stack's adapter in torchtune's form is cut short": "FV108",
            "Llama-Stack's adapter in torchtune's form lacks its B": "FV311",
            "Llama-Stack's folder of the adapter is missing": "FV222",
            "Llama-Stack's adapter is missing": "FV211",
            "Llama-Stack's adapter has no config": "FV210",
            "Llama-Stack's adapter is empty": "FV308",
            "Llama-Stack's copy of the base's config is missing": "FV201",
        },
    ),
    "diffusers": Row(
        ("diffusers",),
        {
            "no model_index.json": "FV223",
            "a component is missing": "FV214",
            "a component's weights are missing": "FV214",
            "a component's config is missing": "FV214",
            "mixed variants": "FV215",
        },
    ),
    "GGUF": Row(
        ("gguf", "gguf-split"),
        {
            "a GGUF part is missing": "FV216",
            "GGUF cut short": "FV108",
            "GGUF of version 1": "FV124",
            "GGUF of another magic": "FV124",
        },
    ),
    "llama-recipes output": Row(
        ("dcp",),
        {"llama-recipes' .metadata is missing": "FV401", "llama-recipes' data file is cut short": "FV403"},
    ),
    "FSDP DCP": Row(
        ("dcp", "dcp-optim"),
        {
            "no .metadata": "FV401",
            "no data file": "FV402",
            "a data file cut short": "FV403",
            "chunks that leave a part uncovered": "FV404",
        },
    ),
    "DeepSpeed ZeRO": Row(
        ("zero",),
        {
            "no latest": "FV405",
            "latest names nothing": "FV405",
            "no model states": "FV406",
            "a rank is missing": "FV406",
            "the last rank is missing": "FV406",
            "slices differ": "FV407",
        },
    ),
    "Accelerate": Row(
        ("accelerate",),
        {"Accelerate's data file cut short": "FV403", "Accelerate's .metadata is missing": "FV401"},
    ),
    "verl": Row(
        ("verl",),
        {
            "verl's rank is missing": "FV409",
            "verl's last rank is missing": "FV409",
            "a rank of verl's lacks a tensor": "FV407",
            "a rank of verl's holds a smaller slice": "FV407",
            "a rank of verl's is cut short": "FV108",
        },
    ),
}
TENSORS: dict[str, Row] = {
    "a layer whose suffixes are a strict subset": Row(("hf",), {"a layer lacks a tensor": "FV303"}),
    "fewer layers than config, or more": Row(
        ("hf",), {"a layer is gone": "FV304", "more layers than the config": "FV305"}
    ),
    "embedding is [vocab_size, hidden_size]": Row(("hf",), {"a larger vocabulary": "FV306", "another width": "FV306"}),
    "a wrapper's prefix": Row(
        ("hf",),
        {
            "a wrapper's prefix": "FV307",
            "a wrapper of torch.compile": "FV307",
            "a wrapper of FSDP": "FV307",
            "a wrapper of PEFT": "FV307",
            "two wrappers": "FV307",
        },
    ),
    "head": Row(("hf", "hf-tied", "hf-no-head"), {"the head is gone": "FV301"}),
    "zeros, NaN and infinities": Row(
        ("hf",), {"NaN among the numbers": "FV312", "an infinity among the numbers": "FV312"}
    ),
    "what would run code, or leaves the folder": Row(
        ("hf", "zero"),
        {
            "a link that leaves": "FV504",
            "code comes with it": "FV502",
            "a program": "FV503",
            "a pickle that runs code": "FV501",
            "zero_to_fp32.py": "FV505",
        },
    ),
}
# Codes that no damage to a folder alone brings forth, and the test that does.
ELSEWHERE: dict[str, Callable[..., None]] = {
    "FV219": stack.test_a_base_that_lacks_config_json_is_named_with_all_that_a_save_in_hfs_form_needs,
    "FV220": stack.test_which_form_it_is_and_which_base_it_needs_is_said,
    "FV221": stack.test_which_form_it_is_and_which_base_it_needs_is_said,
    "FV224": folders.test_a_model_that_sees_should_have_a_chat_template,
    "FV302": folders.test_an_absent_tie_is_not_false,
    "FV314": folders.test_a_healthy_folder_raises_no_alarm,
    "FV315": folders.test_a_folder_of_hidden_states_says_that_it_has_no_head,
    "FV320": against.test_missing_tensors_are_named_with_the_one_file_to_fetch,
    "FV321": against.test_a_changed_tokenizer_and_other_shapes_are_named,
    "FV322": against.test_a_changed_tokenizer_and_other_shapes_are_named,
    "FV323": against.test_a_changed_tokenizer_and_other_shapes_are_named,
    "FV324": against.test_a_changed_tokenizer_and_other_shapes_are_named,
    "FV408": folders.test_a_training_checkpoint_is_said_to_need_conversion,
    "FV410": uses.test_a_zero3_save_without_gathering_is_foretold,
    "FV411": uses.test_a_zero3_save_without_gathering_is_foretold,
    "FV412": uses.test_an_old_transformers_and_too_many_processes_are_named,
    "FV413": typed.test_case_5_a_full_fine_tune_left_distributed_files,
    "FV414": uses.test_an_old_transformers_and_too_many_processes_are_named,
    "FV415": typed.test_case_2_an_empty_adapter_whose_weights_lie_in_global_step,
    "FV416": uses.test_a_config_that_is_none_is_said_to_be_so,
    "FV601": uses.test_a_broken_folder_serves_nothing,
}
ROWS = {**FILES, **LAYOUTS, **TENSORS}
CODE_OF = {**{name: code for name, (_, code) in ONE_FILE.items()}, **{name: row[2] for name, row in ONE_FOLDER.items()}}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_whole_folders_and_damages_with_their_codes(name: str) -> None:
    row = ROWS[name]
    assert row.healthy
    assert row.damages
    assert set() == {*row.healthy} - {*HEALTHY}
    assert dict(row.damages) == {damage: CODE_OF.get(damage) for damage in row.damages}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layouts_damages_are_done_to_its_own_folders(name: str) -> None:
    row = LAYOUTS[name]
    assert {ONE_FOLDER[damage][0] for damage in row.damages} <= {*row.healthy}


def test_every_damage_and_every_whole_folder_belongs_to_a_row() -> None:
    assert {*CODE_OF} == {damage for row in ROWS.values() for damage in row.damages}
    assert {*HEALTHY} == {folder for row in ROWS.values() for folder in row.healthy}


def test_every_code_is_brought_forth_by_a_damage_or_a_test_that_names_it() -> None:
    damaged = {code for row in ROWS.values() for code in row.damages.values()}
    assert {*RULES} == damaged | {*ELSEWHERE}
    assert [] == [code for code, test in ELSEWHERE.items() if code not in inspect.getsource(test)]
