"""Every code: its title, how grave it is, why it matters, what to do, and the longer text of `--explain`.

Codes are stable: a meaning never moves to another number. In `fix`, `{get}` is the command that fetches the file again.
FV1xx one file, FV2xx one folder, FV3xx tensors, FV4xx what training leaves, FV5xx security.
"""

from __future__ import annotations

from dataclasses import dataclass

from fetchverify.core.diagnosis.findings import Finding, Origin, Severity

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741  # columns of the table below


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code means."""

    severity: Severity
    title: str
    why: str
    fix: str
    more: str = ""


_AGAIN = "get it again: `{get}`"
_WRITER = "the program that wrote it has a bug: write it again, or get the publisher's own file: `{get}`"

RULES: dict[str, Rule] = {
    # --- one file
    "FV101": Rule(
        E,
        "a pointer instead of the content",
        "git keeps a note of about 130 bytes in place of a large file; loaders read its first bytes "
        "as a header's length",
        "get the content: `{get}`",
        "The usual cause is a clone without Git LFS (or with GIT_LFS_SKIP_SMUDGE=1), or a download "
        "of `raw/` in place of "
        "`resolve/`. safetensors calls it HeaderTooLarge, or `header too large`. The pointer names the sha256 and size "
        "of what belongs here, so nothing needs to be guessed.",
    ),
    "FV102": Rule(
        E,
        "a web page instead of the content",
        "a server answered with a page (a login, an error, a captive portal) and it was saved under the file's name",
        "get it again: `{get}`; where the page speaks of access, accept the licence on the repo's "
        "page and give a token",
    ),
    "FV103": Rule(
        E,
        "a server's message instead of the content",
        "a server answered with an error and it was saved under the file's name",
        "get it again: `{get}`; where the message speaks of access, accept the licence on the repo's "
        "page and give a token",
    ),
    "FV104": Rule(
        E,
        "a packed file under the name of an unpacked one",
        "loaders do not unpack; a proxy or a script stored the compressed form",
        "get it again: `{get}`",
    ),
    "FV105": Rule(
        E, "another format than the name says", "loaders choose their reader by the name", "rename it, or " + _AGAIN
    ),
    "FV106": Rule(E, "an empty or very short file", "there is not even the beginning of a header", _AGAIN),
    "FV107": Rule(
        E, "cut short within the header", "a download or copy stopped early", "go on with the download: `{get}`"
    ),
    "FV108": Rule(
        E,
        "cut short within the data",
        "a download or copy stopped early, or the disk was full",
        "go on with the download: `{get}`",
        "The header promises more bytes than the file has. safetensors calls it `incomplete metadata, file not fully "
        "covered` (MetadataIncompleteBuffer).",
    ),
    "FV109": Rule(
        E,
        "bytes after the end",
        "the file was appended to, doubled by a resumed download, or passed through a transfer that changes line ends",
        _AGAIN,
    ),
    "FV110": Rule(
        E, "a hole: zeros where the header should be", "a crash or a full disk left the file's place unwritten", _AGAIN
    ),
    "FV111": Rule(E, "a header that cannot be read", "its bytes are damaged, or are no header at all", _AGAIN),
    "FV112": Rule(
        E, "tensors overlap, or leave gaps", "the header contradicts itself; loaders refuse the file", _WRITER
    ),
    "FV113": Rule(
        E, "a shape that does not fit its bytes", "the header contradicts itself; loaders refuse the file", _WRITER
    ),
    "FV114": Rule(
        E,
        "an unknown dtype",
        "either the file is newer than its readers, or a bit flipped",
        "upgrade the library that reads it; where it is new enough, " + _AGAIN,
    ),
    "FV115": Rule(E, "one tensor is named twice", "loaders take one of the two in silence", _WRITER),
    "FV116": Rule(
        E, "other bytes than were promised", "the sha256 (or git id) on record is not that of the file", _AGAIN
    ),
    "FV117": Rule(
        E,
        "a run of zeros in the data",
        "a hole that a crash, a sparse copy or a broken resume left: the file loads, and the model babbles",
        _AGAIN,
    ),
    "FV118": Rule(E, "a wrong checksum inside the archive", "bytes changed after the file was written", _AGAIN),
    "FV119": Rule(
        E,
        "a file that cannot be read",
        "the disk or its permissions say no, or it is a pipe or a device",
        "check the disk and who may read it",
    ),
    "FV120": Rule(E, "a link that leads nowhere", "the cache's blob, or the file it was linked to, is gone", _AGAIN),
    "FV121": Rule(E, "a JSON file that cannot be read", "loaders stop at it", _AGAIN),
    "FV123": Rule(E, "a damaged archive or pickle", "`torch.load` stops at it", _AGAIN),
    "FV124": Rule(E, "a GGUF header that cannot be read", "llama.cpp and its kin stop at it", _AGAIN),
    "FV125": Rule(
        E,
        "larger than is looked at",
        "what is read of one header is bounded, so that a hostile file cannot take the machine's memory",
        "nothing is known to be wrong with it; load it where a mistake costs nothing",
    ),
    # --- one folder
    "FV201": Rule(
        E,
        "config.json is missing",
        "without it transformers does not know which model this is",
        "get it: `{get}`",
    ),
    "FV202": Rule(E, "there are no weights", "the folder holds a config and nothing to load", "get them: `{get}`"),
    "FV203": Rule(E, "shards are missing", "some tensors are in no file", "get them: `{get}`"),
    "FV204": Rule(
        E,
        "the shards' index is missing",
        "loaders find shards through it",
        "get it: `{get}`; of a model of your own, load and save it again: the shards' headers hold "
        "all that the index says",
    ),
    "FV205": Rule(
        E, "index and shards disagree", "loaders leave out, or look in vain for, what the two disagree on", _AGAIN
    ),
    "FV206": Rule(
        W,
        "the index gives another total size",
        "a sign that index and shards come from different saves",
        "none is needed to load it",
    ),
    "FV207": Rule(
        E,
        "a single file beside shards",
        "transformers loads the single file and ignores the shards, in silence: one of the two is stale",
        "keep one: move the other out of the folder",
    ),
    "FV208": Rule(W, "the tokenizer is missing or incomplete", "text cannot be turned into tokens", "get it: `{get}`"),
    "FV209": Rule(
        W,
        "the processor's config is missing",
        "a model that sees or hears needs it to prepare its input",
        "get it: `{get}`",
    ),
    "FV210": Rule(
        E, "adapter_config.json is missing", "PEFT does not know what the adapter belongs to", "get it: `{get}`"
    ),
    "FV211": Rule(E, "the adapter's weights are missing", "there is nothing to load", "get them: `{get}`"),
    "FV212": Rule(
        E,
        "a part of Meta's checkpoint is missing",
        "each part holds a slice of every tensor",
        "get it: `{get}`; of a training of your own, copy it from where it was saved",
    ),
    "FV213": Rule(
        E,
        "params.json is missing",
        "Meta's loader reads the model's sizes from it",
        "get it: `{get}`; of a training of your own, copy it from its base",
    ),
    "FV214": Rule(
        E,
        "a component of the pipeline is missing",
        "diffusers loads each component that model_index.json names",
        "get it: `{get}`",
    ),
    "FV215": Rule(
        W,
        "the components come in different variants",
        "diffusers wants one `variant` for all",
        "get one variant of all",
    ),
    "FV216": Rule(E, "a part of the GGUF set is missing", "llama.cpp opens the first and needs all", "get it: `{get}`"),
    "FV217": Rule(
        W,
        "no known layout",
        "no rule says what belongs here; each file was looked at alone",
        "name the folder that holds the model",
    ),
    "FV218": Rule(
        W,
        "two layouts in one folder",
        "a tool may take the one that you do not mean",
        "keep them apart: one folder each; `fetchverify get REPO_ID --layout hf` takes one",
    ),
    "FV219": Rule(
        I,
        "Meta's own layout",
        "transformers cannot load it: there is no config.json, and tensors have other names",
        "get the same model in HF's layout: `fetchverify get REPO_ID --layout hf`",
        "A fine-tuned checkpoint is saved in HF's form with config.json and tokenizer of the base. A download of the "
        "original layout has neither, so the save at the end of a long training fails. Get the base in HF's layout "
        "before you begin, in a folder of its own.",
    ),
    "FV220": Rule(
        I,
        "Llama-Stack's checkpoint in Meta's form",
        "it is the whole model under Meta's names, and there is no config.json: transformers cannot load it",
        "load it with Llama-Stack; for transformers convert it with transformers' own "
        "`convert_llama_weights_to_hf.py`, and take config and tokenizer from its base: `{get}`",
        "With `checkpoint_format: meta` Llama-Stack writes the model with the adapter merged into it, and the adapter "
        "in torchtune's form beside it.",
    ),
    "FV221": Rule(
        I,
        "Llama-Stack's checkpoint in HF's form: an adapter alone",
        "Llama-Stack writes no weights of the model in this form; the files around the adapter are its base's",
        "load its base, and the folder `adapter` with PEFT; get the base: `{get}`",
        "With `checkpoint_format: huggingface` Llama-Stack reads config.json from the folder above the base's "
        "`original`. A base downloaded in Meta's layout alone has none, and the save at the end of the training "
        "fails. Get the base in HF's layout before you begin: `fetchverify get REPO_ID --layout hf`.",
    ),
    "FV222": Rule(
        E,
        "Llama-Stack's adapter in PEFT's form is missing",
        "PEFT loads the folder `adapter`; `adapter_model.pt` holds the same numbers under torchtune's names",
        "copy `adapter` from where it was saved",
    ),
    "FV223": Rule(
        E,
        "model_index.json is missing",
        "diffusers finds a pipeline's components through it",
        "get it: `{get}`",
    ),
    "FV224": Rule(
        I,
        "no chat template",
        "a model that sees is asked through its template; without one, pictures have no place in the text",
        "get it: `{get}`; a base model may have none",
    ),
    # --- tensors
    "FV301": Rule(
        E,
        "the head is missing",
        "the config says that head and embedding are two tensors; transformers fills in random numbers for the head",
        "save it through AutoModelForCausalLM (AutoModel drops the head), or get the whole: `{get}`",
        "A CausalLM with `tie_word_embeddings: false` needs `lm_head.weight`. Saved through "
        "`AutoModel`, a Llama loses it: "
        "the last shard shrinks, and what loads generates noise.",
    ),
    "FV302": Rule(
        I,
        "no head tensor, and the config does not say whether it is tied",
        "many model types tie head and embedding by default: this may be right",
        "look for `tie_word_embeddings` of this model type, or compare with its repo",
    ),
    "FV303": Rule(
        E,
        "a layer lacks tensors that its neighbours have",
        "loaders fill in random numbers, with a warning at most",
        "get the whole: `{get}`",
    ),
    "FV304": Rule(
        E,
        "fewer layers than the config says",
        "loaders fill in random numbers for those that are missing",
        "get the whole: `{get}`",
    ),
    "FV305": Rule(
        W,
        "more layers than the config says",
        "loaders ignore them, with a warning at most",
        "check that config and weights belong together",
    ),
    "FV306": Rule(
        E,
        "embedding and config disagree",
        "loaders stop at the size mismatch, or tokens point behind the table",
        "take config and weights from the same save",
    ),
    "FV307": Rule(
        E,
        "all names carry a wrapper's prefix",
        "the model was saved from inside its wrapper: no name matches, and loaders take random numbers",
        "save the inner model: `accelerator.unwrap_model(model).save_pretrained(...)`",
    ),
    "FV308": Rule(
        E,
        "tensors without elements",
        "ZeRO-3 was saved without gathering: the names are there, the numbers are not",
        "save with `stage3_gather_16bit_weights_on_model_save: true`; the weights may still lie in `global_step*`",
        "Under ZeRO-3 each rank holds a slice, and a parameter looks empty from outside. A save that does not gather "
        "writes shapes of [0]. safetensors loads such a file without a word.",
    ),
    "FV309": Rule(
        E,
        "no tensor at all",
        "ZeRO-3 was saved without gathering, or nothing was trained: a file of a few tens of bytes "
        "loads, and changes nothing",
        "save with `stage3_gather_16bit_weights_on_model_save: true`; the weights may still lie in `global_step*`",
    ),
    "FV310": Rule(
        E,
        "an adapter's matrices do not fit its rank",
        "PEFT stops at the size mismatch",
        "take adapter_config.json and weights from the same save",
    ),
    "FV311": Rule(
        E,
        "an adapter lacks half of a pair",
        "A without B, or B without A, does nothing or fails",
        "save the adapter again, or get the whole: `{get}`",
    ),
    "FV312": Rule(
        E,
        "NaN or Inf among the numbers",
        "training diverged, or bytes are damaged: the model's output is NaN",
        "take an earlier checkpoint, or " + _AGAIN,
    ),
    "FV313": Rule(
        E, "a tensor of zeros", "a weight matrix is never all zero: it was not written, or not trained", _AGAIN
    ),
    "FV314": Rule(
        W,
        "the adapter was never trained",
        "every B is zero, as PEFT begins: the adapter changes nothing",
        "check that its parameters require gradients",
    ),
    "FV315": Rule(
        I,
        "a model without a head",
        "it gives hidden states or embeddings; it cannot generate",
        "for generation get or save the CausalLM form",
    ),
    "FV316": Rule(
        E,
        "the tokenizer has more words than the embedding",
        "a token behind the table's end stops generation",
        "take tokenizer and weights from the same save",
    ),
    "FV317": Rule(
        E,
        "Meta's parts disagree",
        "each part must hold the same tensors, of the same shapes",
        "get them again: `{get}`",
    ),
    "FV320": Rule(
        E, "tensors that the repo has are missing", "the repo's own headers name them", "get what differs: `{get}`"
    ),
    "FV321": Rule(
        E,
        "a shape that differs from the repo's",
        "these are other weights than the repo's",
        "get what differs: `{get}`",
    ),
    "FV322": Rule(
        W, "a dtype that differs from the repo's", "numbers were converted", "none is needed where that was meant"
    ),
    "FV323": Rule(
        E,
        "a file that differs from the repo's",
        "its size is not the one that the repo gives",
        "get what differs: `{get}`",
    ),
    "FV324": Rule(W, "tensors that the repo has not", "loaders ignore them", "check that they were meant"),
    # --- what training leaves
    "FV401": Rule(
        E,
        "the checkpoint's .metadata is missing",
        "it holds the tensors' names and places; without it the .distcp files are bytes without names",
        "copy it from where the checkpoint was written: `cp *` leaves out names that begin with a dot",
    ),
    "FV402": Rule(
        E,
        "a data file of the checkpoint is missing",
        "each rank wrote one; some tensors lie in it",
        "copy it from where that rank wrote it",
    ),
    "FV403": Rule(
        E,
        "a data file of the checkpoint is cut short",
        "some tensors end behind the file",
        "copy it again from where it was written",
    ),
    "FV404": Rule(
        E, "chunks do not cover their tensor", "a part of the numbers was never saved", "save the checkpoint again"
    ),
    "FV405": Rule(
        W,
        "`latest` is missing, or names no folder",
        "DeepSpeed finds the checkpoint through it",
        "write the folder's name into `latest`: `echo global_stepN > latest`",
    ),
    "FV406": Rule(
        E,
        "a rank's states are missing",
        "under ZeRO each rank holds a slice of every tensor",
        "copy it from the node of that rank",
    ),
    "FV407": Rule(
        E,
        "the ranks' slices do not make up whole tensors",
        "they come from different saves, or one was cut short",
        "copy them again from one save",
    ),
    "FV408": Rule(
        I,
        "a training checkpoint, no model folder",
        "from_pretrained() cannot load it: it must be converted, with config and tokenizer of the base",
        "convert it with the tools of the framework that wrote it; get config and tokenizer of the base: `{get}`",
    ),
    "FV409": Rule(E, "a rank's file is missing", "each rank holds a slice", "copy it from the node of that rank"),
    "FV410": Rule(
        E,
        "ZeRO-3 will save an empty model",
        "without gathering, save_pretrained() writes tensors of shape [0]",
        "set `zero3_save_16bit_model: true` (Accelerate) or "
        "`stage3_gather_16bit_weights_on_model_save: true` (DeepSpeed)",
    ),
    "FV411": Rule(
        I,
        "checks of distributed operations are off",
        "mismatched shapes between ranks hang instead of failing",
        "set `debug: true` while you look for trouble",
    ),
    "FV412": Rule(
        E,
        "more processes than GPUs",
        "two processes on one GPU run out of memory or hang",
        "set `num_processes` to the number of GPUs",
    ),
    "FV413": Rule(
        W,
        "the checkpoint lies in another folder than asked",
        "tools of that framework append names of their own to the folder",
        "point at the folder named here",
    ),
    "FV414": Rule(
        E,
        "transformers below 5.0 with ZeRO-3 and PEFT",
        "an adapter is saved empty (huggingface/trl#4416, fixed by huggingface/transformers#41416)",
        "upgrade: `pip install -U 'transformers>=5'`",
    ),
    "FV415": Rule(
        I,
        "the weights are still here",
        "a ZeRO checkpoint beside the empty file holds them",
        "recover them from the folder named here, before it is removed",
    ),
    "FV416": Rule(E, "a config that cannot be read", "what it says about saving is unknown", "check its syntax"),
    # --- security
    "FV501": Rule(
        E,
        "a pickle that runs code",
        "loading it executes what it names, with your rights",
        "do not load it; use safetensors, or `torch.load(..., weights_only=True)`",
    ),
    "FV502": Rule(
        W,
        "code comes with the model",
        "with `trust_remote_code=True` its Python runs with your rights",
        "read it before you allow it, and pin the revision",
    ),
    "FV503": Rule(W, "a program among the files", "a model needs none", "do not run it"),
    "FV504": Rule(
        W,
        "a link that leaves the folder",
        "reading it reads, and writing it changes, a file elsewhere",
        "remove the link",
    ),
    "FV505": Rule(
        W,
        "zero_to_fp32.py lies in the folder",
        "a downloaded copy is a program like any other, and loads pickles without a guard",
        "do not run it from a folder that you did not write yourself",
    ),
    # --- uses
    "FV601": Rule(
        E, "the folder cannot serve that use", "something that this use needs is absent", "see what is named here"
    ),
}


def finding(
    code: str,
    path: str,
    seen: str,
    *,
    origin: Origin | None = None,
    fetch: tuple[str, ...] = (),
    severity: Severity | None = None,
) -> Finding:
    """Return the finding, with the words of its rule; its command names the files `fetch`, else `path`."""
    rule = RULES[code]
    names = fetch or ((path,) if path and path != "." else ())
    command = (origin or Origin()).get(*names[:20])
    return Finding(
        code=code,
        severity=severity or rule.severity,
        path=path,
        seen=seen,
        why=rule.why,
        remedy=rule.fix.replace("{get}", command),
    )


def explain(code: str) -> str | None:
    """Return the text of `--explain`; None for a code that does not exist."""
    rule = RULES.get(code.upper())
    if rule is None:
        return None
    lines = [f"{code.upper()} ({rule.severity.value}): {rule.title}", "", f"Why it matters: {rule.why}."]
    lines.append(f"What to do: {rule.fix.replace('{get}', Origin().get('FILE'))}.")
    if rule.more:
        lines += ["", rule.more]
    return "\n".join(lines)
