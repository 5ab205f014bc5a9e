"""Embed batches with the built embedder called in this process; prints texts per second.

python loadtest/embed_in_process.py MODELS SECONDS   (in Triton's environment; texts come as JSON on stdin)
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model_repository" / "shared"))
from encoder import open_encoder

models, seconds = Path(sys.argv[1]), float(sys.argv[2])
batches = json.load(sys.stdin)
card = json.loads((models / "embedder" / "model.json").read_text())
encoder = open_encoder(models / "embedder" / card["version"] / "weights", card)
encoder.run(encoder.encode(batches[0]))
begun, done = time.monotonic(), 0
while time.monotonic() - begun < seconds:
    batch = batches[done % len(batches)]
    encoder.run(encoder.encode(batch))
    done += 1
print(done * len(batches[0]) / (time.monotonic() - begun))
