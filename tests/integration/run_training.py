"""What a training computes, on a small random Llama. Runs in Triton's environment."""

import json
import random
import re
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import torch
from genmesh_models import catalogue, finetune, preferences, sources
from genmesh_models.errors import BuildError
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
OWN = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
with redirect_stdout(sys.stderr):
    torch.manual_seed(1)
    letters = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=300)
    ).eval()
    draw = random.Random(1)
    batch = [([draw.randrange(5, 250) for _ in range(n)], start) for n, start in ((50, 40), (20, 5), (33, 0), (7, 6))]
    with torch.no_grad():
        total, count = finetune.losses(model, batch, 0)
        alone = 0.0
        for ids, start in batch:
            labels = torch.tensor([[-100] * start + ids[start:]])
            alone += model(input_ids=torch.tensor([ids]), labels=labels).loss.item() * (len(ids) - max(1, start))
    chat = [{"role": "user", "content": "the quick fox"}, {"role": "assistant", "content": "a lazy dog"}]
    learned = {}
    for name, template in (("chatml", CHATML), ("own", OWN), ("none", None)):
        tokenizer.chat_template = template
        ids, start = finetune.encode(tokenizer, chat, 512)
        learned[name] = tokenizer.decode(ids[start:])

    def trained(name: str, start: Path | None) -> dict[str, object]:
        """An adapter's folder, and the losses on the chats that were held out, in their order."""
        lines: list[str] = []
        placed = finetune.finetune(
            entry, name, data, models, quantized=False, rank=4, epochs=12, rate=1e-2, seed=1, say=lines.append,
            held_out=0.25, patience=100, batch_tokens=300, start=start,
        )  # fmt: skip
        losses = [float(found[1]) for line in lines if (found := re.search(r"held out ([\d.]+)", line))]
        return {"losses": losses, "facts": json.loads((placed / "adapter.json").read_text()), "folder": str(placed)}

    def pairs_of(seed: int, count: int) -> list[dict[str, object]]:
        """Made-up prompts; the reply in small letters is preferred to the same one in capitals."""
        draw = random.Random(seed)

        def words() -> str:
            return " ".join("".join(draw.choices("abc", k=4)) for _ in range(4))

        replies = [words() for _ in range(count)]
        return [{"prompt": words(), "chosen": reply, "rejected": reply.upper()} for reply in replies]

    def preferred(name: str, start: Path | None, epochs: int) -> dict[str, object]:
        """An adapter's folder, its facts, and the losses of its steps."""
        losses: list[float] = []
        placed = preferences.prefer(
            entry, name, liked, models, quantized=False, rank=4, epochs=epochs, rate=1e-2, seed=1,
            say=lambda text: print(text, file=sys.stderr), show=lambda step, steps, loss: losses.append(loss),
            held_out=0.25, patience=100, batch_tokens=1000, start=start,
        )  # fmt: skip
        files = sorted(str(file.relative_to(placed)) for file in placed.rglob("*") if file.is_file())
        facts = json.loads((placed / "adapter.json").read_text())
        return {"losses": losses, "facts": facts, "folder": str(placed), "files": files}

    def margins(adapter: str, pairs: list[preferences.Pair]) -> list[float]:
        """How much more log-probability the chosen replies gained by an adapter than the rejected ones, by pair."""
        base = LlamaForCausalLM.from_pretrained(checkpoint)

        @torch.no_grad()
        def differences(model: torch.nn.Module) -> list[float]:
            def loss(pair: preferences.Pair, reply: str) -> float:
                chat = [*pair.prompt, {"role": "assistant", "content": reply}]
                return finetune.losses(model, [finetune.encode(tokenizer, chat, 512)], 0)[0].item()

            return [loss(pair, pair.rejected) - loss(pair, pair.chosen) for pair in pairs]

        before = differences(base)
        after = differences(PeftModel.from_pretrained(base, adapter).eval())
        return [late - early for early, late in zip(before, after, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        checkpoint, models, data = Path(folder) / "checkpoint", Path(folder) / "models", Path(folder) / "chats.jsonl"
        model.save_pretrained(checkpoint)
        tokenizer.chat_template = CHATML
        tokenizer.save_pretrained(checkpoint)
        (models / "mine").mkdir(parents=True)
        card = {"name": "mine", "version": "1", "source": str(checkpoint), "max_adapters": 4, "context_tokens": 512, "engine": "x",
                "source_sha256": sources.checksums(checkpoint)}  # fmt: skip
        (models / "mine" / "model.json").write_text(json.dumps(card))
        entry = catalogue.entry_of(
            "mine", {"task": "generate", "source": str(checkpoint), "precision": "fp32"}, "cpu", "models.yaml"
        )
        data.write_text("\n".join(json.dumps({"messages": chat}) for _ in range(16)))
        first = trained("first", None)
        second = trained("second", Path(str(first["folder"])))
        liked = Path(folder) / "pairs.jsonl"
        liked.write_text("\n".join(map(json.dumps, pairs_of(2, 40))))
        others = preferences.read_pairs(liked)
        liked.write_text("\n".join(map(json.dumps, pairs_of(1, 48))))
        _, kept = finetune.split(preferences.read_pairs(liked), 0.25, 1)
        small = preferred("small", None, 5)
        smaller = preferred("smaller", Path(str(small["folder"])), 1)
        small |= {"others": margins(str(small["folder"]), others), "held_out": margins(str(small["folder"]), kept)}
        torch.manual_seed(1)
        other = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300
            )
        )
        other.save_pretrained(checkpoint)
        card["source_sha256"] = sources.checksums(checkpoint)
        (models / "mine" / "model.json").write_text(json.dumps(card))
        try:
            trained("third", Path(str(first["folder"])))
            refused = ""
        except BuildError as failure:
            refused = str(failure)
found = {
    "batch": total.item(),
    "alone": alone,
    "tokens": count,
    "learned": learned,
    "first": first,
    "second": second,
    "small": small,
    "smaller": smaller,
    "refused": refused,
}
print(json.dumps(found))
