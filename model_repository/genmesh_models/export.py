"""Export by optimum's command, which supports more architectures than we would, and whose crash is only its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from genmesh_models.errors import BuildError, ends_with_parent


# The weights that a precision is made of; bf16 keeps full ones and computes in bf16 where the processor can.
FORMATS = {
    "fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "fp32", "int8-weights": "int8", "int4-weights": "int4",
    "int4-awq": "fp32",
}  # fmt: skip


def export(source: Path, out: Path, task: str, precision: str, group: int = -1) -> None:
    """Write ``source`` as OpenVINO's networks; what needs calibration (int8, int4-awq) in float32 first.

    ``group``: how many int4 weights share a scale; it divides every channel, or is -1 for a scale a channel.
    An export that a broken-off build left whole is taken as it is.
    """
    mark = out.with_name(f"{out.name}.exported")
    if mark.is_file() and mark.read_text() == f"{task} {precision}":
        print("the export is there already", flush=True)
        return
    shutil.rmtree(out, ignore_errors=True)
    four_bits = ["--group-size", str(group), "--ratio", "1.0"] if precision == "int4-weights" else []
    done = subprocess.run(
        [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "-m", str(source), "--task", task,
         "--weight-format", FORMATS[precision], *four_bits, str(out)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=False, preexec_fn=ends_with_parent,
    )  # fmt: skip
    if "No space left on device" in done.stderr:
        raise BuildError(f"the disk of {out} is full")
    if done.returncode:
        print(done.stderr)
        last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no word of why")
        raise BuildError(f"the export of {source} failed: {last[:500]}")
    mark.write_text(f"{task} {precision}")
