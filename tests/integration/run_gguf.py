"""Write small checkpoints as GGUF, as llama.cpp's converter does, read them back, and print how far they differ. Runs in
Triton's environment.

python run_gguf.py FOLDER
"""

import json
import random
import sys
from contextlib import redirect_stdout
from io import BytesIO
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from genmesh_models import gguf_file
from genmesh_models.errors import BuildError
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Kind = gguf.GGMLQuantizationType
TEXTS = [
    "The quick brown fox, isn't it? 12345 and 3.14", "  two  spaces\n\nand\tlines\r\n", "Straße, naïve café, Ω≈ç√", "日本語の文章です。",
    "e\u0301 decomposed", "emoji 👩‍👩‍👧 done", "<|im_start|>user", "a" * 50, "", "I'LL they've  we'd", "x=1+2;\n  return", "١٢٣ ٤",
]  # fmt: skip
# The published rules, split by split, for the check; the product has its own.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 16384, "vocab_size": 600, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "initializer_range": 0.3,
}  # fmt: skip
ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip


def letters(count: int, seed: int) -> list[str]:
    """Texts of many alphabets to train tokenizers with, and to compare them by."""
    rng = random.Random(seed)
    ranges = [(32, 127), (32, 127), (0xC0, 0x180), (0x400, 0x450), (0x4E00, 0x4F00), (0x300, 0x310), (0x1F600, 0x1F640)]
    found = []
    for _ in range(count):
        low, high = rng.choice(ranges)
        words = ["".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 9))) for _ in range(6)]
        found.append(rng.choice([" ", "  ", "\n", ""]).join(words) + str(rng.randrange(10**6)))
    return found


def byte_pairs(rule: str) -> Tokenizer:
    core = Tokenizer(models.BPE(ignore_merges=rule == LLAMA3))
    if rule == "smollm":
        steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    else:
        steps = [pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(letters(400, 1), trainer)
    return core


def write(path: Path, model: Any, kind: Kind, fields: dict[str, Any], divisors: Any = None) -> None:
    """As convert_hf_to_gguf.py does: queries and keys of a Llama's heads interleaved, its norms and biases in float32.
    ``kind`` is what matrices become; the model's own weights then are what these say."""
    config = model.config
    name = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}[config.model_type]
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if name != "qwen2":
        writer.add_key_length(config.head_dim)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}")
    for field, value in fields.items():
        getattr(writer, f"add_{field}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], config.num_hidden_layers)
    state = model.state_dict()
    for key, tensor in state.items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(key, try_suffixes=(".weight", ".bias"))
        values = tensor.numpy().copy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2], 0)
        wide = kind if values.ndim > 1 else Kind.F32
        if name == "llama" and heads:
            shape = values.shape
            values = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        packed = gguf.quantize(values, wide)
        writer.add_tensor(theirs, packed, raw_dtype=wide)
        read = gguf.dequantize(packed, wide).reshape(values.shape)
        if name == "llama" and heads:
            read = read.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        tensor.copy_(torch.from_numpy(read.copy()))
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_byte_pairs(core: Tokenizer, rule: str) -> dict[str, Any]:
    tokens = [core.id_to_token(i) for i in range(core.get_vocab_size())]
    merges = json.loads(core.to_str())["model"]["merges"]
    kinds = [3 if core.id_to_token(i) in ("<|end|>", "<|im_start|>", "<|im_end|>") else 1 for i in range(len(tokens))]
    return {
        "tokenizer_model": "gpt2", "tokenizer_pre": rule, "token_list": tokens, "token_types": kinds,
        "token_merges": [" ".join(merge) for merge in merges],
    }  # fmt: skip


def differences(built: Path, model: Any, same: Any, texts: list[str]) -> dict[str, Any]:
    """What a checkpoint says differently: the logits' largest difference, and the texts split or put together otherwise."""
    ours, tokenizer = AutoModelForCausalLM.from_pretrained(built).eval(), AutoTokenizer.from_pretrained(built)
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}  # what generate() takes
    ids = torch.arange(3, 3 + 48).unsqueeze(0) * 7 % 590
    positions = torch.arange(0, 48 * 300, 300).unsqueeze(0)  # far apart, as scaled positions show there only
    with torch.no_grad():
        pair = [one(ids, position_ids=positions).logits for one in (ours, model)]
    split = [text for text in texts if tokenizer(text)["input_ids"] != same(text)]
    written = [(text, same(text)[same.begins :]) for text in texts]
    back = [text for text, ids in written if tokenizer.decode(ids) != same.decode(ids)]
    return {"logits": float((pair[0] - pair[1]).abs().max()), "split": split, "back": back}


class Bytes:
    """A byte-level tokenizer, as the product's is compared with."""

    begins = 0  # tokens before a text's own

    def __init__(self, core: Tokenizer) -> None:
        self.core = core

    def __call__(self, text: str) -> list[int]:
        return list(self.core.encode(text).ids)

    def decode(self, ids: list[int]) -> str:
        names = [self.core.id_to_token(i) for i in ids]
        parts = [name.encode() if i < 3 else bytes(map(BYTES.get, name)) for i, name in zip(ids, names, strict=True)]
        return b"".join(parts).decode(errors="replace")


