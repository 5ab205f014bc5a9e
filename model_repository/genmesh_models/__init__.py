"""The command ``genmesh-models``: from a checkpoint to a verified, served Triton model.

catalogue.py     what models.yaml says of each model, checked
sources.py       where the full-precision weights are, and their checksums
build.py         the steps of a build, resumed where one broke off, and the version folders
cache.py         what was built on this machine, for every checkout
encoders.py, generators.py, diffusers.py, upscalers.py
                 one builder a task: quantize, export, verify
colbert.py       what late-interaction checkpoints of their own kind do to tokens
gpu.py, awq.py   the same for the profile gpu, and AWQ checkpoints in float32
verification.py  what quantization cost, each figure with its bound
measure.py       speed and memory of a built model, in a process of its own
control.py       Triton's explicit model control: a new version takes over, or is taken back
finetune.py      LoRA and QLoRA adapters are trained
lora.py          adapters are checked and put beside their generator
report.py        the table in docs/models.md
"""

import sys
from pathlib import Path

# Builds run what they build with the code that serves it.
_REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_REPOSITORY), str(_REPOSITORY / "shared")]
