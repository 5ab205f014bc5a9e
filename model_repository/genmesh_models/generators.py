"""Builders of generators: decoders for continuous batching, and encoder-decoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from genmesh_models import verification
from genmesh_models.catalogue import Entry
from genmesh_models.errors import BuildError
from genmesh_models.export import export
from genmesh_models.sources import read_json, tokenizer_of
from genmesh_models.texts import calibration_texts, grounded, held_out

from plugin import options

DECODERS = {"llama", "qwen2", "qwen3", "mistral", "gpt2"}
ENCODER_DECODERS = {"t5", "mt5", "bart", "mbart"}
VERIFIED_TEXTS = 64
CALIBRATED_TEXTS, CALIBRATED_TOKENS = 64, 256  # texts that quantization looks at, and the tokens that it reads of each


def check(source: Path, entry: Entry) -> None:
    """BuildError where a checkpoint is of no kind that is served."""
    config = read_json(source / "config.json")
    kind = config.get("model_type")
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        raise BuildError(
            f"{entry.name}: {source} is quantized already ({method}); {entry.precision} is made of full weights here, "
            "and such a checkpoint is for the profile gpu"
        )
    if kind not in DECODERS | ENCODER_DECODERS:
        raise BuildError(
            f"{entry.name}: {source} holds a checkpoint of type {kind!r}; "
            f"generators may be of {', '.join(sorted(DECODERS | ENCODER_DECODERS))}"
        )


def build(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    """Export, quantize and verify; the facts of the card."""
    config = read_json(source / "config.json")
    kind = config.get("model_type")
    tokenizer = tokenizer_of(entry.name, source)
    facts = (decoder if kind in DECODERS else encoder_decoder)(source, out, entry)
    tokenizer.save_pretrained(out)
    ends = config.get("eos_token_id")
    if (source / "generation_config.json").is_file():
        ends = read_json(source / "generation_config.json").get("eos_token_id", ends)
    return facts | {
        **entry.hints,
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
    context = int(config["n_positions"] if config["model_type"] == "gpt2" else config["max_position_embeddings"])
    context = int(min(context, entry.limits.get("context_tokens", context)))
    export(source, out, "text-generation-with-past", entry.precision, group_of(config))
    if entry.precision in CALIBRATED:
        calibrate(out / "openvino_model.xml", entry, group_of(config), decoder_samples(source, context))
    return {
        "engine": "openvino-genai",
        "context_tokens": context,
        "verification": verification.predictions(decoder_logits(source, out, entry)),
    }


def step_inputs(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that an exported decoder may ask for, for one whole sequence; ids have shape [1, tokens]."""
    return {
        "input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None],
        "beam_idx": np.zeros(1, np.int32),
    }  # fmt: skip


def decoder_samples(source: Path, context: int) -> list[dict[str, np.ndarray]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = (tokenizer(text, return_tensors="np")["input_ids"] for text in calibration_texts(CALIBRATED_TEXTS))
    return [step_inputs(ids[:, : min(context, CALIBRATED_TOKENS)].astype(np.int64)) for ids in texts]


def with_awq(model: Any, dataset: Any, count: int, group: int) -> Any:
    """Activation-aware weight quantization to INT4 (Lin et al. 2023): scales protect the weights that activations stress."""
    import nncf

    return nncf.compress_weights(
        model, mode=nncf.CompressWeightsMode.INT4_ASYM, awq=True, dataset=dataset, ratio=1.0, group_size=group,
        subset_size=count,
    )  # fmt: skip


def post_training(model: Any, dataset: Any, count: int, group: int) -> Any:
    """Weights and activations in INT8, with SmoothQuant (Xiao et al. 2022).

    Not attention itself: the engine finds it by its shape, and puts its paged cache there.
    """
    import nncf

    return nncf.quantize(
        model, dataset, model_type=nncf.ModelType.TRANSFORMER, preset=nncf.QuantizationPreset.MIXED, subset_size=count,
        ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False),
    )  # fmt: skip


CALIBRATED: dict[str, Callable[[Any, Any, int, int], Any]] = {"int4-awq": with_awq, "int8": post_training}


def calibrate(path: Path, entry: Entry, group: int, samples: list[dict[str, np.ndarray]]) -> None:
    """Quantize a network in its place; ``samples`` may hold more inputs than it has."""
    import nncf
    import openvino as ov

    out, aside = path.parent, path.with_stem("calibrated")
    whole, done = (out.with_name(f"{path.stem}.{mark}.calibrated") for mark in ("whole", "done"))
    # A build that was broken off goes on here: what is quantized already must not be quantized again.
    if whole.is_file():
        in_place(aside, path)
        whole.replace(done)
    if done.is_file():
        print("it is calibrated already", flush=True)
        return
    model = ov.Core().read_model(path)
    names = {name for port in model.inputs for name in port.names}
    dataset = nncf.Dataset([{key: value for key, value in one.items() if key in names} for one in samples])
    smaller = CALIBRATED[entry.precision](model, dataset, len(samples), group)
    ov.save_model(smaller, aside)
    del model, smaller  # their weights are mapped from the file that is replaced
    whole.touch()
    in_place(aside, path)
    whole.replace(done)


