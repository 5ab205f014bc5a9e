"""What a training computes, on a small random Llama. Runs in Triton's environment.

python run_training.py CHECKPOINT    (of make_checkpoints.py)
"""

import json
import random
import sys
from contextlib import redirect_stdout

import torch
from genmesh_models import finetune
from transformers import AutoModelForCausalLM, AutoTokenizer

CHATML = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
with redirect_stdout(sys.stderr):
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
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
    for name, template in (("chatml", CHATML), ("own", tokenizer.chat_template), ("none", None)):
        tokenizer.chat_template = template
        ids, start = finetune.encode(tokenizer, chat, 512)
        learned[name] = tokenizer.decode(ids[start:])
print(json.dumps({"batch": total.item(), "alone": alone, "tokens": count, "learned": learned}))
