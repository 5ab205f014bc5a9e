"""Builders of generators: decoders for continuous batching, and encoder-decoders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError
from genmesh_models.export import export
from genmesh_models.sources import read_json
from genmesh_models.texts import calibration_texts, grounded_prompts, retrieval_set

DECODERS = {"llama", "qwen2", "qwen3", "mistral", "gpt2"}
ENCODER_DECODERS = {"t5", "mt5", "bart", "mbart"}
VERIFIED_TEXTS = 24
# What optimum's command is asked for; bf16 keeps full weights and computes in bf16 where the processor can.
WEIGHTS = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "int8", "int4": "int4", "int4-awq": "fp32"}


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """Export, quantize and verify; the facts of the card."""
    from transformers import AutoTokenizer

    config = read_json(source / "config.json")
    kind = config.get("model_type")
    if kind in DECODERS:
        facts = decoder(source, out, entry)
    elif kind in ENCODER_DECODERS:
        facts = encoder_decoder(source, out, entry)
    else:
        raise BuildError(
            f"{entry.name}: {source} holds a checkpoint of type {kind!r}; "
            f"generators may be of {', '.join(sorted(DECODERS | ENCODER_DECODERS))}"
        )
    tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.is_fast:
        raise BuildError(f"{entry.name}: {source} has no fast tokenizer (tokenizer.json), which the engine reads")
    tokenizer.save_pretrained(out)
    ends = config.get("eos_token_id")
    if (source / "generation_config.json").is_file():
        ends = read_json(source / "generation_config.json").get("eos_token_id", ends)
    if entry.precision == "bf16":
        facts["inference_precision"] = "bf16"
    return facts | {
        "architecture": kind,
        "vocabulary_size": int(config["vocab_size"]),
        "end_token_ids": ends if isinstance(ends, list) else [tokenizer.eos_token_id if ends is None else ends],
        "begin_token": tokenizer.bos_token,
        "begin_token_id": tokenizer.bos_token_id,
    }


def group_of(config: dict[str, Any]) -> int:
    """How many int4 weights share a scale: as many as fit every layer's width."""
    names = ("hidden_size", "intermediate_size", "n_embd", "n_inner", "d_model", "d_ff", "encoder_ffn_dim")
    widths = [int(config[name]) for name in names if config.get(name)]
    return next((size for size in (128, 64, 32) if all(width % size == 0 for width in widths)), -1)


def decoder(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    config = read_json(source / "config.json")
    export(source, out, "text-generation-with-past", WEIGHTS[entry.precision], group_of(config))
    if entry.precision == "int4-awq":
        compress_with_awq(source, out)
    return {
        "engine": "openvino-genai",
        "context_tokens": int(config["n_positions"] if config["model_type"] == "gpt2" else config["max_position_embeddings"]),
        "verification": verification.predictions(decoder_logits(source, out)),
    }  # fmt: skip


def step_inputs(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that an exported decoder may ask for, for one whole sequence; ids have shape [1, tokens]."""
    return {
        "input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None],
        "beam_idx": np.zeros(1, np.int32),
    }  # fmt: skip


def compress_with_awq(source: Path, out: Path) -> None:
    """Activation-aware weight quantization to INT4 (Lin et al. 2023): scales protect the weights that activations stress."""
    import nncf
    import openvino as ov
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = ov.Core().read_model(out / "openvino_model.xml")
    names = {name for port in model.inputs for name in port.names}
    samples = []
    for text in calibration_texts(64):
        given = step_inputs(tokenizer(text, return_tensors="np")["input_ids"][:, :256].astype(np.int64))
        samples.append({k: v for k, v in given.items() if k in names})
    smaller = nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_ASYM, awq=True, dataset=nncf.Dataset(samples), ratio=1.0,
        group_size=group_of(read_json(source / "config.json")), subset_size=len(samples),
    )  # fmt: skip
    ov.save_model(smaller, out / "awq.xml")
    del model  # its weights are mapped from the file that is replaced
    for suffix in (".xml", ".bin"):
        (out / f"awq{suffix}").replace(out / f"openvino_model{suffix}")


def decoder_logits(source: Path, built: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(built network's logits, the checkpoint's in float32, the next tokens) of each held-out prompt."""
    import openvino as ov
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    compiled = ov.Core().compile_model(str(built / "openvino_model.xml"), "CPU")
    request = compiled.create_infer_request()
    names = {name for port in compiled.inputs for name in port.names}
    longest = full.config.max_position_embeddings
    for text in grounded_prompts(VERIFIED_TEXTS):
        ids = tokenizer(text, return_tensors="np")["input_ids"][:, :longest].astype(np.int64)
        request.reset_state()
        ours = request.infer({k: v for k, v in step_inputs(ids).items() if k in names})["logits"][0]
        with torch.no_grad():
            theirs = full(torch.from_numpy(ids)).logits[0].numpy()
        yield ours[:-1], theirs[:-1], ids[0, 1:]


def encoder_decoder(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    if entry.precision == "int4-awq":
        raise BuildError(f"{entry.name}: AWQ is there for decoders; an encoder-decoder may be int4")
    config = read_json(source / "config.json")
    export(source, out, "text2text-generation-with-past", WEIGHTS[entry.precision], group_of(config))
    # T5's positions are relative: it was trained on n_positions tokens and reads no more than that here.
    context = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
    return {
        "engine": "openvino-seq2seq",
        "encoder_decoder": True,
        "context_tokens": context,
        "verification": verification.predictions(encoder_decoder_logits(source, out, context)),
    }


def encoder_decoder_logits(
    source: Path, built: Path, context: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As ``decoder_logits``: the prompt is read by the encoder, the decoder is held to a passage."""
    import torch
    from optimum.intel import OVModelForSeq2SeqLM
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    ours = OVModelForSeq2SeqLM.from_pretrained(built)
    begin = torch.tensor([[full.config.decoder_start_token_id]])
    answers = list(retrieval_set().passages.values())
    for prompt, answer in zip(grounded_prompts(VERIFIED_TEXTS), answers, strict=False):
        ids = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=context).input_ids
        target = tokenizer(answer, return_tensors="pt", truncation=True, max_length=context - 1).input_ids
        given = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "decoder_input_ids": torch.cat([begin, target], 1),
        }
        with torch.no_grad():
            pair = [model(**given).logits[0, :-1] for model in (ours, full)]
        yield np.asarray(pair[0]), np.asarray(pair[1]), target[0].numpy()