def in_place(aside: Path, path: Path) -> None:
    """Put a network's two files where another's are, or those that a process which was killed did not come to."""
    for suffix in (".xml", ".bin"):
        with suppress(FileNotFoundError):
            aside.with_suffix(suffix).replace(path.with_suffix(suffix))


def decoder_logits(source: Path, built: Path, entry: Entry) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(built network's logits, the checkpoint's in float32, the next tokens) of each held-out answer."""
    import openvino as ov
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    compiled = ov.Core().compile_model(str(built / "openvino_model.xml"), "CPU", options(entry.hints))
    request = compiled.create_infer_request()
    names = {name for port in compiled.inputs for name in port.names}
    longest = full.config.max_position_embeddings
    for prompt, answer in held_out(tokenizer, longest, VERIFIED_TEXTS):
        ids = np.array([prompt + answer], np.int64)
        request.reset_state()
        ours = request.infer({k: v for k, v in step_inputs(ids).items() if k in names})["logits"][0]
        with torch.no_grad():
            theirs = full(torch.from_numpy(ids)).logits[0].numpy()
        written = slice(len(prompt) - 1, -1)
        yield ours[written], theirs[written], np.array(answer)


def encoder_decoder(source: Path, out: Path, entry: Entry) -> dict[str, Any]:
    if entry.precision == "int4-awq":
        raise BuildError(f"{entry.name}: AWQ is there for decoders; an encoder-decoder may be int4-weights")
    config = read_json(source / "config.json")
    # T5's positions are relative: it was trained on n_positions tokens and reads no more than that here.
    context = int(config.get("max_position_embeddings") or config.get("n_positions") or 512)
    context = int(min(context, entry.limits.get("context_tokens", context)))
    export(source, out, "text2text-generation-with-past", entry.precision, group_of(config))
    if entry.precision in CALIBRATED:
        samples = encoder_decoder_samples(source, context)
        for name in ("encoder", "decoder"):
            calibrate(out / f"openvino_{name}_model.xml", entry, group_of(config), samples[name])
    return {
        "engine": "openvino-seq2seq",
        "encoder_decoder": True,
        # One request at a time, whose keys and values no cache holds, and no adapter.
        "max_sequences": 1,
        "max_adapters": 0,
        "prompt_lookup_tokens": 0,
        "kv_cache_gigabytes": 0,
        "context_tokens": context,
        "verification": verification.predictions(encoder_decoder_logits(source, out, context, entry)),
    }


def begin_of(source: Path) -> int:
    """The token that a decoder begins with, which either configuration may name."""
    for name in ("generation_config.json", "config.json"):
        if (source / name).is_file() and (found := read_json(source / name).get("decoder_start_token_id")) is not None:
            return int(found)
    raise BuildError(f"{source}: no decoder_start_token_id in generation_config.json or config.json")


def encoder_decoder_samples(source: Path, context: int) -> dict[str, list[dict[str, np.ndarray]]]:
    """What encoder and decoder read where a passage is to be written after another."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    texts = [
        tokenizer(text, return_tensors="np")["input_ids"][:, : min(context, CALIBRATED_TOKENS)].astype(np.int64)
        for text in calibration_texts(CALIBRATED_TEXTS)
    ]
    begin = np.array([[begin_of(source)]])
    found: dict[str, list[dict[str, np.ndarray]]] = {"encoder": [], "decoder": []}
    for ids, target in zip(texts, texts[1:] + texts[:1], strict=True):
        mask, written = np.ones_like(ids), np.concatenate([begin, target[:, :-1]], 1)
        with torch.no_grad():
            hidden = full.get_encoder()(input_ids=torch.from_numpy(ids)).last_hidden_state.numpy()
        found["encoder"].append({"input_ids": ids, "attention_mask": mask})
        found["decoder"].append(
            step_inputs(written)
            | {
                "encoder_hidden_states": hidden,
                "encoder_attention_mask": mask,
                "decoder_attention_mask": np.ones_like(written),
            }
        )
    return found


def encoder_decoder_logits(
    source: Path, built: Path, context: int, entry: Entry
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As ``decoder_logits``: the prompt is read by the encoder, the decoder is held to the answer."""
    import torch
    from optimum.intel import OVModelForSeq2SeqLM
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    full = AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32).eval()
    ours = OVModelForSeq2SeqLM.from_pretrained(built, ov_config=options(entry.hints))
    begin = torch.tensor([[begin_of(source)]])
    for prompt, answer in grounded(VERIFIED_TEXTS):
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
