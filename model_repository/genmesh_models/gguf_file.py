"""Convert a decoder in one GGUF file (llama.cpp's format) to a checkpoint folder, which builds and trainings read.

Quantized weights are dequantized to float32; for such a model these count as full precision. The tokenizer is built from the
file's own fields: the one that transformers derives has other end tokens and splits some texts differently.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from genmesh_models.errors import BuildError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
# Llama 3's and Qwen's way to split a text, but for how many digits stay together.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By tokenizer.ggml.pre: how a text is split before byte pairs are merged.
SPLITS = {
    "gpt-2": "", "smollm": "digits", "llama-bpe": WORDS % "{1,3}", "llama3": WORDS % "{1,3}", "llama-v3": WORDS % "{1,3}",
    "qwen2": WORDS % "",
}  # fmt: skip
# By general.architecture; Mistral's files say llama.
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
IDS = {"bos": "bos", "eos": "eos", "padding": "pad"}
PARTS = {
    "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SHARD_BYTES = 2 * 2**30
# Of Llama 3.1 and later; their files hold only what comes of them (rope_freqs.weight).
LOW_FREQUENCY, HIGH_FREQUENCY, ORIGINAL_CONTEXT = 1.0, 4.0, 8192


def unpack(path: Path, into: Path) -> None:
    """Write config.json, float32 weights as safetensors, tokenizer.json and their settings into a folder; BuildError where
    the file is of no kind that is served."""
    reader = opened(path)

    def value(name: str, default: Any = None) -> Any:
        field = reader.fields.get(name)
        return default if field is None else field.contents()

    kind = value("general.architecture")
    if kind not in CLASSES:
        raise BuildError(f"{path.name} holds a model of the architecture {kind!r}; there is {', '.join(CLASSES)}")
    if (scaling := value(f"{kind}.rope.scaling.type", "none")) != "none":
        raise BuildError(f"{path.name} scales its positions ({scaling}), which is not served")
    tokenizer, settings = tokenizer_of(path, value)
    config = config_of(path, reader, kind, value)
    write_weights(path, reader, config, into)
    config.save_pretrained(into)
    tokenizer.save(str(into / "tokenizer.json"))
    begin = config.bos_token_id
    for name, facts in (
        ("tokenizer_config.json", settings),
        ("generation_config.json", {"bos_token_id": begin, "eos_token_id": ends(value)}),
    ):
        (into / name).write_text(json.dumps(facts, indent=2) + "\n")


def config_of(path: Path, reader: Any, kind: str, value: Any) -> Any:
    """The configuration as transformers has it; ``value`` gives a field of the file."""
    from transformers import AutoConfig

    names = {tensor.name for tensor in reader.tensors}

    def own(name: str, default: Any = None) -> Any:
        return value(f"{kind}.{name}", default)

    try:
        heads, width = int(own("attention.head_count")), int(own("embedding_length"))
        facts = {
            "vocab_size": len(value("tokenizer.ggml.tokens")),
            "hidden_size": width,
            "intermediate_size": int(own("feed_forward_length")),
            "num_hidden_layers": int(own("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(own("attention.head_count_kv", heads)),
            "head_dim": int(own("attention.key_length", width // heads)),
            "max_position_embeddings": int(own("context_length")),
            "rope_theta": float(own("rope.freq_base", 10000.0)),
            "rms_norm_eps": float(own("attention.layer_norm_rms_epsilon")),
        }
    except TypeError:
        raise BuildError(f"{path.name} does not say how large its layers are: is it a whole model?") from None
    facts |= {f"{ours}_token_id": value(f"tokenizer.ggml.{name}_token_id") for name, ours in IDS.items()}
    if kind == "llama":
        facts["attention_bias"] = "blk.0.attn_q.bias" in names
    facts["rope_scaling"] = rope_scaling(path, reader, facts)
    return AutoConfig.for_model(
        kind, **facts, tie_word_embeddings="output.weight" not in names, architectures=[CLASSES[kind]], dtype="float32"
    )


def write_weights(path: Path, reader: Any, config: Any, into: Path) -> None:
    """All tensors, under transformers' names, in files of some SHARD_BYTES."""
    import gguf
    from safetensors.numpy import save_file

    shards: list[list[str]] = []
    held: dict[str, Any] = {}

    def write() -> None:
        shards.append(list(held))
        save_file(held, into / f"part{len(shards)}", {"format": "pt"})
        held.clear()

    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        name, heads = tensor.name, 0
        if config.model_type == "llama" and ".attn_q." in name:
            heads = config.num_attention_heads
        elif config.model_type == "llama" and ".attn_k." in name:
            heads = config.num_key_value_heads
        if heads:  # llama.cpp keeps the halves that positions rotate side by side, transformers one after the other
            weights = weights.reshape(heads, -1, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
        held[named(path, name)] = weights.copy()
        if sum(one.nbytes for one in held.values()) > SHARD_BYTES:
            write()
    if held:
        write()
    index = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        (into / f"part{number}").rename(into / file)
        index |= dict.fromkeys(names, file)
    (into / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}) + "\n")


