"""The command ``genmesh-models``: from a checkpoint to a verified, served Triton model.

catalogue.py     what models.yaml says of each model, checked
sources.py       where the full-precision weights are, and their checksums
build.py         the steps of a build, resumed where one broke off, and the version folders
encoders.py, generators.py, diffusers.py, upscalers.py
                 one builder a task: quantize, export, verify
verification.py  what quantization cost, each figure with its bound
measure.py       speed and memory of a built model, in a process of its own
control.py       Triton's explicit model control: a new version takes over, or is taken back
finetune.py      LoRA and QLoRA adapters
report.py        the table in docs/models.md
"""
