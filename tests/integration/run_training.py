"""What a training computes, on a small random Llama. Runs in Triton's environment."""

import json
import random
import sys
from contextlib import redirect_stdout

import torch
from genmesh_models import finetune
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
print(json.dumps({"batch": total.item(), "alone": alone, "tokens": count, "learned": learned}))
