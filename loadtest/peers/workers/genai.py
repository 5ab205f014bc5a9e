"""OpenVINO GenAI alone: the served model folder and scheduler settings, driven from the same process.

python genai.py MODEL_FOLDER   (in Triton's environment; MODEL_FOLDER holds model.json)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
from openvino_genai.py_openvino_genai import GenerationStatus
from protocol import serve


class Alone:
    def __init__(self, model: Path) -> None:
        card = json.loads((model / "model.json").read_text())
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = card["kv_cache_gigabytes"]
        scheduler.max_num_seqs = card["max_sequences"]
        scheduler.max_num_batched_tokens = card["max_batched_tokens"]
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_PRECISION_HINT": card["inference_precision"]}
        folder = model / card["version"] / "weights"
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self.next_id = 0

    def run(self, prompts: list[list[int]], new_tokens: int, concurrency: int) -> dict[str, Any]:
        """Greedy, end tokens ignored, ``concurrency`` requests in flight; seconds, and each request's TTFT and ids."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.eos_token_id = -1
        config.do_sample = False
        config.validate()
        waiting = list(enumerate(prompts))[::-1]
        ids: list[list[int]] = [[] for _ in prompts]
        ttft = [0.0] * len(prompts)
        running: dict[int, tuple[Any, float]] = {}
        begun = time.monotonic()
        while waiting or running:
            while waiting and len(running) < concurrency:
                index, prompt = waiting.pop()
                tensor = ov.Tensor(np.array([prompt], dtype=np.int64))
                running[index] = (self.pipeline.add_request(self.next_id, tensor, config), time.monotonic())
                self.next_id += 1
            self.pipeline.step()
            now = time.monotonic()
            for index, (handle, added) in list(running.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        ids[index].extend(output.generated_ids)
                        ttft[index] = ttft[index] or now - added
                if handle.get_status() != GenerationStatus.RUNNING:
                    del running[index]
        seconds = time.monotonic() - begun
        return {"seconds": seconds, "ttft": ttft, "ids": ids}


alone = Alone(Path(sys.argv[1]))
serve({"run": alone.run})
