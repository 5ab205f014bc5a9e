"""transformers' continuous batching on torch.

python transformers_batching.py CHECKPOINT THREADS DTYPE   (in the peers' environment)
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from protocol import serve
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig


class Batching:
    def __init__(self, checkpoint: str, dtype: torch.dtype) -> None:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="sdpa").eval()
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
        # Room for 64 requests of 1,024 tokens, and as many tokens a batch as the other engines take.
        config = ContinuousBatchingConfig(
            page_size=64, num_blocks=64 * 16, max_batch_tokens=512, max_requests_per_batch=64, use_cuda_graph=False
        )
        self.manager = model.init_continuous_batching(generation, config)
        self.manager.start()
        self.runs = 0

    def run(self, prompts: list[list[int]], new_tokens: int, concurrency: int) -> dict[str, Any]:
        """Greedy, end tokens ignored, ``concurrency`` requests in flight; seconds, and each request's TTFT and ids."""
        self.runs += 1
        waiting = list(enumerate(prompts))[::-1]
        ids: list[list[int]] = [[] for _ in prompts]
        added = [0.0] * len(prompts)
        ttft = [0.0] * len(prompts)
        running = 0
        begun = time.perf_counter()
        while waiting or running:
            while waiting and running < concurrency:
                index, prompt = waiting.pop()
                added[index] = time.perf_counter()
                key = f"{self.runs}-{index}"
                self.manager.add_request(prompt, key, max_new_tokens=new_tokens, record_timestamps=True)
                running += 1
            output = self.manager.get_result(timeout=300)
            if output is None:
                raise TimeoutError("no result within 300 s")
            if output.error:
                raise RuntimeError(output.error)
            index = int(output.request_id.partition("-")[2])
            ids[index] = list(output.generated_tokens)
            ttft[index] = output.timestamps[0] - added[index]
            running -= 1
        return {"seconds": time.perf_counter() - begun, "ttft": ttft, "ids": ids}


torch.set_num_threads(int(sys.argv[2]))
batching = Batching(sys.argv[1], getattr(torch, sys.argv[3]))
try:
    serve({"run": batching.run})
finally:
    batching.manager.stop(block=True)
