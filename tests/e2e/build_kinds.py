"""Build checkpoints with the builders alone, all in one process, and print each one's facts. Runs in Triton's environment.

python build_kinds.py OUT TASK=CHECKPOINT...
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from genmesh_models import catalogue, encoders, generators

out, *wanted = sys.argv[1:]
found = {}
with redirect_stdout(sys.stderr):
    for one in wanted:
        task, _, source = one.partition("=")
        name = Path(source).name
        entry = catalogue.entry_of(name, {"task": task, "source": source, "precision": "fp32"}, "cpu", "the test")
        folder = Path(out) / name
        folder.mkdir(parents=True)
        builder = encoders if task in ("embed", "rerank") else generators
        found[name] = builder.build(Path(source), folder, entry)
print(json.dumps(found))
