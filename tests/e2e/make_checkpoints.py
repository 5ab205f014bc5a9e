"""Make small checkpoints of other shapes and sizes than the starters'. Runs in Triton's environment.

python make_checkpoints.py FOLDER [NAME...]    (all where none is named)
"""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MPNetConfig,
    MPNetModel,
    MT5Config,
    MT5ForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "brew",
    "strong",
    "potions",
    "under",
    "old",
    "bridges",
]


def tokenizer(folder: Path, *, begin: bool, alphabet: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 600 tokens; ``begin``: it puts a begin token before each text, as Llama's do."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=alphabet or pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS[i % 7 :]) for i in range(200)], trainer)
    if begin:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    if begin:
        made.chat_template = (
            "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    made.save_pretrained(folder)
    return made


def unigram(folder: Path) -> PreTrainedTokenizerFast:
    """Unigram, with XLM-RoBERTa's special tokens around texts and pairs."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    core.train_from_iterator([" ".join(WORDS[i % 7 :]) for i in range(200)], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


def pooled_by(folder: Path, mode: str) -> None:
    """The pooling as sentence-transformers writes it: since 5.7 a name, a switch for each before."""
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    modes: dict[str, object] = (
        {"pooling_mode": mode}
        if mode == "lasttoken"
        else {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "lasttoken")}
    )
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))


def dense_behind(folder: Path) -> None:
    """A Dense module between pooling and unit length, as sentence-transformers writes them."""
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir(exist_ok=True)
    facts = {
        "in_features": 48, "out_features": 32, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh",
    }  # fmt: skip
    (folder / "2_Dense" / "config.json").write_text(json.dumps(facts))
    random = np.random.default_rng(5)
    layer = {"linear.weight": random.normal(size=(32, 48)) * 0.3, "linear.bias": random.normal(size=32)}
    save_file({k: v.astype(np.float32) for k, v in layer.items()}, folder / "2_Dense" / "model.safetensors")


def colbert(folder: Path) -> None:
    """A ColBERT as its own library writes it: the encoder's weights with their prefix, and a linear layer beside."""
    weights = load_file(folder / "model.safetensors")
    linear = np.random.default_rng(6).normal(size=(16, 48)).astype(np.float32)
    save_file({f"bert.{k}": v for k, v in weights.items()} | {"linear.weight": linear}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(config))
    facts = {
        "query_maxlen": 10, "doc_maxlen": 36, "query_token_id": "[unused0]", "doc_token_id": "[unused1]",
        "mask_punctuation": True, "attend_to_mask_tokens": False,
    }  # fmt: skip
    (folder / "artifact.metadata").write_text(json.dumps(facts))


def maxsim(folder: Path, query: str, passages: list[str]) -> list[list[float]]:
    """ColBERT's score of each passage, over the query's tokens: the definition, in torch."""
    tokens, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    linear = torch.from_numpy(load_file(folder / "model.safetensors")["linear.weight"])

    def rows(ids: list[int], mask: list[int]) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([mask])).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden @ linear.T, dim=-1)

    begin, *rest = tokens(query).input_ids
    asked = [begin, tokens.convert_tokens_to_ids("[unused0]"), *rest]
    filled = asked + [tokens.mask_token_id] * (10 - len(asked))
    vectors = rows(filled, [1] * len(asked) + [0] * (10 - len(asked)))
    found = []
    for passage in passages:
        begin, *rest = tokens(passage).input_ids
        told = [begin, tokens.convert_tokens_to_ids("[unused1]"), *rest]
        kept = [i for i, token in enumerate(tokens.convert_ids_to_tokens(told)) if token not in (".", ",")]
        found.append([(vectors @ rows(told, [1] * len(told))[kept].T).max(dim=1).values.mean().item()])
    return found


def encoders(out: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", ".", ","]
    words = [*special, *WORDS, *letters, *(f"##{c}" for c in letters)]
    folder = out / "bert-cls"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(
        vocab_size=len(words), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=40, initializer_range=0.1,
    )).save_pretrained(folder)  # fmt: skip
    shutil.copytree(folder, out / "bert-mean", dirs_exist_ok=True)
    shutil.copytree(folder, out / "colbert", dirs_exist_ok=True)
    pooled_by(folder, "cls_token")
    dense_behind(folder)
    pooled_by(out / "bert-mean", "mean_tokens")
    colbert(out / "colbert")
    for name, kind in (("xlmr-last", XLMRobertaModel), ("xlmr-cross", XLMRobertaForSequenceClassification)):
        tokens = unigram(out / name)
        config = XLMRobertaConfig(
            vocab_size=len(tokens), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=130, pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=1, type_vocab_size=1,
            initializer_range=0.1,
        )  # fmt: skip
        kind(config).save_pretrained(out / name)
    pooled_by(out / "xlmr-last", "lasttoken")
    expect(out)


