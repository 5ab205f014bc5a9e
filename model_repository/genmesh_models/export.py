"""Export by optimum's command, which supports more architectures than we would, and whose crash is only its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from genmesh_models.errors import BuildError


def export(source: Path, out: Path, task: str, precision: str, group: int = -1) -> None:
    """Write ``source`` as OpenVINO's networks, with weights in fp32, fp16, int8 or int4.

    ``group``: how many int4 weights share a scale; it divides every channel, or is -1 for a scale a channel.
    An export that a broken-off build left whole is taken as it is.
    """
    mark = out.with_name(f"{out.name}.exported")
    if mark.is_file() and mark.read_text() == f"{task} {precision}":
        print("the export is there already", flush=True)
        return
    shutil.rmtree(out, ignore_errors=True)
    four_bits = ["--group-size", str(group), "--ratio", "1.0"] if precision == "int4" else []
    done = subprocess.run(
        [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "-m", str(source), "--task", task,
         "--weight-format", precision, *four_bits, str(out)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No space left on device" in done.stderr:
        raise BuildError(f"the disk of {out} is full")
    if done.returncode:
        raise BuildError(f"the export of {source} failed:\n{done.stderr[-2000:]}")
    mark.write_text(f"{task} {precision}")