def letter_of() -> dict[str, int]:
    """GPT-2's letters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}


BYTES = letter_of()


class Pieces:
    """SentencePiece's own, with the begin token that Llama's tokenizers put first."""

    begins = 1

    def __init__(self, core: SentencePieceProcessor) -> None:
        self.core = core

    def __call__(self, text: str) -> list[int]:
        return [1, *self.core.encode(text)]

    def decode(self, ids: list[int]) -> str:
        return str(self.core.decode(ids))


def sentence_piece() -> SentencePieceProcessor:
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(letters(400, 2)), model_writer=model, vocab_size=1400, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, minloglevel=2,
        character_coverage=0.99, split_digits=True, max_sentence_length=100000, hard_vocab_limit=False,
    )  # fmt: skip
    return SentencePieceProcessor(model_proto=model.getvalue())


def of_pieces(core: SentencePieceProcessor) -> dict[str, Any]:
    kinds = []
    for i in range(core.get_piece_size()):
        kinds.append(2 if core.is_unknown(i) else 3 if core.is_control(i) else 6 if core.is_byte(i) else 1)
    pieces = range(core.get_piece_size())
    return {
        "tokenizer_model": "llama", "token_list": [core.id_to_piece(i) for i in pieces],
        "token_scores": [core.get_score(i) for i in pieces], "token_types": kinds, "unk_token_id": 0,
    }  # fmt: skip


def refused(path: Path) -> str:
    try:
        path.with_suffix("").mkdir()
        gguf_file.unpack(path, path.with_suffix(""))
    except BuildError as failure:
        return str(failure)
    return ""


def main(folder: Path) -> dict[str, Any]:
    torch.manual_seed(1)
    texts, found = TEXTS + letters(300, 3), {}
    pairs = {rule: byte_pairs(rule) for rule in ("smollm", LLAMA3, QWEN2)}
    pieces = sentence_piece()

    def both(name: str, model: Any, kind: Kind, fields: dict[str, Any], same: Any, divisors: Any = None) -> None:
        path, out = folder / f"{name}.gguf", folder / name
        write(path, model.eval(), kind, fields, divisors)
        out.mkdir()
        gguf_file.unpack(path, out)
        found[name] = differences(out, model, same, texts)

    smollm = of_byte_pairs(pairs["smollm"], "smollm")
    for kind in (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_1):
        llama = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True))
        both(f"llama {kind.name}", llama, kind, smollm, Bytes(pairs["smollm"]))
    wide = LlamaForCausalLM(LlamaConfig(**SMALL, head_dim=32, attention_bias=True, tie_word_embeddings=False))
    with torch.no_grad():
        for layer in wide.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.bias.normal_()
    both("llama with biases", wide, Kind.F32, of_byte_pairs(pairs["smollm"], "smollm"), Bytes(pairs["smollm"]))
    scaled = LlamaForCausalLM(LlamaConfig(**SMALL, rope_scaling=ROPE))
    plain = LlamaForCausalLM(LlamaConfig(**SMALL))
    divisors = plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    both("llama 3.1", scaled, Kind.F32, of_byte_pairs(pairs[LLAMA3], "llama-bpe"), Bytes(pairs[LLAMA3]), divisors)
    qwen = of_byte_pairs(pairs[QWEN2], "qwen2")
    pairs[QWEN2].normalizer = normalizers.NFC()
    both("qwen2", Qwen2ForCausalLM(Qwen2Config(**SMALL)), Kind.F32, qwen, Bytes(pairs[QWEN2]))
    both("qwen3", Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=48)), Kind.F32, qwen, Bytes(pairs[QWEN2]))
    size = SMALL | {"vocab_size": pieces.get_piece_size()}
    both("sentence piece", LlamaForCausalLM(LlamaConfig(**size)), Kind.F32, of_pieces(pieces), Pieces(pieces))

    whole = (folder / "llama F32.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "other.gguf").write_bytes(b"not at all" * 1000)
    strange = gguf.GGUFWriter(folder / "bert.gguf", "bert")
    strange.write_header_to_file()
    strange.write_kv_data_to_file()
    strange.write_tensors_to_file()
    strange.close()
    write(folder / "split.gguf", LlamaForCausalLM(LlamaConfig(**SMALL)), Kind.F32, smollm | {"tokenizer_pre": "tekken"})
    write(folder / "freqs.gguf", plain, Kind.F32, smollm, [1, 2, 3, 4, 5, 6, 7, 8])
    found["refused"] = {name: refused(folder / f"{name}.gguf") for name in ("cut", "other", "bert", "split", "freqs")}
    return found


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        outcome = main(Path(sys.argv[1]))
    print(json.dumps(outcome))