def awq(source: Path, folder: Path, group: int = 32) -> None:
    """4 bits by rounding, in the layout of AutoAWQ's version gemm."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        rows = tensor.T.reshape(-1, group, tensor.shape[0])  # (groups, group, out)
        low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
        scale = (high - low) / 15
        zero = np.clip(np.round(-low / scale), 0, 15)
        layer = name.removesuffix(".weight")
        whole = np.clip(np.round(rows / scale) + zero, 0, 15).reshape(-1, tensor.shape[0])
        for part, numbers in (("qweight", whole), ("qzeros", zero[:, 0])):
            eights = numbers.astype(np.uint32).reshape(len(numbers), -1, 8)
            # AutoAWQ's order: nibble i holds column [0, 2, 4, 6, 1, 3, 5, 7][i].
            nibbles = [eights[..., column] << (4 * place) for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7))]
            tensors[f"{layer}.{part}"] = np.bitwise_or.reduce(nibbles).view(np.int32)
        tensors[f"{layer}.scales"] = scale[:, 0].astype(np.float16)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}
    (folder / "config.json").write_text(json.dumps(config))


def relatives(out: Path) -> None:
    """The other architectures of each kind, with the tokenizers made already: what they need is their loading."""
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    pieces = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
    kinds: dict[str, tuple[str, type[PreTrainedModel], PretrainedConfig]] = {
        "distilbert": ("bert-mean", DistilBertModel, DistilBertConfig(
            vocab_size=0, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=40, initializer_range=0.1,
        )),
        "electra": ("bert-mean", ElectraModel, ElectraConfig(**size, embedding_size=32, max_position_embeddings=40, initializer_range=0.1)),
        "mpnet": ("xlmr-last", MPNetModel, MPNetConfig(**size, max_position_embeddings=130, pad_token_id=1, initializer_range=0.1)),
        "roberta": ("xlmr-last", RobertaModel, RobertaConfig(**size, **pieces, max_position_embeddings=130, initializer_range=0.1)),
        "qwen3": ("qwen", Qwen3ForCausalLM, Qwen3Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
        )),
        # A window shorter than the texts: what is outside of it must not be seen.
        "mistral-window": ("mistral", MistralForCausalLM, MistralConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, sliding_window=16, bos_token_id=0, eos_token_id=1,
        )),
        "mt5": ("t5", MT5ForConditionalGeneration, MT5Config(
            d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )),
        "mbart": ("bart", MBartForConditionalGeneration, MBartConfig(
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=120, bos_token_id=0, eos_token_id=1,
            pad_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
        )),
    }  # fmt: skip
    texts = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
    for name, (other, kind, config) in kinds.items():
        config.vocab_size = json.loads((out / other / "config.json").read_text())["vocab_size"]
        kind(config).save_pretrained(out / name)
        for file in texts:
            if (out / other / file).is_file():
                shutil.copy(out / other / file, out / name)


def t5(out: Path) -> None:
    tokens = t5_tokenizer(out / "t5")
    encoder_decoder(out / "t5", tokens, T5ForConditionalGeneration(T5Config(
        vocab_size=len(tokens), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, n_positions=96, tie_word_embeddings=False,
    )))  # fmt: skip


def bart(out: Path) -> None:
    tokens = bart_tokenizer(out / "bart")
    encoder_decoder(out / "bart", tokens, BartForConditionalGeneration(BartConfig(
        vocab_size=len(tokens), d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=120,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
    )))  # fmt: skip


def encoder_decoder(folder: Path, tokens: PreTrainedTokenizerFast, model: PreTrainedModel) -> None:
    """Beside it, what transformers writes with it in float32, up to a near tie that rounding may turn: ``written.json``."""
    learn_to_go_on(model, tokens)
    model.eval().save_pretrained(folder)
    written = {}
    for prompt in ("quick brown fox", "a lazy dog"):
        given = tokens(prompt, return_tensors="pt")
        with torch.no_grad():
            found = model.generate(
                **given,
                max_new_tokens=12,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        begin = found.sequences.shape[1] - len(found.logits)
        margins = [best - second for best, second in (logits[0].topk(2).values for logits in found.logits)]
        clear = next((i for i, margin in enumerate(margins) if margin < 0.5), len(margins))
        assert clear >= 3, f"{folder.name}: {margins}"
        written[prompt] = tokens.decode(found.sequences[0, : begin + clear], skip_special_tokens=True)
    (folder / "written.json").write_text(json.dumps(written))


def learn_to_go_on(model: torch.nn.Module, tokens: PreTrainedTokenizerFast) -> None:
    """A few steps on "three words -> the next four", so that its choices are clear enough to survive INT8."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    starts = range(len(WORDS) - 7)
    given = tokens([" ".join(WORDS[i : i + 3]) for i in starts], return_tensors="pt", padding=True)
    wanted = tokens([" ".join(WORDS[i + 3 : i + 7]) for i in starts], return_tensors="pt", padding=True)
    labels = wanted.input_ids.masked_fill(wanted.attention_mask == 0, -100)
    for _ in range(100):
        loss = model(**given, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def t5_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A SentencePiece model and nothing else, as the first T5s have it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = io.BytesIO()  # its file would hold the folder's name, and no two runs' builds were the same
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS[i % 7 :]) for i in range(200)]), model_writer=made,
        model_type="unigram", vocab_size=36, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    return AutoTokenizer.from_pretrained(folder)