def named(path: Path, name: str) -> str:
    """transformers' name of a tensor."""
    found = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<end>weight|bias)", name)
    if found is None or found["part"] not in PARTS:
        raise BuildError(f"{path.name} has a tensor {name}, which no model that is served has")
    layer = f"model.layers.{found['layer']}." if found["layer"] else ""
    return f"{layer}{PARTS[found['part']]}.{found['end']}"


def opened(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, OSError, KeyError) as failure:
        raise BuildError(f"{path} is not a GGUF file, or is damaged: {failure}") from None


def ends(value: Any) -> list[int]:
    """The tokens that end an answer: of a text, of a turn, of a message."""
    names = ("eos", "eot", "eom")
    return list(dict.fromkeys(i for n in names if (i := value(f"tokenizer.ggml.{n}_token_id")) is not None))


def tokenizer_of(path: Path, value: Any) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and its settings as transformers reads them; ``value`` gives a field of the file."""
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    family, split = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre", "default")
    if not tokens or family not in ("gpt2", "llama"):
        raise BuildError(f"{path.name}: its tokenizer is of the kind {family!r}; there is gpt2 (byte pairs) and llama")
    if family == "gpt2" and split not in SPLITS:
        raise BuildError(f"{path.name}: its tokenizer splits texts by {split!r}; there is {', '.join(SPLITS)}")
    from tokenizers import AddedToken

    kinds = kinds or [NORMAL] * len(tokens)
    found = byte_pairs(tokens, value, split) if family == "gpt2" else sentence_piece(tokens, kinds, value)
    marked = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    found.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in marked])
    begin = value("tokenizer.ggml.bos_token_id")
    if begin is not None and value("tokenizer.ggml.add_bos_token", family == "llama"):
        from tokenizers.processors import TemplateProcessing

        first = tokens[begin]
        found.post_processor = TemplateProcessing(f"{first} $A", f"{first} $A $B:1", [(first, begin)])
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # without, generate() gets token_type_ids and refuses them
    }  # fmt: skip
    for name, ours in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")):
        if (number := value(f"tokenizer.ggml.{name}_token_id")) is not None:
            settings[ours] = tokens[number]
    if template := value("tokenizer.chat_template"):
        settings["chat_template"] = template
    return found, settings


def byte_pairs(tokens: list[str], value: Any, split: str) -> Any:
    """Byte-level BPE (GPT-2's)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    ranks = {token: number for number, token in enumerate(tokens)}
    found = Tokenizer(models.BPE(ranks, merges, ignore_merges=split.startswith("llama")))
    rule = SPLITS[split]
    if rule in ("", "digits"):
        steps = [pre_tokenizers.Digits(individual_digits=True)] if rule else []
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    else:
        steps = [pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    found.pre_tokenizer = pre_tokenizers.Sequence(steps)
    found.decoder = decoders.ByteLevel()
    if split == "qwen2":
        found.normalizer = normalizers.NFC()
    return found


def sentence_piece(tokens: list[str], kinds: list[int], value: Any) -> Any:
    """SentencePiece's BPE, which merges the pair with the best score; as merges in that order."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = value("tokenizer.ggml.scores")
    ranks = {token: number for number, token in enumerate(tokens)}
    whole = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (NORMAL, USER_DEFINED)}
    pairs = [
        (-scores[ranks[token]], ranks[token[:at]], ranks[token[at:]], (token[:at], token[at:]))
        for token in whole
        for at in range(1, len(token))
        if token[:at] in whole and token[at:] in whole
    ]
    unknown = value("tokenizer.ggml.unknown_token_id", 0)
    found = Tokenizer(
        models.BPE(
            ranks, [pair for *_, pair in sorted(pairs)], unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True
        )
    )
    lead = value("tokenizer.ggml.add_space_prefix", True)
    found.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if lead else []), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    found.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if lead else [])])
    return found


def rope_scaling(path: Path, reader: Any, facts: dict[str, Any]) -> dict[str, Any] | None:
    """What divides the frequencies of a model's positions, as Llama 3.1 and later have it (transformers'
    ``_compute_llama3_parameters``); None where nothing does."""
    import numpy as np

    given = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if given is None:
        return None
    factor, width = float(given.max()), 2 * len(given)
    lengths = 2 * math.pi * facts["rope_theta"] ** (np.arange(0, width, 2) / width)
    smooth = (ORIGINAL_CONTEXT / lengths - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY)
    divisors = 1 / ((1 - smooth.clip(0, 1)) / factor + smooth.clip(0, 1))
    if not np.allclose(divisors, given, rtol=1e-3):
        raise BuildError(
            f"{path.name}: its positions' frequencies (rope_freqs.weight) are not those of Llama 3.1 and later"
        )
    return {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW_FREQUENCY, "high_freq_factor": HIGH_FREQUENCY,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
    }  # fmt: skip