def bart_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    # No bytes beyond ASCII: an untrained model would write halves of characters.
    core = tokenizer(folder, begin=True, alphabet=[*"abcdefghijklmnopqrstuvwxyz", "Ġ"]).backend_tokenizer
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    made.save_pretrained(folder)
    return made


def token_tables(out: Path) -> None:
    """The three forms of static embeddings, and the vectors that their definition gives."""
    random = np.random.default_rng(3)
    tokens = unigram(out / "static")
    table = random.normal(size=(len(tokens), 24)).astype(np.float32)
    inside = out / "static" / "0_StaticEmbedding"
    inside.mkdir(parents=True, exist_ok=True)
    (out / "static" / "tokenizer.json").replace(inside / "tokenizer.json")
    save_file({"embedding.weight": table}, inside / "model.safetensors")
    module = {
        "idx": 0,
        "name": "0",
        "path": "0_StaticEmbedding",
        "type": "sentence_transformers.models.StaticEmbedding",
    }
    (out / "static" / "modules.json").write_text(json.dumps([module]))
    unigram(out / "model2vec")
    save_file({"embeddings": table}, out / "model2vec" / "model.safetensors")
    (out / "model2vec" / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    (out / "glove").mkdir(parents=True, exist_ok=True)
    words = random.normal(size=(len(WORDS), 12)).astype(np.float32)
    lines = [" ".join([word, *(f"{x:.6f}" for x in row)]) for word, row in zip(WORDS, words, strict=True)]
    (out / "glove" / "vectors.txt").write_text("\n".join(lines) + "\n")

    def unit(rows: np.ndarray) -> list[float]:
        total = rows.sum(0)
        return list(map(float, total / np.linalg.norm(total)))

    texts = ["the quick brown fox", "seven wizards brew strong potions", "The lazy dog sleeps"]
    core = Tokenizer.from_file(str(inside / "tokenizer.json"))
    expected = {
        "texts": texts,
        "static": [unit(table[core.encode(t, add_special_tokens=False).ids]) for t in texts],
        "glove": [unit(words[[WORDS.index(w) for w in t.lower().split() if w in WORDS]]) for t in texts],
    }
    (out / "tables.json").write_text(json.dumps(expected | {"model2vec": expected["static"]}))


def expect(out: Path) -> None:
    """What each encoder's own library says of a few texts, in float32: ``expected.json``."""
    texts = [
        "the quick brown fox",
        "seven wizards brew strong potions",
        "a lazy dog under old bridges while the fox jumps",
    ]
    found: dict[str, list[list[float]]] = {}
    for name, pooled in (
        ("bert-cls", lambda row: row[0]), ("bert-mean", lambda row: row.mean(0)), ("xlmr-last", lambda row: row[-1]),
    ):  # fmt: skip
        model, tokens = AutoModel.from_pretrained(out / name).eval(), AutoTokenizer.from_pretrained(out / name)
        with torch.no_grad():
            rows = [model(**tokens(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
        vectors = [pooled(row) for row in rows]
        if name == "bert-cls":
            dense = load_file(out / name / "2_Dense" / "model.safetensors")
            weight, bias = (torch.from_numpy(dense[f"linear.{part}"]) for part in ("weight", "bias"))
            vectors = [torch.tanh(weight @ vector + bias) for vector in vectors]
        found[name] = [torch.nn.functional.normalize(vector, dim=0).tolist() for vector in vectors]
        if name == "bert-mean":
            # Late interaction: each of the query's tokens with the passage's nearest, special ones left out.
            query, *_ = vectors = [torch.nn.functional.normalize(row[1:-1], dim=-1) for row in rows]
            found["late"] = [[(query @ passage.T).max(dim=1).values.mean().item()] for passage in vectors]
    cross = XLMRobertaForSequenceClassification.from_pretrained(out / "xlmr-cross").eval()
    tokens = AutoTokenizer.from_pretrained(out / "xlmr-cross")
    with torch.no_grad():
        found["xlmr-cross"] = [
            torch.sigmoid(cross(**tokens(texts[0], text, return_tensors="pt")).logits)[0].tolist() for text in texts
        ]
    found["colbert"] = maxsim(out / "colbert", texts[0], [f"{text}, {text[:9]}." for text in texts])
    (out / "expected.json").write_text(json.dumps({"texts": texts, **found}))


def gpt2(out: Path) -> None:
    tokens = tokenizer(out / "gpt2", begin=False)
    GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokens), n_embd=64, n_layer=2, n_head=4, n_positions=192, bos_token_id=0, eos_token_id=1,
    )).save_pretrained(out / "gpt2")  # fmt: skip


def llama_of(folder: Path, **sizes: int) -> None:
    tokens = tokenizer(folder, begin=True)
    config = LlamaConfig(vocab_size=len(tokens), bos_token_id=0, eos_token_id=1, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)


def llama(out: Path) -> None:
    llama_of(
        out / "llama", hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip


def tiny(out: Path) -> None:
    """With a context in which a request runs for as long as a test needs it to."""
    llama_of(
        out / "tiny", hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32768,
    )  # fmt: skip


def mistral(out: Path) -> None:
    tokens = tokenizer(out / "mistral", begin=True)
    MistralForCausalLM(MistralConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=None, bos_token_id=0, eos_token_id=1,
    )).save_pretrained(out / "mistral")  # fmt: skip


def qwen(out: Path) -> None:
    tokens = tokenizer(out / "qwen", begin=False)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )).save_pretrained(out / "qwen")  # fmt: skip


def llama_awq(out: Path) -> None:
    awq(out / "llama", out / "llama-awq")


def diffusion(out: Path) -> None:
    # Here, for it takes as long to import as all the rest.
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    folder = out / "diffusion"
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    symbols = [chr(c) for c in range(33, 127)]
    vocabulary = {
        s: i for i, s in enumerate([*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"])
    }
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    clip = CLIPTokenizer(
        str(folder / "tokenizer" / "vocab.json"), str(folder / "tokenizer" / "merges.txt"), model_max_length=16
    )
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(clip), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=32, bos_token_id=clip.bos_token_id, eos_token_id=clip.eos_token_id,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=12, block_out_channels=(32, 48), layers_per_block=1, norm_num_groups=16, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32, 32), latent_channels=4, norm_num_groups=16, layers_per_block=1, sample_size=96,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=clip, unet=unet, scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


# In this order, for some take others' tokenizers or weights.
MAKERS = {
    "encoders": encoders, "t5": t5, "bart": bart, "tables": token_tables, "gpt2": gpt2, "llama": llama, "tiny": tiny,
    "mistral": mistral, "qwen": qwen, "relatives": relatives, "llama-awq": llama_awq, "diffusion": diffusion,
}  # fmt: skip


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)  # the nets are tiny, and the machine may be busy
    for name in names or MAKERS:
        torch.manual_seed(0)
        MAKERS[name](out)


main(Path(sys.argv[1]), sys.argv[2:])
